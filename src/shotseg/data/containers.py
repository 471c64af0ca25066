"""PNG files that Pillow refuses or narrows: damaged side data, and colours of 16 bits."""

from __future__ import annotations

import struct
import zlib

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"


def without_damage(data: bytes) -> bytes:
    """A PNG without the chunks that say nothing of its pixels (EXIF, text, profiles) and are damaged; else ``data``."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + length + 12
        beside = data[at + 4] & 0x20  # a small first letter: not needed to show the image
        if not beside or data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[at + 4 : end - 4])):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def colour_png(data: bytes) -> np.ndarray | None:
    """(H, W, C) uint16 of a PNG with 16 bits a colour or with alpha, which Pillow narrows to the upper 8; None: no such file."""
    if not data.startswith(PNG) or data[24] != 16 or data[25] not in (2, 4, 6):
        return None
    import torch
    from torchvision.io import ImageReadMode, decode_png

    decoded = decode_png(torch.frombuffer(bytearray(without_damage(data)), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return np.moveaxis(decoded.numpy(), 0, 2)
