"""A complete few-shot method in one file: prototypes on a learnt projection, after PANet (Wang et al., ICCV 2019).

pip install ./examples/new_method
shotseg train examples/new_method/prototypes.yaml --root photos --out run
shotseg evaluate photos --checkpoint run/best.safetensors --out result.json
shotseg segment --support examples --query photos --checkpoint run/best.safetensors --out masks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks.prior_guided import Episodic, cross_entropy, resize
from shotseg.priors.visual import foreground, masked_average


class Prototypes(Episodic):
    """Each place of the query is what it is most like: the mean feature of the object, or of what is around it.

    encoder: any of two maps or more; it stays as it is.      size: longer side of the photos, in pixels.
    width:   channels that the features are projected to, which is all that is learnt.
    scale:   what cosines are multiplied with before the softmax (PANet: 20).
    """

    finest = 8  # no map of finer stride is read, so training does not keep one

    def __init__(self, encoder: Encoder, *, size: int = 384, width: int = 64, scale: float = 20.0):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.size, self.scale = size, scale
        self.project = nn.Conv2d(sum(encoder.channels[-2:]), width, 1)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) -> ``prototypes`` (B, K, 2, width): background, object."""
        tokens = self._tokens(self.encode(images.flatten(0, 1)) if features is None else features)
        inside = foreground(masks.flatten(0, 1)[:, None], tokens.shape[-2:])
        both = [masked_average(tokens, part).flatten(1) for part in (1 - inside, inside)]
        return Support({"prototypes": torch.stack(both, 1).unflatten(0, masks.shape[:2])})

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, H, W) at the size of images (B, 3, H, W); of K shots the mean prototype counts."""
        tokens = F.normalize(self._tokens(query), dim=1)
        known = F.normalize(support["prototypes"].mean(1), dim=2)
        likeness = torch.einsum("bnc,bchw->bnhw", known, tokens)
        return Prediction(resize(self.scale * likeness, images.shape[-2:]))

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"main": cross_entropy(prediction.logits, target)}

    def _tokens(self, features: Features) -> Tensor:
        """The two deepest maps on the finer of their grids, projected: (B, width, h, w)."""
        middle, deep = features.maps[-2:]
        return self.project(torch.cat([middle, F.interpolate(deep, middle.shape[-2:], mode="bilinear")], 1))
