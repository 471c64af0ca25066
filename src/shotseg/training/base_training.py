"""Training of BAM's base learner (Lang et al., CVPR 2022, section 3.2): PSPNet on the classes that have masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shotseg.data import transforms
from shotseg.data.manifest import ManifestDataset
from shotseg.data.samples import IGNORE, Sample
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.models.base_learner import base_labels
from shotseg.training.data import FeatureCache, Part, PseudoPart, Reader, Views, augmented, digest_of, generator
from shotseg.training.recipe import Recipe
from shotseg.training.sampling import whole_batches

SHOWN = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """images (B, 3, S, S) in [0, 1], labels (B, S, S) int64: 0, 1 .. N, 255 = ignore; features where they are on disk."""

    images: Tensor
    labels: Tensor
    features: Features | None = None

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.images.to(device), self.labels.to(device), self.features and self.features.to(device))


class LabelMaps:
    """The photos of a part with a label of every base class: 0 = other classes, 1 .. N, 255 = ignore.

    every: photos that show no base class too, and those whose base classes are all too small for the lists.
    """

    def __init__(self, part: Part, every: bool):
        listed = {part.items[i].content for i in part.listed}
        photos = part.dataset.photos
        self.part, self.at = part, [i for i in part.photos if every or photos[i].image in listed]
        self.items = [Kept(photos[i].image, f"base of {part.classes}") for i in self.at]

    def __len__(self) -> int:
        return len(self.at)

    def sample(self, index: int) -> Sample:
        """(H, W) uint8 base labels."""
        found, ids = self.part.dataset.label_sample(self.at[index]), self.part.dataset.class_ids
        return replace(found, mask=base_labels(torch.from_numpy(found.mask), ids).byte().numpy())

    def mask_files(self, index: int) -> Sequence[Path]:
        manifest = self.part.dataset.manifest
        return [manifest.folder / self.part.dataset.photos[self.at[index]].mask]


class OwnMasks:
    """The items of a part of binary masks; each labels its own class alone."""

    def __init__(self, part: Part):
        self.part = part
        self.items = [Kept(item.content, f"{item.class_name} of {part.classes}") for item in part.items]

    def __len__(self) -> int:
        return len(self.part)

    def sample(self, index: int) -> Sample:
        sample, label = self.part.sample(index), np.uint8(self.part.items[index].class_id + 1)
        assert sample.mask is not None
        return replace(sample, mask=np.where(sample.mask == 1, label, sample.mask))

    def mask_files(self, index: int) -> Sequence[Path]:
        return self.part.mask_files(index)


class Kept(NamedTuple):
    """What features on disk are named by: the photo, and what its labels mean."""

    content: str
    class_name: str


class BaseTraining(Reader):
    """Training of the base learner. Base label of class id c is c + 1; other classes are background.

    A data set with label maps labels every base class in a photo; one of binary masks the mask's own class only.
    """

    best_is, unit = "base mIoU", "photos"

    def __init__(self, recipe: Recipe, views: Views, model: Any, cache: Path | None = None, key: str = ""):
        if recipe.validation.on_test_fold:
            raise UsageError("validation.on_test_fold: a base learner knows no test class; leave it off")
        if cache is not None and model.train_encoder:
            raise UsageError(
                "cache_features with train_encoder: features that change cannot be kept; choose one of them"
            )
        self.recipe, self.model = recipe, model
        self.classes = views.train.classes
        if len(self.classes) > 254:
            raise UsageError(f"{len(self.classes)} base classes: a label map holds 254; train on fewer")
        parts = {"train": views.train, "validation": views.validation}
        self.photos = {name: _photos(part, recipe.data.every_photo) for name, part in parts.items()}
        self.epoch = whole_batches(len(self.photos["train"]), recipe.batch)
        self.learns_from = digest_of(self.photos["train"].items)
        self.validation = min(recipe.validation.episodes, len(self.photos["validation"]))
        if not self.validation:
            raise UsageError("validation: no photo is held out; raise data.held_out")
        self.caches = {
            name: FeatureCache(photos, model, cache, recipe.model.size, key)
            for name, photos in self.photos.items()
            if cache is not None
        }

    def prepare(
        self, share: Callable[[Sequence[int]], Sequence[int]], advance: Callable[[str, int, int], None]
    ) -> None:
        """Make the features on disk that are not there yet; ``share`` gives this process its part of the photos."""
        for name, cache in self.caches.items():
            indices = share(range(len(self.photos[name])))
            for n, index in enumerate(indices, 1):
                cache.prepare(index)
                advance("frozen features", n, len(indices))

    def draw(self, i: int) -> Batch:
        """Training photo i of an endless list, each epoch in its own order; augmented, a batch of one."""
        epoch, at = divmod(i, self.epoch)
        order = torch.randperm(len(self.photos["train"]), generator=generator(self.recipe.seed, 1, epoch))
        index, stream = int(order[at]), generator(self.recipe.seed, 2, i)
        if self.caches:
            return self._stored("train", index, float(torch.rand((), generator=stream)) < self.recipe.augment.flip)
        sample = self.photos["train"].sample(index)
        return _batch(*augmented(sample.image, sample.mask, self.recipe.augment, self.recipe.model.size, stream))

    def draw_validation(self, j: int) -> Batch:
        """Validation photo j, squashed to the working size, a batch of one."""
        if self.caches:
            return self._stored("validation", j, False)
        sample = self.photos["validation"].sample(j)
        return _batch(*transforms.squash(sample.image, self.recipe.model.size, mask=sample.mask))

    def _stored(self, name: str, index: int, flipped: bool) -> Batch:
        stored = self.caches[name].read(index, flipped)
        return Batch(stored.image[None], stored.mask[None], stored.features)

    @staticmethod
    def collate(batches: Sequence[Batch]) -> Batch:
        features = [b.features for b in batches if b.features is not None]
        images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        return Batch(images, labels, Features.cat(features) if features else None)

    @staticmethod
    def loss(model: Any, batch: Batch) -> dict[str, Tensor]:
        return model.loss(batch.images, batch.labels, batch.features)

    def count(self, model: nn.Module, batch: Batch) -> Tensor:
        """Intersection and union of each base class over a batch: (N, 2) int64."""
        predicted, labelled = model(batch.images, batch.features).logits.argmax(1), batch.labels != IGNORE
        ids = torch.arange(1, len(self.classes) + 1, device=predicted.device)[:, None, None, None]
        positive, target = (predicted == ids) & labelled, batch.labels == ids
        return torch.stack([(positive & target).sum((1, 2, 3)), (positive | target).sum((1, 2, 3))], 1)

    def pictures(self, model: nn.Module, device: torch.device) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
        """Fixed validation photos: caption, then (photo, labels) of the truth and the prediction."""
        drawn = []
        for j in range(min(SHOWN, self.validation)):
            batch = self.draw_validation(j).to(device)
            predicted = model(batch.images, batch.features).logits.argmax(1)[0]
            photo = (batch.images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            pairs = [(photo, labels.byte().cpu().numpy()) for labels in (batch.labels[0], predicted)]
            drawn.append(("truth, prediction", pairs))
        return drawn


def _photos(part: Part, every: bool) -> LabelMaps | OwnMasks:
    """The photos of a part with their labels. Drawn label maps are not read where masks are made from class names."""
    drawn = isinstance(part.dataset, ManifestDataset) and not part.dataset.manifest.binary
    return LabelMaps(part, every) if drawn and not isinstance(part, PseudoPart) else OwnMasks(part)


def _batch(image: Tensor, labels: Tensor | None) -> Batch:
    assert labels is not None
    return Batch(image[None], labels[None])
