"""Predictions that know nothing of the class. A method that does not beat them has learnt nothing from its examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.encoders.features import Features
from shotseg.priors.objectness import border_contrast

RADIUS = 0.3  # of each side: the one that scores highest on photos of single objects, of 0.3 to 0.6


def all_foreground(size: tuple[int, int]) -> Tensor:
    """(H, W) int64, every pixel foreground."""
    return torch.ones(size, dtype=torch.int64)


def centre_disc(size: tuple[int, int]) -> Tensor:
    """(H, W) int64: a disc in the middle, its radius 0.3 of the height and of the width (oblong on an oblong photo)."""
    rows, columns = ((torch.arange(n) + 0.5) / n - 0.5 for n in size)
    return (rows[:, None] ** 2 + columns[None] ** 2 <= RADIUS**2).long()


def saliency(features: Features) -> Tensor:
    """(h, w) float32 in [0, 1]: how much each place of a photo stands out, from its frozen features alone.

    Border contrast times strength, each summed over the two deepest maps after scaling to [0, 1]. Strength is the norm of
    the features, larger where an encoder sees an object that it knows.
    """
    deep = [x.float() for x in features.maps[-2:]]
    height, width = deep[0].shape[-2:]
    contrast = sum(_resized(_scaled(border_contrast(x, best=5)[0]), (height, width)) for x in deep)
    strength = sum(_resized(_scaled(x[0].norm(dim=0)), (height, width)) for x in deep)
    return _scaled(torch.as_tensor(contrast)) * _scaled(torch.as_tensor(strength))


def salient(features: Features, size: tuple[int, int]) -> Tensor:
    """(H, W) int64: :func:`saliency` above the middle of the means of its two clusters (Ridler and Calvard 1978)."""
    score = saliency(features)
    threshold, before = score.mean(), None
    for _ in range(10):
        above = score > threshold
        if before is not None and torch.equal(above, before):
            break  # the clusters have settled
        if above.any() and (~above).any():
            threshold = (score[above].mean() + score[~above].mean()) / 2
        before = above
    return (_resized(score, size) > threshold).long().cpu()


def _scaled(score: Tensor) -> Tensor:
    return (score - score.min()) / (score.max() - score.min()).clamp(min=1e-6)


def _resized(score: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(score[None, None], size, mode="bilinear", align_corners=False)[0, 0]
