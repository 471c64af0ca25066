"""What PFENet and the models that grew out of it share: a frozen encoder, its mid and high maps, and the loss terms."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Episode, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.few_shot_model import FewShot
from shotseg.priors.visual import foreground, max_cosine, min_max

Grid = Literal["auto", "layer2", "layer3"]


class Taps(NamedTuple):
    """The three maps that these models read, by the names of their ResNet: low and mid share one grid."""

    low: Tensor  # (B, C2, h, w): layer 2
    mid: Tensor  # (B, C2 + C3, h, w): layer 3, then layer 2
    high: Tensor  # (B, C4, h', w'): layer 4


class Episodic(FewShot):
    """A few-shot model on whole episodes: from pixels to logits, and to the terms of its loss."""

    def predict(self, episode: Episode, query: Features | None = None, support: Features | None = None) -> Prediction:
        """An episode from pixels to logits.

        query, support: frozen features that the caller kept, of ``encode`` (of ``encode_masked`` for the B K supports where
        the model ``masks_input``); None computes them here.
        """
        kept: dict[str, Any] = {"masked" if self.masks_input else "features": support}
        query = self.encode(episode.query) if query is None else query
        encoded = self.encode_support(episode.support, self.masks_of(episode), class_names=episode.class_name, **kept)
        return self(query, encoded, episode.query, class_id=episode.class_id)

    def loss(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        base_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms to sum for training, by name; query, support: see :meth:`predict`.

        base_labels: (B, H, W) of the queries, see :func:`shotseg.models.base_learner.base_labels`.
        """
        if episode.query_mask is None:
            raise UsageError("training needs the mask of every query")
        return self.losses(self.predict(episode, query, support), episode.query_mask, base_labels)

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of a prediction against (B, H, W) in {0, 1, 255}."""
        raise NotImplementedError

    @staticmethod
    def masks_of(episode: Episode) -> Tensor:
        if episode.support_mask is None:
            raise UsageError("this model learns from support masks: give one for each support image")
        return episode.support_mask


class Hosted(Episodic):
    """A model around another one, its ``host``, whose encoder, size and geometry are its own."""

    host: Any

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.host.encoder

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.host.size

    @property
    def geometry(self) -> str:  # type: ignore[override]
        return self.host.geometry

    @geometry.setter
    def geometry(self, value: str) -> None:
        self.host.geometry = value

    @property
    def masks_input(self) -> bool:  # type: ignore[override]
        return self.host.masks_input

    @property
    def encoder_bn(self) -> str:  # type: ignore[override]
        return self.host.encoder_bn

    @property
    def rests(self) -> bool:  # type: ignore[override]
        return self.host.rests


class PriorGuided(Episodic):
    """Base of PFENet, BAM and HDMNet.

    encoder: any frozen encoder of three maps or more. Layer 4 of the papers is its last map, layer 3 the map that its last
             stage starts from, layer 2 the deepest map before that of another stride or width.
    size:    longer working side in pixels.
    grid:    the map whose grid the head works on. "layer3" is the authors' (stride 8 in their dilated ResNet-50, 16 in
             VGG-16); "layer2" keeps the finer one; "auto" takes layer 2's for an ordinary pyramid (layer 4 coarser than
             layer 3, stride 8 and 16 against 32) and layer 3's for an encoder that is cut or dilated for segmentation.
    keep_small: an object that falls between the cells of a map keeps those that it touches; the releases lose it.
    """

    def __init__(self, encoder: Encoder, size: int = 473, grid: Grid = "auto", keep_small: bool = True):
        super().__init__()
        if len(encoder.channels) < 3:
            raise UsageError(
                f"encoder {encoder.name!r} gives {len(encoder.channels)} map(s), three are needed: take another encoder"
            )
        self.encoder = encoder.requires_grad_(False)
        self.size, self.keep_small = size, keep_small
        kinds = list(zip(encoder.strides, encoder.channels))
        self.layer3 = encoder.before_last % len(kinds)
        others = [i for i in range(self.layer3) if kinds[i] != kinds[self.layer3]]
        self.layer2 = max(others, default=max(0, self.layer3 - 1))
        pyramid = encoder.strides[-1] > encoder.strides[self.layer3]
        self.grid = self.layer2 if grid == "layer2" or (grid == "auto" and pyramid) else self.layer3
        self.mid_channels = encoder.channels[self.layer3] + encoder.channels[self.layer2]
        self.high_channels = encoder.channels[-1]

    @property
    def map_count(self) -> int:
        """How many maps ``encode`` gives."""
        return len(self.encoder.channels)

    def taps(self, features: Features) -> Taps:
        size = features.maps[self.grid].shape[-2:]
        low, mid = (resize(features.maps[layer], size) for layer in (self.layer2, self.layer3))
        return Taps(low, torch.cat([mid, low], 1), features.maps[-1])

    def last_stage(self, features: Features, inside: Tensor) -> Tensor:
        """Layer 4 of layer 3 times ``inside`` (B, 1, H, W); layer 4 itself where the encoder has no separate last stage.

        The result is not masked again.
        """
        tap = features.maps[self.layer3]
        try:
            with torch.no_grad():
                return self.encoder.last_stage(tap * resize(inside, tap.shape[-2:]))
        except NotImplementedError:
            return features.maps[-1]

    def inside(self, masks: Tensor, size: Any, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """Support masks (N, 1, H, W) in {0, 1, 255} -> their share of foreground (N, 1, h, w) in [0, 1]."""
        share = foreground(masks, size, mode)
        if not self.keep_small:
            return share
        touched = F.adaptive_max_pool2d((masks == 1).float(), tuple(size))
        return torch.where(share.sum((2, 3), keepdim=True) > 0, share, touched)

    def own_priors(self, taps: Taps, support: Support) -> Tensor:
        """(B, P, h', w') in [0, 1]: the model's own prior maps, where no others are given."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self


