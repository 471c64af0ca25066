"""Grad-CAM: where an activation raises a score (Selvaraju et al., ICCV 2017), as CLIP-ES and IMR-HSNet use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.priors.clip_input import square
from shotseg.priors.visual import min_max

if TYPE_CHECKING:  # open_clip is slow to import, and Grad-CAM of another network needs none
    from shotseg.encoders.clip import LastBlock, VisionLanguage


@torch.enable_grad()
def grad_cam(
    score: Tensor, activation: Tensor, to_map: Callable[[Tensor], Tensor] | None = None, keep_graph: bool = False
) -> Tensor:
    """relu(sum_c alpha_c A_c), alpha = spatial mean of d score / d A -> (B, h, w) >= 0, not scaled.

    score:      (B,), one number an image that depends on no other image.
    activation: part of the score's graph, (B, C, h, w), or of any shape that ``to_map`` turns into it.
    keep_graph: leave the graph for another score of the same forward pass.
    """
    (gradient,) = torch.autograd.grad(score.sum(), activation, retain_graph=keep_graph)
    activation = activation.detach()
    if to_map is not None:
        gradient, activation = to_map(gradient), to_map(activation)
    return (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu()


@torch.enable_grad()
def text_cams(last: LastBlock, rows: Sequence[int]) -> Tensor:
    """The maps of some texts' softmax probabilities at CLIP's last block -> (B, M, h, w) >= 0, not scaled."""
    scores = [last.probabilities[:, row] for row in rows]
    return torch.stack([grad_cam(score, last.activation, last.map, keep_graph=True) for score in scores], 1)


def scaled(maps: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """(B, M, h, w) -> [0, 1] by min-max, resized to ``size`` (bilinear, half-pixel centres) where given, min-max again.

    The papers' code scales twice, which matters only where the raw maximum is near the 1e-7 of the first pass.
    """
    once = min_max(maps)
    return min_max(once if size is None else F.interpolate(once, list(size), mode="bilinear", align_corners=False))


def imr_cams(
    clip: VisionLanguage,
    images: Tensor,
    names: Sequence[str],
    targets: Sequence[int],
    size: int = 224,
    grid: tuple[int, int] = (50, 50),
    crop: Literal["none", "center"] = "none",
) -> Tensor:
    """The class maps of IMR-HSNet (IJCAI 2022), made with CLIP's RN50: (B, M, *grid) in [0, 1].

    images (B, 3, H, W) in [0, 1]. names: all classes that compete in the softmax; targets: rows of it that get a map.
    crop="center" is the released preparation; its map covers only the middle of a photo that is not square.
    """
    seen = clip.tokens_and_attention(square(images, size, crop))
    last = clip.last_block(seen, clip.text(names, ["a photo of a {}"]))
    maps = scaled(text_cams(last, targets), (size, size))
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)
