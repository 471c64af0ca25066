"""Matching: few-shot segmentation with a frozen encoder and no training.

Six cues a query, each scaled to [0, 1] over the photo, add up to the evidence for the foreground:

    contrast   mean of the 5 best cosines to foreground tokens minus the same to background tokens   (middle and deep level)
    ridge      a linear classifier of the support's tokens in closed form   (all levels together, and the middle one alone)
    border     how unlike the query's own border a token is: a class-agnostic cue for objects         (middle and deep level)

A second ridge classifier, fitted on the query's own most certain tokens, then replaces part of that evidence, because the
object in a photo is more like itself than like any support; a guided filter draws the result along the photo's edges.
The gain of each part is measured in docs/matching.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Prediction, Support
from shotseg.encoders.features import Encoder, Features, unit
from shotseg.errors import UsageError
from shotseg.models import in_context
from shotseg.models.few_shot_model import FewShot
from shotseg.models.nearest import Found, contrast
from shotseg.models.ridge import classify, ridge, ridge_values
from shotseg.priors.guided_filter import along_edges
from shotseg.priors.objectness import border_contrast

BORDERS = {"border_middle": 1, "border_deep": 2}  # the map that each border cue reads
OWN_RIDGE, OWN_SLOPE, OWN_LEVEL = 3.0, 6.0, 0.3  # of the classifier of a photo's own tokens
Spans = dict[str, tuple[Tensor, Tensor]]  # name of a cue -> its lowest and highest value
# Weights of the cues and the level that divides object from background: a logistic regression on folds 1 and 2 of
# pascal_coseg15, rounded; fold 0 shows none of their classes (docs/matching.md).
WEIGHTS = {
    "contrast_middle": 0.7,
    "contrast_deep": 2.7,
    "ridge_all": 1.9,
    "ridge_middle": 2.6,
    "border_middle": 3.1,
    "border_deep": 1.6,
}
LEVEL = 8.6
# The same for three shots and more, fitted on pascal_coseg15 (5 shots), clothing_ccp and coco_panoptic100 (3): the more
# shots, the more the classifiers are worth. Two shots lie half-way. SIZE moves the level by the object's share of its
# photos (a log).
MANY_WEIGHTS = dict(zip(WEIGHTS, (0.6, 3.8, 6.6, 4.9, 0.2, 2.0)))
MANY_LEVEL, MANY_SIZE, TYPICAL_SHARE = 12.3, 0.5, 0.135


class Matching(FewShot):
    """Training-free few-shot segmentation on any encoder (our own method).

    encoder: a frozen encoder; of its maps the last at each of the three coarsest strides is used (of a ViT: the maps at
             one half, three quarters and the whole of its depth).
    size:    the longer side, in pixels, at which photos are encoded.
    ``contrast``, ``ridge``, ``border``, ``self_support``, ``edges``: switch one ingredient off, for ablations.
    ``positions``, ``backward``, ``clusters``: switch one idea of INSID3 on, of a ViT, see
    :mod:`shotseg.models.in_context`. Raises UsageError for another encoder.
    """

    learns = False
    at_once = True

    def __init__(
        self,
        encoder: Encoder,
        size: int = 512,
        contrast: bool = True,
        ridge: bool = True,
        border: bool = True,
        self_support: bool = True,
        edges: bool = True,
        positions: bool = False,
        backward: bool = False,
        clusters: bool = False,
    ):
        super().__init__()
        if (positions or backward or clusters) and len(set(encoder.strides)) > 1:
            raise UsageError(
                f"positions, backward and clusters are of ViTs, {encoder.name} is none; leave them out, or take dinov2-vits14"
            )
        self.encoder = encoder
        self.size = size
        self.levels = coarsest_three(encoder.strides)
        shallow, middle = (encoder.channels[level] for level in self.levels[:2])
        self.middle = slice(shallow, shallow + middle)  # its channels in a hypercolumn
        on = {"contrast": contrast, "ridge": ridge, "border": border}
        self.cues = [cue for cue in WEIGHTS if on[cue.split("_")[0]]]
        self.self_support = self_support
        self.edges = edges
        self.backward, self.clusters = backward, clusters
        self.bases = in_context.position_bases(encoder, self.levels, size) if positions else None

    def encode(self, images: Tensor) -> Features:
        """The three maps that are used of (B, 3, H, W) images in [0, 1]: shallow, middle, deep."""
        features = self.encoder(images)
        maps = [features.maps[i] for i in self.levels]
        if self.bases is not None:
            maps = [in_context.without(basis, level) for basis, level in zip(self.bases, maps)]
        return Features(tuple(maps), tuple(features.strides[i] for i in self.levels))

    def encode_support(
        self, images: Tensor, masks: Tensor, features: Features | None = None, class_names: Sequence[str] | None = None
    ) -> Support:
        """Tokens of the support and the classifiers fitted on them.

        images: (B, K, 3, H, W) in [0, 1].   masks: (B, K, H, W) in {0, 1, 255}.   features: of the B K images, if known.
        """
        batch, shots = masks.shape[:2]
        features = features or self.encode(images.flatten(0, 1))
        masks = masks.flatten(0, 1)[:, None]
        tokens = {}
        for name, x in (("all", hypercolumn(features)), ("deep", unit(features.maps[-1]))):
            grid = (x.shape[-2], x.shape[-1])
            share = {
                "foreground": F.adaptive_avg_pool2d((masks == 1).to(x), grid),
                "background": F.adaptive_avg_pool2d(((masks != 1) & (masks != IGNORE)).to(x), grid),
            }
            tokens[name] = x.flatten(2).mT.contiguous()  # (B K, N, C), laid out as a saved support is
            tokens |= {f"{name}_{side}": s.flatten(1) for side, s in share.items()}  # (B K, N)
        return self._fitted(Support({k: t.unflatten(0, (batch, shots)) for k, t in tokens.items()}))

    def merge(self, supports: list[Support]) -> Support:
        """Several supports of one class as one, its classifiers fitted on all shots."""
        return self._fitted(Support.join(supports)) if len(supports) > 1 else supports[0]

    def _fitted(self, support: Support) -> Support:
        x, fg, bg = (support[k].flatten(1, 2) for k in ("all", "all_foreground", "all_background"))
        middle = x[..., self.middle]
        fitted = {"ridge_all": ridge(x, fg, bg), "ridge_middle": ridge(middle, fg, bg)}  # (B, C + 1) each
        return Support({**support.tensors, **{k: v[:, None] for k, v in fitted.items()}}, support.marks)

    def serving(self, support: Support, batch: int) -> Support:
        """One support for all stays one: the products with its tokens are then made together."""
        return support if len(support["all"]) == 1 else super().serving(support, batch)

    def weights(self, support: Support, cues: Iterable[str] | None = None) -> tuple[dict[str, float], Tensor]:
        """The weight of each cue in use, and the level (B, 1, 1) that divides object from background.

        cues: those in use; None: all that are switched on.
        """
        many = min(1.0, (support["all"].shape[1] - 1) / 2)
        mixed = {cue: (1 - many) * WEIGHTS[cue] + many * MANY_WEIGHTS[cue] for cue in WEIGHTS}
        used = {cue: mixed[cue] for cue in (self.cues if cues is None else cues)}
        level = ((1 - many) * LEVEL + many * MANY_LEVEL) * sum(used.values()) / sum(mixed.values())
        objects, all_of_it = (support[f"all_{side}"].sum((1, 2)) for side in ("foreground", "background"))
        share = (objects / (objects + all_of_it).clamp(min=1e-6)).clamp(min=1e-3)
        return used, (level - many * MANY_SIZE * (share / TYPICAL_SHARE).log())[:, None, None]

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h, w) of the query; a support of batch 1 serves any number of queries.

        query: ``encode(images)``.   images: (B, 3, H, W) in [0, 1], as they were encoded.
        """
        look = self._look(query)
        found = self._self_supported(self._evidence(look, support)[:, None], look)[:, 0]
        evidence = self.along_the_edges(found, images)
        return Prediction(torch.stack([-evidence / 2, evidence / 2], 1))

    def evidence(
        self,
        query: Features,
        supports: Sequence[Support],
        survey: Survey | None = None,
        before: Sequence[Found | None] = (),
    ) -> Tensor:
        """(N, h, w): log odds of each class in one photo, before :meth:`along_the_edges`; what all classes share is made once.

        survey: of the image that the photo is a window of; without it the photo is judged by itself.
        before: of each class the best cosines to shots of it that the photo was compared with; brought up to date.
        """
        if survey is None:
            look = self._look(query)
            known = before or [None] * len(supports)
            found = torch.stack([self._evidence(look, *each) for each in zip(supports, known)], 1)
            return self._self_supported(found, look)[0]
        look = self._look(query, survey.cues)
        pairs = zip(supports, survey.spans)
        weighed = ((s, self._weighed(self._cues(look, s, spans), s, spans)) for s, spans in pairs)
        found = torch.cat([self._in_context(evidence, look, support) for support, evidence in weighed])
        if not self.self_support:
            return found
        own = torch.cat([classify(look.tokens, classifier) for classifier in survey.own]).view_as(found)
        return _joined(found, OWN_SLOPE * (own - OWN_LEVEL))

    def prepare(self, query: Features) -> None:
        for name in BORDERS.keys() & self.cues:
            border(query, name)

    def survey(self, query: Features, supports: Sequence[Support]) -> Survey:
        """What :meth:`evidence` asks of a whole image, which ``query`` stands for: windows of it, one below the other.

        The border cues take no part: a window's border is no background, and in a large image few objects stand out of all of it.
        """
        used = [cue for cue in self.cues if not cue.startswith("border")] or self.cues
        look = self._look(query, used)
        cues = [self._cues(look, support, used) for support in supports]
        spans = [{name: (cue.amin(), cue.amax()) for name, cue in mine.items()} for mine in cues]
        own = []
        for mine, span, support in zip(cues, spans, supports) if self.self_support else ():
            foreground, background = certain(self._weighed(mine, support, span).flatten(1))
            own.append(ridge(look.tokens, foreground, background, OWN_RIDGE))
        return Survey(used, spans, own)

    def along_the_edges(self, evidence: Tensor, images: Tensor) -> Tensor:
        """Log odds (B, h, w) along the edges of the images (B or 1, 3, H, W)."""
        return along_edges(evidence, images, step=2) if self.edges else evidence

    def _look(self, query: Features, used: Sequence[str] | None = None) -> Look:
        tokens = hypercolumn(query).flatten(2).mT
        deep = unit(query.maps[2]).flatten(2).mT
        borders = {name: border(query, name) for name in BORDERS if name in (self.cues if used is None else used)}
        return Look(tokens, deep, borders, query.maps[1].shape[-2:], query.maps[2].shape[-2:])

    def _evidence(self, look: Look, support: Support, before: Found | None = None) -> Tensor:
        """(B, h, w) log odds of a class on the middle grid, by its support alone."""
        return self._in_context(self._weighed(self._cues(look, support, self.cues, before), support), look, support)

    def _in_context(self, evidence: Tensor, look: Look, support: Support) -> Tensor:
        """(B, h, w) log odds after the ideas of INSID3 that are switched on."""
        if self.backward:
            back = in_context.leads_back(look.deep, support).unflatten(1, look.coarse)
            back = resize(back.to(evidence), look.grid) >= 0.5
            evidence = torch.where(back, evidence, evidence.clamp(max=in_context.OUT))
        if self.clusters:
            evidence = in_context.by_group(evidence, look.deep.mT.unflatten(2, look.coarse))
        return evidence

    def _cues(
        self, look: Look, support: Support, used: Iterable[str], before: Found | None = None
    ) -> dict[str, Tensor]:
        """(B, h, w) each: cues on the middle grid, in whatever range they have."""
        middle = look.tokens[..., self.middle]
        made = {
            "contrast_middle": lambda: contrast(middle, support, "all", self.middle, before).unflatten(1, look.grid),
            "contrast_deep": lambda: contrast(look.deep, support, "deep", before=before).unflatten(1, look.coarse),
            "ridge_all": lambda: classify(look.tokens, support["ridge_all"][:, 0]).unflatten(1, look.grid),
            "ridge_middle": lambda: classify(middle, support["ridge_middle"][:, 0]).unflatten(1, look.grid),
        }
        return {cue: look.borders[cue] if cue in look.borders else resize(made[cue](), look.grid) for cue in used}

    def _weighed(self, cues: Mapping[str, Tensor], support: Support, spans: Spans | None = None) -> Tensor:
        """(B, h, w) log odds: the weighted sum of the cues, each in parts of its span; None: of the photo's own."""
        weights, level = self.weights(support, cues)
        scaled = [w * unit_range(cues[cue], None if spans is None else spans[cue]) for cue, w in weights.items()]
        return torch.stack(scaled).sum(0) - level

    def _self_supported(self, evidence: Tensor, look: Look) -> Tensor:
        """(B, N, h, w) log odds of N classes, most of it by the query's own tokens."""
        return _joined(evidence, own_evidence(evidence, look.tokens)) if self.self_support else evidence


