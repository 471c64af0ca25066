"""Tables of run lengths, as Kaggle has them: a photo, "start length start length ...", and perhaps a class in each row.

Starts count from 1, down the columns. Some tables count along the rows: the runs of an object tell, since those of neighbouring
lines begin one line apart.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Photos, Shape, numbered, size
from shotseg.data.annotations.labelled import inside, malformed, note, some, usable
from shotseg.data.annotations.sniff import listed
from shotseg.data.images import upright_size
from shotseg.data.listing import subfolders
from shotseg.data.tables import column, long_cells, plain, text_of
from shotseg.errors import InputError, UsageError
from shotseg.errors import note as say

RUNS = ("encodedpixels", "rle", "encoding", "rlemask", "maskrle", "rleencoding", "segmentation", "annotation", "mask")
PHOTOS = ("imageid", "image", "id", "img", "imgid", "filename", "imagename", "file")
CLASSES = ("classid", "class", "label", "classname", "category", "categoryid", "celltype")
BOTH = ("imageidclassid", "imagelabel", "imageclass", "imageidlabel")  # photo and class in one cell, joined by "_"
NONE = ("", "-1", "nan", "none", "null")  # of a photo without the object
ASKED = 400  # rows that are asked for their direction


class Row(NamedTuple):
    photo: str
    name: str
    runs: str
    size: tuple[int, int] | None


def files(path: Path) -> list[Path]:
    """The tables that ``path`` is, or holds."""
    found = [path] if path.is_file() and path.suffix.lower() == ".csv" else listed(path, ".csv")
    return [file for file in found if _is_table(file)]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a table, or a folder with some. Each row is an object; rows without run lengths name photos without one.

    Classes are in the order of their names, numbers by their value; without a column of them it is the folder's name.
    Raises InputError where there is no table, or no row that can be read.
    """
    root = path if path.is_dir() else path.parent
    contents, broken = usable(files(path), partial(_rows, alone=root.resolve().name or "object"))
    if not contents:
        raise InputError(f"{path}: no table of run lengths in it; give one with the columns ImageId and EncodedPixels")
    classes = sorted(numbered(row.name for _, rows in contents for row in rows), key=_by_value)
    number = {name: i for i, name in enumerate(classes, start=1)}
    finder = Photos(images or root, *([images] if images else ()), *subfolders(images or root).values())
    photos = [photo for table, rows in contents for photo in _photos(table, rows, number, finder)]
    return Annotations(classes, photos, broken)


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.readline(1 << 12).decode("utf-8-sig", "replace")
        first = file.readline(1 << 16).decode("utf-8", "replace")
    heads = [plain(cell) for cell in head.split(",")]
    named = column(heads, BOTH) is not None or column(heads, PHOTOS) is not None
    sure = heads and bool({"encodedpixels", "rle", "rlemask", "maskrle", "rleencoding"} & set(heads))
    return (
        named
        and column(heads, RUNS) is not None
        and bool(sure or re.search(r"(^|,)\"?\d+ \d+( \d+ \d+)*\"?(,|\s*$)", first))
    )


def _rows(path: Path, alone: str) -> tuple[Path, list[Row]]:
    """alone: the class, where no column says it."""
    try:
        with long_cells():
            cells = [row for row in csv.reader(io.StringIO(text_of(path), newline="")) if any(row)]
    except (csv.Error, UsageError) as error:
        raise malformed(path, error, "a table of run lengths") from error
    heads = [plain(cell) for cell in cells[0]]
    both, runs = column(heads, BOTH), column(heads, RUNS)
    places = column(heads, PHOTOS) if both is None else both, column(heads, CLASSES), runs
    high, wide = column(heads, ("height", "imageheight", "h")), column(heads, ("width", "imagewidth", "w"))
    found, short = [], []
    for line, row in enumerate(cells[1:], start=2):
        try:
            photo, name, drawn = ("" if place is None else row[place].strip() for place in places)
            if both is not None:
                photo, _, name = photo.rpartition("_")
            frame = None if high is None or wide is None else size(row[high], row[wide])
            found.append(Row(inside(photo, path), name or alone, drawn, frame))
        except (InputError, *BROKEN):
            short.append(line)
    if short:
        note(f"{path}: {len(short)} rows without a photo left out (lines {some(short)})")
    if not found:
        raise InputError(f"{path}: no row that names a photo; export it again")
    return path, found


def _photos(path: Path, rows: list[Row], number: dict[str, int], finder: Photos) -> list[Annotated]:
    objects: dict[str, list[Row]] = {}
    for row in rows:
        objects.setdefault(row.photo, []).append(row)
    found = {file: finder.find(file) for file in objects}
    frames = {file: _size(same, found[file]) for file, same in list(objects.items())[:ASKED]}
    drawn = [(row.runs, frame) for row in rows if (frame := frames.get(row.photo)) and row.runs.lower() not in NONE]
    across = _goes_across(path, drawn[:ASKED])
    first = 0 if any(re.match(r"0\s", row.runs) for row in rows) else 1
    return [
        Annotated(
            file if photo is None or Path(file).suffix else f"{file}{photo.suffix}",
            path,
            same[0].size,
            [
                Shape(number[row.name], partial(draw, row.runs, across=across, first=first))
                for row in same
                if row.runs.lower() not in NONE
            ],
            photo,
        )
        for (file, same), photo in zip(objects.items(), found.values())
    ]


def _size(rows: list[Row], photo: Path | None) -> tuple[int, int] | None:
    try:
        return rows[0].size or (photo and upright_size(photo)) or None
    except InputError:
        return None


def _goes_across(path: Path, drawn: Iterable[tuple[str, tuple[int, int]]]) -> bool:
    """Whether runs go along the rows: runs that follow each other then begin about a width apart, not a height."""
    down = across = 0
    for text, (height, width) in drawn:
        if height == width:
            continue
        try:
            steps = np.diff(_numbers(text)[::2])
        except BROKEN:
            continue
        near = min(height, width) // 8
        down += int((abs(steps - height) <= near).sum())
        across += int((abs(steps - width) <= near).sum())
    if not down and not across:
        say(f"{path}: run lengths are read down the columns, as Kaggle counts; square photos do not tell")
    elif across > down:
        say(f"{path}: its run lengths go along the rows, not down the columns, and are read so")
    return across > down


def _numbers(text: str) -> np.ndarray:
    """(2N,) int64 of N runs. Raises ValueError for other text."""
    found = [int(number) for number in text.split()]
    if len(found) % 2:
        raise ValueError(f"run lengths of {len(found)} numbers")
    return np.array(found, np.int64)


def draw(text: str, height: int, width: int, across: bool = False, first: int = 1) -> np.ndarray:
    """(H, W) bool of run lengths. Raises ValueError where they leave the photo."""
    starts, lengths = _numbers(text).reshape(-1, 2).T
    starts = starts - first
    if len(starts) and (starts.min() < 0 or lengths.min() < 0 or (starts + lengths).max() > height * width):
        raise ValueError(f"run lengths that leave a photo of {width} x {height}")
    steps = np.zeros(height * width + 1, np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    flat = np.cumsum(steps[:-1]) > 0
    return flat.reshape(height, width) if across else flat.reshape(width, height).T


def _by_value(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
