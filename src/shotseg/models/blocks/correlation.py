"""Which maps of an encoder are compared, and how alike every query position is to every support position (HSNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError
from shotseg.models.blocks.channels_last import product


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
    coarsest = list(dict.fromkeys(keys))[-3:]
    groups = [[i for i, key in enumerate(keys) if key == one] for one in reversed(coarsest)]
    deep, middle, shallow = (Level(tuple(taps), strides[taps[-1]], channels[taps[-1]]) for taps in groups)
    return deep, middle, shallow


def unit(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """(B, C, h, w) divided by the length over channels + eps: a vector of 0 stays 0."""
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + eps)


def correlate(query: Sequence[Tensor], support: Sequence[Tensor], part: int = 25) -> Tensor:
    """Cosines above 0 of every query position to every support position, one channel a map.

    query: n maps (B, C_i, h, w), support: n maps (B, C_i, h', w'), all of unit length -> (B, n, h, w, h', w'), channels last.
    part: rows of the query that are compared at a time, so that what is copied is still in the cache.
    """
    (b, _, h, w), n = query[0].shape, len(query)
    correlation = query[0].new_empty(b, h, w, *support[0].shape[2:], n)
    for i, maps in enumerate(zip(query, support)):
        for episode, (q, s) in enumerate(zip(*maps)):
            others = s.flatten(1).T.contiguous()
            for at, rows in enumerate(q.permute(1, 2, 0).contiguous().split(part)):
                cosines = product(rows, others).relu_().unflatten(2, s.shape[1:])
                correlation[episode, at * part : (at + 1) * part, ..., i] = cosines
    return correlation.permute(0, 5, 1, 2, 3, 4)


def swapped(correlation: Tensor) -> Tensor:
    """A correlation as its support sees it: (B, n, h, w, h', w') -> (B, n, h', w', h, w), a view."""
    return correlation.permute(0, 1, 4, 5, 2, 3)
