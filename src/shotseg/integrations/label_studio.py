"""Label Studio: its tasks in, brush regions out; what people finish becomes examples. No server here: see ``backend_app``."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from shotseg.data.annotations.drawn import BROKEN
from shotseg.data.annotations.label_studio import KINDS, draw, encode
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import IMAGE_TYPES, sha256, write_bytes, write_png
from shotseg.errors import InputError, first_line
from shotseg.integrations.supports import add_examples
from shotseg.integrations.task_photos import TaskPhotos
from shotseg.models.strokes import Strokes
from shotseg.photo import check_classes, open_file, read_photo
from shotseg.result import Result
from shotseg.segmenter import Segmenter

log = logging.getLogger("shotseg")
SECONDS = 80.0  # of one answer: Label Studio waits 100
DOT = 0.004  # radius of a key point, in longer sides of the photo
FINISHED = {"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"}
MOST_SCHEMA = 1_000_000  # characters of a labelling set-up


class Tag(NamedTuple):
    """A control of the labelling set-up whose regions are masks: its names, the labels, and the task's key of the photo."""

    kind: str
    name: str
    to: str
    labels: tuple[str, ...]
    key: str


def tag_of(schema: str) -> Tag | None:
    """The first BrushLabels or BitmaskLabels of a labelling set-up; None where it is empty or has none.

    Raises InputError where it is no XML.
    """
    if not schema or not schema.strip():
        return None
    if len(schema) > MOST_SCHEMA or "<!" in re.sub(r"<!--.*?-->", "", schema, flags=re.DOTALL):
        raise InputError("the labelling set-up is too long or declares entities; leave them out")
    try:
        tree = ElementTree.fromstring(schema)
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling set-up is no XML ({error}); copy it from the project again") from error
    photos = {e.get("name"): str(e.get("value", "")).lstrip("$") for e in tree.iter("Image")}
    for element in tree.iter():
        if element.tag in ("BrushLabels", "BitmaskLabels"):
            to = str(element.get("toName"))
            labels = tuple(e.get("value", "") for e in element.iter("Label"))
            return Tag(element.tag.lower(), str(element.get("name")), to, labels, photos.get(to) or "image")
    return None


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
        drawn = (context or {}).get("result") or []
        for number, task in enumerate(tasks):
            answer: Any = []
            if tag is None:
                log.warning("the labelling set-up has no BrushLabels; nothing is drawn")
            elif number and time.monotonic() > end:
                log.warning("time is up: %d of %d tasks are left for the next call", len(tasks) - number, len(tasks))
                answers += [[]] * (len(tasks) - number)
                break
            else:
                try:
                    answer = self._answer(task, tag, drawn)
                except Exception as error:  # whatever one task brings, the others are answered
                    log.warning("task %s: %s", _number(task), first_line(error))
            answers.append({"result": [], "model_version": self._version} if context and not answer else answer)
        return answers

    def _answer(self, task: Any, tag: Tag, drawn: list[dict]) -> Any:
        with self._lock:
            segmenter, version = self._segmenter, self._version
        if not segmenter.classes:
            raise InputError("no class is known yet; finish an annotation, or give --support")
        photo = open_file(self.photos.read(task["data"].get(tag.key)), f"photo of task {_number(task)}", segmenter.sees)
        strokes = _strokes(drawn, photo.size)
        result = segmenter.predict(photo, {name: s for name, s in strokes.items() if name in segmenter.classes})
        if unknown := strokes.keys() - set(segmenter.classes):
            log.warning("no example of %s yet; finish an annotation of it", ", ".join(sorted(unknown)))
        wanted = [name for name in tag.labels if not drawn or name in strokes]
        return {
            "result": _regions(result, tag, wanted),
            "score": round(float(result.confidence), 6),
            "model_version": version,
        }

    def learn(self, event: Mapping) -> int:
        """Keep what a person finished as examples, in place of what was kept of that task; how many there are now of it.

        event: what Label Studio's webhook sends. Other actions, and cancelled annotations, change nothing.
        Raises InputError where the photo or the regions cannot be used.
        """
        if event.get("action") not in FINISHED or self.examples is None:
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

    def _keep(self, annotation: Mapping, task: Mapping, tag: Tag) -> int:
        assert self.examples is not None
        stem = f"task-{int(task['id'])}"
        address = task["data"].get(tag.key)
        content = self.photos.read(address)
        size = read_photo(content).shape[:2]
        masks: dict[str, np.ndarray] = {}
        try:
            for name, mask in _drawn(annotation.get("result") or [], size):
                masks[name] = masks.get(name, False) | mask
        except BROKEN as error:
            raise InputError(f"task {task['id']}: a region cannot be drawn ({first_line(error)})") from error
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        check_classes(masks, "learn")
        for old in self.examples.glob(f"*/*/{stem}.*"):  # of classes that were taken back
            old.unlink()
        for name, mask in masks.items():
            write_bytes(self.examples / "images" / name / f"{stem}{_ending(address)}", content)
            write_png(self.examples / "masks" / name / f"{stem}.png", mask.astype(np.uint8) * np.uint8(255))
        return len(masks)

    def _learn(self) -> None:
        """The classes of the start, and those of the kept examples beside them."""
        segmenter = self.start.twin()
        if self.examples is not None and any(self.examples.glob("images/*/*.*")):
            for folder in self.examples.glob("*/*"):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            for _, error in add_examples(segmenter, open_folder(self.examples)):
                if error:
                    log.warning("%s", error)
        version = _digest(segmenter)
        with self._lock:
            self._segmenter, self._version = segmenter, version


