"""CORENet's class-guided filter: attention from the class's name takes what is irrelevant out of the correlation.

Method page, section 6.4. Found in the paper: that it filters. The three forms are our reading.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["gate", "hard", "residual"]


class ClassFilter(nn.Module):
    """form: "gate": where the attention is sure, features pass untouched, elsewhere a learnt gate decides, so that an error of
          the attention is not final. "hard": features times attention. "residual": features times 1 + attention.
    dropout: chance, in training, that an image's attention is replaced by 1.
    """

    def __init__(self, width: int = 128, form: Form = "gate", dropout: float = 0.1):
        super().__init__()
        self.form, self.dropout = form, dropout
        self.gate = None
        if form == "gate":
            self.gate = nn.Sequential(nn.Conv2d(width + 1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """x (B, width, h, w), attention (B, 1, h, w) in [0, 1] -> (B, width, h, w)."""
        if self.training and self.dropout:
            whole = torch.rand(len(x), 1, 1, 1, device=x.device) < self.dropout
            attention = torch.where(whole, torch.ones_like(attention), attention)
        if self.gate is not None:
            learnt = torch.sigmoid(self.gate(torch.cat([x, attention], 1)))
            return x * (attention + (1 - attention) * learnt)
        return attention * x if self.form == "hard" else x + attention * x
