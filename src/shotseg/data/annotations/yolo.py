"""YOLO segmentation: ``labels/<name>.txt`` with ``class x1 y1 x2 y2 ...``, and ``data.yaml``.

Coordinates are parts of the photo's sides. The photos lie in ``images/`` beside ``labels/``; a photo without any class has
an empty file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Shape, numbered, polygon
from shotseg.data.annotations.labelled import Labelled, malformed, note, some
from shotseg.data.annotations.outlines import outline
from shotseg.data.annotations.sniff import listed
from shotseg.data.folder import find_images
from shotseg.data.images import read_bytes, write_bytes
from shotseg.errors import InputError, UsageError

NAMES = "classes.txt"  # of exports without a data.yaml
BESIDE = (NAMES, "train.txt", "val.txt", "test.txt", "notes.txt", "labels.txt")  # texts that are no labels
SPLITS = ("train", "val", "test")


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    for result in results:
        sides = result.labels.shape[::-1]
        lines = []
        for part in result.objects:
            points = (outline(part.mask, part.top, part.left) / sides).clip(0, 1).ravel()
            lines.append(" ".join([str(part.label - 1), *(f"{value:.6f}" for value in points)]) + "\n")
        write_bytes(out / "labels" / f"{result.stem}.txt", "".join(lines).encode())
    # Without "path" the folders are looked for beside the file, from wherever it is read.
    content = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
    write_bytes(out / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode())


def files(path: Path) -> list[Path]:
    """The file that names the classes."""
    if path.is_file():
        return [path] if path.suffix in (".yaml", ".yml") and isinstance(_yaml(path), dict) else []
    tables = listed(path, ".yaml", ".yml")
    found = [p for p in tables if isinstance(content := _yaml(p), dict) and "names" in content]
    found = [p for p in found if p.name == "data.yaml"] or found
    if found or not (path / "labels").is_dir():
        return found
    if (path / NAMES).is_file():
        return [path / NAMES]
    alone = (path / "images").is_dir() and not (path / "masks").is_dir() and any((path / "labels").rglob("*.txt"))
    return [path / "data.yaml"] if alone else []  # absent or broken, as its reader says


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: data.yaml or its folder. Needs the photos: the files do not say how large they are."""
    found = files(path)
    table = found[0] if found else path / "data.yaml" if path.is_dir() else path
    root = table.parent
    try:
        if table.name == NAMES:
            content: Any = {"names": [n for n in read_bytes(table).decode("utf-8-sig").splitlines() if n.strip()]}
        else:
            if not table.is_file():
                raise InputError(f"{table}: no such file, which names the classes of {root / 'labels'}; put it there")
            content = _plain(table)
        given = content["names"]  # a list, or numbers to names
        names = {int(i): str(name) for i, name in (given.items() if isinstance(given, dict) else enumerate(given))}
        names = dict(sorted(names.items()))
        if not names or isinstance(given, str):
            raise ValueError("no names")
    except (yaml.YAMLError, UnicodeDecodeError, *BROKEN) as error:
        raise malformed(table, error, "a data.yaml with names from 0 on") from error
    classes = numbered(names.values())
    label_of = {number: classes.index(name) + 1 for number, name in names.items()}
    folders = [images] if images else list(dict.fromkeys(_image_folders(root, content)))
    photos, seen, odd = list[Annotated](), set[Path](), defaultdict[str, list[str]](list)
    for folder in folders:
        for photo in _below(folder):
            if photo not in seen:
                seen.add(photo)
                photos.append(_photo(photo, folder, root, label_of, odd))
    for reason, lines in odd.items():
        what = f"{len(lines)} lines are no outlines ({reason}), left out: {some(lines)}"
        note(f"{root}: {what}; export them as segmentation")
    _name_strays(photos)
    if not photos:
        raise InputError(f"{root}: no photo beside labels/; put the photos into {root / 'images'}")
    if not any(photo.source.is_file() for photo in photos):
        raise InputError(
            f"{root}: no labels of its {len(photos)} photos, looked for as {photos[0].source}; put them there"
        )
    return Annotations(classes, photos)


