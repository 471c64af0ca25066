"""The priors of PI-CLIP (Wang et al., CVPR 2024) as models of their own: nothing is trained, and a name can be enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks.clip_priors import ClipPriors
from shotseg.models.few_shot_model import FewShot


class ClipPriorsOnly(FewShot):
    """The priors as a few-shot model of their own: nothing is trained, the map's upper half is the object.

    encoder: a CLIP-like ViT.      maps: "text" asks for the name alone, "visual" for the supports alone.
    slope:   how steeply the probability rises with the map (the logit is slope * (map - threshold)).
    Further ``options`` are keywords of :class:`ClipPriors`.
    """

    learns = False

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int = 480,
        maps: Sequence[Literal["text", "visual"]] = ("text", "visual"),
        threshold: float = 0.5,
        slope: float = 10.0,
        **options: Any,
    ):
        super().__init__()
        self.priors = ClipPriors(encoder, **options)
        self.size, self.maps, self.threshold, self.slope = size, tuple(maps), threshold, slope
        self.needs = "name" if self.maps == ("text",) else "masks"

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h, w) on the patch grid; extra: ``prior`` (B, P, h, w) in [0, 1], the text's map first."""
        size, maps = query.maps[0].shape[-2:], []
        if "text" in self.maps:
            names = context.get("class_name", ())
            maps.append(
                self.priors.text_map(query, support, images, names, context.get("present"), context.get("sizes"), size)
            )
        if "visual" in self.maps:
            maps.append(self.priors.visual_maps(query, support).mean(2))
        priors = torch.cat(maps, 1)
        evidence = self.slope / 2 * (torch.stack([m.mean(1) for m in maps], 1).mean(1) - self.threshold)
        return Prediction(torch.stack([-evidence, evidence], 1), {"prior": priors})

    @property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.priors.asks if "text" in self.maps else ()

    def encode(self, images: Tensor) -> Features:
        return self.priors.see(images)

    def encode_support(
        self,
        images: Tensor | None,
        masks: Tensor | None,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """As :meth:`ClipPriors.support`; with maps=("text",) the names are all it needs: images and masks may be None."""
        if self.needs == "name":
            shots = 1 if images is None else images.shape[1]
            return Support({"text": self.priors.text(class_names, (len(class_names or ()), shots))})
        assert images is not None and masks is not None
        return Support(self.priors.support(self.priors.see_masked(images, masks), masks, class_names))

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.priors.clip


class ClipZeroShot(ClipPriorsOnly):
    """:class:`ClipPriorsOnly` from the class's name alone."""

    def __init__(self, encoder: Encoder, **options: Any):
        super().__init__(encoder, maps=("text",), **options)
