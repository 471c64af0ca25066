"""Attention between the rows of a map, its weights replaced by an optimal transport plan (TLG: heterogeneous transport).

The plan is Sinkhorn's (Cuturi, NeurIPS 2013), computed on logarithms so that nothing underflows and gradients flow through.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REG = 0.5  # weight of the entropy; lambda = 2 in the paper's figure
LOWEST = 1e-6  # what an attention of 0 is lifted to, as in the release


def sinkhorn(cost: Tensor, reg: float = REG, iterations: int = 50) -> Tensor:
    """The plan (B, n, m) of least <plan, cost> - reg entropy(plan) whose rows sum to 1 / n and whose columns to 1 / m.

    cost: (B, n, m). A fixed number of iterations, all of the batch at once; differentiable; in float32 at least, as the
    sums would drift in half precision.
    """
    cost = cost.to(torch.promote_types(cost.dtype, torch.float32))
    n, m = cost.shape[-2:]
    kernel = -cost / reg
    columns = cost.new_zeros(*cost.shape[:-2], 1, m)
    rows = cost.new_zeros(*cost.shape[:-2], n, 1)
    for _ in range(iterations):
        columns = -math.log(m) - (kernel + rows).logsumexp(-2, keepdim=True)
        rows = -math.log(n) - (kernel + columns).logsumexp(-1, keepdim=True)
    return (kernel + rows + columns).exp()


class SelfAttention(nn.Module):
    """Tokens (B, n, C) to (B, n, C), n even, without residual or norm.

    One Linear gives keys at even and values at odd tokens, n / 2 of each: the published weights are made for it.
    """

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.1):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        def apart(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, d)

        both = self.kv(tokens)
        x = F.scaled_dot_product_attention(apart(self.q(tokens)), apart(both[:, ::2]), apart(both[:, 1::2]))
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))


class TransportAttention(nn.Module):
    """Queries of (B, n, C) tokens, keys and values of (B, m, C) tokens, one head, no biases -> (B, n, C).

    transport:  "sinkhorn": the weights are the plan of the cost 1 - softmax attention. "none": the attention itself.
    plan_scale: "uniform": rows of the plan sum to 1 / n, as released. "rows": to 1, as an attention's do.
    detach:     no gradient through the plan, as in the release, which computes it outside torch.
    """

    def __init__(
        self,
        width: int,
        *,
        transport: Literal["sinkhorn", "none"] = "sinkhorn",
        plan_scale: Literal["uniform", "rows"] = "uniform",
        detach: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.transport, self.plan_scale, self.detach = transport, plan_scale, detach
        self.q_fc, self.k_fc, self.v_fc, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = self.q_fc(queries) @ self.k_fc(keys).mT / math.sqrt(keys.shape[-1])
        weights, values = self.dropout(scores.softmax(-1)), self.v_fc(keys)
        if self.transport == "sinkhorn":
            weights = self.plan(weights)
        return self.proj(weights.to(values) @ values)

    def plan(self, attention: Tensor) -> Tensor:
        """The transport plan (B, n, m) of an attention (B, n, m) in [0, 1]."""
        lifted = torch.where(attention == 0, LOWEST, attention)
        plan = sinkhorn(1 - (lifted.detach() if self.detach else lifted))
        return plan * plan.shape[1] if self.plan_scale == "rows" else plan
