"""Training of SimFormer and MaskFormer: a teacher on base masks and tags, its pseudo labels, a student on both.

``out/teacher`` holds the teacher's run, ``out/pseudo`` a label map for each photo with tags, ``out`` itself the student's
run, or the only one where nothing is trained again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data import transforms, weak_shot
from shotseg.data.images import write_bytes, write_png
from shotseg.data.samples import IGNORE
from shotseg.data.weak_shot import WeakShotData
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.models.maskformer import Inference, MaskFormer, labelled
from shotseg.models.simformer import SimFormer, pseudo_label
from shotseg.training import checkpoint, loop
from shotseg.training.data import FeatureCache, Reader, augmented, digest_of, generator, share_of
from shotseg.training.pairs import PairSampler
from shotseg.training.recipe import Recipe
from shotseg.training.short_crop import short_crop

SHOWN = 4  # validation photos that are drawn
TRIES = 50  # crops drawn until one shows a class
KEPT = 2**26  # bytes of small label maps that a process keeps; others are read again


@dataclass(frozen=True, eq=False)
class Batch:
    """images (B, 3, S, S) in [0, 1]; maps (B, S, S) int64, 255 = unknown; padding (B, S, S) bool; tags: one set a photo."""

    images: Tensor
    maps: Tensor
    padding: Tensor
    tags: tuple[frozenset[int], ...]
    features: Features | None = None

    def to(self, device: torch.device | str) -> Batch:
        images, maps, padding = (x.to(device) for x in (self.images, self.maps, self.padding))
        return Batch(images, maps, padding, self.tags, self.features and self.features.to(device))


class WeakShot(Reader):
    """Training of a semantic model; see :class:`shotseg.training.loop.Task`.

    train, validation: photos.      labels: folder of pseudo labels, which then stand in for the tags.
    """

    unit = "photos"

    def __init__(
        self,
        recipe: Recipe,
        train: WeakShotData,
        validation: WeakShotData,
        model: Any,
        labels: Path | None = None,
        cache: Path | None = None,
        key: str = "",
    ):
        if not len(train):
            raise UsageError("no training photo is left; give masks or tags to more photos")
        if cache is not None and model.train_encoder:
            raise UsageError(
                "cache_features with train_encoder: features that change cannot be kept; choose one of them"
            )
        self.recipe, self.model, self.data = recipe, model, {"train": train, "validation": validation}
        self.classes, self.epoch, self.learns_from = train.classes, len(train), digest_of(train.items)
        self.validation = min(recipe.validation.episodes, len(validation))
        if not self.validation:
            raise UsageError("validation: no photo is held out; raise data.held_out")
        self.best_is = "mIoU" if not train.novel else "base mIoU"
        self.labels = labels
        self.paired = labels is None and model.paired
        part = recipe.batch // recipe.accumulate // int(os.environ.get("WORLD_SIZE", 1))
        if self.paired and part % 2:
            raise UsageError(
                f"batch={recipe.batch}: SimFormer learns from pairs of photos, a process gets {part}; give an even number"
            )
        novel = [p.tags & frozenset(train.novel) for p in train.items]
        choice = recipe.weak_shot
        base = [p.shown - p.tags for p in train.items]
        self.pairs = PairSampler(novel, base, choice.pairing, choice.rarest, choice.reference)
        self.caches = {
            name: FeatureCache(data, model, cache, recipe.model.size, key)  # type: ignore[arg-type]
            for name, data in (self.data.items() if cache else ())
        }
        self._small: dict[tuple[str, int], Tensor] = {}

    def prepare(
        self, share: Callable[[Sequence[int]], Sequence[int]], advance: Callable[[str, int, int], None]
    ) -> None:
        """Make the features on disk that are not there yet; ``share`` gives this process its part of the photos."""
        for name, cache in self.caches.items():
            indices = share(range(len(self.data[name]) if name == "train" else self.validation))
            for n, index in enumerate(indices, 1):
                cache.prepare(index)
                advance("frozen features", n, len(indices))

    def draw(self, i: int) -> Batch:
        """Place i of an endless list of photos, or of pairs of them; a batch of one."""
        seed, stream = self.recipe.seed, generator(self.recipe.seed, 2, i)
        number = i // 2 if self.paired else i
        epoch, place = divmod(number, self.epoch)
        index = int(torch.randperm(self.epoch, generator=generator(seed, 1, epoch))[place])
        if self.paired and i % 2:
            index = self.pairs.partner(index, generator(seed, 3, number))
        if self.caches:
            return self._stored("train", index, float(torch.rand((), generator=stream)) < self.recipe.augment.flip)
        return self._augmented(index, stream)

    def _augmented(self, index: int, stream: torch.Generator) -> Batch:
        """Training photo ``index`` in a crop that shows something to learn from, if one of ``TRIES`` does."""
        image, base_labels, tags = (
            self.data["train"].image(index),
            self.known("train", index),
            self.tags("train", index),
        )
        by_crop = self.recipe.weak_shot.label_scope == "crop" and bool(tags)
        labels = self.data["train"].truth(index) if by_crop else base_labels  # the release looks for tags in the crop
        hidden = torch.tensor(sorted(tags))  # by the photo's tags, whatever a crop shows of them
        for _ in range(TRIES):
            pixels, maps, padding = self._crop(image, labels, stream)
            visible = tags & frozenset(maps.unique().tolist()) if by_crop else tags
            maps = maps.masked_fill(torch.isin(maps, hidden), IGNORE) if by_crop else maps
            if visible or bool((maps != IGNORE).any()):
                break
        return Batch(pixels[None], maps[None], padding[None], (visible,))

    def _crop(self, image: np.ndarray, labels: np.ndarray, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (3, S, S), label map (S, S) int64 and where it is padding (S, S) bool."""
        choice, size = self.recipe.augment, self.recipe.model.size
        if choice.geometry == "short":
            return short_crop(image, labels, size, choice.scale, choice.flip, choice.jitter, stream)
        pixels, maps = augmented(image, labels, choice, size, stream)
        assert maps is not None
        return pixels, maps, torch.zeros_like(maps, dtype=torch.bool)

    def draw_validation(self, j: int) -> Batch:
        """Validation photo j, squashed to the working size, a batch of one."""
        if self.caches:
            return self._stored("validation", j, False)
        data = self.data["validation"]
        image, labels = transforms.squash(data.image(j), self.recipe.model.size)[0], self._map("validation", j)
        return Batch(image[None], labels[None].long(), torch.zeros_like(labels[None], dtype=torch.bool), (frozenset(),))

    def known(self, name: str, index: int) -> np.ndarray:
        """The label map that a photo is learned from: base classes, and pseudo labels where there are such."""
        data = self.data[name]
        base = data.known(index)
        if self.labels is None or name != "train" or not data.items[index].tags:
            return base
        return weak_shot.read_label(pseudo_path(self.labels, data, index), (base.shape[0], base.shape[1]))

    def tags(self, name: str, index: int) -> frozenset[int]:
        """What a photo teaches by name alone."""
        untold = self.labels is not None or self.recipe.weak_shot.supervision == "base"
        return frozenset() if untold else self.data[name].items[index].tags

    def _map(self, name: str, index: int) -> Tensor:
        """:meth:`known` squashed to the working size, uint8."""
        if (name, index) in self._small:
            return self._small[name, index]
        size = (self.recipe.model.size,) * 2
        labels = torch.from_numpy(self.known(name, index))[None, None].float()
        small = F.interpolate(labels, size, mode="nearest-exact")[0, 0].byte()
        if (len(self._small) + 1) * small.numel() <= KEPT:
            self._small[name, index] = small
        return small

    def _stored(self, name: str, index: int, flipped: bool) -> Batch:
        stored, labels = self.caches[name].read(index, flipped), self._map(name, index).long()
        labels = labels.flip(-1) if flipped else labels
        padding = torch.zeros_like(labels, dtype=torch.bool)
        return Batch(stored.image[None], labels[None], padding[None], (self.tags(name, index),), stored.features)

    @staticmethod
    def collate(batches: Sequence[Batch]) -> Batch:
        images, maps, padding = (torch.cat(x) for x in zip(*((b.images, b.maps, b.padding) for b in batches)))
        features = [b.features for b in batches if b.features is not None]
        tags = tuple(t for b in batches for t in b.tags)
        return Batch(images, maps, padding, tags, Features.cat(features) if features else None)

    @staticmethod
    def loss(model: Any, batch: Batch) -> dict[str, Tensor]:
        tags = [sorted(t) for t in batch.tags]
        return model.loss(batch.images, batch.maps, tags, batch.padding, batch.features)

    @staticmethod
    def predicted(model: Any, batch: Batch) -> Tensor:
        """(B, S, S) int64 class ids."""
        return model.scores(batch.images, features=batch.features).argmax(1)

    def count(self, model: nn.Module, batch: Batch) -> Tensor:
        """Intersection and union of each class that has masks over the known pixels of a batch: (C, 2) int64."""
        predicted, labelled = self.predicted(model, batch), batch.maps != IGNORE
        ids = torch.arange(len(self.classes), device=predicted.device)[:, None, None, None]
        positive, target = (predicted == ids) & labelled, batch.maps == ids
        pair = torch.stack([(positive & target).sum((1, 2, 3)), (positive | target).sum((1, 2, 3))], 1)
        pair[list(self.data["train"].novel)] = 0
        return pair

    def pictures(self, model: nn.Module, device: torch.device) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
        """Fixed validation photos: caption, then (photo, labels) of what is known and the prediction."""
        drawn = []
        for j in range(min(SHOWN, self.validation)):
            batch = self.draw_validation(j).to(device)
            photo = (batch.images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            both = (batch.maps[0], self.predicted(model, batch)[0])
            drawn.append(("known, prediction", [(photo, labels.byte().cpu().numpy()) for labels in both]))
        return drawn


def views(recipe: Recipe, root: Path) -> tuple[WeakShotData, WeakShotData]:
    """Photos to train on, and those held out of them by the hash of their content, so that a photo keeps its side."""
    choice = recipe.weak_shot
    every = weak_shot.load(
        recipe.data.name,
        root,
        novel=recipe.data.test_classes,
        fold=recipe.data.fold,
        labels=choice.labels,
        background=choice.background,
        reading=recipe.data.reading,
    )
    apart = [share_of(item.content) < recipe.data.held_out for item in every.items]
    train = every.part([i for i, out in enumerate(apart) if not out])
    return train, every.part([i for i, out in enumerate(apart) if out])


def test_photos(recipe: Recipe, name: str, root: Path) -> WeakShotData:
    """The photos to score a trained recipe on: the data set's test photos, or of a folder without such what was held out."""
    choice = recipe.weak_shot
    if name == "folder" and not (root / "images" / "test").is_dir():
        return views(recipe, root)[1]
    data = recipe.data
    return weak_shot.load(name, root, "test", data.test_classes, data.fold, choice.labels, reading=data.reading)


def train(recipe: Recipe, root: Path, out: Path, resume: bool, device: str, say: Callable[[str], None]) -> loop.Outcome:
    """Teacher, pseudo labels and student of a recipe, or a single model where it does not train again.

    With ``resume`` what is finished is kept, and the first stage that is not goes on where it stopped.
    """
    photos, held_out = views(recipe, root)
    choice = recipe.weak_shot
    if recipe.model.name == "maskformer":  # its recipes extend those of SimFormer
        recipe = student_of(recipe)
    novel = [photos.classes[i] for i in photos.novel]
    recipe = replace(recipe, data=replace(recipe.data, test_classes=tuple(novel)))  # by name, in every checkpoint
    if choice.supervision == "weak" and not novel:
        raise UsageError(f"{root}: no novel class; name them in data.test_classes, or train a maskformer recipe")
    shown = {"weak": photos, "base": photos.base_only(), "full": photos.supervised()}[choice.supervision]
    held_out = held_out.supervised() if choice.supervision == "full" else held_out
    tagged = sum(bool(p.tags) for p in shown.items)
    say(
        f"{len(shown)} photos to train on, {tagged} of them with classes known by tag alone; base: "
        f"{', '.join(photos.classes[i] for i in photos.base[:8])}{', ...' if len(photos.base) > 8 else ''};"
        f" novel: {', '.join(novel) or 'none'}"
    )
    retrain = choice.retrain and choice.supervision == "weak" and recipe.model.name == "simformer"
    cache = out / "features" if recipe.cache_features else None

    def stage(stage_recipe: Recipe, folder: Path, labels: Path | None, start: Path | None = None) -> loop.Outcome:
        torch.manual_seed(stage_recipe.seed)
        model = checkpoint.make_model(stage_recipe, len(photos.classes), novel=photos.novel)
        if start is not None:
            learnt = checkpoint.load_semantic(start)[0].state_dict()
            model.load_state_dict({name: learnt[name] for name in model.state_dict()})
        task = WeakShot(stage_recipe, shown, held_out, model, labels, cache, _encoder_key(stage_recipe))
        return loop.train(task, stage_recipe, folder, resume, device)

    if not retrain:
        return stage(recipe, out, None)
    if not resume and (out / "last.safetensors").is_file():
        raise UsageError(f"{out}: a run is there; add --resume to go on with it, or choose another --out")
    outcome = stage(recipe, out / "teacher", None)
    say(f"teacher: {outcome.best}; now the pseudo labels of {tagged} photos")
    write_pseudo_labels(outcome.best, shown, out / "pseudo", recipe, cache, device)
    say("student: a MaskFormer on base masks and pseudo labels")
    return stage(student_of(recipe), out, out / "pseudo", None if choice.anew else outcome.best)


def student_of(recipe: Recipe) -> Recipe:
    """The recipe of the second training: the same, of a MaskFormer."""
    of_losses = inspect.signature(SimFormer).parameters.keys() - inspect.signature(MaskFormer).parameters.keys()
    options = {name: value for name, value in recipe.model.options.items() if name not in of_losses}
    return replace(recipe, model=replace(recipe.model, name="maskformer", options=options))


def pseudo_path(folder: Path, data: WeakShotData, index: int) -> Path:
    return folder / f"{data.items[index].id}.png"


def write_pseudo_labels(
    teacher: Path, data: WeakShotData, folder: Path, recipe: Recipe, cache: Path | None = None, device: str = "auto"
) -> None:
    """A pseudo label for every photo with tags, made from its tags alone; what this teacher wrote before is kept."""
    state = PartialState(cpu=device == "cpu")
    about = {"teacher": hashlib.sha256(teacher.read_bytes()).hexdigest()}
    stamp = folder / "teacher.json"
    tagged = [i for i, item in enumerate(data.items) if item.tags]
    if state.is_main_process and not (stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == about):
        for index in tagged:  # another teacher's
            pseudo_path(folder, data, index).unlink(missing_ok=True)
        write_bytes(stamp, json.dumps(about).encode())
    state.wait_for_everyone()
    model, _ = checkpoint.load_semantic(teacher, str(state.device))
    how = Inference(scales=recipe.weak_shot.scales, flip=recipe.weak_shot.flip)
    frozen = FeatureCache(data, model, cache, recipe.model.size, _encoder_key(recipe)) if cache else None  # type: ignore[arg-type]
    for index in tagged[state.process_index :: state.num_processes]:
        path = pseudo_path(folder, data, index)
        if path.is_file():
            continue
        base_labels = data.known(index)
        if frozen is not None and how == Inference():
            stored = frozen.read(index, False)
            looks = model.look(stored.image.to(state.device), features=stored.features.to(state.device))
            predicted = labelled(looks, base_labels.shape)
        else:
            predicted = model.label(data.image(index), how)
        write_png(path, pseudo_label(predicted, base_labels, sorted(data.items[index].tags)))
    state.wait_for_everyone()


def _encoder_key(recipe: Recipe) -> str:
    """What frozen features depend on beside the photo; teacher and student share them."""
    file = Path(recipe.model.weights)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else recipe.model.weights
    read = "".join(f" {name} {value}" for name, value in recipe.data.reading.said.items())
    return f"semantic {recipe.model.encoder} {content}{read}"
