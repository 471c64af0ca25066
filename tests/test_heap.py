"""What does not fit is said before it is taken; when garbage is looked for; threads of a run share the memory that they keep."""

import gc
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from shotseg import cli, encoders, heap
from shotseg.data.sizes import resized
from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError, is_out_of_memory
from shotseg.runs.engines import _predict, cannot
from training_miniature import TINY

# In a process of its own: heaps, once made, stay. Each thread takes and gives back what makes glibc give it a heap.
COUNTED = """
import ctypes, sys, threading
from contextlib import nullcontext
from shotseg.heap import one_heap

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
meet = threading.Barrier(4)

def work():
    meet.wait()
    parts = [bytearray(1000) for _ in range(1000)]
    meet.wait()

with one_heap() if sys.argv[1] == "one" else nullcontext():
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def heaps(tmp_path, how):
    path = tmp_path / f"{how}.xml"
    subprocess.run([sys.executable, "-c", COUNTED, how, str(path)], check=True)
    return len(re.findall("<heap nr=", path.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is another")
def test_threads_that_begin_within_it_share_one_heap(tmp_path):
    assert heaps(tmp_path, "one") == 1 < heaps(tmp_path, "each")


@pytest.fixture
def usual():
    yield gc.get_threshold()
    gc.set_threshold(*heap.USUAL)


def test_a_command_looks_for_garbage_as_usual_once_its_network_is_there(usual, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_run", lambda argv: seen.append(gc.get_threshold()) or 0)
    monkeypatch.setattr(sys, "argv", ["shotseg", "list", "models"])
    assert cli.main() == 0 and seen == [heap.STARTING]
    kept = gc.get_freeze_count()
    encoders.load(TINY, "random")
    assert gc.get_threshold() == usual and gc.get_freeze_count() > kept


def test_in_a_process_of_someone_else_nothing_changes(usual):
    kept = gc.get_freeze_count()
    assert cli.main(["--version"]) == 0
    encoders.load(TINY, "random")
    assert gc.get_threshold() == usual and gc.get_freeze_count() <= kept


def test_a_size_that_the_machine_cannot_hold_is_said_before_it_is_taken():
    with pytest.raises(MemoryError, match=r"photos of 1000000 x 1000000 pixels need .* GiB or more, .* are free"):
        resized(np.zeros((2, 2, 3), np.uint8), (10**6, 10**6))
    with pytest.raises(MemoryError, match="1000000 photos of 512 x 512 pixels at once"):
        Encoder((0, 0, 0), (1, 1, 1))(torch.zeros(1).expand(10**6, 3, 512, 512))


def test_a_container_has_no_more_than_its_own_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(heap, "GROUP", tmp_path)
    for name, said in (("max", "1000000"), ("current", "600000"), ("stat", "anon 5\ninactive_file 100000\n")):
        (tmp_path / f"memory.{name}").write_text(said)
    assert heap.left() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert heap.left() > 500_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound no process so")
def test_a_command_is_bounded_by_the_memory_of_the_machine_while_it_runs(monkeypatch):
    import resource

    monkeypatch.setattr(heap, "GPUS", ())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with heap.within_memory():
        assert 0 < resource.getrlimit(resource.RLIMIT_DATA)[0] < 2**60
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("batch", [0, -1, 257, 10**30])
def test_a_batch_that_gains_nothing_is_one_line(batch, in_python):
    with pytest.raises(UsageError, match=f"batch={batch}: must be from 1 to 256"):
        heap.check_batch(batch)


def test_a_batch_that_memory_has_no_room_for_is_halved():
    class Narrow:
        def __init__(self):
            self.asked = []

        def predict_batch(self, photos):
            self.asked.append(len(photos))
            if len(photos) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return photos

    narrow = Narrow()
    assert _predict(narrow, dict(enumerate("abcde"))) == dict(enumerate("abcde"))
    assert narrow.asked == [5, 2, 3, 1, 2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("f4")),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 776470528 bytes"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:360 void* BFCArena::AllocateRawInternal(size_t, bool"
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_runs_out_anywhere_is_one_line_with_the_mend(error):
    assert is_out_of_memory(error)
    assert cannot("a.jpg", error).startswith("a.jpg: no memory is left for this")
    assert "Error" not in cannot("a.jpg", error)
