"""Centre-pivot 4-D convolution (HSNet: Min et al., ICCV 2021, section 4.2) on tensors that lie channels last in memory.

A tensor (B, C, h, w, h', w') has the query's axes first and the support's last. In memory it is (B, h, w, h', w', C), so that
the convolution of either pair of axes, GroupNorm and the products below read it as it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHE = 2**20  # numbers that are worked on at a time, so that what lies between two steps stays in the cache of a CPU


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
        reach = self.support.kernel_size[0] // 2 + 1
        if self.collapse:
            return self._over_query(x).sum((-2, -1)) + self._over_support(x)
        if self.stride == 1 and max(x.shape[4:]) <= reach:
            return self._dense(x) + self._over_query(x)
        query, support = self.query, self.support
        kernels = query.weight, query.bias, support.weight, support.bias
        return CentrePivot.apply(x.permute(0, 2, 3, 4, 5, 1), *kernels, self.stride).permute(0, 5, 1, 2, 3, 4)

    def _over_query(self, x: Tensor) -> Tensor:
        b, hs, ws = x.shape[0], *x.shape[4:]
        maps = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)  # (B h' w', C, h, w)
        maps = self.query(maps.contiguous(memory_format=torch.channels_last))
        return maps.unflatten(0, (b, hs, ws)).permute(0, 3, 4, 5, 1, 2)

    def _over_support(self, x: Tensor) -> Tensor:
        maps = x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (B h w, C, h', w')
        maps = self.support(maps.contiguous(memory_format=torch.channels_last))[..., 0, 0]
        return maps.unflatten(0, (len(x), *x.shape[2:4])).permute(0, 3, 1, 2)

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


class CentrePivot(torch.autograd.Function):
    """Tokens (B, h, w, h', w', C): the convolution of their maps over (h', w'), of a stride, plus that over (h, w) of every
    stride-th position -> (B, h, w, ceil(h' / stride), ceil(w' / stride), C').

    Maps are copied, convolved and added some at a time, forward and backward; only the tokens are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        query, query_bias, support, support_bias, stride = given
        ctx.save_for_backward(x, query, support)
        ctx.stride = stride
        found = x.new_empty(*x.shape[:3], *(-(-side // stride) for side in x.shape[3:5]), len(query))
        for own, to in _parts(x, found):
            to.copy_(_convolved(own, support, query_bias + support_bias, stride))
        for own, to in _parts(_pivots(x, stride), _turned(found)):
            to.add_(_convolved(own, query, None, 1))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, query, support = ctx.saved_tensors
        inputs = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        pivots = None if inputs is None else _pivots(inputs, ctx.stride)
        support_grad = _gradient(x, grad, support, ctx.stride, inputs)
        query_grad = _gradient(_pivots(x, ctx.stride), _turned(grad), query, 1, pivots, add=True)
        bias = grad.sum((0, 1, 2, 3, 4))
        return inputs, query_grad, bias, support_grad, bias, None


def _convolved(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    return _tokens(F.conv2d(_maps(x), kernel, bias, stride, kernel.shape[2] // 2), x)


def _gradient(x: Tensor, grad: Tensor, kernel: Tensor, stride: int, into: Tensor | None, add: bool = False) -> Tensor:
    """Of the kernel that convolved tokens; theirs is written, or added, into another tensor where one is given."""
    total, kernel = torch.zeros_like(kernel), kernel.to(x.dtype)
    options = [stride] * 2, [kernel.shape[2] // 2] * 2, [1, 1], False, [0, 0], 1, [into is not None, True, False]
    for own, above, *to in _parts(x, grad, into):
        found = torch.ops.aten.convolution_backward(_maps(above), _maps(own), kernel, None, *options)
        total += found[1]
        for one in to:
            (one.add_ if add else one.copy_)(_tokens(found[0], own))
    return total


def _parts(*tokens: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Some of the first axis of positions of each that is one, at a time; all at once where there is no such cache."""
    given = [t for t in tokens if t is not None]
    first = given[0]
    rows = max(1, CACHE * first.shape[1] // first.numel()) if first.device.type == "cpu" else first.shape[1]
    return zip(*(t.split(rows, 1) for t in given))


def _turned(tokens: Tensor) -> Tensor:
    """(B, h, w, h', w', C) as (B, h', w', h, w, C)."""
    return tokens.permute(0, 3, 4, 1, 2, 5)


def _pivots(tokens: Tensor, stride: int) -> Tensor:
    """Every stride-th position (h', w'), turned."""
    return _turned(tokens[..., ::stride, ::stride, :])


def _maps(tokens: Tensor) -> Tensor:
    """(B, h, w, h', w', C) -> (B h w, C, h', w'), channels last."""
    return tokens.flatten(0, 2).contiguous().permute(0, 3, 1, 2)


def _tokens(maps: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_maps`, with the first axes of others."""
    return maps.permute(0, 2, 3, 1).unflatten(0, like.shape[:3])


class Block4d(Conv4d):
    """A 4-D convolution, GroupNorm of 4 groups over channels and all axes, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).permute(0, 2, 3, 4, 5, 1)
        norm = self.norm
        alone = not torch.is_grad_enabled()  # then nobody needs y again
        tokens = NormReLU.apply(y.flatten(1, 4), norm.weight, norm.bias, norm.num_groups, norm.eps, alone)
        return tokens.view(y.shape).permute(0, 5, 1, 2, 3, 4)


class NormReLU(torch.autograd.Function):
    """relu(group_norm(x)) of (B, N, C) tokens; ``inplace`` overwrites them, which has no gradient.

    torch's own takes 2 to 5 times as long on channels-last tensors. x and the result alone are kept for the gradient.
    Means and spreads are float32 at least: in half precision squares overflow, and so does the slope of a group that is flat.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, inplace: bool = False
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        centre = _of_groups(x.mean(1, dtype=wide), groups)
        squares = torch.stack([part.to(wide).square().sum(1) for (part,) in _parts(x)]).sum(0) / x.shape[1]
        spread = (_of_groups(squares, groups) - centre.square()).clamp(min=0)
        scale = (spread + eps).rsqrt()  # (B, C), as the centre
        gain = scale * weight
        y = torch.addcmul((bias - centre * gain)[:, None], x, gain[:, None], out=x if inplace else None).relu_()
        ctx.save_for_backward(x, y, weight, centre, scale)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, centre, scale = ctx.saved_tensors
        passes = torch.ops.aten.threshold_backward  # what ReLU lets pass
        total, product = torch.zeros_like(centre), torch.zeros_like(centre)
        for above, own, result in _parts(grad, x, y):
            part = passes(above, result, 0)
            total += part.sum(1, dtype=total.dtype)
            product += part.mul_(own).sum(1, dtype=total.dtype)
        along = scale * (product - centre * total)  # sums of grad times normalised x
        mean = scale * _of_groups(weight * total, ctx.groups) / x.shape[1]
        slope = scale.square() * _of_groups(weight * along, ctx.groups) / x.shape[1]
        shift, gain = (slope * centre - mean)[:, None], (scale * weight)[:, None]
        inputs = torch.empty_like(x)
        for above, own, result, to in _parts(grad, x, y, inputs):
            torch.addcmul(shift, own, -slope[:, None], out=to).addcmul_(passes(above, result, 0), gain)
        return inputs, along.sum(0), total.sum(0), None, None, None


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
