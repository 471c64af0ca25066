"""Which value of a record of another library is the photo, and which is its mask: rows of data sets, items of torch data sets,
samples of FiftyOne.

Nothing is imported from those libraries; their objects are told by what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from shotseg.data.images import MASK_TYPES
from shotseg.data.sets.coco_masks import decode
from shotseg.errors import InputError

PHOTOS = ("image", "img", "photo", "picture", "pixel_values", "jpg", "jpeg", "png", "webp")  # keys of a row
MASKS = (
    "mask",
    "masks",
    "annotation",
    "segmentation",
    "segmentation_mask",
    "label",
    "labels",
    "gt",
    "mask.png",
    "seg.png",
)


def is_record(source: Any) -> bool:
    """Whether this is a row (a mapping) or a sample (it has a ``filepath``)."""
    return isinstance(source, Mapping) or isinstance(getattr(source, "filepath", None), str)


def is_item(source: Any) -> bool:
    """Whether this is an item of a torch data set: a tuple of a photo and more, of which the second may be its mask."""
    if not isinstance(source, tuple) or len(source) < 2:
        return False
    first = source[0]
    return isinstance(first, str | bytes | PurePath | Image.Image) or len(getattr(first, "shape", ())) == 3


def are_alike(first: Any, second: Any) -> bool:
    """Whether two values are told apart by nothing: arrays of as many sides, pictures of one mode, files of one ending."""
    if isinstance(first, str | PurePath) and isinstance(second, str | PurePath):
        return PurePath(first).suffix.lower() == PurePath(second).suffix.lower()
    if isinstance(first, Image.Image) and isinstance(second, Image.Image):
        return first.mode == second.mode
    sides = len(getattr(first, "shape", ()))
    return isinstance(second, type(first)) and len(getattr(second, "shape", ())) == sides


def is_run_lengths(mask: Any) -> bool:
    """Whether this is a mask as COCO stores it: {"size": [height, width], "counts": a list, or COCO's text}."""
    return isinstance(mask, Mapping) and {"size", "counts"} <= mask.keys()


def run_lengths(mask: Mapping, name: object) -> np.ndarray:
    """(H, W) uint8 in {0, 1} of :func:`is_run_lengths`. Raises InputError where they do not fill their size."""
    try:
        height, width = map(int, mask["size"])
        counts = mask["counts"].decode() if isinstance(mask["counts"], bytes) else mask["counts"]
        return decode({"size": [height, width], "counts": counts}, height, width).astype(np.uint8)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: run lengths that are none ({error}); give size and counts as COCO has them"
        ) from None


def photo_of(source: Any) -> Any:
    """The photo of a record or item, as a path, bytes, picture or array; anything else as it is.

    A row of Hugging Face ``datasets`` holds it under one of ``PHOTOS``, or as its only picture; an ``Image`` that was not decoded
    is {"bytes", "path"}. A sample of FiftyOne has a ``filepath``. Raises InputError where a row has none.
    """
    if is_item(source):
        return source[0]
    if not isinstance(source, Mapping):
        return source.filepath if is_record(source) else source
    if _is_file(source):
        return _content(source)
    named = [key for key in PHOTOS if source.get(key) is not None]
    keys = named or [key for key, value in source.items() if _is_picture(value) and key not in MASKS]
    if not keys:
        raise InputError(f"a row with {_names(source)}, none of which is a photo; give the value that is")
    if not named and len(keys) > 1:
        raise InputError(
            f"a row with several pictures, {', '.join(map(str, keys))[:200]}; give the value that is the photo"
        )
    photo = source[keys[0]]
    if isinstance(photo, list | tuple) and photo and _is_picture(photo[0]):
        raise InputError(f"several rows at once, {len(photo)} under {keys[0]!r}; give each row by itself")
    return photo_of(photo)


def mask_of(source: Any) -> Any:
    """The mask that a record or item holds beside its photo; None where there is none.

    Of a row what is a picture under one of ``MASKS``; of a sample of FiftyOne its only field with masks. Raises InputError where
    a sample has several.
    """
    if is_item(source):
        return source[1] if _is_picture(source[1]) else None
    if not is_record(source) or _is_file(source):
        return None
    if isinstance(source, Mapping):
        found = [source[key] for key in MASKS if _is_picture(source.get(key))]
        return photo_of(found[0]) if found else None
    fields = [name for name in source.field_names if has_masks(source[name])]
    if len(fields) > 1:
        raise InputError(
            f"{source.filepath}: masks in {', '.join(fields)}; give one of them, as masks=[sample.{fields[0]}]"
        )
    return source[fields[0]] if fields else None


def has_masks(value: Any) -> bool:
    """Whether this is a label of FiftyOne that holds masks: Segmentation, Detection or Detections."""
    if isinstance(several := getattr(value, "detections", None), list):
        return any(has_masks(one) for one in several)
    return any(getattr(value, name, None) is not None for name in ("mask", "mask_path")) and hasattr(value, "to_dict")


def mask_among(label: Any, name: str, size: tuple[int, int]) -> Any:
    """The mask of class ``name`` in a label of FiftyOne, for a photo of (height, width) ``size``; anything else as it is.

    A Segmentation, which names no classes, is taken whole, as a path or an array. Of Detections those of the name are joined.
    """
    if not has_masks(label):
        return label
    if not hasattr(label, "detections") and not hasattr(label, "bounding_box"):
        return label.mask_path if label.mask is None else label.mask
    found = np.zeros(size, bool)
    for one in getattr(label, "detections", [label]):
        if one.label == name and has_masks(one):
            _draw(found, one)
    return found


def _draw(whole: np.ndarray, detection: Any) -> None:
    """A detection's mask, which fills its box, drawn into that of the photo by the nearest pixel."""
    height, width = whole.shape
    x, y, w, h = detection.bounding_box  # parts of the photo
    left, top = max(0, round(x * width)), max(0, round(y * height))
    right, bottom = min(width, round((x + w) * width)), min(height, round((y + h) * height))
    crop = np.asarray(detection.mask if detection.mask is not None else detection.get_mask()) > 0
    if right > left and bottom > top:
        rows = np.arange(bottom - top) * crop.shape[0] // (bottom - top)
        columns = np.arange(right - left) * crop.shape[1] // (right - left)
        whole[top:bottom, left:right] |= crop[rows[:, None], columns]


def _is_file(value: Any) -> bool:
    """Whether this is an ``Image`` of ``datasets`` that was not decoded."""
    return isinstance(value, Mapping) and bool(value) and value.keys() <= {"bytes", "path"}


def _content(file: Mapping) -> Any:
    found = file.get("bytes") or file.get("path")
    if not found:
        raise InputError("a row whose picture has neither bytes nor a path; leave it out")
    return found


def _is_picture(value: Any) -> bool:
    if isinstance(value, str):
        return PurePath(value).suffix.lower() in MASK_TYPES
    array = hasattr(value, "__array__") and len(getattr(value, "shape", ())) in (2, 3)
    return array or isinstance(value, bytes | PurePath | Image.Image) or _is_file(value)


def _names(row: Mapping) -> str:
    return ", ".join(str(key) for key in row)[:200] or "nothing in it"
