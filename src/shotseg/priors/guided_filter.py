"""Edge-aware smoothing: the guided filter (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013) with a colour guide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def guided_filter(maps: Tensor, guide: Tensor, radius: int = 8, eps: float = 1e-3) -> Tensor:
    """Maps that follow the edges of the guide.

    maps:  (B, P, h, w) float.       guide: (B, 3, h, w) RGB in [0, 1].
    radius: of the square windows, in pixels; eps: the colour variance below which a window counts as flat.
    Gives (B, P, h, w): in each window an affine function of colour, windows averaged (equations 14 to 16 and 19).
    """
    height, width = guide.shape[-2:]
    radius = min(radius, (height - 1) // 2, (width - 1) // 2)
    if radius < 1:
        return maps
    planes = maps.shape[1]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    products = torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], 1)
    crossed = (guide[:, :, None] * maps[:, None]).flatten(1, 2)  # (B, 3 P, h, w)
    mean = _box(torch.cat([guide, maps, products, crossed], 1), radius)
    mean_guide, mean_maps, mean_products, mean_crossed = mean.split([3, planes, 6, 3 * planes], 1)

    covariance = mean_crossed.unflatten(1, (3, planes)) - mean_guide[:, :, None] * mean_maps[:, None]
    rr, rg, rb, gg, gb, bb = (
        mean_products[:, n] - mean_guide[:, i] * mean_guide[:, j] + (eps if i == j else 0)
        for n, (i, j) in enumerate(pairs)
    )
    # The inverse of the symmetric 3 x 3 matrix by its cofactors: far cheaper than one solve a pixel.
    cofactors = [gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb]
    cofactors += [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg]
    determinant = rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2]
    c00, c01, c02, c11, c12, c22 = (c / determinant for c in cofactors)
    inverse = torch.stack([c00, c01, c02, c01, c11, c12, c02, c12, c22], 1).unflatten(1, (3, 3))
    slope = torch.einsum("bijhw,bjphw->biphw", inverse, covariance)
    offset = mean_maps - (slope * mean_guide[:, :, None]).sum(1)

    mean = _box(torch.cat([slope.flatten(1, 2), offset], 1), radius)
    slope, offset = mean[:, : 3 * planes].unflatten(1, (3, planes)), mean[:, 3 * planes :]
    return (slope * guide[:, :, None]).sum(1) + offset


def along_edges(evidence: Tensor, images: Tensor, stride: int = 4) -> Tensor:
    """Log odds (B, h, w) of a mask -> log odds at ``stride`` of the images (B, 3, H, W), drawn along their edges."""
    size = (max(1, images.shape[-2] // stride), max(1, images.shape[-1] // stride))
    grown = F.interpolate(evidence[:, None], size, mode="bilinear")
    drawn = guided_filter(torch.sigmoid(grown), F.adaptive_avg_pool2d(images, size))[:, 0]
    return torch.logit(drawn.clamp(1e-3, 1 - 1e-3))


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows, edges replicated."""
    size = 2 * radius + 1
    x = F.pad(x, [radius] * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, (1, size), 1), (size, 1), 1)
