"""Rows of values as files store them: of an array, of a TIFF by its tiles and strips, of any raster that rasterio knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shotseg.data import tiff
from shotseg.data.pixels import Pixels, as_alpha, check_bands, header, pick_bands
from shotseg.errors import InputError, note

PIECE = 16 << 20  # bytes of values that are read together, where tiles and strips are no larger
LARGEST = 512 << 20  # bytes of a tile or strip: beyond, a file has no parts worth the name
PALETTE, YCBCR, JPEG = 3, 6, 7
GEO_TAGS = (
    33550,
    33922,
    34264,
    34735,
    34736,
    34737,
)  # of GeoTIFF: scale, tie points, matrix, and what they are measured in


class Held:
    """A photo (H, W, 3) uint8 in memory."""

    plain, geo = True, None

    def __init__(self, image: np.ndarray):
        self.image, self.size = image, (image.shape[0], image.shape[1])
        self.step, self.across = self.size

    def values(self, rows: slice, columns: slice) -> np.ndarray:
        return self.image[rows, columns]

    def pixels(self, values: np.ndarray, sample: np.ndarray | None) -> Pixels:
        return Pixels(values)

    def small(self, least: int) -> None:
        return None


class TiffRows:
    """A page of an open TIFF, or several where each band is a page of its own.

    levels: pages that hold the same image reduced.
    """

    def __init__(
        self, file: Any, pages: Sequence[Any], name: object, bands: Sequence[int] | None, levels: Sequence[Any] = ()
    ):
        self._file, self._pages, self._name, self._bands, self._levels = file, pages, name, bands, levels
        first = pages[0]
        self.size = (first.imagelength, first.imagewidth)
        high, self.across = _segment(first)
        self.step = _step(high, first.imagewidth * _bytes(first))
        self.plain = first.bitspersample == 8 and first.samplesperpixel in (1, 3) and first.sampleformat == 1
        tags = {code: first.tags[code] for code in GEO_TAGS if code in first.tags}
        self.geo = {code: (tag.dtype, tag.count, tag.value) for code, tag in tags.items()} or None

    def values(self, rows: slice, columns: slice) -> np.ndarray:
        found = [tiff.black_is_zero(page, _part(self._file, page, rows, columns)) for page in self._pages]
        return found[0] if len(found) == 1 else np.stack(found, axis=2)

    def pixels(self, values: np.ndarray, sample: np.ndarray | None) -> Pixels:
        page, bands = self._pages[0], self._bands
        nodata = tiff.nodata(page)
        if page.samplesperpixel == 1 and page.photometric == PALETTE and bands is None:
            return Pixels((page.colormap.T[values] >> 8).astype(np.uint8))
        if page.photometric == tiff.CMYK and page.samplesperpixel == 4 and values.dtype == np.uint8 and bands is None:
            return Pixels(np.asarray(Image.fromarray(values, "CMYK").convert("RGB")))
        values, alpha = tiff.parted(page, values, self._name, bands, sample)
        if bands is not None and len(self._pages) == 1 and page.samplesperpixel > 1:
            values = pick_bands(np.atleast_3d(values), bands, self._name)
        return Pixels(values, None if alpha is None else as_alpha(alpha), nodata=nodata)

    def small(self, least: int) -> TiffRows | None:
        fitting = [page for page in self._levels if max(page.imagelength, page.imagewidth) >= least]
        if not fitting:
            return None
        return TiffRows(self._file, [min(fitting, key=lambda page: page.imagewidth)], self._name, self._bands)


def tiff_rows(path: str | Path, bands: Sequence[int] | None, page: int) -> TiffRows | None:
    """A TIFF by its parts; None for another file, and for one without parts that can be read alone."""
    with Path(path).open("rb") as file:
        if file.read(4) not in tiff.SIGNATURES:
            return None
    with ExitStack() as closing:
        opened = closing.enter_context(tiff.opened(path))
        pages = tiff.pages_of(opened, page, path)
        base = pages[0]
        if bands is None:
            pages = [base]
        elif len(apart := tiff.planes(opened, pages)) > 1:
            check_bands(bands, len(apart), path)
            pages = [apart[band - 1] for band in bands]
        if not all(map(_has_parts, pages)):
            return None
        for found in pages:
            tiff.check_codecs(found, path)
        rows = TiffRows(opened, pages, path, bands, _levels(opened, base) if len(pages) == 1 else ())
        closing.pop_all()  # it is read from now on
        return rows


def _has_parts(page: Any) -> bool:
    height, width = _segment(page)
    whole = page.compression != 1 and height * width * _bytes(page) > LARGEST
    strange = page.imagedepth > 1 or page.photometric > YCBCR or tiff.tag(page, "Orientation", 1) != 1
    return not (whole or strange or (page.photometric == YCBCR and page.compression != JPEG))


def _levels(file: Any, page: Any) -> list[Any]:
    """The pages that hold the same image reduced, as a pyramid says or an overview of GDAL."""
    for series in file.series:
        pages = [level.pages[0] for level in series.levels if len(level.pages) == 1]
        if pages and pages[0] is not None and pages[0].index == page.index and pages[0].offset == page.offset:
            ratio = page.imagelength / page.imagewidth
            return [p for p in pages[1:] if abs(p.imagelength / p.imagewidth / ratio - 1) < 0.02 and _has_parts(p)]
    return []


def _segment(page: Any) -> tuple[int, int]:
    """(height, width) of the tiles or strips; rows of what is not compressed are read one by one."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    height = 1 if _is_raw(page) else min(page.rowsperstrip, page.imagelength)
    return height, page.imagewidth


