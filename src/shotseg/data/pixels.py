"""The pixels that a file, a PIL image or an array holds, whatever its container; and what they look like as a photo."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from shotseg.data import tiff
from shotseg.data.containers import deep_colours, pixels_only, stranger
from shotseg.errors import InputError, first_line, note

MAX_PIXELS = 1_000_000_000  # 3 GB as RGB
ANIMATED = frozenset({"GIF", "WEBP"})  # each frame is made of the one before
LOSSY = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "HEIF"})
HEIC = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
FIRST = "files with several pages or frames: the first is read; --page chooses another, and --pages all of the query"
CHANNELS = (
    "files whose channels are pages of their own: the first channel is read; choose with --bands 1 or --bands 3,2,1"
)
NUMPY = (b"\x93NUMPY", b"PK\x03\x04")  # .npy and .npz
SIDEWAYS = (5, 6, 7, 8)  # EXIF rotations that swap width and height
WHITES = (1, 255, 1023, 4095, 16383, 65535)  # where 8, 10, 12, 14 and 16 bits end, and fractions

_opening = threading.Lock()


@dataclass(frozen=True, eq=False)
class Pixels:
    """An upright image, its values as they are stored.

    values:  (H, W), or (H, W, 3) colours, of any real number type.
    alpha:   (H, W) uint8, 255 = opaque, or None.
    palette: (N, 3) uint8 colours of the values, or None.
    lossy:   whether the container blurs values.
    nodata:  the value that the file says stands for no data, or None.
    whole:   (H, W) of the upright image where it was decoded smaller than it is, or None.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    palette: np.ndarray | None = None
    lossy: bool = False
    nodata: float | None = None
    whole: tuple[int, int] | None = None


def decode(
    data: bytes | Path, name: object, bands: Sequence[int] | None = None, page: int = 1, least: int | None = None
) -> Pixels:
    """The pixels of a file's content; its kind is told by its first bytes, not by its name.

    data: or the path, where one page of several is wanted: of a TIFF it is read alone.   name: of the file, for messages.
    bands: one or three, from 1, in the order red, green, blue.   page: or frame, from 1.
    least: longer side, in pixels, that is enough: a JPEG is then decoded at a half, a quarter or an eighth of its size, in a
    third of the time.
    Raises InputError (one line) for what is truncated, not an image, above ``MAX_PIXELS``, or has no such band or page.
    """
    try:
        one = isinstance(data, Path)
        if isinstance(data, Path):
            if tiff.is_tiff(data):
                return _of_tiff(data, name, bands, page)
            turn, moving = _kept_open(data, data.stat().st_mtime_ns)
            if moving.format in ANIMATED:
                with turn:
                    _check_size(moving.size, name)
                    _turn_to(moving, page, name, one)
                    return chosen(from_image(moving), bands, name)
            data = data.read_bytes()
        if data.startswith(NUMPY):
            return chosen(from_array(_loaded(data, name), name), bands, name)
        if data[:4] in tiff.SIGNATURES:
            return _of_tiff(data, name, bands, page)
        data = pixels_only(data)
        with _opened(data, name) as image:
            _check_size(image.size, name)
            _turn_to(image, page, name, one)
            if least is not None and image.format == "JPEG":
                return chosen(_drafted(image, least), bands, name)
            deep = deep_colours(image, lambda: _opened(data, name))
            upright = from_image(image) if deep is None else _split(_turned(deep, _orientation(image)))
            return chosen(upright, bands, name)
    except InputError:
        raise
    except Exception as error:  # a broken file can make a decoder fail in any way; to the user it is one thing
        if isinstance(data, bytes) and (what := stranger(data)):
            raise InputError(f"{name}: {what}") from error
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise InputError(f"{name}: cannot be read as an image ({reason}); save it again or leave it out") from error


@lru_cache(maxsize=2)
def _kept_open(path: Path, changed: int) -> tuple[threading.Lock, ImageFile.ImageFile]:
    """A file, and whose turn it is: opened again for each frame, all frames before it would be decoded again."""
    return threading.Lock(), _opened(path.read_bytes(), path)


