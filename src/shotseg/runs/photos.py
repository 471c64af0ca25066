"""The photos of a run: which files a query means, how their masks are named, and whether one is still the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotseg.data import images as files
from shotseg.data.folder import find_images
from shotseg.errors import InputError, UsageError
from shotseg.photo import filed_as
from shotseg.runs.output import FOLDERS, annotation_files, has_run, result_files


@dataclass(frozen=True)
class PhotoFile:
    """A photo to segment. file: path below the query folder; name: of its masks, without suffix; both with "/".

    tags: the classes that it is known to show (numbers of the worker's ``classes``); empty where nothing is known.
    bands, page: which to read of a file with more, see :func:`shotseg.data.images.read_image`.
    """

    path: str
    file: str
    name: str
    tags: tuple[int, ...] = ()
    bands: tuple[int, ...] | None = None
    page: int = 1

    @property
    def absolute(self) -> str:
        """The path from the root; links stay as they are."""
        return os.path.abspath(self.path)  # noqa: PTH100 (Path.absolute keeps "..")


def find_photos(query: str | Path, out: Path | None = None) -> list[PhotoFile]:
    """The photos of a file, a folder (with its sub-folders) or a glob, in the order of their names below it.

    Of a folder with ``images/`` and ``masks/`` only the images are taken; what a run wrote, to ``out`` or elsewhere among the
    photos, never is. Photos that differ only in their suffix keep it in their name: "a.jpg" and "a.png" become "a_jpg" and
    "a_png".
    Raises UsageError where there is none.
    """
    base = Path(query)
    own = out is not None and out.resolve() == base.resolve() and has_run(out)
    if (base / "images").is_dir() and (base / "masks").is_dir() and not own:
        base = base / "images"
    found = find_images(base, skip=_results(out, base))
    if not base.is_dir():
        base = Path(os.path.commonpath([path.parent for path in found]))
    folders = {folder for place in {path.parent for path in found} for folder in (place, *place.parents)}
    runs = [folder for folder in folders if folder.is_relative_to(base) and has_run(folder)]
    results = _results(out, base).union(*map(_written, runs))
    relative = {
        path.relative_to(base): path for path in found if results.isdisjoint((_place(path), *_place(path).parents))
    }
    relative = {file: path for file, path in relative.items() if not any(part.startswith(".") for part in file.parts)}
    if not relative:
        raise UsageError(f"{query}: holds results only; give --query a folder of photos")
    return named([(file.as_posix(), str(path)) for file, path in relative.items()])


def _results(out: Path | None, base: Path) -> set[Path]:
    """The folders and files that a run wrote; where the photos lie in its folder, they themselves must stay in."""
    if out is None:
        return set()
    within = out.resolve() in (base.resolve(), *base.resolve().parents)
    if not within:
        return {out.resolve()}
    return _written(out)


def _written(out: Path) -> set[Path]:
    """The folders and files that a run writes into its folder."""
    return {(out / name).resolve() for name in FOLDERS} | {
        _place(path) for path in (*annotation_files(out), *result_files(out))
    }


def _place(path: Path) -> Path:
    """Where a file lies; of a link to a file, where the link does."""
    return path.parent.resolve() / path.name


def named(paths: Sequence[tuple[str, str]]) -> list[PhotoFile]:
    """The photos of (file, path) pairs, sorted by file, each with a name that no other has."""
    stems = Counter(filed_as(_stem(file)) for file, _ in paths)
    taken = {stem for stem, count in stems.items() if count == 1}
    photos = []
    for file, path in sorted(paths):
        name = _stem(file)
        if stems[filed_as(name)] > 1:
            name = f"{name}_{Path(file).suffix[1:]}"
            while filed_as(name) in taken:
                name += "_"
            taken.add(filed_as(name))
        photos.append(PhotoFile(path, file, name))
    return photos


def _stem(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def parse_shard(shard: str) -> tuple[int, int]:
    """ "2/4" is (1, 4): the second of four. "0/4" is taken as the fourth, so that counting from 0 covers all too."""
    try:
        part, count = (int(number) for number in shard.split("/"))
    except ValueError:
        part, count = -1, 0
    if not 0 <= part <= count or count < 1:
        raise UsageError(f"--shard {shard}: write i/n with i from 1 to n, as 2/4 for the second of four")
    return (part - 1) % count, count


def seen(photo: PhotoFile, whole: bool = True) -> tuple[bytes, dict[str, Any]]:
    """The content of a photo's file (nothing where ``whole`` is False), and what it is now, for the journal: where it lies, what
    the system says of its file, its digest, its tags.

    Raises InputError where it cannot be read.
    """
    stat = _stat(photo.absolute)  # before the content is read: a photo replaced meanwhile counts as another
    data = files.read_bytes(photo.path) if whole else b""
    digest = hashlib.sha256(data).hexdigest() if whole else files.sha256(photo.path)
    return data, {"path": photo.absolute, "stat": stat, "sha256": digest, "tags": list(photo.tags)}


def is_unchanged(photo: PhotoFile, before: Mapping[str, Any]) -> bool:
    """Whether a photo is the one of :func:`seen`: its file was not touched, or holds the same bytes."""
    if before["tags"] != list(photo.tags):
        return False
    try:
        untouched = before["path"] == photo.absolute and before["stat"] == _stat(photo.absolute)
        return untouched or before["sha256"] == files.sha256(photo.path)
    except InputError:
        return False


def _stat(path: str) -> list[int]:
    """Size, time of the content, and time of the file's own entry, which no copying tool sets; [] where there is no file."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
