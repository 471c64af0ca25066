"""CORENet's class-guided filter: attention from the class's name takes what is irrelevant out of the correlation.

Method page, section 6.4. Found in the paper: that it filters. The three forms are our reading; F are the transformer's features,
A in [0, 1] the attention on the query:

    gate      F (A + (1 - A) g)    g = sigmoid(conv [F, A]): where A is sure features pass untouched, elsewhere a learnt gate
                                   decides, so that an error of A is not final
    hard      F A
    residual  F (1 + A)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["gate", "hard", "residual"]


class ClassFilter(nn.Module):
    """form: which of the three.    dropout: chance, in training, that an image's attention is replaced by 1."""

    def __init__(self, width: int = 128, form: Form = "gate", dropout: float = 0.1):
        super().__init__()
        self.form, self.dropout = form, dropout
        self.gate = None
        if form == "gate":
            self.gate = nn.Sequential(nn.Conv2d(width + 1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """F (B, width, h, w), A (B, 1, h, w) in [0, 1] -> (B, width, h, w)."""
        if self.training and self.dropout:
            everywhere = torch.rand(len(x), 1, 1, 1, device=x.device) < self.dropout
            attention = torch.where(everywhere, torch.ones_like(attention), attention)
        if self.gate is not None:
            g = torch.sigmoid(self.gate(torch.cat([x, attention], 1)))
            return x * (attention + (1 - attention) * g)
        return attention * x if self.form == "hard" else x + attention * x
