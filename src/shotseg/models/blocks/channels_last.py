"""What makes 4-D convolutions fast on CPUs: GroupNorm, products and work in parts, on tensors whose channels lie last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHE = 2**20  # numbers worked on at a time, so that what lies between two steps stays in the cache of a CPU


def in_parts(*tensors: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """The tensors split alike along axis 1, so that a part of the first fits the cache; one part where there is no such cache.

    Those that are None are left out of the tuples.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    first = given[0]
    rows = max(1, CACHE * first.shape[1] // first.numel()) if first.device.type == "cpu" else first.shape[1]
    return zip(*(tensor.split(rows, 1) for tensor in given))


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (N, w, C) times the transpose of matrix (M, C), plus bias (M,) -> (N, w, M).

    As a 1 x 1 convolution: its library has AVX-512 kernels for any CPU, that of plain products for those of Intel alone.
    """
    maps = F.conv2d(rows.mT[:, :, None], matrix[:, :, None, None], bias)  # (N, M, 1, w), channels last
    return maps[:, :, 0].mT


class NormReLU(torch.autograd.Function):
    """relu(group_norm(x)) of tokens x (B, N, C) -> (B, N, C) (Wu and He, ECCV 2018, equations 1, 2 and 6).

    Of a group of channels, over its channels and all N tokens:

        m = mean(x)    v = mean(x^2) - m^2    r = 1 / sqrt(v + eps)
        y = relu(w (x - m) r + b) = relu(a x + b - m a)    with the gain a = r w

    ``groups`` divides C; w, b (C,). ``inplace`` overwrites x with y, which has no gradient.
    m, v and r are float32 at least: in half precision squares overflow, and so does the gain of a group that is flat.
    torch's own takes 2 to 5 times as long on channels-last tensors. Only x and y are kept for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, inplace: bool = False
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = _of_groups(x.mean(1, dtype=wide), groups)  # m (B, C), the same in each channel of a group
        squares = torch.stack([part.to(wide).square().sum(1) for (part,) in in_parts(x)]).sum(0) / x.shape[1]
        variance = (_of_groups(squares, groups) - mean.square()).clamp(min=0)
        scale = (variance + eps).rsqrt()  # r (B, C)
        gain = scale * weight
        y = torch.addcmul((bias - mean * gain)[:, None], x, gain[:, None], out=x if inplace else None).relu_()
        ctx.save_for_backward(x, y, weight, mean, scale)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With g = dL/dy where y > 0, else 0; n = (x - m) r; sums over tokens, means over a group's channels and tokens:

        dL/db = sum(g)    dL/dw = sum(g n) = r (sum(g x) - m sum(g))
        dL/dx = r (w g - mean(w g) - n mean(w g n)) = a g - s x + (s m - r mean(w g))    with s = r^2 mean(w g n)
        """
        x, y, weight, mean, scale = ctx.saved_tensors
        through_relu = torch.ops.aten.threshold_backward  # (dL/dy, y, 0) -> g
        grad_bias, grad_x_sum = torch.zeros_like(mean), torch.zeros_like(mean)  # (B, C): sum(g), sum(g x)
        for grad_part, x_part, y_part in in_parts(grad, x, y):
            g = through_relu(grad_part, y_part, 0)
            grad_bias += g.sum(1, dtype=mean.dtype)
            grad_x_sum += g.mul_(x_part).sum(1, dtype=mean.dtype)
        grad_weight = scale * (grad_x_sum - mean * grad_bias)
        level = scale * _of_groups(weight * grad_bias, ctx.groups) / x.shape[1]  # r mean(w g)
        slope = scale.square() * _of_groups(weight * grad_weight, ctx.groups) / x.shape[1]  # s
        shift, gain = (slope * mean - level)[:, None], (scale * weight)[:, None]
        grad_x = torch.empty_like(x)
        for grad_part, x_part, y_part, out in in_parts(grad, x, y, grad_x):
            torch.addcmul(shift, x_part, -slope[:, None], out=out)
            out.addcmul_(through_relu(grad_part, y_part, 0), gain)
        return grad_x, grad_weight.sum(0), grad_bias.sum(0), None, None, None


def _of_groups(channels: Tensor, groups: int) -> Tensor:
    """Each of (B, C) replaced by the mean of its group of channels."""
    means = channels.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return means.expand(-1, -1, channels.shape[1] // groups).flatten(1)
