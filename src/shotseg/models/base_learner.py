"""The base learner of BAM: PSPNet (Zhao et al., CVPR 2017) on the classes that have many masks; and models that carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.blocks.ensemble import Ensemble, gram, scene_distance
from shotseg.models.blocks.norm import BatchNorm
from shotseg.models.blocks.prior_guided import PriorGuided, Taps, batch_statistics, cross_entropy, resize
from shotseg.models.few_shot_model import Model


class BaseLearner(Model):
    """Semantic segmentation of the base classes: encoder, pyramid pooling, classifier.

    classes:       number of base classes; the output has one channel more, 0 = background and every other class.
    train_encoder: the encoder learns too, as in the papers, which then freeze it for good.
    encoder_bn:    "eval": its batch statistics stay; "train": they follow the training photos, as in BAM's release.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        train_encoder: bool = False,
        encoder_bn: Literal["eval", "train"] = "eval",
    ):
        super().__init__()
        if encoder_bn == "train" and not train_encoder:
            raise UsageError(
                "encoder_bn 'train' of a base learner whose encoder stays; add train_encoder, or leave it out"
            )
        self.encoder = encoder.requires_grad_(train_encoder)
        self.train_encoder, self.encoder_bn = train_encoder, encoder_bn
        self.rests = train_encoder  # whose own classifier is not asked
        self.head = BaseHead(encoder.channels[-1], classes)

    def forward(self, images: Tensor, features: Features | None = None) -> Prediction:
        """(B, 3, H, W) in [0, 1], or its features -> logits (B, classes + 1, H, W); no gradient through given features."""
        if features is None and self.train_encoder:
            features = self.encoder.extract((images - self.encoder.mean) / self.encoder.std)
        elif features is None:
            features = self.encoder(images)
        return Prediction(resize(self.head(features.maps[-1]), images.shape[-2:]))

    def loss(self, images: Tensor, labels: Tensor, features: Features | None = None) -> dict[str, Tensor]:
        """labels (B, H, W): 0, 1..classes (see :func:`base_labels`), 255 = ignore."""
        return {"main": cross_entropy(self(images, features).logits, labels)}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self.encoder_bn == "train":
            batch_statistics(self.encoder)
        return self


class BaseHead(nn.Module):
    """Pyramid pooling and classifier on the encoder's last map; few-shot models carry it frozen."""

    def __init__(self, channels: int, classes: int, width: int = 512):
        super().__init__()
        self.ppm = PyramidPooling(channels)
        self.embed = nn.Sequential(nn.Conv2d(2 * channels, width, 3, padding=1, bias=False), BatchNorm(width))
        self.classify = nn.Sequential(nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(width, classes + 1, 1))

    def embedding(self, last: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width, h, w) before the ReLU: HDMNet's "feature 5".

        The convolution of the map beside its averages, in half of the work: the averages are few numbers until they are enlarged.
        """
        conv: Any = self.embed[0]
        own, *others = conv.weight.split([last.shape[1], *self.ppm.widths], 1)
        found = F.conv2d(last, own, padding=1)
        for part, pooled in zip(others, self.ppm(last)):
            found = found + convolved_larger(pooled, part, last.shape[-2:])
        return self.embed[1](found)

    def forward(self, last: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, classes + 1, h, w)."""
        return self.classify(self.embedding(last))


