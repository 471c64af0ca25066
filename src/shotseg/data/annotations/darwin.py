"""Darwin JSON 2.0, of V7: one file a photo, with polygons, boxes, ellipses, and masks in one raster layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.annotations.drawn import BROKEN, Annotations, ellipse, polygon
from shotseg.data.annotations.entries import Entry, collected
from shotseg.data.annotations.labelled import malformed, note, read_json, usable
from shotseg.data.annotations.sniff import begins_with, listed
from shotseg.errors import InputError

PLACES = ("annotations", "releases/*/annotations")  # in the folder that `darwin dataset pull` makes


def files(path: Path) -> list[Path]:
    """The files of Darwin that ``path`` is, or holds."""
    places = [] if path.is_file() else [path, *(folder for place in PLACES for folder in sorted(path.glob(place)))]
    found = [path] if path.is_file() else next(filter(None, (listed(place, ".json") for place in places)), [])
    return (
        found
        if any(
            file.suffix.lower() == ".json" and begins_with(file, "item", "slots", "annotations") for file in found[:5]
        )
        else []
    )


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: as of :func:`files`. Raises InputError where nothing can be read."""
    found, broken = usable(files(path), _entry)
    if not found:
        raise InputError(f"{path}: no file of Darwin 2.0 in it; export it as Darwin JSON")
    return collected(found, path if path.is_dir() else path.parent, images, broken)


def _entry(path: Path) -> Entry:
    content = read_json(path)
    try:
        slots = content["item"]["slots"]
        slot = slots[0] if slots else {}
        layers = [each["raster_layer"] for each in content["annotations"] if each.get("raster_layer")]
        values = {id: (layer, value) for layer in layers for id, value in layer["mask_annotation_ids_mapping"].items()}
        objects, lost = [], 0
        for each in (each for each in content["annotations"] if not each.get("raster_layer")):
            name, draw = str(each.get("name") or "").strip(), _drawn(each, values)
            if name and draw is not None and "frames" not in each:
                objects.append((name, draw))
            elif not each.get("tag") and "tag" not in each:
                lost += 1
                note(f"{path}: an object of {name or 'no class'} left out, it has no area that is read")
        file, height, width = str(content["item"]["name"]), slot.get("height"), slot.get("width")
    except BROKEN as error:
        raise malformed(path, error, "Darwin 2.0") from error
    return Entry(path, path.parent, file, height, width, objects, lost)


def _drawn(each: dict, values: dict[str, tuple[dict, int]]) -> Any:
    """How an object is drawn, None where it has no area."""
    if "mask" in each and each.get("id") in values:
        return partial(_of_layer, *values[each["id"]])
    if each.get("polygon"):
        paths = each["polygon"].get("paths") or [each["polygon"]["path"]]
        return partial(_of_paths, [[(point["x"], point["y"]) for point in path] for path in paths])
    if each.get("ellipse"):
        shape = each["ellipse"]
        centre, radius = ((shape[key]["x"], shape[key]["y"]) for key in ("center", "radius"))
        return partial(polygon, ellipse(centre, radius, float(np.rad2deg(shape.get("angle") or 0))))
    if each.get("bounding_box"):
        x, y, w, h = (float(each["bounding_box"][side]) for side in ("x", "y", "w", "h"))
        return partial(polygon, [[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    return None


def _of_paths(paths: list[list[tuple[float, float]]], height: int, width: int) -> np.ndarray:
    """A path within another is a hole: what an odd number of paths covers."""
    mask = np.zeros((height, width), bool)
    for path in paths:
        mask ^= polygon(path, height, width)
    return mask


def _of_layer(layer: dict, value: int, height: int, width: int) -> np.ndarray:
    """Of pairs (value, count) along the rows."""
    numbers, counts = np.asarray(layer["dense_rle"], np.int64).reshape(-1, 2).T
    if counts.min() < 0 or counts.sum() != height * width:
        raise ValueError(f"run lengths of {counts.sum()} pixels for a photo of {width} x {height}")
    return np.repeat(numbers == value, counts).reshape(height, width)
