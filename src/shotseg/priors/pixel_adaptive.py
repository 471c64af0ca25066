"""Masks refined to the edges of an image without training.

PAMR (Araslanov and Roth, CVPR 2020) and PAR (Ru et al., AFA, CVPR 2022) both let every pixel take the weighted mean of
its neighbours (8 directions at each dilation), with weights from colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

DILATIONS = (1, 2, 4, 8, 12, 24)
_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def par(
    image: Tensor,
    mask: Tensor,
    dilations: Sequence[int] = DILATIONS,
    steps: int = 10,
    w1: float = 0.3,
    w2: float = 0.01,
) -> Tensor:
    """Pixel-adaptive refinement of AFA: image (B, 3, H, W) in any value range, mask (B, M, h, w) -> (B, M, H, W).

    The weights are softmax(colour) + w2 softmax(position). They sum to 1 + w2, so each step scales a constant by that
    much: normalise over M where the result is read as a probability. A mask of another size is resized to the image
    first.
    """
    around = neighbours(image, dilations)
    spread = standard_deviation(around)
    colour = torch.stack([-((image - near).abs() / ((spread + 1e-8) * w1)).square().mean(1) for near in around], 1)
    distance = image.new_tensor(distances(dilations))
    position = -(distance / ((distance.std() + 1e-8) * w1)).square()
    weights = colour.softmax(1) + w2 * position.softmax(0).view(1, -1, 1, 1)
    return _propagate(mask, weights, dilations, steps)


def pamr(image: Tensor, mask: Tensor, dilations: Sequence[int] = DILATIONS, steps: int = 10) -> Tensor:
    """Pixel-adaptive mask refinement: image (B, 3, H, W) in any value range, mask (B, M, h, w) -> (B, M, H, W).

    The weights sum to 1: a constant stays. A mask of another size is resized to the image first.
    """
    return _propagate(mask, pamr_weights(image, dilations), dilations, steps)


def pamr_weights(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """(B, 8 D, H, W) in [0, 1]: the weight of each of a pixel's :func:`neighbours`; they sum to 1."""
    around = neighbours(image, dilations)
    spread = standard_deviation(around + [image] * len(dilations))  # the paper's kernel has a centre at each dilation
    return torch.stack([-((image - near).abs() / (1e-8 + 0.1 * spread)).mean(1) for near in around], 1).softmax(1)


def neighbours(x: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """(B, C, H, W) as every neighbour sees it: 8 views a dilation, top left to bottom right, edges replicated."""
    height, width = x.shape[-2:]
    views = []
    for d in dilations:
        padded = F.pad(x, (d, d, d, d), mode="replicate")
        starts = [(d * (1 + y), d * (1 + x_)) for y, x_ in _DIRECTIONS]
        views += [padded[..., top : top + height, left : left + width] for top, left in starts]
    return views


def distances(dilations: Sequence[int]) -> list[float]:
    """Of the :func:`neighbours`, in pixels."""
    return [d * (abs(y) + abs(x)) ** 0.5 for d in dilations for y, x in _DIRECTIONS]


def standard_deviation(maps: list[Tensor]) -> Tensor:
    """Unbiased standard deviation over a list of maps, without stacking them."""
    mean = sum(maps[1:], maps[0]) / len(maps)
    squares = sum(((m - mean).square() for m in maps), torch.zeros_like(mean))
    return (squares / (len(maps) - 1)).sqrt()


def _propagate(mask: Tensor, weights: Tensor, dilations: Sequence[int], steps: int) -> Tensor:
    """mask (B, M, h, w), weights (B, 8 D, H, W) -> the mask after ``steps`` weighted means of its neighbours."""
    mask = F.interpolate(mask, weights.shape[-2:], mode="bilinear", align_corners=True)
    for _ in range(steps):
        near = neighbours(mask, dilations)
        mask = sum((w * m for w, m in zip(weights.split(1, 1), near)), torch.zeros_like(mask))
    return mask
