"""CORENet's correlation-guided transformer: global tokens, several pooling kernels side by side, and their fusion.

Found in the paper: local-to-local and local-to-global similarity, and a multi-kernel information fusion in this module. Its
inside is not known; here it is CST's transformer (blocks of :mod:`.correlation_transformer`), widened (method page, 5.3, 5.4):

    c     = <t_q, t_s> + e_type                 the correlation of a query place with every support token; e learnt   (5.3)
    T_k   = block_k2(block_k1(c))               a branch for each pair of pooling kernels (k1, k2): one patch token is left  (5.4)
    T     = conv [T_1, T_2, ...]                or the sum of the branches with learnt softmax weights
    F     = conv [patch, class, foreground, mean of background] of T
    F     + W0 (dw3 F + dw5 F + dw7 F)          on the query's plane, W0 starting at zero

With one branch, no token but the class token and nothing on the query's plane it is CST's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.errors import UsageError
from shotseg.models.blocks.correlation_tokens import Correlation
from shotseg.models.blocks.correlation_transformer import MEMORY, Block, attend
from shotseg.models.blocks.mask_head import common

Fusion = Literal["concat", "sum"]
ReadOut = Literal["all", "cst"]

CLASS, FOREGROUND, BACKGROUND, PATCH = range(4)  # types of support tokens


class CorrelationGuidedTransformer(nn.Module):
    """Correlation tokens -> F, one vector a query place.

    channels: correlation channels C, one a head and layer.
    tokens:   types of the G global tokens, which stand before the patches, equal ones together: the class token, foreground,
              background cells.
    side:     of the support's grid of patches.
    kernels:  (k1, k2) of each branch; every product is ``side``.
    fusion:   branches side by side and a 1x1 conv, or their sum with learnt softmax weights.
    plane:    depthwise 3, 5 and 7 kernels on the query's plane too.
    read_out: "all" joins the pooled patches with the global tokens; "cst" is CST's head on the pooled patches alone.
    """

    def __init__(
        self,
        channels: int,
        tokens: Sequence[int] = (CLASS, FOREGROUND, *[BACKGROUND] * 5),
        side: int = 12,
        kernels: Sequence[Sequence[int]] = ((4, 3), (6, 2), (3, 4)),
        width: int = 128,
        fusion: Fusion = "concat",
        plane: bool = True,
        read_out: ReadOut = "all",
    ):
        super().__init__()
        if wrong := [pair for pair in kernels if len(pair) != 2 or pair[0] * pair[1] != side]:
            raise UsageError(f"kernels {tuple(wrong[0])}: two numbers whose product is {side}, the support grid's side")
        firsts = {kind: list(tokens).index(kind) for kind in sorted({CLASS, *tokens})}
        self.global_types = [slice(first, first + list(tokens).count(kind)) for kind, first in firsts.items()]
        self.register_buffer("index", torch.tensor([*tokens, *[PATCH] * side**2]), persistent=False)
        self.index: Tensor  # the type of each support token
        self.types = nn.Parameter(torch.zeros(4, channels))  # e: foreground and background look alike without it
        count, hidden = len(tokens), width // 4
        self.first = nn.ModuleList(Block(channels, hidden, k1, globals_=count) for k1, _ in kernels)
        self.second = nn.ModuleList(Block(hidden, width, k2, globals_=count) for _, k2 in kernels)
        self.sides = [(side, side // k1) for k1, _ in kernels]  # of the patches that each block of a branch attends to
        self.fuse = (
            normed(nn.Conv2d(width * len(kernels), width, 1)) if fusion == "concat" and len(kernels) > 1 else None
        )
        self.balance = nn.Parameter(torch.zeros(len(kernels))) if fusion == "sum" else None
        parts = 1 + len(self.global_types)
        self.read = common(width) if read_out == "cst" else normed(nn.Conv2d(parts * width, width, 1, bias=False))
        self.read_out = read_out
        self.plane = QueryPlane(width) if plane else None

    def forward(
        self, query: Tensor, support: Tensor, biases: Mapping[int, Tensor], grid: Sequence[int], memory: int = MEMORY
    ) -> Tensor:
        """query (B, C, d, h w) and support (B, C, d, G + s s) of unit length -> F (B, width, h, w).

        biases: by the side s' of a block's patches, (B, G + s' s') that is added to its logits.    grid: (h, w).
        """
        correlation = Correlation(query, support, self.types[self.index].T)
        features = self.read_tokens(self.fused(self.branches(correlation, biases, memory)))
        features = features.unflatten(2, tuple(grid))
        return features if self.plane is None else self.plane(features)

    def branches(self, correlation: Correlation, biases: Mapping[int, Tensor], memory: int) -> list[Tensor]:
        """Each branch's tokens (B, width, h w, G + 1): the global tokens, then the one that the patches became."""
        first_biases = [biases[first_side] for first_side, _ in self.sides]
        attended = attend(list(self.first), correlation, first_biases, memory)  # type: ignore[arg-type]
        return [
            second(first.finish(tokens), biases[second_side], memory)  # type: ignore[operator]
            for first, second, tokens, (_, second_side) in zip(self.first, self.second, attended, self.sides)
        ]

    def fused(self, branches: Sequence[Tensor]) -> Tensor:
        """(B, width, h w, G + 1) of all branches."""
        if self.balance is not None:
            return (torch.stack(list(branches), -1) * self.balance.softmax(0)).sum(-1)
        return branches[0] if self.fuse is None else self.fuse(torch.cat(list(branches), 1))

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """(B, width, h w, G + 1) -> (B, width, h w)."""
        if self.read_out == "cst":  # its norms span the class token too
            return self.read(tokens)[..., -1]
        means = [tokens[..., places].mean(-1) for places in self.global_types]
        return self.read(torch.cat([tokens[..., -1], *means], 1)[..., None])[..., 0]


class QueryPlane(nn.Module):
    """F + W0 (dw3 F + dw5 F + dw7 F), W0 starting at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2, groups=width) for k in (3, 5, 7))
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.stack([conv(x) for conv in self.depthwise]).sum(0))


def normed(conv: nn.Conv2d) -> nn.Sequential:
    """The convolution, a norm over 4 groups, ReLU."""
    return nn.Sequential(conv, nn.GroupNorm(4, conv.out_channels), nn.ReLU())


def averaged_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, P, h, w) averaged (or repeated) to a grid of another size (h, w)."""
    return maps if maps.shape[-2:] == tuple(size) else F.adaptive_avg_pool2d(maps, (size[0], size[1]))
