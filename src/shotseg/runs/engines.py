"""What goes through the photos: this process with its threads, or the actors of a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

from shotseg import report
from shotseg.data.pixels import decode, to_rgb
from shotseg.data.samples import Sample
from shotseg.data.windows import Windows
from shotseg.errors import InputError, UsageError
from shotseg.photo import Opened, open_file
from shotseg.predictor import Predictor
from shotseg.result import Result
from shotseg.runs.journal import Entry
from shotseg.runs.output import FATAL, STATE, full
from shotseg.runs.photos import PhotoFile, seen
from shotseg.runs.records import record_of

In = TypeVar("In")
Out = TypeVar("Out")

READ_AHEAD = 1  # photos decoded before the model wants them, for each of its threads
WRITE_BEHIND = 1  # results that may wait to be written, likewise


def run_here(segmenter: Predictor, photos: Sequence[PhotoFile], out: Path, batch: int) -> Iterator[Entry]:
    """Entries in the order of the photos: threads read ahead and write behind those that run the model.

    On a CPU each core has a thread with a model of its own, which gives more photos a second than one model on all cores.
    """
    twins = twins_of(segmenter, len(photos))
    pools = [ThreadPoolExecutor(n) for n in (len(twins) + 1, len(twins), len(twins) + 1)]
    with pools[0] as readers, pools[1] as models, pools[2] as writers, one_thread_each(segmenter.device):
        idle: SimpleQueue[Predictor] = SimpleQueue()
        for twin in twins:
            idle.put(twin)

        def predict(group: Sequence[_Step]) -> list[_Step]:
            mine = idle.get()
            try:
                return _segmented(mine, group)
            finally:
                idle.put(mine)

        opened = _ahead(readers, lambda photo: _read(photo, segmenter), photos, READ_AHEAD * len(twins) + batch)
        steps = _ahead(models, predict, _groups(opened, batch), len(twins))
        flat = (step for group in steps for step in group)
        yield from _ahead(writers, lambda step: write(out, step), flat, WRITE_BEHIND * len(twins))


def twins_of(segmenter: Predictor, photos: int | None = None) -> list[Predictor]:
    """As many over the same weights as cores, and photos, can keep busy; on another device it is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    more = (cores if photos is None else min(cores, photos)) - 1 if segmenter.device.type == "cpu" else 0
    return [segmenter, *(twin for _ in range(more) if (twin := segmenter.twin()) is not None)]


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[None]:
    """On a CPU each thread computes alone: torch's own threads wait for each other by spinning, and take the cores from ours."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _groups(items: Iterator[In], count: int) -> Iterator[list[In]]:
    while group := list(islice(items, count)):
        yield group


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], depth: int) -> Iterator[Out]:
    """``map`` with at most ``depth`` items under way or waiting to be taken."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True, eq=False)
class _Step:
    """A photo on its way: its pixels, then its result, or the reason why it has none."""

    photo: PhotoFile
    seen: dict[str, Any]
    value: np.ndarray | Opened | Windows | Result | str
    seconds: float


def _read(photo: PhotoFile, segmenter: Predictor) -> _Step:
    """A photo as the segmenter wants it: opened alone, no finer than it sees, or whole."""
    start, least = time.perf_counter(), segmenter.sees
    value: np.ndarray | Opened | Windows | str
    about: dict[str, Any] = {}
    try:
        windows = segmenter.windows(photo.path, photo.bands, photo.page)
        data, about = seen(photo, whole=windows is None)
        if windows is not None:
            value = windows
        elif least is None:
            value = to_rgb(decode(data, photo.path, photo.bands, photo.page))
        else:
            value = open_file(data, photo.path, least, photo.bands, photo.page)
    except InputError as error:
        value = str(error)
    return _Step(photo, about, value, time.perf_counter() - start)


