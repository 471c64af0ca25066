"""COCO instances: ``annotations/instances_default.json``, one annotation for each object.

Run lengths by default, as lists of numbers: exact, with holes, and read by every tool that reads run lengths at all.
``polygons=True`` is for tools that take nothing else. A crowd is a mask like any other: tools that draw with a brush
export every mask as a crowd.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shotseg.data.annotations.drawn import (
    BROKEN,
    Annotated,
    Annotations,
    Photos,
    Shape,
    ends_of,
    numbered,
    polygon,
    size,
)
from shotseg.data.annotations.labelled import Labelled, Part, malformed, note, read_json, some, usable
from shotseg.data.annotations.outlines import EXACT, outline
from shotseg.data.annotations.sniff import json_kind, listed
from shotseg.data.annotations.streams import JsonItems, dumped, whole
from shotseg.data.images import IMAGE_TYPES
from shotseg.data.sets.coco_masks import decode
from shotseg.errors import InputError

FILE = "annotations/instances_default.json"  # the place and name that other tools look for
ROBOFLOW = "_annotations.coco.json"
PHOTOS = "images"


def write(
    out: Path,
    results: Iterable[Labelled],
    classes: Sequence[str],
    polygons: bool = False,
    ids: Sequence[int] | None = None,
) -> None:
    """``ids``: of the categories; default 1, 2, ..."""
    ids = ids or range(1, len(classes) + 1)
    (out / FILE).parent.mkdir(parents=True, exist_ok=True)
    with whole(out / FILE) as file, tempfile.TemporaryFile(dir=(out / FILE).parent) as later:
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in zip(ids, classes)]
        file.write(b'{"info":{},"licenses":[],"categories":' + dumped(categories) + b',"images":[\n')
        images, annotations = JsonItems(file), JsonItems(later)
        for result in results:
            height, width = result.labels.shape
            number = images.count + 1 if result.number is None else result.number
            images.add({"id": number, "file_name": result.file, "width": width, "height": height})
            for part in result.objects:
                score = result.scores.get(classes[part.label - 1])
                drawn = _polygon(part) if polygons else _run_lengths(part, height, width)
                annotation = {
                    "id": annotations.count + 1,
                    "image_id": number,
                    "category_id": ids[part.label - 1],
                    "segmentation": drawn,
                    "area": int(part.mask.sum()),
                    "bbox": [part.left, part.top, part.mask.shape[1], part.mask.shape[0]],
                    "iscrowd": 0,
                }
                annotations.add(annotation | ({} if score is None else {"score": round(float(score), 6)}))
        file.write(b'],"annotations":[\n')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write(b"]}\n")


def files(path: Path) -> list[Path]:
    """The instances files that ``path`` is, or holds: one folder deeper too, where photos lie beside them in several."""
    if path.is_file():
        return [path] if json_kind(path) == "coco" else []
    roboflow = sorted([*path.glob(ROBOFLOW), *path.glob(f"*/{ROBOFLOW}")])
    if found := roboflow or _beside(path):
        return found
    deeper = [_beside(folder) for folder in sorted(path.glob("*/")) if (folder / PHOTOS).is_dir()]
    return [file for files in deeper for file in files] if sum(map(bool, deeper)) > 1 else []


def _beside(folder: Path) -> list[Path]:
    beside = sorted([*listed(folder / "annotations", ".json"), *listed(folder, ".json")])
    found = [file for file in beside if json_kind(file) == "coco"]
    return [file for file in found if "instances" in file.name] or found


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: an instances file, or a folder with some, as :func:`write` or Roboflow writes it."""
    found = (files(path) or [path / FILE]) if path.is_dir() else [path]
    contents, broken = usable(found, _checked)
    classes = numbered(name for _, categories, _, _ in contents for name in categories.values())
    number = {name: i for i, name in enumerate(classes, start=1)}
    photos: list[Annotated] = []
    for file, categories, drawn, rows in contents:
        label_of = {id: number[name] for id, name in categories.items()}
        try:
            photos += _photos(path, images, file, label_of, drawn, rows)
        except BROKEN as error:
            raise malformed(file, error, "COCO instances") from error
    left_out = sum(len(rows) for *_, rows in contents) - len(photos) + broken
    if len(contents) > 1:  # each has ids of its own
        return Annotations(classes, [replace(photo, number=None) for photo in photos], left_out)
    ids = tuple(contents[0][1])
    kept = len(ids) == len(classes) and all(isinstance(id, int) for id in ids)
    return Annotations(classes, photos, left_out, ids if kept else None)