class WithBase(PriorGuided):
    """A meta learner whose answer loses what a frozen base learner knows (BAM, section 3.4; HDMNet and PI-CLIP as well)."""

    ensemble: Ensemble
    base: BaseHead | None
    rests = (
        True  # without a base learner nothing is merged, and another number of shots than the training's has no vote
    )

    def carry(self, ensemble: Ensemble, base: BaseHead | None, base_loss: bool, base_dropout: bool) -> None:
        """Take on the base learner, a random one for None; without base classes there is none.

        The other two: see :class:`shotseg.models.bam.BAM`.
        """
        self.base_loss, self.base_dropout = base_loss, base_dropout
        self.ensemble, self.base = ensemble, None
        if classes := len(ensemble.class_ids):
            self.base = (base or BaseHead(self.high_channels, classes)).requires_grad_(False)

    def embedding(self, taps: Taps) -> Tensor | None:
        """The base learner's (B, 512, h, w) of a query; None without one."""
        return None if self.base is None else self.base.embedding(taps.high)

    def scene(self, low: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """psi (B, 1) of the query's low features (B, C2, h, w), and how much each shot counts (B, K)."""
        distances = scene_distance(gram(low), support["gram"])
        weights = self.ensemble.weights(distances)
        return (weights * distances).sum(1, keepdim=True), weights

    def answer(
        self, meta: Tensor, embedding: Tensor | None, psi: Tensor, class_id: Tensor | None, images: Tensor
    ) -> Prediction:
        """meta (B, 2, h, w), and of a base learner the embedding of the query -> logits at the size of the images; extra:
        ``meta``, ``psi``, and of a base learner ``base`` (B, N + 1, h', w') and ``base_map`` (B, 1, h, w)."""
        extra, final = {"meta": meta, "psi": psi}, meta
        if self.base is not None:
            extra["base"] = self.base.classify(embedding)
            final, extra["base_map"] = self.ensemble(meta, extra["base"], psi, class_id)
        return Prediction(resize(final, images.shape[-2:]), extra)

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """``main`` (final), ``aux`` (meta) and, with ``base_loss`` and base labels, ``base``."""
        terms = {"main": cross_entropy(prediction.logits, target)}
        if self.base is not None:
            terms["aux"] = cross_entropy(prediction.extra["meta"], target)
            if self.base_loss and base_labels is not None:
                terms["base"] = cross_entropy(prediction.extra["base"], base_labels)
        return terms

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.base is not None:
            self.base.eval()
            self.base.classify.train(mode and self.base_dropout)
        return self


class PyramidPooling(nn.Module):
    """(B, C, h, w) -> its averages over 1, 2, 3 and 6 bins a side, (B, C / 4, bins, bins) each (PSPNet, section 3.2)."""

    def __init__(self, channels: int, bins: Sequence[int] = (1, 2, 3, 6)):
        super().__init__()
        self.bins = tuple(bins)
        part = channels // len(self.bins)
        self.widths = [part] * (len(self.bins) - 1) + [channels - part * (len(self.bins) - 1)]
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), BatchNorm(width), nn.ReLU())
            for width in self.widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(F.adaptive_avg_pool2d(x, bins)) for branch, bins in zip(self.branches, self.bins)]


def convolved_larger(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """What a 3x3 convolution, zeros around, makes of a map (B, C, h, w) enlarged to ``size``: (B, C', *size).

    Both are linear, and each position of the kernel sees the enlarged map shifted: so the kernel comes first, on few numbers.
    """
    seen = torch.einsum("oiyx,bihw->boyhxw", weight, x).flatten(4).flatten(2, 3)  # (B, C', 3 h, 3 w)
    rows, columns = (_shifted(small, large, x) for small, large in zip(x.shape[-2:], size))
    return rows @ seen @ columns.T


def _shifted(small: int, large: int, like: Tensor) -> Tensor:
    """(large, 3 small): what brings a row of ``small`` values to ``large``, seen one step before, at and after each place."""
    cells = torch.eye(small, device=like.device, dtype=like.dtype)[None]
    enlarged = F.pad(
        F.interpolate(cells, large, mode="linear", align_corners=True)[0].T, (0, 0, 1, 1)
    )  # (large + 2, small)
    return torch.cat([enlarged[step : step + large] for step in range(3)], 1)


def base_labels(mask: Tensor, class_ids: Sequence[int]) -> Tensor:
    """Original class ids -> base labels: ``class_ids`` in ascending order become 1, 2, ...; others 0; 255 stays."""
    table = torch.zeros(256, dtype=torch.long, device=mask.device)
    table[255] = 255
    table[torch.as_tensor(sorted(class_ids), device=mask.device)] = torch.arange(
        1, len(class_ids) + 1, device=mask.device
    )
    return table[mask.long()]
