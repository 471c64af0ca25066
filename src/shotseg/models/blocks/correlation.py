"""Which maps of an encoder are compared, and how alike every query position is to every support position (HSNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError


class Level(NamedTuple):
    """Maps of one grid that are compared together."""

    taps: tuple[int, ...]  # positions among the encoder's maps, shallow to deep
    stride: int
    channels: int  # of the deepest


def levels(encoder: Encoder) -> tuple[Level, Level, Level]:
    """The maps of an encoder in three levels, deep to shallow.

    Of a CNN these are all maps at each of its three coarsest strides; where it has fewer strides, of its last three widths;
    else, as of a ViT, its maps in three equal parts.
    Raises UsageError for an encoder of less than three maps.
    """
    strides, channels = list(encoder.strides), list(encoder.channels)
    if len(strides) < 3:
        raise UsageError(
            f"encoder {encoder.name!r} gives {len(strides)} map(s), three are needed: take another encoder"
        )
    keys: list = strides
    if len(set(keys)) < 3:
        keys = list(zip(strides, channels))
    if len(set(keys)) < 3:
        keys = [3 * i // len(strides) for i in range(len(strides))]
    kept = list(dict.fromkeys(keys))[-3:]
    groups = [[i for i, key in enumerate(keys) if key == one] for one in reversed(kept)]
    deep, middle, shallow = (Level(tuple(taps), strides[taps[-1]], channels[taps[-1]]) for taps in groups)
    return deep, middle, shallow


def unit(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """(B, C, h, w) divided by the length over channels + eps: a vector of 0 stays 0."""
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + eps)


def correlate(query: Sequence[Tensor], support: Sequence[Tensor]) -> Tensor:
    """Cosines above 0 of every query position to every support position, one channel a map.

    query: n maps (B, C_i, h, w), support: n maps (B, C_i, h', w'), all of unit length -> (B, n, h, w, h', w'), channels last
    in memory.
    """
    found = _products([q.flatten(2).mT for q in query], [s.flatten(2) for s in support])  # (B, h w, h' w', n)
    return found.unflatten(2, support[0].shape[-2:]).unflatten(1, query[0].shape[-2:]).permute(0, 5, 1, 2, 3, 4)


def _products(query: Sequence[Tensor], support: Sequence[Tensor], rows: int = 250) -> Tensor:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*query, *support)):
        return torch.stack([q @ s for q, s in zip(query, support)], -1).clamp(min=0)
    found = query[0].new_empty(*query[0].shape[:2], support[0].shape[2], len(query))
    for i, (q, s) in enumerate(zip(query, support)):
        for at in range(0, q.shape[1], rows):  # a part at a time is still in the cache when it is written in order
            torch.clamp(q[:, at : at + rows] @ s, min=0, out=found[:, at : at + rows, :, i])
    return found


def swapped(found: Tensor) -> Tensor:
    """A correlation as its support sees it: (B, n, h, w, h', w') -> (B, n, h', w', h, w), without a copy."""
    return found.permute(0, 1, 4, 5, 2, 3)
