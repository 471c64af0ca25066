"""Centre-pivot 4-D convolution (HSNet: Min et al., ICCV 2021, section 4.2) on tensors that lie channels last in memory.

A tensor (B, C, h, w, h', w') has the query's axes first and the support's last. In memory it is (B, h, w, h', w', C), so that
the convolution of either pair of axes, GroupNorm and the products below read it as it lies. A correlation, of few channels,
is (B, h, w, C, h', w').
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PART = 256  # positions whose maps are convolved at a time, so that what is copied is still in the cache


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
        if self.collapse:
            return self._over_query(x).sum((-2, -1)) + self._over_support(x)[..., 0, 0]
        return self._over_support(x).add_(self._over_query(x[..., :: self.stride, :: self.stride]))

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
        if maps.is_contiguous():  # a correlation: of its few channels, a convolution is fastest as they lie
            parts = [self.support(part).contiguous(memory_format=torch.channels_last) for part in maps.split(PART)]
            maps = torch.cat(parts)
        else:
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
        matrix = torch.stack(seen).permute(0, 1, 3, 4, 2).reshape(-1, hs * ws * c)  # (out C', y x C)
        bias = self.support.bias.repeat(hs * ws)  # type: ignore[union-attr]
        rows = x.permute(0, 2, 3, 4, 5, 1).reshape(b * h, w, -1)
        return product(rows, matrix, bias).reshape(b, h, w, hs, ws, -1).permute(0, 5, 1, 2, 3, 4)


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

    torch's own takes 2 to 5 times as long on channels-last tensors. x and the result alone are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        centre = _of_groups(x.mean(1), groups)
        spread = (_of_groups(x.square().mean(1), groups) - centre.square()).clamp(min=0)
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
        grad = torch.ops.aten.threshold_backward(grad, y, 0)  # what ReLU lets pass
        room = grad * x
        total = grad.sum(1)  # (B, C)
        along = scale * (room.sum(1) - centre * total)  # sums of grad times normalised x
        mean = scale * _of_groups(weight * total, ctx.groups) / x.shape[1]
        slope = scale.square() * _of_groups(weight * along, ctx.groups) / x.shape[1]
        inputs = torch.addcmul((slope * centre - mean)[:, None], x, -slope[:, None], out=room)
        return inputs.addcmul_(grad, (scale * weight)[:, None]), along.sum(0), total.sum(0), None, None


def _of_groups(channels: Tensor, groups: int) -> Tensor:
    """Each of (B, C) replaced by the mean of its group of channels."""
    means = channels.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return means.expand(-1, -1, channels.shape[1] // groups).flatten(1)


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, w, C) times the transpose of (M, C), plus (M,) -> (N, w, M).

    As a 1 x 1 convolution: its library has AVX-512 kernels for any CPU, that of plain products for those of Intel alone.
    """
    found = F.conv2d(rows.mT[:, :, None], matrix[:, :, None, None], bias)  # (N, M, 1, w), channels last
    return found[:, :, 0].mT
