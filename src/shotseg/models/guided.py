"""A few-shot model whose prior maps are the cues of matching: what needs no training is given, the rest is learnt.

Our own combination of PFENet, BAM or HDMNet with :mod:`shotseg.models.matching`, on the same frozen features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.models import matching
from shotseg.models.bam import BAM
from shotseg.models.blocks.prior_guided import PriorGuided
from shotseg.models.hdmnet import HDMNet
from shotseg.models.matching import Matching
from shotseg.models.pfenet import PFENet
from shotseg.priors.objectness import border_contrast

HOSTS: dict[str, type[PFENet] | type[BAM] | type[HDMNet]] = {"pfenet": PFENet, "bam": BAM, "hdmnet": HDMNet}
OWN = "matching."  # how the tensors of matching begin in a support
MAPS = 9


class Guided(nn.Module):
    """A host that is given the six cues of matching, their sum, and where features are strong (middle and deep level).

    encoder: of both.       host: "pfenet", "bam" or "hdmnet"; further ``options`` are keywords of its class.
    edges:   outside training the answer is drawn along the photo's edges, as matching's is.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        host: Literal["pfenet", "bam", "hdmnet"] = "pfenet",
        size: int = 384,
        edges: bool = True,
        **options: Any,
    ):
        super().__init__()
        self.host: Any = HOSTS[host](encoder, size=size, prior_maps=MAPS, **options)
        self.matching = Matching(encoder, size)
        self.edges = edges
        self.geometry = self.host.geometry

    @property
    def encoder(self) -> Encoder:
        return self.host.encoder

    @property
    def size(self) -> int:
        return self.host.size

    @property
    def masks_input(self) -> bool:
        return self.host.masks_input

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the encoder's features, once per image."""
        return self.host.encode(images)

    def encode_masked(self, images: Tensor, masks: Tensor) -> Features:
        """Features of the B K supports with all but the object hidden, then those of the whole photos."""
        hidden, whole = self.host.encode_masked(images, masks), self.encode(images.flatten(0, 1))
        return Features(hidden.maps + whole.maps, hidden.strides + whole.strides)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
        masked: Features | None = None,
    ) -> Support:
        """The host's support and that of matching. features: of the whole photos; masked: from :meth:`encode_masked`."""
        kept: dict[str, Any] = {}
        if self.masks_input:
            masked = self.encode_masked(images, masks) if masked is None else masked
            half = len(masked.maps) // 2
            kept["masked"] = Features(masked.maps[:half], masked.strides[:half])
            features = Features(masked.maps[half:], masked.strides[half:])
        features = self.encode(images.flatten(0, 1)) if features is None else features
        kept = kept or {"features": features}
        with torch.no_grad():
            known = self.matching.encode_support(images, masks, self.levels(features))
        host = self.host.encode_support(images, masks, class_names=class_names, **kept)
        return Support(host.tensors | {OWN + name: tensor for name, tensor in known.tensors.items()})

    def merge(self, supports: list[Support]) -> Support:
        """Several supports of one class as one, the classifiers of matching fitted on all shots."""
        if len(supports) == 1:
            return supports[0]
        known = self.matching.merge([_split(support)[1] for support in supports])
        host = Support.join([_split(support)[0] for support in supports])
        return Support(host.tensors | {OWN + name: tensor for name, tensor in known.tensors.items()})

    def forward(self, query: Features, support: Support, images: Tensor, class_id: Tensor | None = None) -> Prediction:
        """Logits (B, 2, H, W) and the host's side outputs; ``prior`` (B, 9, h, w) are the cues."""
        host, known = _split(support)
        with torch.no_grad():
            priors = self.cues(self.levels(query), known)
        prediction = self.host(query, host, images, priors=priors, class_id=class_id)
        if self.training or not self.edges:
            return prediction
        evidence = matching.along_edges(prediction.logits[:, 1] - prediction.logits[:, 0], images)
        return Prediction(torch.stack([-evidence / 2, evidence / 2], 1), prediction.extra)

    def levels(self, features: Features) -> Features:
        """The three maps that matching reads."""
        at = self.matching.levels
        return Features(tuple(features.maps[i] for i in at), tuple(features.strides[i] for i in at))

    def cues(self, query: Features, support: Support) -> Tensor:
        """(B, 9, h, w) in [0, 1] on the grid of the middle level."""
        _, middle_map, deep_map = query.maps
        grid = middle_map.shape[-2:]
        tokens = matching.hypercolumn(query).flatten(2).mT
        middle = tokens[..., self.matching.middle]
        deep = F.normalize(deep_map, dim=1).flatten(2).mT
        contrast = matching.contrast(middle, support, "all", self.matching.middle)
        maps = [  # in the order of matching.WEIGHTS
            contrast.unflatten(1, grid),
            matching.contrast(deep, support, "deep").unflatten(1, deep_map.shape[-2:]),
            matching.classify(tokens, support["ridge_all"][:, 0]).unflatten(1, grid),
            matching.classify(middle, support["ridge_middle"][:, 0]).unflatten(1, grid),
            border_contrast(middle_map),
            border_contrast(deep_map),
        ]
        cues = [_unit_range(_resize(cue, grid)) for cue in maps]
        evidence = sum(weight * cue for weight, cue in zip(matching.WEIGHTS.values(), cues)) - matching.LEVEL
        strength = [_unit_range(_resize(level.norm(dim=1), grid)) for level in (middle_map, deep_map)]
        return torch.stack([*cues, torch.sigmoid(torch.as_tensor(evidence)), *strength], 1)

    def predict(self, episode: Episode, query: Features | None = None, support: Features | None = None) -> Prediction:
        """An episode from pixels to logits; query, support: kept from :meth:`encode` (:meth:`encode_masked`)."""
        kept: dict[str, Any] = {"masked" if self.masks_input else "features": support}
        encoded = self.encode_support(episode.support, PriorGuided.masks_of(episode), **kept)
        query = self.encode(episode.query) if query is None else query
        return self(query, encoded, episode.query, class_id=episode.class_id)

    def loss(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        base_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The host's terms; train on their sum."""
        assert episode.query_mask is not None
        return self.host.losses(self.predict(episode, query, support), episode.query_mask, base_labels)


def _split(support: Support) -> tuple[Support, Support]:
    own = {name.removeprefix(OWN): t for name, t in support.tensors.items() if name.startswith(OWN)}
    return Support({name: t for name, t in support.tensors.items() if not name.startswith(OWN)}), Support(own)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h, w) maps, bilinear."""
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-6)
