"""A file of JSON lines that only grows: what was said stands on the disk before it is acknowledged."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from shotseg.errors import InputError, UsageError, note

Event = dict[str, Any]
LOCKED = 2**30  # the byte that is locked on Windows


class Ledger:
    """path: of the file; it need not be there. One process at a time may write it.

    Raises UsageError where another process has it open. A folder that cannot be written can still be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = self._opened()
        data = path.read_bytes() if path.exists() else b""
        self._end = data.rfind(b"\n") + 1  # a last line that a kill cut short was never acknowledged
        self.events: list[Event] = []
        for number, line in enumerate(data[: self._end].splitlines(), start=1):
            try:
                self.events.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                note(f"{path}: line {number} is damaged and left out")

    def append(self, event: Event) -> None:
        """Returns once the event is on the disk. Raises InputError where it cannot be; nothing of it stays then."""
        try:
            if self._file is None:
                self._file = self._opened(must=True)
            assert self._file is not None
            try:
                self._file.seek(self._end)
                self._file.truncate()
                self._file.write((json.dumps(event) + "\n").encode())
                self._file.flush()
                os.fsync(self._file.fileno())
                self._end = self._file.tell()
            except OSError:
                self._take_back()
                raise
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); nothing was changed, free space and try again"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_back(self) -> None:
        """A closed file forgets what it could not write; the rest of a line would be taken off by the next event."""
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._end)

    def _opened(self, must: bool = False) -> BinaryIO | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        except OSError:
            if must:
                raise
            return None
        try:
            _lock(file)
        except OSError:
            file.close()
            raise UsageError(
                f"{self.path.parent}: open in another shotseg serve; use that one, or close it first"
            ) from None
        return file


def _lock(file: BinaryIO) -> None:
    """Take the file for this process alone, until it is closed. Raises OSError where another has it."""
    try:
        import fcntl
    except ImportError:  # Windows, where a byte far behind the end stands for the file, so that the rest can be read
        import msvcrt

        file.seek(LOCKED)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        file.seek(0)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
