"""Parts of an image that is too large to be decoded as one, each shown as it would be in the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from shotseg.data import tiff
from shotseg.data.images import read_image
from shotseg.data.pixels import Pixels, decode, header, shown_range, to_rgb
from shotseg.data.stored_rows import Held, raster_rows, tiff_rows
from shotseg.errors import InputError, first_line

SAMPLE = 1024  # pixels of the longer side of what the range of values is taken from, at least
ALL = slice(None)


class Stored(Protocol):
    """Where rows of values come from, and what the values mean.

    size: (H, W).   step: rows that are read together at little cost.   plain: colours of 8 bits, which mean what they are.
    geo: where on earth the image lies, for :mod:`shotseg.data.geo`, or None.
    """

    size: tuple[int, int]
    step: int
    across: int
    plain: bool
    geo: Any

    def values(self, rows: slice, columns: slice) -> np.ndarray:
        """(h, w) or (h, w, C) as they are stored; both slices have a start and a stop."""

    def pixels(self, values: np.ndarray, sample: np.ndarray | None) -> Pixels:
        """What values of a part mean; ``sample``: values from all over the image."""

    def small(self, least: int) -> Stored | None:
        """The same image reduced, as the file holds it beside the whole; ``least`` pixels of the longer side or more."""


class Windows:
    """An image of which parts are read when they are wanted; threads take turns.

    name: for messages.   size: (H, W).   geo: see :class:`Stored`.   again(): the whole of it, (H, W, 3) uint8.
    """

    def __init__(self, stored: Stored, again: Callable[[], np.ndarray], name: object = "photo"):
        self.name, self.size, self.geo, self.again = str(name), stored.size, stored.geo, again
        self._stored, self._turns = stored, threading.RLock()
        self._sample: np.ndarray | None = None
        self._shown: tuple[float, float] | None = None

    def read(self, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        """(h, w, 3) uint8 RGB of a part. Raises InputError where the file is damaged there."""
        with self._turns, self._one_line():
            self._look()
            return self._read(self._stored, rows, columns)

    def from_left(self, rows: slice, starts: Sequence[int], side: int) -> Iterator[np.ndarray]:
        """(h, w, 3) uint8 RGB each: parts of ``side`` columns that begin at ascending ``starts``. What was read is kept as long
        as the next part needs it."""
        kept, left, right = np.empty((0, 0, 3), np.uint8), 0, 0
        for first in starts:
            last = min(first + side, self.size[1])
            if last > right:
                begin = max(first, right)
                end = min(-(-last // self._stored.across) * self._stored.across, self.size[1])
                new = self.read(rows, slice(begin, end))
                kept = np.concatenate([kept[:, first - left :], new], 1) if first < right else new
                left, right = first, end
            yield kept[:, first - left : last - left]

    def reduced(self, least: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB of the whole, each pixel the mean of those that it stands for, ``least`` pixels of the longer side
        or a little more. A reduced copy in the file (pyramid, overview) spares the reading of the whole."""
        with self._turns, self._one_line():
            self._look()
            stored = self._stored.small(least) or self._stored
            factor = max(1, max(stored.size) // least)
            step = factor * max(1, stored.step // factor)
            parts = []
            for top in range(0, stored.size[0], step):
                part = self._read(stored, slice(top, top + step))
                parts.append(part if factor == 1 else np.asarray(Image.fromarray(part).reduce(factor)))
            return np.concatenate(parts)

    def _read(self, stored: Stored, rows: slice, columns: slice = ALL) -> np.ndarray:
        (top, bottom, _), (left, right, _) = rows.indices(stored.size[0]), columns.indices(stored.size[1])
        image = np.empty((bottom - top, right - left, 3), np.uint8)
        for first, last in _pieces(top, bottom, stored.step):
            values = stored.values(slice(first, last), slice(left, right))
            image[first - top : last - top] = to_rgb(stored.pixels(values, self._sample), self._shown)
        return image

    def _look(self) -> None:
        """Take a few values from all over the image, once: they say what range is shown, and whether alpha is alpha."""
        if self._sample is not None or self._stored.plain:
            return
        stored = self._stored.small(SAMPLE) or self._stored
        apart = max(1, max(stored.size) // SAMPLE)
        parts = [
            stored.values(slice(first, last), slice(0, stored.size[1]))[-first % apart :: apart, ::apart]
            for first, last in _pieces(0, stored.size[0], stored.step)
        ]
        self._sample = np.concatenate(parts)
        self._shown = shown_range(stored.pixels(self._sample, self._sample))

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a broken file can make a decoder fail in any way; to the user it is one thing
            raise InputError(
                f"{self.name}: cannot be read ({first_line(error)}); copy it again or leave it out"
            ) from error


def _pieces(top: int, bottom: int, step: int) -> Iterator[tuple[int, int]]:
    """Rows from ``top`` to ``bottom`` in parts, cut at multiples of ``step``."""
    while top < bottom:
        after = min(bottom, (top // step + 1) * step)
        yield top, after
        top = after


def in_memory(image: np.ndarray, name: object = "photo") -> Windows:
    """Windows of a photo (H, W, 3) uint8 that is decoded already."""
    return Windows(Held(image), partial(np.asarray, image), name)


def extent(source: str | Path | BinaryIO, page: int = 1) -> tuple[int, int] | None:
    """(height, width) that a file's header says, of a path or a file that is open; None where it says none that is understood."""
    try:
        with Path(source).open("rb") if isinstance(source, str | Path) else nullcontext(source) as file:
            is_tiff = file.read(4) in tiff.SIGNATURES
            file.seek(0)
            return tiff.upright_size(file, page, source) if is_tiff else header(file, source)[0]
    except Exception:  # what is wrong is said when it is read
        return None


def open_windows(
    path: str | Path, bands: Sequence[int] | None = None, page: int = 1, data: bytes | None = None
) -> Windows:
    """Windows of a file; bands and page as for :func:`shotseg.data.images.read_image`.

    data: the content, of a file that lies elsewhere: it is decoded whole.

    A TIFF is read by its tiles and strips. Another file is read row by row where rasterio is installed (extra: geo) and reads
    it, and is else decoded whole, up to ``MAX_PIXELS``. So is a TIFF that lies on its side, or is one compressed strip.
    Raises InputError as :func:`shotseg.data.images.read_image`.
    """
    if data is not None:
        return in_memory(to_rgb(decode(data, path, bands, page)), path)
    try:
        stored = tiff_rows(path, bands, page) or raster_rows(path, bands, page)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); copy it again or leave it out") from error
    if stored is None:
        return in_memory(read_image(path, bands, page), path)
    return Windows(stored, partial(_all, path, bands, page), path)


def _all(path: str | Path, bands: Sequence[int] | None, page: int) -> np.ndarray:
    return open_windows(path, bands, page).read()
