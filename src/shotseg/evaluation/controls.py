"""Predictions that know nothing of the class. A method that does not beat them has learnt nothing from its examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.encoders.features import Features

RADIUS = 0.3  # of each side: about the radius that scores highest on photos of single objects (0.25 to 0.6 tried)


def all_foreground(size: tuple[int, int]) -> Tensor:
    """(H, W) int64, every pixel foreground."""
    return torch.ones(size, dtype=torch.int64)


def centre_disc(size: tuple[int, int]) -> Tensor:
    """(H, W) int64: a disc in the middle, its radius 0.3 of the height and of the width (an ellipse on oblong photos)."""
    rows, columns = ((torch.arange(n) + 0.5) / n - 0.5 for n in size)
    return (rows[:, None] ** 2 + columns[None] ** 2 <= RADIUS**2).long()


def saliency(features: Features) -> Tensor:
    """(h, w) float32 in [0, 1]: how unlike the border of the photo each place is, from one photo's frozen features.

    On the deepest map of stride 16 or less (the last map where there is none), centred and normalised: 1 - the mean of the
    five largest cosines to the border cells ("the border is mostly background", as in geodesic and manifold saliency).
    """
    fine = [x for x, stride in zip(features.maps, features.strides) if stride <= 16]
    tokens = (fine or list(features.maps))[-1][0].float()
    tokens = F.normalize(tokens - tokens.mean((1, 2), keepdim=True), dim=0)
    border = torch.cat([tokens[:, 0], tokens[:, -1], tokens[:, 1:-1, 0], tokens[:, 1:-1, -1]], 1)  # (C, n)
    likeness = torch.einsum("chw,cn->hwn", tokens, border)
    unlike = 1 - likeness.topk(min(5, border.shape[1])).values.mean(2)
    low, high = unlike.min(), unlike.max()
    return (unlike - low) / (high - low).clamp(min=1e-6)


def salient(features: Features, size: tuple[int, int]) -> Tensor:
    """(H, W) int64: :func:`saliency` above the middle between its two clusters (two-means, the threshold of Ridler)."""
    score = saliency(features)
    threshold = score.mean()
    for _ in range(10):
        above = score > threshold
        if above.any() and (~above).any():
            threshold = (score[above].mean() + score[~above].mean()) / 2
    return (F.interpolate(score[None, None], size, mode="bilinear", align_corners=False)[0, 0] > threshold).long().cpu()