@dataclass(frozen=True, eq=False)
class Look:
    """What every class needs of the queries: unit tokens (B, h w, C) of all levels on the middle ``grid``, those of the deepest
    level on its ``coarse`` grid, and the border cues (B, h, w)."""

    tokens: Tensor
    deep: Tensor
    borders: dict[str, Tensor]
    grid: torch.Size
    coarse: torch.Size


@dataclass(frozen=True, eq=False)
class Survey:
    """What decides in every window of an image too large for the network, and is taken of the whole.

    cues: those that take part.   spans: of each class the lowest and highest value of each.
    own: of each class the classifier (1, C + 1) of the image's own tokens, where that is in use.
    """

    cues: list[str]
    spans: list[Spans]
    own: list[Tensor]


def coarsest_three(strides: tuple[int, ...]) -> tuple[int, int, int]:
    """Which maps to use: the last at each of the three coarsest strides; at one stride, three depths."""
    last = sorted({stride: i for i, stride in enumerate(strides)}.values())[-3:]
    if len(last) < 3:
        n = len(strides)
        last = [max(0, -(-n * part // 4) - 1) for part in (2, 3, 4)]
    return last[0], last[1], last[2]


def hypercolumn(features: Features) -> Tensor:
    """(B, C, h, w): the three levels, each of unit length, on the middle level's grid."""
    grid = features.maps[1].shape[-2:]
    levels = (level.contiguous(memory_format=torch.channels_last) for level in features.maps)  # resized far faster so
    return torch.cat([unit(resize(level, grid)) for level in levels], 1)


def border(features: Features, name: str) -> Tensor:
    """(B, h, w): one of the ``BORDERS``, on the middle level's grid."""
    level, grid = features.maps[BORDERS[name]], features.maps[1].shape[-2:]
    return features.once(name, lambda: resize(border_contrast(level), grid))


def own_evidence(evidence: Tensor, tokens: Tensor) -> Tensor:
    """(B, N, h, w): evidence for N classes by a classifier of the query's own tokens (B, h w, C) that are already certain."""
    foreground, background = certain(evidence.flatten(2))
    return OWN_SLOPE * (ridge_values(tokens, foreground, background, OWN_RIDGE) - OWN_LEVEL).view_as(evidence)


def certain(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the tokens that are surely foreground and surely background, of log odds (..., M)."""
    p = torch.sigmoid(1.5 * evidence)
    foreground = p * (p >= 0.6 * p.amax(-1, keepdim=True))
    return foreground, (1 - p) * (p < p.amin(-1, keepdim=True).clamp(min=0.4))


def _joined(evidence: Tensor, own: Tensor) -> Tensor:
    """Log odds by the support and by the photo's own tokens, together."""
    return 0.3 * evidence + 0.7 * own


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear; (B, h, w) or (B, C, h, w)."""
    if x.shape[-2:] == tuple(size):
        return x
    if x.dim() == 3:
        return F.interpolate(x[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def unit_range(x: Tensor, span: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Each (h, w) map of a batch scaled to [0, 1]; with a span, so that this becomes [0, 1]."""
    low, high = span or (x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True))
    return (x - low) / (high - low).clamp(min=1e-6)