def _is_raw(page: Any) -> bool:
    """Whether the rows lie in the file as they are, one after the other."""
    return bool(page.is_contiguous) and not page.is_tiled and page.bitspersample % 8 == 0 and page.predictor == 1


def _bytes(page: Any) -> int:
    """Of one pixel."""
    return max(1, page.bitspersample // 8) * page.samplesperpixel


def _step(rows: int, row_bytes: int) -> int:
    """Rows to read together: whole tiles or strips, about PIECE bytes of them."""
    return rows * max(1, PIECE // max(1, rows * row_bytes))


def _part(file: Any, page: Any, rows: slice, columns: slice) -> np.ndarray:
    """(h, w) or (h, w, C) of a page."""
    (top, bottom), (left, right) = _ends(rows), _ends(columns)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    part = np.zeros((planes, bottom - top, right - left, page.samplesperpixel // planes), page.dtype)
    for plane in range(planes):
        if _is_raw(page):
            part[plane] = _raw(file, page, plane, top, bottom)[:, left:right]
            continue
        high, wide = _segment(page)
        down, across = -(-page.imagelength // high), -(-page.imagewidth // wide)
        for y in range(top // high, -(-bottom // high)):
            for x in range(left // wide, -(-right // wide)):
                block = _decoded(file, page, (plane * down + y) * across + x)
                if block is not None:
                    _laid(part[plane], block, y * high - top, x * wide - left)
    found = np.moveaxis(part[..., 0], 0, 2) if planes > 1 else part[0]
    return found[..., 0] if found.shape[2] == 1 else found


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop


def _raw(file: Any, page: Any, plane: int, top: int, bottom: int) -> np.ndarray:
    """(h, W, C) of rows that are not compressed."""
    kind = np.dtype(page.dtype).newbyteorder(file.byteorder)
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    line = page.imagewidth * samples * kind.itemsize
    start = page.dataoffsets[0] + (plane * page.imagelength + top) * line
    data = _bytes_at(file, start, (bottom - top) * line)
    return np.frombuffer(data, kind).reshape(bottom - top, page.imagewidth, samples)


def _decoded(file: Any, page: Any, index: int) -> np.ndarray | None:
    """(h, w, C) of a tile or strip; None where the file leaves it out, which is allowed."""
    if not page.databytecounts[index]:
        return None
    data = _bytes_at(file, page.dataoffsets[index], page.databytecounts[index])
    block = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
    return None if block is None else block[0]


def _laid(part: np.ndarray, block: np.ndarray, top: int, left: int) -> None:
    """Copy a block to where it lies in the part, as far as it reaches into it."""
    above, before = max(0, -top), max(0, -left)
    bottom, right = min(block.shape[0], part.shape[0] - top), min(block.shape[1], part.shape[1] - left)
    part[top + above : top + bottom, left + before : left + right] = block[above:bottom, before:right]


def _bytes_at(file: Any, offset: int, count: int) -> bytes:
    file.filehandle.seek(offset)
    data = file.filehandle.read(count)
    if len(data) < count:
        raise InputError(f"{file.filehandle.path}: the file ends too early; copy it again or leave it out")
    return data


class RasterRows:
    """A raster that GDAL knows, through rasterio."""

    plain = False

    def __init__(self, path: str | Path, bands: Sequence[int] | None, level: int | None = None):
        import rasterio

        options = {} if level is None else {"overview_level": level}
        self._path, self._bands, self._raster = path, bands, rasterio.open(path, **options)
        raster = self._raster
        self.size = (raster.height, raster.width)
        self.geo = (raster.crs, raster.transform) if raster.crs else None
        kinds = [kind.name for kind in raster.colorinterp]
        self._alpha = kinds.index("alpha") + 1 if "alpha" in kinds else None
        self._read = list(bands or _shown(kinds, path))
        if max(self._read) > raster.count:
            raise InputError(f"{path}: no band {max(self._read)}, it has {raster.count}; choose others with --bands")
        self._palette = raster.colormap(1) if kinds == ["palette"] and bands is None else None
        wide = sum(np.dtype(raster.dtypes[band - 1]).itemsize for band in self._read) * raster.width
        high, self.across = raster.block_shapes[0]
        self.step = _step(min(high, 1024), wide)

    def values(self, rows: slice, columns: slice) -> np.ndarray:
        import rasterio

        alpha = [self._alpha] if self._alpha and self._bands is None else []
        with rasterio.Env(GDAL_CACHEMAX=256):  # MB; without it a twentieth of the memory of the machine
            values = self._raster.read([*self._read, *alpha], window=(_ends(rows), _ends(columns)))
        return np.moveaxis(values, 0, 2)

    def pixels(self, values: np.ndarray, sample: np.ndarray | None) -> Pixels:
        colours, alpha = values[..., : len(self._read)], values[..., len(self._read) :]
        if self._palette is not None:
            table = np.zeros((256, 3), np.uint8)
            for value, colour in self._palette.items():
                table[value] = colour[:3]
            return Pixels(table[colours[..., 0]])
        shown = colours[..., 0] if len(self._read) == 1 else colours
        return Pixels(shown, as_alpha(alpha[..., 0]) if alpha.shape[2] else None, nodata=self._raster.nodata)

    def small(self, least: int) -> RasterRows | None:
        factors = self._raster.overviews(1)
        fitting = [i for i, factor in enumerate(factors) if max(self.size) // factor >= least]
        return RasterRows(self._path, self._bands, fitting[-1]) if fitting else None


def _shown(kinds: Sequence[str], path: str | Path) -> list[int]:
    """The bands that are the photo, from 1."""
    if kinds[:3] == ["red", "green", "blue"] or len(kinds) == 3:
        if len(kinds) > 3 + ("alpha" in kinds):
            note(
                f"photos of {len(kinds)} bands: the first three are read as red, green and blue; choose with --bands 4,3,2"
            )
        return [1, 2, 3]
    if len(kinds) - ("alpha" in kinds) == 1:
        return [1]
    raise InputError(
        f"{path}: {len(kinds)} bands, and no word which are red, green and blue; choose with --bands 4,3,2"
    )


def raster_rows(path: str | Path, bands: Sequence[int] | None, page: int) -> RasterRows | None:
    """What rasterio reads of a file; None where it is not installed or does not know it, and for a photo that is to be turned."""
    try:
        import rasterio
    except ImportError:
        return None
    if page != 1 or _is_turned(path):
        return None
    try:
        return RasterRows(path, bands)
    except rasterio.errors.RasterioIOError:
        return None


def _is_turned(path: str | Path) -> bool:
    """Whether EXIF turns the photo, which GDAL does not."""
    with suppress(Exception), Path(path).open("rb") as file:  # GDAL may know what Pillow does not
        return header(file, path)[1] != 1
    return False
