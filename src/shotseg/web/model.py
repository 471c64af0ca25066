"""What the segmenter was taught of a project, and what it says of a photo. Slow to load, so only the engine's thread does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch

from shotseg.encoded import Encoded
from shotseg.errors import ShotsegError
from shotseg.models.strokes import Strokes, carried
from shotseg.result import Decided
from shotseg.runs.engines import twins_of
from shotseg.segmenter import Segmenter
from shotseg.web.drawing import Stroke, marked
from shotseg.web.examples import Shot
from shotseg.web.kept import Kept
from shotseg.web.labels import Found, Runs, numbered
from shotseg.web.said import PagePhoto

AT_ONCE = 4  # photos, on a CPU with as many cores
UNSEEN = -1.0  # log odds of a class of which nothing is known beside the strokes in this photo


class Model:
    """segmenter: knows no class yet.   kept: the encoded photos.

    ``at_once`` threads may ask what is found; none may while one teaches.
    """

    def __init__(self, segmenter: Segmenter, kept: Kept):
        self.segmenter, self.kept = segmenter, kept
        self._idle = SimpleQueue[Segmenter]()
        self.at_once = self._twin()
        self._learnt: dict[str, list[Shot]] = {}  # class -> its shots, in the order in which they were added
        self._guessed: set[str] = set()  # classes that are learnt from what strokes gave

    def learn(self, wanted: Mapping[str, list[Shot]], guessed: set[str], say: Callable[[str], None]) -> bool:
        """Know these shots of each class and no others; only classes of which one changed are learnt anew.

        guessed: classes whose shots are what strokes gave.    say: is told what cannot be learnt.    Returns whether
        anything is known that was not, or no longer.
        """
        before = self._known
        self._guessed = guessed
        for name in set(self._learnt) - set(wanted):
            self._forget(name)
        for name, found in wanted.items():
            known = self._learnt.get(name, [])
            if [_key(shot) for shot in found[: len(known)]] != [_key(shot) for shot in known]:
                self._forget(name)
                known = []
            for shot in found[len(known) :]:
                try:
                    self.segmenter.add(name, [self._shown(shot)], [shot.mask])
                except ShotsegError as error:
                    say(str(error))
                    continue
                self._learnt.setdefault(name, []).append(shot)
        if self._known == before:
            return False
        self._twin()
        return True

    def found(self, photo: PagePhoto, numbers: Mapping[str, int], strokes: list[Stroke]) -> Found | None:
        """numbers: class name -> its number. None while nothing is known of any class. Raises ShotsegError."""
        segmenter = self._idle.get()
        try:
            with torch.no_grad():
                return self._found(segmenter, photo, numbers, strokes)
        finally:
            self._idle.put(segmenter)

    def _found(
        self, segmenter: Segmenter, photo: PagePhoto, numbers: Mapping[str, int], strokes: list[Stroke]
    ) -> Found | None:
        encoded = self.kept.encoded(photo, segmenter)
        names = {number: name for name, number in numbers.items()}
        drawn = {name: Strokes(labels) for name, labels in marked(strokes, names, photo.size).items()}
        taught = [name for name in segmenter.classes if name not in self._guessed]
        known = {name: own for name, own in drawn.items() if name in taught}
        alone = {name: own for name, own in drawn.items() if name not in known and len(own.places(1))}
        if not segmenter.classes and not alone:
            return None
        found = Found(Runs.blank(photo.size))
        if segmenter.classes:
            result = segmenter.decide(encoded, known)
            self.kept.answered(photo, encoded.answers)
            found.confidence = result.confidence  # first: without the whole label map it is quick
            lengths, values = result.runs()
            found.runs = Runs.made(lengths, numbered(values, [numbers.get(name, 0) for name in result.classes]))
            found.present = {numbers[name]: float(p) for name, p in result.present.items() if name in numbers}
        if alone:
            labels = found.runs.labels(photo.size)
            for name, own in alone.items():
                drawn_alone = _alone(encoded, name, own)
                np.copyto(labels, numbers[name], where=drawn_alone & ((labels == 0) | (own.labels == 1)))
                found.present[numbers[name]] = 1.0
            found.runs = Runs.of(labels)
        return found

    def _twin(self) -> int:
        """Each thread that asks has a segmenter of its own, which knows the classes of now; says how many there are."""
        twins = twins_of(self.segmenter, AT_ONCE)
        self._idle = SimpleQueue()
        for twin in twins:
            self._idle.put(twin)
        return len(twins)

    @property
    def _known(self) -> dict[str, list[tuple[Path, int]]]:
        return {name: [_key(shot) for shot in found] for name, found in self._learnt.items()}

    def _shown(self, shot: Shot) -> Path | Encoded:
        """The photo of an example as it is kept encoded, where it is."""
        photo = shot.photo
        return shot.image if photo is None or not self.kept.has(photo) else self.kept.encoded(photo, self.segmenter)

    def _forget(self, name: str) -> None:
        self._learnt.pop(name, None)
        if name in self.segmenter.classes:
            self.segmenter.remove(name)


def _key(shot: Shot) -> tuple[Path, int]:
    return shot.image, shot.written


def _alone(encoded: Encoded, name: str, strokes: Strokes) -> np.ndarray:
    """(H, W) bool: a class that nothing but strokes in this photo speak of."""
    flat = torch.full((1, 1), UNSEEN, device=encoded.resized.device)
    level = carried(flat, strokes, encoded.features, encoded.resized[None]).cpu().numpy()
    scores = np.stack([np.zeros_like(level), level])  # the background's, and the class's
    return Decided(encoded.photo, (name,), scores, {name: 1.0}, {name: strokes}).labels == 1
