"""MaskFormer's augmentation: the shorter side scaled, a crop of the size at most, SSD's colours, padded to a square."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as moves

from shotseg.data.samples import IGNORE
from shotseg.models.maskformer import LONGEST

GREY = 128 / 255  # what a crop is padded with


def short_crop(
    image: np.ndarray,
    labels: np.ndarray,
    size: int,
    scale: tuple[float, float],
    flip: float,
    jitter: float,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """MaskFormer's augmentation: (3, size, size) in [0, 1], (size, size) int64, and where it is padding, bool.

    The shorter side becomes a random tenth of ``size`` between ``scale``, the longer one at most 4 times ``size``; then a
    random crop, SSD's colour jitter with the chance ``jitter``, a flip, and padding at the right and the bottom.
    """
    tenths = range(round(10 * scale[0]), round(10 * scale[1]) + 1)
    short = int(0.1 * tenths[int(torch.randint(len(tenths), (), generator=stream))] * size)
    factor = min(short / min(image.shape[:2]), LONGEST * size / max(image.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    pixels = moves.resize(torch.from_numpy(image.copy()).permute(2, 0, 1), [height, width], antialias=True)
    maps = F.interpolate(torch.from_numpy(labels)[None, None].float(), (height, width), mode="nearest-exact")[0, 0]
    tall, wide = min(size, height), min(size, width)
    top = int(torch.randint(height - tall + 1, (), generator=stream))
    left = int(torch.randint(width - wide + 1, (), generator=stream))
    x, y = (
        pixels[:, top : top + tall, left : left + wide].float() / 255,
        maps[top : top + tall, left : left + wide].long(),
    )
    if float(torch.rand((), generator=stream)) < jitter:
        x = colour_jitter(x, stream)
    if float(torch.rand((), generator=stream)) < flip:
        x, y = x.flip(-1), y.flip(-1)
    return padded(x, y, size)


def padded(image: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(3, h, w) and (h, w) at the top left of a grey square, 255 around the labels; and where that is padding."""
    margins = (0, size - labels.shape[-1], 0, size - labels.shape[-2])
    padding = F.pad(torch.zeros_like(labels, dtype=torch.bool), margins, value=True)
    return F.pad(image, margins, value=GREY), F.pad(labels, margins, value=IGNORE), padding


def colour_jitter(image: Tensor, stream: torch.Generator) -> Tensor:
    """SSD's: brightness +-32/255, contrast and saturation 0.5 to 1.5, hue +-36 degrees, each with chance one half."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=stream))

    def chance() -> bool:
        return float(torch.rand((), generator=stream)) < 0.5

    if chance():
        image = image + uniform(-32, 32) / 255
    early = chance()
    if early and chance():
        image = image * uniform(0.5, 1.5)
    image = image.clamp(0, 1)
    if chance():
        image = moves.adjust_saturation(image, uniform(0.5, 1.5))
    if chance():
        image = moves.adjust_hue(image, uniform(-0.1, 0.1))
    if not early and chance():
        image = image * uniform(0.5, 1.5)
    return image.clamp(0, 1)
