"""What results.jsonl says of one photo, and the records of all photos of a run, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shotseg.result import Result
from shotseg.runs.scratch import Scratch

Record = dict[str, Any]
# doubt: the confidence, null where the photo failed. seen: what the photo was when it was read, of records of an earlier run.
TABLE = "CREATE TABLE record (place INTEGER PRIMARY KEY, line BLOB, doubt REAL, seen BLOB)"


class Records:
    """The records of photos by their places, to be had in that order or by doubt; whatever their number, in bounded memory."""

    def __init__(self) -> None:
        self._scratch = Scratch(TABLE)

    def add(self, place: int, record: Record, seen: Record | None = None) -> None:
        doubt = None if record["error"] is not None else record["confidence"]
        known = None if seen is None else line_of(seen)
        self._scratch.do("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)", place, line_of(record), doubt, known)

    def __contains__(self, place: int) -> bool:
        return self._scratch.one("SELECT 1 FROM record WHERE place = ?", place) is not None

    def __len__(self) -> int:
        return self._scratch.one("SELECT count(*) FROM record")[0]

    def __iter__(self) -> Iterator[Record]:
        return map(json.loads, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Of results.jsonl, in the order of the photos."""
        return (line + b"\n" for (line,) in self._scratch.rows("SELECT line FROM record ORDER BY place"))

    def journal(self) -> Iterator[bytes]:
        """Lines of a journal."""
        rows = self._scratch.rows("SELECT seen, line FROM record ORDER BY place")
        return (b'{"photo": %b, "record": %b}\n' % row for row in rows)

    @property
    def failed(self) -> int:
        return self._scratch.one("SELECT count(*) FROM record WHERE doubt IS NULL")[0]

    def failures(self) -> Iterator[tuple[str, str]]:
        """(file, reason) of those that failed."""
        rows = self._scratch.rows("SELECT line FROM record WHERE doubt IS NULL ORDER BY place")
        return ((record["file"], record["error"]) for record in (json.loads(line) for (line,) in rows))

    def doubtful(self, most: int = -1) -> Iterator[Record]:
        """Those that did not fail, the least confident first; at most ``most``, unless that is -1."""
        self._scratch.script("CREATE INDEX IF NOT EXISTS by_doubt ON record (doubt, place)")
        rows = self._scratch.rows("SELECT line FROM record WHERE doubt NOT NULL ORDER BY doubt, place LIMIT ?", most)
        return (json.loads(line) for (line,) in rows)


def line_of(content: Any) -> bytes:
    """JSON; a byte of a file name that is no text becomes the escape that JSON has for it."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def record_of(result: Result | None) -> Record:
    """The part of a photo's line that is about what was found; None: it could not be segmented, and all is null.

    classes: area and confidence of each class that covers any pixel.     class: the largest of them, null where there is
    none.         area: of that class.         confidence: of the photo.         present: of every class the probability that
    it is in the photo.
    """
    if result is None:
        return {"class": None, "area": None, "confidence": None, "classes": {}, "present": {}}
    areas = {name: area for name, area in result.areas.items() if area > 0}
    main = max(areas, key=areas.__getitem__, default=None)
    classes = {
        name: {"area": round(area, 6), "confidence": round(result.confidences[name], 6)} for name, area in areas.items()
    }
    area = 0.0 if main is None else classes[main]["area"]
    present = {name: round(result.present[name], 4) for name in result.classes}
    confidence = round(result.confidence, 6)
    return {"class": main, "area": area, "confidence": confidence, "classes": classes, "present": present}
