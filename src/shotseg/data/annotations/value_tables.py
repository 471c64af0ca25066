"""Which class a value or a colour of masks is, by the tables that tools put beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from shotseg.data.annotations.labelled import read_json
from shotseg.data.annotations.voc import META, VOID, described
from shotseg.data.tables import column, plain, rows_of, text_of
from shotseg.errors import InputError, UsageError

Groups = Mapping[str, str]  # the named groups of a mask's path; "top" is what comes before the data set's own folders
Values = Mapping[int, str]  # value, or red << 16 | green << 8 | blue -> class, "" = background, VOID = ignored

COLOURS = ("class_dict.csv", "label_colors.txt", "class_mapping.csv", META)
FROM_ZERO = "codes.txt"  # of fastai
LISTS = (FROM_ZERO, "labels.txt", "classes.txt")  # one class a line; the others of PaddleSeg, mmsegmentation
NNUNET = "dataset.json"
PARTS = {"r": ("r", "red"), "g": ("g", "green"), "b": ("b", "blue")}
CELLS = ("classcolor", "color", "colour")  # a number, or "r g b", in one cell
NAMES = ("name", "class", "classname", "label")


def of_colours(root: Path, groups: Groups) -> Values:
    """The class of each colour, or of each value where the table says values."""
    return _of_colours(_first(root, COLOURS))


def by_line(root: Path, groups: Groups) -> Values:
    """The class of the value 0 in the first line of a table of colours, of 1 in the second, ..."""
    return {**dict(enumerate(_of_colours(_first(root, COLOURS)).values())), 255: VOID}


def of_list(root: Path, groups: Groups) -> Values:
    """The classes of the values from 1 on, one a line; a first "background" is the value 0, as each first line of fastai's."""
    return _of_list(_first(root, LISTS))


def of_nnunet(root: Path, groups: Groups) -> Values:
    return _of_nnunet(_first(root, (NNUNET,)))


def of_mots(root: Path, groups: Groups) -> Values:
    """The class of an object's number: that of its thousands, by ``labels.txt`` beside the masks."""
    table = root / groups["top"] / groups["part"] / "instances" / "labels.txt"
    return _of_mots(table if table.is_file() else None)


def of_vistas(root: Path, groups: Groups) -> Values:
    version = (groups["version"] or "").strip("/")
    return _of_config(root / groups["top"] / (f"config_{version}.json" if version else "config.json"))


def of_objects(root: Path, groups: Groups) -> Values | str:
    """The class of each object of a video, by meta.json; where there is none, that of all is the video's name."""
    table = root / groups["top"] / "meta.json"
    if not table.is_file():
        return groups["video"]
    try:
        objects = _of_videos(table).get(groups["video"], {}).get("objects", {})
        return {int(number): str(row.get("category", groups["video"])) for number, row in objects.items()}
    except (TypeError, ValueError, AttributeError):
        raise InputError(f"{table}: not a table of videos with their objects; copy it again") from None


def forget() -> None:
    """Before a folder is read: its tables may have changed since they were read last."""
    for table in (_of_config, _of_videos, _first, _of_colours, _of_list, _of_nnunet, _of_mots):
        table.cache_clear()


@lru_cache(maxsize=8)
def _first(root: Path, names: tuple[str, ...]) -> Path:
    """The first table in the folder, or in those below in which a data set is looked for."""
    depths = ("", "*/", "*/*/")
    found = (table for depth in depths for name in names for table in sorted(root.glob(f"{depth}{name}")))
    return next(found, root / names[0])


@lru_cache(maxsize=8)
def _of_config(path: Path) -> Values:
    try:
        labels = read_json(path)["labels"]
        return {i: row["name"] if row.get("evaluate", True) else VOID for i, row in enumerate(labels)}
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: not the table of Mapillary Vistas, labels with their names; copy it again") from None


@lru_cache(maxsize=8)
def _of_videos(path: Path) -> Mapping:
    return read_json(path)["videos"]


