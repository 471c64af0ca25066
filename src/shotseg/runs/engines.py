"""What goes through the photos: this process with its threads, or the actors of a Ray cluster."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from shotseg import report
from shotseg.data import remote
from shotseg.data.pixels import decode, to_rgb
from shotseg.data.samples import Sample
from shotseg.data.windows import Windows
from shotseg.device import cores, one_thread_each
from shotseg.encoded import Encoded
from shotseg.errors import InputError, UsageError, is_out_of_memory, no_memory
from shotseg.heap import one_heap
from shotseg.photo import Opened, open_file
from shotseg.predictor import Predictor, ahead
from shotseg.result import Result
from shotseg.runs.destination import Folder, place_at
from shotseg.runs.journal import Entry
from shotseg.runs.output import FATAL, full
from shotseg.runs.photo_list import PhotoFile
from shotseg.runs.photos import seen
from shotseg.runs.records import record_of

In = TypeVar("In")
One = TypeVar("One", bound=Predictor)

READ_AHEAD = (
    1  # photos decoded beyond a batch, or one for each thread of the model: more wait in memory and gain nothing
)
KEPT = "support.safetensors"  # a segmenter on its way to another process
SENT = 32  # photos that a process of a cluster gets at a time
WRITE_BEHIND = 1  # results that may wait to be written, likewise


def run_here(segmenter: Predictor, photos: Iterable[PhotoFile], place: Folder, batch: int) -> Iterator[Entry]:
    """Entries in the order of the photos: threads read ahead and write behind those that run the model.

    On a CPU each core has a thread with a model of its own, which gives more photos a second than one model on all cores.
    """
    yield from run_with(twins_of(segmenter), photos, place, batch)


def run_with(twins: Sequence[Predictor], photos: Iterable[PhotoFile], place: Folder, batch: int) -> Iterator[Entry]:
    """The same with a thread for each of ``twins``, which are one segmenter."""
    segmenter = twins[0]
    pools = [ThreadPoolExecutor(n) for n in (len(twins) + 1, len(twins), len(twins) + 1)]
    with one_heap(), pools[0] as readers, pools[1] as models, pools[2] as writers, one_thread_each():
        idle: SimpleQueue[Predictor] = SimpleQueue()
        for twin in twins:
            idle.put(twin)

        def predict(group: Sequence[Step]) -> list[Step]:
            mine = idle.get()
            try:
                return _segmented(mine, group)
            finally:
                idle.put(mine)

        opened = ahead(
            readers,
            lambda photo: read(photo, segmenter.sees, segmenter.windows),
            photos,
            max(len(twins), READ_AHEAD + batch),
        )
        steps = ahead(models, predict, _groups(opened, batch), len(twins))
        flat = (step for group in steps for step in group)
        yield from ahead(writers, lambda step: write(place, step), flat, WRITE_BEHIND * len(twins))


def twins_of(segmenter: One, photos: int | None = None) -> list[One]:
    """As many over the same weights as cores, and photos, can keep busy; on another device it is one."""
    more = (cores() if photos is None else min(cores(), photos)) - 1 if segmenter.device.type == "cpu" else 0
    return [segmenter, *(twin for _ in range(more) if (twin := segmenter.twin()) is not None)]


def _groups(items: Iterator[In], count: int) -> Iterator[list[In]]:
    while group := list(islice(items, count)):
        yield group


@dataclass(frozen=True, eq=False)
class Step:
    """A photo on its way: its pixels, then its result, or the reason why it has none."""

    photo: PhotoFile
    seen: dict[str, Any]
    value: np.ndarray | Opened | Windows | Encoded | Result | str
    seconds: float


def read(photo: PhotoFile, least: int | None, in_windows: Callable[..., Windows | None] = lambda *_: None) -> Step:
    """A photo, no finer than ``least`` pixels of its longer side where that is given, or what ``in_windows`` gives of it."""
    start = time.perf_counter()
    value: np.ndarray | Opened | Windows | str
    about: dict[str, Any] = {}
    try:
        windows = in_windows(photo.path, photo.bands, photo.page)
        data, about = seen(photo) if windows is None else seen(photo, whole=False)
        if remote.address(photo.path):
            windows = in_windows(photo.shown, photo.bands, photo.page, data)
        if windows is not None:
            value = windows
        elif least is None:
            value = to_rgb(decode(data, photo.shown, photo.bands, photo.page))
        else:
            value = open_file(data, photo.shown, least, photo.bands, photo.page)
    except InputError as error:
        value = str(error)
    return Step(photo, about, value, time.perf_counter() - start)


def _segmented(segmenter: Predictor, group: Sequence[Step]) -> list[Step]:
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
            pairs, half = list(images.items()), len(images) // 2
            return _predict(segmenter, dict(pairs[:half])) | _predict(segmenter, dict(pairs[half:]))
        ((place, image),) = images.items()
        return {place: cannot(image.id, error)}


def cannot(file: object, error: Exception) -> str:
    """The reason why a photo that was read has no result."""
    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        return f"{file}: {no_memory(error)}; take a smaller --size"
    what = " ".join(str(error).split())[:200]
    return f"{file}: cannot be segmented ({type(error).__name__}: {what}); try a smaller --size"


def write(place: Folder, step: Step) -> Entry:
    """Write the files of one photo."""
    start = time.perf_counter()
    value = step.value
    if isinstance(value, Result):
        try:
            with place.room() as folder:
                value.save(folder, step.photo.name)
                report.write_thumbnail(folder, step.photo.name, value)
        except InputError as error:
            if getattr(error.__cause__, "errno", None) in FATAL:
                raise full(place, error) from error
            value = str(error)
    assert isinstance(value, Result | str)
    seconds = round(step.seconds + time.perf_counter() - start, 3)
    about = {"file": step.photo.file, "name": step.photo.name}
    found = record_of(value if isinstance(value, Result) else None)
    reason = value if isinstance(value, str) else None
    return {"photo": step.seen, "record": {**about, **found, "seconds": seconds, "error": reason}}


def run_on_ray(segmenter: Predictor, photos: Iterable[PhotoFile], place: Folder, batch: int) -> Iterator[Entry]:
    """Entries in any order, from a process with a copy of the segmenter for each GPU, or for each core."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'shotseg[ray]', or use --engine local") from None
    with TemporaryDirectory() as folder:
        segmenter.save(Path(folder, KEPT))
        support = Path(folder, KEPT).read_bytes()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    gpus, cpus = int(ray.cluster_resources().get("GPU", 0)), int(ray.cluster_resources().get("CPU", 1))
    on_gpu = segmenter.device.type == "cuda" and gpus > 0
    # A node that is lost starts anew elsewhere, and so does what it had begun.
    worker = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0, max_restarts=-1, max_task_retries=-1)(Actor)
    kept = {"support": support, "device": str(segmenter.device), "out": place.text}
    try:
        copies = [worker.remote(type(segmenter), **kept) for _ in range(gpus if on_gpu else max(1, cpus))]
        pool = ray.util.ActorPool(copies)
        for group in _groups(iter(photos), max(batch, SENT)):
            rows = [json.dumps(asdict(replace(photo, path=photo.absolute))) for photo in group]
            if not pool.has_free():
                yield from map(json.loads, pool.get_next_unordered())
            pool.submit(lambda actor, rows: actor.segment.remote(rows, batch), rows)
        while pool.has_next():
            yield from map(json.loads, pool.get_next_unordered())
    finally:
        if started:
            ray.shutdown()


class Actor:
    """A copy of the segmenter in a process of a Ray cluster."""

    def __init__(self, kind: type[Predictor], support: bytes, device: str, out: str):
        """support: what the segmenter's ``save`` wrote.    out: text of a place."""
        with TemporaryDirectory() as folder:
            Path(folder, KEPT).write_bytes(support)
            self.segmenter, self.place = kind.load(Path(folder, KEPT), device=device), place_at(out)

    def segment(self, rows: Sequence[str], batch: int) -> list[str]:
        """Entries for photos, both as JSON."""
        photos = [PhotoFile.of(json.loads(row)) for row in rows]
        return [json.dumps(entry) for entry in run_with([self.segmenter], photos, self.place, batch)]


Engine = Callable[[Predictor, Iterable[PhotoFile], Folder, int], Iterator[Entry]]
ENGINES: dict[str, Engine] = {"local": run_here, "ray": run_on_ray}
