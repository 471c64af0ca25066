"""QGNet's first stage: global-local contrastive learning of the prior extractor, from photos without labels.

Here which photos are learnt from, what a step draws, and what a validation measures. The loss stands in
:mod:`.contrastive_loss`, the networks and their queues in :mod:`.momentum`, the views of a photo in :mod:`.contrastive_views`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.data.annotations.opened import open_folder
from shotseg.data.folder import Item, find_images
from shotseg.data.images import pages_in
from shotseg.data.listing import some
from shotseg.data.usable import readable
from shotseg.errors import UsageError, note
from shotseg.priors.objectness import border_contrast
from shotseg.priors.visual import min_max
from shotseg.training import contrastive_loss
from shotseg.training.contrastive_views import Superpixels, Views, segment, views
from shotseg.training.data import Part, Reader, generator, photo_alone, share_of
from shotseg.training.data import views as labelled_views
from shotseg.training.momentum import Contrastive
from shotseg.training.recipe import ContrastiveChoice, Recipe

GALLERY = 200  # labelled photos among which neighbours are sought, at most
NEIGHBOURS, VOTE_TEMPERATURE = 10, 0.1  # each votes for its class with the weight exp(cosine / temperature)
SHOWN = 4  # photos of the report
GLOBAL_VIEWS = ContrastiveChoice(ll=0, gl=0)
MAP = 64  # side at which a prior map is compared with a mask


@dataclass(frozen=True)
class Photos:
    """train: photos to learn from.    held_out: photos that measure.    gallery, probe: labelled ones, where there are any."""

    train: list[Item]
    held_out: list[Item]
    gallery: Part | None = None
    probe: Part | None = None


def collect(recipe: Recipe, root: Path) -> Photos:
    """The photos of a contrastive training.

    With ``data.name: images`` every photo below ``root``; else the training photos of the data set, whose labels only
    measure (``data.novel: drop`` leaves out those that show a test class: the strict mode). ``unlabelled`` names another
    folder to learn from; in strict mode photos of it that are test photos are left out. Raises UsageError where no photo is
    left.
    """
    photos = _of_a_folder(recipe, root) if recipe.data.name == "images" else _of_a_data_set(recipe, root)
    if len(photos.train) < 2 or not photos.held_out:
        raise UsageError(
            f"{len(photos.train)} photos to learn from, {len(photos.held_out)} held out: give more, or change data.held_out"
        )
    return photos


def _of_a_folder(recipe: Recipe, root: Path) -> Photos:
    photos = _below(recipe, recipe.unlabelled or root)
    apart = [share_of(photo.content) < recipe.data.held_out for photo in photos]
    held_out = [photo for photo, held in zip(photos, apart) if held]
    return Photos([photo for photo, held in zip(photos, apart) if not held], held_out)


def _of_a_data_set(recipe: Recipe, root: Path) -> Photos:
    choice = labelled_views(recipe.data, root)
    train, held_out = choice.train.images, choice.validation.images
    if recipe.unlabelled:
        excluded = {photo.content for photo in held_out}
        if recipe.data.novel == "drop" and recipe.data.name == "folder" and choice.test:
            test = open_folder(root, classes=choice.test, **recipe.data.reading.view).items
            excluded |= {item.content for item in test}
        train = [photo for photo in _below(recipe, recipe.unlabelled) if photo.content not in excluded]
    return Photos(train, held_out, choice.train, choice.validation)


def _below(recipe: Recipe, folder: str | Path) -> list[Item]:
    """The photos of a folder that can be read, each content once; where no page is chosen, each page of several is one."""
    photos, stacks, bands, chosen = [], [], recipe.data.reading.which["bands"], recipe.data.reading.page
    for path in find_images(folder):
        count = pages_in(path, bands) if chosen == 1 else 1
        stacks += [path.name] if count > 1 else []
        photos += [photo_alone(path, page, count) for page in (range(1, count + 1) if count > 1 else [chosen])]
    first: dict[str, Item] = {}
    for photo in readable(folder, photos, bands):
        first.setdefault(photo.content, photo)
    if stacks:
        note(f"{folder}: each page of a stack is a photo to learn from: {some(stacks)}; --page takes one of each")
    return list(first.values())


def queue_length(recipe: Recipe, photos: int) -> int:
    """Of the recipe, or half the photos, 65536 at most, in whole batches: a longer queue holds views of the same photos."""
    wanted = recipe.contrastive.queue or min(65536, photos // 2)
    return max(1, wanted // recipe.batch) * recipe.batch


@dataclass(frozen=True, eq=False)
class Probe:
    """What a validation measures on: (N, 3, S, S) uint8 images, class ids and masks, or two views of each photo."""

    images: Tensor
    classes: Tensor | None = None  # (N,)
    masks: Tensor | None = None  # (N, MAP, MAP) in {0, 1, 255} of the queries, which come first
    queries: int = 0

    def to(self, device: torch.device | str) -> Probe:
        return self  # moved in parts


class ContrastiveTraining(Reader):
    """``classes`` names what a validation measures: the nearest neighbours' class and the average precision of prior maps
    on labelled photos, else whether a view finds the other view of its photo. ``epoch``: photos.
    """

    validation, unit = 1, "photos"

    def __init__(self, recipe: Recipe, photos: Photos, model: Contrastive, folder: Path):
        side, finest = min(recipe.model.size, recipe.contrastive.local_size or recipe.model.size), model.encoder.patch
        if side <= finest:
            raise UsageError(
                f"views of {side} pixels: {model.encoder.name} makes one point of them; give {2 * finest} or more"
            )
        self.recipe, self.photos = recipe, photos
        self.model: nn.Module = model
        self.choice, self.epoch, self.learns_from = recipe.contrastive, len(photos.train), str(len(photos.train))
        needed = self.choice.objective == "region" or (model.has_local and self.choice.segments != "none")
        self.superpixels = Superpixels(folder, self.choice, recipe.data.reading) if needed else None
        labelled = photos.probe is not None
        self.classes = ["nearest neighbours", "prior map"] if labelled else ["other view found"]
        self.best_is = " and ".join(self.classes)

    def prepare(
        self, share: Callable[[Sequence[int]], Sequence[int]], advance: Callable[[str, int, int], None]
    ) -> None:
        """Compute the superpixels that are not on the disk; ``share`` gives this process its part of the photos."""
        if self.superpixels is None:
            return
        indices = share(range(self.epoch))
        for n, index in enumerate(indices, 1):
            self.superpixels.prepare(self.photos.train[index])
            advance("superpixels", n, len(indices))

    def draw(self, i: int) -> Views:
        """Photo i of an endless list, each epoch in its own order, as a batch of one."""
        epoch, at = divmod(i, self.epoch)
        order = torch.randperm(self.epoch, generator=generator(self.recipe.seed, 3, epoch))
        item = self.photos.train[int(order[at])]
        labels = None if self.superpixels is None else self.superpixels.read(item)
        photo, stream = self.recipe.data.reading.page_of(item), generator(self.recipe.seed, 4, i)
        return views(photo, labels, self.choice, self.recipe.model.size, stream)

    def draw_validation(self, j: int) -> Probe:
        """The held-out photos, and those among which their neighbours are sought."""
        gallery, probe = self.photos.gallery, self.photos.probe
        return self._pairs_of_views() if gallery is None or probe is None else self._labelled_photos(gallery, probe)

    def _pairs_of_views(self) -> Probe:
        size, pairs = self.recipe.model.size, []
        for n, item in enumerate(self.photos.held_out[: self.recipe.validation.episodes]):
            photo, stream = self.recipe.data.reading.page_of(item), generator(self.recipe.seed, 5, n)
            pair = views(photo, None, GLOBAL_VIEWS, size, stream)
            pairs.append(torch.cat([pair.query, pair.key]))
        queries_then_keys = torch.stack(pairs, 1).flatten(0, 1)
        return Probe((queries_then_keys * 255).round().byte(), queries=len(pairs))

    def _labelled_photos(self, gallery: Part, probe: Part) -> Probe:
        images, masks, classes = [], [], []
        for part, most in ((probe, self.recipe.validation.episodes), (gallery, GALLERY)):
            for index in (part.listed[at] for at in _spread(len(part.listed), most)):
                sample = part.sample(index)
                image, _ = transforms.squash(sample.image, self.recipe.model.size)
                images.append((image * 255).round().byte())
                classes.append(part.items[index].class_id)
                if part is probe:
                    masks.append(transforms.squash(sample.image, MAP, mask=sample.mask)[1])
        return Probe(torch.stack(images), torch.tensor(classes), torch.stack(masks), len(masks))  # type: ignore[arg-type]

    @staticmethod
    def collate(batches: Sequence[Any]) -> Any:
        return batches[0] if isinstance(batches[0], Probe) else Views.cat(batches)

    @staticmethod
    def loss(model: Contrastive, batch: Views) -> dict[str, Tensor]:
        return contrastive_loss.loss(model, batch)

    def count(self, model: nn.Module, batch: Probe) -> Tensor:
        """(what was reached, of how much) in each of ``classes``."""
        device, n = next(model.parameters()).device, batch.queries
        features, maps = [], []
        for part in batch.images.split(16):
            encoder = model.encoder  # type: ignore[union-attr]
            last = encoder(part.to(device).float() / 255).maps[-1]  # type: ignore[operator]
            features.append(F.normalize(last.mean((2, 3)), dim=1))
            maps.append(prior_map(last))
        vectors = torch.cat(features)
        cosines = vectors[:n] @ vectors[n:].T
        if batch.classes is None or batch.masks is None:
            hits = (cosines.argmax(1) == torch.arange(n, device=device)).sum()
            return torch.stack([hits, hits.new_tensor(n)])[None].cpu().double()
        classes = batch.classes.to(device)
        hits = (voted(cosines, classes[n:], int(classes.max()) + 1) == classes[:n]).sum()
        precision = [average_precision(m, target) for m, target in zip(torch.cat(maps)[:n].cpu(), batch.masks)]
        return torch.tensor([[float(hits), n], [sum(precision), n]], dtype=torch.float64)

    def pictures(self, model: nn.Module, device: torch.device) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
        """Held-out photos: the superpixels, and the upper half of the prior map."""
        drawn = []
        for item in self.photos.held_out[:SHOWN]:
            photo, _ = transforms.squash(self.recipe.data.reading.page_of(item), self.recipe.model.size)
            pixels = (photo * 255).round().byte().permute(1, 2, 0).numpy()
            last = model.encoder(photo[None].to(device)).maps[-1]  # type: ignore[operator, union-attr]
            upper = transforms.resize_logits(prior_map(last), (pixels.shape[0], pixels.shape[1]))[0, 0] > 0.5
            pairs = [(pixels, upper.byte().cpu().numpy())]
            if self.superpixels is not None:
                labels = torch.from_numpy(segment(pixels, self.choice.segments, self.choice.superpixels))
                labels = F.interpolate(labels[None, None].float(), pixels.shape[:2], mode="nearest")[0, 0]
                pairs.append((pixels, (labels % 254 + 1).byte().numpy()))
            drawn.append(("prior map above one half, superpixels", pairs))
        return drawn


def voted(cosines: Tensor, classes: Tensor, count: int) -> Tensor:
    """(n, m) cosines to photos of classes (m,) in 0..count - 1 -> (n,): the class that the nearest photos vote for."""
    nearest = cosines.topk(min(NEIGHBOURS, cosines.shape[1]))
    weights = nearest.values[..., None].div(VOTE_TEMPERATURE).exp()
    return (F.one_hot(classes[nearest.indices], count) * weights).sum(1).argmax(1)


def prior_map(last: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w) in [0, 1] without any parameter: what is unlike the most alike place of the border."""
    return min_max(border_contrast(last, best=1), flat=1e-6)[:, None]


def average_precision(score: Tensor, target: Tensor) -> float:
    """Of a map (1, h, w) against a mask (H, W) in {0, 1, 255}; the share of foreground for a map that knows nothing."""
    size = (target.shape[0], target.shape[1])
    labelled = target != 255
    order = transforms.resize_logits(score, size)[0][labelled].argsort(descending=True)
    hits = (target[labelled] == 1)[order].double()
    if not hits.any():
        return 0.0
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def _spread(count: int, most: int) -> list[int]:
    """At most so many of 0 .. count - 1, evenly."""
    return sorted({i * count // min(count, most) for i in range(min(count, most))})
