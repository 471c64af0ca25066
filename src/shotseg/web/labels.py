"""Label maps of class numbers: found by the model, counted, and packed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shotseg.data.enlarging import runs_of
from shotseg.data.images import flat_png
from shotseg.overlay import PALETTE


@dataclass
class Found:
    """runs: of class numbers.   present: the probability that a class is there, by its number."""

    runs: Runs
    confidence: float = 0.5
    present: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Runs:
    """A label map as a page is sent it: row after row, how many pixels in turn have one value.

    lengths: (n,) uint32.   values: (n,) uint8. A mask of 12 megapixels is made of them, or they of it, in a few milliseconds.
    """

    lengths: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Runs:
        return cls.made(*runs_of(labels))

    @classmethod
    def made(cls, lengths: np.ndarray, values: np.ndarray) -> Runs:
        return cls(lengths.astype(np.uint32), values)

    @classmethod
    def blank(cls, size: tuple[int, int]) -> Runs:
        return cls(np.array([math.prod(size)], np.uint32), np.zeros(1, np.uint8))

    @classmethod
    def unpacked(cls, packed: bytes) -> Runs:
        data = zlib.decompress(packed)
        count = len(data) // 5
        return cls(np.frombuffer(data, "<u4", count), np.frombuffer(data, np.uint8, offset=4 * count))

    def packed(self) -> bytes:
        """All lengths as little-endian bytes, then all values, deflated."""
        return zlib.compress(self.lengths.astype("<u4").tobytes() + self.values.tobytes(), 1)

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """The (height, width) uint8 label map."""
        return np.repeat(self.values, self.lengths).reshape(size)

    def shares(self) -> np.ndarray:
        """Of each value from 0 to 255 the part of the label map that has it."""
        return np.bincount(self.values, self.lengths, minlength=256) / self.lengths.sum()


def numbered(labels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """(H, W) uint8 with ``numbers[i]`` in place of i + 1, and 0 as it is; the same array where that changes nothing."""
    if list(numbers) == list(range(1, len(numbers) + 1)):
        return labels
    table = np.zeros(256, np.uint8)
    table[1 : len(numbers) + 1] = numbers
    return table[labels]


def label_png(labels: np.ndarray) -> bytes:
    """(H, W) uint8 as an 8-bit palette PNG."""
    return flat_png(labels, PALETTE)
