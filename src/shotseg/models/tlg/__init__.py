"""TLG: weakly-supervised few-shot segmentation by a heterogeneous network (jarch-ma/TLG, arXiv 2508.16159).

Support photos have no masks. Two photos are compared as in HSNet, in both directions; deep maps of the support and shallow
ones of the query are aggregated (HA), their rows exchanged by optimal transport (HT), weighted by maps of words (HC), and
the pseudo mask that the class name makes of the photo itself joins at the end. Masks of base classes are used in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Episode, Prediction, Support
from shotseg.device import sent
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.blocks.class_guide import Refine, soft_masks
from shotseg.models.blocks.correlation import correlate, levels, swapped, unit
from shotseg.models.blocks.guides import guide_of
from shotseg.models.blocks.norm import BatchNorm
from shotseg.models.blocks.prior_guided import Episodic, cross_entropy, resize
from shotseg.models.blocks.pyramid import WIDTHS, Decoder, Pyramid
from shotseg.models.blocks.token_model import agreed
from shotseg.models.tlg.text_rows import MINILM, TextRows
from shotseg.models.tlg.transport import SelfAttention, TransportAttention
from shotseg.priors.visual import foreground

GRID = 50  # positions a side on which HA and HT run, whatever the photo's size: the published weights are made for it
WEIGHTS = {"query": 1.4, "support": 0.6}  # of the loss terms
NORM = 1e-4  # of the penalty on the norms of parameters
NAME, FINER, SCENES = range(3)  # the rows of a class's text
POOLS = {"max-avg": (F.max_pool2d, F.avg_pool2d), "avg-max": (F.avg_pool2d, F.max_pool2d)}  # of support, query


class Sides(NamedTuple):
    """Logits (B, 2, h, w) of a query and of its support, and those before the pseudo masks join."""

    query: Tensor
    support: Tensor | None


class Aggregation(nn.Module):
    """HA: three maps of a photo as one (B, C, grid, grid), and its merge with the other photo's correlations.

    tied: one convolution reads all three maps, as the release's does for VGG-16.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        grid: int,
        kind: Literal["concat", "sum"] = "concat",
        tied: bool = False,
    ):
        super().__init__()
        self.grid, self.kind = grid, kind
        self.low, self.mid, self.high = (nn.Conv2d(c, width, 1) for c in channels)
        if tied:
            self.mid = self.high = self.low
        self.fuse = nn.Conv2d(3 * width, width, 1) if kind == "concat" else nn.Identity()
        self.merge = nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, low: Tensor, mid: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The aggregate (B, C, grid, grid), and the middle map alone (B, C, h, w) for the local residual."""
        parts = [self.low(low), self.mid(mid), self.high(high)]  # before the resize: the same values, fewer of them
        sized = [resize(part, (self.grid, self.grid)) for part in parts]
        return self.fuse(torch.cat(sized, 1) if self.kind == "concat" else torch.stack(sized).sum(0)), parts[1]


class Transport(nn.Module):
    """HT: the rows of a map as tokens, attended to themselves and transported, spread over the grid again."""

    def __init__(self, width: int, grid: int, **options: Any):
        super().__init__()
        self.own = SelfAttention(width)
        self.cross = TransportAttention(width, **options)
        self.expand = nn.Linear(grid, grid * grid, bias=False)
        self.norm = BatchNorm(width)

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """x (B, C, grid, grid), residual the same -> the same, at least 0."""
        rows = x.mean(3).mT  # (B, grid, C)
        moved = self.cross(self.own(rows), rows)
        spread = self.norm(self.expand(moved.mT).unflatten(2, x.shape[2:]))
        return F.relu(spread if residual is None else spread + residual)


class TextMaps(nn.Module):
    """HC: rows of text (B, 3, D) as maps (B, 1, grid / 2, grid / 2)."""

    def __init__(self, width: int, grid: int, merge: Literal["conv", "product"] = "conv"):
        super().__init__()
        self.side, self.merge = grid // 2, merge
        self.project = nn.Linear(width, self.side**2)
        self.mix = nn.Conv2d(2, 1, 1)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """The map of the query, from name and scenes, and that of the support, from the finer phrase."""
        maps = self.project(text).unflatten(2, (self.side, self.side))  # (B, 3, side, side)
        if self.merge == "product":
            query = maps[:, NAME, None] * maps[:, SCENES, None]
        else:
            query = self.mix(torch.stack([maps[:, NAME], maps[:, SCENES]], 1))
        return query, maps[:, FINER, None]


class Fusion(nn.Sequential):
    """Logits and the pseudo mask (B, 3, h, w) -> logits (B, 2, h, w)."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 10, 1), nn.GELU(), nn.Conv2d(10, 2, 1))

    @torch.no_grad()
    def start_as_mask(self) -> None:
        """Two of the ten units read the mask alone, so that an untrained network answers with it, and learns to do better."""
        read: Any = self[0]
        say: Any = self[2]
        read.weight[:2], read.bias[:2] = 0, torch.tensor([-1.0, 1.0])
        read.weight[:2, 2, 0, 0] = torch.tensor([2.0, -2.0])
        say.weight[:, :2, 0, 0] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])


