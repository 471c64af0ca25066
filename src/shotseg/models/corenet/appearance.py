"""CORENet's embedding-guided module: the look of support and query in each stage beside the filtered correlation.

Method page, section 7. Found in the paper: that each layer's support and query appearance are combined with it. The inside
follows VAT's appearance-guided decoder (Hong et al., ECCV 2022). For every stage i, deep to shallow:

    E_i = conv1 [q_i, p_i, cos(q_i, p_i)]    q_i the query's layers of the stage, p_i the mean of the support's object in them
    x  <- x + conv3 [x, dropout(E_i)]        conv1, conv3: a 1x1 or 3x3 convolution, a norm, ReLU
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.models.corenet.kernel_fusion import normed


class Appearance(nn.Module):
    """channels: of each layer, shallow to deep.
    stages:   into how many groups of layers they fall; a stage's layers are averaged, or joined where their widths differ.
    """

    def __init__(self, channels: Sequence[int], width: int = 128, stages: int = 3, dropout: float = 0.5):
        super().__init__()
        ends = np.cumsum(channels).tolist()
        layers = [slice(end - size, end) for end, size in zip(ends, channels)]  # channels of each
        groups = np.array_split(np.arange(len(channels)), min(stages, len(channels)))
        self.stages = [[layers[i] for i in group] for group in reversed(groups)]
        widths = [self.stage(torch.zeros(1, ends[-1]), i).shape[1] for i in range(len(self.stages))]
        self.embed = nn.ModuleList(normed(nn.Conv2d(2 * w + 1, width // 2, 1, bias=False)) for w in widths)
        self.join = nn.ModuleList(
            normed(nn.Conv2d(width + width // 2, width, 3, padding=1, bias=False)) for _ in widths
        )
        self.drop = nn.Dropout2d(dropout)

    def stage(self, tokens: Tensor, number: int) -> Tensor:
        """(B, sum of channels, ...) -> (B, channels of the stage, ...)."""
        layers = [tokens[:, channels] for channels in self.stages[number]]
        same_width = len({layer.shape[1] for layer in layers}) == 1
        return torch.stack(layers).mean(0) if same_width else torch.cat(layers, 1)

    def forward(self, x: Tensor, query: Tensor, prototype: Tensor) -> Tensor:
        """x (B, width, h, w); query (B, sum of channels, h, w), every layer; prototype (B, sum of channels), the mean of the
        support's object in every layer -> (B, width, h, w)."""
        for number, (embed, join) in enumerate(zip(self.embed, self.join)):
            q, p = self.stage(query, number), self.stage(prototype, number)[..., None, None]
            cosine = F.cosine_similarity(q, p, dim=1)[:, None]
            embedding = embed(torch.cat([q, p.expand_as(q), cosine], 1))
            x = x + join(torch.cat([x, self.drop(embedding)], 1))
        return x
