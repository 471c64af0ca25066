"""CST: Distilling Self-Supervised Vision Transformers for Weakly-Supervised Few-Shot Classification and Segmentation
(Kang, Koniusz, Cho and Murray, CVPR 2023).

A query place is described by its cosines to a support photo's tokens, in every layer and head of a frozen ViT; a small
transformer over the support's tokens turns them into two answers: is the class in the query, and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Episode, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.blocks.correlation_tokens import Correlation, patches
from shotseg.models.blocks.correlation_transformer import MEMORY, Block, bias_of
from shotseg.models.blocks.imagenet_guide import ImageNetGuide
from shotseg.models.blocks.mask_head import MaskHead, PresenceHead, common
from shotseg.models.blocks.prior_guided import cross_entropy
from shotseg.models.blocks.token_model import TokenModel, mean_of, query_mask_of
from shotseg.priors.dino_masks import THRESHOLD, similarity_masks

Supervision = Literal["image", "pseudo", "pixel"]


class Answers(NamedTuple):
    presence: Tensor  # (B, 2) logits: absent, present
    presence_map: Tensor  # (B, 2, h', w'), whose mean they are
    mask: Tensor  # (B, 2, 2h, 2w) logits


class Learner(nn.Module):
    """All that is trained: the correlation transformer (two blocks, 12 x 12 patches to one) and the two heads."""

    def __init__(self, channels: int, kernels: Sequence[int] = (4, 3), width: int = 128):
        super().__init__()
        first, second = kernels
        self.transformer = nn.ModuleList([Block(channels, width // 4, first), Block(width // 4, width, second)])
        self.common = common(width)
        self.presence, self.mask = PresenceHead(width), MaskHead(width)

    def forward(
        self, x: Tensor | Correlation, grid: Sequence[int], biases: Sequence[Tensor | None], memory: int = MEMORY
    ) -> Answers:
        """x (B, C, h w, 1 + s s) correlation tokens, the class token first; biases: (B, 1 + s s) for each block, or None."""
        for block, bias in zip(self.transformer, biases):
            x = block(x, bias, memory)
        assert isinstance(x, Tensor)
        klass, patch = self.common(x).unflatten(2, tuple(grid)).unbind(-1)
        evidence = self.presence(klass)
        return Answers(evidence.mean((2, 3)), evidence, self.mask(patch))


class CST(TokenModel):
    """encoder, size, side, stride: see :class:`TokenModel`.

    supervision: "pixel": masks as they are given. "pseudo": a ViT's own masks of support and query, whatever is given; on an
                 encoder without a class token the given ones (which training makes from class names), and for a support
                 without one the mask is made from its class name. "image": no mask at all; only presence is learnt, and
                 the mask is read off the presence head's map.
    threshold:   of the ViT's masks; "otsu" for encoders other than DINO ViT-S/8, None chooses by the encoder.
    presence:    weight of the presence loss.
    loss_ignore: pixels of 255 are left out of the loss; the release counts them as background.
    kernels:     pooling of the two blocks; their product is ``side``.
    memory:      bytes that correlation tokens and attention may take at once; the result does not depend on it.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int | None = None,
        supervision: Supervision = "pseudo",
        threshold: float | Literal["otsu"] | None = None,
        presence: float = 0.1,
        loss_ignore: bool = True,
        side: int = 12,
        kernels: Sequence[int] = (4, 3),
        width: int = 128,
        stride: int = 16,
        memory: int = MEMORY,
    ):
        super().__init__(encoder, size, side, stride)
        if side != kernels[0] * kernels[1]:
            raise UsageError(f"kernels {tuple(kernels)} reduce a side of {kernels[0] * kernels[1]}, not {side}")
        self.supervision, self.weight, self.memory = supervision, presence, memory
        self.loss_ignore = loss_ignore
        self.rests = supervision == "image"  # the mask's head
        self.threshold = threshold or (THRESHOLD if encoder.name == "dino-vits8" else "otsu")
        self.sides = (side, side // kernels[0])
        self.own_masks = supervision == "pseudo" and self.asks_keys
        self.needs = "masks" if supervision == "pixel" else "photos"
        self.learner = Learner(len(self.heads), kernels, width)
        self.guide = ImageNetGuide(encoder) if supervision == "pseudo" and not self.asks_keys else None

    def encode(self, images: Tensor) -> Features:
        features = super().encode(images)
        return features if self.guide is None else self.guide.seen_with(features, images)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor | None,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W), masks (B, K, H, W) in {0, 1, 255} or None -> ``tokens`` (B, K, C, width, 1 + s s), unit
        length a head, the class token first; ``bias0``, ``bias1`` (B, K, 1 + s s); ``query`` (B, K, D) of a ViT's class
        token."""
        shape = images.shape[:2]
        features = self.encode(images.flatten(0, 1)) if features is None else features
        maps, classes = self.layers(features)
        tokens = self.heads(torch.cat([classes[..., None], patches(maps, self.side)], 2))
        tensors = {"tokens": tokens}
        inside = self.inside(images.flatten(0, 1), masks, features, class_names)
        for i, side in enumerate(self.sides):
            bias = tokens.new_zeros(len(tokens), side**2) if inside is None else bias_of(inside, side, soft=False)
            tensors[f"bias{i}"] = F.pad(bias, (1, 0))  # the class token is never hidden
        if self.asks_keys:
            tensors["query"] = features.classes[self.taps]
        return Support({name: tensor.unflatten(0, shape) for name, tensor in tensors.items()})

    def inside(
        self, images: Tensor, masks: Tensor | None, features: Features, class_names: Sequence[str] | None
    ) -> Tensor | None:
        """(N, H, W) in {0, 1} of N support photos, None where masks play no part."""
        if self.supervision == "image":
            return None
        if self.own_masks:
            return similarity_masks(self.similarity(features), images.shape[-2:], self.threshold).float()
        if masks is not None:
            return (masks.flatten(0, 1) == 1).float()
        if self.guide is None:
            raise UsageError("supervision='pixel' learns from support masks: give one for each support image")
        return (self.guide.masks(features, images, class_names) > 0.5).float()

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, 2h, 2w); extra: ``presence`` (B, 2), the logits of "absent" and "present"."""
        maps, _ = self.layers(query)
        tokens = self.heads(maps.flatten(2))
        answers = []
        for shot in range(support.shots):
            biases = [support[f"bias{i}"][:, shot] for i in range(2)]
            correlation = Correlation(tokens, support["tokens"][:, shot])
            answers.append(self.learner(correlation, maps.shape[-2:], biases, self.memory))
        logits = mean_of([a.presence_map if self.supervision == "image" else a.mask for a in answers])
        return Prediction(logits, {"presence": mean_of([a.presence for a in answers])})

    def loss(
        self, episode: Episode, query: Features | None = None, support: Features | None = None
    ) -> dict[str, Tensor]:
        """``presence``, and ``mask`` unless the supervision is "image"; query, support: see :meth:`predict`."""
        given = query_mask_of(episode)
        present = (given == 1).flatten(1).any(1) if episode.present is None else episode.present
        query = self.encode(episode.query) if query is None else query
        support = self.encode(episode.support.flatten(0, 1)) if support is None else support
        target = given if not self.own_masks else self.query_mask(query, support, present, episode)
        return self.losses(self.predict(episode, query, support), target, present)

    def query_mask(self, query: Features, support: Features, present: Tensor, episode: Episode) -> Tensor:
        """(B, H, W) int64 in {0, 1}: where the query's keys answer the class token of the (first) support, if it shows it."""
        asking = support[slice(None, None, episode.support.shape[1])]
        similarity = self.similarity(query, asking)
        return similarity_masks(similarity, episode.query.shape[-2:], self.threshold, present).long()

    def losses(self, prediction: Prediction, target: Tensor, present: Tensor) -> dict[str, Tensor]:
        """target (B, H, W) in {0, 1, 255}, present (B,) bool."""
        terms = {"presence": self.weight * F.cross_entropy(prediction.extra["presence"], present.long())}
        if self.supervision == "image":
            return terms
        target = target if self.loss_ignore else target.masked_fill(target == IGNORE, 0)
        return terms | {"mask": cross_entropy(prediction.logits, target)}


def decide(predictions: Sequence[Prediction], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """N ways at once: which of N classes are there, (B, N) bool, and where, (B, H, W) int64 in 0..N at ``size``.

    A class is there where its presence is above 1/2; a pixel is that of its likeliest class if its foreground reaches 1/2,
    else background, so a query may well show none of them.
    """
    present = torch.stack([p.extra["presence"].softmax(1)[:, 1] > 0.5 for p in predictions], 1)
    sized = [F.interpolate(p.logits, tuple(size), mode="bilinear", align_corners=True) for p in predictions]
    best, way = torch.stack([x.softmax(1)[:, 1] for x in sized], 1).max(1)
    return present, torch.where(best >= 0.5, way + 1, 0)
