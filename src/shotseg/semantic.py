"""A trained semantic model at work: photos in, a class for every pixel out, no examples needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotseg.data import images as files
from shotseg.data.enlarging import Strips, best_strips
from shotseg.data.weak_shot import BACKGROUND
from shotseg.device import usual_tensors
from shotseg.errors import InputError
from shotseg.evaluation import confidence
from shotseg.models.maskformer import Inference, Look, bands, winners
from shotseg.photo import Opened, Photo, check_classes, read_photo
from shotseg.predictor import Predictor, streams
from shotseg.result import Decided, Made, Result
from shotseg.training import checkpoint as trained


class Found(NamedTuple):
    """What was decided of a photo at its working size. Scores of all classes would take gigabytes: they are made in rows.

    looks, order: what the model says; ids of the background, if there is one, and of the classes.
    labels: (h, w) uint8, 0 = background.     shown: the values that it has.     levels: their scores (A, h, w) float32.
    present, confidences: of each class.
    """

    looks: list[Look]
    order: list[int]
    labels: np.ndarray
    shown: np.ndarray
    levels: np.ndarray
    present: list[float]
    confidences: list[float]


def decide(looks: Sequence[Look], names: Sequence[str]) -> Found:
    """The decision at the size of the largest look. names: of the model's classes, a background among them or not."""
    order = sorted(range(len(names)), key=lambda i: names[i] != BACKGROUND)
    value = 0 if BACKGROUND in names else 1  # of the first of them
    size = max((look.size for look in looks), key=lambda sides: sides[0] * sides[1])
    count, parts = len(order), []
    surest, inside, everywhere, area = torch.zeros(4, count, dtype=torch.float64)
    for scores in bands(looks, size, order):
        p = _to_one(scores)
        winner = winners(p)
        parts.append((winner + value).cpu().numpy())
        place, best = winner.flatten().long(), p.amax(0).flatten()
        surest = surest.maximum(p.amax((1, 2)).cpu())
        inside += torch.zeros(count, device=p.device).index_add(0, place, best).cpu()
        everywhere += p.sum((1, 2)).cpu()
        area += torch.zeros(count, device=p.device).index_add(0, place, torch.ones_like(best)).cpu()
    labels = np.concatenate(parts)
    shown = np.unique(labels)
    levels = _drawn(bands(looks, size, [order[i - value] for i in shown]), len(shown), size)
    sums = zip(*(x[1 - value :].tolist() for x in (inside, everywhere, area, surest)))
    sure = [confidence.of_sums(*each) for each in sums]
    kept = [look.cpu() for look in looks]
    return Found(kept, order, labels, shown, levels, surest[1 - value :].tolist(), sure)


def _to_one(scores: Tensor) -> Tensor:
    """Scores (C, n, W) so that those of a pixel sum to 1."""
    return scores / scores.sum(0).clamp(min=1e-8)


def _drawn(parts: Iterable[Tensor], count: int, size: tuple[int, int]) -> np.ndarray:
    """Bands (count, n, w) as one array, in no more memory than it takes."""
    whole, done = np.empty((count, *size), np.float32), 0
    for part in parts:
        whole[:, done : done + part.shape[1]] = part.cpu().numpy()
        done += part.shape[1]
    return whole


class LabelMap(Decided):
    """Every pixel of one photo, kept as it was decided. The probabilities of all classes are made when one of them is asked
    for, at the working size, and then kept.

    soft: also save the probability of each class.
    """

    soft: bool
    _found: Found

    def __init__(self, photo: Opened, classes: tuple[str, ...], found: Found, soft: bool = False):
        super().__init__(photo, classes, found.levels, dict(zip(classes, found.present)))
        self.__dict__.update(soft=soft, _found=found, confidences=dict(zip(classes, found.confidences)))

    @property
    def _able(self) -> Sequence[int]:  # type: ignore[override]
        return [i for i in self._found.shown.tolist() if i]

    @cached_property
    def _strips(self) -> Strips:
        strips = best_strips(self._scores, self.size)
        return replace(strips, values=self._found.shown[strips.values])

    @cached_property
    def preview(self) -> Result:  # type: ignore[override]
        labels = self._found.labels
        image = np.array(Image.fromarray(self._photo.small).resize(labels.shape[::-1], Image.Resampling.BOX))
        soft = Made(self.classes, lambda name: self._probabilities[self.classes.index(name)])
        return Result(image, self.classes, labels, soft, present=self.present)

    @cached_property
    def _probabilities(self) -> np.ndarray:
        """(N, h, w) float32: the probability of each class."""
        found, count = self._found, len(self.classes)
        every = (_to_one(scores)[-count:] for scores in bands(found.looks, found.labels.shape, found.order))
        return _drawn(every, count, found.labels.shape)

    def save(self, folder: str | Path, name: str = "photo") -> None:
        super().save(folder, name)
        if self.soft:
            self.save_soft(folder, name)


class SemanticSegmenter(Predictor):
    """The classes of a MaskFormer or SimFormer checkpoint, base and novel alike, competing for every pixel.

    checkpoint: best.safetensors of a run.      size: working size in place of the training's.
    inference:  as a whole or in windows, several scales, mirrored.       soft: results also save ``soft/<class>/<name>.png``.

    >>> seg = SemanticSegmenter("run/best.safetensors")  # doctest: +SKIP
    >>> seg.predict("street.jpg").probabilities["bicyclist"]  # doctest: +SKIP
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "auto",
        size: int | None = None,
        inference: Inference | None = None,
        soft: bool = False,
    ):
        super().__init__(device)
        self.checkpoint, self.size = Path(checkpoint), size
        self.inference, self.soft = inference or Inference(), soft
        self.model, self._names = trained.load_semantic(checkpoint, str(self.device), size)
        self.method, self.encoder = trained.names(checkpoint)
        check_classes(self.classes, checkpoint, InputError)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the training, base and novel, without a background."""
        return tuple(name for name in self._names if name != BACKGROUND)

    @streams
    @usual_tensors()
    def predict(self, photo: Photo) -> LabelMap:
        """Label one photo of any size. A background class, if the model has one, is label 0; scores are made to sum to 1."""
        image = read_photo(photo)
        found = decide(self.model.look(self.model.fit(image), self.inference), self._names)
        return LabelMap(Opened(image, image.shape[:2], partial(np.asarray, image)), self.classes, found, self.soft)

    def predict_batch(self, photos: Iterable[Photo]) -> list[LabelMap]:
        return [self.predict(photo) for photo in photos]

    def save(self, path: str | Path) -> None:
        """Keep what :meth:`load` needs; the checkpoint stays where it is, or moves with this file."""
        how = {"inference": asdict(self.inference), "soft": self.soft}
        about = {"checkpoint": str(self.checkpoint.absolute()), "size": self.size, **how}
        files.write_bytes(path, json.dumps(about).encode())

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> SemanticSegmenter:
        """The SemanticSegmenter that ``save`` kept. Raises InputError for another file."""
        try:
            about = json.loads(files.read_bytes(path))
            how = Inference(**{**about["inference"], "scales": tuple(about["inference"]["scales"])})
            checkpoint, size, soft = about["checkpoint"], about["size"], about["soft"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: not what SemanticSegmenter.save writes; make it again") from None
        return cls(trained.where(checkpoint, path), device, size, how, soft)
