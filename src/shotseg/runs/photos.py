"""The photos of a run: which files a query means, how their masks are named, and whether one is still the same."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from shotseg.data import images as files
from shotseg.data import remote
from shotseg.data.listing import each_image
from shotseg.data.pairing import is_beside_its_photo
from shotseg.errors import InputError, UsageError, note
from shotseg.runs.output import FOLDERS, annotation_files, has_run, result_files
from shotseg.runs.photo_list import PhotoFile, PhotoList
from shotseg.runs.scratch import Names

SHARDS = 10**6  # of a run


def find_photos(query: str | Path, out: Path | None = None, **same: Any) -> PhotoList:
    """The photos of a file, a folder (with its sub-folders) or a glob, in the order of their names below it.

    Of a folder with ``images/`` and ``masks/`` only the images are taken; what a run wrote, to ``out`` or elsewhere among the
    photos, never is. Photos that differ only in their suffix keep it in their name: "a.jpg" and "a.png" become "a_jpg" and
    "a_png".
    An address is a photo, a folder or pattern in a store, or a list of addresses, which may also be a file of this machine
    and name photos of it.
    same: further fields of :class:`PhotoFile`, of all of them.
    Raises UsageError where there is none.
    """
    base = Path(query)
    if (place := remote.address(query)) or (base.suffix.lower() in remote.LISTS and base.is_file()):
        return _find_remote(base, place, out, same)
    own = out is not None and out.resolve() == base.resolve() and has_run(out)
    if (base / "images").is_dir() and (base / "masks").is_dir() and not own:
        base = base / "images"
    found = Names(str(path) for path in each_image(base, skip=_results(out, base)))
    places = {Path(folder) for folder in {os.path.dirname(path) for path in found}}  # noqa: PTH120 (fast)
    if not base.is_dir():
        base = Path(os.path.commonpath(places))
    folders = {folder for place in places for folder in (place, *place.parents)}
    runs = [folder for folder in folders if folder.is_relative_to(base) and has_run(folder)]
    below = _below(base, found, _results(out, base).union(*map(_written, runs)))
    photos = PhotoList.named(_without_masks(query, below) if Path(query).is_dir() else below, **same)
    if not photos:
        raise UsageError(f"{query}: holds results only; give --query a folder of photos")
    return photos


def pages_of(photos: PhotoList, wanted: str) -> PhotoList:
    """The same with each page of a file of several as a photo of its own, named "stack_p003"; others stay as they are.

    wanted: "all", or pages from 1, as "1-20" or "3,7-9".
    Raises UsageError for what is no such text, where no photo is left, and for photos at an address.
    """
    ranges = _ranges(wanted)

    def each(photo: PhotoFile) -> Iterator[PhotoFile]:
        if remote.address(photo.path):
            raise UsageError(f"{photo.shown}: --pages is of files on this machine; leave it out")
        count = files.pages_in(photo.path, photo.bands)
        numbers = [page for page in range(1, count + 1) if any(page in one for one in ranges)]
        if not numbers:
            note(f"{photo.file}: none of --pages {wanted}, it has {count}; it is left out")
        for page in numbers:
            name = files.page_name(photo.name, page, count)
            file = f"{photo.file}#{name.rpartition('_p')[2]}" if count > 1 else photo.file
            yield replace(photo, file=file, name=name, page=page, pages=count)

    found = PhotoList(page for photo in photos for page in each(photo))
    if not found:
        raise UsageError(f"--pages {wanted}: no file has such a page; choose others")
    if found.names < len(found):
        raise UsageError("--pages: a photo is named as a page of another, as stack_p003; rename it")
    return found


def _ranges(wanted: str) -> list[range]:
    """The pages that a text means. Raises UsageError for any other text."""
    ends = [part.strip().split("-") for part in (wanted if wanted != "all" else f"1-{sys.maxsize}").split(",")]
    if not all(len(end) <= 2 and all(number.isdecimal() and int(number) for number in end) for end in ends):
        raise UsageError(f"--pages {wanted}: give all, or pages from 1, as 1-20 or 3,7-9")
    return [range(int(end[0]), int(end[-1]) + 1) for end in ends]


def _find_remote(query: Path, place: str | None, out: Path | None, same: dict[str, Any]) -> PhotoList:
    """place: the address that the query is; None: it is a list of addresses."""
    said = str(query) if place is None else remote.shown(place)
    found = remote.listed(_lines(query), said) if place is None else remote.photos_at(place)
    results = _results_in_store(place, out)
    photos = PhotoList.named((photo for photo in found if not photo[1].startswith(results)), **same)
    if not photos:
        raise UsageError(
            f"{said}: no image found; give a photo, a folder or pattern in a store, or a list of addresses"
        )
    if twice := photos.twice():
        mend = 'give each a name, as {"url": ..., "file": ...} in a .jsonl'
        raise UsageError(f"{said}: two photos are called {twice}; {mend}")
    return photos


def _results_in_store(query: str | None, out: Path | None) -> tuple[str, ...]:
    """How the addresses begin of what a run writes; where the photos lie in its folder, they themselves must stay in."""
    store = out and remote.address(out)
    if not store or query is None:
        return ()
    store = store.rstrip("/") + "/"
    within = f"{query}/".startswith(store)
    return tuple(f"{store}{folder}/" for folder in FOLDERS) if within else (store,)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        yield from lines


def _below(base: Path, paths: Iterable[str], results: set[Path]) -> Iterator[tuple[str, str]]:
    """(file, path) of the photos that are no results, nor in a hidden folder."""

    @cache
    def place_of(folder: Path) -> Path | None:
        place = folder.resolve()
        hidden = any(part.startswith(".") for part in folder.relative_to(base).parts)
        return None if hidden or not results.isdisjoint((place, *place.parents)) else place

    for path in map(Path, paths):
        place = place_of(path.parent)
        if place is not None and place / path.name not in results and not path.name.startswith("."):
            yield path.relative_to(base).as_posix(), str(path)


def _without_masks(query: str | Path, found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The same without masks that lie beside their photos; how many is said."""
    masks = 0
    for file, path in found:
        if is_beside_its_photo(Path(path)):
            masks += 1
        else:
            yield file, path
    if masks:
        note(
            f"{query}: {masks} masks beside their photos are not segmented; as photos they are taken by a pattern, as *_mask.png"
        )


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


