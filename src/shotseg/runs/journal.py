"""What is done of a run, kept as it goes, so that another run goes on from there.

A journal is a file of JSON lines, one journal a shard. Its first line, the :class:`Run`, says what decides the masks and
which photos there are; every further line is a photo: what it was when it was read, and its record for results.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, TextIO

from shotseg import report
from shotseg.data import images as files
from shotseg.errors import InputError, UsageError
from shotseg.runs.output import STATE, full, picture, remove_pictures, remove_results, text, write_results
from shotseg.runs.photos import PhotoFile, is_unchanged

Record = dict[str, Any]
Entry = dict[str, Any]  # {"photo": what it was when it was read, "record": its line of results.jsonl}


@dataclass(frozen=True)
class Run:
    """What a journal is of.

    settings: what decides the masks.    folder: where the photos lie.    names: of all photos; a shard has its part of them.
    """

    settings: Record
    folder: str
    names: tuple[str, ...]
    part: int = 0
    count: int = 1

    @property
    def tag(self) -> str:
        """What stands before the endings of the shard's own files."""
        return "" if self.count == 1 else f".shard-{self.part + 1}-of-{self.count}"

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the shard's part."""
        return self.names[self.part :: self.count]

    def is_with(self, other: Run | None) -> bool:
        """Whether both are parts of one run."""
        return other is not None and replace(self, part=0) == replace(other, part=0)

    def path(self, out: Path) -> Path:
        return out / STATE / f"journal{self.tag}.jsonl"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The first line of a journal; None where it is none of this version."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError), path.open(encoding="utf-8") as journal:
            about = json.loads(journal.readline())
            run = cls(**{**about, "names": tuple(about["names"])})
            return run if isinstance(run.settings["classes"], list) else None
        return None


def opened(out: Path, run: Run) -> TextIO:
    """The journal of a run that :func:`start` made, to append to."""
    return run.path(out).open("a", encoding="utf-8", errors="backslashreplace")


def line_of(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False)


def start(out: Path, run: Run, photos: Sequence[PhotoFile], resume: bool) -> dict[str, str]:
    """Make ``out`` ready for a run; name -> record (JSON) of the photos that need not be done again.

    photos: all of them, in the order of ``run.names``. Of earlier runs only what ``resume`` keeps stays there: photos of
    the same content that were done with the same settings.
    Raises UsageError where ``resume`` would mix two runs, OutputError where ``out`` takes no more.
    """
    try:
        earlier = {path: Run.read(path) for path in sorted((out / STATE).glob("journal*.jsonl"))}
        kept: dict[str, Entry] = {}
        if resume:
            _check_settings(out, run, earlier)
            kept = _finished(out, run, earlier, photos)
        for path, other in earlier.items():
            if other is not None and (path == run.path(out) or not other.is_with(run)):
                _clear(out, run, other, kept)
        for tag in {"", run.tag}:
            remove_results(out, tag)
        if run.count == 1:  # other shards may be writing theirs
            _forget_others(out, run)
            for half in out.rglob(f"{files.TEMPORARY}*.tmp"):
                half.unlink(missing_ok=True)
        files.write_bytes(run.path(out), text([line_of(asdict(run)), *map(line_of, kept.values())]))
    except (OSError, InputError) as error:
        raise full(out, error) from error
    return {name: line_of(entry["record"]) for name, entry in kept.items()}


def _check_settings(out: Path, run: Run, earlier: Mapping[Path, Run | None]) -> None:
    own = run.path(out)
    for other in [earlier[own]] if own in earlier else earlier.values():
        old = {} if other is None else other.settings
        changed = [key for key in {**run.settings, **old} if run.settings.get(key) != old.get(key)]
        if changed:
            raise UsageError(
                f"{out} was made with other settings ({', '.join(changed)}); choose another --out or leave --resume out"
            )


def _finished(out: Path, run: Run, earlier: Mapping[Path, Run | None], photos: Sequence[PhotoFile]) -> dict[str, Entry]:
    """name -> entry of the photos of this shard that are done as this run would do them."""
    mine = {photo.name: photo for photo in photos[run.part :: run.count]}
    asked = {photo.absolute for photo in photos}
    kept: dict[str, Entry] = {}
    for path, other in earlier.items():
        if other is None or other.settings != run.settings:
            continue
        for entry in _entries(path):
            photo, before = mine.get(entry["record"]["name"]), entry["photo"]
            if entry["record"]["error"] is not None:
                continue
            if photo is not None and _is_done(out, run, entry, photo):
                kept[photo.name] = entry
            elif before["path"] not in asked and Path(before["path"]).exists():
                raise UsageError(
                    f"{out} holds the masks of {before['path']}, which is not in the query; "
                    "choose another --out or leave --resume out"
                )
    return {photo.name: kept[photo.name] for photo in mine.values() if photo.name in kept}


def _is_done(out: Path, run: Run, entry: Entry, photo: PhotoFile) -> bool:
    if entry["record"]["file"] != photo.file or not is_unchanged(photo, entry["photo"]):
        return False
    known = run.settings["classes"]
    classes = [known[i] for i in photo.tags] or known
    written = [picture(folder, photo.name) for folder in (*(out / "masks" / name for name in classes), out / "labels")]
    written += [report.thumbnail_path(out / STATE, photo.name)]
    return all(path.is_file() for path in written)


def _clear(out: Path, run: Run, other: Run, kept: Collection[str]) -> None:
    """Remove what an earlier run wrote of this shard's photos, without those kept, and of photos that are gone.

    The photos of other shards are left to them: they may be at work.
    """
    everyone, own = set(run.names), set(run.own)
    stale = {name for name in other.own if name not in kept and (name in own or name not in everyone)}
    remove_pictures(out, stale, other.settings["classes"])


def _forget_others(out: Path, run: Run) -> None:
    """Remove the journals and tables of runs that ``run`` is no part of."""
    for path in (out / STATE).glob("journal*.jsonl"):
        if not run.is_with(Run.read(path)):
            path.unlink(missing_ok=True)
            remove_results(out, path.stem.removeprefix("journal"))


def _entries(path: Path) -> Iterator[Entry]:
    """What a journal says of its photos; a line that was cut short by a kill or a power failure is left out."""
    with path.open(encoding="utf-8", errors="replace") as journal:
        next(journal, None)
        for line in journal:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def join_shards(
    out: Path, run: Run, mine: list[str], failed_supports: Sequence[tuple[str, str]]
) -> tuple[str, list[str]]:
    """The last shard to finish writes the results of all under the plain names; gives the tag and lines to report."""
    parts = [replace(run, part=part) for part in range(run.count)]
    tables = [out / f"results{part.tag}.jsonl" for part in parts]
    if run.count == 1 or not all(table.is_file() for table in tables):
        return run.tag, mine
    for part, table in zip(parts, tables):
        if not run.is_with(Run.read(part.path(out))):
            warnings.warn(
                f"{table} is of a run with other settings or photos: not joined; run --shard {part.part + 1}/{run.count} again",
                stacklevel=3,
            )
            return run.tag, mine
    lines = [line for table in tables for line in table.read_text(encoding="utf-8").split("\n")[:-1]]
    joined = sorted(lines, key=lambda line: json.loads(line)["file"])
    _forget_others(out, run)
    write_results(out, "", joined, failed_supports)
    return "", joined
