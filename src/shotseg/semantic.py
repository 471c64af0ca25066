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
from shotseg.predictor import Predictor, streams
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

    names:  of the classes, without a background.       size: (H, W) of the photo.
    scales: the scores of each scale (N + 1, h, w), at least 0, the background's first or -1 where it is no class; they are kept.
    """

    def __init__(self, names: Sequence[str], scales: Sequence[Tensor], size: tuple[int, int]):
        self._rows = {name: i for i, name in enumerate(names, 1)}
        self._scales, self._size = list(scales), size

    @classmethod
    def of(cls, names: Sequence[str], scales: Sequence[Tensor], size: tuple[int, int]) -> Scores:
        """names, scales: as a model has them, a background among them or not; without one nothing is background."""
        rows = [i for i, name in enumerate(names) if name != BACKGROUND]
        rest = [i for i, name in enumerate(names) if name == BACKGROUND]
        first = [scores[rest] if rest else torch.full_like(scores[:1], -1) for scores in scales]
        ordered = [torch.cat([background, scores[rows]]) for background, scores in zip(first, scales)]
        return cls([names[i] for i in rows], ordered, size)

    def __getitem__(self, name: str) -> np.ndarray:
        row = self._rows[name]
        own = _mean([resize_logits(scores[row : row + 1], self._size) for scores in self._scales])
        return (own / self._total)[0].cpu().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def cpu(self) -> Scores:
        """The same, kept in the machine's own memory."""
        return Scores(tuple(self), [scores.cpu() for scores in self._scales], self._size)

    def decided(self) -> tuple[np.ndarray, dict[str, float]]:
        """The label map (H, W) uint8, 0 = background, and of each class the probability of its surest pixel; in bands of rows."""
        height, width = self._size
        step = max(1, BAND // (width * len(self._scales[0])))
        labels, surest = np.empty(self._size, np.uint8), self._scales[0].new_zeros(len(self))
        for top in range(0, height, step):
            rows = slice(top, top + step)
            scores = _mean([resize_rows(scores, self._size, rows) for scores in self._scales])
            scores /= self._total[:, rows]
            labels[rows] = winners(scores).cpu().numpy()
            surest = torch.maximum(surest, scores[1:].amax((1, 2)))
        return labels, dict(zip(self, surest.tolist()))

    @cached_property
    def _total(self) -> Tensor:
        """(1, H, W): by what scores are divided. Enlarging is linear, so the sum may come first."""
        sums = [resize_logits(scores.clamp(min=0).sum(0, keepdim=True), self._size) for scores in self._scales]
        return _mean(sums).clamp(min=1e-8)


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

    @streams
    def predict(self, photo: Photo) -> LabelMap:
        """Label one photo of any size. A background class, if the model has one, is label 0; scores are made to sum to 1."""
        image = read_photo(photo)
        scores = Scores.of(
            self._names, self.model.scores_by_scale(self.model.fit(image), self.inference), image.shape[:2]
        )
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
