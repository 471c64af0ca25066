"""Image and mask moved together: to the working size of a model, and at random for training.

The size functions take a photo (H, W, 3) uint8 and its mask (H, W) or None, of any size down to one pixel, and give a
(3, h, w) float32 tensor in [0, 1] and an (h, w) int64 tensor or None. The random ones take and give those tensors, and
draw every number from the generator that they are given: the same generator state, the same result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as moves

from shotseg.data.samples import IGNORE
from shotseg.data.sizes import fitted_size, nearest, resized
from shotseg.device import sent

Pair = tuple[Tensor, Tensor | None]

MEAN = (0.485, 0.456, 0.406)  # of ImageNet: what padding is filled with
MEAN_BYTES = tuple(255 * x for x in MEAN)  # the same of a uint8 photo


def fit(
    image: np.ndarray,
    size: int,
    multiple: int = 1,
    mask: np.ndarray | None = None,
    sides: tuple[int, int] | None = None,
) -> Pair:
    """Aspect kept, longer side ``size``, both sides rounded to a multiple of ``multiple`` and never below one.

    sides: (height, width) of the photo, where ``image`` is a smaller copy of it.
    """
    return _resized(image, mask, fitted_size(sides or image.shape[:2], size, multiple))


def squash(image: np.ndarray, size: int, mask: np.ndarray | None = None) -> Pair:
    """``size`` x ``size``, aspect not kept."""
    return _resized(image, mask, (size, size))


def to_size(
    image: np.ndarray,
    geometry: str,
    size: int,
    multiple: int = 1,
    mask: np.ndarray | None = None,
    sides: tuple[int, int] | None = None,
) -> Pair:
    """:func:`squash`, or for every other geometry :func:`fit`."""
    return squash(image, size, mask) if geometry == "squash" else fit(image, size, multiple, mask, sides)


def pad(
    image: np.ndarray, size: int, mask: np.ndarray | None = None, fill: tuple[float, ...] = MEAN
) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
    """Aspect kept, longer side ``size``, then padded at the bottom and the right to ``size`` x ``size``.

    The padding is ``fill`` (RGB in [0, 1]) in the image and 255 in the mask. The third value is the (h, w) of the photo
    in it: ``logits[..., :h, :w]`` is the valid region.
    """
    height, width = fitted_size(image.shape[:2], size)
    pixels, classes = _resized(image, mask, (height, width))
    return *_padded(pixels, classes, size, size, fill), (height, width)


def resize_logits(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """(..., C, h, w) logits or probabilities at ``size`` = (height, width), bilinear."""
    flat = logits.reshape(-1, *logits.shape[-3:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=align_corners).reshape(*logits.shape[:-2], *size)


def resize_rows(
    rows_of: Callable[[int, int], Tensor], height: int, size: tuple[int, int], start: int, stop: int
) -> Tensor:
    """Those rows alone of :func:`resize_logits` of (C, height, w), in memory for no more than them: (C, stop - start, width).

    rows_of: gives the rows of the smaller map from one on to another.
    """
    at = ((torch.arange(start, stop) + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = at.long()
    below = (above + 1).clamp(max=height - 1)
    first = int(above[0])
    source = rows_of(first, int(below[-1]) + 1)
    above, below, share = (sent(x, source.device) for x in (above - first, below - first, (at - above)[:, None]))
    mixed = torch.lerp(source[:, above], source[:, below], share.to(source))
    return resize_logits(mixed, (stop - start, size[1]))


def random_flip(image: Tensor, mask: Tensor | None, generator: Generator, chance: float = 0.5) -> Pair:
    """Left and right swapped, with probability ``chance``."""
    if _uniform(generator) >= chance:
        return image, mask
    return image.flip(-1), None if mask is None else mask.flip(-1)


def random_scale(image: Tensor, mask: Tensor | None, generator: Generator, low: float = 0.9, high: float = 1.1) -> Pair:
    """Both sides times one factor drawn from [low, high]."""
    factor = _uniform(generator, low, high)
    size = [max(1, round(side * factor)) for side in image.shape[-2:]]
    pixels = moves.resize(image, size, antialias=True)
    return pixels, None if mask is None else torch.from_numpy(nearest(mask.numpy(), (size[0], size[1])))


def random_rotation(
    image: Tensor, mask: Tensor | None, generator: Generator, degrees: float = 10, fill: tuple[float, ...] = MEAN
) -> Pair:
    """Turned about the centre by up to ``degrees`` either way; what comes in from outside is ``fill`` and 255."""
    angle = _uniform(generator, -degrees, degrees)
    if not angle:
        return image, mask
    pixels = moves.rotate(image, angle, interpolation=InterpolationMode.BILINEAR, fill=list(fill))
    return pixels, None if mask is None else moves.rotate(mask[None], angle, fill=[IGNORE])[0]


def random_crop(
    image: Tensor, mask: Tensor | None, generator: Generator, size: int, fill: tuple[float, ...] = MEAN, tries: int = 10
) -> Pair:
    """A ``size`` x ``size`` window, padded with ``fill`` and 255 where the image is smaller.

    Of ``tries`` windows the first that shows some foreground is taken, so that a crop seldom loses its object.
    """
    image, mask = _padded(image, mask, max(size, image.shape[-2]), max(size, image.shape[-1]), fill)
    for _ in range(tries):
        top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in image.shape[-2:])
        window = (slice(top, top + size), slice(left, left + size))
        if mask is None or _has_foreground(mask[window]) or not _has_foreground(mask):
            break
    return image[:, *window], None if mask is None else mask[window]


def keeping_crop(
    image: Tensor,
    mask: Tensor | None,
    draw: Callable[[int], int],
    size: int,
    keep: float = 0.85,
    fill: tuple[float, ...] = MEAN,
    tries: int = 32,
) -> Pair:
    """PFENet's crop: padded on all sides, and drawn again until the window has the share ``keep`` of the foreground.

    draw: of n, a whole number from 0 to n; first the top, then the left. After ``tries`` windows the last one is taken.
    """
    height, width = (max(size, side) for side in image.shape[-2:])
    top, left = (height - image.shape[-2]) // 2, (width - image.shape[-1]) // 2
    canvas = image.new_tensor(fill)[:, None, None].repeat(1, height, width)
    canvas[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    margins = (left, width - image.shape[-1] - left, top, height - image.shape[-2] - top)
    labels = None if mask is None else F.pad(mask, margins, value=IGNORE)
    for _ in range(tries):
        window = tuple(slice(at, at + size) for at in (draw(height - size), draw(width - size)))
        if labels is None or (labels[window] == 1).sum() >= keep * (labels == 1).sum():
            break
    return canvas[:, *window], None if labels is None else labels[window]


def random_blur(image: Tensor, mask: Tensor | None, generator: Generator, chance: float = 0.5, kernel: int = 5) -> Pair:
    """A Gaussian blur over ``kernel`` x ``kernel`` pixels, with probability ``chance``; the mask stays."""
    if _uniform(generator) >= chance or min(image.shape[-2:]) <= kernel // 2:  # reflection needs a few pixels
        return image, mask
    return moves.gaussian_blur(image, [kernel, kernel]), mask


def random_jitter(image: Tensor, mask: Tensor | None, generator: Generator, strength: float = 0.2) -> Pair:
    """Brightness, contrast and saturation each times a factor from [1 - strength, 1 + strength]; the mask stays."""
    for adjust in (moves.adjust_brightness, moves.adjust_contrast, moves.adjust_saturation):
        image = adjust(image, _uniform(generator, 1 - strength, 1 + strength))
    return image, mask


@dataclass(frozen=True)
class Augmentation:
    """The random changes of one training photo, in the order of PFENet (Tian et al., TPAMI 2020): scale, rotation,
    blur, flip, crop; then colour jitter, which PFENet has not (0 = none). keep: see :func:`keeping_crop`; 0 = a crop that
    shows some foreground."""

    size: int
    scale: tuple[float, float] = (0.9, 1.1)
    degrees: float = 10
    blur: float = 0.5
    flip: float = 0.5
    jitter: float = 0.0
    keep: float = 0.0

    def __call__(self, image: Tensor, mask: Tensor | None, generator: Generator) -> Pair:
        """(3, h, w) in [0, 1] and (h, w) int64 or None -> the same at ``size`` x ``size``."""
        image, mask = random_scale(image, mask, generator, *self.scale)
        image, mask = random_rotation(image, mask, generator, self.degrees)
        image, mask = random_blur(image, mask, generator, self.blur)
        image, mask = random_flip(image, mask, generator, self.flip)
        if self.keep:
            draw = functools.partial(_whole, generator)
            image, mask = keeping_crop(image, mask, draw, self.size, self.keep)
        else:
            image, mask = random_crop(image, mask, generator, self.size)
        return random_jitter(image, mask, generator, self.jitter) if self.jitter else (image, mask)


def as_tensors(image: np.ndarray, mask: np.ndarray | None = None) -> Pair:
    """A photo and its mask as tensors at their own size."""
    return _resized(image, mask, (image.shape[0], image.shape[1]))


def _resized(image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Pair:
    pixels = torch.from_numpy(resized(image, size)).permute(2, 0, 1).float().div_(255)
    return pixels, None if mask is None else torch.from_numpy(nearest(mask, size)).long()


def _has_foreground(mask: Tensor) -> bool:
    return bool(((mask != 0) & (mask != IGNORE)).any())


def _padded(
    image: Tensor, mask: Tensor | None, height: int, width: int, fill: tuple[float, ...]
) -> tuple[Tensor, Tensor | None]:
    """The pair at the top left of a height x width canvas of ``fill`` and 255."""
    h, w = image.shape[-2:]
    canvas = image.new_tensor(fill)[:, None, None].repeat(1, height, width)
    canvas[:, :h, :w] = image
    return canvas, None if mask is None else F.pad(mask, (0, width - w, 0, height - h), value=IGNORE)


def _whole(generator: Generator, most: int) -> int:
    return int(torch.randint(most + 1, (), generator=generator))


def _uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
