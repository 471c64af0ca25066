"""Masks from a class name alone, for photos that nobody has drawn on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.encoders.imagenet_text import ImageNetText
from shotseg.priors.guided_filter import guided_filter
from shotseg.priors.objectness import border_contrast

SIZE = 384  # longer side, in pixels, at which the class is looked for
LEVEL = 0.4  # of a photo's highest value, from which on a pixel is the class (docs/results.md)


@torch.no_grad()
def from_name(image: np.ndarray, name: str, device: torch.device | str = "cpu") -> np.ndarray:
    """The pseudo mask (H, W) uint8 in {0, 1} of the class ``name`` in a photo (H, W, 3) uint8 that shows it.

    ImageNet class activation of the labels nearest to the name, weighted by the photo's objectness (border contrast), drawn
    along its edges and cut at ``LEVEL``. Never empty: the class is known to be there.
    Raises UsageError where the extra ``offline-text`` is not installed.
    """
    pixels, _ = transforms.fit(image, SIZE, 32)
    soft = soft_masks(_vision(str(device)), pixels[None].to(device), [name])
    mask = transforms.resize_logits(soft, image.shape[:2])[0, 0] > LEVEL
    return mask.to(torch.uint8).cpu().numpy()


def soft_masks(vision: ImageNetText, images: Tensor, names: list[str]) -> Tensor:
    """(B, N, h, w) in [0, 1] at a quarter of the size of images (B, 3, H, W) in [0, 1]: one map a class name."""
    grid = (max(1, images.shape[-2] // 4), max(1, images.shape[-1] // 4))
    activation = F.interpolate(vision.class_map(images, names), grid, mode="bilinear", align_corners=False)
    features = vision.encoder(images)
    objectness = sum(
        F.interpolate(_unit_range(border_contrast(level)[:, None]), grid, mode="bilinear", align_corners=False)
        for level in features.maps[-2:]
    )
    both = _unit_range(activation * objectness)
    return _unit_range(guided_filter(both, F.adaptive_avg_pool2d(images, grid)))


def _unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-6)


@lru_cache(maxsize=1)
def _vision(device: str) -> ImageNetText:
    return ImageNetText(device)
