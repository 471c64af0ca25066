"""HSNet: Hypercorrelation Squeeze for Few-Shot Segmentation (Min et al., ICCV 2021, arXiv 2104.01538)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from shotseg.data.samples import IGNORE, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks.correlation import correlate, levels, unit
from shotseg.models.blocks.prior_guided import Episodic, cross_entropy, resize
from shotseg.models.blocks.pyramid import WIDTHS, Decoder, Pyramid
from shotseg.models.blocks.token_model import agreed
from shotseg.priors.visual import foreground


class HSNet(Episodic):
    """Every query position against every position of the masked support, at many depths, squeezed to a mask.

    encoder: any of three maps or more (:func:`shotseg.models.blocks.correlation.levels`); the more maps, the better.
    size:    side of the square that photos are brought to.
    widths:  channels of the 4-D pyramid.
    loss_ignore: pixels of 255 are left out of the loss; the release counts them as background.
    reference:   the release: ``loss_ignore=False``.
    """

    geometry = "squash"

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int = 400,
        widths: Sequence[int] = WIDTHS,
        loss_ignore: bool = True,
        reference: bool = False,
    ):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.size, self.loss_ignore = size, loss_ignore and not reference
        self.levels = levels(encoder)
        self.used = sorted(tap for level in self.levels for tap in level.taps)
        self.pyramid = Pyramid(self.levels, widths)
        self.decoder = Decoder(widths[-1])

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the maps that are compared, shallow to deep."""
        features = self.encoder(images)
        return Features(tuple(features.maps[i] for i in self.used), tuple(features.strides[i] for i in self.used))

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) in {0, 1, 255} -> ``tap0..`` (B, K, C, h, w): masked, of unit length."""
        features = self.encode(images.flatten(0, 1)) if features is None else features
        shape, flat = masks.shape[:2], masks.flatten(0, 1)[:, None]
        taps = (unit(tap * foreground(flat, tap.shape[-2:])) for tap in features.maps)
        return Support({f"tap{i}": tap.unflatten(0, shape) for i, tap in enumerate(taps)})

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, H, W) at the size of images (B, 3, H, W); K shots: see :func:`agreed`."""
        taps = [unit(tap) for tap in query.maps]
        shots = []
        for shot in range(support.shots):
            support_taps = [support[f"tap{i}"][:, shot].expand(len(tap), -1, -1, -1) for i, tap in enumerate(taps)]
            shots.append(self.decoder(self.pyramid(self.correlations(taps, support_taps))))
        return Prediction(resize(agreed(shots), images.shape[-2:]))

    def correlations(self, query: Sequence[Tensor], support: Sequence[Tensor]) -> list[Tensor]:
        """Of maps of unit length, in the order of :meth:`encode`: one (B, n, h, w, h', w') a level, deep to shallow."""
        taps_of_levels = [[self.used.index(tap) for tap in level.taps] for level in self.levels]
        return [correlate([query[i] for i in taps], [support[i] for i in taps]) for taps in taps_of_levels]

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """``main``: cross-entropy of the query."""
        target = target if self.loss_ignore else target.masked_fill(target == IGNORE, 0)
        return {"main": cross_entropy(prediction.logits, target)}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self
