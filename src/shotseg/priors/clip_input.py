"""Photos at the sizes that CLIP's priors want: whole patches at the photo's own aspect, or a square."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as moves


def whole_patches(images: Tensor, patch: int, size: tuple[int, int] | None = None, eight_bit: bool = False) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> bicubic, both sides of ``size`` (default the images' own) rounded up to whole patches.

    eight_bit: as CLIP-ES and PI-CLIP do it: the photo cut to 8 bits, then Pillow.
    """
    height, width = (-(-side // patch) * patch for side in size or images.shape[-2:])
    if eight_bit:
        photos = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        resized = [
            np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)) for photo in photos
        ]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images) / 255
    return _bicubic(images, [height, width])


def square(images: Tensor, size: int = 224, crop: Literal["none", "center"] = "none") -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, size, size), bicubic.

    crop: "none" squashes the whole photo, so that a map of the result covers the photo. "center" is CLIP's own
    preparation (short side, then the centre), with which IMR-HSNet's maps do not cover a photo that is not square.
    """
    if crop == "none":
        return _bicubic(images, [size, size])
    return moves.center_crop(_bicubic(images, [size]), [size, size])


def _bicubic(images: Tensor, size: list[int]) -> Tensor:
    return moves.resize(images, size, interpolation=InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
