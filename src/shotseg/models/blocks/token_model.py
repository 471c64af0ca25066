"""What CST and CORENet share: frozen tokens of every layer on one grid, supports encoded once; and the answer of K shots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.vit import Tokens, ViT
from shotseg.errors import UsageError
from shotseg.models.blocks.correlation_tokens import heads_of, joined, on_grid
from shotseg.models.few_shot_model import FewShot
from shotseg.priors.dino_masks import key_similarity

SIZE = 400  # pixels, CST's; the next smaller multiple of the encoder's patch is taken


class TokenModel(FewShot):
    """A frozen encoder whose layers are compared head by head.

    encoder: any ViT, or a CNN: its maps, finer ones averaged to ``stride``, with groups of 64 channels as heads and the
             global mean as class token.
    size:    side of the square that photos are squashed to; None = 400, or less to fit the encoder's patch.
    side:    of the support's grid of patch tokens.
    stride:  of a CNN's grid.
    """

    geometry = "squash"

    def __init__(self, encoder: Encoder, size: int | None, side: int, stride: int):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.size = size or SIZE // encoder.patch * encoder.patch
        self.side, self.taps = side, len(encoder.channels)
        self.stride = encoder.patch if isinstance(encoder, ViT) else stride
        self.asks_keys = isinstance(encoder, ViT) and encoder.net.num_prefix_tokens > 0
        self.heads = heads_of(encoder, encoder.channels)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> every layer's map and class token. A ViT's are followed by the last block's patch keys
        (B, D, h, w) and the class token's query (B, D), which its pseudo masks are made of."""
        if not self.asks_keys:
            return on_grid(self.encoder(images), self.stride)
        assert isinstance(self.encoder, ViT)
        tokens = self.encoder.tokens(images)
        keys, query = tokens.keys[-1][:, :, tokens.prefix :], tokens.queries[-1][:, :, 0]
        maps = (*map(tokens.map, tokens.layers), keys.transpose(2, 3).flatten(1, 2).unflatten(2, tokens.grid))
        classes = (*(layer[:, 0] for layer in tokens.layers), query.flatten(1))
        return Features(maps, (self.stride,) * len(maps), classes)

    def layers(self, features: Features) -> tuple[Tensor, Tensor]:
        """All layers on one grid (B, sum of channels, h, w), and their class tokens (B, sum of channels)."""
        return joined(features.maps[: self.taps]), torch.cat(features.classes[: self.taps], 1)

    def similarity(self, features: Features, asking: Features | None = None) -> Tensor:
        """(B, 1, h, w) in [-1, 1]: a ViT's patch keys against the class token's query of the image, or of ``asking``."""
        heads = self.encoder.net.blocks[-1].attn.num_heads  # type: ignore[union-attr, index]
        keys, query = features.maps[self.taps], (asking or features).classes[self.taps].unflatten(1, (heads, -1))
        apart = keys.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3)
        return key_similarity(Tokens((), (), (apart,), (), (keys.shape[-2], keys.shape[-1]), 0), query)

    def predict(self, episode: Episode, query: Features | None = None, support: Features | None = None) -> Prediction:
        """An episode from pixels to logits; query, support: of :meth:`encode` (the B K supports), None computes them."""
        encoded = self.encode_support(episode.support, episode.support_mask, support, episode.class_name)
        return self(self.encode(episode.query) if query is None else query, encoded, episode.query)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor | None,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self


def mean_of(shots: Sequence[Tensor]) -> Tensor:
    """Logits (B, 2, ...) of each shot -> logits of the mean of their probabilities."""
    if len(shots) == 1:
        return shots[0]
    return torch.stack([shot.log_softmax(1) for shot in shots]).logsumexp(0)


def agreed(shots: Sequence[Tensor]) -> Tensor:
    """Logits (B, 2, h, w) of each of K shots -> logits of their mean probability, positive from half of its highest on.

    That highest counts as 1 / K at least. It is HSNet's vote of masks, with probabilities in place of masks: where each shot
    finds another part, none is found by half of all.
    """
    if len(shots) == 1:
        return shots[0]
    mean = mean_of(shots)
    half = mean.softmax(1)[:, 1].flatten(1).amax(1).clamp(min=1 / len(shots)) / 2
    return torch.stack([mean[:, 0], mean[:, 1] - torch.logit(half)[:, None, None]], 1)


def shown(masks: Tensor) -> Tensor:
    """Masks (..., H, W) in {0, 1, 255} -> (..., H, W) float: 1, 0, and 1/2 where nothing is known."""
    return (masks == 1).float() + 0.5 * (masks == 255)


def query_mask_of(episode: Episode) -> Tensor:
    if episode.query_mask is None:
        raise UsageError("training needs a mask of every query; a pseudo mask will do (data.supervision: pseudo)")
    return episode.query_mask
