"""QGNet's first stage: global-local contrastive learning of the prior extractor, from photos without labels.

The terms of the loss are our reading of the paper's figure 3; no code of this stage is published.
"""

from __future__ import annotations

import hashlib
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
from shotseg.data.folder import find_images
from shotseg.data.images import read_bytes
from shotseg.errors import UsageError
from shotseg.priors.objectness import border_contrast
from shotseg.priors.visual import min_max
from shotseg.training import momentum
from shotseg.training.contrastive_views import Superpixels, Views, segment, views
from shotseg.training.data import Part, Reader, generator, share_of
from shotseg.training.data import views as labelled_views
from shotseg.training.momentum import Contrastive, figures, gathered, nce
from shotseg.training.progress import FIGURE
from shotseg.training.recipe import ContrastiveChoice, Recipe

GALLERY, NEIGHBOURS, SHOWN = 200, 10, 4
GLOBAL = ContrastiveChoice(ll=0, gl=0)
MAP = 64  # side at which a prior map is compared with a mask


@dataclass(frozen=True)
class Photos:
    """train: photos to learn from.    held_out: photos that measure.    gallery, probe: labelled ones, where there are any."""

    train: list[Path]
    held_out: list[Path]
    gallery: Part | None = None
    probe: Part | None = None


def collect(recipe: Recipe, root: Path) -> Photos:
    """The photos of a contrastive training.

    With ``data.name: images`` every photo below ``root``; else the training photos of the data set, whose labels only
    measure (``data.novel: drop`` leaves out those that show a test class: the strict mode). ``unlabelled`` names another
    folder to learn from; in strict mode photos of it that are test photos are left out. Raises UsageError where no photo is
    left.
    """
    if recipe.data.name == "images":
        every = _distinct(find_images(recipe.unlabelled or root))
        held = [path for path, content in every.items() if share_of(content) < recipe.data.held_out]
        photos = Photos([path for path in every if path not in set(held)], held)
    else:
        choice = labelled_views(recipe.data, root)
        train, held = choice.train.images, choice.validation.images
        if recipe.unlabelled:
            out = [*_distinct(held).values()]
            if recipe.data.novel == "drop" and recipe.data.name == "folder" and choice.test:
                test = open_folder(root, classes=choice.test, **recipe.data.reading.view).items
                out = [*out, *_distinct([item.image_path for item in test]).values()]
            found = _distinct(find_images(recipe.unlabelled))
            train = [path for path, content in found.items() if content not in set(out)]
        photos = Photos(train, held, choice.train, choice.validation)
    if len(photos.train) < 2 or not photos.held_out:
        raise UsageError(
            f"{len(photos.train)} photos to learn from, {len(photos.held_out)} held out: give more, or change data.held_out"
        )
    return photos


