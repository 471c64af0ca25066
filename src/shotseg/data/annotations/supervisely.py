"""Supervisely: ``meta.json`` names the classes; ``<dataset>/img/a.jpg`` has its objects in ``<dataset>/ann/a.jpg.json``.

Objects are drawn as Supervisely's SDK draws them: outlines belong to a polygon and to its holes, both corners to a rectangle.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageDraw

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Photos, Shape, numbered, polygon, said_size
from shotseg.data.annotations.labelled import inside, malformed, note, read_json, usable
from shotseg.errors import InputError

META = "meta.json"
BACKGROUND = "__bg__"  # what no object covers, as the SDK writes it for training
MOST = 1 << 28  # bytes of a mask's PNG
PLACES = ("ann/*.json", "*/ann/*.json")  # of what holds no meta.json: a dataset, or a folder of them


def files(path: Path) -> list[Path]:
    """The annotation files of a project, of one dataset of it, or the one that ``path`` is."""
    if path.is_file():
        if path.parent.name == "ann":
            return [path] if _is_annotation(path) else []
        return files(path.parent) if path.name == META and _titles(path) is not None else []
    known = _titles(path / META) is not None
    found = sorted(path.rglob("ann/*.json") if known else (file for place in PLACES for file in path.glob(place)))
    return found if any(map(_is_annotation, found[:5])) else []


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: as of :func:`files`. A file that is broken is named. Classes: in the order of meta.json, then sorted.

    Raises InputError where there is none.
    """
    found, broken = usable(files(path), _checked)
    if not found:
        raise InputError(f"{path}: no annotations of Supervisely in it; give the folder of meta.json")
    root = _root(path)
    titles = next((titles for place in (root, *root.parents) if (titles := _titles(place / META)) is not None), [])
    used = {_title(each) for _, content in found for each in content["objects"]} - {""}
    classes = [title for title in numbered([*titles, *sorted(used)]) if title != BACKGROUND]
    finder = Photos(images or root, *([images] if images else []))
    return Annotations(classes, [_photo(root, finder, classes, *entry) for entry in found], broken)


def _root(path: Path) -> Path:
    if path.is_dir():
        return path
    return path.parent if path.name == META else path.parent.parent


def _titles(path: Path) -> list[str] | None:
    """The classes that a meta.json names; None where it is no such file."""
    try:
        return [str(each["title"]) for each in json.loads(path.read_bytes())["classes"]]
    except (OSError, RecursionError, *BROKEN):
        return None


def _is_annotation(path: Path) -> bool:
    try:
        _checked(path)
    except InputError:
        return False
    return True


def _checked(path: Path) -> tuple[Path, dict]:
    content = read_json(path)
    try:
        objects = content["objects"]
        if (
            "frames" in content
            or not isinstance(content["size"], dict)
            or not all(isinstance(o, dict) for o in objects)
        ):
            raise ValueError("no picture with its objects")
    except BROKEN as error:
        raise malformed(path, error, "an annotation of Supervisely") from error
    return path, content


def _photo(root: Path, finder: Photos, classes: list[str], file: Path, content: dict) -> Annotated:
    folder, name = file.parent.parent, file.stem  # a.jpg of a.jpg.json
    below = folder.relative_to(root).as_posix()
    beside = folder / "img" / name
    photo = beside if beside.is_file() else finder.find(PurePosixPath(below, "img", name).as_posix())
    if photo is not None and not PurePosixPath(name).suffix:
        name += photo.suffix
    drawable, lost = [], 0
    for each in content["objects"]:
        title, kind = _title(each), _kind(each)
        if title == BACKGROUND:
            continue
        if title and kind in DRAWN:
            drawable.append(Shape(classes.index(title) + 1, partial(DRAWN[kind], each)))
        else:
            lost += 1
            why = "it has no area that is read; draw a mask or a polygon" if title else "it has no class; give it one"
            note(f"{file}: a {kind or 'shape'} left out, {why}")
    frame = said_size(content["size"].get("height"), content["size"].get("width"))
    return Annotated(inside(PurePosixPath(below, name).as_posix(), file), file, frame, drawable, photo, lost)


def _title(each: dict) -> str:
    return str(each.get("classTitle") or "").strip()


def _kind(each: dict) -> str:
    """What an object is; older files do not say it."""
    return str(each.get("geometryType") or ("bitmap" if each.get("bitmap") else "polygon"))


def _bitmap(each: dict, height: int, width: int, least: int = 1) -> np.ndarray:
    """(h, w) bool of a PNG at its origin (x, y).   least: value from which on a pixel is the object."""
    left, top = (int(number) for number in each["bitmap"]["origin"])
    given = _picture(each["bitmap"]["data"]) >= least
    mask = np.zeros((height, width), bool)
    window = mask[max(top, 0) : max(top + given.shape[0], 0), max(left, 0) : max(left + given.shape[1], 0)]
    window[:] = given[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
    return mask


def _picture(text: str) -> np.ndarray:
    """(h, w) uint8 of a PNG as base64, mostly compressed once more; of one with alpha, that."""
    data = base64.b64decode(text)
    with contextlib.suppress(zlib.error):  # not compressed again
        data = zlib.decompressobj().decompress(data, MOST)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(
                image.convert("RGBA").getchannel("A") if image.has_transparency_data else image.convert("L")
            )
    except Exception as error:  # a broken picture can make a decoder fail in any way
        raise ValueError(f"its mask is no picture: {error}") from error


def _polygon(each: dict, height: int, width: int) -> np.ndarray:
    mask = polygon(each["points"]["exterior"], height, width, _filled)
    for hole in each["points"].get("interior") or ():
        mask &= ~polygon(hole, height, width, _filled)
    return mask


def _filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    corners = [tuple(point) for point in np.floor(points).tolist()]
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    ImageDraw.Draw(canvas).line(
        [*corners, corners[0]], fill=1
    )  # an outline of the colour within is not drawn by the above
    return np.array(canvas, bool)


def _rectangle(each: dict, height: int, width: int) -> np.ndarray:
    (x, y), (other_x, other_y) = np.floor(np.asarray(each["points"]["exterior"], np.float64)).tolist()
    left, top, right, bottom = min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)
    return polygon([[left, top], [right, top], [right, bottom], [left, bottom]], height, width, _filled)


DRAWN: dict[str, Callable[[dict, int, int], np.ndarray]] = {
    "bitmap": _bitmap,
    "alpha_mask": partial(_bitmap, least=128),
    "polygon": _polygon,
    "rectangle": _rectangle,
}
