"""A trained semantic model at work: photos in, a class for every pixel out, no examples needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from shotseg.data import images as files
from shotseg.data.weak_shot import BACKGROUND
from shotseg.device import pick_device
from shotseg.errors import InputError
from shotseg.models.maskformer import Inference
from shotseg.photo import Photo, check_classes, read_photo
from shotseg.result import Result, winners
from shotseg.training import checkpoint as trained


@dataclass(frozen=True, eq=False, repr=False)
class LabelMap(Result):
    """Every pixel of one photo. soft: also save the probability of each class."""

    soft: bool = False

    def save(self, folder: str | Path, name: str = "photo") -> None:
        super().save(folder, name)
        if self.soft:
            self.save_soft(folder, name)


class SemanticSegmenter:
    """The classes of a MaskFormer or SimFormer checkpoint, base and novel alike, competing for every pixel.

    checkpoint: best.safetensors of a run.      size: working size in place of the training's.
    inference:  as a whole or in windows, several scales, mirrored.       soft: results also save ``soft/<class>/<name>.png``.

    >>> seg = SemanticSegmenter("run/best.safetensors")  # doctest: +SKIP
    >>> seg.predict("street.jpg").probabilities["bicyclist"]  # doctest: +SKIP
    """

    sees = None  # pixels of a photo's longer side that are enough: all

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "auto",
        size: int | None = None,
        inference: Inference | None = None,
        soft: bool = False,
    ):
        self.device, self.checkpoint, self.size = pick_device(device), Path(checkpoint), size
        self.inference, self.soft = inference or Inference(), soft
        self.model, names = trained.load_semantic(checkpoint, str(self.device), size)
        self.method, self.encoder = trained.names(checkpoint)
        self._names = names
        self.classes = tuple(name for name in names if name != BACKGROUND)
        check_classes(self.classes, checkpoint, InputError)
        self.thumbnails: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}

    def predict(self, photo: Photo) -> LabelMap:
        """Label one photo of any size. A background class, if the model has one, is label 0; scores are made to sum to 1."""
        image = read_photo(photo)
        scores = self.model.segment(image, self.inference)
        scores = scores / scores.sum(0, keepdim=True).clamp(min=1e-8)
        ids = [self._names.index(name) for name in self.classes]
        hidden = [i for i in range(len(self._names)) if i not in ids]
        rest = scores[hidden].sum(0, keepdim=True) if hidden else torch.full_like(scores[:1], -1.0)
        labels = winners(torch.cat([rest, scores[ids]])).cpu().numpy()
        probability = scores[ids].cpu().numpy()
        return LabelMap(image, self.classes, labels, dict(zip(self.classes, probability)), self.soft)

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
