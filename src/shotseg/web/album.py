"""The photos of a project: by reference where they lie, or dropped on the page; each with an id, never asked for by a path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shotseg.data.images import write_bytes
from shotseg.data.listing import find_images
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.web.remembered import Sizes, rows_of
from shotseg.web.said import STATES, PagePhoto, id_of


class Unknown(UsageError):
    """No photo or class of that id."""


class Album:
    """photos: by their ids, those of which something was said.   dropped, folder: where photos lie.

    sizes: a file that says how large each was when it was looked at, so that no header is read again without need.

    names: photo's id -> the name of its masks, once they are known.
    """

    def __init__(self, photos: dict[str, PagePhoto], dropped: Path, folder: Path | None, sizes: Path):
        self.photos, self.dropped, self.folder = photos, dropped, folder
        self.names: dict[str, str] = {}
        self._sizes = Sizes(sizes)
        self.find()
        self._sizes.keep()

    def find(self) -> None:
        """Look at which photos there are; one that is gone stays known with what was said of it."""
        for photo in self.photos.values():
            photo.path = (self.folder or self.dropped) / photo.file
            photo.error = gone(photo)
        for id, (file, path) in self._lying().items():
            self._found(id, file, path)

    def find_again(self) -> bool:
        """Whether photos came or went since. Those that came are named as dropped ones are: no other gets another name."""
        lying, changed = self._lying(), False
        for id, photo in list(self.photos.items()):
            if id in lying or photo.error == gone(photo):
                continue
            changed, photo.error = True, gone(photo)
            photo.version += 1
            if not photo.said:
                del self.photos[id]
                self.names.pop(id, None)
        for id, (file, path) in lying.items():
            known = self.photos.get(id)
            if known is None or known.error == gone(known):
                self._new(id, file, path)
                changed = True
        return changed

    def _lying(self) -> dict[str, tuple[str, Path]]:
        """Id -> the name below its folder and the path of each photo that is there."""
        found = {}
        for root in (self.folder, self.dropped):
            if root is None or not root.is_dir():
                continue
            try:
                paths = find_images(root, skip=() if root == self.dropped else {self.dropped.parent.resolve()})
            except UsageError:  # no photo yet
                continue
            for path in paths:
                file = path.relative_to(root).as_posix()
                found[id_of(file, root == self.dropped)] = file, path
        return found

    def know_names(self) -> None:
        """Fill ``names``. What makes them is slow to load: who needs them asks for it while nobody waits for a lock.

        Photos whose results are there keep the name that these have, whatever photos came since.
        """
        if self.names.keys() != self.photos.keys():
            from shotseg.runs.photos import named

            files = [(photo.file, id) for id, photo in list(self.photos.items())]
            used = self._names_of_results()
            kept = {id: used.pop(file) for file, id in files if file in used}
            others = {photo.path: photo.name for photo in named(files) if photo.path not in kept}
            taken = set(kept.values())
            self.names = kept | {id: f"{name}-{id}" if name in taken else name for id, name in others.items()}

    def _names_of_results(self) -> dict[str, str]:
        """Photo's file -> the name of its masks, as the list of the results says; a line that says none is passed over."""
        from shotseg.data.annotations.labelled import inside

        found = {}
        list_ = self.dropped.parent / "results" / "results.jsonl"
        with suppress(OSError):
            for row in rows_of(list_):
                with suppress(KeyError, TypeError, InputError):
                    found[str(row["file"])] = inside(row["name"], list_)
        return found

    def photo(self, id: str) -> PagePhoto:
        if id not in self.photos:
            raise Unknown(f"no photo {id!r:.40}; load the page again")
        return self.photos[id]

    def add(self, file: str, data: bytes) -> PagePhoto:
        """Keep a photo that was dropped. Raises InputError on a full disk."""
        name = safe_name(file)
        taken = {photo.file for photo in self.photos.values()}
        stem, suffix, number = Path(name).stem, Path(name).suffix, 1
        while name in taken or (self.dropped / name).exists():
            number += 1
            name = f"{stem} ({number}){suffix}"
        write_bytes(self.dropped / name, data)
        return self._new(id_of(name, True), name, self.dropped / name)

    def _new(self, id: str, file: str, path: Path) -> PagePhoto:
        photo = self._found(id, file, path)
        photo.version += 1
        stem = Path(file).with_suffix("").as_posix()
        if id not in self.names:
            self.names[id] = f"{stem}-{id}" if stem in self.names.values() else stem
        return photo

    def listed(
        self,
        sort: str = "doubt",
        states: str = "",
        number: int | None = None,
        query: str = "",
        below: float | None = None,
    ) -> list[PagePhoto]:
        """sort: "doubt" (the least confident first), "name" or "area" (the largest first).   states: with commas.

        number: of a class that they show.   query: a part of the file's name.   below: of a lower confidence.
        """
        wanted = set(filter(None, states.split(",")))
        found = [
            photo
            for photo in self.photos.values()
            if (not wanted or photo.state in wanted or (photo.error is not None and "failed" in wanted))
            and (number is None or photo.areas.get(number, 0) > 0)
            and (below is None or (photo.confidence is not None and photo.confidence < below))
            and query.casefold() in shown(photo.file).casefold()
        ]

        def area(photo: PagePhoto) -> float:
            return sum(photo.areas.values()) if number is None else photo.areas.get(number, 0.0)

        ranks: dict[str, Callable[[PagePhoto], Any]] = {
            "doubt": lambda photo: (photo.confidence is None, photo.reviewed, photo.confidence or 0.0, photo.file),
            "area": lambda photo: (-area(photo), photo.file),
            "name": lambda photo: photo.file,
        }
        return sorted(found, key=ranks[sort])

    def counts(self) -> dict[str, int]:
        """State, or "failed" -> how many photos."""
        photos = self.photos.values()
        counted = Counter("failed" if photo.error and not photo.reviewed else photo.state for photo in photos)
        return {state: counted[state] for state in (*STATES, "failed")}

    def _found(self, id: str, file: str, path: Path) -> PagePhoto:
        photo = self.photos.setdefault(id, PagePhoto(id, file, path))
        photo.path = path
        self.look(photo)
        return photo

    def look(self, photo: PagePhoto) -> None:
        """Note the size of a photo's file as it is now, or the error of one that is gone or is another."""
        photo.error = None
        try:
            size = self._sizes.of(photo.id, photo.path)
            if photo.said and photo.size not in ((0, 0), size):
                raise InputError(
                    f"{shown(photo.file)}: now {size[1]} x {size[0]}, drawn on when it was {photo.width} x {photo.height}; "
                    "put that photo back"
                )
            photo.height, photo.width = size
        except ShotsegError as error:
            photo.error = str(error)


def gone(photo: PagePhoto) -> str:
    """The error of a photo that is not in its folder."""
    return f"{shown(photo.file)}: no such file any more; put it back, or export without it"


def shown(file: str) -> str:
    """A file's name as text, whatever bytes it has."""
    return file.encode("utf-8", "backslashreplace").decode()


def safe_name(file: str) -> str:
    """The last part of a name that a client sent, of characters that every file system takes."""
    name = "".join(c if c.isalnum() or c in "-_ ()." else "_" for c in file.replace("\\", "/").rsplit("/", 1)[-1])
    return name.lstrip(". ").rstrip(". ")[-60:] or "photo"
