"""CORENet's correlation-guided transformer: global tokens, several pooling kernels side by side, and their fusion.

Found in the paper: local-to-local and local-to-global similarity, and a multi-kernel information fusion in this module. Its
inside is not known; here it is CST's transformer (blocks of :mod:`.correlation_transformer`), widened (method page, 5.3, 5.4).
With one branch, no token but the class token and nothing on the query plane it is CST's.
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


class CorrelationGuidedTransformer(nn.Module):
    """Correlation tokens -> one vector a query place.

    tokens:  what stands before the patches, as type numbers, equal ones together: 0 the class token, 1 foreground, 2 a
             background cell.
    kernels: pooling of the two blocks of each branch; every product is the side of the support grid.
    fusion:  branches side by side and a 1x1 conv, or their sum with learnt softmax weights.
    plane:   depthwise 3, 5 and 7 kernels on the query's plane too, starting at nothing.
    read_out: "all" joins the pooled patches with the global tokens; "cst" is CST's head on the pooled patches alone.
    """

    def __init__(
        self,
        channels: int,
        tokens: Sequence[int] = (0, 1, 2, 2, 2, 2, 2),
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
        firsts = {kind: list(tokens).index(kind) for kind in sorted({0, *tokens})}
        self.kinds = [slice(first, first + list(tokens).count(kind)) for kind, first in firsts.items()]
        self.fusion = fusion
        self.register_buffer("index", torch.tensor([*tokens, *[3] * side**2]), persistent=False)
        self.index: Tensor
        self.types = nn.Parameter(torch.zeros(4, channels))  # foreground and background tokens look alike without it
        count, hidden = len(tokens), width // 4
        self.first = nn.ModuleList(Block(channels, hidden, a, globals_=count) for a, _ in kernels)
        self.second = nn.ModuleList(Block(hidden, width, b, globals_=count) for _, b in kernels)
        self.sides = [(side, side // a) for a, _ in kernels]
        self.fuse = (
            normed(nn.Conv2d(width * len(kernels), width, 1)) if fusion == "concat" and len(kernels) > 1 else None
        )
        self.balance = nn.Parameter(torch.zeros(len(kernels))) if fusion == "sum" else None
        parts = 1 + len(self.kinds)
        self.read = common(width) if read_out == "cst" else normed(nn.Conv2d(parts * width, width, 1, bias=False))
        self.read_out = read_out
        self.plane = QueryPlane(width) if plane else None

    def forward(
        self, query: Tensor, support: Tensor, biases: Mapping[int, Tensor], grid: Sequence[int], memory: int = MEMORY
    ) -> Tensor:
        """query (B, C, w, h w) and support (B, C, w, G + s s) of unit length, biases (B, G + s' s') by s' -> (B, width, h, w)."""
        offset = self.types[self.index].T
        x = Correlation(query, support, offset)
        attended = attend(list(self.first), x, [biases[a] for a, _ in self.sides], memory)  # type: ignore[arg-type]
        branches = [
            second(first.finish(own), biases[b], memory)  # type: ignore[operator]
            for first, second, own, (_, b) in zip(self.first, self.second, attended, self.sides)
        ]
        tokens = self.joined(branches)  # (B, width, Q, G + 1)
        if self.read_out == "cst":  # its norms span the class token too
            found = self.read(tokens)[..., -1]
        else:
            globals_ = [tokens[..., kind].mean(-1) for kind in self.kinds]
            found = self.read(torch.cat([tokens[..., -1], *globals_], 1)[..., None])[..., 0]
        found = found.unflatten(2, tuple(grid))
        return found if self.plane is None else self.plane(found)

    def joined(self, branches: Sequence[Tensor]) -> Tensor:
        if self.balance is not None:
            return (torch.stack(list(branches), -1) * self.balance.softmax(0)).sum(-1)
        return branches[0] if self.fuse is None else self.fuse(torch.cat(list(branches), 1))


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


def on(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, P, h, w) averaged (or repeated) to another grid."""
    return maps if maps.shape[-2:] == tuple(size) else F.adaptive_avg_pool2d(maps, (size[0], size[1]))
