"""What a project knows of its classes and photos, and what each event of its journal does to that."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from shotseg.web.drawing import Stroke
from shotseg.web.ledger import Event

STATES = ("open", "predicted", "accepted", "corrected", "rejected")
REVIEWED = ("accepted", "corrected")


@dataclass
class PageClass:
    """number: of its pixels in kept masks, from 1, never given again.   colour: "#rrggbb".   key: a digit, or ""."""

    number: int
    name: str
    colour: str
    key: str = ""

    @property
    def id(self) -> str:
        return f"c{self.number}"


@dataclass
class PagePhoto:
    """One photo. file: its name below its folder.

    version: grows with every change that can be seen.   said: the version of the newest change that a person made.
    drawn:   the file of the mask that a person accepted, corrected or brought along.   by_hand: whether it was corrected.
    present, areas, digest: of the mask as it is now, where there is one; classes by their numbers.
    confidence: of the model in its mask; None where a person made or took it.
    pages: in its file, of which the first is the photo; None until somebody asks.
    """

    id: str
    file: str
    path: Path
    width: int = 0
    height: int = 0
    state: str = "open"
    version: int = 0
    said: int = 0
    strokes: list[Stroke] = field(default_factory=list)
    drawn: str | None = None
    by_hand: bool = False
    confidence: float | None = None
    present: dict[int, float] = field(default_factory=dict)
    areas: dict[int, float] = field(default_factory=dict)
    digest: int | None = None
    error: str | None = None
    pages: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def is_drawn(self, areas: dict[int, float]) -> None:
        """A person says what is in it: areas of each class, by its number."""
        self.areas, self.confidence = areas, None
        self.present = {number: float(area > 0) for number, area in areas.items()}

    @property
    def reviewed(self) -> bool:
        return self.state in REVIEWED


@dataclass
class Said:
    """The state of a project: the replay of its events."""

    classes: dict[int, PageClass] = field(default_factory=dict)
    photos: dict[str, PagePhoto] = field(default_factory=dict)
    settings: dict[str, bool] = field(default_factory=lambda: {"examples_from_reviewed": True})
    last_number: int = 0
    joined: dict[int, int] = field(default_factory=dict)  # number of a class -> of the one that it was joined to

    def standing(self) -> list[int]:
        """What each number from 1 on means by now: itself, the class that it was joined to, or 0 once that is removed."""
        now = (self.joined.get(number, number) for number in range(1, self.last_number + 1))
        return [number if number in self.classes else 0 for number in now]

    def apply(self, event: Event) -> None:
        """Raises KeyError, TypeError or ValueError for an event that is none."""
        do = event["do"]
        if do == "class":
            own = PageClass(int(event["number"]), event["name"], event["colour"], event["key"])
            self.classes[own.number] = own
            self.last_number = max(self.last_number, own.number)
        elif do == "drop":
            del self.classes[event["number"]]
            for photo in self.photos.values():
                photo.strokes = [stroke for stroke in photo.strokes if stroke.number in self.classes]
        elif do == "join":
            self._join(event["number"], event["into"])
        elif do == "settings":
            self.settings[event["name"]] = bool(event["value"])
        else:
            self._apply_to_photo(do, event)

    def _join(self, number: int, into: int) -> None:
        if number == into or into not in self.classes:
            raise ValueError(f"class {number} cannot be joined to {into}")
        del self.classes[number]
        self.joined = {old: into if new == number else new for old, new in self.joined.items()} | {number: into}
        for photo in self.photos.values():
            photo.strokes = [replace(s, number=into) if s.number == number else s for s in photo.strokes]
            if number in photo.areas:
                photo.version += 1  # the mask looks other
                photo.areas = {**photo.areas, into: photo.areas.get(into, 0.0) + photo.areas[number]}
                photo.present = {**photo.present, into: max(photo.present.get(n, 0.0) for n in (number, into))}
                del photo.areas[number]

    def _apply_to_photo(self, do: str, event: Event) -> None:
        photo = self.photos.setdefault(event["photo"], PagePhoto(event["photo"], event["file"], Path(event["file"])))
        if do == "strokes":
            photo.strokes = photo.strokes + [stroke_of(stroke) for stroke in event["strokes"]]
            photo.drawn, photo.by_hand, photo.state = None, False, "predicted"
        elif do == "clear":
            photo.strokes, photo.drawn, photo.by_hand, photo.state = [], None, False, "open"
        elif do == "mask":
            photo.drawn, photo.by_hand, photo.state = event["mask"], event["state"] == "corrected", event["state"]
            photo.strokes = photo.strokes + [stroke_of(stroke) for stroke in event.get("strokes", ())]
            photo.is_drawn({int(number): float(area) for number, area in event.get("areas", {}).items()})
            photo.confidence = event.get("confidence")
        elif do == "state":
            photo.state = event["state"]
            if photo.reviewed:
                photo.confidence = None
            if photo.state == "open":
                photo.drawn, photo.by_hand = None, False
        else:
            raise ValueError(f"no event {do!r}")
        photo.height, photo.width = event["size"]
        photo.version = photo.said = max(photo.version + 1, int(event["version"]))


def stroke_of(kept: dict) -> Stroke:
    points = tuple((float(x), float(y)) for x, y in kept["points"])
    return Stroke(int(kept["number"]), bool(kept["inside"]), float(kept["radius"]), points)


def id_of(file: str, dropped: bool) -> str:
    """The same after every start, and nothing that a path can be made of."""
    return hashlib.sha256(f"{dropped:d}{file}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
