"""What users hand in: a photo or a mask as a path, an array, a PIL image or a Sample; and the names of classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shotseg.data import image_labels
from shotseg.data import images as files
from shotseg.data.samples import IGNORE, Sample
from shotseg.errors import InputError, ShotsegError, UsageError

Photo = str | Path | np.ndarray | Image.Image | Sample
MOST_CLASSES = 254  # a label map holds 0 = background and 255 = ignore beside them


def read_photo(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, array, PIL image or Sample."""
    if isinstance(photo, Sample):
        return photo.image
    if isinstance(photo, Image.Image):
        return np.array(photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise InputError(f"photo array {photo.shape} {photo.dtype}: give (H, W, 3) uint8 RGB")
        return photo
    return files.read_image(photo)


def read_shot(photo: Photo, mask: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """A support photo, (H, W, 3) uint8, and its mask, (H, W) uint8 in {0, 1, 255}, or None where there is none."""
    if isinstance(photo, (str, Path)) and isinstance(mask, (str, Path)):
        return files.read_pair(photo, mask)
    image = read_photo(photo)
    if mask is None and isinstance(photo, Sample):
        mask = photo.mask
    if mask is None:
        return image, None
    if isinstance(mask, (str, Path)):
        return image, files.one_class(files.read_mask(mask, like=image.shape[:2]))
    known = np.asarray(mask)
    if known.shape != image.shape[:2]:
        raise InputError(
            f"{title(photo)}: the mask array is {known.shape} but the photo is {image.shape[:2]}; make them the same size"
        )
    binary = known.dtype == bool or not np.isin(known, (0, IGNORE), invert=True).any()
    return image, (known != 0).astype(np.uint8) if binary else files.one_class(known)


def check_classes(names: Collection[str], where: object, error: type[ShotsegError] = UsageError) -> None:
    """Raise ``error`` for more names than a label map holds, for one that cannot be a folder's name, or for two that are one
    folder on Windows and macOS."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise error(f"{where}: {len(names)} classes, but a label map holds 1 to {MOST_CLASSES}; take them in parts")
    filed: dict[str, str] = {}
    for name in names:
        image_labels.check_name(name, where, error)
        other = filed.setdefault(filed_as(name), name)
        if other != name:
            first, second = sorted((name, other))
            raise error(f"{where}: classes {first!r} and {second!r} are one folder on Windows and macOS; rename one")


def filed_as(name: str) -> str:
    """What two names have in common that Windows or macOS keep as one file: letter case and spelling of accents make no
    difference there, nor do dots and blanks at the end."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip(". ")


def title(photo: Photo) -> str:
    if isinstance(photo, Sample):
        return photo.id or str(photo.path or "sample")
    return str(photo) if isinstance(photo, (str, Path)) else "photo"
