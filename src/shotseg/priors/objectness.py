"""A class-agnostic cue for objects, from the encoder itself: what is unlike the photo's border."""

from __future__ import annotations

import torch
from torch import Tensor

from shotseg.encoders.features import highest, unit


def border_contrast(level: Tensor, best: int = 8) -> Tensor:
    """(B, h, w): 1 - the mean of the ``best`` highest cosines of each token to the tokens on the photo's border.

    level: (B, C, h, w) features. An object seldom fills the border, so what the border holds is background (the boundary
    prior of saliency: Wei et al., ECCV 2012). Values in [0, 2], in practice below 1.
    """
    x = unit(level)
    border = [x[:, :, 0], x[:, :, -1], x[:, :, 1:-1, 0], x[:, :, 1:-1, -1]]
    cosine = x.flatten(2).mT @ torch.cat(border, 2)
    return 1 - highest(cosine, min(best, cosine.shape[-1])).mean(-1).unflatten(1, level.shape[-2:])
