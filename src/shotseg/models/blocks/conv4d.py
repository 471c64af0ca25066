"""Centre-pivot 4-D convolution (HSNet: Min et al., ICCV 2021, section 4.2).

A correlation c holds a vector for every query position x and support position x'. A plain 4-D kernel sums over neighbours p of x
and p' of x' at once. The centre-pivot kernel keeps the pairs of which one is the centre, and so it is two plane kernels:

    (c * k)(x, x') = sum over p' of c(x, p') k_s(p' - x')  +  sum over p of c(p, x') k_q(p - x)

    c     (B, C, h, w, h', w'): x on the query's axes (h, w), x' on the support's (h', w')
    k_s   ``support``, a convolution over (h', w'): here x is the pivot
    k_q   ``query``, a convolution over (h, w): here x' is the pivot

A stride is the support's alone: x' is every stride-th position. In memory c is (B, h, w, h', w', C), called tokens below: both
convolutions, GroupNorm and products then read it as it lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shotseg.models.blocks.channels_last import NormReLU, in_parts, product


class Conv4d(nn.Module):
    """k_s and k_q with a bias each, k x k.

    stride:   of the support's axes.
    collapse: size of k_s, without padding, as large as the support's axes are: they are summed away, and the result is
              (B, C', h, w).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, collapse: int | None = None):
        super().__init__()
        self.stride, self.collapse = stride, collapse is not None
        self.query = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.support = nn.Conv2d(
            inputs, outputs, collapse or kernel, stride=stride, padding=0 if collapse else kernel // 2
        )

    def forward(self, c: Tensor) -> Tensor:
        """(B, C, h, w, h', w') -> (B, C', h, w, ceil(h' / stride), ceil(w' / stride)).

        Three ways to the same sum: collapsed, on a support so small that k_s reaches all of it, and any other.
        """
        if self.collapse:
            return self._over_query(c).sum((-2, -1)) + self._over_whole_support(c)
        reach = self.support.kernel_size[0] // 2 + 1
        if self.stride == 1 and max(c.shape[4:]) <= reach:
            return self._over_small_support(c) + self._over_query(c)
        query, support = self.query, self.support
        kernels = query.weight, query.bias, support.weight, support.bias
        return CentrePivot.apply(c.permute(0, 2, 3, 4, 5, 1), *kernels, self.stride).permute(0, 5, 1, 2, 3, 4)

    def _over_query(self, c: Tensor) -> Tensor:
        """c * k_q, without stride."""
        maps = c.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)  # (B h' w', C, h, w)
        maps = self.query(maps.contiguous(memory_format=torch.channels_last))
        return maps.unflatten(0, (len(c), *c.shape[4:])).permute(0, 3, 4, 5, 1, 2)

    def _over_whole_support(self, c: Tensor) -> Tensor:
        """c * k_s where k_s is as large as the support -> (B, C', h, w)."""
        maps = c.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (B h w, C, h', w')
        maps = self.support(maps.contiguous(memory_format=torch.channels_last))[..., 0, 0]
        return maps.unflatten(0, (len(c), *c.shape[2:4])).permute(0, 3, 1, 2)

    def _over_small_support(self, c: Tensor) -> Tensor:
        """c * k_s as one product: where k_s reaches from every x' to every p', its values are a matrix (x' C', p' C)."""
        b, channels, h, w, hs, ws = c.shape
        k_s, centre = self.support.weight, self.support.kernel_size[0] // 2
        windows = [  # of each x', the values of k_s that lie on the support
            k_s[:, :, centre - y : centre - y + hs, centre - x : centre - x + ws] for y in range(hs) for x in range(ws)
        ]
        matrix = torch.stack(windows).permute(0, 1, 3, 4, 2).reshape(-1, hs * ws * channels)
        bias = self.support.bias.repeat(hs * ws)  # type: ignore[union-attr]
        rows = c.permute(0, 2, 3, 4, 5, 1).reshape(b * h, w, -1)
        return product(rows, matrix, bias).reshape(b, h, w, hs, ws, -1).permute(0, 5, 1, 2, 3, 4)


