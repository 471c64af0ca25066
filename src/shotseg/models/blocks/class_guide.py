"""Where the class is, by its name: the coarse and fine attention of CORENet's class-guided module (method page, 6.1 to 6.3).

Found in the paper: CLIP, Grad-CAM, a refinement to fine attention with PAR; the inside is that of published methods. What an
image needs once, whatever the class, is computed with its features; a name becomes a vector that a support keeps.

Here what every guide is. :mod:`.imagenet_guide` needs no download, :mod:`.clip_guide` asks CLIP, :mod:`.guides` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.priors.generators import quarter, resized
from shotseg.priors.guided_filter import guided_filter
from shotseg.priors.pixel_adaptive import pamr, par
from shotseg.priors.visual import min_max

Level = Literal["coarse", "fine"]
Refine = Literal["par", "pamr", "guided", "none"]
BACKGROUND = 0.45  # what a map must beat in the refinement (AFA)
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
        appended = self.see(images)
        return Features(
            features.maps + appended.maps, features.strides + appended.strides, features.classes + appended.classes
        )

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
        device = next(self.parameters()).device
        for name in names:
            known = self._vectors[name] if name in self._vectors else self.vector(name)
            self._vectors[name] = known.to(device)  # stays there
        return torch.stack([self._vectors[name] for name in names])

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
