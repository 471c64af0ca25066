"""Tables as people and spreadsheets save them: CSV and its relatives, in UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shotseg.data.images import read_bytes
from shotseg.errors import InputError, UsageError

MARKS = (",", "\t", ";", "|")  # between cells
WORKBOOK = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx, .ods and .xls begin


@contextmanager
def long_cells() -> Iterator[None]:
    """Within it ``csv`` takes a cell as long as the outline or the mask of a large photo."""
    longest = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(longest)


def text_of(path: Path) -> str:
    """The text of a file. Raises UsageError where it is none, or cannot be read."""
    try:
        data = read_bytes(path)
        if data[:4] in WORKBOOK:
            raise UsageError(f"{path}: a workbook or an archive, no text; save its sheet as CSV UTF-8")
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except InputError as error:
        raise UsageError(str(error)) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8")
    return text


def rows_of(path: Path, begins: Callable[[list[str]], bool]) -> list[tuple[int, list[str]]]:
    """(line, cells) of every row that is not empty.

    begins: whether cells may be the first row; the first mark with which they may is the one between cells. Where there is
    none, it is the first mark that occurs. A first line ``sep=;`` says it too. Raises UsageError where it is no table.
    """
    text = text_of(path)
    said = re.match(r"sep=(.)\s*[\r\n]+", text)
    if said:
        return _split(path, text[said.end() :], said[1], 1)
    first = next((line for line in text.splitlines() if line.strip(" ,;|\t")), "")
    present = [mark for mark in MARKS if mark in first] or [","]
    fit = (mark for mark in present if any(begins(cells) for cells in csv.reader([first], delimiter=mark)))
    return _split(path, text, next(fit, present[0]), 0)


def _split(path: Path, text: str, mark: str, above: int) -> list[tuple[int, list[str]]]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        return [(reader.line_num + above, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}); save it as comma-separated UTF-8") from error


def plain(header: str) -> str:
    """A header without case, blanks and marks: "Image Name" is "imagename"."""
    return re.sub(r"[\W_]+", "", header).casefold()


def column(head: Sequence[str], known: Sequence[str]) -> int | None:
    """The column whose header comes first among the known ones."""
    return next((head.index(name) for name in known if name in head), None)
