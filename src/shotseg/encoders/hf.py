"""Any backbone of transformers (ResNet, Swin, DINOv2, ConvNeXt, ...) behind the encoder contract."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotseg.encoders import contract, network
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.weights import IMAGENET_MEAN, IMAGENET_STD
from shotseg.errors import UsageError, first_line

Numbers = tuple[float, ...]


class TransformersBackbone(Encoder):
    """A model of transformers' ``AutoBackbone`` with a map a stage or block; strides and channels are measured.

    Raises UsageError naming a backbone that does not take photos of any size.
    """

    def __init__(
        self, net: Any, name: str = "transformers", mean: Numbers = IMAGENET_MEAN, std: Numbers = IMAGENET_STD
    ):
        super().__init__(mean, std)
        self.name, self.net = name, net.eval()
        self.to(next(net.parameters()).device)
        sizes = [m.shape for m in self._maps(contract.trial(contract.WHOLE, self.mean.device))]
        self.channels = tuple(shape[1] for shape in sizes)
        self.strides = tuple(round(contract.WHOLE[1] / shape[-1]) for shape in sizes)
        self.patch = max(self.strides)
        contract.check(self, contract.ODD)
        contract.check(self)

    @torch.no_grad()
    def _maps(self, photo: Tensor) -> tuple[Tensor, ...]:
        """The maps of a trial. Raises UsageError where the network does not take it."""
        try:
            return self.net(photo).feature_maps
        except Exception as error:  # whatever the network raises for a photo that it does not take
            height, width = contract.WHOLE
            raise UsageError(
                f"encoder {self.name}: no maps of a photo of {height} x {width} pixels ({first_line(error)}); take another"
            ) from error

    def extract(self, normalised: Any) -> Features:
        return Features(tuple(self.net(normalised).feature_maps), self.strides)


def load(name: str, weights: str = "default") -> TransformersBackbone:
    """``transformers:<repository or folder>``; ``weights="random"`` reads its config alone. ImageNet's mean and std."""
    from transformers import AutoBackbone, AutoConfig

    where = name.removeprefix("transformers:") if weights in ("default", "random") else weights
    try:
        with nullcontext() if Path(where).exists() else network.hub():
            config = AutoConfig.from_pretrained(where)
            if getattr(config, "stage_names", None):
                config.out_features = [name for name in config.stage_names if name != "stem"]
            kind = (
                AutoBackbone.from_config(config)
                if weights == "random"
                else AutoBackbone.from_pretrained(where, config=config)
            )
    except ConnectionError as error:
        raise UsageError(f"{name}: not here ({error}); connect once, or give a folder that holds it") from error
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0][:120]
        raise UsageError(
            f"{name}: no backbone of transformers ({line}); give a repository or a folder of one"
        ) from error
    return TransformersBackbone(kind, name)
