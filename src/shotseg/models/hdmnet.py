"""HDMNet: Hierarchical Dense Correlation Distillation for few-shot segmentation (Peng et al., CVPR 2023, arXiv 2303.14652)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.base_learner import BaseHead, WithBase
from shotseg.models.blocks.ensemble import Ensemble, gram
from shotseg.models.blocks.norm import BatchNorm
from shotseg.models.blocks.prior_guided import Grid, Taps, project, resize
from shotseg.priors.visual import masked_average, max_cosine

LEVELS = 3


class HDMNet(WithBase):
    """Query and support meet in a pyramid of transformers; each level's correlation learns from the coarser one.

    base_classes, base, shots, vote_hidden, base_loss, base_dropout: as in :class:`shotseg.models.bam.BAM`.
    width, tokens:  channels after the projection, and in the transformer.
    prior_maps:     number of prior channels (its own are two, or one without a base learner: the max-cosine on the base
                    learner's embedding, and on layer 4).
    prior_scale:    what the priors are multiplied with where they join the query tokens.
    restore_order, train_vote: see :class:`Ensemble`.
    frozen_bn:      the decoder's batch norms stay at mean 0 and variance 1, as in the release.
    distill_target: "area": the coarsest correlation learns the share of foreground of each cell; "filled": only cells that are
                    foreground all over, by a -1e9 fill, as in the release.
    keep_small:     see :class:`PriorGuided`.
    reference:      the release in everything.
    """

    geometry = "squash"
    masks_input = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        base_classes: Sequence[int] = (),
        base: BaseHead | None = None,
        shots: int = 1,
        vote_hidden: int = 2,
        size: int = 473,
        width: int = 256,
        tokens: int = 64,
        prior_maps: int | None = None,
        prior_scale: float = 10.0,
        grid: Grid = "auto",
        base_loss: bool = False,
        base_dropout: bool = False,
        restore_order: bool = True,
        train_vote: bool = True,
        frozen_bn: bool = False,
        distill_target: Literal["area", "filled"] = "area",
        keep_small: bool = True,
        reference: bool = False,
    ):
        if reference:
            keep_small = False
            grid, base_loss, base_dropout, restore_order, train_vote = "layer3", True, True, False, False
            frozen_bn, distill_target = True, "filled"
        super().__init__(encoder, size, grid, keep_small)
        self.prior_scale, self.frozen_bn, self.distill_target = prior_scale, frozen_bn, distill_target
        prior_maps = prior_maps or 1 + bool(base_classes)
        self.down_query = project(self.mid_channels, width)
        self.down_support = project(self.mid_channels, width)
        self.query_merge = nn.Sequential(nn.Conv2d(2 * width + prior_maps, tokens, 1, bias=False), nn.ReLU())
        self.support_merge = nn.Sequential(nn.Conv2d(2 * width, tokens, 1, bias=False), nn.ReLU())
        self.transformer = MixTransformer(tokens, prior_maps)
        self.fused_channels = tokens
        ensemble = Ensemble(base_classes, shots, vote_hidden, restore_order, train_vote)
        self.carry(ensemble, base, base_loss, base_dropout)

    def forward(
        self,
        query: Features,
        support: Support,
        images: Tensor,
        priors: Tensor | None = None,
        class_id: Tensor | None = None,
        **context: Any,
    ) -> Prediction:
        """query: features of B images; images (B, 3, H, W) only for their size; priors (B, P, h', w') in place of its own.

        Logits (B, 2, H, W); extra: ``meta`` (B, 2, h, w), ``prior`` (B, P, h, w), ``correlation0..2`` (B, h_i, w_i) coarse to
        fine, ``psi`` (B, 1), ``weights`` (B, K), and with a base learner ``base`` and ``base_map``.
        """
        taps = self.taps(query)
        psi, weights = self.scene(taps.low, support)

        # query tokens: features, mean prototype, priors
        x = self.down_query(taps.mid)  # (B, width, h, w)
        prototype = support["prototype"].mean(1)[..., None, None]
        if priors is None:
            priors = self.own_priors(taps, support)
        priors = resize(priors, x.shape[-2:])
        x = self.query_merge(torch.cat([x, prototype.expand_as(x), priors * self.prior_scale], 1))  # (B, tokens, h, w)

        # hierarchical matching (sections 3.2 to 3.4)
        levels = [(support[f"tokens{i}"], support[f"inside{i}"]) for i in range(LEVELS)]
        decoded = self.transformer.decode(self.transformer.levels(x), levels, priors)
        out = self.answer(decoded.logits, taps, psi, class_id, images)  # BAM's ensemble
        extra = {"prior": priors, "weights": weights, "tokens": x, "fused": decoded.fused}
        extra |= {f"correlation{i}": c for i, c in enumerate(decoded.correlations)}
        return Prediction(out.logits, out.extra | extra)

    def own_priors(self, taps: Taps, support: Support) -> Tensor:
        """(B, P, h', w') in [0, 1]: mean over the shots of the masked max-cosine, one channel an embedding."""
        sources = [taps.high] if self.base is None else [self.base.embedding(taps.high), taps.high]
        names = ["high"] if self.base is None else ["embedding", "high"]
        maps = []
        for source, name in zip(sources, names):
            shots = support[name].shape[1]
            every = source[:, None].expand(-1, shots, -1, -1, -1).flatten(0, 1)
            maps.append(max_cosine(every, support[name].flatten(0, 1)).view(-1, shots, *source.shape[-2:]).mean(1))
        return torch.stack(maps, 1)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
        masked: Features | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) in {0, 1, 255} -> ``prototype`` (B, K, width), ``gram`` (B, K, C2, C2),
        ``tokens0..2`` (B, K, tokens, h_i, w_i) and ``inside0..2`` (B, K, h_i, w_i) fine to coarse, and ``high`` and
        ``embedding`` for its own priors.

        All of it comes from the masked image; ``features``, of the whole image, are not read. Features kept from
        :meth:`encode_masked` can be given as ``masked``.
        """
        shape = masks.shape[:2]
        masked = self.encode_masked(images, masks) if masked is None else masked
        taps, masks = self.taps(masked), masks.flatten(0, 1)[:, None]
        x = self.down_support(taps.mid)  # (B K, width, h, w)
        prototype = masked_average(x, self.inside(masks, x.shape[-2:]))
        x = self.support_merge(torch.cat([x, prototype.expand_as(x)], 1))
        tensors = {"prototype": prototype.flatten(1), "gram": gram(taps.low)}
        for i, level in enumerate(self.transformer.levels(x)):
            tensors[f"tokens{i}"] = level
            tensors[f"inside{i}"] = self.inside(masks, level.shape[-2:], "nearest")[:, 0]
        tensors["high"] = taps.high * self.inside(masks, taps.high.shape[-2:], "nearest")
        if self.base is not None:
            tensors["embedding"] = self.base.embedding(taps.high) * self.inside(masks, taps.high.shape[-2:], "nearest")
        return Support({name: tensor.unflatten(0, shape) for name, tensor in tensors.items()})

    def encode_masked(self, images: Tensor, masks: Tensor) -> Features:
        """Features of the B K support images (B, K, 3, H, W) with everything but the object at the encoder's mean colour."""
        inside = (masks == 1).flatten(0, 1)[:, None]
        return self.encode(torch.where(inside, images.flatten(0, 1), self.encoder.mean))

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """As BAM's, and ``distill``."""
        correlations = [prediction.extra[f"correlation{i}"] for i in range(LEVELS)]
        terms = super().losses(prediction, target, base_labels)
        return terms | {"distill": distillation(correlations, target, self.distill_target)}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen_bn:
            for module in self.transformer.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def distillation(
    correlations: Sequence[Tensor], target: Tensor, coarsest: Literal["area", "filled"] = "area"
) -> Tensor:
    """Correlation distillation (section 3.4): each level learns where the next coarser one looks, the coarsest the mask.

    correlations: (B, h_i, w_i) coarse to fine; target (B, H, W) in {0, 1, 255}. Mean over the levels of
    KL(teacher || student) between softmax distributions over positions. "area" leaves out an image without foreground.
    """
    mask = (target == 1).float()[:, None]
    height, width = correlations[0].shape[-2:]
    share = F.adaptive_avg_pool2d(mask, (height, width)).flatten(1)  # (B, h_0 w_0)
    if coarsest == "area":
        teacher = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    else:
        filled = torch.where(mask == 1, 1.0, -1e9)
        teacher = _bilinear(filled, (height, width)).flatten(1).softmax(1)
    terms = []
    for i, student in enumerate(correlations):
        if i:
            teacher = _bilinear(correlations[i - 1].detach()[:, None], student.shape[-2:]).flatten(1).softmax(1)
        terms.append(_divergence(teacher, student.flatten(1).softmax(1)))
    return torch.stack(terms).mean()


def _divergence(teacher: Tensor, student: Tensor, eps: float = 1e-12) -> Tensor:
    """KL(teacher || student) of (B, N) distributions, mean over the images."""
    return (teacher * ((teacher + eps).log() - (student + eps).log())).sum(1).mean()


def _bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


# The transformer: three levels, coarse to fine; the letters of a level are B images, C channels, h x w cells.


class Decoded(NamedTuple):
    logits: Tensor  # (B, 2, h, w) at the finest level
    correlations: tuple[Tensor, ...]  # (B, h_i, w_i), coarse to fine
    matches: tuple[Tensor, ...]  # (B, C, h_i, w_i), fine to coarse, before and ...
    joined: tuple[Tensor, ...]  # ... after the priors join
    fused: Tensor  # (B, C, h, w) at the finest level, of all


class MixTransformer(nn.Module):
    """Down: self-attention levels, the same for query and support. Across: matching. Up: convolutions to two classes."""

    def __init__(self, channels: int = 64, prior_maps: int = 2):
        super().__init__()
        heads, reductions = (2, 4, 8), (4, 2, 1)
        self.down = nn.ModuleList(Level(channels, i, heads[i], reductions[i]) for i in range(LEVELS))
        self.match = nn.ModuleList(MatchBlock(channels) for _ in range(LEVELS))
        self.fuse = nn.ModuleList(Fuse(channels + prior_maps, channels) for _ in range(LEVELS))
        self.parse = nn.ModuleList(_convolutions(channels, channels, last_norm=True) for _ in range(LEVELS))
        self.cls = _convolutions(channels, 2)

    def levels(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> its tokens as maps, fine to coarse: (B, C, h_i, w_i), sides halved (upwards) level by level."""
        maps = []
        for level in self.down:
            x = level(x)
            maps.append(x)
        return maps

    def decode(self, query: Sequence[Tensor], support: Sequence[tuple[Tensor, Tensor]], priors: Tensor) -> Decoded:
        """query: levels (B, C, h_i, w_i). support: levels of tokens (B, K, C, h_i, w_i) and inside (B, K, h_i, w_i) in {0, 1}."""
        matched = [block(q, *s) for block, q, s in zip(self.match, query, support)]
        joined = [
            fuse(torch.cat([match, resize(priors, match.shape[-2:])], 1))
            for fuse, (match, _) in zip(self.fuse, matched)
        ]
        out = self.parse[-1](joined[-1])
        for parse, f in zip(reversed(self.parse[:-1]), reversed(joined[:-1])):
            up = _bilinear(out, f.shape[-2:])
            out = up + parse(f + up)
        correlations = tuple(correlation for _, correlation in reversed(matched))
        return Decoded(self.cls(out), correlations, tuple(match for match, _ in matched), tuple(joined), out)


class Level(nn.Module):
    """Patch embedding (1x1, or 3x3 with stride 2 below the first level), two encoder blocks, LayerNorm."""

    def __init__(self, channels: int, index: int, heads: int, reduction: int):
        super().__init__()
        kernel, stride = (3, 2) if index else (1, 1)
        self.project = nn.Conv2d(channels, channels, kernel, stride, kernel // 2)
        self.embed_norm = _norm(channels)
        self.blocks = nn.ModuleList(EncoderBlock(channels, heads, reduction) for _ in range(2))
        self.norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        size, x = x.shape[-2:], self.embed_norm(_tokens(x))
        for block in self.blocks:
            x = block(x, size)
        return _map(self.norm(x), size)


class EncoderBlock(nn.Module):
    """x + attention(LN x), then x + FFN(LN x); keys and values at a reduced resolution (SegFormer, PVT)."""

    def __init__(self, channels: int, heads: int, reduction: int):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.attention = Projections(channels, heads)
        self.reduction = reduction
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = _norm(channels)
        self.ffn = MixFFN(channels)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, h w, C) -> the same."""
        y = self.norm1(x)
        q, k, v = self.attention(y, self.reduced(y, size) if self.reduction > 1 else y)
        x = x + self.attention.join(F.scaled_dot_product_attention(q, k, v))
        return x + self.ffn(self.norm2(x), size)

    def reduced(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        missing = [max(0, self.reduction - side) for side in size]  # of a map smaller than one patch
        padded = F.pad(_map(tokens, size), (0, missing[1], 0, missing[0]))
        return self.reduce_norm(_tokens(self.reduce(padded)))


class MatchBlock(nn.Module):
    """Cross attention from query to support by cosine, softmax over the *query* positions (section 3.2).

    Each support position spreads its value over the query. As the positions do so on their own, those of the background
    are left out before the product instead of being zeroed after it, which is the same. A softmax over the queries is
    what ``scaled_dot_product_attention`` does not have.
    """

    temperature = 0.1

    def __init__(self, channels: int, heads: int = 2):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.attention = Projections(channels, heads)
        self.ffn = MixFFN(channels)

    def forward(self, query: Tensor, support: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """query (B, C, h, w), support (B, K, C, h', w'), inside (B, K, h', w') in {0, 1} -> the match (B, C, h, w) and the
        correlation (B, h, w)."""
        size, x = query.shape[-2:], _tokens(query)
        known, weight = _foreground_first(support.flatten(3).transpose(2, 3).flatten(1, 2), inside.flatten(1))
        q, k, v = self.attention(self.norm1(x), self.norm1(known))
        q, k = F.normalize(q, dim=-1) / self.temperature, F.normalize(k, dim=-1)
        column = weight[:, None, :, None]  # (B, 1, M, 1)
        x = x + self.attention.join((q @ k.mT).softmax(-2) @ (v * column))
        x = x + self.ffn(self.norm2(x), size)
        centre = (k * column).sum(-2, keepdim=True) / (column.sum(-2, keepdim=True) + 1e-9)  # (B, heads, 1, C / heads)
        correlation = (q * centre).sum(-1).mean(1)  # (B, N), the mean score
        return _map(x, size), correlation.unflatten(1, size)


class Projections(nn.Module):
    """Bias-free query, key, value and output projections of multi-head attention."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(0.1)

    def forward(self, query: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) and (B, M, C) -> (B, heads, N or M, C / heads), three times."""
        q, k, v = self.query(query), self.key(source), self.value(source)
        return self._split(q), self._split(k), self._split(v)

    def join(self, heads: Tensor) -> Tensor:
        """(B, heads, N, C / heads) -> (B, N, C)."""
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """1x1, depth-wise 3x3, GELU, 1x1 on the map of the tokens (SegFormer)."""

    def __init__(self, channels: int, expansion: int = 4, dropout: float = 0.1):
        super().__init__()
        hidden = channels * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, channels, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return _tokens(self.layers(_map(x, size)))


class Fuse(nn.Sequential):
    """3x3 conv, batch norm, ReLU: where the priors join a match."""

    def __init__(self, channels: int, out: int):
        conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        super().__init__(conv, BatchNorm(out), nn.ReLU())


def _convolutions(channels: int, out: int, hidden: int = 256, last_norm: bool = False) -> nn.Sequential:
    """1x1, BN, 3x3, BN, 1x1, with no activation between (as published); with ``last_norm`` BN and ReLU follow."""
    layers = [nn.Conv2d(channels, hidden, 1), BatchNorm(hidden)]
    layers += [nn.Conv2d(hidden, hidden, 3, padding=1), BatchNorm(hidden), nn.Conv2d(hidden, out, 1)]
    return nn.Sequential(*layers, *([BatchNorm(out), nn.ReLU()] if last_norm else []))


def _foreground_first(tokens: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M, C), (B, M) -> the same with only as many tokens as the object that has most; background fills the rest."""
    if torch.compiler.is_compiling():  # an exported graph keeps fixed shapes
        return tokens, inside
    kept = max(1, int(inside.sum(1).max()))
    order = inside.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])), inside.gather(1, order)


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def _map(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, tuple(size))
