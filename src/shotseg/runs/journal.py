"""What a run leaves under its folder, and how another run goes on from there.

Every finished photo is a line of the journal at once; results.jsonl, errors.csv and the pages are written at the end.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shotseg import report
from shotseg.data import images as files
from shotseg.errors import InputError, ShotsegError, UsageError

Record = dict[str, Any]

STATE = ".shotseg"
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}  # no other photo can be written either


class OutputError(ShotsegError):
    """The output folder takes no more: the run stops, and can be resumed."""


def check_output(out: Path) -> None:
    """Make the folder ``out``. Raises UsageError where nothing can be written there."""
    probe = out / STATE / f"probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error


def write_errors(out: Path, failed: Sequence[tuple[str, str]], tag: str = "") -> None:
    """``errors.csv`` with the columns file and error; without any, an earlier one goes."""
    path = out / f"errors{tag}.csv"
    path.unlink(missing_ok=True)
    if failed:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("file", "error"), *failed])
        files.write_bytes(path, table.getvalue().encode())


def full(out: Path, error: OSError | InputError) -> OutputError:
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or str(error)
    return OutputError(f"{out}: cannot be written ({reason}); free space, then run again with --resume")


def journal_path(out: Path, tag: str) -> Path:
    return out / STATE / f"journal{tag}.jsonl"


def start(out: Path, tag: str, settings: Record, resume: bool, known: Mapping[str, set[str]]) -> dict[str, str]:
    """Make ``out`` ready; name -> journal line of what an earlier run finished (nothing without ``resume``).

    known: name -> the classes that its result must have, where it may have others than it had.
    """
    about = out / STATE / "settings.json"
    text = json.dumps(settings, ensure_ascii=False, indent=1, sort_keys=True)
    lines: dict[str, str] = {}
    try:
        if resume and about.exists():
            earlier = json.loads(about.read_text(encoding="utf-8"))
            changed = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
            if changed:
                raise UsageError(
                    f"{out} was made with another {', '.join(changed)}; choose another --out or leave --resume"
                )
            finished = (
                (line, record) for line, record in records(journal_path(out, tag)) if _is_done(record, known, out)
            )
            lines = {record["name"]: line for line, record in finished}
        for old in (f"results{tag}.jsonl", f"errors{tag}.csv", f"report{tag}.html"):
            (out / old).unlink(missing_ok=True)
        if not tag:  # other shards may be writing theirs
            for half in out.rglob(f"{files.TEMPORARY}*.tmp"):
                half.unlink(missing_ok=True)
        files.write_bytes(about, text.encode())
        files.write_bytes(journal_path(out, tag), _text(lines.values()))
    except (OSError, InputError) as error:
        raise full(out, error) from error
    return lines


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """The lines of a journal and what they say; one that was cut short by a kill or a power failure is left out."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as journal:
            for line in journal:
                with contextlib.suppress(ValueError):
                    yield line.rstrip("\n"), json.loads(line)


def _is_done(record: Record, known: Mapping[str, set[str]], out: Path) -> bool:
    if set(record["classes"]) != known.get(record["name"], set(record["classes"])):
        return False
    written = [out / "masks" / name / f"{record['name']}.png" for name in record["classes"]]
    written += [out / "labels" / f"{record['name']}.png", report.thumbnail_path(out / STATE, record["name"])]
    return record["error"] is None and all(path.is_file() for path in written)


def _text(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def write_results(out: Path, tag: str, lines: Sequence[str], failed_supports: Sequence[tuple[str, str]]) -> None:
    files.write_bytes(out / f"results{tag}.jsonl", _text(lines))
    found = (json.loads(line) for line in lines)
    failed = [(record["file"], record["error"]) for record in found if record["error"]]
    write_errors(out, [*failed_supports, *failed], tag)


def join_shards(
    out: Path, tag: str, count: int, mine: list[str], failed_supports: Sequence[tuple[str, str]]
) -> tuple[str, list[str]]:
    """The last shard to finish writes the results of all under the plain names; gives the tag and lines to report."""
    parts = [out / f"results.shard-{i + 1}-of-{count}.jsonl" for i in range(count)]
    if count == 1 or not all(path.is_file() for path in parts):
        return tag, mine
    pairs = sorted((pair for path in parts for pair in records(path)), key=lambda pair: pair[1]["file"])
    joined = [line for line, _ in pairs]
    write_results(out, "", joined, failed_supports)
    return "", joined
