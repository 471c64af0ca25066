"""A project folder: what a person said of the photos, kept so that nothing acknowledged is ever lost.

project.json     where the photos lie
journal.jsonl    every class, stroke, mask and state in the order in which they were said; the project is its replay
drawn/           the masks that a person accepted or corrected, as label maps of class numbers
examples/        the same as images/<class>/ and masks/<class>/: ``shotseg segment --support PROJECT/examples`` works
results/         the same as masks/<class>/<name>.png and labels/<name>.png, as ``shotseg segment`` writes them
encoded/         photos after the encoder and small pictures of them, made again where they are missing
photos/          photos that were dropped on the page
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.annotations.drawn import upright_size
from shotseg.data.images import read_mask, write_bytes, write_png
from shotseg.data.listing import find_images, subfolders
from shotseg.errors import InputError, ShotsegError, UsageError, note
from shotseg.overlay import PALETTE
from shotseg.photo import MOST_CLASSES, check_classes
from shotseg.runs.photos import named
from shotseg.web import examples
from shotseg.web.drawing import Stroke, painted
from shotseg.web.ledger import Event, Ledger
from shotseg.web.said import STATES, PageClass, PagePhoto, Said, id_of


class Outdated(UsageError):
    """A change to an older version of a photo: somebody else was there first."""


class Unknown(UsageError):
    """No photo or class of that id."""


class Project:
    """folder: of the project, made where it is absent.   photos: the folder of the photos; None: the one of the last time.

    ``lock`` guards it; every method takes it. What changes is on the disk when a method returns.
    Raises UsageError where another process has it open or the photos' folder is not there.
    """

    def __init__(self, folder: str | Path, photos: str | Path | None = None):
        self.folder, self.lock = Path(folder), threading.RLock()
        self.photos_folder = self._photos_folder(photos)
        self._ledger = Ledger(self.folder / "journal.jsonl")
        self.said = Said()
        for event in self._ledger.events:
            try:
                self.said.apply(event)
            except (KeyError, TypeError, ValueError) as error:
                note(f"{self.folder / 'journal.jsonl'}: an event is damaged and left out ({error})")
        self._ledger.events.clear()
        self.find_photos()
        self._adopt_examples()

    def close(self) -> None:
        self._ledger.close()

    # Photos

    def find_photos(self) -> None:
        """Look again at which photos there are; one that is gone stays known with what was said of it."""
        with self.lock:
            found: list[tuple[str, Path, bool]] = []
            for root, dropped in ((self.photos_folder, False), (self.folder / "photos", True)):
                if root is None or not root.is_dir():
                    continue
                try:
                    paths = find_images(root, skip=() if dropped else {self.folder.resolve()})
                except UsageError:  # no photo yet
                    continue
                found += [(path.relative_to(root).as_posix(), path, dropped) for path in paths]
            for photo in self.said.photos.values():
                photo.error = f"{shown(photo.file)}: no such file any more; put it back, or export without it"
            for file, path, dropped in found:
                self._found(id_of(file, dropped), file, path)
            unique = named([(photo.file, id) for id, photo in self.said.photos.items()])
            self.names = {photo.path: photo.name for photo in unique}  # id -> name of its masks

    def _found(self, id: str, file: str, path: Path) -> PagePhoto:
        photo = self.said.photos.setdefault(id, PagePhoto(id, file, path))
        photo.path, photo.error = path, None
        try:
            size = upright_size(path)
            if photo.said and photo.size not in ((0, 0), size):
                raise InputError(
                    f"{shown(file)}: now {size[1]} x {size[0]}, drawn on when it was {photo.width} x {photo.height}; "
                    "put that photo back"
                )
            photo.height, photo.width = size
        except ShotsegError as error:
            photo.error = str(error)
        return photo

    def photo(self, id: str) -> PagePhoto:
        if id not in self.said.photos:
            raise Unknown(f"no photo {id!r:.40}; load the page again")
        return self.said.photos[id]

    def listed(self, sort: str = "doubt", states: str = "", class_id: str = "", query: str = "") -> list[PagePhoto]:
        """sort: "doubt" (the least confident first), "name" or "area" (the largest first).   states: with commas."""
        with self.lock:
            wanted = set(filter(None, states.split(",")))
            number = self.klass(class_id).number if class_id else None
            found = [
                photo
                for photo in self.said.photos.values()
                if (not wanted or photo.state in wanted or (photo.error is not None and "failed" in wanted))
                and (number is None or photo.areas.get(number, 0) > 0)
                and query.casefold() in shown(photo.file).casefold()
            ]
            area = (lambda photo: photo.areas.get(number, 0)) if number else (lambda photo: sum(photo.areas.values()))
            rank = {
                "doubt": lambda photo: (photo.confidence is None, photo.confidence or 0.0, photo.file),
                "area": lambda photo: (-area(photo), photo.file),
                "name": lambda photo: photo.file,
            }
            return sorted(found, key=rank[sort])

    def add_photo(self, file: str, data: bytes) -> PagePhoto:
        """Keep a photo that was dropped, under a name that no other has. data: checked already."""
        with self.lock:
            folder, name = self.folder / "photos", safe_name(file)
            taken = {photo.file for photo in self.said.photos.values()}
            stem, suffix, number = Path(name).stem, Path(name).suffix, 1
            while name in taken or (folder / name).exists():
                number += 1
                name = f"{stem} ({number}){suffix}"
            write_bytes(folder / name, data)
            photo = self._found(id_of(name, True), name, folder / name)
            photo.version += 1
            self.names |= {
                photo.id: f"dropped-{photo.id}" if Path(name).stem in self.names.values() else Path(name).stem
            }
            return photo

    # Classes

    @property
    def classes(self) -> list[PageClass]:
        return list(self.said.classes.values())

    def klass(self, id: str) -> PageClass:
        for own in self.classes:
            if own.id == id:
                return own
        raise Unknown(f"no class {id!r:.40}; it may have been removed meanwhile")

    def add_class(self, name: str, colour: str | None = None, key: str | None = None) -> PageClass:
        """Raises UsageError for a name that is taken or cannot be a folder's."""
        with self.lock:
            number = self.said.last_number + 1
            if number > MOST_CLASSES:
                raise UsageError(f"a project holds {MOST_CLASSES} classes, removed ones too; begin another project")
            used = {own.key for own in self.classes}
            free = next((digit for digit in "123456789" if digit not in used), "")
            if colour is None:
                colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[number])
            return self._write_class(PageClass(number, name, colour, free if key is None else key))

    def change_class(self, id: str, name: str | None, colour: str | None, key: str | None) -> PageClass:
        with self.lock:
            own = self.klass(id)
            changed = PageClass(
                own.number,
                own.name if name is None else name,
                own.colour if colour is None else colour,
                own.key if key is None else key,
            )
            before = own.name
            self._write_class(changed)
            if changed.name != before:
                examples.rename(self.folder, before, changed.name)
            return changed

    def _write_class(self, own: PageClass) -> PageClass:
        others = [other.name for other in self.classes if other.number != own.number]
        if own.name in others:
            raise UsageError(f"class {own.name!r} is there already; choose another name")
        check_classes([*others, own.name], "project")
        self._say({"do": "class", "number": own.number, "name": own.name, "colour": own.colour, "key": own.key})
        return self.said.classes[own.number]

    def remove_class(self, id: str) -> None:
        """Its pixels become background; photos and the other classes stay."""
        with self.lock:
            own = self.klass(id)
            self._say({"do": "drop", "number": own.number})
            examples.retire(self.folder, own.name)

    def set_examples_from_reviewed(self, value: bool) -> None:
        with self.lock:
            self._say({"do": "settings", "name": "examples_from_reviewed", "value": value})
            for photo in self.said.photos.values():
                self._publish(photo)

    # What a person says of a photo

    def draw(self, id: str, version: int, class_id: str, strokes: Sequence[tuple[bool, float, Any]]) -> PagePhoto:
        """strokes: (inside, radius, points) each. On a corrected mask they are painted; else the model follows them."""
        with self.lock:
            photo, own = self._current(id, version), self.klass(class_id)
            drawn = [
                Stroke(own.number, inside, radius, tuple((float(x), float(y)) for x, y in points))
                for inside, radius, points in strokes
            ]
            kept = [{**vars(stroke), "points": stroke.points} for stroke in drawn]
            if photo.by_hand and photo.drawn is not None:
                labels = painted(self.drawn_mask(photo), drawn)
                return self._keep(photo, labels, "corrected", strokes=kept)
            return self._changed(photo, {"do": "strokes", "strokes": kept})

    def clear(self, id: str, version: int) -> PagePhoto:
        """Take all strokes back, and the mask that was accepted or corrected: the photo is open."""
        with self.lock:
            return self._changed(self._current(id, version), {"do": "clear"})

    def correct(self, id: str, version: int, labels: np.ndarray) -> PagePhoto:
        """labels: (H, W) uint8 in project order, at the photo's size, as :meth:`in_order` gives them."""
        with self.lock:
            photo = self._current(id, version)
            if labels.shape != photo.size:
                raise UsageError(
                    f"a mask of {labels.shape[1]} x {labels.shape[0]}, but the photo is {photo.width} x {photo.height}"
                )
            numbers = np.array([0, *self.said.classes], np.uint8)
            if labels.max(initial=0) >= len(numbers):
                raise UsageError(f"a mask with value {labels.max()}, but there are {len(self.classes)} classes")
            return self._keep(photo, numbers[labels], "corrected")

    def set_state(self, id: str, version: int, state: str, labels: np.ndarray | None = None) -> PagePhoto:
        """labels: (H, W) class numbers, what is accepted where no mask was kept yet. A corrected mask stays corrected."""
        with self.lock:
            photo = self._current(id, version, seen=state == "accepted")
            if state == "accepted" and photo.drawn is None:
                if labels is None:
                    raise UsageError(
                        f"{shown(photo.file)}: no mask to accept yet; draw one, or wait until it is predicted"
                    )
                return self._keep(photo, labels, "accepted")
            if state not in STATES:
                raise UsageError(f"state {state!r:.40}: choose one of {', '.join(STATES)}")
            state = "corrected" if state == "accepted" and photo.by_hand else state
            return self._changed(photo, {"do": "state", "state": state})

    def predicted(
        self,
        photo: PagePhoto,
        labels_digest: int | None,
        confidence: float | None,
        present: dict[int, float],
        areas: dict[int, float],
    ) -> None:
        """What the model found; what a person accepted, corrected or rejected stays."""
        with self.lock:
            if photo.state not in ("open", "predicted"):
                return
            state = "predicted" if labels_digest is not None else "open"
            if (labels_digest, state) != (photo.digest, photo.state):
                photo.version += 1
            photo.state, photo.digest, photo.confidence = state, labels_digest, confidence
            photo.present, photo.areas = present, areas

    def drawn_mask(self, photo: PagePhoto) -> np.ndarray:
        """(H, W) uint8 class numbers of the mask that a person accepted or corrected. Raises InputError where it is lost."""
        assert photo.drawn is not None
        labels = read_mask(self.folder / "drawn" / photo.drawn, labels=True)
        known = np.zeros(256, np.uint8)
        known[list(self.said.classes)] = list(self.said.classes)  # a class that was removed is background
        return known[labels]

    def in_order(self, numbers: np.ndarray) -> np.ndarray:
        """Class numbers as label maps outside have them: i = the i-th class of the project."""
        table = np.zeros(256, np.uint8)
        table[list(self.said.classes)] = np.arange(1, len(self.said.classes) + 1)
        return table[numbers]

    def counts(self) -> dict[str, int]:
        photos = self.said.photos.values()
        counted = Counter("failed" if photo.error and not photo.reviewed else photo.state for photo in photos)
        return {state: counted[state] for state in (*STATES, "failed")}

    # How it is kept

    def _current(self, id: str, version: int, seen: bool = False) -> PagePhoto:
        """The photo, if ``version`` is no older than what a person said last; with ``seen``, than what can be seen."""
        photo = self.photo(id)
        if version > photo.version or version < (photo.version if seen else photo.said):
            raise Outdated(f"{shown(photo.file)} was changed meanwhile; its newest state is shown")
        if photo.size == (0, 0):
            raise UsageError(photo.error or f"{shown(photo.file)}: cannot be read")
        return photo

    def _keep(self, photo: PagePhoto, numbers: np.ndarray, state: str, **more: Any) -> PagePhoto:
        file = f"{photo.id}-{photo.version + 1}.png"
        path = self.folder / "drawn" / file
        write_png(path, numbers, PALETTE)
        on_disk(path)
        try:
            return self._changed(photo, {"do": "mask", "mask": file, "state": state, **more})
        except InputError:
            path.unlink(missing_ok=True)
            raise

    def _changed(self, photo: PagePhoto, event: Event) -> PagePhoto:
        before = photo.drawn
        self._say({**event, "photo": photo.id, "file": photo.file, "size": photo.size, "version": photo.version + 1})
        if before is not None and before != photo.drawn:
            (self.folder / "drawn" / before).unlink(missing_ok=True)
        if photo.drawn is not None:
            self._measure(photo)
        self._publish(photo)
        return photo

    def _measure(self, photo: PagePhoto) -> None:
        counts = np.bincount(self.drawn_mask(photo).ravel(), minlength=256)
        photo.areas = {number: float(counts[number] / counts.sum()) for number in self.said.classes}
        photo.present, photo.confidence = {number: float(area > 0) for number, area in photo.areas.items()}, 1.0

    def _publish(self, photo: PagePhoto) -> None:
        """Examples and results follow; that they cannot be written is said, and what was acknowledged stands all the same."""
        try:
            examples.publish(self, photo)
        except (ShotsegError, OSError) as error:
            note(str(error))

    def _say(self, event: Event) -> None:
        self._ledger.append(event)
        self.said.apply(event)

    def _adopt_examples(self) -> None:
        """Classes that lie in examples/, put there by hand or another program."""
        known = {own.name for own in self.classes}
        for name in subfolders(self.folder / "examples" / "images"):
            if name not in known:
                try:
                    self.add_class(name)
                except ShotsegError as error:
                    note(str(error))
        for photo in self.said.photos.values():
            if photo.drawn is not None:
                try:
                    self._measure(photo)
                except ShotsegError as error:
                    photo.error = str(error)

    def _photos_folder(self, photos: str | Path | None) -> Path | None:
        about = self.folder / "project.json"
        kept: dict[str, Any] = {}
        if about.exists():
            try:
                kept = dict(json.loads(about.read_bytes()))
            except (ValueError, TypeError, OSError):
                raise UsageError(f"{about}: not a project's settings; mend it, or choose another folder") from None
        chosen = kept.get("photos") if photos is None else os.path.relpath(photos, self.folder)
        if chosen is None:
            return None
        folder = Path(os.path.normpath(self.folder / chosen))
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; give the folder of the photos with --photos")
        if kept.get("photos") != chosen:
            write_bytes(about, json.dumps({"photos": chosen}, indent=1).encode() + b"\n")
        return folder


def on_disk(path: Path) -> None:
    """Wait until a file is on the disk itself."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def shown(file: str) -> str:
    """A file's name as text, whatever bytes it has."""
    return file.encode("utf-8", "backslashreplace").decode()


def safe_name(file: str) -> str:
    """The last part of a name that a client sent, of characters that every file system takes."""
    name = "".join(c if c.isalnum() or c in "-_ ()." else "_" for c in file.replace("\\", "/").rsplit("/", 1)[-1])
    return name.lstrip(". ").rstrip(". ")[-100:] or "photo"
