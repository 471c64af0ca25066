"""Reading photos and masks of any common kind, and writing files whole or not at all."""

from __future__ import annotations

import hashlib
import io
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shotseg.data.samples import IGNORE
from shotseg.errors import InputError

IMAGE_TYPES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
TEMPORARY = ".shotseg-"  # how a half-written file's name starts, should the process be killed before it can remove it
LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
MAX_PIXELS = 1_000_000_000  # 3 GB as RGB

_opening = threading.Lock()


def read_image(path: str | Path) -> np.ndarray:
    """A photo as (H, W, 3) uint8 RGB, turned upright by its EXIF rotation; of several frames or pages, the first.

    Palette, grey and CMYK become RGB. 16-bit grey is scaled by its range, 65535 to 255. Float grey is taken as 0 to 1,
    or from its minimum to its maximum where it goes beyond. Transparent pixels are laid on white, as viewers show them.
    Raises InputError (one line) for a file that is missing, empty, truncated, not an image, or above ``MAX_PIXELS``.
    """
    return _decoded(Path(path), _rgb)


def read_mask(path: str | Path, like: tuple[int, int] | None = None, labels: bool = False) -> np.ndarray:
    """A mask as (H, W) uint8: class ids (palette images: the indices), 255 = ignore.

    A mask whose only values are 0 and 255 is binary: 255 is the foreground and becomes 1; so does 65535 in 16 bits, and
    the white of a black and white palette. Where any other value occurs, or with ``labels=True``, it is a label map and
    255 means ignore. Soft (anti-aliased, JPEG) binary masks are cut at one half. Three equal channels count as grey,
    transparent pixels as background. ``like``: the (H, W) that the mask must have.
    Raises InputError for an unreadable file, a mask in colours, class ids above 255, or another size than ``like``.
    """
    path = Path(path)

    def convert(image: Image.Image) -> np.ndarray:
        return _class_ids(_one_channel(image, path), image, path, labels)

    mask = _decoded(path, convert)
    if like is not None and mask.shape != tuple(like):
        wanted = f"{like[1]} x {like[0]}"
        raise InputError(f"{path}: the mask is {_size(mask)} but its image is {wanted}; make them the same size")
    return mask


def read_pair(
    image_path: str | Path, mask_path: str | Path, class_value: int | None = None, empty: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 and the binary mask (H, W) uint8 in {0, 1, 255} of one class in it.

    ``class_value``: the id of the class in a label map; None: every id but 0 and 255 is the class.
    ``empty``: a mask without foreground is allowed (a query may have none, an example may not).
    Raises InputError where either cannot be read, the sizes differ, or no pixel is the class.
    """
    image = read_image(image_path)
    mask = read_mask(mask_path, labels=class_value is not None)
    if mask.shape != image.shape[:2]:
        turned = mask.shape == image.shape[1::-1]
        mend = "draw the mask on the upright photo (EXIF rotation applied)" if turned else "make them the same size"
        raise InputError(f"{mask_path} is {_size(mask)} but {image_path} is {_size(image)}; {mend}")
    binary = one_class(mask, class_value)
    if not empty and not (binary == 1).any():
        of = "" if class_value is None else f" of class {class_value}"
        raise InputError(f"{mask_path}: no foreground pixel{of}; mark the object, or leave this pair out")
    return image, binary


def one_class(mask: np.ndarray, class_value: int | None = None) -> np.ndarray:
    """The (H, W) uint8 mask in {0, 1, 255} of one class of a label map; None: of every id but 0 and 255."""
    binary = (mask != 0 if class_value is None else mask == class_value).astype(np.uint8)
    binary[mask == IGNORE] = IGNORE
    return binary


def write_png(path: str | Path, array: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write (H, W) or (H, W, 3) uint8 as a PNG, whole or not at all.

    ``palette``: (N, 3) uint8 colours, N <= 256, for an (H, W) array of indices. Raises as :func:`write_bytes`.
    """
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        image.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary name in the same folder, then a rename. Makes the folder if absent.

    Raises InputError (one line) where the folder cannot be written or the disk is full; nothing half-written stays.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:  # also an interrupt
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error


def read_bytes(path: str | Path) -> bytes:
    """The content of a file. Raises InputError (one line) where it is missing, a folder, empty or not readable."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        what = "a folder, not a file" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise InputError(f"{path}: {what}; give a file that can be read") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); copy it again or leave it out")
    return data


def sha256(path: str | Path) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _decoded(path: Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What ``convert`` makes of the upright image in a file."""
    data = read_bytes(path)
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"{path}: {width} x {height} pixels are too many; scale it down or cut it into tiles")
            ImageOps.exif_transpose(image, in_place=True)
            return convert(image)
    except InputError:
        raise
    except Exception as error:  # a broken file can make a decoder fail in any way; to the user it is one thing
        known = isinstance(error, UnidentifiedImageError)
        reason = "not an image" if known else " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason}); save it again or leave it out") from error


