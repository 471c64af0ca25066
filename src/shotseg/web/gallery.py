"""Pictures of photos as a page shows them: small enough, upright, JPEG."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from PIL import Image

from shotseg.data.images import write_bytes
from shotseg.errors import InputError
from shotseg.photo import open_photo
from shotseg.web.said import PagePhoto

# Longer sides: in lists, by default (half of 12 megapixels, at which a JPEG decodes in a third of the time), at most.
THUMBNAIL, SHOWN, MOST = 256, 2000, 8192
IN_MEMORY = 64 * 2**20  # bytes
_decoding = threading.Semaphore(2)  # large photos take memory


class Gallery:
    """folder: where thumbnails are kept, beside the encoded photos that ``kept`` names."""

    def __init__(self, kept: Callable[[PagePhoto], Path]):
        self._kept, self._lock = kept, threading.Lock()
        self._recent: LRUCache[tuple[Path, int], bytes] = LRUCache(IN_MEMORY, len)

    def picture(self, photo: PagePhoto, side: int = SHOWN) -> bytes:
        """JPEG whose longer side is at most ``side``. Raises InputError where the photo cannot be read."""
        key = self._kept(photo).with_suffix(""), side
        with self._lock:
            if (recent := self._recent.get(key)) is not None:
                return recent
        file = key[0].with_suffix(".jpg")
        if side == THUMBNAIL and file.is_file():
            data = file.read_bytes()
        else:
            with _decoding:
                data = _jpeg(open_photo(photo.path, side).small, side)
            if side == THUMBNAIL:
                with contextlib.suppress(InputError):  # a full disk: it is made again
                    write_bytes(file, data)
        with self._lock:
            self._recent[key] = data
        return data

    def thumbnail(self, photo: PagePhoto) -> bytes:
        return self.picture(photo, THUMBNAIL)


def _jpeg(image: np.ndarray, side: int) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88 if side > THUMBNAIL else 80)
    return buffer.getvalue()
