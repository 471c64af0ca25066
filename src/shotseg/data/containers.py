"""PNG files that Pillow refuses or narrows: damaged side data, and colours of 16 bits. What files are that are no images."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ImageFile

PNG = b"\x89PNG\r\n\x1a\n"
NEEDED = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})  # transparency, rotation, the frames of an animation
# How files begin that are taken for images, what they are, and the mend.
STRANGERS = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the picture; run git lfs pull"),
    (rb".{128}DICM", "a DICOM file; save it as PNG or TIFF, or give its pixels as an array"),
    (rb"%PDF", "a PDF; save its page as PNG"),
    (rb"\s*(<\?xml.{0,999})?<svg", "a drawing, SVG; save it as PNG"),
    (rb"\s*<(!doctype )?html", "a web page, saved in place of the picture; download the picture itself"),
    (rb"PK\x03\x04", "a ZIP archive; unpack it"),
    (rb".{257}ustar", "a tar archive, perhaps a shard of WebDataset; unpack it"),
    (rb"\x1f\x8b", "compressed by gzip; unpack it"),
    (rb"\x89HDF", "an HDF5 file; save its pixels as TIFF or .npy"),
    (rb"8BPS", "a file of Photoshop; save it as PNG"),
    (rb"v/1\x01", "an EXR file; save it as TIFF"),
    (
        rb".{4}ftyp(?!hei|hev|mif|msf|avi)|\x1a\x45\xdf\xa3",
        "a video, or a photo of a kind that is not read; save it as JPEG",
    ),
)
LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def pixels_only(data: bytes) -> bytes:
    """A PNG without text, profiles and the like, whose damage harms no pixel; what is not PNG as it is."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end, kind = at + length + 12, data[at + 4 : at + 8]
        whole = kind in NEEDED and data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        if whole or kind[:1].isupper():  # a capital: an image cannot be shown without
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def stranger(data: bytes) -> str:
    """What a file is that no reader of images knows, with the mend; "" where its beginning does not tell."""
    return next((what for how, what in STRANGERS if re.match(how, data[:2000], re.DOTALL | re.IGNORECASE)), "")


def deep_colours(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """(H, W, C) uint16 of a PNG with 16 bits a colour, of which Pillow keeps the upper byte; None for any other image.

    again: opens the same file a second time; in the opposite byte order it gives the lower byte.
    """
    if image.format != "PNG" or not image.tile or image.tile[0].args not in LOW_BYTES:
        return None
    with again() as low:
        low.tile = [tile._replace(args=LOW_BYTES[str(tile.args)]) for tile in low.tile]
        return np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
