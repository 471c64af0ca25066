"""The files of a run under its folder: checked before, written at its end, removed when another run takes their place."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shotseg.data import images as files
from shotseg.errors import InputError, ShotsegError, UsageError

STATE = ".shotseg"
FOLDERS = ("masks", "labels", "soft", "tlg")  # of the pictures that a result writes
PICTURES = (".png", ".jpg", ".tif", ".geojson")
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}  # no other photo can be written either


class OutputError(ShotsegError):
    """The output folder takes no more: the run stops, and can be resumed."""


def picture(folder: Path, name: str) -> Path:
    """The mask or label map of a photo: PNG, or TIFF where it was large or a map."""
    large = folder / f"{name}.tif"
    return large if large.is_file() else folder / f"{name}.png"


def has_run(folder: Path) -> bool:
    """Whether a run wrote its results there."""
    return any((folder / STATE).glob("journal*.jsonl"))


def result_files(out: Path) -> list[Path]:
    """The tables and pages of a run and of its shards."""
    return [
        path for kind in ("results*.jsonl", "errors*.csv", "report*.html", "classes.txt") for path in out.glob(kind)
    ]


def check_output(out: Path, annotations: str = "mask") -> None:
    """Make the folder ``out``.

    Raises UsageError where nothing can be written there, and where masks or annotations in it, which no run has written,
    would be written over.
    """
    if not has_run(out):
        for name in (*FOLDERS, annotations):
            if any(path.is_file() for path in (out / name).rglob("*")):
                raise UsageError(
                    f"--out {out}: {name}/ in it is your own and would be written over; choose another folder"
                )
    probe = out / STATE / f"probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error


def full(out: Path, error: OSError | InputError) -> OutputError:
    """The error for a folder that takes no more."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or str(error)
    return OutputError(f"{out}: cannot be written ({reason}); free space, then run again with --resume")


def text(lines: Iterable[str]) -> bytes:
    """Lines as UTF-8; a byte of a file name that is none becomes the escape that JSON has for it."""
    return "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")


def write_results(out: Path, tag: str, lines: Sequence[str], failed_supports: Sequence[tuple[str, str]]) -> None:
    """``results.jsonl`` and, where something failed, ``errors.csv``."""
    files.write_bytes(out / f"results{tag}.jsonl", text(lines))
    records = map(json.loads, lines)
    failed = [(record["file"], record["error"]) for record in records if record["error"] is not None]
    write_errors(out, [*failed_supports, *failed], tag)


def write_errors(out: Path, failed: Sequence[tuple[str, str]], tag: str = "") -> None:
    """``errors.csv`` with the columns file and error; without any, an earlier one goes."""
    path = out / f"errors{tag}.csv"
    path.unlink(missing_ok=True)
    if failed:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("file", "error"), *failed])
        files.write_bytes(path, table.getvalue().encode("utf-8", "backslashreplace"))


def write_annotations(out: Path, format: str, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill ``out/<format>``, and note which files are new there, for the run that comes next."""
    folder = out / format
    there = set(folder.rglob("*"))
    write(folder)
    new = [path.relative_to(out).as_posix() for path in folder.rglob("*") if path not in there and path.is_file()]
    files.write_bytes(out / STATE / "annotations.json", json.dumps(new).encode())


def annotation_files(out: Path) -> list[Path]:
    """The files that :func:`write_annotations` noted."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [out / file for file in json.loads((out / STATE / "annotations.json").read_bytes())]
    return []


def remove_results(out: Path, tag: str) -> None:
    """Remove the tables and the page of a run or shard; of a whole run also its annotations."""
    for name in (f"results{tag}.jsonl", f"errors{tag}.csv", f"report{tag}.html"):
        (out / name).unlink(missing_ok=True)
    if not tag:
        _remove(out, [*annotation_files(out), out / STATE / "annotations.json"])


def remove_pictures(out: Path, names: set[str], classes: Iterable[str]) -> None:
    """Remove the masks, label maps and thumbnails of the photos ``names``; others in the same folders stay."""
    folders = [out / kind / name for name in classes for kind in ("masks", "soft")]
    folders += [out / "labels", out / "tlg", out / STATE / "thumbnails"]
    found = ((folder, path) for folder in folders for path in folder.rglob("*"))
    _remove(out, [path for folder, path in found if not names.isdisjoint(_photos_of(path, folder))])


def _photos_of(path: Path, folder: Path) -> set[str]:
    """The names of the photos that a picture may be of."""
    if path.suffix not in PICTURES:
        return set()
    name = path.relative_to(folder).with_suffix("").as_posix()
    return {name, re.sub(r"--\d+$", "", name)} if folder.name == "tlg" else {name}


def _remove(out: Path, paths: Iterable[Path]) -> None:
    """Remove files, and the folders below ``out`` that they leave empty. What a link puts elsewhere is not touched."""
    root = out.resolve()
    folders: set[Path] = set()
    for path in paths:
        above = path.parent.resolve().parents
        if path.is_dir() or root not in (path.parent.resolve(), *above):
            continue
        path.unlink(missing_ok=True)
        folders |= set(path.parents) - {out, *out.parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