def _image_folders(root: Path, content: dict) -> Iterator[Path]:
    """Where data.yaml says that photos lie, else images/; paths of another machine are tried below its own folder."""
    base = root / str(content.get("path") or "")
    named = [entry for split in SPLITS for entry in _listed(content.get(split))]
    for entry in named:
        # Roboflow writes ../train/images though the folder lies beside the file
        below = entry.removeprefix("../")
        places = [base / entry, base / below, root / entry, root / below]
        if folder := next((place for place in places if place.is_dir()), None):
            yield Path(os.path.normpath(folder)) if ".." in folder.parts else folder
    if not named or not any(((base / e).is_dir() or (root / e.removeprefix("../")).is_dir()) for e in named):
        yield from (f for f in (root / "images", *(root / s / "images" for s in SPLITS)) if f.is_dir())


def _below(folder: Path) -> list[Path]:
    """The photos; a folder without any, as an unused split has it, is said."""
    try:
        return find_images(folder)
    except UsageError:
        note(f"{folder}: no photo in it; left out")
        return []


def _listed(entry: Any) -> list[str]:
    return [str(e) for e in entry] if isinstance(entry, list) else [str(entry)] if entry else []


def _photo(photo: Path, folder: Path, root: Path, label_of: dict[int, int], odd: dict[str, list[str]]) -> Annotated:
    """odd: is told lines that are no outlines, by the reason."""
    relative = photo.relative_to(root) if photo.is_relative_to(root) else photo.relative_to(folder)
    places = [i for i, part in enumerate(relative.parts) if part.lower() == "images"]
    file = Path(*(part for i, part in enumerate(relative.parts) if i not in places[:1])).as_posix()
    full = list(photo.parts)
    for i in range(len(full) - 2, -1, -1):  # the last "images" of the path becomes "labels", in its own letter case
        if full[i].lower() == "images":
            full[i] = {"Images": "Labels", "IMAGES": "LABELS"}.get(full[i], "labels")
            break
    table = Path(*full).with_suffix(".txt")
    shapes, lost = [], 0
    if not table.is_file():
        table = root / "labels" / f"{photo.stem}.txt"
    for line in _lines(table) if table.is_file() else ():
        if line.strip():
            try:
                shapes.append(_shape(line, label_of))
            except ValueError as error:
                odd[str(error)].append(f"{table.name} {line[:40]!r}")
                lost += 1
    return Annotated(file, table, None, shapes, photo, lost)


def _shape(line: str, label_of: dict[int, int]) -> Shape:
    label, *values = line.replace(",", " ").split()
    number = float(label)
    values = _outline(values)
    if len(values) == 4:
        raise ValueError("a box")
    if len(values) < 6 or len(values) % 2 or number not in label_of:
        raise ValueError("want a known class and at least three points")
    points = np.array(values, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or np.abs(points).max() > 2:
        raise ValueError("want parts of the photo's sides")
    return Shape(label_of[int(number)], partial(_draw, points))


def _outline(values: list[str]) -> list[str]:
    """Without what predictions have behind an outline or a box: a confidence, the number of a track, or both in this order."""
    last = float(values[-1]) if len(values) > 4 else 0.0
    track = last > 1 and last.is_integer()  # no part of a side; track 1 alone cannot be told from a confidence of 1
    if len(values) % 2:
        return values[:-1] if track or 0 <= last <= 1 else values
    return values[:-2] if track and len(values) > 5 and 0 <= float(values[-2]) <= 1 else values


def _draw(points: np.ndarray, height: int, width: int) -> np.ndarray:
    return polygon(points * (width, height), height, width)


def _name_strays(photos: Sequence[Annotated]) -> None:
    """Say which files of labels are of no photo."""
    used = {photo.source for photo in photos}
    for folder in sorted({source.parent for source in used}):
        if strays := [p.name for p in sorted(folder.glob("*.txt")) if p not in used and p.name not in BESIDE]:
            note(f"{folder}: left out, labels of no photo: {some(strays)}")


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    return text.splitlines()


def _plain(path: Path) -> Any:
    """YAML without types, so that a class may be called no, on or 1."""
    loader = yaml.BaseLoader(read_bytes(path))  # makes text, lists and mappings of text, and no other object
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _yaml(path: Path) -> Any:
    try:
        return _plain(path)
    except (InputError, yaml.YAMLError, UnicodeDecodeError, ValueError):
        return None
