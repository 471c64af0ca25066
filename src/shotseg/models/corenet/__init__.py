"""CORENet, a reconstruction: weakly-supervised few-shot segmentation with correlation, CLIP and noisy masks.

The paper (arXiv 2405.19638; Knowledge-Based Systems 2024) has no public code, and its body could not be read: its parts and their
order are the paper's, their inside is ours, made of the published methods that it builds on. No number of this model is the
paper's. docs/methods/corenet.md says element by element which is which.

    tokens of query and support -> local and global correlation -> multi-kernel transformer -> features   (CGT)
    class name -> coarse attention -> refined -> filters the features                                     (CGM)
    look of query and support in each stage -> joined with them -> mask                                   (EGM)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.vit import ViT
from shotseg.errors import UsageError
from shotseg.models.blocks import class_guide
from shotseg.models.blocks.class_guide import Refine
from shotseg.models.blocks.correlation_tokens import patches
from shotseg.models.blocks.correlation_transformer import MEMORY, bias_of
from shotseg.models.blocks.guides import guide_of
from shotseg.models.blocks.mask_head import MaskHead
from shotseg.models.blocks.prior_guided import resize
from shotseg.models.blocks.token_model import TokenModel, mean_of, query_mask_of, shown
from shotseg.models.corenet.appearance import Appearance
from shotseg.models.corenet.class_filter import ClassFilter, Form
from shotseg.models.corenet.kernel_fusion import CorrelationGuidedTransformer, Fusion, ReadOut, on
from shotseg.models.corenet.noisy_labels import Teacher, confidence, relabelled, weighted_cross_entropy
from shotseg.models.corenet.voronoi import cells
from shotseg.priors.generators import agreement, levelled, objectness, quarter, resized
from shotseg.priors.guided_filter import along_edges
from shotseg.priors.visual import min_max

Attention = Literal["none", "coarse", "fine"]
Source = Literal["auto", "dino", "clip", "fused"]


class Found(NamedTuple):
    mask: Tensor  # (B, 2, 2h, 2w) logits
    early: Tensor  # (B, 2, h, w) logits of the features before the class filter


class Core(nn.Module):
    """All that is trained, for one shot."""

    def __init__(
        self,
        transformer: CorrelationGuidedTransformer,
        filter_: ClassFilter | None,
        appearance: Appearance | None,
        width: int,
    ):
        super().__init__()
        self.transformer, self.filter, self.appearance = transformer, filter_, appearance
        self.mask = MaskHead(width)
        self.early = nn.Conv2d(width, 2, 1)

    def forward(
        self,
        query: Tensor,
        layers: Tensor,
        support: Tensor,
        biases: Mapping[int, Tensor],
        prototype: Tensor,
        attention: Tensor | None,
        memory: int,
    ) -> Found:
        """query, support: heads of unit length; layers (B, D, h, w) of the query; prototype (B, D); attention (B, 1, h, w)."""
        found = self.transformer(query, support, biases, layers.shape[-2:], memory)
        early = self.early(found)
        if self.filter is not None:
            assert attention is not None
            found = self.filter(found, attention)
        if self.appearance is not None:
            found = self.appearance(found, layers, prototype)
        return Found(self.mask(found), early)


class CORENet(TokenModel):
    """encoder, size, side, stride: see :class:`TokenModel`; photos and class names are all it needs.

    global_tokens: local-to-global similarity: the support's foreground, and ``cells`` Voronoi cells of its background.
    kernels:    of each branch, "4x3" pools by 4 and then by 3; their product is ``side``.
    fusion, plane, read_out: see :class:`CorrelationGuidedTransformer`.
    soft_mask:  patches outside the mask count little; False hides them, as CST does.
    cgm:        attention from the class's name: none, coarse (Grad-CAM) or fine (refined).
    filter:     how it acts, see :class:`ClassFilter`.      attention_dropout: see there.
    guide:      what knows the name: "clip", "imagenet-text", or "auto": CLIP beside a ViT, else what needs no download.
    clip:       which CLIP: a name of ``shotseg.list_encoders()``, or a VisionLanguage.
    refine:     along the photo's edges: "par" (the paper's), "pamr", "guided" or "none"; None = the guide's own.
    masks:      support masks where none is given: "dino" (class-blind: a ViT's keys, or a CNN's border contrast), "clip" (the
                fine attention), "fused" (both must agree); "auto" = fused on a ViT, else clip.
    egm:        the embedding-guided module.
    aux:        weight of the loss before the class filter.       swap: also learn the support from the query.
    confidence_weight: images count by how sure their own soft mask is.
    relabel:    steps after which a moving average of the network corrects the query's mask; 0 = never.
    prior_weight: at test, the share of the name's own mask of the query in the answer's log odds; 0 = the network alone.
    recentre:   at test, how far the network's log odds are moved, of the way to where they tell this mask from the rest; 0 = not.
    edges:      at test, the answer is drawn along the photo's edges.
    memory:     bytes that correlation tokens and attention may take at once; the result does not depend on it.
    """

    needs = "photos"

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int | None = None,
        global_tokens: bool = True,
        cells: int = 5,
        kernels: str = "4x3 6x2 3x4",
        fusion: Fusion = "concat",
        plane: bool = True,
        read_out: ReadOut = "all",
        soft_mask: bool = True,
        cgm: Attention = "fine",
        filter: Form = "gate",
        attention_dropout: float = 0.1,
        guide: Literal["auto", "clip", "imagenet-text"] = "auto",
        clip: str | Encoder = "clip-vit-b16",
        refine: Refine | None = None,
        masks: Source = "auto",
        egm: bool = True,
        aux: float = 0.4,
        swap: bool = True,
        confidence_weight: bool = False,
        relabel: int = 0,
        prior_weight: float = 0.5,
        recentre: float = 0.3,
        edges: bool = True,
        side: int = 12,
        width: int = 128,
        stride: int = 16,
        memory: int = MEMORY,
    ):
        super().__init__(encoder, size, side, stride)
        self.tokens = (0, 1, *[2] * cells) if global_tokens else (0,)
        self.soft_mask, self.cgm, self.aux, self.swap, self.memory = soft_mask, cgm, aux, swap, memory
        self.confidence_weight, self.prior_weight = confidence_weight, prior_weight
        self.recentre, self.edges = recentre, edges
        self.source = masks if masks != "auto" else "fused" if self.asks_keys else "clip"
        if self.source in ("dino", "fused") and isinstance(encoder, ViT) and not self.asks_keys:
            raise UsageError(f"{encoder.name!r} has no class token for masks={self.source!r}; choose masks='clip'")
        self.guide = guide_of(guide, encoder, clip, refine)
        transformer = CorrelationGuidedTransformer(
            len(self.heads), self.tokens, side, _pairs(kernels), width, fusion, plane, read_out
        )
        self.sides = sorted({s for pair in transformer.sides for s in pair})
        self.core = Core(
            transformer,
            None if cgm == "none" else ClassFilter(width, filter, attention_dropout),
            Appearance(encoder.channels, width) if egm else None,
            width,
        )
        self.teacher = Teacher(self.core, relabel) if relabel else None

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the encoder's layers, then what the guide needs of the image."""
        return self.guide.seen_with(super().encode(images), images)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor | None,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W); masks (B, K, H, W) in {0, 1, 255}, or None: they are made from the class names.

        ``tokens`` (B, K, C, width, G + s s) of unit length a head; ``bias<s>`` (B, K, G + s s); ``prototype`` (B, K, D), the
        mean of the object in every layer; ``name`` (B, K, N, d), what stands for the class's name.
        """
        shape, pixels = images.shape[:2], images.flatten(0, 1)
        features = self.encode(pixels) if features is None else features
        names = self.guide.vectors(class_names).repeat_interleave(shape[1], 0)
        soft = self.pseudo_masks(features, names, pixels) if masks is None else shown(masks.flatten(0, 1))
        maps, classes = self.layers(features)
        prototype, globals_ = self.global_tokens(maps, classes, soft)
        kept = {
            "tokens": self.heads(torch.cat([globals_, patches(maps, self.side)], 2)),
            "prototype": prototype,
            "name": names,
        }
        for side in self.sides:
            bias = bias_of(soft if self.soft_mask else (soft > 0.5).float(), side, self.soft_mask)
            kept[f"bias{side}"] = F.pad(bias, (len(self.tokens), 0))  # global tokens are never hidden
        return Support({name: tensor.unflatten(0, shape) for name, tensor in kept.items()})

    def global_tokens(self, maps: Tensor, classes: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """Method page, 5.2: the object's mean (N, D), and [class, object, background cells] (N, D, G), of N supports.

        maps (N, D, h, w); classes (N, D); soft masks (N, H, W) in [0, 1]: weights of the object, cut at 1/2 for the cells.
        """
        share = on(soft[:, None], maps.shape[-2:])
        prototype = (maps * share).sum((2, 3)) / (share.sum((2, 3)) + 1e-5)
        if len(self.tokens) == 1:
            return prototype, classes[..., None]
        inside = F.interpolate(soft[:, None], maps.shape[-2:], mode="nearest")[:, 0] > 0.5
        free = (~inside).flatten(1).sum(1).clamp(min=1)
        first = (torch.rand(len(free), device=free.device) * free).long() if self.training else torch.zeros_like(free)
        background = maps.flatten(2) @ cells(inside, len(self.tokens) - 2, first)
        return prototype, torch.cat([classes[..., None], prototype[..., None], background], 2)

    @torch.no_grad()
    def pseudo_masks(self, features: Features, names: Tensor, images: Tensor) -> Tensor:
        """Method page, 4: (N, H, W) in [0, 1], 1/2 at the border, of N photos and the names (N, ...) of what they show."""
        if self.source == "clip":
            score = self.guide(features, names, images)
        elif self.source == "dino":
            score = levelled(self.blind(features), self.guide.cut)
        else:
            blind = self.blind(features)
            score = agreement(on(self.guide(features, names, images), blind.shape[-2:]), blind)
        return class_guide.soft_masks(score, images, self.guide.refine, self.guide.cut)

    def blind(self, features: Features) -> Tensor:
        """(B, 1, h, w) in [0, 1]: what stands out, whatever its class."""
        if self.asks_keys:
            return min_max(self.similarity(features))
        maps = features.maps[: self.taps]
        return min_max(objectness(replace(features, maps=maps), (maps[-2].shape[-2], maps[-2].shape[-1])))

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h', w'), outside training at a quarter of the image's size; extra: ``early`` (B, 2, h, w) logits
        before the filter, ``attention`` (B, 1, h, w), and, outside training, ``pseudo_mask`` (B, H, W) in [0, 1], what the
        name alone says of the query."""
        found = self.answer(self.core, query, support, images)
        if self.training:
            return found
        prior = self.pseudo_masks(query, support["name"][:, 0], images)
        logits = self.drawn(found.logits, prior, images)
        return Prediction(logits, found.extra | {"pseudo_mask": prior})

    def drawn(self, logits: Tensor, prior: Tensor, images: Tensor) -> Tensor:
        """Method page, 9: the logits (B, 2, h, w) of the network joined with the name's mask (B, H, W), along the edges.

        Of a new class a network is less sure than of those it has learnt, and draws it too small or too large: its log odds
        are moved towards the middle of their means inside and outside the name's mask.
        """
        if not (self.prior_weight or self.recentre or self.edges):
            return logits
        odds, believed = (resized(x, quarter(images))[:, 0] for x in (logits[:, 1:] - logits[:, :1], prior[:, None]))
        sides = [(odds * part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1e-5) for part in (believed, 1 - believed)]
        odds = odds - self.recentre * torch.stack(sides).mean(0)[:, None, None]
        odds = torch.lerp(odds, torch.logit(believed.clamp(0.02, 0.98)), self.prior_weight)
        if self.edges:
            odds = along_edges(odds, images)
        return torch.stack([-odds / 2, odds / 2], 1)

    def answer(self, core: nn.Module, query: Features, support: Support, images: Tensor) -> Prediction:
        layers, _ = self.layers(query)
        heads, names = self.heads(layers.flatten(2)), support["name"][:, 0]
        attention = None
        if self.cgm != "none":
            attention = on(self.guide(query, names, images, self.cgm).detach(), layers.shape[-2:])
        shots = []
        for shot in range(support.shots):
            own = {name: tensor[:, shot] for name, tensor in support.tensors.items()}
            biases = {side: own[f"bias{side}"] for side in self.sides}
            shots.append(core(heads, layers, own["tokens"], biases, own["prototype"], attention, self.memory))
        extra = {"early": mean_of([found.early for found in shots])}
        if attention is not None:
            extra["attention"] = attention
        return Prediction(mean_of([found.mask for found in shots]), extra)

    def loss(
        self, episode: Episode, query: Features | None = None, support: Features | None = None
    ) -> dict[str, Tensor]:
        """``main`` and ``aux``, and with ``swap`` the same the other way round; query, support: see :meth:`predict`."""
        query = self.encode(episode.query) if query is None else query
        support = self.encode(episode.support.flatten(0, 1)) if support is None else support
        teaches = self.teacher is not None and self.training and self.teacher.follow(self.core)
        terms = self.losses(episode, query, support, teaches)
        back = _swapped(episode) if self.swap else None
        if back is None:
            return terms
        first = support[slice(None, None, episode.support.shape[1])]
        other = self.losses(back, first, query, teaches)
        return {name: (terms[name] + other[name]) / 2 for name in terms}

    def losses(self, episode: Episode, query: Features, support: Features, teaches: bool) -> dict[str, Tensor]:
        target = query_mask_of(episode)
        encoded = self.encode_support(episode.support, episode.support_mask, support, episode.class_name)
        prediction = self.answer(self.core, query, encoded, episode.query)
        weight = torch.ones(len(target), device=target.device)
        if self.confidence_weight or teaches:
            soft = self.pseudo_masks(query, encoded["name"][:, 0], episode.query)
            weight = confidence(soft) if self.confidence_weight else weight
            if teaches:
                assert self.teacher is not None
                with torch.no_grad():
                    taught = self.answer(self.teacher.network, query, encoded, episode.query)
                shows = (
                    (target == 1).flatten(1).any(1)[:, None, None]
                )  # of a query without the class nothing is corrected
                sure = resize(taught.probability[:, None], target.shape[-2:])[:, 0]
                target = torch.where(shows, relabelled(target, sure, soft), target)
        terms = {"main": weighted_cross_entropy(prediction.logits, target, weight)}
        return terms | {"aux": self.aux * weighted_cross_entropy(prediction.extra["early"], target, weight)}


def _pairs(kernels: str) -> list[tuple[int, ...]]:
    try:
        return [tuple(map(int, branch.split("x"))) for branch in kernels.split()]
    except ValueError:
        raise UsageError(f'kernels {kernels!r}: give branches as "4x3 6x2 3x4"') from None


def _swapped(episode: Episode) -> Episode | None:
    """The episodes with query and first support exchanged; None unless every photo shows its class."""
    masks, own = episode.support_mask, episode.query_mask
    if masks is None or own is None or not bool((own == 1).flatten(1).any(1).all()):
        return None
    return replace(
        episode,
        query=episode.support[:, 0],
        query_mask=masks[:, 0],
        support=episode.query[:, None],
        support_mask=own[:, None],
    )