def _loaded(data: bytes, name: object) -> np.ndarray:
    """The array of a .npy file, or of a .npz file that holds one. Raises InputError for another, and for pickled ones."""
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    arrays = [key for key in found.files if isinstance(found[key], np.ndarray)]
    if len(arrays) != 1:
        several = f"{len(arrays)} arrays in it ({', '.join(arrays)[:99]}); save the one alone"
        raise InputError(f"{name}: {several if arrays else stranger(data)}")
    return found[arrays[0]]


def _drafted(image: ImageFile.ImageFile, least: int) -> Pixels:
    """A JPEG at the smallest of its scales whose longer side has ``least`` pixels."""
    width, height = image.size
    part = min(1, least / max(width, height))
    image.draft(None, (max(1, int(width * part)), max(1, int(height * part))))
    sides = (width, height) if _orientation(image) in SIDEWAYS else (height, width)
    return replace(from_image(image), whole=sides)


def from_image(image: Image.Image) -> Pixels:
    """The pixels of a PIL image, turned upright by its EXIF rotation."""
    image.load()  # which turns a TIFF, and then says so
    turn, lossy = _orientation(image), image.format in LOSSY
    alpha = None
    if image.has_transparency_data and not image.mode.startswith("I"):
        image = (
            image.convert("LA") if image.mode == "La" else image
        )  # of grey that alpha was multiplied with Pillow makes no other
        alpha = _turned(np.array(image.convert("RGBA").getchannel("A")), turn)
        image = image if image.mode == "P" else image.convert("LA" if image.mode in ("L", "LA", "1") else "RGBA")
    palette = None
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
        palette = np.pad(palette, ((0, 256 - len(palette)), (0, 0)))
    elif image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    elif image.mode not in ("1", "L", "F", "RGB") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    return Pixels(_turned(np.array(image), turn), alpha, palette, lossy)


def from_array(array: Any, name: object) -> Pixels:
    """The pixels of (H, W), (H, W, C) or (C, H, W) numbers, C = 1 to 4; the 2nd or 4th channel is alpha.

    Truth values (N, H, W), (N, 1, H, W) or (H, W, N) are masks of N objects, and true where one of them is.
    Raises InputError for another shape, an empty array, or what are no real numbers.
    """
    values = np.asarray(array)
    if np.ma.is_masked(array):  # as rasters are read that have no data in places
        values = np.where(np.ma.getmaskarray(array), np.nan, values)
    if values.ndim == 4 and 1 in values.shape[:2]:
        values = values.reshape(max(values.shape[:2]), *values.shape[2:])
    if values.dtype.kind == "b" and values.ndim == 3:
        values = np.asarray(values.any(2 if values.shape[2] < min(values.shape[:2]) else 0))
    if values.ndim == 3 and values.shape[2] > 4 >= values.shape[0]:
        values = np.moveaxis(values, 0, 2)
    shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[2] <= 4)
    if values.dtype.kind not in "buif" or not shaped or not values.size:
        raise InputError(
            f"{name}: an array {values.shape} of {values.dtype}; give (H, W), (H, W, 3), (H, W, 4) or (3, H, W) of numbers"
        )
    return _split(values)


