"""One model under one protocol on one pool of photos: every photo is read and encoded once, every episode counted alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.episodes import EpisodeIndex
from shotseg.data.samples import IGNORE, Support
from shotseg.encoders.copies import over_the_same_weights
from shotseg.encoders.features import Features
from shotseg.errors import InputError
from shotseg.evaluation import canvas, controls
from shotseg.evaluation.cache import Cache
from shotseg.evaluation.counts import count
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import Protocol

Row = dict[str, Any]  # the counts of one episode, as they are written to the file of partial results


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo at its working size (1, 3, h, w) in [0, 1], and its features."""

    image: Tensor
    features: Features


class Evaluator:
    """One model under one protocol on one pool of photos.

    model:    a few-shot model (``encode``, ``encode_support``, ``forward``), already on ``device``.
    dataset:  gives ``sample(i)`` for the positions of ``pool``.
    cache_mb: bound on the photos, features and supports that are kept.
    """

    def __init__(
        self,
        model: Any,
        dataset: Any,
        pool: Pool,
        protocol: Protocol,
        device: str | torch.device = "cpu",
        cache_mb: int = 2000,
    ):
        self.dataset, self.pool, self.device = dataset, pool, device
        self._model, self._of_thread, self._copying = model, threading.local(), threading.Lock()
        self.size: int = protocol.size or model.size
        self.geometry: str = protocol.geometry or model.geometry
        self.protocol = replace(protocol, size=self.size, geometry=self.geometry)  # nothing is left open in the result
        self.cache = Cache(cache_mb * 2**20)

    @property
    def model(self) -> Any:
        return getattr(self._of_thread, "model", self._model)

    def own_model(self) -> None:
        """Give the calling thread a model of its own with the same weights: a forward pass may keep state in its modules."""
        with self._copying:
            self._of_thread.model = over_the_same_weights(self._model)

    def group(self, episode: EpisodeIndex) -> Any:
        """Episodes of one group share photos: one after the other they need a small cache."""
        return episode.class_id

    def row(self, episode: EpisodeIndex) -> Row:
        """The counts of one episode: [background, foreground] of the method and of every control."""
        prediction, target, pseudo, present = self._predict(episode)
        row = _counted(prediction, target)
        if present is not None:  # what the method says of the photo as a whole
            row["present"] = [present]
        key = ("controls", episode.query, episode.class_id)
        row["controls"] = dict(self.cache.get(key, lambda: self._controls(episode.query, target)))
        if pseudo is not None:  # the mask that the method was given of the query, alone
            row["controls"]["pseudo_mask"] = _overlap(pseudo, target)
        return row

    def predict(self, episode: EpisodeIndex) -> tuple[Tensor, Tensor]:
        """Predicted and true mask (h, w) int64 on the canvas of the protocol, on the CPU; truth 255 = ignored."""
        return self._predict(episode)[:2]

    def _predict(self, episode: EpisodeIndex) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
        label = self.label(episode.query, episode.class_id)
        query = self.photo(episode.query)
        target = canvas.scored_label(self.protocol, label, self.geometry, (query.image.shape[2], query.image.shape[3]))
        supports = [self.support(i) for i in episode.supports]
        if self.protocol.fusion == "model":
            supports = [self.model.merge(supports)]

        def decided(shots: list[Tensor]) -> Tensor:
            scored, original = (target.shape[0], target.shape[1]), (label.shape[0], label.shape[1])
            return canvas.decide(self.protocol, shots, scored, original, self.geometry, self.size).cpu()

        with torch.no_grad():  # of this thread only
            told = self.told(episode)
            found = [self.model(query.features, support, query.image, **told) for support in supports]
            pseudo = found[0].extra.get("pseudo_mask")
            if pseudo is not None:  # (1, h, w) in [0, 1]
                pseudo = decided([torch.cat([1 - pseudo, pseudo]).float()])
            says = [x.extra["presence"][0].softmax(0)[1] for x in found if "presence" in x.extra]
            present = int(torch.stack(says).mean() > 0.5) if says else None
            return decided([x.logits[0] for x in found]), target, pseudo, present

    def told(self, episode: EpisodeIndex) -> dict[str, Any]:
        """What the model ``asks`` beside photos: the class's name, the query's own size, the names of all its true classes."""
        asks = self.model.asks
        if not asks:
            return {}
        content = self.pool.items[episode.query].content
        known = {
            "class_name": [self.pool.classes[episode.class_id]],
            "present": [sorted({x.class_name for x in self.dataset.items if x.content == content})],
            "sizes": [self.sample(episode.query)[0].shape[:2]],
        }
        return {name: known[name] for name in asks}

    def photo(self, i: int) -> Encoded:
        """The photo of item ``i`` of the pool, encoded."""
        return self.cache.get(("photo", self.pool.items[i].content), lambda: self._encode(i))

    def _encode(self, i: int) -> Encoded:
        patch = self.model.encoder.patch
        image = canvas.working_photo(self.sample(i)[0], self.geometry, self.size, patch)
        with torch.no_grad():
            batch = image[None].to(self.device)
            return Encoded(batch, self.model.encode(batch))

    def support(self, i: int) -> Support:
        """Item ``i`` of the pool as the one shot of its class."""
        return self.cache.get(("support", i), lambda: self._encode_support(i))

    def _encode_support(self, i: int) -> Support:
        photo, mask = self.photo(i), self.working_mask(i)
        masks = None if mask is None else mask[None]
        names = (self.pool.items[i].class_name,)
        with torch.no_grad():
            return self.model.encode_support(photo.image[None], masks, photo.features, class_names=names)

    def working_mask(self, i: int) -> Tensor | None:
        """(1, h, w) int64: the mask of item ``i`` at the working size, None where the model must not see it."""
        if self.model.needs != "masks":
            return None
        mask = canvas.working_mask(self.sample(i)[1], self.geometry, self.size, self.model.encoder.patch)
        return mask[None].to(self.device)

    def label(self, i: int, class_id: int) -> np.ndarray:
        """(H, W) uint8 in {0, 1, 255}: where the photo of item ``i`` shows the class, nowhere without that label."""
        shown = self.pool.labelled(i, class_id)
        mask = self.sample(i if shown is None else shown)[1]
        return mask if shown is not None else np.where(mask == IGNORE, IGNORE, 0)

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo (H, W, 3) uint8 and mask (H, W) in {0, 1, 255} of item ``i`` of the pool."""

        def read() -> tuple[np.ndarray, np.ndarray]:
            sample = self.dataset.sample(self.pool.positions[i])
            return _checked(sample.image, np.asarray(sample.mask), self.pool.items[i].id)

        return self.cache.get(("sample", i), read)

    def _controls(self, query: int, target: Tensor) -> dict[str, Row]:
        masks = self.control_masks(query, (target.shape[0], target.shape[1]))
        return {name: _overlap(mask, target) for name, mask in masks.items()}

    def control_masks(self, query: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """(h, w) int64 in {0, 1} on a canvas of that ``shape``: what each control says of the photo of item ``query``."""
        height, width = self.sample(query)[1].shape
        features = self.photo(query).features
        inside = (height, width) if self.protocol.score_at != "working" else (shape[0], shape[1])
        if self.geometry == "pad":  # nothing but the photo itself is looked at, and drawn on
            valid = canvas.padded_size((height, width), self.size)
            inside = valid if self.protocol.score_at == "working" else inside
            features = _cropped(features, valid[0] / self.size, valid[1] / self.size)
        drawn = {
            "all_foreground": controls.all_foreground(inside),
            "centre": controls.centre_disc(inside),
            "saliency": controls.salient(features, inside),
        }
        margins = (0, shape[1] - inside[1], 0, shape[0] - inside[0])
        return {name: F.pad(mask, margins) for name, mask in drawn.items()}


def _checked(image: np.ndarray, mask: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Photo and mask of a data set as they are promised. Raises InputError for others: their counts would mean nothing."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"{name}: a photo {image.shape} of {image.dtype}; the data set gives (H, W, 3) uint8")
    if mask.shape != image.shape[:2] or not (mask == 1).any():
        what = "no pixel is 1" if mask.shape == image.shape[:2] else f"{mask.shape} for a photo {image.shape[:2]}"
        gives = "the data set gives 1 = the class, 0 = background, 255 = ignored"
        raise InputError(f"{name}: its mask: {what}; {gives}; mark the object, or leave its photo out")
    return image, mask.astype(np.uint8, copy=False)


def _cropped(features: Features, height: float, width: float) -> Features:
    """The top left part of every map, as fractions of its sides."""
    maps = tuple(m[..., : ceil(m.shape[-2] * height), : ceil(m.shape[-1] * width)] for m in features.maps)
    return Features(maps, features.strides, features.classes)


def _counted(prediction: Tensor, target: Tensor) -> Row:
    intersection, union, true, ignored = (x[0].tolist() for x in count(prediction[None], target[None]))
    return {"intersection": intersection, "union": union, "target": true, "ignored": ignored}


def _overlap(prediction: Tensor, target: Tensor) -> Row:
    return {
        name: amounts for name, amounts in _counted(prediction, target).items() if name in ("intersection", "union")
    }
