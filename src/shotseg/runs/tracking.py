"""Frames of a sequence in their order, of a folder or of a video: those that are sure serve those after them.

Frames are encoded side by side and decided one after the other. What an earlier run finished is not decided again; what it
leaves in the memory is made anew from its masks. So a run that goes on ends as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from shotseg.data import images as files
from shotseg.data import remote
from shotseg.data.video import Video, is_video, pyav, write_video
from shotseg.device import one_thread_each
from shotseg.encoded import Encoded
from shotseg.errors import InputError, UsageError
from shotseg.models.memory import KEPT, SURE, Memory
from shotseg.overlay import draw
from shotseg.photo import Opened, open_photo
from shotseg.predictor import Predictor, ahead
from shotseg.runs.destination import Folder
from shotseg.runs.engines import Engine, Step, cannot, read, twins_of, write
from shotseg.runs.journal import Entry
from shotseg.runs.output import OVERLAY
from shotseg.runs.photo_list import PhotoFile
from shotseg.runs.photos import stat_of
from shotseg.runs.records import Record
from shotseg.segmenter import Segmenter

Reader = Callable[[], Step]


class Frames:
    """The frames of folders, in the order of their names, 9 before 10; each folder is a sequence of its own.

    photos: as of :func:`shotseg.runs.find_photos`.    rate: frames a second of the overlay video; None: none is made.
    Raises UsageError for a video where PyAV is not installed.
    """

    aspect = Fraction(1)
    rule = f"the last {KEPT} frames of a confidence from {SURE} on"  # what a run says of itself

    def __init__(self, photos: Iterable[PhotoFile], rate: float | None = None):
        self.photos = sorted(photos, key=lambda photo: _natural(photo.file))
        self.rate = rate
        if rate is not None:
            pyav()

    def readers(self, wanted: set[str], least: int) -> Iterator[Reader]:
        """In order, what reads each frame of these names, no finer than ``least`` pixels of the longer side."""
        for photo in self.photos:
            if photo.name in wanted:
                yield lambda photo=photo: read(photo, least)  # type: ignore[misc]

    def about(self, photo: PhotoFile) -> Record:
        """What the record of a frame says beside what was found."""
        return {}

    def whole(self) -> Iterator[tuple[PhotoFile, np.ndarray, float]]:
        """Every frame that can be read, (H, W, 3) uint8, and its time in seconds."""
        for number, photo in enumerate(self.photos):
            try:
                yield photo, files.read_image(photo.path, photo.bands, photo.page), number / (self.rate or 1)
            except InputError:
                continue  # its record says why


class VideoFrames(Frames):
    """The frames of a video file, named by number and time, as ``000012_480ms``."""

    def __init__(self, file: PhotoFile):
        if (file.bands, file.page) != (None, 1):
            raise UsageError(f"{file.path}: a video has no bands or pages; leave --bands and --page out")
        stat = stat_of(file)  # before the content is read: a video replaced meanwhile counts as another
        self.video = Video(file.path)
        self.aspect, self.rate = self.video.aspect, self.video.rate
        with Path(file.path).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self.seen = {"path": file.absolute, "stat": stat, "sha256": digest, "tags": list(file.tags)}
        self.photos = [
            replace(file, file=f"{file.file}#{number:06d}", name=f"{number:06d}_{round(1000 * seconds)}ms", page=number)
            for number, seconds in enumerate(self.video.seconds, 1)
        ]

    def readers(self, wanted: set[str], least: int) -> Iterator[Reader]:
        numbers = [photo.page for photo in self.photos if photo.name in wanted]
        for number, picture in self.video.frames(numbers):
            yield lambda number=number, picture=picture: self._step(number, picture, least)  # type: ignore[misc]

    def _step(self, number: int, picture: np.ndarray | str, least: int) -> Step:
        start = time.perf_counter()
        value = picture if isinstance(picture, str) else open_photo(picture, least)
        return Step(self.photos[number - 1], self.seen, value, time.perf_counter() - start)

    def about(self, photo: PhotoFile) -> Record:
        return {"frame": photo.page, "time": round(self.video.seconds[photo.page - 1], 6)}

    def whole(self) -> Iterator[tuple[PhotoFile, np.ndarray, float]]:
        for number, picture in self.video.frames(range(1, len(self.photos) + 1)):
            if not isinstance(picture, str):
                yield self.photos[number - 1], picture, self.video.seconds[number - 1]


def frames_of(photos: Iterable[PhotoFile], rate: float | None = None) -> Frames:
    """The frames of the photos that a query means: of the one video that it is, or the photos themselves."""
    photos = list(photos)
    if any(remote.address(photo.path) for photo in photos):
        raise UsageError("--track reads files of this machine; download the frames first")
    if len(photos) == 1 and is_video(photos[0].path):
        return VideoFrames(photos[0])
    return Frames(photos, rate)


def check_tracks(segmenter: Predictor, out: str | Path) -> Segmenter:
    """Raises UsageError for what no earlier frame can teach, and for a store, in which no mask can be looked up again."""
    if remote.address(out):
        raise UsageError("--track writes to a folder of this machine; give one as --out")
    if isinstance(segmenter, Segmenter) and segmenter.needs == "masks":
        return segmenter
    raise UsageError("--track is of methods that learn a class from masks, as matching; leave it out")


def in_sequence(frames: Frames, finished: Iterable[Record]) -> Engine:
    """What does the frames that are not ``finished`` when it begins."""
    return lambda segmenter, photos, place, batch: run_sequence(segmenter, frames, place, finished)


def run_sequence(segmenter: Predictor, frames: Frames, place: Folder, finished: Iterable[Record]) -> Iterator[Entry]:
    """Entries of the frames that are not ``finished``, in their order.

    The record of a frame also names the classes that are ``lost``: found in the frame before it, and not in this one.
    Raises as :func:`check_tracks`.
    """
    done = {record["name"]: record for record in finished if record["error"] is None}
    wanted = {photo.name for photo in frames.photos if photo.name not in done} | _recalled(frames.photos, done)
    leader, twins = check_tracks(segmenter, place.text).twin(), twins_of(segmenter)
    idle: SimpleQueue[Any] = SimpleQueue()
    for twin in twins:
        idle.put(twin)

    def encoded(reader: Reader) -> Step:
        step, start = reader(), time.perf_counter()
        if not isinstance(step.value, Opened):
            return step
        mine = idle.get()
        try:
            value = mine.encode(step.value)
        except Exception as error:  # out of memory, or a fault: the other frames are still done
            value = cannot(step.photo.file, error)
        finally:
            idle.put(mine)
        return replace(step, value=value, seconds=step.seconds + time.perf_counter() - start)

    with ThreadPoolExecutor(len(twins)) as encoders, ThreadPoolExecutor(2) as writers, one_thread_each():
        steps = ahead(encoders, encoded, frames.readers(wanted, leader.sees), len(twins) + 1)
        decided = _decided(leader, steps, place.folder, done)
        yield from _said(frames, done, ahead(writers, lambda step: write(place, step), decided, 2))


def _decided(segmenter: Segmenter, steps: Iterable[Step], out: Path, done: Mapping[str, Record]) -> Iterator[Step]:
    """The steps of frames that are not done, each with its result; those that are done go into the memory alone."""
    memory, folder = Memory(), None
    for step in steps:
        start, name = time.perf_counter(), step.photo.name
        if folder != (folder := step.photo.sequence):
            memory = Memory()
        if name in done and isinstance(step.value, Encoded):
            labels = files.read_mask(out / "labels" / f"{name}.png", labels=True)
            frame = step.value
            memory.keep(
                segmenter.model, frame.resized, frame.features, labels, segmenter.classes, _confidences(done[name])
            )
        elif name not in done and isinstance(step.value, Encoded):
            try:
                value: Any = segmenter.follow(step.value, memory)
            except Exception as error:
                value = cannot(step.photo.file, error)
            yield replace(step, value=value, seconds=step.seconds + time.perf_counter() - start)
        elif name not in done:
            yield step


def _recalled(photos: Sequence[PhotoFile], done: Mapping[str, Record]) -> set[str]:
    """The frames that are done and that one still to do may look back on."""
    wanted: set[str] = set()
    last: dict[tuple[str, str], deque[str]] = {}
    for photo in photos:
        if photo.name in done:
            for name, confidence in _confidences(done[photo.name]).items():
                if confidence >= SURE:
                    last.setdefault((photo.sequence, name), deque(maxlen=KEPT)).append(photo.name)
        else:
            wanted.update(*(kept for (folder, _), kept in last.items() if folder == photo.sequence))
    return wanted


def _said(frames: Frames, done: Mapping[str, Record], entries: Iterator[Entry]) -> Iterator[Entry]:
    """The entries, each record with what only the sequence tells."""
    before: Record = {"classes": {}}
    folder = None
    for photo in frames.photos:
        if folder != (folder := photo.sequence):
            before = {"classes": {}}
        entry = None if photo.name in done else next(entries)
        record = done[photo.name] if entry is None else entry["record"]
        lost = [] if record["error"] else [name for name in before["classes"] if name not in record["classes"]]
        if entry is not None:
            yield {**entry, "record": {**record, **frames.about(photo), "lost": lost}}
        before = before if record["error"] else record


def write_overlay(frames: Frames, out: Path) -> None:
    """``overlay.mp4``: the frames with their masks, at their times. Raises InputError where it cannot be written."""
    if frames.rate is None:
        return

    def drawn(frame: tuple[PhotoFile, np.ndarray, float]) -> tuple[np.ndarray, float]:
        photo, picture, seconds = frame
        path = out / "labels" / f"{photo.name}.png"
        labels = files.read_mask(path, labels=True) if path.is_file() else None
        return (picture if labels is None or not labels.any() else draw(picture, labels)), seconds

    with ThreadPoolExecutor(2) as painters:
        write_video(out / OVERLAY, ahead(painters, drawn, frames.whole(), 3), frames.rate, frames.aspect)


def _confidences(record: Record) -> dict[str, float]:
    return {name: found["confidence"] for name, found in record["classes"].items()}


def _natural(file: str) -> list[list[str | int]]:
    """Sorts numbers in names as numbers, and a folder's own frames before those of folders in it."""
    *folders, name = file.split("/")
    return [
        [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", x))] for x in (*folders, "", name)
    ]
