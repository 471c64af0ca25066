"""A device that is none: its tensors are worked out on the CPU, and meeting a tensor of the CPU is the error that a GPU gives.

Unlike the device "meta" it has values, so that code runs whose path depends on them. It also notes where the processor would
wait for a GPU.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

DEVICE = torch.device("meta")  # which no code of ours asks for
CPU = torch.device("cpu")
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}  # what may lead from one device to the other
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "repeat_interleave"}
WAITS: list[str] = []  # the lines that waited within the last ``pretended``


class Elsewhere(Tensor):
    """A tensor that says it is on ``DEVICE``."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        _note()
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return answered(func, args, kwargs or {})


def answered(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, and on which device. Raises RuntimeError where tensors of both meet."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    elsewhere = [x for x in given if isinstance(x, Elsewhere)]
    # A tensor of no axis goes everywhere, and indices may lie on the CPU.
    strangers = [x for x in given if not isinstance(x, Elsewhere) and x.dim()]
    if elsewhere and strangers and func not in CROSSING and "index" not in func.__name__:
        raise RuntimeError(f"{func}: tensors on two devices, {[tuple(x.shape) for x in strangers]} is made on the CPU")
    asked = kwargs.get("device")
    lands = bool(elsewhere) if asked is None else torch.device(asked) == DEVICE
    if func is aten.copy_.default:
        lands = isinstance(args[0], Elsewhere)
    if waits(func, args, kwargs, lands):
        _note()
    inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda x: x.inner, (args, kwargs))
    if asked is not None:
        inner_kwargs["device"] = CPU
    found = func(*inner_args, **inner_kwargs)
    known = {id(x.inner): x for x in elsewhere}  # what is changed in place stays the same tensor

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or not lands:
            return x
        return known.get(id(x)) if id(x) in known else Elsewhere(x)

    return tree_map(wrapped, found)


def waits(func: Any, args: Any, kwargs: dict[str, Any], lands: bool) -> bool:
    """Whether Python must know what a GPU has not yet worked out, or a copy is not asked to go on by itself."""
    if func in CROSSING:
        source = args[1] if func is aten.copy_.default else args[0]
        return isinstance(source, Elsewhere) != lands and not (kwargs.get("non_blocking") or True in args[2:])
    chosen = tree_leaves(args[1]) if func.__name__.startswith("index") and lands else []
    by_truth = [x for x in chosen if isinstance(x, Tensor) and (x.dtype == torch.bool or not isinstance(x, Elsewhere))]
    known = any(isinstance(x, Elsewhere) for x in args) and func.overloadpacket.__name__ in WAITING
    return bool(by_truth) or known


def _note() -> None:
    frames = [f for f in traceback.extract_stack() if "/shotseg/" in f.filename]
    WAITS.append(f"{frames[-1].filename.rpartition('/shotseg/')[2]}: {frames[-1].line}" if frames else "a test")


class Written(TorchFunctionMode):
    """Numbers that are written down reach ``DEVICE``; "meta" itself would lose them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.as_tensor and isinstance(args[0], Elsewhere):
            return args[0]
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or CPU) == DEVICE:
            return func(*args, **kwargs | {"device": CPU}).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return args[0].inner.new_tensor(*args[1:], **kwargs).to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            own, index, *value = args
            args = (own, tree_map_only(list, torch.tensor, index, is_leaf=lambda x: isinstance(x, list)), *value)
        return func(*args, **kwargs)


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return answered(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[list[str]]:
    """Within it ``DEVICE`` makes tensors; gives the list of the lines that wait."""
    WAITS.clear()
    with sdpa_kernel(SDPBackend.MATH), Written(), Operations():  # the other kernels are a device's own
        yield WAITS


def move(model: nn.Module) -> nn.Module:
    """The model itself, its parameters and buffers on ``DEVICE``."""
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                module._parameters[name] = nn.Parameter(Elsewhere(own.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return model
