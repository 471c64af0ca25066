"""What is done of a run, kept as it goes, so that another run goes on from there.

A journal is a file of JSON lines, one journal a shard. Its first line, the :class:`Run`, says what decides the masks and
which photos there are; every further line is a photo: what it was when it was read, and its record for results.jsonl. The last
line of a run that came to its end says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from shotseg.data import remote
from shotseg.errors import InputError, UsageError, spoken
from shotseg.report import thumbnail
from shotseg.runs.destination import Folder
from shotseg.runs.output import STATE, full, remove_halves, remove_results, write_lines
from shotseg.runs.photo_list import PhotoFile, PhotoList
from shotseg.runs.photos import is_unchanged
from shotseg.runs.records import Record, Records, line_of
from shotseg.runs.scratch import Names

Entry = dict[str, Any]  # {"photo": what it was when it was read, "record": its line of results.jsonl}
END = b'{"end": true}\n'


@dataclass(frozen=True)
class Run:
    """What a journal is of.

    settings: what decides the masks.    folder: where the photos lie.    photos, names: how many there are, and the digest of
    all their names; a shard has its part of them.
    """

    settings: Record
    folder: str
    photos: int
    names: str
    part: int = 0
    count: int = 1

    @property
    def tag(self) -> str:
        """What stands before the endings of the shard's own files."""
        return "" if self.count == 1 else f".shard-{self.part + 1}-of-{self.count}"

    @property
    def own(self) -> int:
        """How many photos are the shard's."""
        return len(range(self.part, self.photos, self.count))

    def has(self, place: int) -> bool:
        """Whether the photo at a place, from 1, is the shard's."""
        return (place - 1) % self.count == self.part

    def is_with(self, other: Run | None) -> bool:
        """Whether both are parts of one run."""
        return other is not None and replace(self, part=0) == replace(other, part=0)

    def path(self, out: Path) -> Path:
        return out / STATE / f"journal{self.tag}.jsonl"

    def names_path(self, out: Path) -> Path:
        """The names of the shard's photos, done or not, one a line as JSON."""
        return out / STATE / f"names{self.tag}.jsonl"

    def results_path(self, out: Path) -> Path:
        return out / f"results{self.tag}.jsonl"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The first line of a journal; None where it is none of this version."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError), path.open("rb") as journal:
            run = cls(**json.loads(journal.readline()))
            return run if isinstance(run.settings["classes"], list) else None
        return None