def _checked(path: Path) -> tuple[Path, dict[Any, str], list[dict], list[dict]]:
    """The file, its category ids with their names in the order of the ids, its annotations and its photos."""
    content = read_json(path)
    try:
        found = _named(_objects(content, "categories", path))
        if nameless := [c.get("id") for c in found if not str(c.get("name") or "").strip()]:
            note(f"{path}: categories without a name left out (ids {some(nameless)}); name them")
        named = [c for c in found if c.get("id") not in nameless]
        ordered = sorted(named, key=lambda category: (isinstance(category["id"], str), category["id"]))
        categories = {category["id"]: str(category["name"]) for category in ordered}
        if len(categories) < len({(category["id"], str(category["name"])) for category in ordered}):
            raise ValueError("two categories of one id")
        return path, categories, _objects(content, "annotations", path), _objects(content, "images", path)
    except BROKEN as error:
        raise malformed(path, error, "COCO instances") from error


def _named(categories: list[dict]) -> list[dict]:
    """Categories of which none has a name are called by their supercategories, where each has one of its own."""
    above = [str(c.get("supercategory") or "").strip() for c in categories]
    if any(c.get("name") for c in categories) or len(set(above) - {""}) < len(categories):
        return categories
    return [{**category, "name": name} for category, name in zip(categories, above)]


def _objects(content: dict, key: str, path: Path) -> list[dict]:
    """The objects of a list, or of a mapping by their ids as LIVECell has them; what is none, as null, is named."""
    given = content[key]
    entries = list(given.values() if isinstance(given, dict) else given)
    found = [each for each in entries if isinstance(each, dict)]
    if entries and not found:
        raise ValueError(f"no object in its {key}")
    if len(found) < len(entries):
        note(f"{path}: {len(entries) - len(found)} of its {key} are no objects, left out")
    return found


def _photos(
    root: Path,
    images: Path | None,
    path: Path,
    label_of: dict[Any, int],
    annotations: list[dict],
    rows: list[dict],
) -> list[Annotated]:
    folder = path.parent if path.parent.name != "annotations" else path.parent.parent
    base = root if root.is_dir() else folder
    split = path.stem.rpartition("_")[2]
    places = (folder / PHOTOS / split, folder / split, folder / PHOTOS, folder)
    finder = Photos(images or (folder if (folder / PHOTOS).is_dir() else base), *(() if images else places))
    below = folder.relative_to(base) if images is None and folder.is_relative_to(base) else Path()
    ends = ends_of(row.get("file_name") or row.get("coco_url") for row in rows)
    times = Counter(row.get("id") for row in rows)
    known = set(times)
    numbered_photos = len(known) == len(rows) and all(isinstance(id, int) for id in known)
    shapes, lost = _shapes(path, annotations, label_of, known)
    found = []
    for row in rows:
        try:
            if not (said := row.get("file_name") or row.get("coco_url")):
                raise ValueError("no file_name")
            named, photo = finder.named(said, path, ends)
            if times[row.get("id")] > 1:
                raise ValueError(f"another photo has its id, {row.get('id')}")
            frame = size(row.get("height"), row.get("width"))
        except (InputError, *BROKEN) as error:
            what = f"{path}: photo {row.get('file_name') or row.get('id')!r} ({error}), left out"
            note(str(error) if isinstance(error, InputError) else what)
            continue
        if photo is None and frame is None:
            note(f"{path}: photo {named} has no size and is not found; put it beside the file")
            continue
        if photo is not None and PurePosixPath(named).suffix.lower() not in IMAGE_TYPES:
            named += photo.suffix
        file = PurePosixPath(below.as_posix(), named).as_posix()
        id = row.get("id")
        number = id if numbered_photos else None
        found.append(Annotated(file, path, frame, shapes[id], photo, lost[id], number=number))
    if not found:
        raise InputError(f"{path}: no photo in it that can be used; export it again")
    return found


