"""Maps of a query from its likeness to support features: the prior mask of PFENet, VVP of PI-CLIP, masked averages.

There is one max-cosine; the papers differ in its epsilon, in what becomes of the support's background, and in the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Eps = Literal["joint", "each"]
Norm = Literal["minmax", "none"]
Background = Literal["exclude", "zero"]

_DENOMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "joint": lambda q, s: q * s + 1e-7,  # PFENet, HDMNet, VVP
    "each": lambda q, s: (q + 1e-5) * (s + 1e-5),  # HSNet, TLG
}


def min_max(maps: Tensor, eps: float = 1e-7, flat: float = 0.0) -> Tensor:
    """(..., h, w) shifted and scaled to [0, 1], each map by its own range: (x - min) / (max - min + eps).

    A map whose range is below ``flat`` becomes 0, so that float noise is not stretched over [0, 1].
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return ((maps - low) / (high - low + eps)).masked_fill(high - low < flat, 0)


def max_cosine(
    query: Tensor, support: Tensor, valid: Tensor | None = None, eps: Eps = "joint", memory: int = 1 << 28
) -> Tensor:
    """For every query position the cosine to its most alike support position.

    query (B, C, h, w), support (B, C, h', w') -> (B, 1, h, w) in [-1, 1].
    valid:  (B, h', w') or (B, 1, h', w'), non-zero where a support position may be chosen; None = everywhere. A query
            without any gets 0.
    eps:    "joint" divides by |q||s| + 1e-7 (PFENet, HDMNet, VVP), "each" by (|q| + 1e-5)(|s| + 1e-5) (HSNet, TLG).
    memory: bytes that the similarities may take at once; the result does not depend on it.

    The gradient is that of the maximum: it reaches the chosen pair only.
    """
    (b, _, h, w), denominator = query.shape, _DENOMINATOR[eps]
    q, s = query.flatten(2), support.flatten(2)  # (B, C, Nq), (B, C, Ns)
    allowed = None if valid is None else valid.reshape(b, 1, -1) != 0
    q_norm, s_norm = q.norm(dim=1), s.norm(dim=1)
    # Which pair is the best, a strip of query positions at a time; a query's own length is no matter.
    with torch.no_grad():
        directions = s / s_norm.clamp(min=torch.finfo(s.dtype).tiny)[:, None]
        strip = max(1, memory // (b * s.shape[2] * s.element_size()))
        best = []
        for part in q.split(strip, 2):
            along = part.transpose(1, 2) @ directions
            best.append((along if allowed is None else along.masked_fill_(~allowed, -torch.inf)).argmax(2))
        nearest = torch.cat(best, 1)  # (B, Nq)
    chosen = s.gather(2, nearest[:, None].expand(-1, s.shape[1], -1))
    value = (q * chosen).sum(1) / denominator(q_norm, s_norm.gather(1, nearest))
    if allowed is not None:
        value = value.masked_fill(~allowed.any(2), 0)
    return value.view(b, 1, h, w)


def masked_average(features: Tensor, mask: Tensor, eps: float = 5e-4) -> Tensor:
    """sum(F m) / (sum m + eps): features (B, C, h, w), mask (B, 1, h, w) in [0, 1] -> (B, C, 1, 1) (PFENet)."""
    return (features * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + eps)


def foreground(mask: Tensor, size: Sequence[int], mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Label maps (..., H, W) in {0, 1, 255} -> share of foreground (..., h, w) in [0, 1]; 255 counts as background.

    "bilinear" (align_corners, soft edges) is PFENet's rule, "nearest" that of VVP.
    """
    ones = (mask == 1).float().reshape(-1, 1, *mask.shape[-2:])
    small = F.interpolate(ones, list(size), mode=mode, align_corners=True if mode == "bilinear" else None)
    return small.reshape(*mask.shape[:-2], *size)


def correspondence(query: Tensor, source: Tensor, size: Sequence[int] | None = None, flat: float = 1e-6) -> Tensor:
    """Max-cosine of (B, C, h, w) to (B, C, h', w'), min-maxed -> (B, 1, h, w), or resized to ``size`` (align_corners).

    With prior features of the same image as ``source`` it is QGNet's prior region map.
    ``flat=0`` is the released formula, in which a constant map may turn into noise.
    """
    maps = min_max(max_cosine(query, source), flat=flat)
    return maps if size is None else F.interpolate(maps, list(size), mode="bilinear", align_corners=True)


def vvp(
    query: Sequence[Tensor],
    support: Sequence[Tensor],
    mask: Tensor,
    norm: Norm = "minmax",
    background: Background = "exclude",
    shots: Literal["mean", "concat"] = "mean",
) -> Tensor:
    """Visual-visual prior of PI-CLIP (CVPR 2024): likeness of CLIP tokens at several layers.

    query: one map (B, C, h, w) a layer, in the order of the channels wanted (PI-CLIP: layer 11, then 10, of 0..11).
    support: one (B, K, C, h', w') a layer, of support photos times their masks. mask: (B, K, H, W) in {0, 1, 255}.
    Result (B, L, h, w), or (B, L K, h, w) with ``shots="concat"`` (a layer's shots side by side).

    The released code has ``norm="none", background="zero", shots="concat"``: no min-max, and background positions of
    the support enter the maximum as zero vectors. A support without any foreground position gives 0.
    """
    priors = []
    for q, s in zip(query, support):
        b, k = s.shape[:2]
        tokens, inside = s.flatten(0, 1), foreground(mask, s.shape[-2:], "nearest").flatten(0, 1)
        every = q[:, None].expand(-1, k, -1, -1, -1).flatten(0, 1)
        if background == "zero":
            maps = max_cosine(every, tokens * inside[:, None])
        else:
            maps = max_cosine(every, tokens, inside).clamp(min=0)
        maps = (min_max(maps, flat=1e-6) if norm == "minmax" else maps).view(b, k, *q.shape[-2:])
        priors.append(maps if shots == "concat" else maps.mean(1, keepdim=True))
    return torch.cat(priors, 1)
