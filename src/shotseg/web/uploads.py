"""Files that a client sends, looked at before they are decoded."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from PIL import Image

from shotseg.data.images import IMAGE_TYPES
from shotseg.errors import InputError

BYTES = 256 * 2**20  # of all that is sent at once
PIXELS = 150_000_000  # of a photo; below what Pillow itself refuses


def check_photo(file: str, data: bytes) -> None:
    """Raise InputError for what is no photo, or has too many pixels; the header alone is read for that."""
    ending = "." + file.rsplit(".", 1)[-1].lower()
    if ending not in IMAGE_TYPES:
        raise InputError(f"{file}: not an image by its ending; give {', '.join(sorted(IMAGE_TYPES))}")
    width, height = _header(file, data).size
    if width * height > PIXELS:
        raise InputError(f"{file}: {width} x {height} pixels are too many; scale it down, or serve its folder")


def read_labels(data: bytes, size: tuple[int, int], last: int, whole: bool = True) -> np.ndarray:
    """(H, W) uint8 of a PNG label map of a photo of (height, width), or with ``whole=False`` of a piece of it.

    last: the highest number of a class. Raises InputError for another size, kind or value.
    """
    image = _header("mask", data, ("PNG",))
    sides = image.height, image.width
    if sides != size if whole else sides[0] > size[0] or sides[1] > size[1]:
        raise InputError(f"mask: {image.width} x {image.height}, but the photo is {size[1]} x {size[0]}")
    if image.mode not in ("P", "L", "1"):
        raise InputError("mask: in colours; send 8-bit class numbers")
    try:
        labels = np.array(image, np.uint8)
    except Exception as error:  # a broken file can make a decoder fail in any way
        raise InputError(f"mask: cannot be read ({error}); send it again") from None
    if labels.max(initial=0) > last:
        raise InputError(f"mask: value {labels.max()}, but class numbers end at {last}")
    return labels


def _header(file: str, data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if formats is None and data[4:8] == b"ftyp":
                _know_heic()
            return Image.open(io.BytesIO(data), formats=formats)
    except Exception as error:
        raise InputError(f"{file}: not an image that can be read ({type(error).__name__}); save it again") from None


def _know_heic() -> None:
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
