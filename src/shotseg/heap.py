"""How much memory there is, and what would take more; when garbage is looked for, and how much of it threads keep."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shotseg.errors import UsageError

ARENA_MAX = -8  # M_ARENA_MAX of glibc's mallopt
ELSEWHERE = AttributeError, TypeError, OSError  # another allocator, another system
AT_ONCE = 256  # photos, or episodes, taken together; more gain nothing, and nothing is heard of them for minutes
GROUP = Path("/sys/fs/cgroup")  # of a container on Linux
MUCH = 2**28  # bytes from which on it is asked whether they are there
UNUSED = 2**30  # bytes that a process reserves and never uses: stacks, heaps
GPUS = "/dev/nvidiactl", "/dev/kfd"  # whose drivers reserve far more memory than they use
USUAL, STARTING = gc.get_threshold(), (20_000, 100, 100)  # of gc.set_threshold


def left() -> float:
    """Bytes of memory that the machine, or the container, has still to give; infinite where the system does not tell."""
    free, own = float("inf"), float("inf")
    with suppress(OSError, ValueError):
        said = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE))
        free = 1024.0 * (int(said["MemAvailable"]) + int(said["SwapFree"]))
    with suppress(OSError, ValueError):  # "max" where it has no bound of its own
        own = float(int(_of_group("memory.max")) - int(_of_group("memory.current")))
        kept = re.findall(r"^inactive_file (\d+)", _of_group("memory.stat"), re.MULTILINE)
        own += int(kept[0])  # it is given back when asked
    return max(0.0, min(free, own))


def must_fit(need: float, what: str) -> None:
    """Raise MemoryError where ``need`` bytes, for ``what``, are more than there are: before they are taken, which takes long."""
    if need > MUCH and need > (there := left()):
        raise MemoryError(f"{what} need {need / 2**30:,.1f} GiB or more, {there / 2**30:,.1f} are free")


def check_batch(batch: int) -> None:
    """Raise UsageError for a number of photos, or episodes, that are not taken together."""
    if not 1 <= batch <= AT_ONCE:
        raise UsageError(f"--batch {batch}: must be from 1 to {AT_ONCE}")


@contextmanager
def within_memory() -> Iterator[None]:
    """What takes more memory than is free ends within it in a MemoryError; else Linux would kill the process without a word.

    The bound is never below half of the machine's memory, since other programs may end, and counts a GiB that is reserved and
    not used. Where there is a GPU, and on other systems, nothing changes.
    """
    try:
        import resource

        bounds = resource.getrlimit(resource.RLIMIT_DATA)
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ImportError, *ELSEWHERE, ValueError):
        bounds = None
    if bounds is None or left() == float("inf") or any(map(os.path.exists, GPUS)):
        yield
        return
    most = int(max(left(), whole / 2)) + UNUSED
    inside = [bound for bound in (most, *bounds) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(inside), bounds[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, bounds)


def _of_group(name: str) -> str:
    return (GROUP / name).read_text(encoding="ascii").strip()


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
