"""PFENet: Prior Guided Feature Enrichment Network (Tian et al., TPAMI 2020, arXiv 2008.01449)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks.prior_guided import (
    Grid,
    PriorGuided,
    Taps,
    batch_statistics,
    classifier,
    cross_entropy,
    project,
    residual,
    resize,
    shot_priors,
)
from shotseg.priors.visual import masked_average

SCALES = (1.0, 0.5, 0.25, 0.125)  # of the query map, for any input size; the paper's on COCO
PASCAL_SCALES = (60, 30, 15, 8)  # of the paper at 473 pixels


class PFENet(PriorGuided):
    """A prior mask without training, a prototype, and FEM to bring them together.

    width:       channels of the head.
    scales:      of FEM: None is ``SCALES``, or ``PASCAL_SCALES`` with ``reference``.
    prior_maps:  number of prior channels; with another than 1, ``forward`` must be given ``priors``.
    encoder_bn:  "eval", or "train": batch statistics of the frozen encoder follow the training images, as in the release:
                 of the query, then shot by shot.
    flat:        a prior whose range is below it becomes 0; 0 = the released formula, which stretches float noise.
    keep_small:  see :class:`PriorGuided`.
    reference:   the release in everything (scales, ``encoder_bn="train"``, ``flat=0``, layer 3's grid).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int = 473,
        width: int = 256,
        scales: Sequence[float] | None = None,
        prior_maps: int = 1,
        grid: Grid = "auto",
        encoder_bn: str = "eval",
        flat: float = 1e-6,
        keep_small: bool = True,
        reference: bool = False,
    ):
        if reference:
            keep_small = False
            grid, encoder_bn, flat = "layer3", "train", 0.0
        super().__init__(encoder, size, grid, keep_small)
        self.prior_maps, self.encoder_bn, self.flat = prior_maps, encoder_bn, flat
        self.fused_channels = width
        self.down_query = project(self.mid_channels, width)
        self.down_support = project(self.mid_channels, width)
        scales = scales or (PASCAL_SCALES if reference else SCALES)
        if reference:  # whose 1 is the whole map, be it a whole number or not
            scales = [float(scale) if scale <= 1 else scale for scale in scales]
        self.decoder = FEM(width, prior_maps, scales)

    def forward(
        self, query: Features, support: Support, images: Tensor, priors: Tensor | None = None, **context: Any
    ) -> Prediction:
        """query: features of B images; images (B, 3, H, W) only for their size; priors (B, P, h', w') in place of its own.

        Logits (B, 2, H, W); extra: ``prior`` (B, P, h, w), ``prototype`` (B, width, 1, 1), ``inner0..``, ``low_logits``.
        """
        taps = self.taps(query)
        x = self.down_query(taps.mid)  # (B, width, h, w)
        prototype = support["prototype"].mean(1)[..., None, None]  # plain mean over the shots, as for the priors
        priors = resize(self.own_priors(taps, support) if priors is None else priors, x.shape[-2:])
        out = self.decoder(x, prototype, priors)
        extra = {"prior": priors, "prototype": prototype, "low_logits": out.logits, "fused": out.fused}
        extra |= {f"inner{i}": inner for i, inner in enumerate(out.inner)}
        return Prediction(resize(out.logits, images.shape[-2:]), extra)

    def own_priors(self, taps: Taps, support: Support) -> Tensor:
        """(B, 1, h', w') in [0, 1]: the mean over the shots of the max-cosine on layer 4."""
        return shot_priors(taps.high, support["high"], self.flat).mean(1, keepdim=True)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) in {0, 1, 255} -> ``prototype`` (B, K, width), ``high`` (B, K, C4, h', w')
        masked."""
        shape = masks.shape[:2]
        if features is None and self.training and self.encoder_bn == "train" and shape[1] > 1:
            shots = zip(images.split(1, 1), masks.split(1, 1))
            return Support.join([self.encode_support(*shot) for shot in shots])
        features = self.encode_shots(images.flatten(0, 1)) if features is None else features
        taps, masks = self.taps(features), masks.flatten(0, 1)[:, None]
        x = self.down_support(taps.mid)
        prototype = masked_average(x, self.inside(masks, x.shape[-2:]))
        high = self.last_stage(features, (masks == 1).float())
        high = high * self.inside(masks, high.shape[-2:])
        return Support({"prototype": prototype.view(*shape, -1), "high": high.unflatten(0, shape)})

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """``main``, and ``aux``: the mean over the scales."""
        inner = [cross_entropy(prediction.extra[f"inner{i}"], target) for i in range(len(self.decoder.scales))]
        return {"main": cross_entropy(prediction.logits, target), "aux": torch.stack(inner).mean()}

    def encode_shots(self, images: Tensor) -> Features:
        """As ``encode``; the statistics of the last stage are left to the masked features that it will see."""
        moving = [m for m in getattr(self.encoder, "layer4", nn.Module()).modules() if m.training]
        for module in moving:
            module.training = False
        features = self.encode(images)
        for module in moving:
            module.training = True
        return features

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self.encoder_bn == "train":
            batch_statistics(self.encoder)
        return self


class Enriched(NamedTuple):
    logits: Tensor  # (B, 2, h, w)
    inner: tuple[Tensor, ...]  # one (B, 2, b_i, b_i) a scale, for the auxiliary loss
    pyramid: tuple[Tensor, ...]  # one (B, width, h, w) a scale
    fused: Tensor  # (B, width, h, w)


class FEM(nn.Module):
    """The feature enrichment module (section 3.3), also QGNet's: query, prototype and prior maps meet at several scales.

    What a scale has found flows into the next one.

    width: channels of the query features and of the prototype.       maps: number of prior channels.
    scales: in the order of the flow. A whole number is the side of the bin, a fraction up to 1.0 a share of the map's sides.
    """

    def __init__(self, width: int = 256, maps: int = 1, scales: Sequence[float] = (1.0, 0.5, 0.25, 0.125)):
        super().__init__()
        self.scales = tuple(scales)
        every = range(len(self.scales))

        def merge(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.ReLU())

        self.init_merge = nn.ModuleList(merge(2 * width + maps) for _ in every)
        self.alpha_conv = nn.ModuleList(merge(2 * width) for _ in every[1:])
        self.beta_conv = nn.ModuleList(residual(width) for _ in every)
        self.inner_cls = nn.ModuleList(classifier(width) for _ in every)
        self.res1 = merge(width * len(self.scales))
        self.res2 = residual(width)
        self.cls = classifier(width)

    def forward(self, query: Tensor, prototype: Tensor, maps: Tensor) -> Enriched:
        """query (B, width, h, w), prototype (B, width, 1, 1), maps (B, P, h, w) -> :class:`Enriched`."""
        size = query.shape[-2:]
        pyramid: list[Tensor] = []
        inner: list[Tensor] = []
        for i, scale in enumerate(self.scales):
            bins = _bins(scale, size)
            pooled = F.adaptive_avg_pool2d(query, bins)
            x = self.init_merge[i](torch.cat([pooled, prototype.expand(-1, -1, *bins), resize(maps, bins)], 1))
            if i:
                x = x + self.alpha_conv[i - 1](torch.cat([x, resize(pyramid[-1], bins)], 1))
            x = x + self.beta_conv[i](x)
            inner.append(self.inner_cls[i](x))
            pyramid.append(resize(x, size))
        fused = self.res1(torch.cat(pyramid, 1))
        fused = fused + self.res2(fused)
        return Enriched(self.cls(fused), tuple(inner), tuple(pyramid), fused)


def _bins(scale: float, size: Sequence[int]) -> tuple[int, int]:
    share = isinstance(scale, float) and scale <= 1
    height, width = (max(1, int(side * scale)) if share else int(scale) for side in size)
    return height, width
