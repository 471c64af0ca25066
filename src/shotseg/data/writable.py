"""Whether a result can be written, known before the work that it takes."""

from __future__ import annotations

import uuid
from pathlib import Path

from shotseg.data.images import TEMPORARY, write_bytes
from shotseg.errors import ShotsegError, UsageError


def check_out(path: Path, folder: bool = False, flag: str = "--out") -> None:
    """Raise UsageError where the file ``path`` (or, with ``folder``, a file in it) cannot be written."""
    probe = (path if folder else path.parent) / f"{TEMPORARY}{uuid.uuid4().hex}.tmp"
    try:
        if not folder and path.is_dir():
            raise UsageError(f"{flag} {path}: a folder; name a file in it")
        write_bytes(probe, b"")
        probe.unlink()
    except (OSError, ShotsegError) as error:
        if isinstance(error, UsageError):
            raise
        cause = error if isinstance(error, OSError) else error.__cause__
        file_above = isinstance(cause, FileExistsError | NotADirectoryError)
        reason = "a file stands above it" if file_above else getattr(cause, "strerror", None) or type(cause).__name__
        raise UsageError(f"{flag} {path}: cannot be written ({reason}); choose another place") from error
