"""What Label Studio exports, as tasks: JSON, JSON-MIN, CSV and TSV. Which annotation of a task counts is decided here."""

from __future__ import annotations

import base64
import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from shotseg.data.annotations.drawn import BROKEN
from shotseg.data.annotations.labelled import inside, malformed, note, read_json, some
from shotseg.data.annotations.sniff import json_kind, listed
from shotseg.data.images import IMAGE_TYPES, read_bytes
from shotseg.data.tables import long_cells
from shotseg.errors import InputError

LOCAL = "/data/local-files/?d="
STORED = "fileuri"  # holds the address of a photo in a cloud storage, in base 64
BASE_64 = str.maketrans(" -_", "++/")  # its three other spellings within an address
TABLES = (".csv", ".tsv")
MARKS = (",", "\t", ";")  # between cells; the last where a spreadsheet saved the table again
COLUMNS = {"annotation_id", "annotator", "lead_time"}  # of every table that it exports
HEAD = 1 << 16


class Task(NamedTuple):
    """A photo's task: the file that it stands in, the photo's address, and the regions of the annotation that counts."""

    source: Path
    address: str
    regions: list[dict]


class Row(NamedTuple):
    """One entry of an export. ``given``: the annotations that count, each with its regions as ``result``."""

    key: tuple
    address: str
    given: list[dict]
    guessed: bool


def files(path: Path) -> list[Path]:
    """The exports that ``path`` is, or holds: its tables only where there is no JSON."""
    beside = [path] if path.is_file() else listed(path, ".json")
    found = [file for file in beside if json_kind(file) == "labelstudio"]
    tables = [path] if path.is_file() else listed(path, *TABLES)
    return found or [file for file in tables if file.suffix.lower() in TABLES and _mark(file)]


def tasks_of(found: Iterable[Path], path: Path) -> tuple[list[Task], int]:
    """The tasks of exports, and how many more there are: what cannot be used is named. InputError where none can be.

    Of several annotations the one marked as ground truth counts, else the last. Predictions count where nobody annotated.
    """
    rows: dict[tuple, tuple[Path, Row]] = {}
    bare, several, guessed = 0, set(), 0
    broken: list[InputError] = []
    for file in found:
        for number, entry in enumerate(_entries(file), start=1):
            try:
                row = _row(entry, (file, number))
            except BROKEN as error:
                broken.append(malformed(file, error, f"an export of Label Studio, task {number}"))
                continue
            earlier = rows.get(row.key)
            given = [*(earlier[1].given if earlier else ()), *row.given]
            if len(given) > 1:
                several.add(row.key)
            bare, guessed = bare + (not row.given), guessed + row.guessed
            if given:
                rows[row.key] = file, row._replace(given=given)
    if not rows and (broken or bare):
        raise next(iter(broken), None) or InputError(f"{path}: nobody has annotated its {bare} tasks; annotate some")
    for reason in broken:
        note(str(reason))
    for count, what in (
        (bare, "left out, nobody has annotated them"),
        (len(several), "have several annotations, the ground truth or else the last counts"),
        (guessed if guessed < len(rows) else 0, "are known by predictions alone, which nobody has looked at"),
    ):
        if count:
            note(f"{path}: {count} tasks {what}")
    tasks = []
    for file, row in rows.values():
        try:
            tasks.append(Task(file, row.address, _regions(row.given)))
        except BROKEN as error:
            note(str(malformed(file, error, f"an export of Label Studio, the task of {row.address[:80]}")))
    _name_answers(path, tasks)
    return [task._replace(regions=_objects(task.regions)) for task in tasks], bare + len(broken) + len(rows) - len(
        tasks
    )


def names_of(region: dict) -> list[str]:
    """The classes of a region."""
    value = region.get("value")
    if not isinstance(value, dict):
        return []
    given = (names for kind, names in value.items() if kind.endswith("labels") and isinstance(names, list))
    return list(dict.fromkeys(str(name) for names in given for name in names))


def file_names(tasks: Iterable[Task]) -> Iterator[str | InputError]:
    """The photo of each task as a path below a folder: the last part of an address, or all of it where another one ends alike.

    In place of a name that leads out of its folder, the reason.
    """
    tasks = list(tasks)
    ends: dict[str, set[str]] = {}
    for task in tasks:
        ends.setdefault(posixpath.basename(_path(task.address)), set()).add(task.address)
    for task in tasks:
        path = _path(task.address)
        alone = LOCAL not in task.address and len(ends[posixpath.basename(path)]) == 1
        try:
            yield inside(posixpath.basename(path) if alone else path, task.source)
        except InputError as error:
            yield error


