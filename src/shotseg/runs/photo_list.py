"""The photos of a run in their order, each with a name that no other has, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from shotseg.data import remote
from shotseg.data.images import PAGE_TYPE
from shotseg.errors import UsageError
from shotseg.photo import filed_as
from shotseg.runs.scratch import Scratch, restored, stored

# filed: what no two names may share. more: the further fields of a photo, JSON, where they are not those of all.
PHOTO = "(place INTEGER PRIMARY KEY, file BLOB, path BLOB, name BLOB, filed BLOB, more TEXT)"
TWINS = "SELECT filed FROM photo GROUP BY filed HAVING count(*) > 1"


@dataclass(frozen=True)
class PhotoFile:
    """A photo to segment. file: path below the query folder; name: of its masks, without suffix; both with "/".

    tags: the classes that it is known to show (numbers of the worker's ``classes``); empty where nothing is known.
    bands, page: which to read of a file with more, see :func:`shotseg.data.images.read_image`.
    pages: of the file, where each is a photo of the run.
    version: of a photo in a store what its listing says of the content.
    """

    path: str
    file: str
    name: str
    tags: tuple[int, ...] = ()
    bands: tuple[int, ...] | None = None
    page: int = 1
    pages: int = 1
    version: str = ""

    @property
    def absolute(self) -> str:
        """The path from the root; links stay as they are. Of an address what is not secret."""
        if remote.address(self.path):
            return remote.shown(self.path)
        return os.path.abspath(self.path)  # noqa: PTH100 (Path.absolute keeps "..")

    @property
    def by_itself(self) -> str:
        """The file in which it is a photo by itself, which of a page is one that is written."""
        return f"{self.name}{PAGE_TYPE}" if self.pages > 1 else self.file

    @property
    def sequence(self) -> str:
        """What it is a frame of: its file where that has several pages, else its folder."""
        return self.path if self.pages > 1 else os.path.dirname(self.file)  # noqa: PTH120 (fast)

    @property
    def shown(self) -> str:
        """The path as it may be said in a line."""
        if self.pages > 1:
            return f"{self.path}, page {self.page}"
        return remote.shown(self.path) if remote.address(self.path) else self.path

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The photo that :func:`dataclasses.asdict` made these of, also after their way through JSON."""
        bands = fields.get("bands")
        return cls(**{**fields, "tags": tuple(fields.get("tags", ())), "bands": bands and tuple(bands)})


class PhotoList:
    """Photos in the order in which they are given; it can be walked as often as one likes.

    names: how many names they have, where letter case and the like make none.
    """

    def __init__(self, photos: Iterable[PhotoFile] = ()):
        self._scratch, self._same = Scratch(f"CREATE TABLE photo {PHOTO}"), dict[str, Any]()
        self._scratch.fill("INSERT INTO photo VALUES (NULL, ?, ?, ?, ?, ?)", map(_row, photos))
        self._count()

    @classmethod
    def named(cls, found: Iterable[tuple[str, str] | tuple[str, str, dict[str, Any]]], **same: Any) -> Self:
        """The photos of (file, path), sorted by file, each with a name that no other has. Those that differ only in their
        suffix keep it in their name. Further fields of :class:`PhotoFile` stand in a third part, or in ``same`` for all."""
        photos, scratch = cls(), Scratch(f"CREATE TABLE photo {PHOTO}; CREATE TABLE found {PHOTO}")
        photos._scratch, photos._same = scratch, same
        rows = (
            (stored(file), stored(path), stored(filed_as(_stem(file))), json.dumps(more[0]) if more else None)
            for file, path, *more in found
        )
        scratch.fill("INSERT INTO found (file, path, filed, more) VALUES (?, ?, ?, ?)", rows)
        scratch.script(
            "INSERT INTO photo SELECT NULL, file, path, NULL, filed, more FROM found ORDER BY file, path;"
            f"DROP TABLE found; CREATE INDEX by_name ON photo (filed); CREATE TABLE twin AS {TWINS};"
            "UPDATE photo SET filed = NULL WHERE filed IN (SELECT filed FROM twin)"
        )
        photos._tell_twins_apart()
        photos._count()
        return photos

    def _tell_twins_apart(self) -> None:
        while row := self._scratch.one("SELECT place, file FROM photo WHERE filed IS NULL ORDER BY place"):
            file = restored(row[1])
            name = f"{_stem(file)}_{Path(file).suffix[1:]}"
            while self._scratch.one("SELECT 1 FROM photo WHERE filed = ?", stored(filed_as(name))):
                name += "_"
            names = stored(name), stored(filed_as(name))
            self._scratch.do("UPDATE photo SET name = ?, filed = ? WHERE place = ?", *names, row[0])

    def _count(self) -> None:
        self._scratch.script("CREATE INDEX IF NOT EXISTS by_name ON photo (filed)")
        self._length, self.names = self._scratch.one("SELECT count(*), count(DISTINCT filed) FROM photo")

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[PhotoFile]:
        return (photo for _, photo in self.part(0, 1))

    def part(self, part: int, count: int) -> Iterator[tuple[int, PhotoFile]]:
        """(place, photo) of every ``count``-th photo, from ``part`` on; places count from 1."""
        wanted = "SELECT * FROM photo WHERE (place - 1) % ? = ? ORDER BY place"
        return ((row[0], self._photo(row)) for row in self._scratch.rows(wanted, count, part))

    def find(self, name: str) -> tuple[int, PhotoFile] | None:
        """The place of the photo of that name, and the photo."""
        row = self._scratch.one("SELECT * FROM photo WHERE filed = ?", stored(filed_as(name)))
        found = row and self._photo(row)
        return (row[0], found) if found and found.name == name else None

    def twice(self) -> str | None:
        """A file that two photos have."""
        row = self._scratch.one("SELECT file FROM photo GROUP BY file HAVING count(*) > 1")
        return row and restored(row[0])

    def _photo(self, row: tuple[int, bytes, bytes, bytes | None, bytes, str | None]) -> PhotoFile:
        file, more = restored(row[1]), self._same | (json.loads(row[5]) if row[5] else {})
        name = _stem(file) if row[3] is None else restored(row[3])
        return PhotoFile.of({"path": restored(row[2]), "file": file, "name": name, **more})


def _stem(file: str) -> str:
    """As ``Path(file).with_suffix("")``, a tenth of the time."""
    stem, ending = os.path.splitext(file)  # noqa: PTH122
    return stem if len(ending) > 1 else file


def _row(photo: PhotoFile) -> tuple[bytes, bytes, bytes, bytes, str]:
    if not isinstance(photo, PhotoFile):
        raise UsageError(
            f"photos: one of type {type(photo).__name__}; give what shotseg.runs.find_photos gives of files"
        )
    fields = asdict(photo)
    texts = stored(fields.pop("file")), stored(fields.pop("path")), stored(fields.pop("name"))
    return (*texts, stored(filed_as(photo.name)), json.dumps(fields))