def _distinct(paths: Sequence[Path]) -> dict[Path, str]:
    """Path -> hash of content, each content once."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(hashlib.sha256(read_bytes(path)).hexdigest(), path)
    return {path: content for content, path in first.items()}


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
        self.choice, self.epoch = recipe.contrastive, len(photos.train)
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
        own = share(range(self.epoch))
        for n, index in enumerate(own, 1):
            self.superpixels.prepare(self.photos.train[index])
            advance("superpixels", n, len(own))

    def draw(self, i: int) -> Views:
        """Photo i of an endless list, each epoch in its own order, as a batch of one."""
        epoch, at = divmod(i, self.epoch)
        order = torch.randperm(self.epoch, generator=generator(self.recipe.seed, 3, epoch))
        path = self.photos.train[int(order[at])]
        labels = None if self.superpixels is None else self.superpixels.read(path)
        return views(
            self.recipe.data.reading.photo(path),
            labels,
            self.choice,
            self.recipe.model.size,
            generator(self.recipe.seed, 4, i),
        )

    def draw_validation(self, j: int) -> Probe:
        """The held-out photos, and those among which their neighbours are sought."""
        size, count = self.recipe.model.size, self.recipe.validation.episodes
        gallery, probe = self.photos.gallery, self.photos.probe
        if gallery is None or probe is None:
            pairs = []
            for n, path in enumerate(self.photos.held_out[:count]):
                seen = views(
                    self.recipe.data.reading.photo(path), None, GLOBAL, size, generator(self.recipe.seed, 5, n)
                )
                pairs.append(torch.cat([seen.query, seen.key]))
            stacked = torch.stack(pairs, 1).flatten(0, 1)  # queries, then their keys
            return Probe((stacked * 255).round().byte(), queries=len(pairs))
        drawn, masks, classes = [], [], []
        for part, most in ((probe, count), (gallery, GALLERY)):
            for index in (part.listed[at] for at in _spread(len(part.listed), most)):
                sample = part.sample(index)
                image, _ = transforms.squash(sample.image, size)
                drawn.append((image * 255).round().byte())
                classes.append(part.items[index].class_id)
                if part is probe:
                    masks.append(transforms.squash(sample.image, MAP, mask=sample.mask)[1])
        return Probe(torch.stack(drawn), torch.tensor(classes), torch.stack(masks), len(masks))  # type: ignore[arg-type]

    @staticmethod
    def collate(batches: Sequence[Any]) -> Any:
        return batches[0] if isinstance(batches[0], Probe) else Views.cat(batches)

    @staticmethod
    def loss(model: Contrastive, batch: Views) -> dict[str, Tensor]:
        """The terms, weighted; and figures that are only shown."""
        if not model.choice.symmetric:
            return terms(model, batch)
        both = terms(model, batch), terms(model, turned(batch))
        return {name: (value + both[1][name]) / 2 for name, value in both[0].items()}

    def count(self, model: nn.Module, batch: Probe) -> Tensor:
        """(what was reached, of how much) in each of ``classes``."""
        device = next(model.parameters()).device
        z, maps = [], []
        for part in batch.images.split(16):
            images = part.to(device).float() / 255
            encoder = model.encoder  # type: ignore[union-attr]
            last = encoder(images).maps[-1]  # type: ignore[operator]
            z.append(F.normalize(last.mean((2, 3)), dim=1))
            maps.append(prior_map(last))
        found, n = torch.cat(z), batch.queries
        likeness = found[:n] @ found[n:].T
        if batch.classes is None or batch.masks is None:
            hits = (likeness.argmax(1) == torch.arange(n, device=device)).sum()
            return torch.stack([hits, hits.new_tensor(n)])[None].cpu().double()
        best = likeness.topk(min(NEIGHBOURS, likeness.shape[1]))
        classes = batch.classes.to(device)
        votes = F.one_hot(classes[n:][best.indices], int(classes.max()) + 1) * best.values[..., None].div(0.1).exp()
        hits = (votes.sum(1).argmax(1) == classes[:n]).sum()
        precision = [average_precision(m, t) for m, t in zip(torch.cat(maps)[:n].cpu(), batch.masks)]
        return torch.tensor([[float(hits), n], [sum(precision), n]], dtype=torch.float64)

    def pictures(self, model: nn.Module, device: torch.device) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
        """Held-out photos: the superpixels, and the upper half of the prior map."""
        drawn = []
        for path in self.photos.held_out[:SHOWN]:
            photo, _ = transforms.squash(self.recipe.data.reading.photo(path), self.recipe.model.size)
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


def terms(model: Contrastive, batch: Views) -> dict[str, Tensor]:
    """One step of the losses: queries by the online branch, keys by the target after it moved; the queues come last."""
    choice = model.choice
    q, q_map = model.query(batch.query)
    local_q = model.query(batch.local_query, local=True)[0] if batch.local_query is not None else None
    if model.training:
        model.follow()
    k, k_map = model.key(batch.key)
    k = k.to(q)
    found = {"gg": choice.gg * nce(q, k, model.queue("global"), choice.temperature)} if choice.gg else {}
    shown = figures(q.detach(), k, model.queue("global"), model.online, model.target)
    local_k: Tensor | None = None
    if batch.query_regions is not None:
        region, cross, local_k = region_terms(model, batch, q, k, q_map, k_map)
        found |= {"ll": choice.ll * region, "gl": choice.gl * cross}
    elif local_q is not None:
        assert batch.local_key is not None
        local_k = model.key(batch.local_key, local=True)[0].to(q)
        if choice.ll:
            found["ll"] = choice.ll * nce(local_q, local_k, model.queue("local"), choice.temperature)
        if choice.gl:
            found["gl"] = choice.gl * global_local(
                q, local_q, k, local_k, model.queue("global"), model.queue("local"), choice.temperature
            )
    if model.training:
        model.enqueue(k, "global")
        if local_k is not None:
            model.enqueue(local_k, "local")
    return found | {FIGURE + name: value for name, value in shown.items()}


def global_local(
    global_q: Tensor, local_q: Tensor, global_k: Tensor, local_k: Tensor, queue_g: Tensor, queue_l: Tensor, t: float
) -> Tensor:
    """Half the global query against the local key, half the local query against the global key; each in its queue."""
    return (nce(global_q, local_k, queue_l, t) + nce(local_q, global_k, queue_g, t)) / 2


def region_terms(
    model: Contrastive, batch: Views, q: Tensor, k: Tensor, q_map: Tensor, k_map: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of regions, the cross term, and one key a photo for the local queue.

    A region of one view is to be told from all other regions of the batch, those of its own photo too, unless they
    overlap it; positives and negatives come from the target.
    """
    assert batch.query_regions is not None and batch.key_regions is not None and batch.apart is not None
    choice, own = model.choice, len(q)
    weights_q, weights_k = (coverage(r, m) for r, m in ((batch.query_regions, q_map), (batch.key_regions, k_map)))
    valid = (weights_q.sum((2, 3)) > 0) & (weights_k.sum((2, 3)) > 0)  # (B, 16)
    region_q = model.online.regions(q_map, weights_q)
    with torch.no_grad():
        region_k = model.target.regions(k_map, weights_k)
        first = torch.where(valid[:, :1], region_k[:, 0], k)
        keys, known = gathered(region_k).flatten(0, 1), gathered(valid).flatten()
    if not valid.any():
        return region_q.sum() * 0, q.sum() * 0, first
    count = valid.shape[1]
    scores = region_q.flatten(0, 1) @ keys.T / choice.region_temperature  # (B 16, all)
    allowed = known[None].repeat(own * count, 1)
    start = momentum.process() * own * count
    same = (
        torch.block_diag(*batch.apart.float()).bool() | ~torch.block_diag(*torch.ones_like(batch.apart).float()).bool()
    )
    allowed[:, start : start + own * count] &= same
    target = torch.arange(own * count, device=q.device) + start
    rows = valid.flatten()
    loss = F.cross_entropy(scores.masked_fill(~allowed, -torch.inf)[rows], target[rows])
    photo = torch.arange(own, device=q.device).repeat_interleave(count)[rows]
    picked_q, picked_k = region_q.flatten(0, 1)[rows], region_k.flatten(0, 1)[rows]
    queues = model.queue("global"), model.queue("local")
    return loss, global_local(q[photo], picked_q, k[photo], picked_k, *queues, choice.temperature), first