def _path(address: str) -> str:
    """The path in an address, without the place that it begins at."""
    if LOCAL in address:
        return unquote(address.split(LOCAL)[1])
    parts = urlsplit(address)
    if stored := parse_qs(parts.query).get(STORED):
        try:
            return _path(base64.b64decode(stored[0].translate(BASE_64) + "===").decode())
        except ValueError:  # not in base 64, or no text
            return stored[0]
    return unquote(parts.path).lstrip("/") if parts.scheme or parts.path.startswith("/") else unquote(address)


def _entries(file: Path) -> list[Any]:
    if file.suffix.lower() not in TABLES:
        content = read_json(file)
        return content if isinstance(content, list) else [content]
    text = io.StringIO(read_bytes(file).decode("utf-8-sig", "replace"), newline="")
    try:
        with long_cells():
            rows = list(csv.DictReader(text, delimiter=_mark(file) or ","))
    except csv.Error as error:
        raise InputError(f"{file}: cannot be read as a table ({error}); export it again") from error
    return [{name: _cell(cell) for name, cell in row.items() if name} for row in rows]


def _cell(cell: str | None) -> Any:
    """Regions stand in a cell as JSON."""
    if cell and cell.lstrip().startswith("[{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _mark(file: Path) -> str:
    """What stands between the cells of a table that Label Studio exports; "" where it is another one."""
    try:
        with file.open("rb") as opened:
            first = opened.readline(HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return ""
    return next((mark for mark in MARKS if {cell.strip().strip('"') for cell in first.split(mark)} >= COLUMNS), "")


def _row(entry: dict, place: tuple) -> Row:
    address, given = _address(entry), given_of(entry)
    # JSON-MIN and tables have a row for each annotation of a task.
    key = place if "data" in entry else (place[0], entry.get("id"), address)
    guessed = "data" in entry and bool(given) and not (entry.get("annotations") or entry.get("completions"))
    return Row(key, address, given, guessed)


def given_of(task: dict) -> list[dict]:
    """A task's annotations that were not skipped, or its predictions where nobody annotated, with the regions as ``result``."""
    if "data" not in task:  # JSON-MIN: the regions' values by the name of their tag
        rows = (row for value in task.values() if isinstance(value, list) for row in value if isinstance(row, dict))
        return [{"result": [{**row, "value": row} for row in rows]}]
    drawn = task.get("annotations") or task.get("completions") or []
    predicted = [p for p in task.get("predictions") or [] if isinstance(p, dict)]  # a full export holds their ids alone
    return [a for a in drawn if not (a.get("was_cancelled") or a.get("skipped"))] if drawn else predicted


def _regions(given: list[dict]) -> list[dict]:
    marked = [annotation for annotation in given if annotation.get("ground_truth")]
    return [region for region in (marked or given)[-1]["result"] if "value" in region]


def _objects(regions: list[dict]) -> list[dict]:
    """The regions that have a place. Other answers about one that has a class repeat its place, and are passed over."""
    known = {str(region["id"]) for region in regions if names_of(region) and region.get("id") is not None}
    return [r for r in regions if _has_place(r) and (names_of(r) or str(r.get("id")) not in known)]


def _has_place(region: dict) -> bool:
    value = region.get("value")
    return isinstance(value, dict) and (
        bool(names_of(region)) or bool({"x", "points", "rle", "imageDataURL", "vertices"} & value.keys())
    )


def _name_answers(path: Path, tasks: Iterable[Task]) -> None:
    """Say how many answers are about whole photos, as choices and ratings are."""
    answers = [region for task in tasks for region in task.regions if not _has_place(region)]
    if answers:
        kinds = sorted({str(region.get("type") or "answer") for region in answers})
        note(f"{path}: {len(answers)} answers about whole photos, which are no masks, left out ({some(kinds)})")


def _address(task: dict) -> str:
    """What the task says of its photo: under "image", else the first value that names one."""
    data = task.get("data", task)
    texts = [data.get("image"), *data.values()]
    named = [t for t in texts if isinstance(t, str) and PurePosixPath(unquote(t)).suffix.lower() in IMAGE_TYPES]
    return named[0] if named else data["image"]
