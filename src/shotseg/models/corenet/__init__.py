"""CORENet, a reconstruction: weakly-supervised few-shot segmentation with correlation, CLIP and noisy masks.

The paper (arXiv 2405.19638; Knowledge-Based Systems 2024) has no public code, and its body could not be read: its parts and their
order are the paper's, their inside is ours, made of the published methods that it builds on. No number of this model is the
paper's. docs/methods/corenet.md says element by element which is which.

Symbols, with the section of that page; t are patch tokens of a frozen encoder, all layers, every head of unit length:

    m   the support's mask in [0, 1], given or made of photo and class name            :meth:`pseudo_masks`, 4
    p   prototype: the mean of t_s inside m                                            :meth:`global_tokens`, 5.2
    g   global tokens: the support's class token, p, the means of background cells     :meth:`global_tokens`, 5.2
    F   = CGT(<t_q, [g, t_s]>, log m), a vector for every query place                  :mod:`.kernel_fusion`, 5.3, 5.4
    A   attention: where in the query the class's name says that it is, in [0, 1]      :mod:`.class_guide`, 6.1 to 6.3
    F'  = F filtered by A                          (CGM)                               :mod:`.class_filter`, 6.4
    F'' = F' beside the look of t_q and p          (EGM)                               :mod:`.appearance`, 7
    y   = mask head(F''), two logits for every query place                             :class:`Core`
    loss: cross entropy of y and of a linear map of F, with masks that err             :mod:`.noisy_labels`, 8
    answer: y of all shots, joined with the name's own mask of the query               :meth:`with_name`, 9
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
from shotseg.models.corenet.kernel_fusion import (
    BACKGROUND,
    CLASS,
    FOREGROUND,
    CorrelationGuidedTransformer,
    Fusion,
    ReadOut,
    averaged_to,
)
from shotseg.models.corenet.noisy_labels import Teacher, confidence, relabelled, weighted_cross_entropy
from shotseg.models.corenet.voronoi import cells
from shotseg.priors.generators import agreement, levelled, objectness, quarter, resized
from shotseg.priors.guided_filter import along_edges
from shotseg.priors.visual import min_max

Attention = Literal["none", "coarse", "fine"]
Source = Literal["auto", "dino", "clip", "fused"]


class Logits(NamedTuple):
    mask: Tensor  # (B, 2, 2h, 2w): y
    early: Tensor  # (B, 2, h, w), of the features before the class filter


class Core(nn.Module):
    """All that is trained, for one shot: F, F', F'' and y in turn."""

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
    ) -> Logits:
        """t_q and [g, t_s] by heads (B, C, d, h w) and (B, C, d, G + s s); layers: t_q as maps (B, D, h, w); biases: log m by
        side; prototype (B, D); attention (B, 1, h, w), or None without a filter; memory: bytes."""
        features = self.transformer(query, support, biases, layers.shape[-2:], memory)
        early = self.early(features)
        if self.filter is not None:
            assert attention is not None
            features = self.filter(features, attention)
        if self.appearance is not None:
            features = self.appearance(features, layers, prototype)
        return Logits(self.mask(features), early)


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
        self.tokens = (CLASS, FOREGROUND, *[BACKGROUND] * cells) if global_tokens else (CLASS,)
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
        shape, photos = images.shape[:2], images.flatten(0, 1)
        features = self.encode(photos) if features is None else features
        names = self.guide.vectors(class_names).repeat_interleave(shape[1], 0)
        soft = self.pseudo_masks(features, names, photos) if masks is None else shown(masks.flatten(0, 1))
        maps, class_tokens = self.layers(features)
        prototype, global_tokens = self.global_tokens(maps, class_tokens, soft)
        tensors = {
            "tokens": self.heads(torch.cat([global_tokens, patches(maps, self.side)], 2)),
            "prototype": prototype,
            "name": names,
        }
        for side in self.sides:
            bias = bias_of(soft if self.soft_mask else (soft > 0.5).float(), side, self.soft_mask)
            tensors[f"bias{side}"] = F.pad(bias, (len(self.tokens), 0))  # global tokens are never hidden
        return Support({name: tensor.unflatten(0, shape) for name, tensor in tensors.items()})

    def global_tokens(self, maps: Tensor, class_tokens: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """Method page, 5.2: p = sum(m t) / (sum(m) + 1e-5) (N, D) and g = [class token, p, background cells] (N, D, G).

        maps (N, D, h, w); class_tokens (N, D); soft: m (N, H, W) in [0, 1], cut at 1/2 for the cells.
        """
        m = averaged_to(soft[:, None], maps.shape[-2:])
        prototype = (maps * m).sum((2, 3)) / (m.sum((2, 3)) + 1e-5)
        if len(self.tokens) == 1:
            return prototype, class_tokens[..., None]
        foreground = F.interpolate(soft[:, None], maps.shape[-2:], mode="nearest")[:, 0] > 0.5
        background_places = (~foreground).flatten(1).sum(1).clamp(min=1)
        first_centre = torch.zeros_like(background_places)
        if self.training:
            first_centre = (torch.rand(len(foreground), device=maps.device) * background_places).long()
        background = maps.flatten(2) @ cells(foreground, len(self.tokens) - 2, first_centre)
        return prototype, torch.cat([class_tokens[..., None], prototype[..., None], background], 2)

    @torch.no_grad()
    def pseudo_masks(self, features: Features, names: Tensor, images: Tensor) -> Tensor:
        """Method page, 4: m (N, H, W) in [0, 1], 1/2 at the border, of N photos and the names (N, ...) of what they show.

        Of the name's attention a and of what stands out d: "clip" a, "dino" d, "fused" a^(2/3) d^(1/3).
        """
        if self.source == "clip":
            score = self.guide(features, names, images)
        elif self.source == "dino":
            score = levelled(self.saliency(features), self.guide.cut)
        else:
            d = self.saliency(features)
            score = agreement(averaged_to(self.guide(features, names, images), d.shape[-2:]), d)
        return class_guide.soft_masks(score, images, self.guide.refine, self.guide.cut)

    def saliency(self, features: Features) -> Tensor:
        """d (B, 1, h, w) in [0, 1]: what stands out, whatever its class."""
        if self.asks_keys:
            return min_max(self.similarity(features))
        maps = features.maps[: self.taps]
        return min_max(objectness(replace(features, maps=maps), (maps[-2].shape[-2], maps[-2].shape[-1])))

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h', w'), outside training at a quarter of the image's size; extra: ``early`` (B, 2, h, w) logits
        before the filter, ``attention`` (B, 1, h, w), and, outside training, ``pseudo_mask`` (B, H, W) in [0, 1], what the
        name alone says of the query."""
        prediction = self.mean_of_shots(self.core, query, support, images)
        if self.training:
            return prediction
        name_mask = self.pseudo_masks(query, support["name"][:, 0], images)
        logits = self.with_name(prediction.logits, name_mask, images)
        return Prediction(logits, prediction.extra | {"pseudo_mask": name_mask})

    def mean_of_shots(self, core: nn.Module, query: Features, support: Support, images: Tensor) -> Prediction:
        """y (B, 2, 2h, 2w), the mean over shots of what ``core`` (the network or its teacher) answers; extra: see forward."""
        layers, _ = self.layers(query)
        heads, names = self.heads(layers.flatten(2)), support["name"][:, 0]
        attention = None
        if self.cgm != "none":
            attention = averaged_to(self.guide(query, names, images, self.cgm).detach(), layers.shape[-2:])
        shots: list[Logits] = []
        for k in range(support.shots):
            shot = {name: tensor[:, k] for name, tensor in support.tensors.items()}
            biases = {side: shot[f"bias{side}"] for side in self.sides}
            shots.append(core(heads, layers, shot["tokens"], biases, shot["prototype"], attention, self.memory))
        extra = {"early": mean_of([shot.early for shot in shots])}
        if attention is not None:
            extra["attention"] = attention
        return Prediction(mean_of([shot.mask for shot in shots]), extra)

    def with_name(self, logits: Tensor, name_mask: Tensor, images: Tensor) -> Tensor:
        """Method page, 9: the network's logits (B, 2, h, w) joined with the name's mask n (B, H, W) -> (B, 2, H / 4, W / 4).

        With z the log odds of the object, mean_n their mean weighted by n, and w ``prior_weight``:

            z <- z - recentre (mean_n(z) + mean_(1-n)(z)) / 2        z <- (1 - w) z + w logit(n)        z <- z along the edges

        Of a new class a network is less sure than of those it has learnt, and draws it too small or too large: the first step
        moves its log odds towards the middle of their means inside and outside the name's mask.
        """
        if not (self.prior_weight or self.recentre or self.edges):
            return logits
        z, n = (resized(x, quarter(images))[:, 0] for x in (logits[:, 1:] - logits[:, :1], name_mask[:, None]))
        means = [(z * part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1e-5) for part in (n, 1 - n)]
        z = z - self.recentre * torch.stack(means).mean(0)[:, None, None]
        z = torch.lerp(z, torch.logit(n.clamp(0.02, 0.98)), self.prior_weight)
        if self.edges:
            z = along_edges(z, images)
        return torch.stack([-z / 2, z / 2], 1)

    def loss(
        self, episode: Episode, query: Features | None = None, support: Features | None = None
    ) -> dict[str, Tensor]:
        """``main`` and ``aux``, and with ``swap`` the same the other way round; query, support: see :meth:`predict`."""
        query = self.encode(episode.query) if query is None else query
        support = self.encode(episode.support.flatten(0, 1)) if support is None else support
        teaches = self.teacher is not None and self.training and self.teacher.follow(self.core)
        terms = self.losses(episode, query, support, teaches)
        swapped = _swapped(episode) if self.swap else None
        if swapped is None:
            return terms
        first_shots = support[slice(None, None, episode.support.shape[1])]
        swapped_terms = self.losses(swapped, first_shots, query, teaches)
        return {name: (terms[name] + swapped_terms[name]) / 2 for name in terms}

    def losses(self, episode: Episode, query: Features, support: Features, teaches: bool) -> dict[str, Tensor]:
        """Method page, 8: ``main`` and ``aux`` of one direction; teaches: the teacher corrects the query's mask first."""
        target = query_mask_of(episode)
        encoded = self.encode_support(episode.support, episode.support_mask, support, episode.class_name)
        prediction = self.mean_of_shots(self.core, query, encoded, episode.query)
        weight = torch.ones(len(target), device=target.device)
        if self.confidence_weight or teaches:
            soft = self.pseudo_masks(query, encoded["name"][:, 0], episode.query)
            weight = confidence(soft) if self.confidence_weight else weight
            target = self.corrected(target, soft, query, encoded, episode.query) if teaches else target
        main = weighted_cross_entropy(prediction.logits, target, weight)
        return {"main": main, "aux": self.aux * weighted_cross_entropy(prediction.extra["early"], target, weight)}

    @torch.no_grad()
    def corrected(self, target: Tensor, soft: Tensor, query: Features, support: Support, images: Tensor) -> Tensor:
        """target (B, H, W) in {0, 1, 255} by the teacher and the soft mask (B, H, W); of a query that does not show the class
        nothing is corrected."""
        assert self.teacher is not None
        probability = self.mean_of_shots(self.teacher.network, query, support, images).probability
        probability = resize(probability[:, None], target.shape[-2:])[:, 0]
        shows = (target == 1).flatten(1).any(1)[:, None, None]
        return torch.where(shows, relabelled(target, probability, soft), target)


def _pairs(kernels: str) -> list[tuple[int, ...]]:
    try:
        return [tuple(map(int, branch.split("x"))) for branch in kernels.split()]
    except ValueError:
        raise UsageError(f'kernels {kernels!r}: give branches as "4x3 6x2 3x4"') from None


def _swapped(episode: Episode) -> Episode | None:
    """The episodes with query and first support exchanged; None unless every photo shows its class."""
    support_mask, query_mask = episode.support_mask, episode.query_mask
    if support_mask is None or query_mask is None or not bool((query_mask == 1).flatten(1).any(1).all()):
        return None
    return replace(
        episode,
        query=episode.support[:, 0],
        query_mask=support_mask[:, 0],
        support=episode.query[:, None],
        support_mask=query_mask[:, None],
    )
