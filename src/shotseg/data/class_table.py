"""``classes.csv``: which class each value of a label map is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from shotseg.data.tables import column, plain, rows_of
from shotseg.errors import UsageError

NUMBERS = ("classid", "labelid", "categoryid", "id", "classvalue", "pixelvalue", "pixel", "value", "index", "number")
OWN = ["class_id", "class"]  # as written by us: blanks around a name are part of it
NAMES = ("class", "classname", "label", "labelname", "category", "categoryname", "name", "title")
KNOWN = "class_id (also label id, id, value, index) and class (also class name, label, category, name)"


class ClassRow(NamedTuple):
    """A value, its class, and the ``kind`` of that, "" where the table has no such column."""

    value: int
    name: str
    kind: str


def read_class_table(path: Path) -> list[ClassRow]:
    """The rows in their order, each value once. Headers may be any of those known; without a header the value comes first.

    Raises UsageError where there is no such file, or where it is no such table.
    """
    table = rows_of(path, _begins)
    if not table:
        raise UsageError(f"{path}: empty; give the columns {KNOWN}")
    first = table[0][1]
    if _is_pair(first):
        value, name, kind, rows = 0, 1, None, table
    else:
        head, rows = [plain(cell) for cell in first], table[1:]
        value, name = _columns(path, first, head, rows)
        kind = column(head, ("kind",))
    own = first[:2] == OWN
    found: dict[int, ClassRow] = {}
    for line, row in rows:
        cells = [cell if own else cell.strip() for cell in row] + [""] * (1 + max(value, name, kind or 0) - len(row))
        number = _number(cells[value])
        if number is None or not cells[name].strip():
            raise UsageError(
                f"{path}: line {line}, {', '.join(filter(None, cells))!r}, a row without class_id and class; give both"
            )
        if number in found:
            raise UsageError(f"{path}: class_id {number} is there twice; give each class its own")
        found[number] = ClassRow(number, cells[name], "" if kind is None else cells[kind])
    return list(found.values())


def _columns(path: Path, first: list[str], head: list[str], rows: list[tuple[int, list[str]]]) -> tuple[int, int]:
    """The columns of the values and of the names: "label" may be either, its cells tell."""
    value = column(head, NUMBERS)
    if value is None:
        known = [i for i, cell in enumerate(head) if cell in NAMES]
        value = next(
            (
                i
                for i in known
                if len(known) > 1 and all(_number("".join(row[i : i + 1])) is not None for _, row in rows)
            ),
            None,
        )
    name = column([cell if i != value else "" for i, cell in enumerate(head)], NAMES)
    if value is None or name is None:
        raise UsageError(
            f"{path}: not a table with class_id and class: its headers are {', '.join(first)!r}; known are {KNOWN}"
        )
    return value, name


def _begins(cells: list[str]) -> bool:
    head = {plain(cell) for cell in cells}
    return _is_pair(cells) or (len(cells) > 1 and bool(head & {*NUMBERS, *NAMES}))


def _is_pair(cells: list[str]) -> bool:
    return len(cells) > 1 and _number(cells[0]) is not None and bool(cells[1].strip()) and _number(cells[1]) is None


def _number(cell: str) -> int | None:
    """A whole number of 0 or more, also as spreadsheets write it after an empty cell: 1.0."""
    whole, _, rest = cell.strip().partition(".")
    return int(whole) if whole.isdecimal() and not rest.strip("0") else None
