"""What every frozen encoder gives, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from shotseg.heap import must_fit

LEAST = 100  # bytes that the maps of a network take for each pixel of a photo, at least
GROUP = 16  # values of a long row whose highest stands for them


@contextmanager
def full_precision() -> Iterator[None]:
    """Autocast is off inside: what is made once and kept, as the text of a class name, serves steps of any precision."""
    off = partial(torch.autocast, enabled=False)
    with off("cpu"), off("cuda"), off("mps"):
        yield


def unit(maps: Tensor) -> Tensor:
    """(B, C, ...) with every pixel's channels of unit length; on a CPU in a quarter of the time of ``F.normalize``."""
    wide = torch.promote_types(maps.dtype, torch.float32)
    return maps * maps.square().sum(1, keepdim=True, dtype=wide).clamp(min=1e-24).rsqrt().to(maps)


def highest(x: Tensor, count: int) -> Tensor:
    """(..., count) highest values of each row of (..., M), M >= count, in any order.

    On a CPU numpy parts rows in a quarter of the time of torch's ``topk``. Long rows are told in groups first: the highest values
    are in the groups whose own highest are the highest.
    """
    traced = x.requires_grad or torch.jit.is_tracing() or torch.compiler.is_compiling()
    if x.device.type != "cpu" or x.dtype != torch.float32 or traced:
        return x.topk(count, dim=-1, sorted=False).values
    groups = x.shape[-1] // GROUP
    if groups > 2 * count:
        told, left = x[..., : groups * GROUP].unflatten(-1, (GROUP, groups)), x[..., groups * GROUP :]
        best = np.argpartition(told.amax(-2).numpy(), -count, axis=-1)[..., None, -count:]
        x = torch.cat([told.gather(-1, torch.from_numpy(best).expand(*told.shape[:-1], -1)).flatten(-2), left], -1)
    return torch.from_numpy(np.partition(x.numpy(), -count, axis=-1)[..., -count:])


@dataclass(frozen=True, eq=False)
class Features:
    """Feature maps of B images, shallow to deep.

    maps:    NCHW tensors (B, C_i, h_i, w_i).       strides: image pixels a step of each map.
    classes: one (B, C) class token a map for a ViT, empty for a CNN.
    made: what :meth:`once` made of them, by its name.
    """

    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]
    classes: tuple[Tensor, ...] = ()
    made: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, kept as long as these features: for what depends on nothing else and every class needs."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def __getitem__(self, image: int | slice) -> Features:
        """The features of one image (kept as a batch of one) or of a slice of the batch."""
        at = slice(image, image + 1) if isinstance(image, int) else image
        return Features(tuple(m[at] for m in self.maps), self.strides, tuple(c[at] for c in self.classes))

    def to(self, device: torch.device | str) -> Features:
        maps, classes = (tuple(x.to(device) for x in each) for each in (self.maps, self.classes))
        if all(new is own for new, own in zip(maps, self.maps)):
            return self  # and what is made of them later is kept
        return Features(maps, self.strides, classes, {name: x.to(device) for name, x in self.made.items()})

    @staticmethod
    def cat(parts: list[Features]) -> Features:
        """One batch from several; all of the same size."""
        maps = tuple(torch.cat(m) for m in zip(*(p.maps for p in parts)))
        return Features(maps, parts[0].strides, tuple(torch.cat(c) for c in zip(*(p.classes for p in parts))))


class Encoder(nn.Module):
    """A frozen network from images to :class:`Features`.

    ``encoder(images)`` takes (B, 3, H, W) RGB in [0, 1] of any size, normalises with the encoder's own mean and std and
    runs without gradient. ``encoder.extract(normalised)`` is the same on already normalised input, gradients as the
    caller asks.
    """

    name: str = ""
    mean: Tensor
    std: Tensor
    strides: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    patch: int = 32  # image sides are best a multiple of this
    before_last: int = -2  # index of the map that last_stage takes
    convolutional: bool = False  # whether convolutions are all that it is made of, as of most CNNs
    runtime: str = "torch"  # what computes a forward pass, and its own form of extract, see encoders/runtime.py
    fast: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def freeze(self) -> Encoder:
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Encoder:  # frozen: batch statistics never move
        return super().train(False)

    def extract(self, normalised: Tensor) -> Features:
        raise NotImplementedError

    def last_stage(self, tap: Tensor) -> Tensor:
        """The last stage run on a (masked) map of the stage before (PFENet, BAM, QGNet)."""
        raise NotImplementedError(f"{self.name} has no separate last stage")

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        if images.device.type == "cpu":
            count, _, height, width = images.shape
            must_fit(LEAST * count * height * width, f"{count} photos of {width} x {height} pixels at once")
        normalised = (images - self.mean) / self.std
        if self.fast is not None and normalised.device.type == "cpu":
            return Features(self.fast(normalised), self.strides)
        return self.extract(normalised)