def _shapes(
    path: Path, annotations: list[dict], label_of: dict[Any, int], known: set
) -> tuple[dict[Any, list[Shape]], dict[Any, int]]:
    """Of each photo, by id, the shapes and how many annotations have none; what cannot be used is named."""
    photo_of, category_of = _spelled(known), _spelled(label_of)
    shapes: dict[Any, list[Shape]] = defaultdict(list)
    lost: dict[Any, int] = defaultdict(int)
    strangers, unnamed, empty = [], [], []
    for annotation in annotations:
        photo, category, drawn = (annotation.get(key) for key in ("image_id", "category_id", "segmentation"))
        photo, category = photo_of.get(photo), category_of.get(category)
        if photo is None:
            strangers.append(annotation.get("id"))
        elif category is None:
            unnamed.append(annotation.get("id"))
            lost[photo] += 1
        elif not drawn:
            empty.append(annotation.get("id"))
            lost[photo] += 1
        else:
            shapes[photo].append(Shape(label_of[category], partial(draw, drawn, area=annotation.get("area"))))
    for ids, what in (
        (strangers, "of a photo that is not in it"),
        (unnamed, "of an unknown category"),
        (empty, "without a segmentation"),
    ):
        if ids:
            note(f"{path}: {len(ids)} annotations {what} left out (ids {some(ids)})")
    return shapes, lost


def _spelled(ids: Iterable[Any]) -> dict[Any, Any]:
    """What annotations may call each id: itself, or, where no other reads the same, as text in place of a number."""
    known = list(ids)
    times = Counter(map(str, known))
    alone = {str(id): id for id in known if times[str(id)] == 1}
    numbers = {int(text): id for text, id in alone.items() if re.fullmatch(r"0|[1-9]\d{0,17}", text)}
    return {**alone, **numbers, **{id: id for id in known if id is not None}}


def draw(segmentation: Any, height: int, width: int, area: Any = None) -> np.ndarray:
    """(h, w) bool of a ``segmentation``; of run lengths, at the size that they say. Raises as ``BROKEN`` says.

    Polygons are joined, as COCO says; but where the object's ``area`` is the one without what two of them share, they are holes.
    """
    if isinstance(segmentation, dict):
        own = (size(*segmentation["size"]) if "size" in segmentation else None) or (height, width)
        return decode({**segmentation, "size": own}, *own)
    if isinstance(segmentation[0], dict):
        return np.any([draw(each, height, width) for each in segmentation], axis=0)
    points = len(segmentation) > 2 and all(np.size(point) == 2 for point in segmentation)
    rings = [segmentation] if points or np.ndim(segmentation[0]) == 0 else segmentation
    # Beside an outline with an area, one of no, one or two points draws nothing.
    with_area = [ring for ring in rings if np.size(ring) not in (0, 2, 4)] or rings
    masks = [polygon(ring, height, width) for ring in with_area]
    joined = np.any(masks, axis=0)
    if len(masks) == 1 or not isinstance(area, int | float):
        return joined
    parted = np.logical_xor.reduce(masks)
    # Nearer to the area without them, and no number that only fills the place.
    return parted if parted.sum() < 2 * area < parted.sum() + joined.sum() else joined


def _polygon(part: Part) -> list[list[float]]:
    return [outline(part.mask, part.top, part.left, EXACT).round(2).ravel().tolist()]


def _run_lengths(part: Part, height: int, width: int) -> dict[str, Any]:
    """Run lengths of an object in a height x width photo: down the columns, background first."""
    columns, rows = np.nonzero(part.mask.T)
    places = (columns + part.left) * height + rows + part.top
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts, ends = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]] + 1
    runs = np.diff(np.r_[0, np.stack([starts, ends], axis=1).ravel(), height * width]).tolist()
    return {"size": [height, width], "counts": runs if runs[-1] else runs[:-1]}


polygons: Callable[..., None] = partial(write, polygons=True)
