"""How much memory threads keep that they need no more."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ARENA_MAX = -8  # M_ARENA_MAX of glibc's mallopt
ELSEWHERE = AttributeError, TypeError, OSError  # another allocator, another system


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
