"""Any backbone of transformers (ResNet, Swin, DINOv2, ConvNeXt, ...) behind the encoder contract."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from shotseg.encoders import network
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.weights import IMAGENET_MEAN, IMAGENET_STD
from shotseg.errors import UsageError

Numbers = tuple[float, ...]


class TransformersBackbone(Encoder):
    """A model of transformers' ``AutoBackbone`` with a map a stage; strides follow the order, the first is 4."""

    def __init__(
        self, net: Any, name: str = "transformers", mean: Numbers = IMAGENET_MEAN, std: Numbers = IMAGENET_STD
    ):
        super().__init__(mean, std)
        self.name, self.net = name, net
        self.channels = tuple(net.channels)
        self.strides = tuple(4 * 2**i for i in range(len(self.channels)))
        self.patch = max(self.strides)

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
                config.out_features = config.stage_names[1:]
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