def _listed(found: Any) -> list[dict]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _ending(address: str) -> str:
    """The ending of a photo's file; any of a photo will do where the address shows none, as files are told by their content."""
    found = PurePosixPath(address.split("&")[0]).suffix.lower()
    return found if found in IMAGE_TYPES else ".jpg"


def _digest(segmenter: Segmenter) -> str:
    if not segmenter.classes:
        return "shotseg-empty"
    with tempfile.TemporaryDirectory() as folder:
        segmenter.save(Path(folder, "supports.safetensors"))
        content = sha256(Path(folder, "supports.safetensors"))
    return "shotseg-" + hashlib.sha256(f"{content} {segmenter.present}".encode()).hexdigest()[:16]


def _regions(result: Result, tag: Tag, names: Iterable[str]) -> list[dict]:
    height, width = result.size
    return [
        {
            "id": f"shotseg-{result.classes.index(name)}",
            "type": tag.kind,
            "from_name": tag.name,
            "to_name": tag.to,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(float(result.confidences[name]), 6),
            "readonly": False,
            "value": {**_value(result.masks[name], tag), tag.kind: [name]},
        }
        for name in names
        if name in result.masks and result.masks[name].any()
    ]


def _value(mask: np.ndarray, tag: Tag) -> dict:
    if tag.kind == "brushlabels":
        return {"format": "rle", "rle": encode(mask)}
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = mask * np.uint8(255)  # black on transparent
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}


def _drawn(regions: Iterable[dict], size: tuple[int, ...]) -> Iterable[tuple[str, np.ndarray]]:
    """(class, (H, W) bool) of every mask among the regions. Raises as ``BROKEN`` says where one is of another size."""
    for region in regions:
        value = region.get("value") or {}
        if {"rle", "points", "imageDataURL"} & value.keys():
            mask = draw(value, *size)
            if mask.shape != tuple(size):
                raise ValueError(f"a mask of {mask.shape} in a photo of {tuple(size)}")
            for name in _names(region):
                yield name, mask


def _strokes(regions: Iterable[dict], size: tuple[int, int]) -> dict[str, Strokes]:
    """What a person marked, by class: brushes, and key points as dots; ``is_positive`` 0 is a dot on something else."""
    strokes: dict[str, Strokes] = {}
    height, width = size
    for region in regions:
        value = region.get("value") or {}
        for name in _names(region):
            known = strokes.get(name) or Strokes.none(size)
            if {"x", "y"} <= value.keys() and "width" in value and "height" not in value:
                place = int(float(value["y"]) / 100 * height), int(float(value["x"]) / 100 * width)
                place = min(max(place[0], 0), height - 1), min(max(place[1], 0), width - 1)
                known = known.disc(place, DOT * max(size), bool(int(region.get("is_positive", 1))))
            for _, mask in _drawn([region], size):
                known = Strokes(np.where(mask, np.uint8(1), known.labels))
            strokes[name] = known
    return strokes


def _names(region: dict) -> list[str]:
    value = region.get("value") or {}
    return [str(name) for kind in (*KINDS, "keypointlabels") for name in value.get(kind) or ()]


def _number(task: Any) -> Any:
    return task.get("id") if isinstance(task, dict) else "?"
