"""What makes a start quick and can be had again: how large photos are, and what was predicted, which gives the list its order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotseg.data.images import upright_size, write_bytes
from shotseg.errors import InputError

if TYPE_CHECKING:
    from shotseg.web.project import Project

FILE = "predicted.json"


def keep(project: Project) -> None:
    """Raises InputError where it cannot be written."""
    known = {
        photo.id: {"confidence": photo.confidence, "present": photo.present, "areas": photo.areas, "size": photo.size}
        for photo in project.said.photos.values()
        if photo.state == "predicted"
    }
    write_bytes(project.folder / "encoded" / FILE, json.dumps(known).encode())


def restore(project: Project) -> None:
    """What cannot be read is predicted again all the same."""
    try:
        known = dict(json.loads((project.folder / "encoded" / FILE).read_bytes()))
        for id, found in known.items():
            photo = project.said.photos.get(id)
            if photo is not None and photo.state in ("open", "predicted") and list(photo.size) == found["size"]:
                photo.confidence, photo.state = float(found["confidence"]), "predicted"
                photo.present, photo.areas = (
                    {int(n): float(x) for n, x in found[k].items()} for k in ("present", "areas")
                )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return


def rows_of(results: Path) -> Iterator[Any]:
    """The lines of a ``results.jsonl``, None for a damaged one. Raises OSError."""
    for line in filter(None, results.read_text("utf-8", "replace").split("\n")):  # names hold other ends of lines
        try:
            yield json.loads(line)
        except ValueError:
            yield None


class Sizes:
    """(height, width) of photos by their ids; no header is read again of a file that is as it was.

    file: where they are kept.
    """

    def __init__(self, file: Path):
        self._file = file
        self._kept, self._known = dict[str, list[int]](), dict[str, list[int]]()
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            for id, known in json.loads(file.read_bytes()).items():
                size, time, height, width = map(int, known)
                self._kept[id] = [size, time, height, width]

    def of(self, id: str, path: Path) -> tuple[int, int]:
        """Raises InputError for a file that is no photo, or is not there any more."""
        try:
            stat = path.stat()
        except OSError:
            return upright_size(path)  # which says why
        now, known = [stat.st_size, stat.st_mtime_ns], self._kept.get(id, [])
        if known[:2] != now:
            known = [*now, *upright_size(path)]
        self._known[id] = known
        return known[2], known[3]

    def keep(self) -> None:
        """For the next start; that they cannot be written costs time then, nothing else."""
        if self._known != self._kept:
            with contextlib.suppress(InputError):
                write_bytes(self._file, json.dumps(self._known).encode())
            self._kept = dict(self._known)
