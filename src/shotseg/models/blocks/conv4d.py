"""Centre-pivot 4-D convolution (HSNet: Min et al., ICCV 2021, section 4.2) on tensors that lie channels last in memory.

A tensor (B, C, h, w, h', w') has the query's axes first and the support's last. In memory it is (B, h, w, h', w', C), so that
the convolution of either pair of axes, GroupNorm and the products below read it as it lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv4d(nn.Module):
    """A k x k convolution over the query's axes plus one over the support's, both with bias.

    stride:   of the support's axes; the query's convolution sees every ``stride``-th support position.
    collapse: kernel of the support's axes without padding, as large as they are: they are summed away, and the result is
              (B, C', h, w).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, collapse: int | None = None):
        super().__init__()
        self.stride, self.collapse = stride, collapse is not None
        self.query = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.support = nn.Conv2d(
            inputs, outputs, collapse or kernel, stride=stride, padding=0 if collapse else kernel // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w, h', w') -> (B, C', h, w, ceil(h' / stride), ceil(w' / stride))."""
        pivots = x if self.collapse else x[..., :: self.stride, :: self.stride]
        query = self._over_query(pivots)
        if self.collapse:
            return query.sum((-2, -1)) + self._over_support(x)[..., 0, 0]
        return self._over_support(x).add_(query)

    def _over_query(self, x: Tensor) -> Tensor:
        b, hs, ws = x.shape[0], *x.shape[4:]
        maps = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)  # (B h' w', C, h, w)
        maps = self.query(maps.contiguous(memory_format=torch.channels_last))
        return maps.unflatten(0, (b, hs, ws)).permute(0, 3, 4, 5, 1, 2)

    def _over_support(self, x: Tensor) -> Tensor:
        b, _, h, w, hs, ws = x.shape
        reach = self.support.kernel_size[0] // 2 + 1
        if not self.collapse and self.stride == 1 and max(hs, ws) <= reach:
            return self._dense(x)
        maps = x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (B h w, C, h', w')
        maps = self.support(maps.contiguous(memory_format=torch.channels_last))
        return maps.unflatten(0, (b, h, w)).permute(0, 3, 1, 2, 4, 5)

    def _dense(self, x: Tensor) -> Tensor:
        """The support's convolution as one product, where each of its positions reaches every other."""
        b, c, h, w, hs, ws = x.shape
        kernel, centre = self.support.weight, self.support.kernel_size[0] // 2
        seen = [  # of each output position, the part of the kernel that lies on the inputs
            kernel[:, :, centre - y : centre - y + hs, centre - x : centre - x + ws]
            for y in range(hs)
            for x in range(ws)
        ]
        matrix = torch.stack(seen).permute(3, 4, 2, 0, 1).reshape(hs * ws * c, -1)  # (y x C, out C')
        bias = self.support.bias.repeat(hs * ws)  # type: ignore[union-attr]
        tokens = x.permute(0, 2, 3, 4, 5, 1).reshape(b * h * w, -1)
        return torch.addmm(bias, tokens, matrix).view(b, h, w, hs, ws, -1).permute(0, 5, 1, 2, 3, 4)


class Block4d(Conv4d):
    """A 4-D convolution, GroupNorm of 4 groups over channels and all axes, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).permute(0, 2, 3, 4, 5, 1)
        tokens = NormReLU.apply(y.flatten(1, 4), self.norm.weight, self.norm.bias, self.norm.num_groups, self.norm.eps)
        return tokens.view(y.shape).permute(0, 5, 1, 2, 3, 4)


class NormReLU(torch.autograd.Function):
    """relu(group_norm(x)) of (B, N, C) tokens.

    torch's kernel for channels-last tensors adds up millions of squares in one float and is off by 1e-3 here; its other one
    wants a copy. This one adds up short parts, and keeps x and the result alone for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        centre = _of_groups(x.mean(1), groups)
        spread = (_of_groups(_squares(x), groups) - centre.square()).clamp(min=0)
        scale = (spread + eps).rsqrt()  # (B, C), as the centre
        gain = scale * weight
        y = torch.addcmul((bias - centre * gain)[:, None], x, gain[:, None]).relu_()
        ctx.save_for_backward(x, y, weight, centre, scale)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, centre, scale = ctx.saved_tensors
        grad = grad.masked_fill(y <= 0, 0)
        total = grad.sum(1)  # (B, C)
        along = scale * ((grad * x).sum(1) - centre * total)  # sums of grad times normalised x
        mean = scale * _of_groups(weight * total, ctx.groups) / x.shape[1]
        slope = scale.square() * _of_groups(weight * along, ctx.groups) / x.shape[1]
        inputs = torch.addcmul((slope * centre - mean)[:, None], x, -slope[:, None])
        return inputs.addcmul_(grad, (scale * weight)[:, None]), along.sum(0), total.sum(0), None, None


def _squares(x: Tensor, part: int = 256) -> Tensor:
    """(B, C): the mean square of each channel, by products of short parts, which read x once and add up little at a time."""
    whole = x.shape[1] // part * part
    parts = x[:, :whole].unflatten(1, (-1, part))
    total = (parts.mT @ parts).diagonal(dim1=2, dim2=3).sum(1) if whole else 0
    return (total + x[:, whole:].square().sum(1)) / x.shape[1]


def _of_groups(channels: Tensor, groups: int) -> Tensor:
    """Each of (B, C) replaced by the mean of its group of channels."""
    means = channels.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return means.expand(-1, -1, channels.shape[1] // groups).flatten(1)
