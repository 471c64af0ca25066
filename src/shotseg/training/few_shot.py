"""Few-shot training: episodes as a pure function of (seed, i), their loss, and how a validation counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shotseg.data import episodes, transforms
from shotseg.data.episodes import EpisodeIndex
from shotseg.data.listing import some
from shotseg.data.samples import IGNORE, Episode
from shotseg.encoders.features import Features
from shotseg.errors import UsageError, note
from shotseg.training import sampling
from shotseg.training.data import FeatureCache, Part, Reader, Views, augmented, digest_of, generator, share_of
from shotseg.training.recipe import Recipe

SHOWN = 4  # validation episodes that are drawn, the same every time


@dataclass(frozen=True, eq=False)
class Batch:
    """Episodes, and the frozen features of their photos where those are kept on disk."""

    episode: Episode
    query: Features | None = None
    support: Features | None = None
    present: tuple[tuple[str, ...], ...] = ()
    """The names of all classes in each query, where the model asks for them."""

    def to(self, device: torch.device | str) -> Batch:
        query, support = (features and features.to(device) for features in (self.query, self.support))
        return Batch(self.episode.to(device), query, support, self.present)

    @property
    def given(self) -> dict[str, Any]:
        """Keywords of a model's ``loss`` and ``predict``."""
        return {"query": self.query, "support": self.support} | ({"present": self.present} if self.present else {})


def check_enough(recipe: Recipe, views: Views) -> None:
    """Raise UsageError where no class has photos enough for an episode, to train on or to validate on."""
    needed = recipe.shots + 1
    has = f"no class has the {needed} photos that an episode of {recipe.shots} shots needs"
    if not views.train.classes_with(needed):
        raise UsageError(f"to train on, {has}; add photos, or lower shots or data.held_out")
    if not views.validation.classes_with(needed):
        mend = "of the test classes" if recipe.validation.on_test_fold else f"or hold out more{_more(views, needed)}"
        count = len(views.validation.listed)
        raise UsageError(f"{count} photos are held out for validation, of which {has}; add photos, {mend}")
    for part, what in ((views.train, "to train on"), (views.validation, "to validate on")):
        if few := sorted(set(part.of_class) - set(part.classes_with(needed))):
            note(f"{what}, never asked for, fewer than {needed} photos: {some([part.classes[i] for i in few])}")


def _more(views: Views, needed: int) -> str:
    """The flag that holds out so many photos of a class and leaves as many to train on; "" where no class has them."""
    enough = []
    for class_id, of in views.train.of_class.items():
        every = [*of, *views.validation.of_class.get(class_id, ())]
        shares = sorted({share_of(views.train.items[i].content) for i in every})
        enough += [share for share in shares[needed - 1 : -needed] if share < 0.89][:1]
    return f", as --data.held-out {min(enough) + 0.01:.2f}" if enough else ""


