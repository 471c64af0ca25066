"""Pseudo masks in files as the released code of TLG reads them, and as its authors published theirs.

8-bit PNG label maps: 0 = background, class index + 1 = object, 255 = unsure. PASCAL: ``<image>--<class index>.png``, one
file an image and class, index 0..19. COCO: one file an image under the image's own relative path, several classes in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.images import read_mask, write_png
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError

Layout = Literal["pascal", "coco"]
SIZE = 400  # side at which TLG works


def path_of(folder: str | Path, image: str, index: int, layout: Layout = "pascal") -> Path:
    """Where the mask of class ``index`` (from 0) of an image lies. image: its name, with "/", without ending."""
    return Path(folder, f"{image}--{index}.png" if layout == "pascal" else f"{image}.png")


def write(folder: str | Path, image: str, labels: np.ndarray, index: int | None = None) -> Path:
    """Write a label map (H, W) uint8 with the values of the module's docstring and give its path.

    index: the class (from 0) of a mask {0, 1, 255} of that class alone, PASCAL's layout; None: a map of all, COCO's.
    """
    if index is None:
        path = path_of(folder, image, 0, "coco")
    else:
        path, labels = path_of(folder, image, index), np.where(labels == 1, index + 1, labels).astype(np.uint8)
    write_png(path, labels)
    return path


def read(path: str | Path, index: int, like: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 in {0, 1, 255}: the class ``index`` (from 0) in a file of either layout, 255 where it is unsure.

    Raises InputError where the file cannot be read or has another size than ``like``.
    """
    labels = read_mask(path, like=like, labels=True)
    if not 0 <= index < IGNORE - 1:
        raise InputError(f"{path}: class index {index}; give one from 0 to {IGNORE - 2}")
    return np.where(labels == index + 1, 1, np.where(labels == IGNORE, IGNORE, 0)).astype(np.uint8)


def prepared(mask: Tensor | np.ndarray, size: int | Sequence[int] = SIZE) -> Tensor:
    """(..., H, W) in {0, 1, 255} -> float32 {0, 1} at ``size``: TLG's preparation, in which unsure is background.

    The 0/1 map is resized (bilinear, half-pixel centres) and cut at one half.
    """
    sides = [size, size] if isinstance(size, int) else list(size)
    object_ = (torch.as_tensor(mask) == 1).float()
    resized = F.interpolate(object_.reshape(-1, 1, *object_.shape[-2:]), sides, mode="bilinear", align_corners=False)
    return (resized >= 0.5).float().reshape(*object_.shape[:-2], *sides)
