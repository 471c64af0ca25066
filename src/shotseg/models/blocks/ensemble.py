"""BAM's ensemble (Lang et al., CVPR 2022, section 3.4): what a base learner knows is taken out of the meta learner's answer.

Also used by HDMNet and PI-CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shotseg.models.blocks.prior_guided import resize


class Ensemble(nn.Module):
    """Scene distances psi, the vote of K shots, and the merge of meta and base maps.

    class_ids:     original ids of the base classes; channel i + 1 of the base logits is the i-th in ascending order.
    shots:         K of the training; other numbers of shots vote with equal weights.
    hidden:        width of the vote's middle layer; 0 is one K -> K layer.
    restore_order: weights go back from the order of their ranks to that of the shots. False is the release of HDMNet and
                   PI-CLIP, where the index that should do so is the identity.
    train_vote:    False: the vote keeps its first random weights (in no optimiser group of that release).
    """

    def __init__(
        self,
        class_ids: Sequence[int] = (),
        shots: int = 1,
        hidden: int = 2,
        restore_order: bool = True,
        train_vote: bool = True,
    ):
        super().__init__()
        self.shots, self.restore_order = shots, restore_order
        self.gram_merge, self.cls_merge = _merge(), _merge()
        self.vote = _vote(shots, hidden).requires_grad_(train_vote) if shots > 1 else None
        self.register_buffer("class_ids", torch.tensor(sorted(class_ids), dtype=torch.long), persistent=False)
        self.class_ids: Tensor

    def forward(self, meta: Tensor, base: Tensor, psi: Tensor, class_id: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """meta (B, 2, h, w) and base (B, N + 1, h', w') logits, psi (B, 1) -> final (B, 2, h, w), base map (B, 1, h, w).

        class_id: (B,) original ids; an episode's own class is left out of the base map while training.
        The final map is read like logits (argmax, cross entropy), though its entries are near [0, 1].
        """
        background, foreground = meta.softmax(1).split(1, 1)
        probability = base.softmax(1)[:, 1:]  # (B, N, h', w')
        if self.training and class_id is not None:
            own = class_id[:, None] == self.class_ids  # (B, N)
            probability = probability * ~own[..., None, None]
        known = resize(probability.sum(1, keepdim=True), meta.shape[-2:])
        distance = psi[..., None, None].expand_as(foreground)
        background = self.gram_merge(torch.cat([background, distance], 1))  # eq. 11
        foreground = self.gram_merge(torch.cat([foreground, distance], 1))
        background = self.cls_merge(torch.cat([background, known], 1))  # eq. 12
        return torch.cat([background, foreground], 1), known

    def weights(self, distances: Tensor) -> Tensor:
        """psi of each shot (B, K) -> its weight (B, K), summing to 1 (eq. 14-16: near scenes may weigh more)."""
        shots = distances.shape[1]
        if self.vote is None or shots != self.shots:
            return torch.full_like(distances, 1 / shots)
        ranked, order = distances.sort(1)
        weights = self.vote(ranked[..., None, None]).flatten(1)
        if self.restore_order:
            weights = weights.gather(1, order.argsort(1))
        return weights.softmax(1)


def gram(low: Tensor) -> Tensor:
    """Style of (B, C, h, w) features: the cosine between every two channels, (B, C, C) (eq. 9)."""
    rows = low.flatten(2)
    norm = rows.norm(dim=2)
    return rows @ rows.transpose(1, 2) / (norm[:, :, None] * norm[:, None] + 1e-7)


def scene_distance(query: Tensor, support: Tensor) -> Tensor:
    """psi (eq. 10): query gram (B, C, C), support grams (B, K, C, C) -> (B, K), the norm of their difference over C."""
    return (query[:, None] - support).flatten(2).norm(dim=2) / query.shape[-1]


def _merge() -> nn.Conv2d:
    """A 1x1 conv of two maps into one that starts as the first of them."""
    conv = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    return conv


def _vote(shots: int, hidden: int) -> nn.Module:
    if hidden:
        return nn.Sequential(nn.Conv2d(shots, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, shots, 1))
    conv = nn.Conv2d(shots, shots, 1, bias=False)
    nn.init.constant_(conv.weight, 1 / shots)
    return conv