def batch_statistics(network: nn.Module) -> None:
    """Let the batch norms of a frozen network see and follow the batch, as some releases do by oversight."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()


def resize(maps: Tensor, size: Any) -> Tensor:
    """Bilinear with aligned corners, as every resize in this family that does not say otherwise."""
    size = tuple(size)
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=True)


def shot_priors(query: Tensor, support: Tensor, flat: float = 1e-6) -> Tensor:
    """Max-cosine of (B, C, h, w) to each shot of (B, K, C, h', w'), masked features, min-maxed -> (B, K, h, w).

    Background positions of the support are zero vectors and count. ``flat``: see :func:`shotseg.priors.visual.min_max`.
    """
    shots = support.shape[1]
    every = query[:, None].expand(-1, shots, -1, -1, -1).flatten(0, 1)
    maps = min_max(max_cosine(every, support.flatten(0, 1)), flat=flat)
    return maps.view(-1, shots, *query.shape[-2:])


def project(channels: int, width: int, kernel: int = 1) -> nn.Sequential:
    """Conv without bias, ReLU, and a dropout of half the channels: (B, channels, h, w) -> (B, width, h, w)."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.ReLU(), nn.Dropout2d(0.5))


def residual(width: int) -> nn.Sequential:
    """The 3x3, ReLU, 3x3, ReLU branch that is added to its own input."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
    )


def classifier(width: int, classes: int = 2) -> nn.Sequential:
    """3x3, ReLU, dropout, 1x1 -> (B, classes, h, w)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1)
    )


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the labelled pixels; logits (B, C, h, w) are first resized to the target (B, H, W), 255 = ignore.

    A target without a labelled pixel costs 0 (PyTorch's own mean is not a number there).
    """
    each = F.cross_entropy(resize(logits, target.shape[-2:]), target, ignore_index=IGNORE, reduction="none")
    return each.sum() / (target != IGNORE).sum().clamp(min=1)
