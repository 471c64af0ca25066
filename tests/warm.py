"""Processes of their own without the seconds of a start: forked from a server that has imported what is slow to import.

Such a process is killed and interrupted as any other; only its birth is another. On Linux the server is itself a fork, of the
process of the tests before the first of them, so that nothing is imported twice; elsewhere it imports what is slow.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest

import once

SLOW = ["torch", "timm", "accelerate", "shotseg.segmenter", "shotseg.training.run", "shotseg.evaluation.door"]
_context = multiprocessing.get_context("forkserver")


def fork_the_server() -> None:
    """Makes the server of this process and of the processes that others start by "forkserver"; no test has run yet."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    if sys.platform != "linux" or server._forkserver_pid is not None:
        return
    resource_tracker.ensure_running()
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        read, write = os.pipe()  # it ends with the last process that holds the end to write
        pid = os.fork()
        if pid == 0:
            try:
                os.close(write)
                forkserver.main(listener.fileno(), read, [])
            finally:
                os._exit(0)
        os.close(read)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, write, pid


class Process:
    """A function in a process and a group of its own; what it prints goes to ``out`` and ``err``, files.

    As a context it is killed at the end.
    """

    def __init__(self, out: Path, err: Path, env: Mapping[str, str], work: Callable[..., Any], *given: Any):
        self.out, self.err = out, err
        for file in (out, err):
            file.write_text("")
        multiprocessing.set_forkserver_preload(SLOW)
        self.process = _context.Process(target=_at_work, args=(out, err, dict(env), work, given))
        self.process.start()
        self.pid: int = self.process.pid  # type: ignore[assignment]

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float = 300) -> int:
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.kill()
            pytest.fail(f"still at work after {timeout} s: {self.err.read_text()}")
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def first_line(self) -> str:
        """Of what it prints, once it is whole."""
        while self.poll() is None and "\n" not in self.out.read_text():
            time.sleep(0.02)
        return self.out.read_text().partition("\n")[0]


def shotseg(folder: Path, *flags: Any, env: Mapping[str, str] | None = None) -> Process:
    """``shotseg`` with these flags; what it prints goes to two files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Process(folder / "said.out", folder / "said.err", env or {}, _command, [str(flag) for flag in flags])


def group(folder: Path, count: int, work: Callable[..., Any], *given: Any) -> None:
    """A function in each of several processes, in the environment that torchrun gives them; all have to end well."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(_free_port())
    started = []
    for rank in map(str, range(count)):
        env = shared | {"RANK": rank, "LOCAL_RANK": rank}
        started.append(Process(folder / f"{rank}.out", folder / f"{rank}.err", env, work, *given))
    codes = [process.wait() for process in started]
    assert not any(codes), "\n".join(process.err.read_text() for process in started)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _at_work(out: Path, err: Path, env: dict[str, str], work: Callable[..., Any], given: Sequence[Any]) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # its own processes start as a command line's do
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with Ctrl-C ignored
    os.environ.update(env)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    once.encoders_are_read_once(pytest.MonkeyPatch())  # as in the process of the tests: random numbers are the same
    once.large_weights_are_drawn_in_part(pytest.MonkeyPatch())
    once.curves_are_not_drawn(pytest.MonkeyPatch())
    sys.exit(work(*given))


def _command(flags: list[str]) -> int:
    from shotseg.cli import main

    return main(flags)
