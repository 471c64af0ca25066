"""Edge-aware smoothing: the guided filter (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013) with a colour guide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.device import precise

STRIDE = 4  # pixels between the places at which a mask is drawn


def guided_filter(maps: Tensor, guide: Tensor, radius: int = 8, eps: float = 1e-3, step: int = 1) -> Tensor:
    """Maps that follow the edges of the guide.

    maps:  (B, P, h, w) float.       guide: (B, 3, h, w) RGB in [0, 1].
    radius: of the square windows, in pixels; eps: the colour variance below which a window counts as flat.
    step: the affine functions are fitted on a grid as much coarser (He and Sun, "Fast Guided Filter", arXiv 1505.00996).
    Gives (B, P, h, w): in each window an affine function of colour, windows averaged (equations 14 to 16 and 19).
    """
    return filtered(maps, guide, radius, eps, step).to(maps)


def filtered(maps: Tensor, guide: Tensor, radius: int = 8, eps: float = 1e-3, step: int = 1) -> Tensor:
    """:func:`guided_filter`, the answer as precise as it is made: of a probability near 0 or 1 the log odds need that."""
    middle, given = maps.mean((2, 3), keepdim=True), maps
    guide, maps = guide - guide.mean((2, 3), keepdim=True), maps - middle  # the smaller, the less is lost to rounding
    fine, size = guide, guide.shape[-2:]
    if step > 1:
        coarse, radius = (max(1, size[0] // step), max(1, size[1] // step)), radius // step
        maps, guide = F.adaptive_avg_pool2d(maps, coarse), F.adaptive_avg_pool2d(guide, coarse)
    height, width = guide.shape[-2:]
    radius = min(radius, (height - 1) // 2, (width - 1) // 2)
    if radius < 1:
        return given if step == 1 else F.interpolate(maps + middle, size, mode="bilinear")
    maps, guide = precise(maps), precise(guide)  # variances near eps are small differences of large means
    planes = maps.shape[1]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    products = torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], 1)
    crossed = (guide[:, :, None] * maps[:, None]).flatten(1, 2)  # (B, 3 P, h, w)
    mean = _box(torch.cat([guide, maps, products, crossed], 1), radius)
    mean_guide, mean_maps, mean_products, mean_crossed = mean.split([3, planes, 6, 3 * planes], 1)

    covariance = (mean_crossed.unflatten(1, (3, planes)) - mean_guide[:, :, None] * mean_maps[:, None]).unbind(1)
    rr, rg, rb, gg, gb, bb = (
        mean_products[:, n : n + 1] - mean_guide[:, i : i + 1] * mean_guide[:, j : j + 1] + (eps if i == j else 0)
        for n, (i, j) in enumerate(pairs)
    )
    # The inverse of the symmetric 3 x 3 matrix by its cofactors: far cheaper than one solve a pixel.
    cofactors = [gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb]
    cofactors += [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg]
    determinant = rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2]
    c00, c01, c02, c11, c12, c22 = (c / determinant for c in cofactors)
    slopes = [_dot(row, covariance) for row in ((c00, c01, c02), (c01, c11, c12), (c02, c12, c22))]  # (B, P, h, w) each
    offset = mean_maps - _dot(slopes, mean_guide.split(1, 1))

    mean = _box(torch.cat([*slopes, offset], 1), radius).to(fine)
    if step > 1:
        mean = F.interpolate(mean, size, mode="bilinear")
    *slopes, offset = precise(mean).unflatten(1, (4, planes)).unbind(1)
    return _dot(slopes, precise(fine).split(1, 1)) + offset + middle


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The sum of the products of three maps with three others."""
    (a, b, c), (x, y, z) = one, other
    return torch.addcmul(torch.addcmul(a * x, b, y), c, z)


def along_edges(evidence: Tensor, images: Tensor, stride: int = STRIDE, step: int = 1) -> Tensor:
    """Log odds (B, h, w) of a mask -> log odds at ``stride`` of the images (B or 1, 3, H, W), drawn along their edges.

    One image serves any number of masks. step: as of :func:`guided_filter`.
    """
    size = (max(1, images.shape[-2] // stride), max(1, images.shape[-1] // stride))
    grown = torch.sigmoid(F.interpolate(evidence[:, None], size, mode="bilinear"))
    if len(images) == 1:
        grown = grown.transpose(0, 1)
    drawn = torch.logit(filtered(grown, F.adaptive_avg_pool2d(images, size), step=step), eps=1e-3).to(evidence)
    return drawn.transpose(0, 1)[:, 0] if len(images) == 1 else drawn[:, 0]


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows, edges replicated: differences of running sums."""
    side, shape = 2 * radius + 1, x.shape
    x = F.pad(x, [radius + 1, radius] * 2, mode="replicate")
    for axis in (-1, -2):
        sums = x.cumsum(axis)
        x = sums.narrow(axis, side, shape[axis]) - sums.narrow(axis, 0, shape[axis])
    return x / side**2
