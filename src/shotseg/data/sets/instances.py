"""The instances files of COCO and LVIS: every photo and object that can be used, and the rest by name."""

from __future__ import annotations

import json
from collections.abc import Collection
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import LeftOut
from shotseg.data.sets.coco_masks import usable
from shotseg.errors import InputError

UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # what a record of another form raises


def read(
    path: Path, left_out: list[LeftOut], wanted: Collection[int] | None = None
) -> tuple[dict[int, dict], list[dict], dict[int, str], int]:
    """Photos by id, objects that can be drawn, the names of the categories, and how many records there were in all.

    What cannot be used is added to ``left_out``: photos without name or size; objects of no photo, or of a category
    that is not in ``wanted`` (default: the file's own); shapes that are none, while the object's other shapes stay.
    Raises InputError where the file is of another kind.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_slim)
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        images, annotations = list(content["images"]), list(content["annotations"])
    except (OSError, RecursionError, *UNUSABLE) as error:
        raise InputError(f"{path}: not an instances file ({error}); unpack the official archive again") from error
    photos: dict[int, dict] = {}
    useless = set()
    for record in images:
        try:
            photos[record["id"]] = _photo(record)
        except UNUSABLE as error:
            name = f"photo {_id(record)}"
            left_out.append(LeftOut(name, f"{path}: {name}: {_said(error)}"))
            useless.add(str(_id(record)))
    objects = []
    for record in annotations:
        name = f"annotation {_id(record)}"
        try:
            if str(record["image_id"]) in useless:
                continue
            flaws = _object(record, photos, names if wanted is None else wanted)
        except UNUSABLE as error:
            flaws = [_said(error)]
            record = {}
        left_out += [LeftOut(name, f"{path}: {name}: {flaw}") for flaw in flaws]
        if record.get("segmentation"):
            objects.append(record)
    return photos, objects, names, len(images) + len(annotations)


def _photo(record: dict) -> dict:
    """A photo with its size as whole numbers and its ``file_name`` without a folder."""
    if not isinstance(record["id"], int):
        raise ValueError("its id is no number")
    for side in ("height", "width"):
        value = float(record[side])
        if not (value >= 1 and value.is_integer()):
            raise ValueError(f"{side} {record[side]}")
        record[side] = int(value)
    record["file_name"] = Path(record.get("file_name") or record["coco_url"]).name
    return record


def _object(record: dict, photos: dict[int, dict], categories: Collection[int]) -> list[str]:
    """Keep of an object what can be drawn, and tell what is wrong with the rest; ``area``: a number or None."""
    if not isinstance(record["id"], int):
        raise ValueError("its id is no number")
    if record["image_id"] not in photos:
        raise ValueError(f"of photo {record['image_id']}, which is not in the file")
    if record["category_id"] not in categories:
        raise ValueError(f"of category {record['category_id']}, which the data set does not have")
    area = record.get("area")
    record["area"] = area if isinstance(area, int | float) and isfinite(area) else None
    photo = photos[record["image_id"]]
    record["segmentation"], flaws = usable(record.get("segmentation"), photo["height"], photo["width"])
    return flaws


def _id(record: Any) -> Any:
    return record.get("id", "without id") if isinstance(record, dict) else "without id"


def _said(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)


def _slim(record: dict) -> dict:
    # A million polygons as Python floats fill the memory of a laptop; as arrays they take a tenth.
    if isinstance(record.get("segmentation"), list):
        record["segmentation"] = [_array(points) for points in record["segmentation"]]
        record.pop("bbox", None)
    return record


def _array(points: Any) -> Any:
    try:
        return np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        return points  # no polygon: it is named when it is looked at
