"""Grad-CAM: where an activation raises a score (Selvaraju et al., ICCV 2017), as CLIP-ES, PI-CLIP and IMR-HSNet use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.priors.visual import min_max


def grad_cam(score: Tensor, activation: Tensor, keep_graph: bool = False) -> Tensor:
    """relu(sum_c alpha_c A_c), alpha = spatial mean of d score / d A; (B, h, w) >= 0, not scaled.

    score: (B,), one number an image that depends on no other image. activation: (B, C, h, w), part of the score's graph.
    keep_graph: leave the graph for another score of the same forward pass.
    """
    (gradient,) = torch.autograd.grad(score.sum(), activation, retain_graph=keep_graph)
    alpha = gradient.mean((2, 3), keepdim=True)
    return (alpha * activation.detach()).sum(1).relu()


def grad_cams(scores: Tensor, activation: Tensor) -> Tensor:
    """The maps of M scores of one forward pass: scores (B, M), activation (B, C, h, w) -> (B, M, h, w) >= 0, not scaled."""
    count = scores.shape[1]
    return torch.stack([grad_cam(scores[:, m], activation, keep_graph=m + 1 < count) for m in range(count)], 1)


def scaled(maps: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """(B, M, h, w) >= 0 -> in [0, 1] by min-max, optional resize (bilinear, half-pixel centres) to ``size``, min-max again.

    The papers' code scales twice: the second pass matters where the raw maximum is near the 1e-7 of the first.
    """
    once = min_max(maps)
    return min_max(once if size is None else F.interpolate(once, list(size), mode="bilinear", align_corners=False))
