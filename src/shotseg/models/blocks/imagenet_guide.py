"""Where the class is, by its name, without a download: from the ImageNet labels nearest to the name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg import encoders
from shotseg.encoders.cnn import EfficientNetLite
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.imagenet_text import ImageNetText
from shotseg.models.blocks.class_guide import Guide, Level, Refine
from shotseg.priors.generators import ImageNetMaps, likeness, objectness, quarter, resized
from shotseg.priors.visual import min_max

SELF_SUPPORT = 2  # rounds, as in the generator of the same name


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
        stages = self.own(features).maps
        levels = (stages[self.encoder.before_last], stages[-1])
        activation = self.encoder.classifier(levels[-1])
        label_probability = activation.mean((2, 3)).softmax(1) + 1e-12
        share = F.normalize(vectors[:, 0] * label_probability, p=1, dim=1)
        coarse = min_max((activation.relu() * share[:, :, None, None]).sum(1, keepdim=True))
        if level == "coarse":
            return coarse
        levels_of_guide = self.own(features)
        grid = quarter(images)
        maps = min_max(resized(coarse, grid) * objectness(levels_of_guide, grid))
        for _ in range(SELF_SUPPORT):
            maps = min_max(maps.sqrt() * likeness(levels_of_guide, maps))
        return self.drawn(maps, images)


@lru_cache(maxsize=4096)
def imagenet_weights(name: str) -> Tensor:
    """(1, 1000): the weight of each ImageNet label for a class name."""
    labels, weights = _text().match(name)
    return torch.zeros(1, 1000).index_add_(1, labels, weights[None])


@lru_cache(maxsize=1)
def _text() -> ImageNetText:
    return ImageNetText()
