"""Correlation tokens (CST: Kang et al., CVPR 2023; also the local-to-local and local-to-global similarity of CORENet).

    x(c, i, j) = <q(c, i), s(c, j)> + o(c, j)

    c     correlation channel: one head of one layer
    q, s  head c of the query's token i and of the support's token j, of unit length, so that x is a cosine    :class:`Heads`
    o     what is added by the support token's type, 0 in CST

x is large, so it is held as its factors and multiplied out for a few query positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.encoders.features import Features
from shotseg.encoders.vit import ViT

HEAD = 64  # channels of a head where the encoder has no heads


class Heads(nn.Module):
    """Which channels of which layer make one correlation channel.

    channels: of each layer.    width: of a head; what is left of a layer is one narrower head.
    Correlation channels go head by head and, within a head, layer by layer: head * L + layer for a ViT.
    """

    def __init__(self, channels: Sequence[int], width: int = HEAD):
        super().__init__()
        ends = torch.tensor(channels).cumsum(0).tolist()
        starts = [end - size for end, size in zip(ends, channels)]
        groups = [
            range(start + head * width, min(start + (head + 1) * width, end))
            for head in range(-(-max(channels) // width))
            for start, end in zip(starts, ends)
            if start + head * width < end
        ]
        zeros = ends[-1]  # one more channel of zeros fills the narrow heads: it changes no norm and no product
        index = torch.full((len(groups), min(width, max(channels))), zeros)
        for row, group in zip(index, groups):
            row[: len(group)] = torch.tensor(group)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, sum of channels, N) tokens of all layers -> (B, C, width, N), every head of unit length."""
        by_head = F.pad(tokens, (0, 0, 0, 1)).index_select(1, self.index.flatten()).unflatten(1, self.index.shape)
        return F.normalize(by_head, dim=2)


def heads_of(encoder: nn.Module, channels: Sequence[int]) -> Heads:
    """A ViT's own heads; of any other encoder groups of 64 channels."""
    if isinstance(encoder, ViT):
        return Heads(channels, channels[0] // encoder.net.blocks[0].attn.num_heads)
    return Heads(channels)


@dataclass(frozen=True, eq=False)
class Correlation:
    """x (B, C, Q, S) as its factors.

    query: q (B, C, width, Q).    support: s (B, C, width, S).    offset: o (C, S), or None.
    """

    query: Tensor
    support: Tensor
    offset: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (*self.query.shape[:2], self.query.shape[3], self.support.shape[3])

    def rows(self, start: int, stop: int) -> Tensor:
        """x (B, C, stop - start, S) of some query positions."""
        cosine = self.query[..., start:stop].mT @ self.support
        return cosine if self.offset is None else cosine + self.offset[:, None]


def on_grid(features: Features, stride: int) -> Features:
    """Layers finer than the grid averaged to it, so that no more is kept than is read; coarser ones stay as they are."""
    height = max((x.shape[-2] for x, s in zip(features.maps, features.strides) if s >= stride), default=1)
    width = max((x.shape[-1] for x, s in zip(features.maps, features.strides) if s >= stride), default=1)
    maps = tuple(
        F.adaptive_avg_pool2d(x, (height, width)) if s < stride else x for x, s in zip(features.maps, features.strides)
    )
    classes = features.classes or tuple(x.mean((2, 3)) for x in features.maps)
    return Features(maps, tuple(max(s, stride) for s in features.strides), classes)


def joined(maps: Sequence[Tensor]) -> Tensor:
    """All layers on the grid of the largest, (B, sum of channels, h, w)."""
    size = max((x.shape[-2:] for x in maps), key=lambda s: s[0] * s[1])
    return torch.cat(
        [x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps], 1
    )


def patches(maps: Tensor, side: int) -> Tensor:
    """(B, C, h, w) -> (B, C, side * side), bilinear with aligned corners, as CST thins out its support."""
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True).flatten(2)
