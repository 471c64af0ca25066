"""Image-level labels: which classes each photo shows, from a CSV file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from shotseg.data.images import IMAGE_TYPES
from shotseg.data.listing import has_controls, images_below
from shotseg.data.tables import column, plain, rows_of, text_of
from shotseg.errors import InputError, ShotsegError, UsageError

# Headers, without case, blanks and marks: "Image Name" is "imagename".
PHOTO = ("image", "img", "photo", "picture", "file")
OF_PHOTO = ("", "s", "name", "names", "path", "paths", "file", "filename", "id")
IMAGE = (
    *(word + end for word in PHOTO for end in OF_PHOTO),
    *("filepath", "filepaths", "fname", "path", "paths", "id", "name"),
)
MANY = {"class": "classes", "category": "categories", "species": "species"}
OF_CLASS = ("class", "label", "category", "tag", "species", "object", "target")
CLASS = (
    *(w for one in OF_CLASS for w in dict.fromkeys((one, MANY.get(one, f"{one}s"), f"{one}name", f"{one}names"))),
    *(f"{one}label" for one in OF_CLASS),
    *("name", "names"),
)
KNOWN = f"{', '.join(OF_CLASS)}, also in the plural or with name behind"
NUMBER = ("classid", "labelid", "categoryid")
LONGEST_NAME = 255  # bytes, of a folder
BETWEEN = (";", "|", "\n")  # class names in one cell
YES, NO = ("1", "1.0", "true", "yes", "y", "x"), ("0", "0.0", "false", "no", "n", "-", "")


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

    With a header: a column of ``IMAGE``, relative to ``images`` or to the CSV, with or without its ending, by "/" or as on
    Windows; and a column of ``CLASS``, names parted by ";" or "|" (in a column of the plural also by ","), or a column of 0
    and 1 for each class. Without: the photo comes first and every further cell is a name. Separator: comma, tab, semicolon.
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
    photos = Photos(root, path.parent)
    for line, image, names, number in _rows(path, photos):
        try:
            if not image:
                raise InputError(f"line {line} of {path.name}: names no photo; write rows as: photo.jpg,dog")
            file, place = _placed(image, photos)
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
    shown = {file: tuple(sorted(place_of[name] for name in names)) for file, names in sorted(said.items())}
    return ImageLabels(tuple(ordered), shown, paths, failed)


def read_classes(path: str | Path) -> list[str]:
    """The names of a text file, one a line, in its order. Raises UsageError where one comes twice or there is none."""
    names = [name for line in text_of(Path(path)).splitlines() if (name := line.strip())]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{path}: no names, or one of them twice; write one class a line")
    return names


def _rows(path: Path, photos: Photos) -> list[tuple[int, str, list[str], str]]:
    """(line, image, names, class id or "") of every row."""
    table = rows_of(path, partial(_begins, photos))
    if not table:
        return []
    first = table[0][1]
    head = [plain(cell) for cell in first]
    image = column(head, IMAGE)
    others = [cell if i != image else "" for i, cell in enumerate(head)]
    named, number = column(others, CLASS), column(others, NUMBER)
    if image is None or photos.is_one(first[image].strip()):
        if not photos.looks_like_one(first[0].strip()):
            raise UsageError(
                f"{path}: the first row, {', '.join(first)!r}, is neither a photo nor a known header; "
                f"known are {', '.join(PHOTO)}, also with name, path or id behind, for the photo; {KNOWN}, for its classes"
            )
        return [(line, row[0].strip(), _names(row[1:]), "") for line, row in table]
    width = max(len(row) for _, row in table)
    rows = [(line, [cell.strip() for cell in row] + [""] * (width + 1 - len(row))) for line, row in table[1:]]
    named = number if named is None else named
    if named is not None:
        same = [i for i, cell in enumerate(head) if cell == head[named]]
        several = (
            (",", *BETWEEN) if first[named].strip().casefold().endswith("s") and head[named] != "class" else BETWEEN
        )
        at = width if number is None else number
        return [(line, row[image], _names([row[i] for i in same], several), row[at]) for line, row in rows]
    columns = [i for i in range(len(head)) if i != image]
    if not columns or any(row[i].casefold() not in YES + NO for _, row in rows for i in columns):
        raise UsageError(f"{path}: a header without a column of class names; call it one of {KNOWN}")
    shown = {i: _names([first[i]], ()) for i in columns}
    return [
        (line, row[image], [n for i in columns if row[i].casefold() in YES for n in shown[i]], "") for line, row in rows
    ]


def _begins(photos: Photos, cells: list[str]) -> bool:
    """Whether they may be the first row: a photo, or a known header."""
    return photos.looks_like_one(cells[0].strip()) or not {plain(cell) for cell in cells}.isdisjoint((*IMAGE, *CLASS))


def _names(cells: Sequence[str], between: Sequence[str] = BETWEEN) -> list[str]:
    """Class names of cells, each once or several; also as lists are written in Python and JSON."""
    lists = [cell.strip() for cell in cells]
    if any(cell.startswith("[") and cell.endswith("]") for cell in lists):
        cells, between = [re.sub(r"""^\[|\]$|['"]""", "", cell) for cell in lists], (",", *between)
    for mark in between:
        cells = [part for cell in cells for part in cell.split(mark)]
    return [unicodedata.normalize("NFC", name) for cell in cells if (name := cell.strip())]


class Photos:
    """Where the photos lie that a table names: below ``root``, or beside the table."""

    def __init__(self, root: Path, beside: Path):
        self.root, self.places = root, (root, beside)

    def find(self, image: str) -> Path | None:
        """The file, which the table may name as on Windows, in other case, without its ending, or as on another machine."""
        for name in dict.fromkeys((image, image.replace("\\", "/"), unquote(image))):
            for base in self.places:
                if name and (base / name).is_file():
                    return base / name
        spelled = image.replace("\\", "/").casefold()
        if re.match(r"([a-z][a-z0-9+.-]*:)?/", spelled):  # an address, or a full path elsewhere: its end may be ours
            parts = PurePosixPath(spelled).parts
            spellings = ["/".join(parts[i:]) for i in range(1, len(parts))]
        else:
            spellings = [str(PurePosixPath(spelled))]
        return next((found for spelling in spellings if (found := self._by_spelling.get(spelling))), None)

    def is_one(self, image: str) -> bool:
        """Whether it is the whole name of a file: a header may be the name of a photo without its ending."""
        return any((base / image).is_file() for base in self.places)

    def looks_like_one(self, image: str) -> bool:
        return PurePosixPath(image).suffix.lower() in IMAGE_TYPES or self.find(image) is not None

    @cached_property
    def _by_spelling(self) -> dict[str, Path | None]:
        """Path below the root without case, with and without its ending; None where two files have it."""
        found: dict[str, Path | None] = {}
        for path in images_below(self.root):
            whole = path.relative_to(self.root).as_posix().casefold()
            for spelling in (whole, whole.rpartition(".")[0] or whole):
                found[spelling] = None if spelling in found else path
        return found


def _placed(image: str, photos: Photos) -> tuple[str, Path]:
    """The photo relative to the root and where it lies."""
    where = photos.find(image) or photos.root / image.replace("\\", "/")
    relative = PurePosixPath(os.path.relpath(where, photos.root).replace(os.sep, "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        raise InputError(f"{image}: names no photo below {photos.root}; give a path relative to that folder")
    return relative.as_posix(), where


def check_name(name: str, where: object, error: type[ShotsegError] = InputError) -> None:
    """Raise ``error`` for a class name that cannot be a folder's name; ``where``: what gives the name, for the message."""
    if not isinstance(name, str):
        raise error(f"{where}: class name {name!r} is of type {type(name).__name__}; give text")
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise error(f"{where}: class name {name[:40]!r}... is too long for a folder's name; shorten it")
    if not name or name[0] == "." or any(mark in name for mark in '/\\:*?"<>|\0\n'):
        raise error(f"{where}: class name {name!r} cannot be a folder's name; use letters, digits and spaces")
    device = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$) *(\..*)?", name, re.IGNORECASE)
    if device or name[-1] in ". " or name[0] == " " or has_controls(name):
        raise error(f"{where}: class name {name!r} cannot be a folder's name on Windows; rename the class")


def _check(image: str, names: Sequence[str], classes: Sequence[str]) -> None:
    if not names:
        raise InputError(f"{image}: no class name; say what it shows, or leave the row out")
    for name in names:
        check_name(name, image)
        if classes and name not in classes:
            raise InputError(f"{image}: class {name!r} is not among the given classes; add it, or mend the row")
