"""The feature enrichment module of PFENet (Tian et al., TPAMI 2020, section 3.3), also QGNet's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.models.blocks.prior_guided import classifier, residual, resize


class Enriched(NamedTuple):
    logits: Tensor  # (B, 2, h, w)
    inner: tuple[Tensor, ...]  # one (B, 2, b_i, b_i) a scale, for the auxiliary loss
    pyramid: tuple[Tensor, ...]  # one (B, width, h, w) a scale
    fused: Tensor  # (B, width, h, w)


class FEM(nn.Module):
    """Query, prototype and prior maps meet at several scales; what a scale has found flows into the next one.

    width: channels of the query features and of the prototype.       maps: number of prior channels.
    scales: in the order of the flow. A whole number is the side of the bin, a fraction up to 1.0 a share of the map's sides.
    """

    def __init__(self, width: int = 256, maps: int = 1, scales: Sequence[float] = (1.0, 0.5, 0.25, 0.125)):
        super().__init__()
        self.scales = tuple(scales)
        every = range(len(self.scales))

        def merge(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.ReLU())

        self.init_merge = nn.ModuleList(merge(2 * width + maps) for _ in every)
        self.alpha_conv = nn.ModuleList(merge(2 * width) for _ in every[1:])
        self.beta_conv = nn.ModuleList(residual(width) for _ in every)
        self.inner_cls = nn.ModuleList(classifier(width) for _ in every)
        self.res1 = merge(width * len(self.scales))
        self.res2 = residual(width)
        self.cls = classifier(width)

    def forward(self, query: Tensor, prototype: Tensor, maps: Tensor) -> Enriched:
        """query (B, width, h, w), prototype (B, width, 1, 1), maps (B, P, h, w) -> :class:`Enriched`."""
        size = query.shape[-2:]
        pyramid: list[Tensor] = []
        inner: list[Tensor] = []
        for i, scale in enumerate(self.scales):
            bins = _bins(scale, size)
            pooled = F.adaptive_avg_pool2d(query, bins)
            x = self.init_merge[i](torch.cat([pooled, prototype.expand(-1, -1, *bins), resize(maps, bins)], 1))
            if i:
                x = x + self.alpha_conv[i - 1](torch.cat([x, resize(pyramid[-1], bins)], 1))
            x = x + self.beta_conv[i](x)
            inner.append(self.inner_cls[i](x))
            pyramid.append(resize(x, size))
        fused = self.res1(torch.cat(pyramid, 1))
        fused = fused + self.res2(fused)
        return Enriched(self.cls(fused), tuple(inner), tuple(pyramid), fused)


def _bins(scale: float, size: Sequence[int]) -> tuple[int, int]:
    share = isinstance(scale, float) and scale <= 1
    height, width = (max(1, int(side * scale)) if share else int(scale) for side in size)
    return height, width
