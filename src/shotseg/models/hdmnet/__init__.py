"""HDMNet: Hierarchical Dense Correlation Distillation for few-shot segmentation (Peng et al., CVPR 2023, arXiv 2303.14652)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.base_learner import BaseHead, WithBase
from shotseg.models.blocks.ensemble import Ensemble, gram
from shotseg.models.blocks.prior_guided import Grid, Taps, project, resize
from shotseg.models.hdmnet.transformer import LEVELS, MixTransformer, bilinear
from shotseg.priors.visual import masked_average, max_cosine


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
        embedding = self.embedding(taps)
        if priors is None:
            priors = self.own_priors(taps, support, embedding)
        priors = resize(priors, x.shape[-2:])
        x = self.query_merge(torch.cat([x, prototype.expand_as(x), priors * self.prior_scale], 1))  # (B, tokens, h, w)

        # hierarchical matching (sections 3.2 to 3.4)
        levels = [(support[f"tokens{i}"], support[f"inside{i}"]) for i in range(LEVELS)]
        share = self.ensemble.shots / weights.shape[1]  # as many shots as it was trained with count in all
        decoded = self.transformer.decode(self.transformer.levels(x), levels, priors, share)
        out = self.answer(decoded.logits, embedding, psi, class_id, images)  # BAM's ensemble
        extra = {"prior": priors, "weights": weights, "tokens": x, "fused": decoded.fused}
        extra |= {f"correlation{i}": c for i, c in enumerate(decoded.correlations)}
        return Prediction(out.logits, out.extra | extra)

    def own_priors(self, taps: Taps, support: Support, embedding: Tensor | None = None) -> Tensor:
        """(B, P, h', w') in [0, 1]: mean over the shots of the masked max-cosine, one channel an embedding; the base learner's
        may be given."""
        embedding = self.embedding(taps) if embedding is None else embedding
        sources = [taps.high] if embedding is None else [embedding, taps.high]
        names = ["high"] if embedding is None else ["embedding", "high"]
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
        teacher = bilinear(filled, (height, width)).flatten(1).softmax(1)
    terms = []
    for i, student in enumerate(correlations):
        if i:
            teacher = bilinear(correlations[i - 1].detach()[:, None], student.shape[-2:]).flatten(1).softmax(1)
        terms.append(_divergence(teacher, student.flatten(1).softmax(1)))
    return torch.stack(terms).mean()


def _divergence(teacher: Tensor, student: Tensor, eps: float = 1e-12) -> Tensor:
    """KL(teacher || student) of (B, N) distributions, mean over the images."""
    return (teacher * ((teacher + eps).log() - (student + eps).log())).sum(1).mean()
