"""Label Studio: its tasks in, brush regions out; what people finish becomes examples. No server here: see ``backend_app``."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shotseg.data.annotations.drawn import BROKEN
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import IMAGE_TYPES, sha256, write_bytes, write_png
from shotseg.errors import InputError, first_line
from shotseg.integrations.regions import MASKS, Tag, drawn, regions_of, strokes_of, tag_of
from shotseg.integrations.supports import add_examples
from shotseg.integrations.task_photos import TaskPhotos
from shotseg.photo import check_classes, open_file, read_photo
from shotseg.segmenter import Segmenter

log = logging.getLogger("shotseg")
SECONDS = 80.0  # of one answer: Label Studio waits 100
FINISHED = {"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"}
DELETED = "ANNOTATIONS_DELETED"


class Backend:
    """Answers for a project: masks for its tasks, and examples from its finished annotations.

    segmenter: with the classes to begin with, perhaps none.   photos: reads what the tasks name.
    examples:  folder for what people finish, ``images/<class>/`` and ``masks/<class>/``, as the command line takes it; what
               is in it counts from the start. None: nothing is kept.
    """

    def __init__(
        self, segmenter: Segmenter, photos: TaskPhotos, examples: Path | None = None, seconds: float = SECONDS
    ):
        self.start, self.photos, self.examples, self.seconds = segmenter, photos, examples, seconds
        self._lock, self._learning = threading.Lock(), threading.Lock()
        self._segmenter = segmenter
        self._learnt = dict[str, tuple[str, str]]()  # as of _kept
        self._learn()

    @property
    def version(self) -> str:
        """Digest of the classes: another as soon as they change, so that Label Studio asks anew."""
        return self._version

    def predict(self, tasks: Sequence[Any], schema: str, context: Mapping | None = None) -> list[Any]:
        """One answer for each task, in order: {result, score, model_version}, or [] for a task of which nothing can be said:
        its photo cannot be read, or the time was up. Label Studio then asks again; an empty region list it would keep.

        context: what a person is drawing, in an interactive call; regions of its class come back.
        """
        end = time.monotonic() + self.seconds
        answers: list[Any] = []
        tag = tag_of(schema)
        marked = (context or {}).get("result") or []
        for number, task in enumerate(tasks):
            answer: Any = []
            if tag is None:
                log.warning("the labelling set-up has no %s; nothing is drawn", ", ".join(MASKS))
            elif number and time.monotonic() > end:
                log.warning("time is up: %d of %d tasks are left for the next call", len(tasks) - number, len(tasks))
                answers += [[]] * (len(tasks) - number)
                break
            else:
                try:
                    answer = self._answer(task, tag, marked)
                except Exception as error:  # whatever one task brings, the others are answered
                    log.warning("task %s: %s", _number(task), first_line(error))
            answers.append({"result": [], "model_version": self._version} if context and not answer else answer)
        return answers

    def _answer(self, task: Any, tag: Tag, marked: list[dict]) -> Any:
        with self._lock:
            segmenter, version = self._segmenter, self._version
        if not segmenter.classes:
            raise InputError("no class is known yet; finish an annotation, or give --support")
        photo = open_file(self.photos.read(task["data"].get(tag.key)), f"photo of task {_number(task)}", segmenter.sees)
        strokes = strokes_of(marked, photo.size)
        result = segmenter.predict(photo, {name: s for name, s in strokes.items() if name in segmenter.classes})
        if unknown := strokes.keys() - set(segmenter.classes):
            log.warning("no example of %s yet; finish an annotation of it", ", ".join(sorted(unknown)))
        wanted = [name for name in tag.labels if not marked or name in strokes]
        return {
            "result": regions_of(result, tag, wanted),
            "score": round(float(result.confidence), 6),
            "model_version": version,
        }

    def learn(self, event: Mapping) -> int:
        """Keep what a person finished as examples, in place of what was kept of that task; how many there are now of it. What a
        person deleted is an example no longer.

        event: what Label Studio's webhook sends. Other actions, and cancelled annotations, change nothing.
        Raises InputError where the photo or the regions cannot be used.
        """
        if self.examples is None or event.get("action") not in {*FINISHED, DELETED}:
            return 0
        if event["action"] == DELETED:
            self._forget(_listed(event.get("annotations")))
            return 0
        tag = tag_of(str((event.get("project") or {}).get("label_config") or ""))
        tasks = {task["id"]: task for task in _listed(event.get("task"))}
        finished = [a for a in _listed(event.get("annotation")) if not a.get("was_cancelled")]
        if tag is None or not finished:
            return 0
        with self._learning:
            kept = sum(self._keep(a, tasks[a.get("task", next(iter(tasks)))], tag) for a in finished)
            self._learn()
        return kept

    def _forget(self, annotations: list[dict]) -> None:
        assert self.examples is not None
        with self._learning:
            for annotation in annotations:
                for old in self.examples.glob(f"*/*/task-*-annotation-{int(annotation['id'])}.*"):
                    old.unlink()
            self._learn()

    def _keep(self, annotation: Mapping, task: Mapping, tag: Tag) -> int:
        assert self.examples is not None
        earlier = f"task-{int(task['id'])}"
        stem = f"{earlier}-annotation-{int(annotation['id'])}"
        address = task["data"].get(tag.key)
        content = self.photos.read(address)
        size = read_photo(content).shape[:2]
        masks: dict[str, np.ndarray] = {}
        try:
            for name, mask in drawn(annotation.get("result") or [], size):
                masks[name] = masks.get(name, False) | mask
        except BROKEN as error:
            raise InputError(f"task {task['id']}: a region cannot be drawn ({first_line(error)})") from error
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        check_classes(masks, "learn")
        for old in self.examples.glob(f"*/*/{earlier}[-.]*"):  # also of classes that were taken back
            old.unlink()
        for name, mask in masks.items():
            write_bytes(self.examples / "images" / name / f"{stem}{_ending(address)}", content)
            write_png(self.examples / "masks" / name / f"{stem}.png", mask.astype(np.uint8) * np.uint8(255))
        return len(masks)

    def _learn(self) -> None:
        """The classes of the start, and those of the kept examples beside them. What is known already is not encoded again: only
        new examples are, and the other ones of a class that lost or changed one."""
        kept = self._kept()
        lost = {name for id, (name, digest) in self._learnt.items() if kept.get(id) != (name, digest)}
        afresh = bool(lost & set(self.start.classes))
        segmenter = (self.start if afresh else self._segmenter).twin()
        for name in lost & set(segmenter.classes) if not afresh else ():
            segmenter.remove(name)
        known = {} if afresh else {id: example for id, example in self._learnt.items() if example[0] not in lost}
        if kept and self.examples is not None:
            for item, error in add_examples(segmenter, open_folder(self.examples), skip=known):
                if error:
                    log.warning("%s", error)
                else:
                    known[item.id] = kept[item.id]
        self._learnt = known
        version = self._digest(kept)
        with self._lock:
            self._segmenter, self._version = segmenter, version

    def _kept(self) -> dict[str, tuple[str, str]]:
        """id -> class and digest, of every example in the folder."""
        if self.examples is None or not any(self.examples.glob("images/*/*.*")):
            return {}
        for folder in self.examples.glob("*/*"):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if not any(self.examples.glob("images/*/*.*")):
            return {}
        return {
            item.id: (item.class_name, " ".join(map(_sha256, (item.image_path, *item.mask_paths))))
            for item in open_folder(self.examples).items
        }

    def _digest(self, kept: Mapping[str, tuple[str, str]]) -> str:
        """Of the classes of the start and of every example, in whatever order they came."""
        if not kept and not self.start.classes:
            return "shotseg-empty"
        start = [(name, self.start.examples(name).digest) for name in self.start.classes]
        content = [self.start.present, sorted(start), sorted(kept.values())]
        return "shotseg-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _sha256(path: Path | None) -> str:
    return "" if path is None else _sha256_once(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=10_000)
def _sha256_once(path: Path, *_: int) -> str:
    return sha256(path)


def _listed(found: Any) -> list[dict]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _ending(address: str) -> str:
    """The ending of a photo's file; any of a photo will do where the address shows none, as files are told by their content."""
    found = PurePosixPath(address.split("&")[0]).suffix.lower()
    return found if found in IMAGE_TYPES else ".jpg"


def _number(task: Any) -> Any:
    return task.get("id") if isinstance(task, dict) else "?"