class FewShot(Reader):
    """Training of a few-shot model on episodes of the classes that have masks.

    ``classes``: names, whose positions are the class ids.     ``epoch``: episodes in an epoch.
    ``best_is``: what a validation measures.
    """

    unit = "episodes"

    def __init__(self, recipe: Recipe, views: Views, model: Any, cache: Path | None = None, key: str = ""):
        self.recipe, self.model = recipe, model
        self.parts = {"train": views.train, "validation": views.validation}
        self.tells_classes = "present" in model.asks
        self.classes = views.train.classes
        self.best_is = "mIoU against pseudo masks" if recipe.data.supervision == "pseudo" else "mIoU"
        self.validation = recipe.validation.episodes
        self.caches = {
            name: FeatureCache(part, model, cache, recipe.model.size, key)
            for name, part in self.parts.items()
            if cache is not None
        }
        check_enough(recipe, views)
        self.draws = {
            "train": sampling.draws(recipe.data.draw, views.train, recipe.shots, recipe.seed, recipe.batch),
            "validation": sampling.draws("class", views.validation, recipe.shots, recipe.validation.seed, recipe.batch),
        }
        self.epoch, self.learns_from = self.draws["train"].epoch, digest_of(views.train.items)

    def prepare(
        self, share: Callable[[Sequence[int]], Sequence[int]], advance: Callable[[str, int, int], None]
    ) -> None:
        """Make the pseudo masks and features that are not on the disk; ``share`` gives this process its part of the photos."""
        works: list[tuple[str, str, Part | FeatureCache]] = []
        if self.recipe.data.supervision == "pseudo":
            works += [("pseudo masks", name, part) for name, part in self.parts.items()]
        works += [("frozen features", name, cache) for name, cache in self.caches.items()]
        for what, name, cache in works:
            indices = share(self._asked(name))
            for n, index in enumerate(indices, 1):
                cache.prepare(index)
                advance(what, n, len(indices))

    def _asked(self, name: str) -> Sequence[int]:
        """The items that episodes may hold."""
        part, recipe = self.parts[name], self.recipe
        any_class = name == "train" and (recipe.data.draw == "photo" or (recipe.absent and recipe.absent_by == "class"))
        return range(len(part)) if any_class else part.listed

    def draw(self, i: int) -> Batch:
        """Training episode i, augmented, a batch of one."""
        part = self.parts["train"]
        index, stream = self.draws["train"][i], generator(self.recipe.seed, i)
        if self.recipe.absent and float(torch.rand((), generator=stream)) < self.recipe.absent:
            other = self._another_query if self.recipe.absent_by == "query" else self._another_class
            index = other(part, index, stream)
        if self.caches:
            flips = (torch.rand(1 + self.recipe.shots, generator=stream) < self.recipe.augment.flip).tolist()
            drawn = self._cleared(part, index, self._stored("train", index, flips))
            return self._told(part, index, self._shown(part, index, drawn))

        def change(image: np.ndarray, mask: np.ndarray | None) -> transforms.Pair:
            return augmented(image, mask, self.recipe.augment, self.recipe.model.size, stream)

        drawn = self._cleared(part, index, Batch(episodes.load_episode(part, index, change)))
        return self._told(part, index, self._shown(part, index, drawn))

    def _told(self, part: Part, index: EpisodeIndex, drawn: Batch) -> Batch:
        """With the names of all classes that the query is listed under, where the model asks for them."""
        if not self.tells_classes:
            return drawn
        names = {part.items[i].class_name for i in part.of_photo[part.items[index.query].content]}
        return replace(drawn, present=(tuple(sorted(names)),))

    @staticmethod
    def _another_query(part: Part, index: EpisodeIndex, stream: torch.Generator) -> EpisodeIndex:
        """The episode with a query that shows nothing of its class."""
        others = [i for i in part.listed if part.showing(part.items[i].content, index.class_id) is None]
        if not others:
            raise UsageError("absent: every photo shows every class; set it to 0, or add photos of other classes")
        return replace(index, query=sampling.one(others, stream))

    def _another_class(self, part: Part, index: EpisodeIndex, stream: torch.Generator) -> EpisodeIndex:
        """The episode with supports of any other class, which its query may show as well."""
        content, shots = part.items[index.query].content, len(index.supports)
        others = [class_id for class_id in part.classes_with(shots + 1) if class_id != index.class_id]
        if not others:
            raise UsageError("absent: there is no other class to ask for; set it to 0, or add photos of another class")
        class_id = sampling.one(others, stream)
        shown = part.showing(content, class_id)
        query = index.query if shown is None else shown
        return EpisodeIndex(query, sampling.supports(part, query, class_id, shots, stream), class_id)

    def _shown(self, part: Part, index: EpisodeIndex, drawn: Batch) -> Batch:
        """With what is known of the whole photo: an object of few pixels is there, though no pixel is left at this size.
        (Of a crop nothing is known but what it shows.)"""
        if self.recipe.augment.geometry == "crop":
            return drawn
        present = torch.tensor([part.items[index.query].class_id == index.class_id])
        return replace(drawn, episode=replace(drawn.episode, present=present))

    @staticmethod
    def _cleared(part: Part, index: EpisodeIndex, drawn: Batch) -> Batch:
        """Background alone where the query shows another class, whose mask it came with."""
        mask = drawn.episode.query_mask
        if mask is None or part.items[index.query].class_id == index.class_id:
            return drawn
        return replace(drawn, episode=replace(drawn.episode, query_mask=mask.masked_fill(mask == 1, 0)))

    def draw_validation(self, j: int) -> Batch:
        """Validation episode j at the model's working size, a batch of one."""
        part = self.parts["validation"]
        index = self.draws["validation"][j]
        if self.caches:
            return self._told(part, index, self._stored("validation", index, [False] * (1 + self.recipe.shots)))
        size = self.recipe.model.size
        drawn = Batch(episodes.load_episode(part, index, lambda image, mask: transforms.squash(image, size, mask=mask)))
        return self._told(part, index, drawn)

    def _stored(self, name: str, index: EpisodeIndex, flips: Sequence[bool]) -> Batch:
        part, cache = self.parts[name], self.caches[name]
        query, *shots = (cache.read(i, flip) for i, flip in zip((index.query, *index.supports), flips))
        episode = Episode(
            query=query.image[None],
            query_mask=query.mask[None],
            support=torch.stack([shot.image for shot in shots])[None],
            support_mask=torch.stack([shot.mask for shot in shots])[None],
            class_id=torch.tensor([index.class_id]),
            class_name=(part.items[index.supports[0]].class_name,),
            ids=(tuple(part.items[i].id for i in (index.query, *index.supports)),),
        )
        kept = [shot.masked if cache.masks_input else shot.features for shot in shots]
        return Batch(episode, query.features, Features.cat([features for features in kept if features is not None]))

    @staticmethod
    def collate(batches: Sequence[Batch]) -> Batch:
        def joined(parts: list[Features | None]) -> Features | None:
            known = [part for part in parts if part is not None]
            return Features.cat(known) if known else None

        episode = episodes.batch([b.episode for b in batches])
        present = tuple(names for b in batches for names in b.present)
        return Batch(episode, joined([b.query for b in batches]), joined([b.support for b in batches]), present)

    @staticmethod
    def loss(model: Any, batch: Batch) -> dict[str, Tensor]:
        return model.loss(batch.episode, **batch.given)

    @staticmethod
    def predicted(model: Any, batch: Batch) -> Tensor:
        """(B, H, W) int64 in {0, 1}."""
        episode = batch.episode
        prediction = model.predict(episode, **batch.given)
        return transforms.resize_logits(prediction.logits, episode.query.shape[-2:]).argmax(1)  # type: ignore[arg-type]

    def count(self, model: nn.Module, batch: Batch) -> Tensor:
        """Intersection and union of each class over a batch: (N, 2) int64."""
        predicted, target = self.predicted(model, batch), batch.episode.query_mask
        assert target is not None
        labelled, positive, foreground = target != IGNORE, predicted == 1, target == 1
        pair = torch.stack(
            [(positive & foreground).sum((1, 2)), ((positive | foreground) & labelled).sum((1, 2))], 1
        )  # (B, 2)
        names = self.parts["validation"].classes
        return torch.zeros(len(names), 2, dtype=torch.long, device=pair.device).index_add_(
            0, batch.episode.class_id, pair
        )

    def pictures(self, model: nn.Module, device: torch.device) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
        """Fixed validation episodes: caption, then (photo, mask) of the first support, the truth and the prediction."""
        drawn = []
        for j in range(min(SHOWN, self.validation)):
            batch = self.draw_validation(j)
            e, predicted = batch.episode, self.predicted(model, batch.to(device)).cpu()
            assert e.support_mask is not None and e.query_mask is not None
            pairs = [(e.support[0, 0], e.support_mask[0, 0]), (e.query[0], e.query_mask[0]), (e.query[0], predicted[0])]
            drawn.append((f"{e.class_name[0]}: example, truth, prediction", [_arrays(*pair) for pair in pairs]))
        return drawn


def _arrays(image: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return (image * 255).round().byte().permute(1, 2, 0).numpy(), mask.byte().numpy()
