"""Maps drawn larger, and the winner of several, at a cost that hardly grows with the size that they are drawn at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

BAND = 64  # rows that are drawn together: so many stay in a processor's cache
MOST = 2**19  # values of all maps that are widened together


def larger(level: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w), uint8 or float32, at the (height, width) ``size``, bilinear."""
    drawn = Image.fromarray(level).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(drawn)  # not asarray, which gives an array that is read-only, of which torch warns


def best(levels: np.ndarray) -> np.ndarray:
    """(h, w) uint8: the highest of (N, h, w) maps, N <= 256, the first on ties; ten times faster than ``argmax(0)``."""
    highest, found = levels[0].copy(), np.zeros(levels.shape[1:], np.uint8)
    for i, level in enumerate(levels[1:], 1):
        found[level > highest] = i
        np.maximum(highest, level, out=highest)
    return found


def best_drawn_larger(levels: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Bands (n, W) uint8 of an (H, W) map, from top to bottom: the highest of (N, h, w) float32 maps, N <= 256, drawn bilinear.

    No map is made as large as that, and a band is written over by the next. In a column, between two neighbouring rows of the
    maps, a level is a straight line: who is highest at both ends is so all the way, and two who are highest at one end each
    change where their lines cross. (A third who is highest for a few pixels between them alone is not seen.)
    """
    height, width = size
    if height < levels.shape[1]:
        levels = np.stack([larger(level, (height, levels.shape[2])) for level in levels])
    able = np.unique(best(levels))
    count = levels.shape[1]
    step = height / count

    def first_below(place: np.ndarray) -> np.ndarray:
        """The first pixel whose centre is not above a place, counted in rows of the maps from the centre of the first."""
        return np.ceil((place + 0.5) * step - 0.5).astype(np.int64)

    edges = np.array([0, *first_below(np.arange(count)), height])  # strip i lies between rows i - 1 and i
    widened, strips = max(1, MOST // (len(able) * width)), max(1, int(BAND / step))
    band = np.empty((strips * int(step + 1), width), np.uint8)
    for start in range(0, count + 1, widened):
        stop = min(start + widened, count + 1)
        numbers = np.arange(start - 1, stop).clip(0, count - 1)
        rows = np.empty((len(able), len(numbers), width), np.float32)
        for i, level in enumerate(levels[able]):
            rows[i] = larger(level[numbers], rows.shape[1:])
        winner = best(rows)
        at, column = np.nonzero(winner[:-1] != winner[1:])
        old, new = winner[at, column], winner[at + 1, column]
        lead = rows[old, at, column] - rows[new, at, column]
        lag = rows[new, at + 1, column] - rows[old, at + 1, column]
        crossing = np.zeros((stop - start, width), np.int64)
        crossing[at, column] = first_below(at + start - 1 + lead / np.maximum(lead + lag, 1e-30))
        spans = np.searchsorted(at, np.arange(stop - start + 1))  # the changes of each strip lie together
        winner = able.astype(np.uint8)[winner]
        for first in range(start, stop, strips):
            last = min(first + strips, stop)
            for i in range(first, last):
                here, drawn = i - start, band[edges[i] - edges[first] : edges[i + 1] - edges[first]]
                drawn[:] = winner[here]
                changing = column[spans[here] : spans[here + 1]]
                if len(changing):
                    span = slice(changing[0], changing[-1] + 1)
                    passed = np.arange(edges[i], edges[i + 1])[:, None] >= crossing[here, span]
                    drawn[:, span] += passed * (winner[here + 1, span] - winner[here, span])  # bytes wrap around
            yield band[: edges[last] - edges[first]]


def values_at(levels: np.ndarray, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, P): (N, h, w) maps, drawn bilinear at ``size``, at P of its pixels."""
    (low, high, down), (left, right, across) = (
        _between(place, length, full) for place, length, full in zip((rows, columns), levels.shape[1:], size)
    )
    upper = levels[:, low, left] * (1 - across) + levels[:, low, right] * across
    lower = levels[:, high, left] * (1 - across) + levels[:, high, right] * across
    return upper * (1 - down) + lower * down


def _between(place: np.ndarray, length: int, full: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two cells of a row of ``length`` between whose centres pixels lie, and how far on."""
    x = ((place + 0.5) * length / full - 0.5).clip(0, length - 1).astype(np.float32)
    first = x.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), x - first
