"""TIFF, which holds more than photos: bands, pages, planes, 16 to 64 bits, no-data values. tifffile reads what Pillow cannot."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shotseg.errors import InputError, note

SIGNATURES = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
SMALLER_OR_MASK = 1 | 4  # bits of the tag NewSubfileType
COMPOSITE = (
    7  # channels that ImageJ shows together, at most: more are slices, which tifffile calls channels where nobody says
)
NODATA = 42113  # GDAL's tag


def is_tiff(path: str | Path) -> bool:
    """Raises OSError where there is no such file."""
    with Path(path).open("rb") as file:
        return file.read(4) in SIGNATURES


def opened(data: bytes | BinaryIO | str | Path) -> Any:
    """A ``tifffile.TiffFile``, to be closed."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its remarks on odd tags are not for the user
    return tifffile.TiffFile(io.BytesIO(data) if isinstance(data, bytes) else data)


def pictures(file: Any) -> list[list[int]]:
    """The numbers, from 0, of the pages of each picture: one, or one a channel where the file names its axes, as OME and ImageJ
    do. Smaller copies are no pictures, nor are the masks of GDAL."""
    path = Path(file.filehandle.path)
    return (
        _pictures_at(path, path.stat().st_mtime_ns) if file.filehandle.is_file and path.is_file() else _pictures(file)
    )


@lru_cache(maxsize=4)
def _pictures_at(path: Path, changed: int) -> list[list[int]]:
    """The same of a path, kept until the file changes: a run opens it once for each of its pages."""
    with opened(path) as file:
        return _pictures(file)


def _pictures(file: Any) -> list[list[int]]:
    plain = [[i] for i, page in enumerate(file.pages) if not page.subfiletype & SMALLER_OR_MASK]
    if len(plain) < 2:
        return plain
    return [group for series in file.series for group in _channels(series)] or plain


def page_at(path: Path, plane: int, z: int, t: int) -> int | None:
    """The page, from 1, that shows a plane, or a z and t, from 1, 0 = not said; None where there is none.

    Planes are counted through all channels. Of a file that does not name its axes z or t is the page.
    """
    if not is_tiff(path):
        return plane or max(z, t)
    with opened(path) as file:
        found = pictures(file)
        if plane:
            return next((page for page, group in enumerate(found, start=1) if plane - 1 in group), None)
        series, at = file.series[0], {"Z": max(z, 1) - 1, "T": max(t, 1) - 1}
    sides = {axis: side for axis, side in zip(series.axes, series.shape) if axis in at}
    if math.prod(sides.values()) != len(found):
        page = max(z, t)
        return page if page <= len(found) else None
    if any(at[axis] >= side for axis, side in sides.items()):
        return None
    return int(np.ravel_multi_index([at[axis] for axis in sides], list(sides.values()))) + 1


def plane_of(path: Path, page: int) -> int:
    """The number, from 1, of the first plane that a page shows."""
    if not is_tiff(path):
        return page
    with opened(path) as file:
        return pictures(file)[page - 1][0] + 1


def place_of(data: bytes, number: int) -> tuple[int, tuple[int] | None] | None:
    """(page, bands) that give the ``number``-th page of the file, from 0, as Pillow counts; None for a smaller copy."""
    with opened(data) as file:
        for page, group in enumerate(pictures(file), start=1):
            if number in group:
                return page, (group.index(number) + 1,) if len(group) > 1 else None
    return None


def _channels(series: Any) -> Iterator[list[int]]:
    """The pages of each picture of a series; none where it has no axis of channels, or not all of its pages."""
    axes = series.axes[: -len(series.keyframe.axes)]
    shape = series.shape[: len(axes)]
    most = COMPOSITE if series.kind == "imagej" else len(series.pages)
    if "C" not in axes or shape[axes.index("C")] > most:
        return
    if series.keyframe.samplesperpixel == 1 and len(series.pages) == math.prod(shape):
        numbers = np.array([-1 if page is None else page.index for page in series.pages]).reshape(shape)
        groups = np.moveaxis(numbers, axes.index("C"), -1).reshape(-1, shape[axes.index("C")])
        yield from groups[(groups >= 0).all(axis=1)].tolist()


def is_cut_off(file: Any) -> bool:
    """Whether its last page says that another follows, where the file has none."""
    count, place = len(file.pages), file.filehandle
    place.seek(file.pages.next_page_offset)
    return count > 0 and any(place.read(8 if file.is_bigtiff else 4))


def hides_planes(file: Any) -> bool:
    """Whether the pixels of more pages than it lists lie in the file, as ImageJ writes stacks above 4 GB."""
    return (
        (file.is_imagej or file.is_stk)
        and len(file.pages) == 1
        and math.prod(file.series[0].shape) > file.pages[0].size
    )


def pages_of(file: Any, page: int, name: object) -> list[Any]:
    """The pages of a picture, from 1: one, or one a channel. Raises InputError where there is none."""
    if page == 1 and file.pages[0].is_reduced:
        raise InputError(
            f"{name}: begins with a preview, as raw photos of cameras do; develop it and save it as JPEG or TIFF"
        )
    found = pictures(file)
    check_page(page, len(found), name)
    return [file.pages[number].aspage() for number in found[page - 1]]


