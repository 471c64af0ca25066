"""A method as three graphs: photos to features, features and classes to the decision, a photo and its mask to a class."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from shotseg.encoders.copies import over_the_same_weights
from shotseg.encoders.features import Features
from shotseg.encoders.runtime import same_padding_by_name
from shotseg.exporting.decision import Decide, encoded_as, features_of
from shotseg.exporting.forms import at_every_size, symbols
from shotseg.models import presence

OPSET = 18
# (batch, height, width) at which graphs are traced, and another size that tells what depends on it.
TRACED, OTHER = (2, 160, 224), (1, 128, 96)
CLASSES, SHOTS = 3, 2

Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Example:
    """What the graphs are traced with: photos (B, 3, H, W), what is encoded of them by name, and the tensors of N classes."""

    photo: Tensor
    features: dict[str, Tensor]
    support: dict[str, Tensor]


class Encode(nn.Module):
    """Photos (B, 3, H, W) in [0, 1] -> the maps, the class tokens of a ViT, and the embedding of an encoder that has one."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = over_the_same_weights(model)
        self.model.encoder = same_padding_by_name(model.encoder)
        self.model.encoder.fast = None

    def forward(self, photo: Tensor) -> tuple[Tensor, ...]:
        return tuple(named(self.model, self.model.encode(photo)).values())


class _Decide(nn.Module):
    def __init__(self, model: Any, strides: Sequence[int], example: Example):
        super().__init__()
        self.features, self.decide = list(example.features), Decide(model, strides, list(example.support))

    def forward(self, photo: Tensor, threshold: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self.features)
        return self.decide(photo, threshold, dict(zip(self.features, given[:count])), given[count:])


class _Learn(nn.Module):
    def __init__(self, model: Any, strides: Sequence[int], example: Example):
        super().__init__()
        self.model, self.strides, self.names = model, tuple(strides), list(example.features)

    def forward(self, photo: Tensor, mask: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, features))
        with encoded_as(self.model.encoder, given), mock.patch.object(self.model, "_fitted", lambda support: support):
            query = features_of(given, self.strides)
            return tuple(presence.encode_shot(self.model, photo, mask, query, ("",)).tensors.values())


def named(model: Any, features: Features) -> dict[str, Tensor]:
    """What is encoded of photos, by the names that it has in the graphs."""
    found = {f"map_{i}": x for i, x in enumerate(features.maps)} | {
        f"token_{i}": x for i, x in enumerate(features.classes)
    }
    if hasattr(model.encoder, "labels"):
        found["embedding"] = model.encoder.embedding(features.maps[-1])
    return found


def example_of(model: Any, sides: tuple[int, int, int] = TRACED, classes: int = CLASSES, shots: int = SHOTS) -> Example:
    """Noise, and classes learnt from noise."""
    photo = torch.rand(sides[0], 3, *sides[1:], generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, *sides[1:], dtype=torch.long)
    mask[:, sides[1] // 4 : sides[1] // 2, sides[2] // 4 : sides[2] // 2] = 1
    features = model.encode(photo)
    if model.needs == "name":
        one = model.encode_support(None, None, class_names=("thing",))
    else:
        known = mask if model.needs == "masks" else None
        one = presence.encode_shot(model, photo[:1], known, features[0], ("thing",))
        one = model.merge([one] * shots)
    support = {name: torch.cat([x] * classes) for name, x in one.tensors.items()}
    return Example(photo, named(model, features), support)


def axes_of(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Sequence[str]) -> Axes:
    """Which sides of the tensors are open: those in which two examples differ. names: of the first sides, which all share."""

    def called(name: str, axis: int) -> str:
        return names[axis] if axis < len(names) else f"{name}_{axis}"

    return {
        name: {i: called(name, i) for i, sides in enumerate(zip(x.shape, other[name].shape)) if sides[0] != sides[1]}
        for name, x in one.items()
    }


def encoder_graph(model: Any, example: Example, axes: Axes) -> bytes:
    return written(Encode(model), {"photo": example.photo}, list(example.features), axes)


def decide_graph(model: Any, strides: Sequence[int], example: Example, axes: Axes) -> bytes:
    inputs = {"photo": example.photo, "threshold": torch.tensor(0.5), **example.features, **example.support}
    return written(_Decide(model, strides, example), inputs, ["scores", "present"], axes)


def learn_graph(model: Any, strides: Sequence[int], example: Example, axes: Axes) -> bytes:
    photo = example.photo[:1]
    mask = torch.zeros(1, *photo.shape[2:], dtype=torch.long)
    mask[:, : mask.shape[1] // 2, : mask.shape[2] // 2] = 1
    inputs = {"photo": photo, "mask": mask, **{name: x[:1] for name, x in example.features.items()}}
    outputs = [name for name in example.support if name not in FITTED]
    return written(_Learn(model, strides, example), inputs, outputs, axes)


FITTED = ("ridge_all", "ridge_middle")


def written(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes) -> bytes:
    """The module as ONNX. Inputs and outputs of one name, as a class tensor and a map, do not occur."""
    file = io.BytesIO()
    given = {name: axes.get(name, {}) for name in (*inputs, *outputs)}
    # The exporter prints whole graphs on stdout where it fails: it takes the function that says whether to for its answer.
    silent = mock.patch.object(torch._C, "_jit_is_onnx_log_enabled", None, create=True)
    with torch.no_grad(), warnings.catch_warnings(), at_every_size(), symbols(OPSET), silent:
        warnings.simplefilter("ignore")  # of sizes that a tracer takes for fixed: the tests try other sizes
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]
            dynamo=False,  # the newer exporter takes minutes where sizes are open
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=given,
        )
    return file.getvalue()
