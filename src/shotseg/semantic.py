"""A trained semantic model at work: photos in, a class for every pixel out, no examples needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shotseg.data import images as files
from shotseg.data.transforms import resize_logits, resize_rows
from shotseg.data.weak_shot import BACKGROUND
from shotseg.errors import InputError
from shotseg.models.maskformer import Inference
from shotseg.photo import Photo, check_classes, read_photo
from shotseg.predictor import Predictor
from shotseg.result import Result, winners
from shotseg.training import checkpoint as trained

BAND = 2**23  # scores that are enlarged to the photo's size at once


@dataclass(frozen=True, eq=False, repr=False)
class LabelMap(Result):
    """Every pixel of one photo. soft: also save the probability of each class."""

    soft: bool = False

    def save(self, folder: str | Path, name: str = "photo") -> None:
        super().save(folder, name)
        if self.soft:
            self.save_soft(folder, name)


class Scores(Mapping[str, np.ndarray]):
    """Class name -> probability (H, W) float32, made when it is asked for: at a photo's size all of them take gigabytes.

    names:  of the model's classes, where the background is one.
    scales: the scores of each scale (C, h, w), C as ``names``; they are kept.       size: (H, W) of the photo.
    """

    def __init__(self, names: Sequence[str], scales: Sequence[Tensor], size: tuple[int, int]):
        self._names, self._scales, self._size = names, scales, size
        self._rows = {name: i for i, name in enumerate(names) if name != BACKGROUND}
        self._background = [i for i, name in enumerate(names) if name == BACKGROUND]

    def __getitem__(self, name: str) -> np.ndarray:
        row = self._rows[name]
        own = self._mean([resize_logits(scores[row : row + 1], self._size) for scores in self._scales])
        return (own / self._total)[0].cpu().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def cpu(self) -> Scores:
        """The same, kept in the machine's own memory."""
        return Scores(self._names, [scores.cpu() for scores in self._scales], self._size)

    def decided(self) -> tuple[np.ndarray, dict[str, float]]:
        """The label map (H, W) uint8, 0 = background, and of each class the probability of its surest pixel; in bands of rows."""
        (height, width), classes = self._size, list(self._rows.values())
        step = max(1, BAND // (width * len(self._scales[0])))
        labels, surest = np.empty(self._size, np.uint8), torch.zeros(len(classes), device=self._scales[0].device)
        for top in range(0, height, step):
            rows = slice(top, top + step)
            scores = self._mean([resize_rows(scores, self._size, rows) for scores in self._scales])
            scores /= self._total[:, rows]
            own = scores[classes]
            rest = scores[self._background].sum(0, keepdim=True) if self._background else torch.full_like(own[:1], -1.0)
            labels[rows] = winners(torch.cat([rest, own])).cpu().numpy()
            surest = torch.maximum(surest, own.amax((1, 2)))
        return labels, dict(zip(self._rows, surest.tolist()))

    @cached_property
    def _total(self) -> Tensor:
        """(1, H, W): by what scores are divided. Enlarging is linear, so the sum may come first."""
        sums = [resize_logits(scores.sum(0, keepdim=True), self._size) for scores in self._scales]
        return self._mean(sums).clamp(min=1e-8)

    @staticmethod
    def _mean(scales: Sequence[Tensor]) -> Tensor:
        return scales[0] if len(scales) == 1 else torch.stack(list(scales)).mean(0)


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

    def predict(self, photo: Photo) -> LabelMap:
        """Label one photo of any size. A background class, if the model has one, is label 0; scores are made to sum to 1."""
        image = read_photo(photo)
        scores = Scores(self._names, self.model.scores_by_scale(self.model.fit(image), self.inference), image.shape[:2])
        labels, present = scores.decided()
        return LabelMap(image, self.classes, labels, scores.cpu(), self.soft, present=present)

    def predict_batch(self, photos: Iterable[Photo]) -> list[LabelMap]:
        return [self.predict(photo) for photo in photos]

    def save(self, path: str | Path) -> None:
        """Keep what :meth:`load` needs; the checkpoint stays where it is."""
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
        return cls(checkpoint, device, size, how, soft)