def check_page(page: int, count: int, name: object) -> None:
    """Raise InputError for a page that a file of so many does not have."""
    if not 1 <= page <= count:
        mend = (
            "choose another with --page"
            if count > 1
            else "leave --page out, or give --pages, which is of the query alone"
        )
        raise InputError(f"{name}: no page {page}, it has {count}; {mend}")


def upright_size(data: BinaryIO, page: int, name: object) -> tuple[int, int]:
    """(height, width) of a page, turned upright. Raises InputError where there is no such page."""
    with opened(data) as file:
        found = pages_of(file, page, name)[0]
        lies = tag(found, "Orientation", 1) > 4
        return (found.imagewidth, found.imagelength) if lies else (found.imagelength, found.imagewidth)


def is_plain(page: Any) -> bool:
    """Whether Pillow reads the page right: up to 8 bits without alpha, or one band of more, black = 0."""
    bits, kind = page.bitspersample, page.sampleformat
    if _is_truth(page):
        return False
    if bits <= 8 and kind == 1:
        return page.samplesperpixel <= 3 or page.photometric == CMYK or needs_codecs(page)
    one = page.samplesperpixel == 1 and page.photometric == BLACK_IS_ZERO
    return one and (bits, kind) in {(12, 1), (16, 1), (16, 2), (32, 2), (32, 3)}


def tag(page: Any, name: str | int, default: Any = None) -> Any:
    found = page.tags.get(name)
    return default if found is None else found.value


def nodata(page: Any) -> float | None:
    """The value that stands for no data, where the file says one."""
    try:
        return float(str(tag(page, NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def read(
    file: Any, pages: Sequence[Any], name: object, bands: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a picture, (H, W) or (H, W, 3), and its alpha (H, W) or None; all bands, (H, W, C), where some are chosen.

    pages: of :func:`pages_of`.   bands: see :func:`planes`.
    Raises InputError where it is not clear which bands are the photo, or a package for its compression is missing.
    """
    if bands is not None and len(apart := planes(file, pages)) > 1:
        return np.stack([_values(page, name) for page in apart], axis=2), None
    return parted(pages[0], _values(pages[0], name), name, bands)


def planes(file: Any, pages: Sequence[Any]) -> list[Any]:
    """The pages from which bands are chosen: those of the picture, where it has several; of grey pages without a word on
    channels all of the file."""
    if len(pages) > 1 or pages[0].samplesperpixel > 1:
        return list(pages)
    return [file.pages[number].aspage() for picture in pictures(file) for number in picture]


def parted(
    page: Any, values: np.ndarray, name: object, bands: Sequence[int] | None = None, whole: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The photo in the values of a page, and its alpha, as of :func:`read`.

    whole: where the values are a part of the page, those that tell what all of it holds.
    """
    count = page.samplesperpixel
    if bands is not None or count == 1 or values.ndim == 2:
        return values, None
    tagged = len(page.extrasamples) == 1 and page.extrasamples[0] in (1, 2)
    if count in (2, 4) and tagged and _is_alpha((values if whole is None else whole)[..., -1]):
        colours, alpha = values[..., :-1], values[..., -1]
        return colours[..., 0] if count == 2 else colours, alpha
    if count == 3 or (count > 3 and page.photometric == RGB):
        if count > 3:
            note(f"photos of {count} bands: the first three are read as red, green and blue; choose with --bands 4,3,2")
        return values[..., :3], None
    raise InputError(f"{name}: {count} bands, and no word which are red, green and blue; choose with --bands 4,3,2")


def _values(page: Any, name: object) -> np.ndarray:
    """A page as (H, W) or (H, W, C)."""
    check_codecs(page, name)
    values = page.asarray()
    if values.ndim > 3:
        values = values[0]  # of a volume, its first slice
    if values.ndim == 3 and page.samplesperpixel > 1 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and page.samplesperpixel == 1:
        values = values[0]
    return black_is_zero(page, values)


def black_is_zero(page: Any, values: np.ndarray) -> np.ndarray:
    """Values of a page, turned where it says that white is 0."""
    turned = page.photometric == WHITE_IS_ZERO and values.dtype.kind in "bu" and not _is_truth(page)
    return ~values if turned else values


def check_codecs(page: Any, name: object) -> None:
    """Raise InputError where a package for the compression of a page is missing."""
    if needs_codecs(page):
        raise InputError(
            f"{name}: a TIFF of {page.bitspersample} bits with {page.compression.name} compression; "
            "pip install 'shotseg[tiff]', or save it without compression"
        )


def _is_truth(page: Any) -> bool:
    """Whether tifffile has saved truth values: it says that white is 0 and yet means 1 = true, as it reads them again."""
    return page.bitspersample == 1 and page.photometric == WHITE_IS_ZERO and "tifffile" in str(page.software)


def needs_codecs(page: Any) -> bool:
    """Whether tifffile needs imagecodecs for this page, and it is not there."""
    easy = page.compression in (1, 8, 32946, 34925) and page.predictor in (1, 2) and page.bitspersample % 8 in (0, 1)
    return not easy and find_spec("imagecodecs") is None


def _is_alpha(values: np.ndarray) -> bool:
    """Whether a band tagged as alpha is one: opacity is nearly all none or full, what a camera sees is between."""
    full = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
    return bool(((values == 0) | (values == full)).mean() >= 0.9)
