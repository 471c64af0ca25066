"""HSNet's 4-D pyramid encoder and its 2-D decoder (Min et al., ICCV 2021, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from shotseg.models.blocks.conv4d import Block4d
from shotseg.models.blocks.correlation import Level
from shotseg.models.blocks.prior_guided import resize

WIDTHS = (16, 64, 128)
REACH = 256  # image pixels between two support positions that are left at the end


class Pyramid(nn.Module):
    """Correlations of three levels (B, n, h, w, h', w') -> (B, 128, h, w) on the grid of the shallowest.

    levels: deep to shallow. Each is squeezed over the support's axes until two of its positions are 256 pixels apart
            (kernel 3 where the stride is 2, kernel 5 where it is 4), then mixed into the next on the query's axes.
    """

    def __init__(self, levels: Sequence[Level], widths: Sequence[int] = WIDTHS):
        super().__init__()
        width = widths[-1]
        self.squeeze = nn.ModuleList(_squeeze(len(level.taps), widths, strides(level.stride)) for level in levels)
        self.mix = nn.ModuleList(
            nn.Sequential(*(Block4d(width, width, 3) for _ in range(3))) for _ in range(len(levels) - 1)
        )

    def forward(self, correlations: Sequence[Tensor]) -> Tensor:
        squeezed = [squeeze(c) for squeeze, c in zip(self.squeeze, correlations)]
        x = squeezed[0]
        for finer, mix in zip(squeezed[1:], self.mix):
            x = mix(_resized(x, finer.shape[2:]) + finer)
        return x.mean((4, 5))


def strides(of_map: int) -> tuple[int, ...]:
    """The three strides that bring a map of this stride to ``REACH`` pixels: 2, 2, 2 for 32, 4, 2, 2 for 16, 4, 4, 2 for 8."""
    doublings = max(3, min(6, round(torch.log2(torch.tensor(REACH / of_map)).item())))
    return tuple(4 if i < doublings - 3 else 2 for i in range(3))


def _squeeze(inputs: int, widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    pairs = pairwise((inputs, *widths))
    return nn.Sequential(*(Block4d(i, o, stride + 1, stride) for (i, o), stride in zip(pairs, strides)))


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w, h', w') on another grid of the query, and of the support where the sizes differ (odd image sizes)."""
    b, c, h, w, hs, ws = x.shape
    if (hs, ws) != tuple(size[2:]):
        maps = x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        x = resize(maps, size[2:]).unflatten(0, (b, h, w)).permute(0, 3, 1, 2, 4, 5)
    if (h, w) == tuple(size[:2]):
        return x
    maps = x.permute(0, 2, 3, 4, 5, 1).flatten(3).permute(0, 3, 1, 2)  # (B, h' w' C, h, w), channels last
    return resize(maps, size[:2]).permute(0, 2, 3, 1).unflatten(3, (*size[2:], c)).permute(0, 5, 1, 2, 3, 4)


class Decoder(nn.Module):
    """(B, 128, h, w) -> logits (B, 2, 2h, 2w)."""

    def __init__(self, width: int = WIDTHS[-1]):
        super().__init__()
        half = width // 2
        self.coarse = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, half), nn.ReLU())
        self.fine = nn.Sequential(_conv(half, half), nn.ReLU(), _conv(half, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.coarse(x.contiguous(memory_format=torch.channels_last))
        return self.fine(resize(x, (2 * x.shape[-2], 2 * x.shape[-1])))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
