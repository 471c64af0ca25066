"""LabelMe of the web, which CVAT calls LabelMe 3.0: an XML a photo in ``Annotations/``; polygons, or PNGs in ``Masks/``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from shotseg.data.annotations.drawn import Annotations, polygon
from shotseg.data.annotations.entries import Draw, Entry, collected
from shotseg.data.annotations.labelled import malformed, note, usable
from shotseg.data.images import read_mask
from shotseg.errors import InputError

HEAD = 1 << 16
FOLDER = "Annotations"


def files(path: Path) -> list[Path]:
    """The files of LabelMe that ``path`` is, or holds in ``Annotations/``."""
    found = [path] if path.suffix.lower() == ".xml" and path.is_file() else sorted((path / FOLDER).rglob("*.xml"))
    return found if any(map(_is_one, found[:5])) else []


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: as of :func:`files`. What was deleted there is no object. Raises InputError where nothing can be read."""
    above = next((parent.parent for parent in path.parents if parent.name == FOLDER), path.parent)
    root = path if path.is_dir() else above
    found, broken = usable(files(path), partial(_entry, root))
    if not found:
        raise InputError(f"{path}: no XML of LabelMe in it; give the folder that holds {FOLDER}/ and Images/")
    return collected(found, root, images, broken)


def _is_one(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    marks = (b"<polygon", b"<segm>", b"<sourceAnnotation>")
    return b"<annotation>" in head and b"<bndbox" not in head and any(mark in head for mark in marks)


def _entry(root: Path, path: Path) -> Entry:
    try:
        content = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise malformed(path, error, "an XML of LabelMe") from error
    annotations = root / FOLDER
    below = path.parent.relative_to(annotations) if path.is_relative_to(annotations) else Path()
    objects: list[tuple[str, Draw]] = []
    lost = 0
    for each in content.iter("object"):
        if _text(each, "deleted") == "1":
            continue
        title, draw = _text(each, "name"), _drawing(each, root / "Masks" / below)
        if title and draw is not None:
            objects.append((title, draw))
        else:
            lost += 1
            note(f"{path}: an object of {title or 'no class'} left out, it has no area that is read; draw a polygon")
    name = _text(content, "filename").rpartition("/")[2]
    height, width = _text(content, "imagesize/nrows"), _text(content, "imagesize/ncols")
    return Entry(path, root / "Images" / below, name, height, width, objects, lost)


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _drawing(each: ElementTree.Element, masks: Path) -> Draw | None:
    """How an object is drawn, None where it has no area."""
    if name := _text(each, "segm/mask"):
        return partial(_mask, masks / Path(name).name)
    points = [(_text(point, "x"), _text(point, "y")) for point in each.iterfind("polygon/pt")]
    return partial(_polygon, points) if points else None


def _polygon(points: list[tuple[str, str]], height: int, width: int) -> np.ndarray:
    return polygon([float(number) for point in points for number in point], height, width)


def _mask(path: Path, height: int, width: int) -> np.ndarray:
    return read_mask(path) == 1
