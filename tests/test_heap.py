"""Threads of a run share the memory that they keep."""

import re
import subprocess
import sys

import pytest

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
