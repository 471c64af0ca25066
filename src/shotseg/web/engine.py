"""The model at work beside the page: one thread, which answers what is being looked at before all else."""

from __future__ import annotations

import heapq
import itertools
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from shotseg.encoded import Encoded
from shotseg.errors import InputError, ShotsegError, UsageError, first_line
from shotseg.models.strokes import Strokes
from shotseg.segmenter import Segmenter
from shotseg.web.drawing import strokes_of
from shotseg.web.examples import Shot, shots
from shotseg.web.kept import Kept
from shotseg.web.labels import Found, alone_level, label_png, unpacked
from shotseg.web.project import Outdated, Project
from shotseg.web.said import PagePhoto

NOW, SOON, LATER = 0, 1, 2  # a person waits; to be decided again; to be encoded
MOST_SHOTS = 20  # of a class that are learnt, the newest; learning one takes as long as encoding a photo
MOST_GUESSES = 3  # photos with strokes that a class without examples is learnt from
MASKS = 128 * 2**20  # bytes of masks in memory
Told = Callable[[str, dict[str, Any]], None]
T = TypeVar("T")


class Engine:
    """Keeps the predictions of a project in step with what a person said.

    tell(kind, content): is told what changes, from the model's thread.      kept: the encoded photos.
    """

    def __init__(self, project: Project, segmenter: Segmenter, kept: Kept, tell: Told = lambda kind, content: None):
        self.project, self.segmenter, self.kept, self.tell = project, segmenter, kept, tell
        self._learnt: dict[str, list[Any]] = {}  # class -> its shots, in the order in which they were added
        self._masks: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # id -> digest and PNG of class numbers
        self._todo: list[tuple[int, float, int, Callable[[], None]]] = []
        self._order, self._more = itertools.count(), threading.Condition()
        self._stopped, self._running, self._round = False, True, 0
        self._guessed: set[str] = set()  # classes that are learnt from what strokes gave
        self._done: set[str] = set()  # photos that are encoded, or cannot be
        self._thread = threading.Thread(target=self._work, daemon=True, name="shotseg-model")

    def start(self) -> None:
        self._thread.start()
        self.changed()

    def stop(self) -> None:
        with self._more:
            self._stopped = True
            self._more.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    # What the page asks

    @property
    def encoding(self) -> dict[str, Any]:
        """How many photos are encoded, of how many, and whether more are."""
        total = len(self.project.said.photos)
        done = min(len(self._done), total)
        return {"done": done, "total": total, "running": self._running and done < total}

    def run(self, running: bool) -> None:
        """Go on, or let the photos that are not encoded wait; what a person asks for is answered all the same."""
        with self._more:
            self._running = running
            self._more.notify_all()
        self.tell("encoding", self.encoding)

    def answer(self, id: str) -> None:
        """Decide one photo now, before all else; what goes wrong is the photo's error and a note."""
        self._asked(lambda: self._decide(self.project.photo(id)))

    def changed(self) -> None:
        """What is known of the classes may be other now: learn it, then decide all photos again, the doubtful first."""
        self._put(SOON, -2.0, self._learn)
        self.again()

    def again(self) -> None:
        with self.project.lock:
            self._round += 1
            mine, photos = self._round, list(self.project.said.photos.values())
        for photo in photos:
            doubt = -1.0 if photo.confidence is None else photo.confidence
            self._put(SOON if self.kept.has(photo) else LATER, doubt, partial(self._in_turn, photo, mine))

    def mask(self, id: str) -> tuple[int, np.ndarray]:
        """The version of a photo, and its (H, W) uint8 class numbers. Raises ShotsegError where there is no mask."""
        with self.project.lock:
            photo = self.project.photo(id)
            if photo.drawn is not None:
                return photo.version, self.project.drawn_mask(photo)
            kept = self._masks.get(id)
            if kept is not None and kept[0] == photo.digest:
                return photo.version, unpacked(kept[1])
        self._asked(lambda: self._decide(photo))
        with self.project.lock:
            kept = self._masks.get(id)
            if kept is None:
                if photo.error:
                    raise ShotsegError(photo.error)
                return photo.version, np.zeros(photo.size, np.uint8)
            return photo.version, unpacked(kept[1])

    def accept(self, id: str, version: int) -> PagePhoto:
        """Accept the mask of that version. Raises Outdated where it is another by now."""
        photo = self.project.photo(id)
        if photo.drawn is not None:
            return self.project.set_state(id, version, "accepted")
        now, labels = self.mask(id)
        if now != version:
            raise Outdated(f"{photo.file}: the mask has changed; look at it again")
        return self.project.set_state(id, version, "accepted", labels if photo.digest is not None else None)

    # The model's thread

    def _asked(self, work: Callable[[], T]) -> T:
        answer: Future[T] = Future()

        def do() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)

        with self._more:
            if self._stopped:
                raise UsageError("the server is closing; start shotseg serve again")
            self._put(NOW, 0.0, do)
        return answer.result()

    def _put(self, urgency: int, rank: float, work: Callable[[], None]) -> None:
        with self._more:
            heapq.heappush(self._todo, (urgency, rank, next(self._order), work))
            self._more.notify_all()

    def _ready(self) -> bool:
        return bool(self._todo) and (self._running or self._todo[0][0] < LATER)

    def _work(self) -> None:
        torch.set_grad_enabled(False)
        while True:
            with self._more:
                self._more.wait_for(lambda: self._stopped or self._ready())
                if self._stopped and not (self._todo and self._todo[0][0] == NOW):  # who waits gets an answer
                    return
                work = heapq.heappop(self._todo)[3]
            try:
                work()
            except Exception as error:  # a full disk, no memory: the page says it, and the next photo is done
                self.tell("note", {"text": _line(error)})

    def _in_turn(self, photo: PagePhoto, asked_in: int) -> None:
        if asked_in != self._round:
            return
        self._decide(photo)
        self._mark(photo)

    def _mark(self, photo: PagePhoto) -> None:
        if photo.id not in self._done:
            self._done.add(photo.id)
            self.tell("encoding", self.encoding)

    def _learn(self) -> None:
        """Make the segmenter know the project's examples: only classes of which one changed are learnt anew."""
        with self.project.lock:
            wanted = {name: found[-MOST_SHOTS:] for name, found in shots(self.project).items()}
            guesses = {own.name: self._guesses(own.number) for own in self.project.classes if own.name not in wanted}
        self._guessed = {name for name, found in guesses.items() if found}
        wanted |= {name: guesses[name] for name in self._guessed}
        for name in set(self._learnt) - set(wanted):
            self._forget(name)
        for name, found in wanted.items():
            known = self._learnt.get(name, [])
            if [_key(shot) for shot in found[: len(known)]] != [_key(shot) for shot in known]:
                self._forget(name)
                known = []
            for shot in found[len(known) :]:
                try:
                    self.segmenter.add(name, [shot.image], [shot.mask])
                except ShotsegError as error:
                    self.tell("note", {"text": str(error)})
                    continue
                self._learnt.setdefault(name, []).append(shot)

    def _guesses(self, number: int) -> list[Shot]:
        """What the strokes of a class without examples gave, so that other photos follow them."""
        found = []
        for photo in self.project.said.photos.values():
            marked = any(stroke.inside and stroke.number == number for stroke in photo.strokes)
            kept = self._masks.get(photo.id) if marked and photo.state == "predicted" else None
            if kept is not None and photo.areas.get(number):
                mask = (unpacked(kept[1]) == number).astype(np.uint8) * 255
                found.append(Shot(photo.path, mask, kept[0]))
        return found[:MOST_GUESSES]

    def _forget(self, name: str) -> None:
        self._learnt.pop(name, None)
        if name in self.segmenter.classes:
            self.segmenter.remove(name)

    def _decide(self, photo: PagePhoto) -> None:
        """Predict one photo, strokes included, and say so; one that a person reviewed is encoded, no more."""
        if photo.drawn is not None and self.kept.has(photo):
            return
        before = photo.version, photo.error, photo.state
        try:
            with self.project.lock:
                if not self.kept.has(photo):  # new, or another under the same name
                    self.project.album.look(photo)
                    if photo.error is not None:
                        raise InputError(photo.error)
                names = {own.number: own.name for own in self.project.classes}
                drawn = strokes_of(photo.strokes, names, photo.size) if photo.size != (0, 0) else {}
            encoded = self.kept.encoded(photo, self.segmenter)
            self._mark(photo)
            found = self._found(photo, encoded, drawn)
            with self.project.lock:
                if (
                    photo.said <= before[0] and photo.drawn is None
                ):  # else a person was faster, and what is found is of the past
                    photo.error = None
                    self._note(photo, found)
        except ShotsegError as error:
            photo.error = str(error)
        except Exception as error:  # no memory, a fault of a library
            photo.error = f"{photo.file}: {_line(error)}"
            self.tell("note", {"text": photo.error})
        if (photo.version, photo.error, photo.state) != before:
            tell = {"id": photo.id, "version": photo.version, "state": photo.state, "confidence": photo.confidence}
            self.tell("photo", tell)

    def _found(self, photo: PagePhoto, encoded: Encoded, drawn: dict[str, Strokes]) -> Found | None:
        """None while nothing is known of any class."""
        numbers = {own.name: own.number for own in self.project.classes}
        taught = [name for name in self.segmenter.classes if name not in self._guessed]
        known = {name: own for name, own in drawn.items() if name in taught}
        alone = {name: own for name, own in drawn.items() if name not in known and (own.labels == 1).any()}
        if not self.segmenter.classes and not alone:
            return None
        found = Found(np.zeros(photo.size, np.uint8))
        if self.segmenter.classes:
            result = self.segmenter.decide(encoded, known)
            table = np.array([0, *(numbers.get(name, 0) for name in result.classes)], np.uint8)
            found.labels, found.confidence = table[result.labels], result.confidence
            found.present = {numbers[name]: float(p) for name, p in result.present.items() if name in numbers}
        for name, own in alone.items():
            level = alone_level(encoded, own)
            found.labels[(level > 0) & ((found.labels == 0) | (own.labels == 1))] = numbers[name]
            found.present[numbers[name]] = 1.0
        return found

    def _note(self, photo: PagePhoto, found: Found | None) -> None:
        if found is None:
            return self.project.predicted(photo, None, None, {}, {})
        counts = np.bincount(found.labels.ravel(), minlength=256)
        areas = {own.number: float(counts[own.number] / found.labels.size) for own in self.project.classes}
        packed, digest = label_png(found.labels, 1), zlib.crc32(found.labels.tobytes())
        self._masks[photo.id] = digest, packed
        self._masks.move_to_end(photo.id)
        while sum(len(png) for _, png in self._masks.values()) > MASKS:
            self._masks.popitem(last=False)
        self.project.predicted(photo, digest, found.confidence, found.present, areas)


def _key(shot: Shot) -> tuple[Path, int]:
    return shot.image, shot.written


def _line(error: BaseException) -> str:
    """Of the model: what to do where memory ran out."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return "the model ran out of memory; close other programs, or start shotseg serve with a smaller --size"
    return first_line(error)
