"""Reading photos and masks of any common kind, and writing files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from shotseg.arguments import checked
from shotseg.data import tiff
from shotseg.data.containers import PNG
from shotseg.data.enlarging import BAND, Strips
from shotseg.data.masks import binary, class_ids
from shotseg.data.pixels import decode, to_rgb
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, note

IMAGE_TYPES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".jp2", ".j2k", ".jpx"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".heic", ".heif"}
)
PAGE_TYPE = ".png"  # of the file that a page of a stack becomes
STACKS = frozenset({".tif", ".tiff", ".gif"})  # where masks may have pages
MASK_TYPES = IMAGE_TYPES | {".npy", ".npz"}
Bands = Callable[[np.ndarray], Iterator[np.ndarray]]
ORIENTATION = 274  # EXIF: above 4 the photo lies on its side
TEMPORARY = ".shotseg-"  # how a half-written file's name starts, should the process be killed before it can remove it


@checked
def read_image(path: str | Path, bands: Sequence[int] | None = None, page: int = 1, pages: int = 1) -> np.ndarray:
    """A photo as (H, W, 3) uint8 RGB, turned upright by its EXIF rotation, whatever its ending says it is.

    Palette, grey and CMYK become RGB; more than 8 bits are scaled by :func:`shotseg.data.pixels.shown_range`; transparent
    pixels are laid on white. bands: one or three bands of a file that has more, from 1.   page: or frame, from 1.
    pages: of the file, where each is a photo of its own, so that nothing is said of the others.
    Raises InputError (one line) for a file that is missing, empty, truncated, not an image, or above ``MAX_PIXELS``.
    """
    return to_rgb(decode(_stored(path, pages), path, bands, page))


@checked
def read_pages(path: str | Path, bands: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Each page or frame of a file, (H, W, 3) uint8 RGB as of :func:`read_image`, one at a time.

    Raises InputError (one line) at a page that cannot be read.
    """
    read_bytes(path)  # which says what is wrong
    for page in range(1, pages_in(path, bands) + 1):
        yield to_rgb(decode(Path(path), path, bands, page))


def pages_in(path: str | Path, bands: Sequence[int] | None = None) -> int:
    """How many pages or frames a file has, 1 where it cannot be read; channels and smaller copies are none.

    bands: those chosen, which may make one photo of all pages.
    """
    try:
        if tiff.is_tiff(path):
            with tiff.opened(path) as file:
                found = tiff.pictures(file)
                if tiff.is_cut_off(file):
                    note(f"{path}: cut off or damaged; its {len(found)} pages are used")
                joined = bands is not None and len(found[0]) == 1 and file.pages[0].samplesperpixel == 1
                return 1 if joined else len(found)
        with Image.open(path) as image:
            return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # which holds the same picture small
    except Exception:  # what is wrong is said when it is read
        return 1


def page_name(name: str, page: int, count: int) -> str:
    """What a page of a file of so many is called, where it is a photo of its own: "stack_p003"."""
    return f"{name}_p{page:0{max(3, len(str(count)))}}" if count > 1 else name


def page_file(file: str, page: int, count: int) -> str:
    """The file in which a page of one of so many is a photo by itself: "stack_p003.png" of "stack.tif"."""
    return f"{page_name(str(PurePosixPath(file).with_suffix('')), page, count)}{PAGE_TYPE}" if count > 1 else file


def pages_with_masks(path: Path, masks: Sequence[Path], bands: Sequence[int] | None = None) -> int:
    """How many pages a photo has, where its only mask has as many; else 1."""
    if len(masks) != 1 or not {path.suffix.lower(), masks[0].suffix.lower()} <= STACKS:
        return 1
    count = pages_in(masks[0])
    return count if count > 1 and pages_in(path, bands) == count else 1


def upright_size(path: Path, page: int = 1) -> tuple[int, int]:
    """(height, width) of a photo turned upright, from its header where that says it; page: of a TIFF, from 1.

    Raises InputError where the photo cannot be read.
    """
    try:
        if tiff.is_tiff(path):  # Pillow turns some and says so all the same, and knows no photo of five bands
            with path.open("rb") as file:
                return tiff.upright_size(file, page, path)
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(ORIENTATION, 1) > 4 else (height, width)
    except Exception:  # another reader may know it
        height, width = read_image(path).shape[:2]
        return height, width


