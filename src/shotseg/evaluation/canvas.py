"""What a model sees of a photo, and the mask that its logits become on the canvas where it is scored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.data.samples import IGNORE
from shotseg.data.sizes import fitted_size, nearest
from shotseg.errors import note
from shotseg.evaluation.protocols import Protocol
from shotseg.models.few_shot_model import NO_NUMBERS


def working_photo(image: np.ndarray, geometry: str, size: int, multiple: int) -> Tensor:
    """A photo (H, W, 3) uint8 at the working size: (3, h, w) float32 in [0, 1]."""
    if geometry == "pad":
        return padded_photo(image, size)
    return transforms.to_size(image, geometry, size, multiple)[0]


def working_mask(mask: np.ndarray, geometry: str, size: int, multiple: int) -> Tensor:
    """The mask (H, W) in {0, 1, 255} of a photo at its working size: (h, w) int64."""
    if geometry == "pad":
        return padded_mask(mask, size)
    sides = (mask.shape[0], mask.shape[1])
    working = (size, size) if geometry == "squash" else fitted_size(sides, size, multiple)
    return torch.from_numpy(nearest(mask, working)).long()


def padded_size(sides: tuple[int, int], size: int, multiple: int = 8) -> tuple[int, int]:
    """(h, w) of a photo of (H, W) ``sides`` inside the padded square: longer side ``size``, both floored to
    ``multiple``."""
    height, width = (max(multiple, int(side * (size / max(sides))) // multiple * multiple) for side in sides)
    return height, width


def padded_photo(image: np.ndarray, size: int) -> Tensor:
    """PFENet's resize: the photo at the top left of a black square, by OpenCV's bilinear rule."""
    height, width = padded_size((image.shape[0], image.shape[1]), size)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    return F.pad(small, (0, size - width, 0, size - height))[0]


def padded_mask(mask: np.ndarray, size: int) -> Tensor:
    """The mask of :func:`padded_photo`, 255 around it, by OpenCV's nearest."""
    height, width = padded_size((mask.shape[0], mask.shape[1]), size)
    return F.pad(_nearest(mask, (height, width)), (0, size - width, 0, size - height), value=IGNORE)


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    classes = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
    return F.interpolate(classes, size, mode="nearest")[0, 0].long()


def scored_label(protocol: Protocol, mask: np.ndarray, geometry: str, working: tuple[int, int]) -> Tensor:
    """The label (h, w) int64 on the canvas where pixels are counted, 255 = ignored.

    mask: (H, W) in {0, 1, 255} at the photo's own size.      working: (h, w) of the model's input.
    """
    if protocol.ignore_band == "background":
        mask = np.where(mask == IGNORE, 0, mask)
    if protocol.score_at == "working" and geometry == "pad":
        return padded_mask(mask, max(working))
    if protocol.score_at == "working":
        return _nearest(mask, working)
    label = torch.from_numpy(mask.astype(np.int64))
    if protocol.score_at == "square":
        side = max(mask.shape)
        return F.pad(label, (0, side - mask.shape[1], 0, side - mask.shape[0]), value=IGNORE)
    return label


def decide(
    protocol: Protocol,
    shots: list[Tensor],
    scored: tuple[int, int],
    original: tuple[int, int],
    geometry: str,
    size: int,
) -> Tensor:
    """The predicted mask (h, w) int64 in {0, 1} on a canvas of the ``scored`` size.

    shots: logits (2, h, w), one tensor for each shot ("vote", "mean") or one for all ("model").
    original: (H, W) of the photo; with padding and ``score_at="original"`` the valid region is cut out first.
    """
    if geometry == "pad" and protocol.score_at == "original":
        shots = [without_padding(x, original, size, protocol.align_corners) for x in shots]
    sized = torch.stack([transforms.resize_logits(x.float(), scored, protocol.align_corners) for x in shots])
    if sized.isnan().any():
        note(NO_NUMBERS)
    if protocol.fusion == "vote":
        return vote(sized)
    return foreground(sized.softmax(1).mean(0) if protocol.fusion == "mean" else sized[0])


def without_padding(logits: Tensor, original: tuple[int, int], size: int, align_corners: bool) -> Tensor:
    """Logits (C, h, w) of a padded square of side ``size`` -> those of the photo in it, of (H, W) ``original``."""
    height, width = padded_size(original, size)
    return transforms.resize_logits(logits, (size, size), align_corners)[:, :height, :width]


def foreground(logits: Tensor) -> Tensor:
    """(..., 2, H, W) -> (..., H, W) int64, 1 where the foreground is larger (an argmax over two is slow)."""
    return (logits[..., 1, :, :] > logits[..., 0, :, :]).long()


def vote(logits: Tensor) -> Tensor:
    """(K, 2, H, W) or (K, B, 2, H, W) -> (H, W) or (B, H, W) int64: argmax masks are summed, divided by the largest
    sum in the image (at least 1, and not by K: HSNet's rule), and cut at 0.5."""
    votes = foreground(logits).sum(0)
    largest = votes.flatten(-2).amax(-1).clamp(min=1)[..., None, None]
    return (votes / largest >= 0.5).long()
