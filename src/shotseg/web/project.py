"""A project folder: what a person said of the photos, kept so that nothing acknowledged is ever lost.

project.json     where the photos lie
journal.jsonl    every class, stroke, mask and state in the order in which they were said; the project is its replay
drawn/           the masks that a person accepted or corrected, as label maps of class numbers
examples/        the same as images/<class>/ and masks/<class>/: ``shotseg segment --support PROJECT/examples`` works
results/         the same as masks/<class>/<name>.png, labels/<name>.png and results.jsonl, as ``shotseg segment`` writes them
encoded/         photos after the encoder, small pictures of them and what was predicted, made again where they are missing
photos/          photos that were dropped on the page
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.annotations import names
from shotseg.data.images import read_mask, write_png
from shotseg.data.listing import subfolders
from shotseg.errors import InputError, ShotsegError, UsageError, note
from shotseg.overlay import PALETTE
from shotseg.photo import MOST_CLASSES, check_classes
from shotseg.web import examples, remembered, settings
from shotseg.web.album import Album, Unknown, shown
from shotseg.web.drawing import Stroke, painted
from shotseg.web.labels import Runs, numbered
from shotseg.web.ledger import Event, Ledger
from shotseg.web.said import STATES, PageClass, PagePhoto, Said

LONGEST = 200  # bytes of a class's name


class Outdated(UsageError):
    """A change to an older version of a photo: somebody else was there first."""


class Project:
    """folder: of the project, made where it is absent.   photos: the folder of the photos; None: the one of the last time.

    ``lock`` guards it; every method takes it. What changes is on the disk when a method returns.
    Raises UsageError where another process has it open or the photos' folder is not there.
    """

    def __init__(self, folder: str | Path, photos: str | Path | None = None):
        self.folder, self.lock = Path(folder), threading.RLock()
        photos_folder = settings.photos_folder(self.folder, photos)
        self._ledger = Ledger(self.folder / "journal.jsonl")
        self.said = Said()
        for event in self._ledger.events:
            try:
                self.said.apply(event)
            except (KeyError, TypeError, ValueError) as error:
                note(f"{self.folder / 'journal.jsonl'}: an event is damaged and left out ({error})")
        self._ledger.events.clear()
        self.album = Album(
            self.said.photos, self.folder / "photos", photos_folder, self.folder / "encoded" / "sizes.json"
        )
        self._last: tuple[str, np.ndarray] = ("", np.zeros((0, 0), np.uint8))  # the mask drawn last, by its file
        self._changes, self._settled = 0, -1
        self._unpublished: set[str] = set()  # ids of photos of which examples and results do not speak yet
        self._adopt_examples()
        self._measure_all()
        remembered.restore(self)

    def close(self) -> None:
        try:
            self.settle()
        except (ShotsegError, OSError) as error:
            note(str(error))
        self._ledger.close()

    def photo(self, id: str) -> PagePhoto:
        return self.album.photo(id)

    def find_photos(self) -> bool:
        """Whether photos came into the folder or went out of it since it was looked at."""
        self.album.know_names()
        with self.lock:
            return self.album.find_again()

    def add_photo(self, file: str, data: bytes) -> PagePhoto:
        """Keep a photo that was dropped, under a name that no other has. data: checked already."""
        self.album.know_names()
        with self.lock:
            return self.album.add(file, data)

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
            own = PageClass(number, name, colour or self.next_colour, free if key is None else key)
            return self._write_class(own)

    @property
    def next_colour(self) -> str:
        """What a new class is shown in, unless another colour is asked for."""
        return "#{:02x}{:02x}{:02x}".format(*PALETTE[min(self.said.last_number + 1, MOST_CLASSES)])

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
            self.publish()
            self._write_class(changed)
            if changed.name != before:
                self._moved(examples.rename, before, changed.name)
            return changed

    def _write_class(self, own: PageClass) -> PageClass:
        others = [other.name for other in self.classes if other.number != own.number]
        if own.name in others:
            raise UsageError(f"class {own.name!r} is there already; choose another name")
        if own.key and (holder := next((o for o in self.classes if o.key == own.key and o.number != own.number), None)):
            raise UsageError(f"key {own.key} is that of class {holder.name!r}; choose another key, or none")
        check_classes([*others, own.name], "project")
        names.check("mask", [own.name])
        if len(own.name.encode()) > LONGEST:
            raise UsageError(f"class {own.name[:20]!r}...: too long for a folder's name; choose a shorter one")
        self._say({"do": "class", "number": own.number, "name": own.name, "colour": own.colour, "key": own.key})
        return self.said.classes[own.number]

    def remove_class(self, id: str, into: str | None = None) -> None:
        """Its pixels become background, or those of the class ``into``; photos and the other classes stay."""
        with self.lock:
            own = self.klass(id)
            self.publish()
            if into is not None:
                other = self.klass(into)
                if other is own:
                    raise UsageError(f"class {own.name!r} cannot be joined to itself; choose another")
                self._say({"do": "join", "number": own.number, "into": other.number})
                self._unpublished.update(id for id, photo in self.said.photos.items() if photo.drawn is not None)
                return self._moved(examples.join, own.name, other.name)
            self._say({"do": "drop", "number": own.number})
            self._moved(examples.retire, own.name)

    def set_examples_from_reviewed(self, value: bool) -> None:
        with self.lock:
            self._say({"do": "settings", "name": "examples_from_reviewed", "value": value})
            self._unpublished.update(self.said.photos)

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
        """labels: (H, W) uint8 class numbers, at the photo's size; those of removed classes become background."""
        with self.lock:
            photo = self._current(id, version)
            if labels.shape != photo.size:
                raise UsageError(
                    f"a mask of {labels.shape[1]} x {labels.shape[0]}, but the photo is {photo.width} x {photo.height}"
                )
            return self._keep(photo, labels, "corrected")

    def patch(self, id: str, version: int, labels: np.ndarray, piece: np.ndarray, left: int, top: int) -> PagePhoto:
        """labels: (H, W) class numbers of the mask of that version.  piece: (h, w) of them, which is put on it."""
        with self.lock:
            photo, labels = self._current(id, version, seen=True), labels.copy()
            place = labels[top : top + piece.shape[0], left : left + piece.shape[1]]
            if place.shape != piece.shape:
                raise UsageError(f"a piece of a mask that leaves the photo of {photo.width} x {photo.height}")
            place[:] = piece
            return self._keep(photo, labels, "corrected")

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

    def suggest(self, photo: PagePhoto, labels: np.ndarray, confidence: float) -> PagePhoto:
        """Keep (H, W) class numbers that another run found, to be reviewed; until then no prediction takes their place."""
        with self.lock:
            return self._keep(photo, labels, "predicted", confidence=confidence)

    def predicted(
        self,
        photo: PagePhoto,
        labels_digest: int | None,
        confidence: float | None,
        present: dict[int, float],
        areas: dict[int, float],
    ) -> None:
        """What the model found; the mask that a person accepted, corrected or brought along stays, and so does "rejected"."""
        with self.lock:
            if photo.drawn is not None:
                return
            state = "rejected" if photo.state == "rejected" else "open" if labels_digest is None else "predicted"
            if (labels_digest, state) != (photo.digest, photo.state):
                photo.version += 1
            photo.state, photo.digest, photo.confidence = state, labels_digest, confidence
            photo.present, photo.areas = present, areas

    def drawn_mask(self, photo: PagePhoto) -> np.ndarray:
        """(H, W) uint8 class numbers of the mask that was kept of the photo. Raises InputError where it is lost."""
        assert photo.drawn is not None
        file, labels = self._last
        if file != photo.drawn:
            labels = read_mask(self.folder / "drawn" / photo.drawn, labels=True)
            self._last = photo.drawn, labels
        return self.standing(labels)

    def standing(self, numbers: np.ndarray) -> np.ndarray:
        """Class numbers as they are by now: a class that was removed is background, one that was joined the other."""
        return numbered(numbers, self.said.standing())

    def in_order(self, numbers: np.ndarray) -> np.ndarray:
        """Class numbers as label maps outside have them: i = the i-th class of the project."""
        order = {number: i for i, number in enumerate(self.said.classes, start=1)}
        return numbered(numbers, [order.get(number, 0) for number in self.said.standing()])

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
        if numbers.max(initial=0) > self.said.last_number:
            raise UsageError(f"a mask with value {numbers.max()}, but class numbers end at {self.said.last_number}")
        numbers, file = self.standing(numbers), f"{photo.id}-{photo.version + 1}.png"
        path = self.folder / "drawn" / file
        write_png(path, numbers, PALETTE)
        on_disk(path)
        parts = Runs.of(numbers).shares()
        areas = {number: float(parts[number]) for number in self.said.classes}
        try:
            self._say_of(photo, {"do": "mask", "mask": file, "state": state, "areas": areas, **more})
        except InputError:
            path.unlink(missing_ok=True)
            raise
        self._last = file, numbers
        self._unpublished.add(photo.id)
        return photo

    def _changed(self, photo: PagePhoto, event: Event) -> PagePhoto:
        self._say_of(photo, event)
        self._unpublished.add(photo.id)
        return photo

    def _say_of(self, photo: PagePhoto, event: Event) -> None:
        before = photo.drawn
        self._say({**event, "photo": photo.id, "file": photo.file, "size": photo.size, "version": photo.version + 1})
        if before is not None and before != photo.drawn:
            (self.folder / "drawn" / before).unlink(missing_ok=True)

    def publish(self) -> bool:
        """Make examples and results say what was acknowledged, and return whether there was anything. A failure is noted."""
        if not self._unpublished:
            return False
        self.album.know_names()
        with self.lock:
            waiting, self._unpublished = self._unpublished, set()
        for id in waiting:
            with self.lock:
                try:
                    examples.publish(self, self.photo(id))
                except (ShotsegError, OSError) as error:
                    note(str(error))
        return True

    def _moved(self, move: Callable[..., None], *names: str) -> None:
        try:
            move(self.folder, *names)
        except OSError as error:
            note(f"{self.folder / 'examples'}: cannot be written ({error.strerror}); free space, then start again")

    def _say(self, event: Event) -> None:
        self._ledger.append(event)
        self.said.apply(event)
        self._changes += 1

    def _adopt_examples(self) -> None:
        """Classes that lie in examples/, put there by hand or another program."""
        known = {own.name for own in self.classes}
        for name in subfolders(self.folder / "examples" / "images"):
            if name not in known:
                try:
                    self.add_class(name)
                except ShotsegError as error:
                    note(str(error))

    def _measure_all(self) -> None:
        """The areas of masks that a journal of old says nothing of."""
        for photo in self.said.photos.values():
            if photo.drawn is not None and not photo.areas:
                try:
                    parts = Runs.of(self.drawn_mask(photo)).shares()
                except ShotsegError as error:
                    photo.error = str(error)
                    continue
                photo.is_drawn({number: float(parts[number]) for number in self.said.classes})

    def restore(self) -> None:
        """Make examples and results again that were lost, or that an end came before."""
        self.album.know_names()
        with self.lock:
            self._unpublished.update(id for id, photo in self.said.photos.items() if self._lags(photo))
        self.publish()

    def _lags(self, photo: PagePhoto) -> bool:
        """Whether the results say less of a photo than its reviewed mask, or more where it has none."""
        result = self.folder / "results" / "labels" / f"{self.album.names[photo.id]}.png"
        if not photo.reviewed or photo.drawn is None:
            return result.exists()
        drawn = self.folder / "drawn" / photo.drawn
        return not result.exists() or (drawn.exists() and result.stat().st_mtime_ns < drawn.stat().st_mtime_ns)

    def settle(self) -> None:
        """Write what follows from all else, and need not be there at once."""
        self.publish()
        self.album.know_names()
        with self.lock:
            if self._settled != self._changes:
                examples.list_results(self)
                self._settled = self._changes
            remembered.keep(self)


def on_disk(path: Path) -> None:
    """Wait until a file is on the disk itself."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
