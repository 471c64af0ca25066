"""HDMNet's transformer (sections 3.2 to 3.4): three levels, coarse to fine. B images, C channels, h x w cells of a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.models.blocks.norm import BatchNorm
from shotseg.models.blocks.prior_guided import resize

LEVELS = 3


class Decoded(NamedTuple):
    logits: Tensor  # (B, 2, h, w) at the finest level
    correlations: tuple[Tensor, ...]  # (B, h_i, w_i), coarse to fine
    matches: tuple[Tensor, ...]  # (B, C, h_i, w_i), fine to coarse, before and ...
    joined: tuple[Tensor, ...]  # ... after the priors join
    fused: Tensor  # (B, C, h, w) at the finest level, of all


class MixTransformer(nn.Module):
    """Down: self-attention levels, the same for query and support. Across: matching. Up: convolutions to two classes."""

    def __init__(self, channels: int = 64, prior_maps: int = 2):
        super().__init__()
        heads, reductions = (2, 4, 8), (4, 2, 1)
        self.down = nn.ModuleList(Level(channels, i, heads[i], reductions[i]) for i in range(LEVELS))
        self.match = nn.ModuleList(MatchBlock(channels) for _ in range(LEVELS))
        self.fuse = nn.ModuleList(Fuse(channels + prior_maps, channels) for _ in range(LEVELS))
        self.parse = nn.ModuleList(_convolutions(channels, channels, last_norm=True) for _ in range(LEVELS))
        self.cls = _convolutions(channels, 2)

    def levels(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> its tokens as maps, fine to coarse: (B, C, h_i, w_i), sides halved (upwards) level by level."""
        maps = []
        for level in self.down:
            x = level(x)
            maps.append(x)
        return maps

    def decode(
        self, query: Sequence[Tensor], support: Sequence[tuple[Tensor, Tensor]], priors: Tensor, share: float = 1.0
    ) -> Decoded:
        """query: levels (B, C, h_i, w_i). support: levels of tokens (B, K, C, h_i, w_i) and inside (B, K, h_i, w_i) in {0, 1}.
        share: what a pixel of the support counts in a match, which is a sum over all of them."""
        levels = [(tokens.flatten(3).transpose(2, 3).flatten(1, 2), inside.flatten(1)) for tokens, inside in support]
        matched = [block(q, *own, share) for block, q, own in zip(self.match, query, foreground_first(levels))]
        joined = [
            fuse(torch.cat([match, resize(priors, match.shape[-2:])], 1))
            for fuse, (match, _) in zip(self.fuse, matched)
        ]
        out = self.parse[-1](joined[-1])
        for parse, f in zip(reversed(self.parse[:-1]), reversed(joined[:-1])):
            up = bilinear(out, f.shape[-2:])
            out = up + parse(f + up)
        correlations = tuple(correlation for _, correlation in reversed(matched))
        return Decoded(self.cls(out), correlations, tuple(match for match, _ in matched), tuple(joined), out)