@lru_cache(maxsize=8)
def _of_mots(path: Path | None) -> Values:
    """Of the cars and pedestrians of MOTS, where there is no table; the thousands of 10 are what is not evaluated."""
    names = ["car", "pedestrian"] if path is None else [line.strip() for line in _text(path).splitlines()]
    told = {10: ""} | dict(enumerate(map(_meant, names), start=1))
    return {1000 * number + i: name for number, name in told.items() for i in range(1000)}


@lru_cache(maxsize=8)
def _of_nnunet(path: Path) -> Values:
    """``labels``: class -> value, in older files value -> class; "ignore" is ignored."""
    try:
        labels = read_json(path)["labels"].items()
        pairs = [(value, name) if str(value).isdecimal() else (name, value) for name, value in labels]
        return {int(value): VOID if name == "ignore" else _meant(name) for value, name in pairs}
    except (TypeError, KeyError, AttributeError, ValueError):
        why = "not the labels of nnU-Net, each a class with one value; regions of several are not read"
        raise InputError(f"{path}: {why}, write the classes that they are made of") from None


@lru_cache(maxsize=8)
def _of_list(path: Path) -> Values:
    names = [line.strip() for line in _text(path).splitlines() if line.strip() not in ("", "__ignore__")]
    if not names:
        raise InputError(f"{path}: empty; write one class a line")
    if path.name != FROM_ZERO and _meant(names[0]) not in ("", VOID):
        names = ["", *names]
    return {**dict(enumerate(map(_meant, names))), 255: VOID}


@lru_cache(maxsize=8)
def _of_colours(path: Path) -> Values:
    """Of columns name, r, g and b; of a name and a value or "r g b" in one cell; or of "r g b name" a line."""
    if path.name == META:
        meant = {code: _meant(name) for name, code in described(path)}
        if not read_json(path).get("segmentation_colors"):
            raise InputError(f"{path}: says no segmentation_colors, so which value is whose is not known; export COCO")
        return meant
    found: dict[int, str] = {}
    for name, *parts in _of_lines(path) if path.suffix == ".txt" else _of_rows(path):
        if len(parts) not in (1, 3) or not name or not all(part.isdecimal() and int(part) < 256 for part in parts):
            said = " ".join([*parts, name]).strip()
            raise InputError(f"{path}: {said[:60]!r} is not a name and r, g, b from 0 to 255; correct it")
        found[int.from_bytes(bytes(map(int, parts)), "big")] = _meant(name)
    return found


def _of_lines(path: Path) -> Iterable[Sequence[str]]:
    rows = [line.split(None, 3) for line in _text(path).splitlines() if line.strip() and line[0] != "#"]
    return [(" ".join(row[3:]).strip(), *row[:3]) for row in rows]


def _of_rows(path: Path) -> Iterable[Sequence[str]]:
    def begins(cells: list[str]) -> bool:
        return _columns(cells) is not None

    table = [row for _, row in _read(lambda: rows_of(path, begins))]
    columns = _columns(table[0]) if table else None
    if columns is None:
        raise InputError(f"{path}: not a table of colours; give the columns name, r, g and b")
    rows = [[row[i].strip() for i in columns if i < len(row)] for row in table[1:]]
    return [(row[0], *(row[1].split() if len(columns) == 2 else row[1:])) if len(row) > 1 else row for row in rows]


def _columns(cells: Sequence[str]) -> list[int] | None:
    """Where a name is, and its colour in three cells or in one; None where one is missing."""
    head = [plain(cell) for cell in cells]
    parts = [column(head, names) for names in PARTS.values()]
    at = [column(head, NAMES), *([column(head, CELLS)] if None in parts else parts)]
    return None if None in at else [i for i in at if i is not None]


def _meant(name: str) -> str:
    """A class, "" for the background, or VOID."""
    told = name.strip("_").casefold()
    if re.fullmatch("void|unknown|unlabell?ed", told):
        return VOID
    return "" if told in ("background", "raster_layer") else name  # the second names no object, but how V7 keeps masks


def _text(path: Path) -> str:
    return _read(lambda: text_of(path))


def _read(read: Callable):  # type: ignore[no-untyped-def]
    try:
        return read()
    except UsageError as error:
        raise InputError(str(error)) from None