def coverage(regions: Tensor, maps: Tensor) -> Tensor:
    """(B, L, L) numbers 1..16, 0 = none -> (B, 16, h, w): the share of each cell of the map that each region has."""
    inside = F.one_hot(regions, 17)[..., 1:].permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(inside, (maps.shape[-2], maps.shape[-1]))


def turned(batch: Views) -> Views:
    """Queries as keys and keys as queries."""
    return Views(
        batch.key,
        batch.query,
        batch.local_key,
        batch.local_query,
        batch.key_regions,
        batch.query_regions,
        batch.apart,
    )


def prior_map(last: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w) in [0, 1] without any parameter: what is unlike the most alike place of the border."""
    return min_max(border_contrast(last, best=1), flat=1e-6)[:, None]


def average_precision(score: Tensor, target: Tensor) -> float:
    """Of a map (1, h, w) against a mask (H, W) in {0, 1, 255}; the share of foreground for a map that knows nothing."""
    size = (target.shape[0], target.shape[1])
    known = target != 255
    order = transforms.resize_logits(score, size)[0][known].argsort(descending=True)
    hits = (target[known] == 1)[order].double()
    if not hits.any():
        return 0.0
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def _spread(count: int, most: int) -> list[int]:
    """At most so many of 0 .. count - 1, evenly."""
    return sorted({i * count // min(count, most) for i in range(min(count, most))})