def _segmented(segmenter: Predictor, group: Sequence[_Step]) -> list[_Step]:
    start = time.perf_counter()
    readable = {
        place: Sample(step.value, tags=frozenset(step.photo.tags), id=step.photo.file)
        for place, step in enumerate(group)
        if isinstance(step.value, np.ndarray | Opened | Windows)
    }
    results = _predict(segmenter, readable)
    share = (time.perf_counter() - start) / max(len(readable), 1)
    return [
        replace(step, value=results[place], seconds=step.seconds + share) if place in results else step
        for place, step in enumerate(group)
    ]


def _predict(segmenter: Predictor, images: dict[int, Sample]) -> dict[int, Result | str]:
    """A result or a reason for each place; a photo that the model cannot take does not take its batch with it."""
    try:
        return dict(zip(images, segmenter.predict_batch(list(images.values()))))
    except Exception as error:  # out of memory, or a fault: the other photos are still done
        if len(images) > 1:
            return {place: _predict(segmenter, {place: image})[place] for place, image in images.items()}
        ((place, image),) = images.items()
        if isinstance(error, InputError):
            return {place: str(error)}
        what = " ".join(str(error).split())[:200] or "no memory left"
        return {place: f"{image.id}: cannot be segmented ({type(error).__name__}: {what}); try a smaller --size"}


def write(out: Path, step: _Step) -> Entry:
    """Write the files of one photo."""
    start = time.perf_counter()
    value = step.value
    if isinstance(value, Result):
        try:
            value.save(out, step.photo.name)
            report.write_thumbnail(out / STATE, step.photo.name, value)
        except InputError as error:
            if getattr(error.__cause__, "errno", None) in FATAL:
                raise full(out, error) from error
            value = str(error)
    assert not isinstance(value, np.ndarray | Opened | Windows)
    seconds = round(step.seconds + time.perf_counter() - start, 3)
    about = {"file": step.photo.file, "name": step.photo.name}
    found = record_of(value if isinstance(value, Result) else None)
    reason = value if isinstance(value, str) else None
    return {"photo": step.seen, "record": {**about, **found, "seconds": seconds, "error": reason}}


def run_on_ray(segmenter: Predictor, photos: Sequence[PhotoFile], out: Path, batch: int) -> Iterator[Entry]:
    """Entries in any order, from one copy of the segmenter for each GPU, or for every two CPUs."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'shotseg[ray]', or use --engine local") from None
    support = out.resolve() / STATE / "support.safetensors"
    segmenter.save(support)
    absolute = (replace(photo, path=photo.absolute) for photo in photos)
    rows = [{"photo": json.dumps(asdict(photo))} for photo in absolute]
    if not rows:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    gpus, cpus = int(ray.cluster_resources().get("GPU", 0)), int(ray.cluster_resources().get("CPU", 1))
    worker: Any = Actor  # Ray's own types know no class whose call takes keywords
    on_gpu = segmenter.device.type == "cuda" and gpus > 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        done = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // 16)).map_batches(
            worker,
            fn_constructor_kwargs={
                "kind": type(segmenter),  # not its bound load, which would be pickled with all that it uses
                "support": str(support),
                "device": str(segmenter.device),
                "out": str(out.resolve()),
            },
            fn_kwargs={"batch": batch},
            batch_size=max(batch, 4),
            compute=ray.data.ActorPoolStrategy(size=gpus if on_gpu else max(1, cpus // 2)),
            num_gpus=1 if on_gpu else 0,
        )
        for row in done.iter_rows():
            yield json.loads(row["entry"])
    finally:
        if started:
            ray.shutdown()


class Actor:
    """A copy of the segmenter in a Ray actor."""

    def __init__(self, kind: type[Predictor], support: str, device: str, out: str):
        self.segmenter, self.out = kind.load(support, device=device), Path(out)

    def __call__(self, rows: dict[str, Any], batch: int) -> dict[str, Any]:
        photos = [
            PhotoFile(**{**row, "tags": tuple(row["tags"]), "bands": row.get("bands") and tuple(row["bands"])})
            for row in map(json.loads, rows["photo"])
        ]
        return {"entry": [json.dumps(entry) for entry in run_here(self.segmenter, photos, self.out, batch)]}


ENGINES = {"local": run_here, "ray": run_on_ray}