def to_rgb(pixels: Pixels, shown: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, 3) uint8: values scaled by :func:`shown_range`, transparent pixels on white, as viewers show them.

    shown: the range of the photo that these pixels are a part of.
    """
    values = pixels.values if pixels.palette is None else pixels.palette[pixels.values]
    if values.dtype != np.uint8:
        values = _scaled(values, *(shown or shown_range(pixels)))
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if pixels.alpha is not None and pixels.alpha.min() < 255:
        opacity = pixels.alpha[..., None].astype(np.float32) / 255
        values = (values * opacity + 255 * (1 - opacity)).round().astype(np.uint8)
    return np.require(values, requirements=["C", "W"])


def shown_range(pixels: Pixels) -> tuple[float, float]:
    """The values that are black and white: 0 and the next of ``WHITES``, where the photo fills a third of that, or holds
    the values of 8 bits times one number.

    Else, as for reflectance, heat or computed tomography, its own lowest and highest. So what the values mean counts, not
    the number type: 12 bits in 16 are 12 bits, and 8 bits as float are 8 bits. Values that stand for no data are left out.
    """
    values = known_values(pixels)
    if not values.size:
        return 0, 1
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255 and not (values.dtype.kind == "f" and (values % 1).any()):
        return 0, 255
    white = next((white for white in WHITES if high <= white), None)
    if white is None or low < 0:
        return low, high
    fits = high - low >= white / 3 or high == low or _of_bytes(values, white)
    return (0, white) if fits else (low, high)


def _of_bytes(values: np.ndarray, white: int) -> bool:
    """Whether values are those of 8 bits in a wider container: whole after division by what takes 255 to ``white``."""
    if not _is_rich(values):
        return False
    if white == 1:
        scaled = values.astype(np.float64) * 255
        return bool((np.abs(scaled - scaled.round()) < 1 / 16).all())  # half precision is as coarse as that
    return any(not (values % step).any() for step in {white // 255, (white + 1) // 256})


def known_values(pixels: Pixels) -> np.ndarray:
    """(N,) the values that are finite and do not stand for no data.

    No data is what the file says, and what stands apart from the rest: the one negative value of a photo without others,
    or a lowest or highest value that is farther from all others than they are from each other.
    """
    values = pixels.values.ravel()
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if pixels.nodata is not None:
        values = values[values != pixels.nodata]
    while values.size:
        low, high = values.min(), values.max()
        if low >= 0 and high <= 255 and values.dtype.kind != "f":
            return values
        above, below = values[values > low], values[values < high]
        if _stands_apart(float(low), above) or (low < 0 and above.size and above.min() >= 0 and _is_rich(above)):
            values = above
        elif _stands_apart(float(high), below):
            values = below
        else:
            return values
    return values


def chosen(pixels: Pixels, bands: Sequence[int] | None, name: object) -> Pixels:
    """Only the given bands (from 1), as grey or as red, green and blue; alpha counts as the last band."""
    if bands is None:
        return pixels
    values = np.atleast_3d(pixels.values if pixels.palette is None else pixels.palette[pixels.values])
    if pixels.alpha is not None:
        values = np.concatenate([values, pixels.alpha[..., None]], axis=2)
    return replace(pixels, values=pick_bands(values, bands, name), alpha=None, palette=None)


def pick_bands(values: np.ndarray, bands: Sequence[int], name: object) -> np.ndarray:
    """(H, W, C) -> (H, W) or (H, W, 3). Raises InputError where a band is not there."""
    check_bands(bands, values.shape[2], name)
    picked = values[..., [band - 1 for band in bands]]
    return picked[..., 0] if len(bands) == 1 else picked


def check_bands(bands: Sequence[int], count: int, name: object) -> None:
    """Raise InputError for bands that a photo of so many does not have."""
    if len(bands) not in (1, 3) or min(bands) < 1:
        raise InputError(f"--bands {','.join(map(str, bands))}: give one or three, from 1, as --bands 4,3,2")
    if max(bands) > count:
        raise InputError(f"{name}: no band {max(bands)}, it has {count}; choose others with --bands")


def _of_tiff(data: bytes | Path, name: object, bands: Sequence[int] | None, page: int) -> Pixels:
    source = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
    with source, tiff.opened(source) as file:
        pages = tiff.pages_of(file, page, name)
        found = pages[0]
        _check_size((found.imagewidth, found.imagelength), name)
        if bands is None and len(pages) > 1:
            note(CHANNELS)
        elif (
            bands is None
            and page == 1
            and isinstance(data, bytes)
            and len(file.pages) > 1
            and file.pages[1].shape == found.shape
        ):
            note(FIRST)
        elif tiff.hides_planes(file):
            note(
                f"{name}: a stack without a page for each of its planes; the first is read, save it with all its pages"
            )
        nodata, turn = tiff.nodata(found), tiff.tag(found, "Orientation", 1)
        if bands is None and tiff.is_plain(found):
            try:
                source.seek(0)
                with _opened(source, name) as image:
                    image.seek(found.index)
                    return replace(from_image(image), nodata=nodata)
            except UnidentifiedImageError:  # Pillow knows fewer layouts than there are
                pass
        values, alpha = tiff.read(file, pages, name, bands)
        if bands is not None:
            values = pick_bands(np.atleast_3d(values), bands, name)
        return Pixels(_turned(values, turn), None if alpha is None else _turned(as_alpha(alpha), turn), nodata=nodata)


def header(file: BinaryIO, name: object) -> tuple[tuple[int, int], int]:
    """(height, width) of the upright image in an open file, and its EXIF rotation; the header alone is read."""
    with _opened(file, name) as image:
        (width, height), turn = image.size, _orientation(image)
    return ((width, height) if turn in SIDEWAYS else (height, width)), turn


def _opened(data: bytes | BinaryIO, name: object) -> ImageFile.ImageFile:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise InputError(f"{name}: a HEIC photo; pip install 'shotseg[heif]', or save it as JPEG") from None
        register_heif_opener()
    # Pillow refuses large images by a limit for the whole process. Only the header is read here, and the limit of this
    # module is checked before any pixel is.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(size: tuple[int, int], name: object) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width} x {height} pixels are too many; scale it down or cut it into tiles")


def _turn_to(image: Image.Image, page: int, name: object, one: bool) -> None:
    """one: a page was chosen, also where it is the first."""
    tiff.check_page(page, getattr(image, "n_frames", 1), name)
    if page > 1:
        image.seek(page - 1)
    elif not one and getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # which holds the same picture small
        note(FIRST)


def _orientation(image: Image.Image) -> int:
    """The EXIF rotation, 1 = upright as stored: also where the EXIF is damaged, which harms no pixel."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:
        return 1


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) upright, by the number that EXIF and TIFF give to the eight ways to hold a camera."""
    if orientation in SIDEWAYS:
        values = values.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(values[:: -1 if rows else 1, :: -1 if columns else 1])


def _split(values: np.ndarray) -> Pixels:
    """(H, W) or (H, W, C), C = 1 to 4, with an alpha channel where C is even."""
    if values.ndim == 2:
        return Pixels(values)
    colours = values.shape[2] - (values.shape[2] + 1) % 2
    alpha = None if colours == values.shape[2] else as_alpha(values[..., -1])
    return Pixels(values[..., 0] if colours == 1 else values[..., :colours], alpha)


def as_alpha(values: np.ndarray) -> np.ndarray:
    """Opacity of any number type as (H, W) uint8."""
    if values.dtype == np.uint8:
        return values
    full = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 255 if values.max() > 1 else 1
    return _scaled(values, 0, full)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8, ``low`` -> 0 and ``high`` -> 255; what is no number, or no data above ``high``, becomes 0."""
    if values.dtype == np.uint16:  # a table saves the float copy of a large photo
        return _scaled(np.arange(65536, dtype=np.float32), low, high)[values]
    wide: Any = np.float32 if values.dtype.itemsize < 4 or values.dtype == np.float32 else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        part = (values.astype(wide) - wide(low)) / wide(max(high - low, 1e-12))
    part[~(part < 1 + 1e-5)] = 0  # also NaN; rounding may leave ``high`` itself a little above 1
    return (part.clip(0, 1) * 255).round().astype(np.uint8)


def _stands_apart(value: float, others: np.ndarray) -> bool:
    if not others.size:
        return False
    low, high = float(others.min()), float(others.max())
    return max(low - value, value - high) > high - low and _is_rich(others)


def _is_rich(values: np.ndarray) -> bool:
    """Whether there are so many different values that it is a photo, not a drawing of a few greys."""
    return len(np.unique(values[:: max(1, len(values) // 4096)])) >= 16
