"""The photos of a run: which files a query means, how their masks are named, and which of them a shard takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shotseg.data.folder import find_images
from shotseg.errors import UsageError


@dataclass(frozen=True)
class PhotoFile:
    """A photo to segment. file: path below the query folder; name: of its masks, without suffix; both with "/".

    tags: the classes that it is known to show (numbers of the worker's ``classes``); empty where nothing is known.
    """

    path: str
    file: str
    name: str
    tags: tuple[int, ...] = ()


def find_photos(query: str | Path, out: Path | None = None) -> list[PhotoFile]:
    """The photos of a file, a folder (with its sub-folders) or a glob, in the order of their names below it.

    Of a folder with ``images/`` and ``masks/`` only the images are taken; what lies under ``out`` never is. Photos that
    differ only in their suffix keep it in their name: "a.jpg" and "a.png" become "a_jpg" and "a_png".
    Raises UsageError where there is none.
    """
    base = Path(query)
    if (base / "images").is_dir() and (base / "masks").is_dir():
        base = base / "images"
    found = find_images(base)
    if not base.is_dir():
        base = Path(os.path.commonpath([path.parent for path in found]))
    relative = {path.relative_to(base): path for path in found}
    if out is not None:
        # Where the results lie beside the photos, the photos themselves must stay in.
        beside = out.resolve() == base.resolve()
        written = {folder.resolve() for folder in ([out / "masks", out / "labels"] if beside else [out])}
        relative = {file: path for file, path in relative.items() if written.isdisjoint(path.resolve().parents)}
    relative = {file: path for file, path in relative.items() if not any(part.startswith(".") for part in file.parts)}
    if not relative:
        raise UsageError(f"{query}: holds results only; give --query a folder of photos")
    return named([(file.as_posix(), str(path)) for file, path in relative.items()])


def named(paths: Sequence[tuple[str, str]]) -> list[PhotoFile]:
    """The photos of (file, path) pairs, sorted by file, each with a name that no other has."""
    # Names are compared without case: macOS and Windows cannot keep "A.png" beside "a.png".
    stems = Counter(_stem(file).casefold() for file, _ in paths)
    taken = {stem for stem, count in stems.items() if count == 1}
    photos = []
    for file, path in sorted(paths):
        name = _stem(file)
        if stems[name.casefold()] > 1:
            name = f"{name}_{Path(file).suffix[1:]}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
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
