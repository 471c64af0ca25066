"""VIA, the VGG Image Annotator, versions 1 and 2: a project, its exported JSON, or its CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.annotations.drawn import BROKEN, Annotations, ellipse, polygon
from shotseg.data.annotations.entries import Entry, collected
from shotseg.data.annotations.labelled import malformed, note, read_json, usable
from shotseg.data.annotations.sniff import begins_with, listed
from shotseg.data.tables import long_cells, text_of
from shotseg.errors import InputError, UsageError

WORDS = ("class", "label", "name", "category", "object", "type")  # attributes that name a class, the likely ones first
MOST = 50  # files of a folder that are looked at: a project has few
MARK = "shape_attributes"
COLUMNS = {MARK: f"region_{MARK}", "region_attributes": "region_attributes"}


def files(path: Path) -> list[Path]:
    """The files of VIA that ``path`` is, or holds; or its folders do, as ``train/via_region_data.json``."""
    found = [path] if path.is_file() else [*listed(path, ".json", ".csv"), *sorted(path.glob("*/via*.json"))]
    return [file for file in found[:MOST] if file.suffix.lower() in (".json", ".csv") and begins_with(file, MARK)]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: as of :func:`files`. The class of a region is its attribute class, label, name or the like, else the only one
    that regions have; where there is none it is the folder's name. Raises InputError where nothing can be read."""
    root = path if path.is_dir() else path.parent
    found, broken = usable(files(path), _regions)
    if not found:
        raise InputError(f"{path}: no regions of VIA in it; export annotations as JSON")
    every = [region for _, rows in found for _, regions in rows for region in regions]
    used = Counter(key for region in every for key, value in _attributes(region).items() if _text(value))
    key = next((key for word in WORDS for key in used if key.casefold() == word), next(iter(used), ""))
    alone = "" if used else root.resolve().name or "object"
    entries = [_entry(file, name, regions, key, alone) for file, rows in found for name, regions in rows]
    return collected(entries, root, images, broken)


def _regions(path: Path) -> tuple[Path, list[tuple[Any, list[dict]]]]:
    """The file, and of each photo its name and regions."""
    try:
        if path.suffix.lower() == ".csv":
            with long_cells():
                found = _of_table(path)
        else:
            content = read_json(path)
            rows = content.get("_via_img_metadata", content).values()
            found = [(row["filename"], _listed(row.get("regions") or [])) for row in rows]
        if not all(isinstance(region[MARK], dict) for _, regions in found for region in regions):
            raise ValueError("a region without a shape")
        return path, found
    except UsageError as error:
        raise InputError(str(error)) from error
    except (csv.Error, *BROKEN) as error:
        raise malformed(path, error, "regions of VIA") from error


def _listed(regions: Any) -> list[dict]:
    """Of version 1 they are a mapping by their numbers."""
    return list(regions.values() if isinstance(regions, dict) else regions)


def _of_table(path: Path) -> list[tuple[Any, list[dict]]]:
    found: dict[str, list[dict]] = {}
    for row in csv.DictReader(io.StringIO(text_of(path), newline="")):
        row = {(key or "").lstrip("#"): value for key, value in row.items()}
        region = {key: json.loads(row[column] or "{}") for key, column in COLUMNS.items()}
        regions = found.setdefault(row["filename"], [])
        regions += [region] if region[MARK] else []
    return list(found.items())


def _attributes(region: dict) -> dict:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """The value of an attribute; of boxes to tick the first that is ticked."""
    if isinstance(value, dict):
        value = next((name for name, ticked in value.items() if ticked), "")
    return str(value).strip() if isinstance(value, str | int) else ""


def _entry(file: Path, name: Any, regions: Iterable[dict], key: str, alone: str) -> Entry:
    objects, lost = [], 0
    for region in regions:
        label, kind = _text(_attributes(region).get(key)) or alone, str((region.get(MARK) or {}).get("name"))
        if label and kind in ("polygon", "rect", "circle", "ellipse"):
            objects.append((label, partial(draw, region[MARK])))
        else:
            lost += 1
            why = "it has no area; draw a polygon" if label else f"it has no {key}; give it one"
            note(f"{file}: a {kind} of {name} left out, {why}")
    return Entry(file, file.parent, name, None, None, objects, lost)


def draw(shape: dict, height: int, width: int) -> np.ndarray:
    """(h, w) bool of one region, by COCO's rule. Raises as ``BROKEN`` says."""
    if shape["name"] == "polygon":
        outline: Any = np.stack([shape["all_points_x"], shape["all_points_y"]], 1)
    elif shape["name"] == "rect":
        x, y, w, h = (float(shape[side]) for side in ("x", "y", "width", "height"))
        outline = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    else:
        radii = (shape["r"], shape["r"]) if shape["name"] == "circle" else (shape["rx"], shape["ry"])
        outline = ellipse((shape["cx"], shape["cy"]), radii, float(np.rad2deg(shape.get("theta") or 0)))
    return polygon(outline, height, width)
