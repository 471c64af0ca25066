"""From class maps to label maps with ignored pixels: the rules of AFA (Ru et al., CVPR 2022).

In all of them cams is (B, C, H, W) in [0, 1], present (B, C) in {0, 1} says which classes an image shows, and box (B, 4)
is the valid region (y0, y1, x0, x1), ends exclusive, outside which nothing is known; None where all of it is valid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import IGNORE
from shotseg.priors.pixel_adaptive import par

Refine = Callable[[Tensor, Tensor], Tensor]


def threshold_labels(
    cams: Tensor, present: Tensor, box: Tensor | None = None, high: float = 0.55, low: float = 0.35
) -> Tensor:
    """(B, H, W) int64: strongest present class + 1 above ``high``, 0 at or below ``low``, 255 between and outside."""
    score, best = (cams * present[:, :, None, None]).max(1)
    labels = torch.where(score > high, best + 1, IGNORE).masked_fill(score <= low, 0)
    return labels.masked_fill(~_inside(cams, box), IGNORE)


def two_background_labels(
    images: Tensor,
    cams: Tensor,
    present: Tensor,
    box: Tensor | None = None,
    high: float = 0.55,
    low: float = 0.35,
    refine: Refine = par,
) -> Tensor:
    """(B, H, W) int64: class + 1 where it beats both background scores after refinement, 0 where neither, else 255.

    images: (B, 3, H, W), any value range. The scores are a softmax over [background, present classes], refined at half
    size.
    """
    strict, lenient = (_refined_labels(images, cams, present, background, refine) for background in (high, low))
    labels = torch.where((strict > 0) & (lenient > 0), strict, IGNORE).masked_fill((strict == 0) & (lenient == 0), 0)
    return labels.masked_fill(~_inside(cams, box), IGNORE)


def soft_masks(
    images: Tensor,
    cams: Tensor,
    present: Tensor,
    box: Tensor | None = None,
    background: float = 0.45,
    refine: Refine = par,
) -> Tensor:
    """(B, 1 + C, H, W): [background, maps] refined inside the box, image at half size; 0 for absent classes and outside."""
    result = cams.new_zeros(cams.shape[0], 1 + cams.shape[1], *cams.shape[-2:])
    for i, classes in enumerate(_kept(present)):
        y0, y1, x0, x1 = (0, cams.shape[2], 0, cams.shape[3]) if box is None else box[i].tolist()
        window = (slice(i, i + 1), slice(None), slice(y0, y1), slice(x0, x1))
        scores = _with_background(cams, background)[window][:, classes]
        refined = refine(_half(images[window]), scores)
        result[i, classes, y0:y1, x0:x1] = _resized(refined, scores.shape[-2:])[0]
    return result


def _refined_labels(images: Tensor, cams: Tensor, present: Tensor, background: float, refine: Refine) -> Tensor:
    labels = []
    for i, classes in enumerate(_kept(present)):
        scores = _with_background(cams, background)[i : i + 1, classes].softmax(1)
        refined = refine(_half(images[i : i + 1]), _half(scores))
        labels.append(classes[_resized(refined, cams.shape[-2:]).argmax(1)])
    return torch.cat(labels)


def _kept(present: Tensor) -> list[Tensor]:
    """For every image the channels of [background, classes] that take part."""
    return [torch.cat([row.new_zeros(1).long(), row.nonzero()[:, 0] + 1]) for row in present]


def _with_background(cams: Tensor, background: float) -> Tensor:
    return torch.cat([torch.full_like(cams[:, :1], background), cams], 1)


def _resized(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _half(maps: Tensor) -> Tensor:
    return _resized(maps, (max(1, maps.shape[-2] // 2), max(1, maps.shape[-1] // 2)))


def _inside(cams: Tensor, box: Tensor | None) -> Tensor:
    """(B, H, W) bool, True inside the box."""
    inside = torch.full_like(cams[:, 0], box is None, dtype=torch.bool)
    for i, (y0, y1, x0, x1) in enumerate([] if box is None else box.tolist()):
        inside[i, y0:y1, x0:x1] = True
    return inside