class CentrePivot(torch.autograd.Function):
    """Tokens (B, h, w, h', w', C), k_q and its bias, k_s and its bias, stride -> c * k as tokens
    (B, h, w, ceil(h' / stride), ceil(w' / stride), C').

    Maps are copied, convolved and added some at a time, forward and backward; only the tokens are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *given: Any) -> Tensor:
        k_q, bias_q, k_s, bias_s, stride = given
        ctx.save_for_backward(tokens, k_q, k_s)
        ctx.stride = stride
        result = tokens.new_empty(*tokens.shape[:3], *(-(-side // stride) for side in tokens.shape[3:5]), len(k_q))
        for part, out in in_parts(tokens, result):
            out.copy_(_convolved(part, k_s, bias_q + bias_s, stride))
        for part, out in in_parts(_query_last(tokens, stride), _query_last(result)):
            out.add_(_convolved(part, k_q))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, k_q, k_s = ctx.saved_tensors
        grad_tokens = torch.empty_like(tokens) if ctx.needs_input_grad[0] else None
        turned = None if grad_tokens is None else _query_last(grad_tokens, ctx.stride)  # a view of it
        grad_k_s = _gradients(tokens, grad, k_s, ctx.stride, grad_tokens)
        grad_k_q = _gradients(_query_last(tokens, ctx.stride), _query_last(grad), k_q, 1, turned, add=True)
        grad_bias = grad.sum((0, 1, 2, 3, 4))
        return grad_tokens, grad_k_q, grad_bias, grad_k_s, grad_bias, None


def _convolved(tokens: Tensor, kernel: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Tokens convolved over their last two axes of positions, padded by half the kernel."""
    return _tokens(F.conv2d(_maps(tokens), kernel, bias, stride, kernel.shape[2] // 2), tokens)


def _gradients(
    tokens: Tensor, grad: Tensor, kernel: Tensor, stride: int, grad_tokens: Tensor | None, add: bool = False
) -> Tensor:
    """Of :func:`_convolved` with the gradient ``grad`` of its result: returns the kernel's; the tokens' is written into
    ``grad_tokens``, or added to it, where that is given."""
    grad_kernel, kernel = torch.zeros_like(kernel), kernel.to(tokens.dtype)
    wanted = [grad_tokens is not None, True, False]  # of tokens, kernel, bias
    geometry = [stride] * 2, [kernel.shape[2] // 2] * 2, [1, 1], False, [0, 0], 1
    for part, grad_part, *out in in_parts(tokens, grad, grad_tokens):
        of_maps, of_kernel, _ = torch.ops.aten.convolution_backward(
            _maps(grad_part), _maps(part), kernel, None, *geometry, wanted
        )
        grad_kernel += of_kernel
        for place in out:
            (place.add_ if add else place.copy_)(_tokens(of_maps, part))
    return grad_kernel


def _query_last(tokens: Tensor, stride: int = 1) -> Tensor:
    """(B, h, w, h', w', C) -> a view (B, h'', w'', h, w, C) of every stride-th support position."""
    return tokens[..., ::stride, ::stride, :].permute(0, 3, 4, 1, 2, 5)


def _maps(tokens: Tensor) -> Tensor:
    """(B, h, w, h', w', C) -> (B h w, C, h', w'), channels last in memory."""
    return tokens.flatten(0, 2).contiguous().permute(0, 3, 1, 2)


def _tokens(maps: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_maps`; B, h and w are those of the tokens ``like``."""
    return maps.permute(0, 2, 3, 1).unflatten(0, like.shape[:3])


class Block4d(Conv4d):
    """A 4-D convolution, GroupNorm of 4 groups over channels and all axes, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, c: Tensor) -> Tensor:
        convolved = super().forward(c).permute(0, 2, 3, 4, 5, 1)
        norm = self.norm
        alone = not torch.is_grad_enabled()  # then nobody needs the convolved tokens again
        tokens = NormReLU.apply(convolved.flatten(1, 4), norm.weight, norm.bias, norm.num_groups, norm.eps, alone)
        return tokens.view(convolved.shape).permute(0, 5, 1, 2, 3, 4)
