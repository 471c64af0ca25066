"""The model at work beside the page: one thread answers what is being looked at before all else; several do all photos."""

from __future__ import annotations

import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache

from shotseg.errors import InputError, ShotsegError, UsageError, first_line, is_out_of_memory
from shotseg.heap import give_back
from shotseg.web.examples import Shot, shots
from shotseg.web.kept import Kept
from shotseg.web.labels import Found, Runs
from shotseg.web.project import Outdated, Project
from shotseg.web.said import PagePhoto

if TYPE_CHECKING:  # slow to load
    from shotseg.segmenter import Segmenter
    from shotseg.web.model import Model

MOST_SHOTS, FEWER = 20, 5  # of a class that are learnt, the newest; the oldest are left out by so many
MOST_GUESSES = 3  # photos with strokes that a class without examples is learnt from
MASKS = 128 * 2**20  # bytes of masks in memory
PATIENCE = 5.0  # seconds that the model waits for a page to show the list, which it would slow down
Told = Callable[[str, dict[str, Any]], None]


class Engine:
    """Keeps the predictions of a project in step with what a person said.

    load(): makes the segmenter, in the model's thread, for that takes seconds.      kept: the encoded photos.
    tell(kind, content): is told what changes, from the model's thread.
    """

    def __init__(
        self,
        project: Project,
        load: Callable[[], Segmenter],
        kept: Kept,
        tell: Told = lambda kind, content: None,
    ):
        self.project, self.kept, self.tell = project, kept, tell
        self._load, self._model = load, None  # type: tuple[Callable[[], Segmenter], Model | None]
        self._masks: LRUCache[str, tuple[int, bytes]] = LRUCache(MASKS, lambda kept: len(kept[1]))  # id -> digest, runs
        self._asks: deque[Callable[[], None]] = deque()  # a person waits for them
        self._waiting: list[PagePhoto] = []  # to be decided, the next at the end
        self._under_way = 0  # how many are being decided
        self._more, self._stopped, self._running = threading.Condition(), False, True
        self._begun = threading.Event()
        self._said, self._followed = 0, 0  # how often something changed, and up to which of these it was followed
        self._unsettled, self._loose = True, False  # loose: much memory was taken since some was given back
        self._taught = 0  # grows with what is known of the classes
        self._done: set[str] = set()  # photos that are encoded, or cannot be
        self._basis: dict[str, tuple[int, int]] = {}  # id -> what its prediction rests on
        self._pool = ThreadPoolExecutor(thread_name_prefix="shotseg-photos")
        self._thread = threading.Thread(target=self._work, daemon=True, name="shotseg-model")

    def start(self) -> None:
        self._asks.append(self.project.restore)
        self._thread.start()
        self.changed()

    def begin(self) -> None:
        """The list is shown: now the model may be loaded."""
        self._begun.set()

    def stop(self) -> None:
        self.begin()
        with self._more:
            self._stopped = True
            self._more.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    # What the page asks

    @property
    def loading(self) -> bool:
        """Whether the model is not there yet."""
        return self._model is None

    @property
    def encoding(self) -> dict[str, Any]:
        """How many photos are encoded, of how many, whether more are, how many wait to be decided, whether the model loads."""
        photos = self.project.said.photos
        total, done = len(photos), sum(id in photos for id in list(self._done))
        running = self._running and done < total
        waiting = self._under_way + sum(
            photo.drawn is None for photo in list(self._waiting)
        )  # the others stay as they are
        return {
            "done": done,
            "total": total,
            "running": running,
            "waiting": waiting or int(self._said != self._followed),
            "loading": self.loading,
        }

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
        """What is known of the classes, or said of a photo, may be other now: learn it, and decide what rests on it."""
        with self._more:
            self._said += 1
            self._more.notify_all()

    def mask(self, id: str) -> tuple[int, np.ndarray]:
        """The version of a photo, and its (H, W) uint8 class numbers. Raises ShotsegError where there is no mask."""
        with self.project.lock:
            photo = self.project.photo(id)
            if photo.drawn is not None:
                return photo.version, self.project.drawn_mask(photo)
        version, found = self.runs(id)
        return version, found.labels(photo.size)

    def runs(self, id: str) -> tuple[int, Runs]:
        """As :meth:`mask`, the class numbers as they are packed; 0 everywhere while nothing is known of the photo."""
        with self.project.lock:
            photo = self.project.photo(id)
            if photo.drawn is not None:
                return photo.version, Runs.of(self.project.drawn_mask(photo))
            kept = self._masks.get(id)
            if kept is not None and kept[0] == photo.digest:
                return photo.version, Runs.unpacked(kept[1])
            if self.loading:
                return photo.version, Runs.blank(photo.size)
        self._asked(lambda: self._decide(photo))
        with self.project.lock:
            kept = self._masks.get(id)
            if kept is None and photo.error:
                raise ShotsegError(photo.error)
            return photo.version, Runs.blank(photo.size) if kept is None else Runs.unpacked(kept[1])

    def accept(self, id: str, version: int) -> PagePhoto:
        """Accept the mask of that version. Raises Outdated where it is another by now."""
        photo = self.project.photo(id)
        if photo.drawn is not None:
            return self.project.set_state(id, version, "accepted")
        now, labels = self.mask(id)
        if now != version:
            raise Outdated(f"{photo.file}: the mask has changed; look at it again")
        return self.project.set_state(id, version, "accepted", labels if photo.digest is not None else None)

    def patch(self, id: str, version: int, piece: np.ndarray, left: int, top: int) -> PagePhoto:
        """Put a piece on the mask of that version. Raises Outdated where it is another by now."""
        now, labels = self.mask(id)
        if now != version:
            raise Outdated(f"{self.project.photo(id).file}: the mask has changed; look at it again")
        return self.project.patch(id, version, labels, piece, left, top)

    # The model's thread

    def _asked(self, work: Callable[[], None]) -> None:
        """Do it before all else, and wait until it is done."""
        answer: Future[None] = Future()
        self.begin()

        def do() -> None:
            try:
                work()
                answer.set_result(None)
            except BaseException as error:
                answer.set_exception(error)

        with self._more:
            if self._stopped:
                raise UsageError("the server is closing; start shotseg serve again")
            self._asks.append(do)
            self._more.notify_all()
        answer.result()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done now; None while there is nothing."""
        if self._asks:  # a person waits
            return self._asks.popleft()
        if self._stopped:
            return None
        if self._said != self._followed:
            return self._follow
        if self._waiting:
            return self._in_turn if self._running or self.kept.has(self._waiting[-1]) else None
        if self._unsettled:
            self._unsettled = False
            return self._settle
        return None

    def _work(self) -> None:
        self._begun.wait(PATIENCE)
        from shotseg.device import one_thread_each  # torch is slow to load

        with one_thread_each(), self._pool:
            self._loop()

    def _loop(self) -> None:
        while True:
            with self._more:
                while (work := self._next()) is None and not self._stopped:
                    self._more.wait()
            if work is None:
                return
            try:
                work()
            except Exception as error:  # a full disk, no memory: the page says it, and the next photo is done
                self.tell("note", {"text": _line(error)})

    def _loaded(self) -> Model:
        if self._model is None:
            from shotseg.web.model import Model

            self._model = Model(self._load(), self.kept)
            self.tell("encoding", self.encoding)
        return self._model

    def _in_turn(self) -> None:
        """Decide the waiting photos, several at once, until there is something else to do."""
        if self._model is None:  # the first loads it
            return self._some(1)
        self._loose = True
        wait([self._pool.submit(self._some) for _ in range(self._model.at_once)])  # nothing is learnt beside them

    def _some(self, most: int = sys.maxsize) -> None:
        for _ in range(most):
            with self._more:
                photo = self._next_photo()
                if photo is None:
                    return
                self._under_way += 1
            self._one(photo)
            with self._more:
                self._under_way -= 1

    def _next_photo(self) -> PagePhoto | None:
        if self._asks or self._stopped or self._said != self._followed or not self._waiting:
            return None
        return self._waiting.pop() if self._running or self.kept.has(self._waiting[-1]) else None

    def _one(self, photo: PagePhoto) -> None:
        try:
            self._decide(photo)
            self._mark(photo)
        except Exception as error:  # the page says it, and the next photo is done
            self.tell("note", {"text": _line(error)})

    def _settle(self) -> None:
        self.project.settle()
        if self._loose:  # what one answer took the next one needs again
            give_back()
            self._loose = False
        self.tell("encoding", self.encoding)

    def _mark(self, photo: PagePhoto) -> None:
        if photo.id not in self._done:
            self._done.add(photo.id)
            self.tell("encoding", self.encoding)

    def _follow(self) -> None:
        """Write what a person said where others read it, learn from it, then decide what rests on it."""
        said = self._said
        try:
            if self.project.publish():
                self.tell("project", {})
            self._learn()
        finally:
            self._again()
            self._followed = said

    def _again(self) -> None:
        """Decide the photos whose prediction rests on the past, the doubtful first; those that are not encoded come last."""
        with self.project.lock:
            photos = [photo for photo in self.project.said.photos.values() if not self._stands(photo)]
        turns = {photo.id: (not self.kept.has(photo), photo.confidence or 0.0) for photo in photos}
        self._waiting = sorted(photos, key=lambda photo: turns[photo.id], reverse=True)
        self._unsettled = True

    def _stands(self, photo: PagePhoto) -> bool:
        """Whether all is done that can be done for a photo."""
        known = photo.drawn is not None or self._basis.get(photo.id) == (self._taught, photo.said)
        return known and photo.id in self._done and self.kept.has(photo)

    def _learn(self) -> None:
        """Make the segmenter know the project's examples."""
        with self.project.lock:
            wanted = {name: newest(found) for name, found in shots(self.project).items()}
            guesses = {own.name: self._guesses(own.number) for own in self.project.classes if own.name not in wanted}
        guessed = {name: found for name, found in guesses.items() if found}
        model, say = self._loaded(), lambda text: self.tell("note", {"text": text})
        self._taught += model.learn(wanted | guessed, set(guessed), say)

    def _guesses(self, number: int) -> list[Shot]:
        """What the strokes of a class without examples gave, so that other photos follow them."""
        found = []
        for photo in self.project.said.photos.values():
            marked = any(stroke.inside and stroke.number == number for stroke in photo.strokes)
            kept = self._masks.get(photo.id) if marked and photo.state == "predicted" else None
            if kept is not None and photo.areas.get(number):
                mask = (Runs.unpacked(kept[1]).labels(photo.size) == number).astype(np.uint8) * 255
                found.append(Shot(photo.path, mask, kept[0], photo))
        return found[:MOST_GUESSES]

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
                numbers = {own.name: own.number for own in self.project.classes}
                strokes, basis = list(photo.strokes), (self._taught, photo.said)
            found = self._loaded().found(photo, numbers, strokes)
            self._mark(photo)
            with self.project.lock:
                if photo.said <= before[0] and photo.drawn is None:  # else what is found is of the past
                    photo.error, self._basis[photo.id] = None, basis
                    self._note(photo, found)
        except ShotsegError as error:
            photo.error = str(error)
        except Exception as error:  # no memory, a fault of a library
            photo.error = f"{photo.file}: {_line(error)}"
            self.tell("note", {"text": photo.error})
        if (photo.version, photo.error, photo.state) != before:
            tell = {"id": photo.id, "version": photo.version, "state": photo.state, "confidence": photo.confidence}
            self.tell("photo", tell)

    def _note(self, photo: PagePhoto, found: Found | None) -> None:
        if found is None:
            return self.project.predicted(photo, None, None, {}, {})
        parts, packed = found.runs.shares(), found.runs.packed()
        areas = {own.number: float(parts[own.number]) for own in self.project.classes}
        digest = zlib.crc32(packed)
        self._masks[photo.id] = digest, packed
        self.project.predicted(photo, digest, found.confidence, found.present, areas)


def newest(found: list[Shot]) -> list[Shot]:
    """The shots that are learnt. What the others look like is found anew where the first is another: so that is seldom."""
    return found[-(-max(0, len(found) - MOST_SHOTS) // FEWER) * FEWER :]


def _line(error: BaseException) -> str:
    """Of the model: what to do where memory ran out."""
    if is_out_of_memory(error):
        return "the model ran out of memory; close other programs, or start shotseg serve with a smaller --size"
    return first_line(error)
