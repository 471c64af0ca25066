"""The evaluation loop: every episode is counted alone, in parallel, and what was counted survives an interrupt.

The same counts come out for any number of workers, batch size, cache size, number of processes, and after an interrupt:
each photo is encoded by itself and each episode decided by itself, by one thread (``torch.set_num_threads(1)``), and
parallel work is over episodes only.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import torch

from shotseg.device import one_thread_each
from shotseg.errors import UsageError
from shotseg.evaluation.evaluator import Row

OnProgress = Callable[[int, int], None]  # (done, of how many)


class Tally:
    """Counts what is done since it was made, tells it on, and knows how long one took."""

    def __init__(self, on_progress: OnProgress, total: int):
        self.on_progress, self.total, self.done, self.start = on_progress, total, 0, time.perf_counter()

    def __call__(self, count: int = 1) -> None:
        self.done += count
        self.on_progress(self.done, self.total)

    @property
    def seconds(self) -> float:
        """For each one that was done, by the clock; what an interrupted run had done is not among them."""
        return (time.perf_counter() - self.start) / max(1, self.done)


def count_episodes(
    evaluator: Any,
    episodes: Sequence[Any],
    partial: Path | None = None,
    fingerprint: str = "",
    resume: bool = True,
    workers: int = 1,
    batch: int = 8,
    on_rows: Callable[[int], None] = lambda count: None,
) -> list[Row]:
    """The row of every episode, in order; under ``torchrun`` the same on all processes.

    evaluator: counts an episode (``row``), says which share photos (``group``), and gives a thread its model (``own_model``).
    partial: file that counts are appended to as they come; with ``resume`` a later call with the same ``fingerprint``
             goes on from it, without it a file that is left there is an error.
    workers: threads that read, encode and decide.     batch: episodes that a worker takes at a time.
    on_rows: told after each batch how many episodes were counted.
    Raises UsageError where ``partial`` belongs to another run, InputError for a photo that cannot be read.
    """
    rank, world = _processes()
    done = _resume(partial, fingerprint, resume) if partial else {}
    if world > 1:
        torch.distributed.barrier()  # all have read what was done before any goes on writing
    left = sorted((i for i in range(len(episodes)) if i not in done), key=lambda i: (evaluator.group(episodes[i]), i))
    own = left[len(left) * rank // world : len(left) * (rank + 1) // world]
    chunks = [own[i : i + batch] for i in range(0, len(own), batch)]
    with _appending(partial, fingerprint, rank) as append, one_thread_each():
        start = evaluator.own_model if workers > 1 else lambda: None
        for rows in _parallel(lambda chunk: [(i, evaluator.row(episodes[i])) for i in chunk], chunks, workers, start):
            append(rows)
            done.update(rows)
            on_rows(len(rows))
    if world > 1:
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, done)
        done = {i: row for part in gathered for i, row in part.items()}
    return [done[i] for i in range(len(episodes))]


def _parallel(
    work: Callable[[list[int]], Any], chunks: list[list[int]], workers: int, start: Callable[[], None]
) -> Iterator[Any]:
    """``work`` of each chunk as it is done, at most two chunks a worker under way; an error or interrupt stops the rest."""
    with ThreadPoolExecutor(workers, initializer=start) as pool:
        under_way: set[Future] = set()
        try:
            for chunk in chunks:
                under_way.add(pool.submit(work, chunk))
                if len(under_way) >= 2 * workers:
                    finished, under_way = wait(under_way, return_when="FIRST_COMPLETED")
                    yield from (future.result() for future in finished)
            while under_way:
                finished, under_way = wait(under_way, return_when="FIRST_COMPLETED")
                yield from (future.result() for future in finished)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _processes() -> tuple[int, int]:
    """(rank, number of processes); joins the group that ``torchrun`` describes."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        atexit.register(torch.distributed.destroy_process_group)  # its threads must not outlive Python
    return (torch.distributed.get_rank(), world) if world > 1 else (0, 1)


def is_first() -> bool:
    """Whether this is the one of the processes of a run that writes and prints."""
    return _processes()[0] == 0


# --- partial results: a line with the fingerprint, then one line an episode -------------------------------------------


def partial_files(partial: Path) -> list[Path]:
    """The files of all processes of a run that writes to ``partial``."""
    return sorted(partial.parent.glob(f"{escape(partial.stem)}*{partial.suffix}"))


def _resume(partial: Path, fingerprint: str, resume: bool) -> dict[int, Row]:
    done: dict[int, Row] = {}
    for path in partial_files(partial):
        head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]  # a torn last line is done again
        if not lines:  # of a run that counted nothing
            continue
        if not resume:
            raise UsageError(f"{path}: counts of an interrupted run; go on with --resume, or remove it")
        if head and head != json.dumps({"fingerprint": fingerprint}):
            what = "counts of another run, or of photos or masks that were changed since"
            raise UsageError(f"{path}: {what}; remove it, or choose another --out")
        done.update((row["i"], row["row"]) for row in map(json.loads, lines))
    return done


@contextmanager
def _appending(partial: Path | None, fingerprint: str, rank: int) -> Iterator[Callable[[list[tuple[int, Row]]], None]]:
    if partial is None:
        yield lambda rows: None
        return
    path = partial if rank == 0 else partial.with_name(f"{partial.stem}.{rank}{partial.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1 if content.count(b"\n") > 1 else 0
        file.truncate(whole)
        if not whole:
            file.write(json.dumps({"fingerprint": fingerprint}).encode() + b"\n")

        def append(rows: list[tuple[int, Row]]) -> None:
            file.write(b"".join(json.dumps({"i": i, "row": row}).encode() + b"\n" for i, row in rows))
            file.flush()

        yield append
