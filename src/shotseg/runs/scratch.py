"""What a run must look up about all of its photos, on disk: a database that goes with the process, also when that is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from shotseg.errors import UsageError

MEMORY = 16  # MiB of a database that stay in memory; the rest lies in a file without a name


class Scratch:
    """Tables that take a bounded part of the memory, whatever they hold.

    SQLite puts what does not fit into the folder for temporary files. Text that is no Unicode (names of files) is kept as it is.
    """

    def __init__(self, tables: str):
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self.script(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{MEMORY << 10}; BEGIN; {tables}"
        )

    def script(self, statements: str) -> None:
        with _told():
            self._database.executescript(statements)

    def do(self, statement: str, *values: Any) -> None:
        with _told():
            self._database.execute(statement, values)

    def fill(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with _told():
            self._database.executemany(statement, rows)

    def one(self, statement: str, *values: Any) -> Any:
        """The first row; None where there is none."""
        with _told():
            return self._database.execute(statement, values).fetchone()

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Every row, fetched as they are asked for."""
        with _told():
            yield from self._database.execute(statement, values)


class Names:
    """A set of texts that takes no memory."""

    def __init__(self, names: Iterable[str]):
        self._scratch = Scratch("CREATE TABLE name (text BLOB PRIMARY KEY) WITHOUT ROWID")
        self._scratch.fill("INSERT OR IGNORE INTO name VALUES (?)", ((stored(name),) for name in names))

    def __contains__(self, name: str) -> bool:
        return self._scratch.one("SELECT 1 FROM name WHERE text = ?", stored(name)) is not None

    def __iter__(self) -> Iterator[str]:
        return (restored(text) for (text,) in self._scratch.rows("SELECT text FROM name ORDER BY text"))

    def __bool__(self) -> bool:
        return self._scratch.one("SELECT 1 FROM name") is not None


def stored(text: str) -> bytes:
    """Text as bytes that sort as it does, also where a file's name is no Unicode."""
    return text.encode("utf-8", "surrogatepass")


def restored(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UsageError(
            f"the folder for temporary files takes no more ({error}); free space, or set TMPDIR"
        ) from error