class Level(nn.Module):
    """Patch embedding (1x1, or 3x3 with stride 2 below the first level), two encoder blocks, LayerNorm."""

    def __init__(self, channels: int, index: int, heads: int, reduction: int):
        super().__init__()
        kernel, stride = (3, 2) if index else (1, 1)
        self.project = nn.Conv2d(channels, channels, kernel, stride, kernel // 2)
        self.embed_norm = _norm(channels)
        self.blocks = nn.ModuleList(EncoderBlock(channels, heads, reduction) for _ in range(2))
        self.norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        size, x = x.shape[-2:], self.embed_norm(_tokens(x))
        for block in self.blocks:
            x = block(x, size)
        return _map(self.norm(x), size)


class EncoderBlock(nn.Module):
    """x + attention(LN x), then x + FFN(LN x); keys and values at a reduced resolution (SegFormer, PVT)."""

    def __init__(self, channels: int, heads: int, reduction: int):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.attention = Projections(channels, heads)
        self.reduction = reduction
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = _norm(channels)
        self.ffn = MixFFN(channels)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, h w, C) -> the same."""
        y = self.norm1(x)
        q, k, v = self.attention(y, self.reduced(y, size) if self.reduction > 1 else y)
        x = x + self.attention.join(F.scaled_dot_product_attention(q, k, v))
        return x + self.ffn(self.norm2(x), size)

    def reduced(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        missing = [max(0, self.reduction - side) for side in size]  # of a map smaller than one patch
        padded = F.pad(_map(tokens, size), (0, missing[1], 0, missing[0]))
        return self.reduce_norm(_tokens(self.reduce(padded)))


class MatchBlock(nn.Module):
    """Cross attention from query to support by cosine, softmax over the *query* positions (section 3.2).

    Each support position spreads its value over the query. As the positions do so on their own, those of the background
    are left out before the product instead of being zeroed after it, which is the same. A softmax over the queries is
    what ``scaled_dot_product_attention`` does not have.
    """

    temperature = 0.1

    def __init__(self, channels: int, heads: int = 2):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.attention = Projections(channels, heads)
        self.ffn = MixFFN(channels)

    def forward(self, query: Tensor, support: Tensor, inside: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """query (B, C, h, w), support (B, M, C), inside (B, M) in {0, 1} -> the match (B, C, h, w) and the correlation
        (B, h, w)."""
        size, x = query.shape[-2:], _tokens(query)
        q, k, v = self.attention(self.norm1(x), self.norm1(support))
        q, k = F.normalize(q, dim=-1) / self.temperature, F.normalize(k, dim=-1)
        column = inside[:, None, :, None]  # (B, 1, M, 1)
        x = x + self.attention.join((q @ k.mT).softmax(-2) @ (v * (column * share)))
        x = x + self.ffn(self.norm2(x), size)
        centre = (k * column).sum(-2, keepdim=True) / (column.sum(-2, keepdim=True) + 1e-9)  # (B, heads, 1, C / heads)
        correlation = (q * centre).sum(-1).mean(1)  # (B, N), the mean score
        return _map(x, size), correlation.unflatten(1, size)


class Projections(nn.Module):
    """Bias-free query, key, value and output projections of multi-head attention."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(0.1)

    def forward(self, query: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) and (B, M, C) -> (B, heads, N or M, C / heads), three times."""
        q, k, v = self.query(query), self.key(source), self.value(source)
        return self._split(q), self._split(k), self._split(v)

    def join(self, heads: Tensor) -> Tensor:
        """(B, heads, N, C / heads) -> (B, N, C)."""
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """1x1, depth-wise 3x3, GELU, 1x1 on the map of the tokens (SegFormer)."""

    def __init__(self, channels: int, expansion: int = 4, dropout: float = 0.1):
        super().__init__()
        hidden = channels * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, channels, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return _tokens(self.layers(_map(x, size)))


class Fuse(nn.Sequential):
    """3x3 conv, batch norm, ReLU: where the priors join a match."""

    def __init__(self, channels: int, out: int):
        conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        super().__init__(conv, BatchNorm(out), nn.ReLU())


def _convolutions(channels: int, out: int, hidden: int = 256, last_norm: bool = False) -> nn.Sequential:
    """1x1, BN, 3x3, BN, 1x1, with no activation between (as published); with ``last_norm`` BN and ReLU follow."""
    layers = [nn.Conv2d(channels, hidden, 1), BatchNorm(hidden)]
    layers += [nn.Conv2d(hidden, hidden, 3, padding=1), BatchNorm(hidden), nn.Conv2d(hidden, out, 1)]
    return nn.Sequential(*layers, *([BatchNorm(out), nn.ReLU()] if last_norm else []))


def foreground_first(levels: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Of each level (B, M, C), (B, M) the same with only as many tokens as the object that has most; background fills the
    rest. The sizes of all levels are asked for at once, so that a GPU is waited for once."""
    if torch.compiler.is_compiling():  # an exported graph keeps fixed shapes
        return list(levels)
    kept = torch.stack([inside.sum(1).max() for _, inside in levels]).tolist()
    found = []
    for (tokens, inside), count in zip(levels, kept):
        order = inside.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(count))]
        found.append((tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])), inside.gather(1, order)))
    return found


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def _map(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, tuple(size))


def bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
