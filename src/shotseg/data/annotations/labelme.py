"""LabelMe: ``<name>.json`` for each photo, to lie beside it; objects as ``mask`` shapes, which keep every pixel.

Shapes with an area are drawn as LabelMe draws them: polygons, rectangles and circles with their outline, masks as they are.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Photos, Shape, numbered, polygon, size
from shotseg.data.annotations.labelled import Labelled, Part, inside, malformed, note, read_json
from shotseg.data.annotations.sniff import json_kind
from shotseg.data.annotations.streams import dumped
from shotseg.data.images import read_bytes, write_bytes
from shotseg.errors import InputError

VERSION = "5.5.0"  # masks are known from 5.3 on
CORNERS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")  # the last two are X-AnyLabeling's
AREAS = (*CORNERS, "rectangle", "circle", "mask")
LABELS = "labels.txt"  # the classes in their order, for `labelme --labels`
NO_CLASS = ("__ignore__", "_background_")  # what LabelMe keeps for itself among them


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    for result in results:
        height, width = result.labels.shape
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(part, classes[part.label - 1]) for part in result.objects],
            "imagePath": PurePosixPath(result.file).name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_bytes(out / f"{result.stem}.json", dumped(content))
    write_bytes(out / LABELS, "".join(f"{name}\n" for name in classes).encode())


def files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if json_kind(path) == "labelme" else []
    found = sorted(path.rglob("*.[jJ][sS][oO][nN]"))
    # A folder of ten thousand is told by its first few.
    return found if any(json_kind(file) == "labelme" for file in found[:5]) else []


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or a folder with files anywhere below. A file that is broken is named.

    Classes: in the order of labels.txt, else sorted.
    """
    found, broken = [], []
    for file in [path] if path.is_file() else files(path):
        try:
            content = read_json(file)
            if isinstance(content, dict) and "shapes" in content:
                found.append((file, [dict(shape) for shape in content["shapes"]], content))
        except InputError as error:
            broken.append(error)
        except BROKEN as error:
            broken.append(malformed(file, error, "a file of LabelMe"))
    if not found:
        raise next(iter(broken), None) or InputError(
            f"{path}: no file of LabelMe in it; give the folder of its .json files"
        )
    for reason in broken:
        note(str(reason))
    root = path if path.is_dir() else path.parent
    used = {name for _, shapes, _ in found for shape in shapes if _is_area(shape) and (name := _label(shape))} - {
        *NO_CLASS
    }
    classes = numbered([*_listed(root / LABELS), *sorted(used)])
    finder = Photos(images or root, *([images] if images else []))
    photos = [_photo(root, finder, classes, *entry) for entry in found]
    return Annotations(classes, photos, len(broken))


def _photo(root: Path, finder: Photos, classes: list[str], file: Path, shapes: list[dict], content: dict) -> Annotated:
    named = str(content.get("imagePath") or file.with_suffix(".jpg").name).replace("\\", "/")
    beside = file.parent / named
    photo = (
        beside
        if beside.is_file()
        else finder.find(file.relative_to(root).with_name(PurePosixPath(named).name).as_posix())
    )
    # Named after the .json: imagePath may lead to another folder, or to another machine.
    relative = file.relative_to(root).with_suffix(PurePosixPath(named).suffix or ".jpg")
    if PurePosixPath(named).stem != file.stem and PurePosixPath(named).name:
        relative = relative.with_name(PurePosixPath(named).name)
    try:
        frame = size(content.get("imageHeight"), content.get("imageWidth"))
    except BROKEN:
        frame = None
    drawable, lost = [], 0
    for shape in shapes:
        name, kind = _label(shape), shape.get("shape_type") or "polygon"
        if name in NO_CLASS:
            note(
                f"{file}: a {kind} called {name} left out, which LabelMe keeps for itself; give it a class or delete it"
            )
        elif name and _is_area(shape):
            drawable.append(Shape(classes.index(name) + 1, partial(draw, shape), shape.get("group_id")))
        else:
            lost += 1
            why = "it has no area; draw a polygon or a mask" if name else "it has no label; give it one"
            note(f"{file}: a {kind} left out, {why}")
    return Annotated(inside(relative.as_posix(), file), file, frame, drawable, photo, lost)


def _listed(path: Path) -> list[str]:
    lines = read_bytes(path).decode("utf-8-sig", "replace").splitlines() if path.is_file() else []
    return [line for line in lines if line.strip() and line not in NO_CLASS]


def _label(shape: dict) -> str:
    """The class of a shape, "" where it has none."""
    name = shape.get("label")
    return "" if name is None or not str(name).strip() else str(name)


def _is_area(shape: dict) -> bool:
    return (shape.get("shape_type") or "polygon") in AREAS


def _is_upright(corners: np.ndarray) -> bool:
    """Whether four corners (x, y) are those of the box around them, to half a pixel."""
    return bool((np.abs(np.stack([corners - corners.min(0), corners - corners.max(0)])).min(0) < 0.5).all())


def draw(shape: dict, height: int, width: int) -> np.ndarray:
    """(h, w) bool of one shape. Raises as ``BROKEN`` says."""
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("coordinates that are no numbers")
    kind = shape.get("shape_type") or "polygon"
    if kind == "mask":
        (left, top), (right, bottom) = points.astype(int)
        mask = np.zeros((height, width), bool)
        given = _picture(shape["mask"])[: bottom - top + 1, : right - left + 1]
        window = mask[max(top, 0) : top + given.shape[0], max(left, 0) : left + given.shape[1]]
        window[:] = given[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        return mask
    if kind == "rectangle" and len(points) == 4:  # its corners, as X-AnyLabeling has them
        if not _is_upright(points):
            kind = "polygon"
        points = np.stack([points.min(0), points.max(0)]) if kind == "rectangle" else points
    if kind in CORNERS:
        return polygon(points, height, width, _filled)
    if len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points")
    (x, y), (other_x, other_y) = points.tolist()
    if kind == "circle":
        radius = math.hypot(x - other_x, y - other_y)
        x, y, other_x, other_y = x - radius, y - radius, x + radius, y + radius
    box = [min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)]
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    (pen.ellipse if kind == "circle" else pen.rectangle)(box, fill=1, outline=1)
    return np.array(canvas, bool)


def _filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1, outline=1)
    return np.array(canvas, bool)


def _picture(text: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            return np.array(image.convert("L")) > 0
    except Exception as error:  # a broken picture can make a decoder fail in any way
        raise ValueError(f"its mask is no picture: {error}") from error


def _shape(part: Part, name: str) -> dict[str, Any]:
    height, width = part.mask.shape
    picture = io.BytesIO()
    Image.fromarray(part.mask).save(picture, "PNG")
    return {
        "label": name,
        "points": [[part.left, part.top], [part.left + width - 1, part.top + height - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(picture.getvalue()).decode(),
    }