@checked
def read_mask(
    path: str | Path, like: tuple[int, int] | None = None, labels: bool = False, page: int = 1, pages: int = 1
) -> np.ndarray:
    """A mask as (H, W) uint8. Of one class: 1 = the class, 0 = background, 255 = ignore, by the rule of
    :mod:`shotseg.data.masks`. With ``labels=True`` a label map: class ids as stored (palette: the indices), 255 = ignore.

    like: the (H, W) of its photo; a mask of another size but the same shape is scaled to it, by the nearest pixel.
    page, pages: of its photo, as for :func:`read_image`; a mask of one page is that of all.
    Raises InputError for an unreadable file, a photo in colours, ids that do not fit, or another shape than ``like``.
    """
    page = page if page > 1 and pages_in(path) > 1 else 1
    pixels = decode(_stored(path, pages), path, page=page)
    mask = class_ids(pixels, path) if labels else binary(pixels, path)
    return mask if like is None else scaled_to(mask, like, path)


def read_pair(
    image_path: str | Path,
    mask_path: str | Path | Sequence[Path],
    class_value: int | None = None,
    empty: bool = False,
    bands: Sequence[int] | None = None,
    page: int = 1,
    pages: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 and the binary mask (H, W) uint8 in {0, 1, 255} of one class in it.

    ``mask_path``: one file, or one for each object of the class.
    ``class_value``: the id of the class in a label map; None: a mask of one class.
    ``empty``: a mask without foreground is allowed (a query may have none, an example may not).
    ``bands``, ``page``, ``pages``: of the photo, as for :func:`read_image`.
    Raises InputError where either cannot be read, their shapes differ, or no pixel is the class.
    """
    image = read_image(image_path, bands, page, pages)
    files = [mask_path] if isinstance(mask_path, str | Path) else mask_path
    masks = ((file, read_mask(file, labels=class_value is not None, page=page, pages=pages)) for file in files)
    known = joined(one_class(scaled_to(mask, image.shape[:2], file, image_path), class_value) for file, mask in masks)
    if not empty and not (known == 1).any():
        of = "" if class_value is None else f" of class {class_value}"
        raise InputError(f"{files[0]}: no foreground pixel{of}; mark the object, or leave this pair out")
    return image, known


def scaled_to(mask: np.ndarray, size: tuple[int, ...], name: object, photo: object = "its photo") -> np.ndarray:
    """The (H, W) mask at the (height, width) of its photo, by the nearest pixel. Raises InputError for another shape."""
    if mask.shape == tuple(size):
        return mask
    (height, width), (rows, columns) = size, mask.shape
    if abs(rows * width - columns * height) > 0.01 * columns * height:
        turned = mask.shape == (width, height)
        mend = "draw the mask on the upright photo (EXIF rotation applied)" if turned else "make them the same size"
        raise InputError(f"{name} is {columns} x {rows} but {photo} is {width} x {height}; {mend}")
    note("a mask of another size than its photo, but of the same shape, is scaled to the photo by the nearest pixel")
    down, across = (np.arange(n) * 2 + 1 for n in (height, width))
    return mask[(down * rows // (2 * height))[:, None], across * columns // (2 * width)]


def one_class(mask: np.ndarray, class_value: int | None = None) -> np.ndarray:
    """The (H, W) uint8 mask in {0, 1, 255} of one class of a label map; None: of every id but 0 and 255."""
    binary = (mask != 0 if class_value is None else mask == class_value).astype(np.uint8)
    binary[mask == IGNORE] = IGNORE
    return binary


def joined(masks: Iterable[np.ndarray]) -> np.ndarray:
    """The (H, W) uint8 mask in {0, 1, 255} of several of one size: 1 where one has it, else 255 where one has that."""
    first, *others = masks
    for mask in others:
        first = np.where((first == 1) | (mask == 1), 1, np.maximum(first, mask)).astype(np.uint8)
    return first


def write_png(path: str | Path, array: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write (H, W) or (H, W, 3) uint8 as a PNG, whole or not at all.

    ``palette``: (N, 3) uint8 colours, N <= 256, for an (H, W) array of indices. Raises as :func:`write_bytes`.
    """
    if array.ndim == 2:
        data = flat_png(array, palette)
    else:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG")
        data = buffer.getvalue()
    write_bytes(path, data)


def flat_png(array: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """The PNG file of (H, W) uint8. palette: (N, 3) uint8 colours of its values."""
    size = (array.shape[0], array.shape[1])
    return banded_png(size, [array], palette) if array.any() else blank_png(size, palette)


def banded_png(size: tuple[int, int], bands: Iterable[np.ndarray], palette: np.ndarray | None = None) -> bytes:
    """The same of bands (n, W) from top to bottom."""

    def copied(room: np.ndarray) -> Iterator[np.ndarray]:
        for band in bands:
            for top in range(0, len(band), len(room)):
                part = band[top : top + len(room)]
                room[: len(part)] = part
                yield part

    return packed_png(size, copied, palette)


def strips_png(strips: Strips, palette: np.ndarray | None = None) -> bytes:
    """The PNG file of a map that was never drawn whole."""
    size = strips.size
    return packed_png(size, strips.drawn, palette) if strips.values.any() else blank_png(size, palette)


def packed_png(size: tuple[int, int], bands: Bands, palette: np.ndarray | None = None) -> bytes:
    """The PNG file of (H, W) uint8 that is made band by band, where the packer takes it.

    Its rows are stored unfiltered, as fits masks: filters take Pillow half of its time, and make no mask smaller.

    bands: fills the first rows of the room (N, W) that it is given, says which, and again until there are no more.
    palette: (N, 3) uint8 colours of the values.
    """
    rows = np.zeros((BAND, size[1] + 1), np.uint8)  # each begins with the number of its filter
    packer = _packer()
    packed = [packer.compress(rows[: len(band)].data) for band in bands(rows[:, 1:])]
    return _png(size, palette, b"".join([*packed, packer.flush()]))


def blank_png(size: tuple[int, int], palette: np.ndarray | None = None) -> bytes:
    """The PNG file of (H, W) zeros; it is made once."""
    return _blank(size[0], size[1], None if palette is None else palette.tobytes())


def _packer() -> Any:
    """Runs alone are looked for: masks are runs, and both packers then give the same bytes, on every machine."""
    try:
        from zlib_ng import zlib_ng as fast  # 2 ms for a mask of 12 megapixels, where zlib takes 50
    except ImportError:
        return zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return fast.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)


@lru_cache(maxsize=8)
def _blank(height: int, width: int, palette: bytes | None) -> bytes:
    """A file of zeros."""
    packer, row = _packer(), bytes(width + 1)
    packed = [packer.compress(row) for _ in range(height)]
    colours = None if palette is None else np.frombuffer(palette, np.uint8)
    return _png((height, width), colours, b"".join([*packed, packer.flush()]))


def _png(size: tuple[int, ...], palette: np.ndarray | None, packed: bytes) -> bytes:
    chunks = [(b"IHDR", struct.pack(">2I5B", size[1], size[0], 8, 0 if palette is None else 3, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    chunks += [(b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return PNG + b"".join(parts)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all. Makes the folder if absent. Raises as :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name in the same folder, which takes the place of the file when the block ends without an error.

    Raises InputError (one line) where the folder cannot be written or the disk is full; nothing half-written stays.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{str(path)!r}: a folder, not a file; give the name of a file to write")
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:  # also an interrupt
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """The one line for a file that a disk does not take."""
    mends = {errno.ENAMETOOLONG: "shorten it", errno.EISDIR: "give the name of a file in it"}
    mend = mends.get(error.errno or 0, "free space or choose another folder")
    return InputError(f"{path}: cannot be written ({error.strerror or type(error).__name__}); {mend}")


def _stored(path: str | Path, pages: int) -> bytes | Path:
    """The content of a file; of one whose pages are read one by one itself, since none needs all of it."""
    return read_bytes(path) if pages == 1 else Path(path)


def read_bytes(path: str | Path) -> bytes:
    """The content of a file. Raises InputError (one line) where it is missing, a folder, empty or not readable."""
    if said := address(path):
        raise InputError(said)
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        what = "a folder, not a file" if os.path.isdir(path) else f"cannot be read ({reason})"  # noqa: PTH112 (no error)
        raise InputError(f"{str(path)[:200]}: {what}; give a file that can be read") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); copy it again or leave it out")
    return data


def address(path: str | Path) -> str | None:
    """What to say of an address on the web or in a store in place of a path; None for a path."""
    known = re.match(r"([a-z][a-z0-9+.-]+):/|(data):[a-z]+/", str(path), re.IGNORECASE)
    if known is None:
        return None
    mends = {"file": "give the path alone", "data": "decode it and give the bytes"}
    mend = mends.get((known[1] or known[2]).lower(), "download it first and give the file")
    said = (
        str(path)[:200] if known[2] else re.sub(":/(?!/)", "://", str(path)[:200], count=1)
    )  # a Path swallows a slash
    return f"{said}: an address, not a file; {mend}"


def sha256(path: str | Path) -> str:
    """The digest of a file, in hexadecimal, whatever its size. Raises as :func:`read_bytes`."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return hashlib.sha256(read_bytes(path)).hexdigest()  # which says what is wrong
