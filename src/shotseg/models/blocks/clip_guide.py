"""CORENet's class-guided attention with CLIP: Grad-CAM as CLIP-ES (ViT) and IMR-HSNet (ResNet) make it (method page, 6.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shotseg import encoders
from shotseg.data.samples import Support
from shotseg.encoders.clip import ClipCNN, Seen
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.blocks.class_guide import BACKGROUND, Guide, Level, Refine
from shotseg.models.blocks.clip_priors import ClipPriors
from shotseg.priors import text
from shotseg.priors.clip_input import square
from shotseg.priors.grad_cam import scaled, text_cams


class ClipGuide(Guide):
    """Softmax Grad-CAM of CLIP, the class against background words (CLIP-ES). Fine: a ViT's map is spread along its attention,
    and any map drawn along the edges.

    clip: a name of ``shotseg.list_encoders()`` or a VisionLanguage: a ViT, or a ResNet, which has no attention to spread along.
    """

    cut = BACKGROUND

    def __init__(self, clip: str | Encoder = "clip-vit-b16", refine: Refine = "par"):
        super().__init__()
        self.refine = refine
        self.clip: Any = (encoders.load(clip) if isinstance(clip, str) else clip).requires_grad_(False)
        if not hasattr(self.clip, "last_block"):
            raise UsageError(f"{self.clip.name!r} knows no text; choose clip-vit-b16 or another CLIP-like model")
        self.prior = text.CLIP_ES_MAPS
        self.extra_maps, self.extra_classes = 1, 0
        if not isinstance(self.clip, ClipCNN):
            self.extra_classes = 2
            self.spread = ClipPriors(self.clip, layers=(), text_prior=self.prior)
            self.plain = ClipPriors(self.clip, layers=(), text_prior=replace(self.prior, refinement=None))

    @torch.no_grad()
    def see(self, images: Tensor) -> Features:
        if self.extra_classes:
            return self.spread.see(images)
        clip_pass = self.clip.tokens_and_attention(square(images))  # the whole photo, not its centre
        return Features((clip_pass.before_last,), (self.clip.patch,))

    def vector(self, name: str) -> Tensor:
        """(N, D): the text features of the name and of the background words."""
        return self.prior.text(self.clip, [name])

    def forward(self, features: Features, vectors: Tensor, images: Tensor, level: Level = "fine") -> Tensor:
        clip_features = self.own(features)
        size = clip_features.maps[0].shape[-2:]
        if self.extra_classes:
            priors = self.plain if level == "coarse" else self.spread
            maps = priors.text_map(clip_features, Support({"text": vectors[:, None]}), images, (), None, None, size)
        else:
            maps = torch.cat([self._of_one(clip_features[i].maps[0], texts) for i, texts in enumerate(vectors)])
        return maps if level == "coarse" else self.drawn(maps.detach(), images)

    def _of_one(self, last: Tensor, texts: Tensor) -> Tensor:
        clip_pass = Seen((), (), last, (last.shape[-2], last.shape[-1]))
        return scaled(text_cams(self.clip.last_block(clip_pass, texts), [0]))
