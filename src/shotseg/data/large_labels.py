"""Label maps and masks that no memory holds: tiled, compressed TIFF, written and read in bands of rows."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data import geo as places
from shotseg.data.images import replacing

SIDE = 512  # of the tiles
LARGE = 100_000_000  # pixels above which label maps and masks are TIFF

Bands = Iterable[np.ndarray]  # (h, W) uint8 each, from the top to the bottom of an image


def packed(size: tuple[int, int], bands: Bands) -> bytes:
    """The bands of an (H, W) label map as a TIFF in memory, a hundredth or less of its pixels."""
    buffer = io.BytesIO()
    _write(buffer, size, bands)
    return buffer.getvalue()


def bands_of(data: bytes) -> Iterator[np.ndarray]:
    """The bands, SIDE rows each, of what :func:`packed` gave."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        height, width = page.imagelength, page.imagewidth
        across, left = -(-width // SIDE), height
        tiles = (tile[0, :, :, 0] for tile, _, _ in page.segments(maxworkers=1))
        for row in iter(lambda: [tile for _, tile in zip(range(across), tiles)], []):
            yield np.concatenate(row, axis=1)[: min(SIDE, left), :width]
            left -= SIDE


def save(path: Path, size: tuple[int, int], bands: Bands, palette: np.ndarray | None = None, geo: Any = None) -> None:
    """Write an (H, W) label map or mask, whole or not at all.

    palette: (N, 3) uint8 colours of the values.   geo: where on earth it lies, as of :attr:`shotseg.data.windows.Windows.geo`.
    Raises InputError where the folder takes no more.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            _write(file, size, bands, palette, places.tags_of(geo))
        places.stamp(temporary, geo)


def _write(
    file: Any, size: tuple[int, int], bands: Bands, palette: np.ndarray | None = None, tags: tuple[Any, ...] = ()
) -> None:
    import tifffile

    colours: dict[str, Any] = {"photometric": "minisblack"}
    if palette is not None:
        table = np.zeros((3, 256), np.uint16)
        table[:, : len(palette)] = palette.T.astype(np.uint16) * 257
        colours = {"photometric": "palette", "colormap": table}
    how: dict[str, Any] = {"compression": "zlib", "compressionargs": {"level": 1}, "maxworkers": 1, "metadata": None}
    with tifffile.TiffWriter(file, bigtiff=size[0] * size[1] > 1 << 31) as writer:
        writer.write(
            _tiles(_even(bands, size[1])),
            shape=size,
            dtype=np.uint8,
            tile=(SIDE, SIDE),
            extratags=tags,
            **colours,
            **how,
        )


def _even(bands: Bands, width: int) -> Iterator[np.ndarray]:
    """The same rows in bands of SIDE, the last one filled up with zeros."""
    waiting = np.zeros((0, width), np.uint8)
    for band in bands:
        waiting = np.concatenate([waiting, band])
        while len(waiting) >= SIDE:
            yield waiting[:SIDE]
            waiting = waiting[SIDE:]
    if len(waiting):
        yield np.pad(waiting, ((0, SIDE - len(waiting)), (0, 0)))


def _tiles(bands: Bands) -> Iterator[np.ndarray]:
    for band in bands:
        for left in range(0, band.shape[1], SIDE):
            tile = band[:, left : left + SIDE]
            yield np.ascontiguousarray(np.pad(tile, ((0, 0), (0, SIDE - tile.shape[1]))))
