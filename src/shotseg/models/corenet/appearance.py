"""CORENet's embedding-guided module: the look of support and query in each stage beside the filtered correlation.

Method page, section 7. Found in the paper: that each layer's support and query appearance are combined with it. The inside
follows VAT's appearance-guided decoder (Hong et al., ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.models.corenet.kernel_fusion import normed


class Appearance(nn.Module):
    """Three stages of layers, deep to shallow; a stage's layers are averaged, or joined where their widths differ.

    channels: of each layer, shallow to deep.
    """

    def __init__(self, channels: Sequence[int], width: int = 128, stages: int = 3, dropout: float = 0.5):
        super().__init__()
        ends = np.cumsum(channels).tolist()
        every = [range(end - size, end) for end, size in zip(ends, channels)]
        parted = np.array_split(np.arange(len(channels)), min(stages, len(channels)))
        self.stages = [[every[i] for i in part] for part in reversed(parted)]
        widths = [len(self.stage(torch.zeros(1, ends[-1]), i)[0]) for i in range(len(self.stages))]
        self.embed = nn.ModuleList(normed(nn.Conv2d(2 * w + 1, width // 2, 1, bias=False)) for w in widths)
        self.join = nn.ModuleList(
            normed(nn.Conv2d(width + width // 2, width, 3, padding=1, bias=False)) for _ in widths
        )
        self.drop = nn.Dropout2d(dropout)

    def stage(self, tokens: Tensor, number: int) -> Tensor:
        """(B, sum of channels, ...) -> (B, channels of the stage, ...)."""
        layers = [tokens[:, own.start : own.stop] for own in self.stages[number]]
        same = len({layer.shape[1] for layer in layers}) == 1
        return torch.stack(layers).mean(0) if same else torch.cat(layers, 1)

    def forward(self, x: Tensor, query: Tensor, prototype: Tensor) -> Tensor:
        """x (B, width, h, w); query (B, sum of channels, h, w), every layer; prototype (B, sum of channels), the mean of the
        support's object in every layer -> (B, width, h, w)."""
        for number, (embed, join) in enumerate(zip(self.embed, self.join)):
            seen, wanted = self.stage(query, number), self.stage(prototype, number)[..., None, None]
            likeness = F.cosine_similarity(seen, wanted, dim=1)[:, None]
            embedding = embed(torch.cat([seen, wanted.expand_as(seen), likeness], 1))
            x = x + join(torch.cat([x, self.drop(embedding)], 1))
        return x
