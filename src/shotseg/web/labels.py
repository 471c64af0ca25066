"""Label maps of class numbers: found by the model, counted, and packed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from shotseg.data.images import flat_png
from shotseg.overlay import PALETTE


@dataclass
class Found:
    """labels: (H, W) uint8 class numbers.   present: the probability that a class is there, by its number."""

    labels: np.ndarray
    confidence: float = 0.5
    present: dict[int, float] = field(default_factory=dict)


def numbered(labels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """(H, W) uint8 with ``numbers[i]`` in place of i + 1, and 0 as it is; the same array where that changes nothing."""
    if list(numbers) == list(range(1, len(numbers) + 1)):
        return labels
    table = np.zeros(256, np.uint8)
    table[1 : len(numbers) + 1] = numbers
    return table[labels]


def shares(labels: np.ndarray) -> list[float]:
    """Of each value from 0 to 255 the part of the (H, W) uint8 array that has it."""
    return [count / labels.size for count in Image.fromarray(labels).histogram()]


def label_png(labels: np.ndarray) -> bytes:
    """(H, W) uint8 as an 8-bit palette PNG."""
    return flat_png(labels, PALETTE)


def unpacked(png: bytes) -> np.ndarray:
    """The (H, W) uint8 label map of :func:`label_png`."""
    return np.array(Image.open(io.BytesIO(png)))