def _opened(data: bytes) -> Image.Image:
    # Pillow refuses large images by a limit for the whole process. Only the header is read here, and the limit of this
    # module is checked before any pixel is.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float32)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if image.mode == "F":
            low, high = (low, high) if low < 0 or high > 1 else (0, 1)
        else:
            low, high = min(low, 0), max(high, 65535)
        scaled = np.nan_to_num((values - low) / max(high - low, 1e-12)) * 255
        grey = scaled.round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _one_channel(image: Image.Image, path: Path) -> np.ndarray:
    """The values of a mask file as they are stored, (H, W), of any number type."""
    if image.mode == "P" and _is_black_and_white(image):
        return np.array(image.convert("L"))
    if image.mode in ("1", "L", "P", "F") or image.mode.startswith("I"):
        return np.array(image)
    red, green, blue, alpha = np.moveaxis(np.array(image.convert("RGBA")), 2, 0)
    spread = max(int(np.abs(red.astype(np.int16) - other).max()) for other in (green, blue))
    if spread > (4 if image.format in LOSSY else 0):
        raise InputError(
            f"{path}: a mask in colours; save it as a grey or palette PNG, one class id a pixel, 0 = background"
        )
    return np.where(alpha >= 128, red, 0).astype(np.uint8)


def _class_ids(values: np.ndarray, image: Image.Image, path: Path, labels: bool) -> np.ndarray:
    """Stored values as uint8 class ids."""
    if values.dtype != np.uint8:
        values = _narrowed(values, path)
    if labels:
        return values
    counts = np.array(Image.fromarray(values).histogram())  # a bincount would need 8 bytes a pixel
    if counts[1:255].sum() == 0:
        return (values == 255).astype(np.uint8)
    near_ends = counts[:32].sum() + counts[-32:].sum() >= 0.9 * counts.sum() and counts[-32:].sum() > 0
    if near_ends and image.mode != "P" and (image.format in LOSSY or (counts[32:-32] > 0).sum() > 32):
        return (values >= 128).astype(np.uint8)  # a binary mask with soft edges: no label map has so many rare classes
    if image.format in LOSSY:
        raise InputError(f"{path}: {image.format} blurs class ids; save the mask as PNG")
    return values


def _narrowed(values: np.ndarray, path: Path) -> np.ndarray:
    """Masks of 1, 16 or 32 bits, or float, as uint8."""
    if values.max() == 65535 and np.isin(values, (0, 65535)).all():
        values = values // 257
    if values.min() < 0 or values.max() > 255 or (values.dtype.kind == "f" and (values % 1).any()):
        found = f"mask values from {values.min()} to {values.max()}"
        raise InputError(f"{path}: {found}; use whole class ids from 0 to 254, and 255 = ignore")
    return values.astype(np.uint8)


def _is_black_and_white(image: Image.Image) -> bool:
    """Whether only black and white of the palette occur: then the colours are meant, not the order of the palette."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = colours[np.flatnonzero(image.histogram()).clip(max=len(colours) - 1)]
    return bool(((used == 0).all(1) | (used == 255).all(1)).all())


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
