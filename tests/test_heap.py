"""Threads of a run share the memory that they keep; when garbage is looked for."""

import gc
import re
import subprocess
import sys

import pytest

from shotseg import cli, encoders, heap
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
