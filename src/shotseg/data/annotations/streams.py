"""Files that are written bit by bit, and still appear whole or not at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from shotseg.data.images import TEMPORARY, unwritable


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to: a temporary name in the same folder, renamed at the end. Makes the folder if absent.

    Raises InputError (one line) where the folder cannot be written or the disk is full; nothing half-written stays.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            temporary.replace(path)
        except BaseException:  # also an interrupt
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


class JsonItems:
    """The items of a JSON list, written one at a time."""

    def __init__(self, file: IO[bytes]):
        self.file, self.count = file, 0

    def add(self, item: Any) -> None:
        self.file.write((b",\n" if self.count else b"") + dumped(item))
        self.count += 1


def dumped(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