def named(paths: Iterable[tuple[str, str]]) -> PhotoList:
    """The photos of (file, path) pairs, sorted by file, each with a name that no other has."""
    return PhotoList.named(paths)


def parse_shard(shard: str) -> tuple[int, int]:
    """ "2/4" is (1, 4): the second of four. "0/4" is taken as the fourth, so that counting from 0 covers all too."""
    try:
        part, count = (int(number) for number in shard.split("/"))
    except ValueError:
        part, count = -1, 0
    if not 0 <= part <= count or not 1 <= count <= SHARDS:
        raise UsageError(
            f"--shard {shard}: write i/n with i from 1 to n, {SHARDS} at most, as 2/4 for the second of four"
        )
    return (part - 1) % count, count


def seen(photo: PhotoFile, whole: bool = True) -> tuple[bytes | Path, dict[str, Any]]:
    """The content of a photo's file (nothing where ``whole`` is False; of a page the path), and what it is now, for the journal:
    where it lies, what the system says of its file, its digest, its tags.

    Raises InputError where it cannot be read.
    """
    stat = stat_of(photo)  # before the content is read: a photo replaced meanwhile counts as another
    data: bytes | Path
    if photo.pages > 1:
        data, digest = Path(photo.path), _digest(photo.path, tuple(stat))
    elif not whole:
        data, digest = b"", files.sha256(photo.path)
    else:
        data = remote.read(photo.path) if remote.address(photo.path) else files.read_bytes(photo.path)
        digest = hashlib.sha256(data).hexdigest()
    return data, {"path": photo.absolute, "stat": stat, "sha256": digest, "tags": list(photo.tags)}


def is_unchanged(photo: PhotoFile, before: Mapping[str, Any]) -> bool:
    """Whether a photo is the one of :func:`seen`: its file was not touched, or holds the same bytes."""
    if before["tags"] != list(photo.tags):
        return False
    try:
        untouched = before["path"] == photo.absolute and before["stat"] == stat_of(photo)
        return untouched or (
            not remote.address(photo.path) and before["sha256"] == _digest(photo.path, tuple(stat_of(photo)))
        )
    except InputError:
        return False


@lru_cache(maxsize=1)
def _digest(path: str, stat: tuple[int | str, ...]) -> str:
    """Of a file, once for all frames of a video or pages of a stack."""
    return files.sha256(path)


def stat_of(photo: PhotoFile) -> list[int | str]:
    """Size, time of the content, and time of the file's own entry, which no copying tool sets; [] where there is no file. Of an
    address what the store's listing said: nothing is asked of each photo."""
    if remote.address(photo.path):
        return [photo.version]
    try:
        stat = os.stat(photo.absolute)  # noqa: PTH116
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
