"""Masks from a self-supervised ViT alone: what its class token looks at. The pseudo masks of CST.

Kang et al., "Distilling Self-Supervised Vision Transformers for Weakly-Supervised Few-Shot Classification and
Segmentation" (CVPR 2023). They know no class: whatever stands out is foreground, and the class comes from the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F

from shotseg.encoders.vit import Tokens
from shotseg.errors import UsageError

THRESHOLD = 0.4  # of (cosine + 1) / 2: CST's, for DINO ViT-S/8 and no other


def class_query(tokens: Tokens) -> Tensor:
    """(B, heads, d): the last block's query of the class token. Raises UsageError for a ViT without one."""
    if tokens.prefix == 0:
        raise UsageError("this ViT has no class token to ask; choose one that has, such as dino-vits8")
    return tokens.queries[-1][:, :, 0]


def key_similarity(tokens: Tokens, query: Tensor | None = None) -> Tensor:
    """(B, 1, h, w) in [-1, 1]: the mean over heads of the cosine between each patch's key and a class token's query.

    query: (B, heads, d) of :func:`class_query`, default the image's own. CST asks a query image with its support's.
    """
    asked = class_query(tokens) if query is None else query
    keys = tokens.keys[-1][:, :, tokens.prefix :]
    return F.cosine_similarity(keys, asked[:, :, None], dim=3).mean(1).unflatten(1, tokens.grid)[:, None]


def similarity_masks(
    similarity: Tensor,
    size: Sequence[int] | None = None,
    threshold: float | Literal["otsu"] = THRESHOLD,
    present: Tensor | None = None,
) -> Tensor:
    """(B, H, W) uint8 in {0, 1} from (B, 1, h, w) similarities, resized to ``size`` first (align_corners).

    threshold: that (similarity + 1) / 2 must exceed; "otsu" takes each image's own (Otsu 1979), for other encoders.
    present:   (B,) bool, False where the image lacks the class: its mask is empty.
    """
    if size is not None:
        similarity = F.interpolate(similarity, list(size), mode="bilinear", align_corners=True)
    score = (similarity[:, 0] + 1) / 2
    masks = torch.stack([one > (otsu(one) if threshold == "otsu" else threshold) for one in score])
    return (masks if present is None else masks & present[:, None, None]).to(torch.uint8)


def otsu(score: Tensor) -> float:
    """The threshold that parts the values of a map into two groups of the least variance."""
    return float(threshold_otsu(score.detach().cpu().double().numpy()))
