"""Where the class is, by its name: the coarse and fine attention of CORENet's class-guided module (method page, 6.1 to 6.3).

Found in the paper: CLIP, Grad-CAM, a refinement to fine attention with PAR; the inside is that of published methods. What an
image needs once, whatever the class, is computed with its features; a name becomes a vector that a support keeps.

Here the part that needs no download: the ImageNet labels nearest to a name. CLIP is in :mod:`.clip_guide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg import encoders
from shotseg.encoders.cnn import EfficientNetLite
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.imagenet_text import ImageNetText
from shotseg.encoders.vit import ViT
from shotseg.errors import UsageError
from shotseg.priors.generators import ImageNetMaps, likeness, objectness, quarter, resized
from shotseg.priors.guided_filter import guided_filter
from shotseg.priors.pixel_adaptive import pamr, par
from shotseg.priors.visual import min_max

Level = Literal["coarse", "fine"]
Refine = Literal["par", "pamr", "guided", "none"]
BACKGROUND = 0.45  # what a map must beat in the refinement (AFA)
SELF_SUPPORT = 2  # rounds, as in the generator of the same name
LONGEST = 200  # pixels of the refinement's image


class Guide(nn.Module):
    """Maps of class names. ``extra``: how many maps and class tokens :meth:`see` appends to an image's features."""

    extra_maps = 0
    extra_classes = 0
    refine: Refine
    cut: float  # the value from which on a fine map counts as the class

    def __init__(self) -> None:
        super().__init__()
        self._vectors: dict[str, Tensor] = {}

    def seen_with(self, features: Features, images: Tensor) -> Features:
        """The features with what this guide needs of the images (B, 3, H, W) in [0, 1] at their end."""
        if not self.extra_maps:
            return features
        own = self.see(images)
        return Features(features.maps + own.maps, features.strides + own.strides, features.classes + own.classes)

    def own(self, features: Features) -> Features:
        """That end of the features; the features themselves where nothing was appended."""
        if not self.extra_maps:
            return features
        at, tokens = len(features.maps) - self.extra_maps, len(features.classes) - self.extra_classes
        return Features(features.maps[at:], features.strides[at:], features.classes[tokens:])

    def vectors(self, names: Sequence[str] | None) -> Tensor:
        """(B, N, D): what stands for B class names. Each name is looked up once, and no other name ever is."""
        if not names:
            raise UsageError("this model asks for the class by name: pass class_names, one for each class")
        for name in names:
            if name not in self._vectors:
                self._vectors[name] = self.vector(name)
        device = next(self.parameters()).device
        return torch.stack([self._vectors[name].to(device) for name in names])

    def forward(self, features: Features, vectors: Tensor, images: Tensor, level: Level = "fine") -> Tensor:
        """(B, 1, h, w) in [0, 1] of B images and (B, N, D) vectors."""
        raise NotImplementedError

    def see(self, images: Tensor) -> Features:
        raise NotImplementedError

    def vector(self, name: str) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def masks(self, features: Features, images: Tensor, names: Sequence[str] | None) -> Tensor:
        """(N, H, W) in [0, 1] at the images' size, 1/2 at the border of the pseudo mask, of N photos of B classes in turn."""
        vectors = self.vectors(names)
        every = vectors.repeat_interleave(len(images) // len(vectors), 0)
        return soft_masks(self(features, every, images), images, self.refine, self.cut)

    def drawn(self, maps: Tensor, images: Tensor) -> Tensor:
        """(B, 1, h, w) in [0, 1] along the edges of the images, at most ``LONGEST`` pixels long."""
        if self.refine == "none":
            return maps
        if self.refine == "guided":
            grid = quarter(images)
            return min_max(guided_filter(resized(maps, grid), F.adaptive_avg_pool2d(images, grid)))
        return min_max(_beside_background(maps, images, self.refine)[:, 1:])


class ImageNetGuide(Guide):
    """Class activation of the ImageNet labels nearest to a name; fine: the steps of
    :class:`shotseg.priors.generators.ImageNetMaps`, on features that are there already.

    encoder: the model's own; if it is an EfficientNet-Lite its maps are read, else one of our own looks at each image too.
    """

    cut = ImageNetMaps.cut.high

    def __init__(self, encoder: Encoder, refine: Refine = "guided"):
        super().__init__()
        self.refine = refine
        self.encoder: Any = encoder if isinstance(encoder, EfficientNetLite) else encoders.load("efficientnet-lite0")
        self.extra_maps = 0 if self.encoder is encoder else 2

    @torch.no_grad()
    def see(self, images: Tensor) -> Features:
        seen = self.encoder(images)
        return Features(seen.maps[-2:], seen.strides[-2:])

    def vector(self, name: str) -> Tensor:
        return imagenet_weights(name)

    @torch.no_grad()
    def forward(self, features: Features, vectors: Tensor, images: Tensor, level: Level = "fine") -> Tensor:
        seen = self.own(features).maps
        levels = (seen[self.encoder.before_last], seen[-1])
        activation = self.encoder.classifier(levels[-1])
        found = activation.mean((2, 3)).softmax(1) + 1e-12
        share = F.normalize(vectors[:, 0] * found, p=1, dim=1)
        coarse = min_max((activation.relu() * share[:, :, None, None]).sum(1, keepdim=True))
        if level == "coarse":
            return coarse
        own = self.own(features)
        grid = quarter(images)
        maps = min_max(resized(coarse, grid) * objectness(own, grid))
        for _ in range(SELF_SUPPORT):
            maps = min_max(maps.sqrt() * likeness(own, maps))
        return self.drawn(maps, images)


@lru_cache(maxsize=4096)
def imagenet_weights(name: str) -> Tensor:
    """(1, 1000): the weight of each ImageNet label for a class name."""
    labels, weights = _text().match(name)
    return torch.zeros(1, 1000).index_add_(1, labels, weights[None])


@lru_cache(maxsize=1)
def _text() -> ImageNetText:
    return ImageNetText()


def guide_of(name: str, encoder: Encoder, clip: str | Encoder, refine: Refine | None) -> Guide:
    """The guide "imagenet-text" or "clip"; "auto" is CLIP beside a ViT, else what needs no download."""
    if name == "imagenet-text" or (name == "auto" and not isinstance(encoder, ViT)):
        return ImageNetGuide(encoder, refine or "guided")
    from shotseg.models.blocks.clip_guide import ClipGuide  # open_clip is slow to import

    return ClipGuide(clip, refine or "par")


def soft_masks(maps: Tensor, images: Tensor, refine: Refine, cut: float) -> Tensor:
    """Pseudo masks (B, H, W) in [0, 1] from maps (B, 1, h, w) in [0, 1]: 1/2 is the border between class and background.

    refine "par", "pamr": the share of the class after refinement beside a background of ``cut`` (method page, 4); else ``cut`` is
    moved to 1/2. Never without foreground: then the highest 5 % of the places are it.
    """
    if refine in ("par", "pamr"):
        both = _beside_background(maps, images, refine, cut)
        soft = both[:, 1:] / both.sum(1, keepdim=True).clamp(min=1e-6)
    else:
        soft = torch.where(maps < cut, maps / (2 * cut), (maps + 1 - 2 * cut) / (2 - 2 * cut))
    flat = soft.flatten(1)
    highest = flat.topk(max(1, flat.shape[1] // 20), 1).values[:, -1:]
    rescued = torch.where((flat > 0.5).any(1, keepdim=True), flat, 0.5 + 0.5 * (flat >= highest)).view_as(soft)
    return resized(rescued, images.shape[-2:])[:, 0]


def _beside_background(maps: Tensor, images: Tensor, refine: Refine, background: float = BACKGROUND) -> Tensor:
    """(B, 2, h, w): [background, map] after refinement, on the images at most ``LONGEST`` pixels long."""
    shrink = min(1.0, LONGEST / max(images.shape[-2:]))
    small = F.interpolate(images, [max(1, round(side * shrink)) for side in images.shape[-2:]], mode="area")
    both = torch.cat([torch.full_like(maps, background), maps], 1)
    return (par if refine == "par" else pamr)(small, both)