class TLG(Episodic):
    """Few-shot segmentation from photos and a class name.

    encoder: any of three maps or more, as of :class:`shotseg.models.hsnet.HSNet`.
    size:    side of the square that photos are brought to.
    grid:    positions a side of HA and HT, even.      widths: channels of the 4-D pyramid.
    text:    where rows of text come from, see :class:`shotseg.models.tlg.text_rows.TextRows`.
    guide:   what makes pseudo masks of the name: "imagenet-text", which needs no download, or "clip", the encoder ``clip``.
    refine:  how they are drawn along edges, see :mod:`shotseg.models.blocks.class_guide`; None = the guide's own way.
    supervision: "mask": true masks of the training classes. "pseudo": none anywhere; the pseudo masks are the targets, and
             the fusion, which could copy them, is left out.

    Switches; the value of the release, which ``reference=True`` sets, is in brackets:
    train_prior (False): gradients reach HA, HT and HC; in the release they keep their random start.
    detach_plan (True):  no gradient through the transport plan.
    query_residual ("support"): whose middle map the query's local residual is of.
    loss_ignore (False): unlabelled pixels stay out of the loss; else they count as background.
    ``reference`` also starts the fusion at random, where ours starts as the pseudo mask (:class:`Fusion`).
    tied (True where all three maps have one width): see :class:`Aggregation`.
    norm_penalty ("replica"): "replica" is 0, as with the release on several GPUs; "single_gpu" adds 1e-4 times the norm of
             every parameter; ours is frozen in the encoder, which it ruined in the release, so it shrinks the head alone.
    corr_mask ("none"): "pseudo" hides the support outside its pseudo mask before the comparison, as HSNet does.
    plan_scale ("uniform"), transport ("sinkhorn"): see :class:`shotseg.models.tlg.transport.TransportAttention`.
    half_text (False; the recipes, whose text is CLIP's, set it): rows pass through float16, as on the release's GPUs.

    Ablations that the authors made: ``taps`` ("heterogeneous", or three positions for both sides as "5,6,7"), ``aggregate``,
    ``text_maps``, ``text_merge``, ``residual``, ``pooling`` (of support, query), ``seed`` (a learnt map on the support).
    """

    geometry = "squash"
    needs = "photos"

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int = 400,
        grid: int = GRID,
        widths: Sequence[int] = WIDTHS,
        text: str | TextRows = MINILM,
        guide: Literal["imagenet-text", "clip"] = "imagenet-text",
        clip: str = "clip-vit-b16",
        refine: Refine | None = None,
        supervision: Literal["mask", "pseudo"] = "mask",
        train_prior: bool = True,
        detach_plan: bool = False,
        query_residual: Literal["query", "support"] = "query",
        loss_ignore: bool = True,
        tied: bool = False,
        norm_penalty: Literal["replica", "single_gpu"] = "replica",
        corr_mask: Literal["none", "pseudo"] = "none",
        plan_scale: Literal["uniform", "rows"] = "uniform",
        transport: Literal["sinkhorn", "none"] = "sinkhorn",
        half_text: bool = False,
        taps: str = "heterogeneous",
        aggregate: Literal["concat", "sum"] = "concat",
        text_maps: bool = True,
        text_merge: Literal["conv", "product"] = "conv",
        residual: bool = True,
        pooling: Literal["max-avg", "avg-max"] = "max-avg",
        seed: bool = False,
        reference: bool = False,
    ):
        super().__init__()
        self.levels = levels(encoder)
        self.used = sorted(tap for level in self.levels for tap in level.taps)
        self.query_taps, self.support_taps = self._chosen(taps, encoder.channels)
        channels = [encoder.channels[self.used[i]] for i in self.support_taps]
        if reference:
            train_prior, detach_plan, query_residual, loss_ignore = False, True, "support", False
            norm_penalty, corr_mask, plan_scale, tied = "replica", "none", "uniform", len(set(channels)) == 1
        if grid % 2:
            raise UsageError(f"grid={grid}: must be even, half of the rows are keys and half are values")
        self.encoder = encoder.requires_grad_(False)
        self.size, self.grid, self.supervision = size, grid, supervision
        self.train_prior, self.query_residual, self.loss_ignore = train_prior, query_residual, loss_ignore
        self.norm_penalty, self.corr_mask, self.residual, self.pooling = norm_penalty, corr_mask, residual, pooling
        self.rests = not train_prior
        self.guide = guide_of(guide, encoder, clip, refine)
        self.rows = text if isinstance(text, TextRows) else TextRows(text, half=half_text)
        width = widths[-1]
        self.pyramid, self.decoder = Pyramid(self.levels, widths), Decoder(width)
        self.fuse = Fusion()
        if not reference:
            self.fuse.start_as_mask()
        self.aggregate = Aggregation(channels, width, grid, aggregate, tied)
        self.transport = Transport(width, grid, transport=transport, plan_scale=plan_scale, detach=detach_plan)
        self.text = TextMaps(self.rows.width, grid, text_merge) if text_maps else None
        self.seed = nn.Parameter(torch.zeros(1, width, grid, grid)) if seed else None

    def _chosen(self, taps: str, channels: Sequence[int]) -> tuple[list[int], list[int]]:
        """Low, middle and high map of query and support, as positions among those of :meth:`encode`.

        Heterogeneous: the shallowest and the deepest of each level, as far as they are of one width.
        """
        count = len(self.used)
        if taps == "heterogeneous":
            same = [[tap for tap in level.taps if channels[tap] == level.channels] for level in reversed(self.levels)]
            return [self.used.index(level[0]) for level in same], [self.used.index(level[-1]) for level in same]
        try:
            low, mid, high = (range(count)[int(tap)] for tap in taps.split(","))
        except (ValueError, IndexError):
            raise UsageError(f"taps={taps!r}: give 'heterogeneous' or three of 0 to {count - 1}, as '5,6,7'") from None
        return [low, mid, high], [low, mid, high]

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the maps that are compared, shallow to deep, then those that pseudo masks are made of."""
        seen = self.encoder(images)
        own = Features(tuple(seen.maps[i] for i in self.used), tuple(seen.strides[i] for i in self.used))
        return self.guide.seen_with(own, images)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor | None = None,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), B class names -> ``tap0..`` (B, K, C, h, w), ``pseudo`` (B, K, H, W) uint8 in {0, 1},
        ``text`` (B, K, 3, D) and ``name`` (B, K, 1, D'), what the guide knows of the name.

        masks: (B, K, H, W) in {0, 1, 255}, in place of the pseudo masks where somebody has drawn some.
        """
        shape, flat = images.shape[:2], images.flatten(0, 1)
        features = self.encode(flat) if features is None else features
        names = self.guide.vectors(class_names).repeat_interleave(shape[1], 0)
        text = sent(self.rows(class_names or ()).repeat_interleave(shape[1], 0), images.device)
        pseudo = self.pseudo(features, names, flat) if masks is None else (masks == 1).flatten(0, 1)
        kept = {f"tap{i}": features.maps[i] for i in range(len(self.used))}
        kept |= {"pseudo": pseudo.to(torch.uint8), "text": text, "name": names}
        return Support({name: tensor.unflatten(0, shape) for name, tensor in kept.items()})

    def pseudo(self, features: Features, names: Tensor, images: Tensor) -> Tensor:
        """(B, H, W) bool: the pseudo mask of each image, from :meth:`encode` and the guide's vectors (B, 1, D')."""
        return soft_masks(self.guide(features, names, images), images, self.guide.refine, self.guide.cut) > 0.5

    def forward(
        self,
        query: Features,
        support: Support,
        images: Tensor,
        pseudo: Tensor | None = None,
        both: bool = False,
        **context: Any,
    ) -> Prediction:
        """Logits (B, 2, H, W) at the size of images (B, 3, H, W); K shots: see :func:`agreed`.

        pseudo: (B, H, W) in {0, 1} of the queries, in place of those made from the support's name.
        both: also segment the supports, on whose logits the query's do not depend.
        extra: ``pseudo_mask`` (B, H, W), the one that was used, and of both ``support_logits`` (B, K, 2, H, W).
        """
        b = len(images)
        if pseudo is None:
            with torch.no_grad():
                pseudo = self.pseudo(query, support["name"][:, 0].expand(b, -1, -1), images)
        taps, mask = list(query.maps[: len(self.used)]), pseudo[:, None].float()
        sides = []
        for shot in range(support.shots):
            known = {name: tensor[:, shot].expand(b, *tensor.shape[2:]) for name, tensor in support.tensors.items()}
            others = [known[f"tap{i}"] for i in range(len(taps))]
            sides.append(self.compare(taps, others, known["text"], mask, known["pseudo"][:, None].float(), both))
        extra = {"pseudo_mask": mask[:, 0]}
        if both:
            shown = [resize(side.support, support["pseudo"].shape[-2:]) for side in sides if side.support is not None]
            extra["support_logits"] = torch.stack(shown, 1)
        return Prediction(resize(agreed([side.query for side in sides]), images.shape[-2:]), extra)

    def compare(
        self,
        query: Sequence[Tensor],
        support: Sequence[Tensor],
        text: Tensor,
        query_mask: Tensor,
        support_mask: Tensor,
        both: bool = True,
    ) -> Sides:
        """A query and one support: maps of each as of :meth:`encode`, text (B, 3, D), pseudo masks (B, 1, H, W)."""
        maps = support
        if self.corr_mask == "pseudo":
            maps = [tap * foreground(support_mask, tap.shape[-2:]) for tap in support]
        left, right = [unit(tap) for tap in query], [unit(tap) for tap in maps]
        at = [[self.used.index(tap) for tap in level.taps] for level in self.levels]
        found = [correlate([left[i] for i in own], [right[i] for i in own]) for own in at]
        query_after, support_after = self.pyramid(found), self.pyramid([swapped(level) for level in found])
        del found, left, right
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_prior):
            query_map, support_map = self.text(text) if self.text is not None else (None, None)
            own, middle = self.aggregate(*(query[i] for i in self.query_taps))
            other, other_middle = self.aggregate(*(support[i] for i in self.support_taps))
            support_pool, query_pool = POOLS[self.pooling]
            support_prior = None
            if both:
                local = self._local(other_middle, support_pool)
                support_prior = self._prior(other, query_after, local, support_map, self.seed)
            middle = middle if self.query_residual == "query" else other_middle
            query_prior = self._prior(own, support_after, self._local(middle, query_pool), query_map)
        logits = self._decoded(query_prior, query_after, query_mask)
        return Sides(
            logits, None if support_prior is None else self._decoded(support_prior, support_after, support_mask)
        )

    def _local(self, middle: Tensor, pool: Any) -> Tensor | None:
        """The local residual (B, C, grid, grid) of a middle map (B, C, h, w)."""
        return pool(resize(middle, (2 * self.grid, 2 * self.grid)), 2) if self.residual else None

    def _prior(
        self, own: Tensor, after: Tensor, local: Tensor | None, text: Tensor | None, seed: Tensor | None = None
    ) -> Tensor:
        """A photo's aggregate, crossed with the correlations (B, C, h, w) of the other -> (B, C, grid, grid)."""
        merged = self.aggregate.merge(torch.cat([own, resize(after, own.shape[-2:])], 1))
        found = self.transport(merged if seed is None else merged + seed, local)
        if text is None:
            return found
        half = F.interpolate(found, scale_factor=0.5, mode="bilinear")
        return F.interpolate(half * text, scale_factor=2, mode="bilinear")

    def _decoded(self, prior: Tensor, after: Tensor, mask: Tensor) -> Tensor:
        logits = self.decoder(resize(prior, after.shape[-2:]) + after)
        if self.supervision == "pseudo":
            return logits
        return self.fuse(torch.cat([logits, resize(mask, logits.shape[-2:])], 1))  # (B, 3, 2h, 2w)

    def predict(self, episode: Episode, query: Features | None = None, support: Features | None = None) -> Prediction:
        """An episode from pixels to logits, its masks unread; query, support: kept from :meth:`encode`."""
        query = self.encode(episode.query) if query is None else query
        return self(query, self.encode_support(episode.support, None, support, episode.class_name), episode.query)

    def loss(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        base_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``query`` and ``support``, weighted; ``norm`` where it is asked for. query, support: kept from :meth:`encode`."""
        query = self.encode(episode.query) if query is None else query
        encoded = self.encode_support(episode.support, None, support, episode.class_name)
        return self.losses_of_both(self(query, encoded, episode.query, both=True), encoded, episode)

    def losses_of_both(self, prediction: Prediction, support: Support, episode: Episode) -> dict[str, Tensor]:
        """The terms of a prediction with ``support_logits`` against the masks of an episode, or against pseudo masks."""
        if self.supervision == "pseudo":
            targets = {"query": prediction.extra["pseudo_mask"].long(), "support": support["pseudo"].long()}
        elif episode.query_mask is None:
            raise UsageError("training needs the mask of every photo; or train with supervision='pseudo'")
        else:
            targets = {"query": episode.query_mask, "support": self.masks_of(episode)}
        logits = {"query": prediction.logits, "support": prediction.extra["support_logits"].flatten(0, 1)}
        terms = {}
        for side, weight in WEIGHTS.items():
            target = targets[side].reshape(-1, *targets[side].shape[-2:])
            target = target if self.loss_ignore else target.masked_fill(target == IGNORE, 0)
            terms[side] = weight * cross_entropy(logits[side], target)
        if self.norm_penalty == "single_gpu":
            terms["norm"] = NORM * norms(self)
        return terms

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        self.guide.eval()
        return self


def norms(model: nn.Module) -> Tensor:
    """The sum over all parameter tensors of their (not squared) L2 norm."""
    return torch.stack([parameter.norm() for parameter in model.parameters()]).sum()