class Journal:
    """The journal and the results of a run that :func:`start` made, to append to. A line is with the system when :meth:`add`
    returns, which a kill does not undo, and on the disk some seconds later, which a power cut does not."""

    def __init__(self, place: Folder, run: Run):
        self._place, self._run = place, run
        self._files = [path.open("ab") for path in (run.path(place.folder), run.results_path(place.folder))]
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.ExitStack() as stack:
            for file in self._files:
                stack.callback(file.close)
            self._sync()

    def add(self, entry: Entry) -> None:
        self._append(line_of(entry), line_of(entry["record"]))
        if time.monotonic() - self._synced > self._place.sync_seconds:
            self._sync()

    def _append(self, *lines: bytes) -> None:
        for file, line in zip(self._files, lines):
            file.write(line + b"\n")
            file.flush()

    def _sync(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self._place.grew(self._run.tag)
        self._synced = time.monotonic()


def start(place: Folder, run: Run, photos: PhotoList, resume: bool) -> Records:
    """Make a place ready for a run; the records of the photos that need not be done again.

    photos: all of them. Of earlier runs only what ``resume`` keeps stays there: photos of the same content that were done with
    the same settings.
    Raises UsageError where ``resume`` would mix two runs, OutputError where the place takes no more.
    """
    out = place.folder
    try:
        place.fetch()
        earlier = {path: Run.read(path) for path in sorted((out / STATE).glob("journal*.jsonl"))}
        kept = Records()
        if resume:
            _check_settings(place, run, earlier)
            _keep(kept, place, run, earlier, photos)
        for path, other in earlier.items():
            if other is not None and (path == run.path(out) or not other.is_with(run)):
                _clear(place, run, other, photos, kept)
        for tag in {"", run.tag}:
            remove_results(out, tag)
        if run.count == 1:  # other shards may be writing theirs
            _forget_others(out, run)
            remove_halves(out)
        mine = photos.part(run.part, run.count)
        write_lines(run.names_path(out), (line_of(photo.name) + b"\n" for _, photo in mine))
        write_lines(run.path(out), _whole_journal(run, kept))
        write_lines(run.results_path(out), kept.lines())
        place.began(run.tag)
    except (OSError, InputError) as error:
        raise full(place, error) from error
    return kept


def _whole_journal(run: Run, kept: Records) -> Iterator[bytes]:
    yield line_of(asdict(run)) + b"\n"
    yield from kept.journal()


def _check_settings(place: Folder, run: Run, earlier: Mapping[Path, Run | None]) -> None:
    own = run.path(place.folder)
    for other in [earlier[own]] if own in earlier else earlier.values():
        old = {} if other is None else other.settings
        changed = [key for key in {**run.settings, **old} if run.settings.get(key) != old.get(key)]
        if changed:
            raise UsageError(
                f"{place} was made with other settings ({', '.join(changed)}); choose another --out or leave --resume out"
            )


def _keep(kept: Records, at: Folder, run: Run, earlier: Mapping[Path, Run | None], photos: PhotoList) -> None:
    """Put the records of this shard's photos that are done as this run would do them into ``kept``."""
    asked = _Asked(photos)
    for path, other in earlier.items():
        if other is None or other.settings != run.settings:
            continue
        for entry in _entries(path):
            before, record = entry["photo"], entry["record"]
            if record["error"] is not None:
                continue
            place, photo = photos.find(record["name"]) or (0, None)
            if photo is not None and run.has(place) and _is_done(at, run, entry, photo):
                kept.add(place, record, before)
                continue
            gone = photo is None or photo.absolute != before["path"]
            if gone and before["path"] not in asked and _may_exist(before["path"]):
                raise UsageError(
                    f"{at} holds the masks of {before['path']}, which is not in the query; "
                    "choose another --out or leave --resume out"
                )


def _may_exist(path: str) -> bool:
    return remote.address(path) is not None or Path(path).exists()


class _Asked:
    """The paths of all photos, which are not looked up before the first is asked for."""

    def __init__(self, photos: PhotoList):
        self.photos = photos

    @cached_property
    def paths(self) -> Names:
        return Names(photo.absolute for photo in self.photos)

    def __contains__(self, path: str) -> bool:
        return path in self.paths


def _is_done(at: Folder, run: Run, entry: Entry, photo: PhotoFile) -> bool:
    if entry["record"]["file"] != photo.file or not is_unchanged(photo, entry["photo"]):
        return False
    known = run.settings["classes"]
    classes = [known[i] for i in photo.tags] or known
    pictures = [*(f"masks/{name}/{photo.name}" for name in classes), f"labels/{photo.name}"]
    return any(
        at.has([*(f"{stem}{ending}" for stem in pictures), thumbnail(photo.name)]) for ending in (".png", ".tif")
    )


def _clear(at: Folder, run: Run, other: Run, photos: PhotoList, kept: Records) -> None:
    """Remove what an earlier run wrote of this shard's photos, without those kept, and of photos that are gone.

    The photos of other shards are left to them: they may be at work.
    """

    def is_stale(name: str) -> bool:
        place, photo = photos.find(name) or (0, None)
        return photo is None or (run.has(place) and place not in kept)

    stale = Names(filter(is_stale, _lines(other.names_path(at.folder))))
    if stale:
        at.remove_pictures(stale, other.settings["classes"])


def _forget_others(out: Path, run: Run) -> None:
    """Remove the journals and tables of runs that ``run`` is no part of."""
    for path in (out / STATE).glob("journal*.jsonl"):
        if not run.is_with(Run.read(path)):
            path.unlink(missing_ok=True)
            path.with_name(path.name.replace("journal", "names", 1)).unlink(missing_ok=True)
            remove_results(out, path.stem.removeprefix("journal"))


def _entries(path: Path) -> Iterator[Entry]:
    """What a journal says of its photos."""
    return filter(_is_entry, _lines(path))


def _is_entry(line: Any) -> bool:
    try:
        record, before = line["record"].keys(), line["photo"].keys()
        failed = line["record"]["error"] is not None
    except (TypeError, KeyError, AttributeError):
        return False
    return record >= {"file", "name", "confidence"} and (failed or before >= {"path", "stat", "sha256", "tags"})


def _lines(path: Path) -> Iterator[Any]:
    """The lines of a file of JSON, none where there is no such file; one that was cut short by a kill or a power failure is left
    out."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def end(out: Path, run: Run, records: Records) -> None:
    """Put the results into the order of the photos, and say in the journal that the run is at its end."""
    write_lines(run.results_path(out), records.lines())
    with run.path(out).open("ab") as journal:
        journal.write(END)


def _is_at_end(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as journal:
        journal.seek(-len(END), os.SEEK_END)
        return journal.read() == END
    return False


def join_shards(place: Folder, run: Run) -> Records | None:
    """The records of all shards, to the last of them that finishes; None to the others."""
    out = place.folder
    if run.count > 1:
        place.finish()  # so that of two that come to their end at once each is seen by the other
        place.fetch()
    parts = [replace(run, part=part) for part in range(run.count)]
    if run.count == 1 or not all(_is_at_end(part.path(out)) for part in parts):
        return None
    for part in parts:
        if not run.is_with(Run.read(part.path(out))):
            what = f"{part.results_path(out)} is of a run with other settings or photos: not joined"
            warnings.warn(spoken(f"{what}; run --shard {part.part + 1}/{run.count} again"), stacklevel=3)
            return None
    place.fetch(part.tag for part in parts)
    joined = Records()
    for part in parts:
        for number, record in enumerate(_lines(part.results_path(out))):
            joined.add(1 + part.part + number * run.count, record)
    _forget_others(out, run)
    remove_halves(out)  # nobody is at work any more
    return joined
