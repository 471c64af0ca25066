"""What ONNX has no form of, or one that is right at the size of the export alone, written so that it is right at every size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.priors import guided_filter


@contextmanager
def at_every_size() -> Iterator[None]:
    """Inside, what is traced holds at other sizes: adaptive pooling, and windows at the edges of small photos."""
    with mock.patch.object(F, "adaptive_avg_pool2d", adaptive_mean), mock.patch.object(guided_filter, "_box", box_mean):
        yield


@contextmanager
def symbols(opset: int) -> Iterator[None]:
    """Inside, the exporter knows ``Tensor.mT``."""
    torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::mT", opset)


def _transposed(graph: Any, x: Any) -> Any:
    *first, rows, columns = range(x.type().dim())
    return graph.op("Transpose", x, perm_i=[*first, columns, rows])


def adaptive_mean(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d`` of (..., H, W) as two products, with one matrix for the rows and one for the columns."""
    return _windows(size[0], x.shape[-2], x) @ x @ _windows(size[1], x.shape[-1], x).mT


def _windows(count: int, side: int, like: Tensor) -> Tensor:
    """(count, side): row i is the mean over [floor(i side / count), ceil((i + 1) side / count))."""
    first = torch.arange(count, device=like.device)[:, None]
    place = torch.arange(side, device=like.device)[None]
    start, stop = first * side // count, ((first + 1) * side + count - 1) // count
    inside = ((place >= start) & (place < stop)).to(like)
    return inside / inside.sum(1, keepdim=True)


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows of (..., h, w), edges repeated; the radius is smaller where a side has no room."""
    height, width = (torch.scalar_tensor(side, dtype=torch.int64) for side in x.shape[-2:])
    most = torch.minimum(torch.minimum((height - 1) // 2, (width - 1) // 2), torch.tensor(radius))
    return _band(x.shape[-2], most, x) @ x @ _band(x.shape[-1], most, x).mT


def _band(side: int, radius: Tensor, like: Tensor) -> Tensor:
    """(side, side): row i is the mean over the places within ``radius`` of i; those beyond an end count for the end."""
    place = torch.arange(side, device=like.device)
    near = ((place[:, None] - place[None]).abs() <= radius).to(like)
    before, after = (radius - place).clamp(min=0), (radius - place.flip(0)).clamp(min=0)
    ends = before[:, None] * (place == 0) + after[:, None] * (place == side - 1)
    return (near + ends.to(like)) / (2 * radius + 1).to(like)
