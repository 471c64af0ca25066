"""CVAT for images 1.1: ``annotations.xml``; objects as masks, which keep every pixel.

Polygons, boxes and ellipses are drawn as CVAT's own export of masks draws them; the higher ``z_order`` is on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from shotseg.data.annotations.drawn import (
    BROKEN,
    Annotated,
    Annotations,
    Photos,
    Shape,
    ellipse,
    ends_of,
    numbered,
    polygon,
    size,
    turned,
)
from shotseg.data.annotations.labelled import Labelled, Part, note, usable
from shotseg.data.annotations.sniff import listed
from shotseg.data.annotations.streams import whole
from shotseg.data.enlarging import runs_of
from shotseg.errors import InputError

FILE = "annotations.xml"
HEAD = 1 << 16
SHAPES = ("polygon", "mask", "box", "ellipse")
Row = tuple[Path, dict[str, str], list[tuple[str, dict[str, str]]]]  # of an image: its file, and its shapes by tag


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    labels = "".join(f"<label><name>{escape(name)}</name><attributes></attributes></label>" for name in classes)
    with whole(out / FILE) as file:
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"<meta><task><labels>{labels}</labels></task></meta>\n".encode())
        for number, result in enumerate(results):
            height, width = result.labels.shape
            name = quoteattr(result.file)
            file.write(f'<image id="{number}" name={name} width="{width}" height="{height}">\n'.encode())
            for part in result.objects:
                file.write(_mask(part, classes[part.label - 1]).encode())
            file.write(b"</image>\n")
        file.write(b"</annotations>\n")


def files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else listed(path, ".xml")
    return [file for file in found if file.suffix.lower() == ".xml" and _is_cvat(file)]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or the folder that holds it. Classes are those of its task, in order; then others that occur."""
    found = (files(path) if path.is_dir() else [path]) or [path / FILE]
    contents, broken = usable(found, _checked)
    names = [name for _, own in contents for name in own]
    rows = [row for own, _ in contents for row in own]
    used = [shape["label"] for _, _, shapes in rows for tag, shape in shapes if tag in SHAPES and "label" in shape]
    classes = numbered([*names, *used])
    root = images or (path if path.is_dir() else path.parent)
    finder, ends = Photos(root, root / "images"), ends_of(about.get("name") for _, about, _ in rows)
    photos = []
    for file, about, shapes in rows:
        try:
            photos.append(_photo(file, about, shapes, classes, finder, ends))
        except InputError as error:
            note(str(error))
        except BROKEN as error:
            note(f"{file}: image {about.get('name')!r} left out ({error})")
    if not photos:
        raise InputError(f"{found[0]}: no photo in it that can be used; export it again")
    return Annotations(classes, photos, len(rows) - len(photos) + broken)


def _checked(file: Path) -> tuple[list[Row], list[str]]:
    """The images of a file and the names of its labels."""
    rows: list[Row] = []
    names: list[str] = []
    try:
        for element in _elements(file):
            if element.tag == "image":
                rows.append((file, dict(element.attrib), [(str(s.tag), dict(s.attrib)) for s in element]))
            elif element.tag == "track":
                raise InputError(
                    f"{file}: CVAT for video, whose frames have no names; export it as CVAT for images 1.1"
                )
            else:
                names.append(element.findtext("name") or "")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give a file or folder of CVAT for images") from None
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"{file}: not CVAT for images 1.1 ({error}); export it again") from error
    return rows, names


def _elements(path: Path) -> Iterable[ElementTree.Element]:
    """The labels and images of a file, one at a time."""
    open_now: list[ElementTree.Element] = []
    for event, element in ElementTree.iterparse(path, ("start", "end")):
        if event == "start":
            open_now.append(element)
            continue
        open_now.pop()
        if element.tag in ("image", "track") or (element.tag == "label" and open_now and open_now[-1].tag == "labels"):
            yield element
            open_now[-1].remove(element)


def _photo(
    path: Path,
    about: dict[str, str],
    shapes: list[tuple[str, dict[str, str]]],
    classes: list[str],
    finder: Photos,
    ends: Counter[str],
) -> Annotated:
    named, photo = finder.named(about.get("name"), path, ends)
    found, lost = [], 0
    for tag, shape in sorted(shapes, key=lambda pair: _whole(pair[1].get("z_order"))):
        if tag in SHAPES and "label" in shape:
            group = _whole(shape.get("group_id")) or None  # 0: of no group
            found.append(Shape(classes.index(shape["label"]) + 1, partial(draw, tag, shape), group))
        elif tag != "tag":
            lost += 1
            note(f"{path}: a {tag} of {named} left out, it has no area; draw a polygon or a mask")
    frame = size(about.get("height"), about.get("width"))
    if frame is None and photo is None:
        raise InputError(f"{path}: photo {named} has no size and is not found; put it beside the file")
    return Annotated(named, path, frame, found, photo, lost)


def draw(tag: str, shape: dict[str, str], height: int, width: int) -> np.ndarray:
    """(h, w) bool of one shape. Raises as ``BROKEN`` says."""
    if tag == "mask":
        return _decoded(shape, height, width)
    if tag == "polygon":
        return polygon([float(v) for point in shape["points"].split(";") for v in point.split(",")], height, width)
    angle = float(shape.get("rotation") or 0)
    if tag == "ellipse":
        centre, radii = (float(shape["cx"]), float(shape["cy"])), (float(shape["rx"]), float(shape["ry"]))
        return polygon(ellipse(centre, radii, angle), height, width)
    ends = np.array([[float(shape[f"{side}{end}"]) for side in "xy"] for end in ("tl", "br")])
    half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (ends[1] - ends[0]) / 2
    return polygon(turned(half, angle) + ends.mean(0), height, width)


def _decoded(shape: dict[str, str], height: int, width: int) -> np.ndarray:
    """Runs along the rows of the box, background first."""
    left, top, across, down = (_whole(shape[key]) for key in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in shape["rle"].split(",")], np.int64)
    if (runs < 0).any() or runs.sum() != across * down or min(left, top) < 0:
        raise ValueError(f"a mask of {runs.sum()} pixels for a box of {across} x {down}")
    if top + down > height or left + across > width:
        raise ValueError("a mask outside the photo")
    mask = np.zeros((height, width), bool)
    mask[top : top + down, left : left + across] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(down, across)
    return mask


def _mask(part: Part, name: str) -> str:
    height, width = part.mask.shape
    lengths, values = runs_of(part.mask)
    runs = ([0] if values[0] else []) + lengths.tolist()
    return (
        f'<mask label={quoteattr(name)} source="semi-auto" occluded="0" rle="{", ".join(map(str, runs))}" '
        f'left="{part.left}" top="{part.top}" width="{width}" height="{height}" z_order="0"></mask>\n'
    )


def _whole(value: Any) -> int:
    return round(float(value or 0))


def _is_cvat(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return b"<annotations" in head and (b"<image" in head or b"<version" in head)
