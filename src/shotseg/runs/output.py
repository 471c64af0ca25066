"""The files of a run under its folder: checked before, written at its end, removed when another run takes their place."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

from shotseg.data import images as files
from shotseg.data import remote
from shotseg.data.annotations.streams import whole
from shotseg.data.listing import entries
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.report import STATE
from shotseg.runs.scratch import Names

OVERLAY = "overlay.mp4"  # of a sequence
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
        path
        for kind in ("results*.jsonl", "errors*.csv", "report*.html", "classes.txt", OVERLAY)
        for path in out.glob(kind)
    ]


def check_output(out: Path, annotations: str = "mask") -> None:
    """Make the folder ``out``.

    Raises UsageError where nothing can be written there, and where masks or annotations in it, which no run has written,
    would be written over.
    """
    if place := remote.address(out):
        _check_store(place, annotations)
        return
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


def _check_store(place: str, annotations: str) -> None:
    said = remote.shown(place)
    if place.partition("://")[0] in remote.WEB:
        raise UsageError(f"--out {said}: cannot be written; give a folder of this machine or of a store, as s3://...")
    if annotations != "mask":
        raise UsageError(
            f"--out {said}: --format and --instances write to a folder of this machine; leave them out, or give such an --out"
        )
    if not any(remote.below(f"{place}/{STATE}/journals")):
        for name in FOLDERS:
            if any(remote.below(f"{place}/{name}")):
                raise UsageError(
                    f"--out {said}: {name}/ in it is your own and would be written over; choose another folder"
                )
    remote.put(b"", f"{place}/{STATE}/probe")
    remote.remove(f"{place}/{STATE}/probe")


def full(out: object, error: OSError | InputError) -> OutputError:
    """The error for a folder that takes no more."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or str(error)
    return OutputError(f"{out}: cannot be written ({reason}); free space, then run again with --resume")


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """A file of lines, whole or not at all."""
    with whole(path) as file:
        file.writelines(lines)


def write_errors(out: Path, failed: Iterable[tuple[str, str]], tag: str = "") -> None:
    """``errors.csv`` with the columns file and error; without any, an earlier one goes."""
    path = out / f"errors{tag}.csv"
    path.unlink(missing_ok=True)
    failed = iter(failed)
    if first := next(failed, None):
        write_lines(path, map(_row, chain([("file", "error"), first], failed)))


def _row(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode("utf-8", "backslashreplace")


def write_annotations(out: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Let each writer fill ``out/<its name>``, and note which files are new there, for the run that comes next."""
    new: list[str] = []
    for name, write in writers.items():
        folder = out / name
        there = set(folder.rglob("*"))
        write(folder)
        new += [path.relative_to(out).as_posix() for path in folder.rglob("*") if path not in there and path.is_file()]
    files.write_bytes(out / STATE / "annotations.json", json.dumps(new).encode())


def annotation_files(out: Path) -> list[Path]:
    """The files that :func:`write_annotations` noted."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [out / file for file in json.loads((out / STATE / "annotations.json").read_bytes())]
    return []


def remove_results(out: Path, tag: str) -> None:
    """Remove the tables and the pages of a run or shard; of a whole run also its annotations."""
    tables = [out / name for name in (f"results{tag}.jsonl", f"errors{tag}.csv", f"report{tag}.html")]
    _remove(out, chain(tables, files_below(out / STATE / f"pages{tag}")))
    if not tag:
        _remove(out, [*annotation_files(out), out / STATE / "annotations.json", out / OVERLAY])


def remove_pictures(out: Path, names: Names, classes: Iterable[str]) -> None:
    """Remove the masks, label maps and thumbnails of the photos ``names``; others in the same folders stay."""
    found = ((folder, path) for folder in picture_folders(classes) for path in files_below(out / folder))
    _remove(out, (path for folder, path in found if is_picture_of(path.relative_to(out).as_posix(), folder, names)))


def picture_folders(classes: Iterable[str]) -> list[str]:
    """Where a run puts its pictures."""
    folders = [f"{kind}/{name}" for name in classes for kind in ("masks", "soft")]
    return [*folders, "labels", "tlg", f"{STATE}/thumbnails"]


def is_picture_of(file: str, folder: str, names: Names) -> bool:
    """Whether a file below a folder of pictures may be of one of the photos ``names``."""
    name, ending = os.path.splitext(file.removeprefix(f"{folder}/"))  # noqa: PTH122 (fast)
    short = re.sub(r"--\d+$", "", name) if folder == "tlg" else name
    return ending in PICTURES and (name in names or short in names)


def remove_halves(out: Path) -> None:
    """Remove files that a killed run began."""
    _remove(out, (path for path in files_below(out) if path.name.startswith(files.TEMPORARY) and path.suffix == ".tmp"))


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, as they are found; links to folders are not followed."""
    for path in entries(folder):
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        else:
            yield path


def _remove(out: Path, paths: Iterable[Path]) -> None:
    """Remove files, and the folders below ``out`` that they leave empty. What a link puts elsewhere is not touched."""
    root = out.resolve()
    folders: set[Path] = set()

    @cache
    def is_inside(folder: Path) -> bool:
        place = folder.resolve()
        return root in (place, *place.parents)

    for path in paths:
        if path.is_dir() or not is_inside(path.parent):
            continue
        path.unlink(missing_ok=True)
        if path.parent not in folders:
            folders |= {path.parent, *path.parents} - {out, *out.parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
