"""Image-level labels: which classes each photo shows, from a CSV file."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shotseg.data.images import read_bytes
from shotseg.errors import InputError, ShotsegError, UsageError

IMAGE = ("image", "file", "filename", "path", "photo")
CLASS = ("class", "classes", "label", "labels", "name", "names", "tags")
BETWEEN = (";", "|")  # class names in one cell


@dataclass(frozen=True)
class ImageLabels:
    """What a label file says.

    classes: every class, in the order of their values in label maps (the first is 1).
    photos:  photo relative to its folder, with "/" -> numbers of its classes, ascending.
    paths:   photo -> where it lies.
    failed:  (file, reason) of rows that cannot be used.
    """

    classes: tuple[str, ...]
    photos: dict[str, tuple[int, ...]]
    paths: dict[str, Path]
    failed: list[tuple[str, str]]


def read(path: str | Path, images: str | Path, classes: Sequence[str] = ()) -> ImageLabels:
    """Read a CSV of photos and class names; a photo may have several rows, a row several names.

    With a header: a column ``image`` (or file, filename, path, photo), relative to ``images`` or to the CSV, and a column
    ``class`` (or classes, label, labels, name, names, tags), names parted by ";" or "|". Without: the photo comes first and
    every further cell is a name.
    classes: all names, in order; default those of the file, in the order of a column ``class_id``, else sorted.
    A row that cannot be used is kept in ``failed``. Raises UsageError where the file is no such table or nothing is left.
    """
    path, root = Path(path), Path(images)
    if not root.is_dir():
        raise UsageError(f"{images}: no such folder; give the folder of the photos")
    said: dict[str, set[str]] = {}
    paths: dict[str, Path] = {}
    numbers: dict[str, int] = {}
    failed = []
    for line, image, names, number in _rows(path):
        try:
            if not image:
                raise InputError(f"line {line} of {path.name}: names no photo; write rows as: photo.jpg,dog")
            file, place = _placed(image, root, path.parent)
            _check(image, names, classes)
        except InputError as error:
            failed.append((image or f"line {line}", str(error)))
            continue
        said.setdefault(file, set()).update(names)
        paths[file] = place
        if number.isdecimal() and len(names) == 1:
            numbers[names[0]] = int(number)
    found = {name for names in said.values() for name in names}
    if not found:
        why = f" ({failed[0][1]})" if failed else ""
        raise UsageError(f"{path}: no photo with a class name in it{why}; write rows as: photo.jpg,dog")
    ordered = sorted(found, key=lambda name: (numbers.get(name, len(numbers) + 256), name))
    ordered = list(classes) or ordered
    place_of = {name: i for i, name in enumerate(ordered)}
    photos = {file: tuple(sorted(place_of[name] for name in names)) for file, names in sorted(said.items())}
    return ImageLabels(tuple(ordered), photos, paths, failed)


def read_classes(path: str | Path) -> list[str]:
    """The names of a text file, one a line, in its order. Raises UsageError where one comes twice or there is none."""
    names = [name for line in _text(Path(path)).splitlines() if (name := line.strip())]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{path}: no names, or one of them twice; write one class a line")
    return names


def _rows(path: Path) -> list[tuple[int, str, list[str], str]]:
    """(line, image, names, class id or "") of every row."""
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in (",", "\t", ";") if mark in first), ",")
    try:
        reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        table = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}); save it as comma-separated UTF-8") from error
    head = [cell.strip().casefold() for cell in table[0][1]] if table else []
    image = next((head.index(name) for name in IMAGE if name in head), None)
    named = next((head.index(name) for name in CLASS if name in head), None)
    if image is not None and named is None:
        raise UsageError(f"{path}: a header without a column of class names; call it 'class'")
    if image is None:
        return [(line, row[0].strip(), _names(row[1:]), "") for line, row in table]
    number = head.index("class_id") if "class_id" in head else len(head)
    padded = ((line, [*row, *[""] * (len(head) + 1 - len(row))]) for line, row in table[1:])
    return [(line, row[image].strip(), _names([row[named or 0]]), row[number].strip()) for line, row in padded]


def _names(cells: Sequence[str]) -> list[str]:
    for mark in BETWEEN:
        cells = [part for cell in cells for part in cell.split(mark)]
    return [unicodedata.normalize("NFC", name) for cell in cells if (name := cell.strip())]


def _placed(image: str, root: Path, beside: Path) -> tuple[str, Path]:
    """The photo relative to ``root`` and where it lies; it may be named from ``root`` or from the CSV's own folder."""
    where = next((base / image for base in (root, beside) if (base / image).is_file()), root / image)
    relative = PurePosixPath(os.path.relpath(where, root).replace(os.sep, "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        raise InputError(f"{image}: names no photo below {root}; give a path relative to that folder")
    return relative.as_posix(), where


def check_name(name: str, where: object, error: type[ShotsegError] = InputError) -> None:
    """Raise ``error`` for a class name that cannot be a folder's name; ``where``: what gives the name, for the message."""
    if not name or name[0] == "." or any(mark in name for mark in '/\\:*?"<>\0\n'):
        raise error(f"{where}: class name {name!r} cannot be a folder's name; use letters, digits and spaces")


def _check(image: str, names: Sequence[str], classes: Sequence[str]) -> None:
    if not names:
        raise InputError(f"{image}: no class name; say what it shows, or leave the row out")
    for name in names:
        check_name(name, image)
        if classes and name not in classes:
            raise InputError(f"{image}: class {name!r} is not among the given classes; add it, or mend the row")


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except InputError as error:
        raise UsageError(str(error)) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8") from None
