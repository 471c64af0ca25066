"""The correlation transformer of CST (Kang et al., CVPR 2023, section 4): every query place attends over the support's tokens.

Of the tokens x (C, S) of one query place, S the support's axis, a block makes fewer and wider ones:

    p = pool(x)                                   the support's patches averaged in windows: (C, S')
    a = softmax(W_q p (W_k x)' + m) W_v x         m hides the keys outside the support mask    :func:`bias_of`
    y = norm(merge(a) + shortcut(p))              :class:`Attention`
    z = norm(y + feed_forward(y))                 :class:`Block`

merge, shortcut and feed_forward are 1x1 convolutions with norms and ReLU. The norms span all places, so a block is worked out in
two steps: a for a few places at a time (:func:`attend`), the rest for all at once. Global tokens (CST: the class token; CORENet:
more) stand first on the support's axis; they are never pooled and never hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shotseg.models.blocks.correlation_tokens import Correlation

MEMORY = 1 << 28  # bytes that the tokens, keys, values and logits of a pass may take at once
FAST = 1 << 24  # less of them at a time is faster, for they stay in the processor's cache; with gradients it is not
HIDDEN = -1e9

Attended = tuple[Tensor, Tensor]  # before any norm: attention's output (B, out / 2, Q, S'), shortcut (B, out, Q, S')


class Attention(nn.Module):
    """Attention over the support's axis, with its shortcut.

    out: channels of y; a has half of them.    kernel, stride, padding: of the pooling.    groups: of the norms.
    globals_: how many tokens stand before the patches.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, padding: int, heads: int, groups: int, globals_: int
    ):
        super().__init__()
        self.heads, self.globals_, self.pooling = heads, globals_, (kernel, stride, padding)
        hidden = out // 2
        self.shortcut = None
        if channels != out or stride > 1:
            self.shortcut = nn.ModuleList([_conv(channels, out), nn.GroupNorm(groups, out)])
        self.qkv = nn.Conv2d(channels, 3 * hidden, 1)
        self.merge = nn.Sequential(
            nn.GroupNorm(groups, hidden), nn.ReLU(), _conv(hidden, out), nn.GroupNorm(groups, out), nn.ReLU()
        )
        self.norm = nn.GroupNorm(groups, out)

    def attend(self, x: Tensor, bias: Tensor | None) -> Attended:
        """a and the linear part of the shortcut, of x (B, C, q, S) and m (B, S): all that is done to each place alone.

        Pooling comes before the linear maps of what is pooled, which is the same and much less work.
        """
        pooled = self.pooled(x)
        assert self.qkv.bias is not None
        sizes = [len(self.qkv.bias) // 3, len(self.qkv.bias) * 2 // 3]
        (w_q, w_kv), (b_q, b_kv) = self.qkv.weight.split(sizes), self.qkv.bias.split(sizes)
        query = self.apart(F.conv2d(pooled, w_q, b_q))
        key, value = map(self.apart, F.conv2d(x, w_kv, b_kv).chunk(2, 1))
        mask = None
        if bias is not None:
            mask = bias.repeat_interleave(x.shape[2], 0)[:, None, None].expand(-1, 1, query.shape[2], -1)
        output = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)  # (B q, n, S', d)
        shortcut = pooled if self.shortcut is None else self.shortcut[0](pooled)
        return output.unflatten(0, (len(x), -1)).permute(0, 2, 4, 1, 3).flatten(1, 2), shortcut

    def apart(self, x: Tensor) -> Tensor:
        """(B, n d, q, S) -> (B q, n, S, d): each query position attends alone."""
        return x.unflatten(1, (self.heads, -1)).permute(0, 3, 1, 4, 2).flatten(0, 1).contiguous()

    def forward(self, attended: Attended) -> Tensor:
        """y (B, out, Q, S'), whose norms span all places."""
        output, shortcut = attended
        if self.shortcut is not None:
            shortcut = self.shortcut[1](shortcut).relu()
        return self.norm(self.merge(output) + shortcut)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, q, G + s s) -> (B, C, q, G + s' s')."""
        kernel, stride, padding = self.pooling
        if (kernel, stride, padding) == (1, 1, 0):
            return x
        tokens, side = x[..., self.globals_ :], round((x.shape[-1] - self.globals_) ** 0.5)
        small = F.avg_pool2d(tokens.flatten(1, 2).unflatten(-1, (side, side)), kernel, stride, padding)
        return torch.cat([x[..., : self.globals_], small.flatten(2).unflatten(1, x.shape[1:3])], -1)


class Block(nn.Module):
    """x (B, C, Q, S) -> z (B, out, Q, S'); arguments as of :class:`Attention`."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int | None = None,
        padding: int = 0,
        heads: int = 8,
        groups: int = 4,
        globals_: int = 1,
    ):
        super().__init__()
        self.attention = Attention(channels, out, kernel, stride or kernel, padding, heads, groups, globals_)
        self.feed_forward = nn.Sequential(
            _conv(out, out // 2), nn.GroupNorm(groups, out // 2), nn.ReLU(), _conv(out // 2, out)
        )
        self.norm = nn.GroupNorm(groups, out)

    def forward(self, x: Tensor | Correlation, bias: Tensor | None = None, memory: int = MEMORY) -> Tensor:
        return self.finish(attend([self], x, [bias], memory)[0])

    def finish(self, attended: Attended) -> Tensor:
        x = self.attention(attended)
        return self.norm(x + self.feed_forward(x))


def attend(
    blocks: Sequence[Block], x: Tensor | Correlation, biases: Sequence[Tensor | None], memory: int = MEMORY
) -> list[Attended]:
    """What each of several blocks attends to in the same tokens, a strip of query positions at a time.

    Positions are independent up to here, so the result does not depend on ``memory`` (bytes). With gradients each strip is
    computed again on the way back, unless one strip holds everything.
    """
    batch, channels, positions, length = x.shape
    again = torch.is_grad_enabled()
    memory = memory if again else min(memory, FAST)
    strip = memory // (4 * batch * sum(_floats(block, channels, length) for block in blocks))
    strip = min(max(1, strip), max(1, 65535 // batch))  # a fused attention on a GPU takes no larger batch

    def part(start: int) -> tuple[Tensor, ...]:
        stop = min(start + strip, positions)
        rows = x.rows(start, stop) if isinstance(x, Correlation) else x[:, :, start:stop]
        return sum((block.attention.attend(rows, bias) for block, bias in zip(blocks, biases)), ())

    if strip >= positions:
        flat = part(0)
    else:
        strips = [
            checkpoint(part, start, use_reentrant=False, preserve_rng_state=False) if again else part(start)
            for start in range(0, positions, strip)
        ]
        flat = tuple(torch.cat(pieces, 2) for pieces in zip(*strips))
    return [(flat[2 * i], flat[2 * i + 1]) for i in range(len(blocks))]


def _floats(block: Block, channels: int, length: int) -> int:
    """Numbers that a query position needs: tokens, keys and values twice. Fused attention keeps no logits."""
    return length * (channels + 2 * block.attention.qkv.out_channels)


def bias_of(mask: Tensor, side: int, soft: bool) -> Tensor:
    """m: what is added to the logits of side * side patch keys: mask (B, h, w) in [0, 1] -> (B, side * side).

    CST hides a key where the mask, resized (bilinear, aligned corners), is 0. ``soft`` adds log(max(share, 0.01)), the share
    averaged over the key's area: an error of a pseudo mask is then never final (CORENet, method page, 5.3).
    """
    if soft:
        return F.adaptive_avg_pool2d(mask[:, None], side).flatten(1).clamp(0.01, 1).log()
    small = F.interpolate(mask[:, None], (side, side), mode="bilinear", align_corners=True).flatten(1)
    return torch.zeros_like(small).masked_fill(small == 0, HIDDEN)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1, bias=False)
