"""BAM: Learning What Not to Segment (Lang et al., CVPR 2022, arXiv 2203.07615)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.base_learner import BaseHead, WithBase
from shotseg.models.blocks.ensemble import Ensemble, gram
from shotseg.models.blocks.prior_guided import (
    Grid,
    Taps,
    classifier,
    project,
    residual,
    resize,
    shot_priors,
)
from shotseg.priors.visual import masked_average


class BAM(WithBase):
    """A meta learner finds the class of the supports; a frozen base learner says where the known classes are.

    base_classes: original ids of the base classes; () leaves out the base learner, and the meta learner's answer is final.
    base:         a trained :class:`BaseHead`; None makes one with random weights, to be loaded.
    shots:        K of the training (see :class:`Ensemble`, also for ``vote_hidden`` and ``train_vote``).
    width:        channels of the head.               prior_maps: as in PFENet.
    base_loss:    add the base learner's cross entropy, which has no trainable input, where ``loss`` is given base labels.
    base_dropout: the frozen base learner's dropout stays active in training, as in the release.
    flat:         as in PFENet.
    keep_small:   see :class:`PriorGuided`.
    reference:    the release in everything (``base_loss``, ``base_dropout``, ``flat=0``, layer 3's grid).
    """

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
        prior_maps: int = 1,
        grid: Grid = "auto",
        base_loss: bool = False,
        base_dropout: bool = False,
        flat: float = 1e-6,
        keep_small: bool = True,
        reference: bool = False,
    ):
        if reference:
            keep_small = False
            grid, base_loss, base_dropout, flat = "layer3", True, True, 0.0
        super().__init__(encoder, size, grid, keep_small)
        self.flat = flat
        self.down_query = project(self.mid_channels, width)
        self.down_support = project(self.mid_channels, width)
        self.init_merge = nn.Sequential(nn.Conv2d(2 * width + prior_maps, width, 1, bias=False), nn.ReLU())
        self.aspp = ASPP(width)
        self.res1 = nn.Sequential(nn.Conv2d(5 * width, width, 1, bias=False), nn.ReLU())
        self.res2 = residual(width)
        self.cls = classifier(width)
        self.carry(Ensemble(base_classes, shots, vote_hidden), base, base_loss, base_dropout)

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

        Logits (B, 2, H, W); extra: ``meta`` (B, 2, h, w), ``prior``, ``psi`` (B, 1), ``weights`` (B, K), and with a base
        learner ``base`` (B, N + 1, h', w') and ``base_map`` (B, 1, h, w).
        """
        taps = self.taps(query)
        psi, weights = self.scene(taps.low, support)

        # meta learner (section 3.3)
        x = self.down_query(taps.mid)  # (B, width, h, w)
        prototype = (weights[..., None] * support["prototype"]).sum(1)[..., None, None]
        if priors is None:
            priors = self.own_priors(taps, support)
        priors = resize(priors, x.shape[-2:])
        merged = self.init_merge(torch.cat([x, prototype.expand_as(x), priors], 1))
        y = self.res1(self.aspp(merged))
        y = y + self.res2(y)
        meta = self.cls(y)  # (B, 2, h, w)

        # base learner and ensemble (sections 3.2 and 3.4)
        out = self.answer(meta, self.embedding(taps), psi, class_id, images)
        extra = {"prior": priors, "prototype": prototype, "weights": weights, "merged": merged}
        return Prediction(out.logits, out.extra | extra)

    def own_priors(self, taps: Taps, support: Support) -> Tensor:
        """(B, 1, h', w') in [0, 1]: the max-cosine to each shot on layer 4, the shots weighted."""
        weights = self.scene(taps.low, support)[1][..., None, None]
        return (weights * shot_priors(taps.high, support["high"], self.flat)).sum(1, keepdim=True)

    def shot_weights(self, query: Features, support: Support) -> Tensor:
        """(B, K): how much each shot counts, for priors that come one a shot."""
        return self.scene(self.taps(query).low, support)[1]

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) in {0, 1, 255} -> ``prototype`` (B, K, width), ``high`` (B, K, C4, h', w')
        masked, ``gram`` (B, K, C2, C2) of the whole image."""
        shape = masks.shape[:2]
        features = self.encode(images.flatten(0, 1)) if features is None else features
        taps, masks = self.taps(features), masks.flatten(0, 1)[:, None]
        x = self.down_support(taps.mid)
        prototype = masked_average(x, self.inside(masks, x.shape[-2:]))
        high = self.last_stage(features, (masks == 1).float())
        high = high * self.inside(masks, high.shape[-2:])
        tensors = {"prototype": prototype.flatten(1), "high": high, "gram": gram(taps.low)}
        return Support({name: tensor.unflatten(0, shape) for name, tensor in tensors.items()})


class ASPP(nn.Module):
    """(B, width, h, w) -> (B, 5 width, h, w): the global average, a 1x1 conv, and 3x3 convs of dilation 6, 12, 18."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)]
        convs += [nn.Conv2d(width, width, 3, padding=rate, dilation=rate) for rate in (6, 12, 18)]
        self.branches = nn.ModuleList(nn.Sequential(conv, nn.ReLU()) for conv in convs)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.branches[0](x.mean((2, 3), keepdim=True)).expand_as(x)
        return torch.cat([whole, *(branch(x) for branch in self.branches[1:])], 1)
