"""A photo and its mask at the working size of a model, in NumPy: what needs torch and what does without see the same pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from shotseg.data.samples import IGNORE
from shotseg.heap import must_fit

BYTES = 16  # of a pixel, as Pillow holds it and as float32


def fitted_size(sides: tuple[int, int], size: int, multiple: int = 1) -> tuple[int, int]:
    """Aspect kept: the (height, width) whose longer side is ``size``, both rounded to a multiple and never below one."""
    height, width = (max(1, round(side * size / max(sides) / multiple)) * multiple for side in sides)
    return height, width


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another (height, width), bilinear, each pixel of a smaller one from all that it stands for.

    Raises MemoryError for a size that the machine cannot hold.
    """
    must_fit(BYTES * size[0] * size[1], f"photos of {size[1]} x {size[0]} pixels")
    # By Pillow: torch's own bytes differ with the processor.
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BILINEAR))


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) class ids at another (height, width); an object too small for any sample point keeps the cells that it touches."""
    rows, columns = (_middles(count, side) for count, side in zip(size, mask.shape))
    found = mask[rows[:, None], columns]
    if has_foreground(found) or not has_foreground(mask):
        return found
    for value in np.unique(mask[(mask != 0) & (mask != IGNORE)]):
        down, across = (windows(count, side) for count, side in zip(size, mask.shape))
        found[down @ (mask == value) @ across.T > 0] = value
    return found


def has_foreground(mask: np.ndarray) -> bool:
    return bool(((mask != 0) & (mask != IGNORE)).any())


def windows(count: int, side: int) -> np.ndarray:
    """(count, side) float32: row i is 1 over [floor(i side / count), ceil((i + 1) side / count)), what cell i touches."""
    first, place = np.arange(count)[:, None], np.arange(side)
    start, stop = first * side // count, -(-(first + 1) * side // count)
    return ((place >= start) & (place < stop)).astype(np.float32)


def _middles(count: int, side: int) -> np.ndarray:
    """Which of ``side`` pixels lies in the middle of each of ``count`` cells."""
    middle = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(side / count)
    return np.minimum(middle.astype(np.int64), side - 1)
