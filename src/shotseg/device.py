"""Where tensors live: CUDA, MPS or the CPU, and with how many threads a CPU computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from shotseg.errors import UsageError, first_line, one_of

KNOWN = ("auto", "cuda", "mps", "cpu", "cuda:0")
NAMES = {"gpu": "cuda"}  # what people call one of them


def pick_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA, else MPS, else CPU; anything else is taken by its word."""
    if isinstance(device, str) and device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        name = str(device)
        known = name.partition(":")[0] in KNOWN or name.isdecimal()
        why = f" does not work here ({first_line(error)}); take cpu" if known else one_of(NAMES.get(name, name), KNOWN)
        raise UsageError(f"device {name!r}{why}") from None


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def working(asked: int) -> int:
    """Threads or processes that work at once: as many as are asked for, 0 = one a core, and none that another would wait for."""
    return min(asked or cores(), cores())


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Each operation on a CPU gets one thread; what runs in threads of its own, or on small photos, is faster for it.

    torch's own threads wait for each other by spinning, which on a busy machine takes seconds. And sums of floats depend on how
    an operation is split over threads: with one they are the same everywhere. Also a decorator.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def usual_tensors() -> Iterator[None]:
    """Within it a new tensor of which nothing else is said is float32 and on the CPU, whatever a notebook made the default.

    Also a decorator. Of the type the default is that of the whole process, threads beside this one included.
    """
    dtype, placed = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    with torch.device("cpu") if placed else nullcontext():
        if dtype == torch.float32:
            yield
            return
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """A small tensor of the CPU on a device, where nothing waits: neither for what a GPU is at, nor for the copy."""
    device = torch.device(device)
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=device.type != "mps")


@contextmanager
def repeatable(wanted: bool = True) -> Iterator[None]:
    """Within it a GPU's sums are the same twice, at a cost in time. Raises UsageError at an operation that cannot be so there.

    CUDA reads the environment where it first multiplies matrices: what did so before may keep its own way.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = str(error).split()[0]
        raise UsageError(
            f"deterministic: {what} has no form here whose sums are the same twice; leave it out, or train with --device cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def precise(x: Tensor) -> Tensor:
    """The same in double precision, which MPS alone has not."""
    return x if x.device.type == "mps" else x.double()
