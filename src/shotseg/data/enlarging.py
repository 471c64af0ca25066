"""Maps drawn larger, and the winner of several, at a cost that hardly grows with the size that they are drawn at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

BAND = 64  # rows that are drawn together: so many stay in a processor's cache


def larger(level: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w), uint8 or float32, at the (height, width) ``size``, bilinear."""
    drawn = Image.fromarray(level).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(drawn)  # not asarray, which gives an array that is read-only, of which torch warns


def runs_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a map, row after row, how many pixels in turn have one value: lengths (R,) int64, and the values (R,)."""
    flat = labels.ravel()
    last = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return np.diff(last, prepend=-1), flat[last]


def best(levels: Iterable[np.ndarray]) -> np.ndarray:
    """(h, w) uint8: the highest of N maps (h, w), 1 <= N <= 256, the first on ties; ten times faster than ``argmax(0)``."""
    rest = iter(levels)
    highest = next(rest).copy()
    found = np.zeros(highest.shape, np.uint8)
    for i, level in enumerate(rest, 1):
        found[level > highest] = i
        np.maximum(highest, level, out=highest)
    return found


@dataclass(frozen=True, eq=False)
class Strips:
    """An (H, W) uint8 map as S strips from top to bottom, in each of which a column changes its value once at most.

    tops: (S + 1,) the first row of each strip, and H.    values: (S + 1, W) uint8; a strip has the values of its own row at its
    top, and of the next one at its bottom.
    strip, column, row: (K,) of the columns that change within a strip, in the order of the strips; the first row that is changed.
    """

    tops: np.ndarray
    values: np.ndarray
    strip: np.ndarray
    column: np.ndarray
    row: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.tops[-1]), self.values.shape[1]

    def counts(self) -> np.ndarray:
        """(256,): how many pixels have each value."""
        before, after = self.values[self.strip, self.column], self.values[self.strip + 1, self.column]
        changed = self.tops[self.strip + 1] - self.row  # pixels of a column, from where it changes
        found = np.bincount(after, changed, 256) - np.bincount(before, changed, 256)
        heights = np.diff(self.tops)
        for height in np.unique(heights):  # few
            found += height * np.array(Image.fromarray(self.values[:-1][heights == height]).histogram())
        return found.astype(np.int64)

    def only(self, value: int) -> Strips:
        """255 where this has the value, else 0."""
        values = (self.values == value) * np.uint8(255)
        changes = values[self.strip, self.column] != values[self.strip + 1, self.column]
        return Strips(self.tops, values, self.strip[changes], self.column[changes], self.row[changes])

    def drawn(self, room: np.ndarray) -> Iterator[np.ndarray]:
        """The map from top to bottom, in bands (n, W): the first rows of ``room`` (N, W), each written over by the next."""
        before, after = self.values[self.strip, self.column], self.values[self.strip + 1, self.column]
        spans = np.searchsorted(self.strip, np.arange(len(self.tops)))
        for i, (first, last) in enumerate(pairwise(self.tops.tolist())):
            mine = slice(spans[i], spans[i + 1])
            for top in range(first, last, len(room)):
                band = room[: min(len(room), last - top)]
                band[:] = self.values[i]
                if mine.start < mine.stop:
                    changed = np.arange(top, top + len(band))[:, None] >= self.row[mine]
                    band[:, self.column[mine]] = np.where(changed, after[mine], before[mine])
                yield band

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """As of :func:`runs_of`, without the map itself."""
        height, width = self.size
        below = self.tops[1:].repeat(width).reshape(-1, width)  # the first row that a column has changed in
        below[self.strip, self.column] = self.row
        before, after = self.values[:-1], self.values[1:]
        strip, column = _places(_unlike(before) | _unlike(after) | _unlike(below))
        one, other = below[strip, column], below[strip, column + 1]
        first, last = np.minimum(one, other), np.maximum(one, other)
        between = np.where(one < other, after[strip, column], before[strip, column])
        beside = np.where(one < other, before[strip, column + 1], after[strip, column + 1])
        ends = [  # of the runs within a row
            _down(self.tops[strip], first, column, before[strip, column] != before[strip, column + 1], width),
            _down(first, last, column, between != beside, width),
            _down(last, self.tops[strip + 1], column, after[strip, column] != after[strip, column + 1], width),
        ]
        rows, mine = np.arange(height), np.repeat(np.arange(len(before)), np.diff(self.tops))

        def seen(column: np.ndarray | int, row: np.ndarray) -> np.ndarray:
            at = mine[row]
            return np.where(row < below[at, column], before[at, column], after[at, column])

        turns = np.flatnonzero(seen(width - 1, rows[:-1]) != seen(0, rows[1:]))
        ends += [(turns + 1) * width - 1, np.array([height * width - 1])]
        last = np.sort(np.concatenate(ends))
        row, column = np.divmod(last, width)
        return np.diff(last, prepend=-1), seen(column, row)


def best_strips(levels: np.ndarray, size: tuple[int, int]) -> Strips:
    """The (H, W) map of the highest of (N, h, w) float32 maps, N <= 256, drawn bilinear at the (height, width) ``size``.

    Between two neighbours a level is a straight line: who is highest at both ends is so all the way. So along the rows of the
    maps levels are drawn only where the highest changes, and down a column two who are highest at one end each change where
    their lines cross. (A third who is highest for a few pixels between two rows alone is not seen.)
    """
    height, width = size
    if height < levels.shape[1] or width < levels.shape[2]:
        least = min(height, levels.shape[1]), min(width, levels.shape[2])
        levels = np.stack([larger(level, least) for level in levels])
    count, step = levels.shape[1], height / levels.shape[1]

    def first_below(place: np.ndarray) -> np.ndarray:
        """The first pixel whose centre is not above a place, counted in rows of the maps from the centre of the first."""
        return np.ceil((place + 0.5) * step - 0.5).astype(np.int64)

    left, right, across = _between(np.arange(width), levels.shape[2], width)

    def along(level: int | np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """(P,): a level, or one for each pixel, in rows of the maps, drawn at P pixels of them."""
        part = across[column]
        return levels[level, row, left[column]] * (1 - part) + levels[level, row, right[column]] * part

    winner = best(levels)
    able = np.unique(winner)
    values = winner.take(left, axis=1)
    unlike = winner != np.roll(winner, -1, 1)  # the last column from the first too, which does no harm
    row, column = _places(unlike.take(left, axis=1))
    values[row, column] = able[best(along(i, row, column) for i in able)]
    tops = np.array([0, *first_below(np.arange(count)), height])
    at, column = _places(values[:-1] != values[1:])
    old, new = values[at, column], values[at + 1, column]
    lead = along(old, at, column) - along(new, at, column)
    lag = along(new, at + 1, column) - along(old, at + 1, column)
    row = first_below(at + lead / np.maximum(lead + lag, 1e-30)).clip(tops[at + 1], tops[at + 2])
    return Strips(tops, np.pad(values, ((1, 1), (0, 0)), mode="edge"), at + 1, column, row)


def values_at(levels: np.ndarray, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, P): (N, h, w) maps, drawn bilinear at ``size``, at P of its pixels."""
    (low, high, down), (left, right, across) = (
        _between(place, length, full) for place, length, full in zip((rows, columns), levels.shape[1:], size)
    )
    upper = levels[:, low, left] * (1 - across) + levels[:, low, right] * across
    lower = levels[:, high, left] * (1 - across) + levels[:, high, right] * across
    return upper * (1 - down) + lower * down


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns at which an (H, W) mask holds, as of ``nonzero``, in half of its time."""
    return np.divmod(np.flatnonzero(mask), mask.shape[1])


def _unlike(rows: np.ndarray) -> np.ndarray:
    """Where a column of (S, W) is not as the next."""
    return rows[:, :-1] != rows[:, 1:]


def _down(first: np.ndarray, last: np.ndarray, column: np.ndarray, wanted: np.ndarray, width: int) -> np.ndarray:
    """Places, counted row after row, of the rows from first to before last of those columns that are wanted."""
    first, length, column = first[wanted], (last - first)[wanted], column[wanted]
    start = np.repeat(length.cumsum() - length, length)
    row = np.arange(length.sum()) - start + np.repeat(first, length)
    return row * width + np.repeat(column, length)


def _between(place: np.ndarray, length: int, full: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two cells of a row of ``length`` between whose centres pixels lie, and how far on."""
    x = ((place + 0.5) * length / full - 0.5).clip(0, length - 1).astype(np.float32)
    first = x.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), x - first
