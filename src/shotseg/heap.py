"""Memory that is needed no more: when it is looked for, how much of it threads keep."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ARENA_MAX = -8  # M_ARENA_MAX of glibc's mallopt
ELSEWHERE = AttributeError, TypeError, OSError  # another allocator, another system

USUAL, STARTING = gc.get_threshold(), (20_000, 100, 100)  # of gc.set_threshold


def starting() -> None:
    """Until :func:`started`, garbage is seldom looked for: imports make none, and the search takes a fifth of a start."""
    gc.set_threshold(*STARTING)


def started() -> None:
    """All that is large is imported, and stays."""
    if gc.get_threshold() == STARTING:
        gc.set_threshold(*USUAL)
        gc.freeze()


@contextmanager
def one_heap() -> Iterator[None]:
    """Threads that begin within it share one heap, where the system's allocator is glibc's; elsewhere nothing changes.

    glibc gives each thread a heap of its own, which keeps the room of the largest photo that the thread saw: a folder run needs
    100 MB more for it. What threads take here is large and seldom, so none waits for another.
    """
    _heaps(1)
    try:
        yield
    finally:
        _heaps(0)  # as many as glibc likes


def give_back() -> None:
    """Free memory goes back to the system, where the allocator is glibc's: else it keeps what lies between what is used."""
    with suppress(*ELSEWHERE):
        ctypes.CDLL(None).malloc_trim(0)


def _heaps(most: int) -> None:
    with suppress(*ELSEWHERE):
        ctypes.CDLL(None).mallopt(ARENA_MAX, most)
