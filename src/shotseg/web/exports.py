"""The masks of a project in the files of other tools, with what is left out said first."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shotseg.data.annotations import Labelled, names, write
from shotseg.data.listing import has_controls
from shotseg.web.album import shown
from shotseg.web.engine import Engine
from shotseg.web.said import PagePhoto

UNNAMED = "its name holds control characters or is no text; rename it"


@dataclass
class Plan:
    """photos: that have a mask.   left_out: (file, reason) of the others.   classes: name -> photos that show it."""

    photos: list[PagePhoto]
    left_out: list[tuple[str, str]]
    classes: dict[str, int]


def plan(engine: Engine, reviewed_only: bool = False, named: bool = True) -> Plan:
    """What an export would hold.   named: only photos that a file can name."""
    project = engine.project
    photos, left_out = [], []
    counted = Counter({own.name: 0 for own in project.classes})
    with project.lock:
        for photo in sorted(project.said.photos.values(), key=lambda photo: photo.file):
            reason = UNNAMED if named and has_controls(photo.file) else _reason(photo, reviewed_only)
            if reason is not None:
                left_out.append((shown(photo.file), reason))
                continue
            photos.append(photo)
            counted.update(own.name for own in project.classes if photo.areas.get(own.number))
    return Plan(photos, left_out, dict(counted))


def _reason(photo: PagePhoto, reviewed_only: bool) -> str | None:
    if photo.state == "rejected":
        return "rejected"
    if photo.reviewed:
        return None
    if photo.error is not None:
        return shown(photo.error)
    if photo.state == "open":
        return "no mask yet"
    return "not reviewed" if reviewed_only else None


def check(engine: Engine, format: str, found: Plan) -> None:
    """Raise UsageError for names that the format cannot hold."""
    classes = [own.name for own in engine.project.classes]
    names.check(format, classes, [photo.file for photo in found.photos], apart=True)


def export(engine: Engine, format: str, folder: Path, reviewed_only: bool = False) -> Path:
    """A zip below ``folder`` with the annotations in a format of :mod:`shotseg.data.annotations`.

    Photos are in it where the format wants them beside. Raises UsageError for names that the format cannot hold.
    """
    found = plan(engine, reviewed_only)
    check(engine, format, found)
    engine.project.album.know_names()
    out = folder / "export"
    out.mkdir()
    classes = [own.name for own in engine.project.classes]
    photos = "copy" if format in names.PHOTOS else "none"
    write(format, out, _labelled(engine, found), classes, photos=photos)
    if found.left_out:
        (out / "left_out.csv").write_bytes(_table([("file", "reason"), *found.left_out]))
    packed = folder / f"{format}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            dense = path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".heic", ".avif")
            kind = zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(out).as_posix(), kind)
    return packed


def areas(engine: Engine) -> bytes:
    """CSV: of every photo with a mask each class's area in pixels and part of the photo."""
    rows: list[tuple] = [("file", "state", "class", "pixels", "part")]
    with engine.project.lock:
        for photo in plan(engine, named=False).photos:
            for own in engine.project.classes:
                part = photo.areas.get(own.number, 0.0)
                pixels = round(part * photo.width * photo.height)
                rows.append((shown(photo.file), photo.state, own.name, pixels, round(part, 6)))
    return _table(rows)


def _labelled(engine: Engine, found: Plan) -> Iterator[Labelled]:
    for photo in found.photos:
        _, numbers = engine.mask(photo.id)
        name = engine.project.album.names[photo.id]
        there = photo.path if photo.path.is_file() else None
        yield Labelled(photo.file, engine.project.in_order(numbers), name, photo=there)


def _table(rows: list[tuple]) -> bytes:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue().encode("utf-8", "backslashreplace")
