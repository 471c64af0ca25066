"""The evaluation loop: every photo is read and encoded once, every episode counted alone.

The same counts come out for any number of workers, batch size, cache size, number of processes, and after an interrupt:
each photo is encoded by itself and each episode decided by itself, by one thread (``torch.set_num_threads(1)``), and
parallel work is over episodes only.
"""

from __future__ import annotations

import atexit
import copy
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from glob import escape
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.episodes import EpisodeIndex
from shotseg.data.samples import IGNORE, Support
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.evaluation import controls, protocols
from shotseg.evaluation.counts import count
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import Protocol

Row = dict[str, Any]  # the counts of one episode, as they are written to the file of partial results


class Cache:
    """Values by key up to ``limit`` bytes, the longest unused dropped first; two threads never make the same value."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._values: OrderedDict[Any, Future] = OrderedDict()
        self._sizes: dict[Any, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    del self._values[key]
                future.set_exception(error)
            else:
                self._keep(key, _bytes(future.result()))
        return future.result()

    def _keep(self, key: Any, size: int) -> None:
        with self._lock:
            self._sizes[key] = size
            self.bytes += size
            for old in [k for k in self._values if k in self._sizes]:  # one without a size is still being made
                if self.bytes <= self.limit:
                    break
                del self._values[old]
                self.bytes -= self._sizes.pop(old)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(_bytes(getattr(value, f.name)) for f in fields(value)) if is_dataclass(value) else 0


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo at its working size (1, 3, h, w) in [0, 1], and its features."""

    image: Tensor
    features: Features


class Evaluator:
    """One model under one protocol on one pool of photos.

    model:    a few-shot model (``encode``, ``encode_support``, ``forward``), already on ``device``.
    dataset:  gives ``sample(i)`` for the positions of ``pool``.
    cache_mb: bound on the photos, features and supports that are kept.
    """

    def __init__(
        self,
        model: Any,
        dataset: Any,
        pool: Pool,
        protocol: Protocol,
        device: str | torch.device = "cpu",
        cache_mb: int = 2000,
    ):
        self.dataset, self.pool, self.device = dataset, pool, device
        self._model, self._of_thread, self._copying = model, threading.local(), threading.Lock()
        self.size: int = protocol.size or model.size
        self.geometry: str = protocol.geometry or model.geometry
        self.protocol = replace(protocol, size=self.size, geometry=self.geometry)  # nothing is left open in the result
        self.cache = Cache(cache_mb * 2**20)

    @property
    def model(self) -> Any:
        return getattr(self._of_thread, "model", self._model)

    def own_model(self) -> None:
        """Give the calling thread a model of its own with the same weights: a forward pass may keep state in its modules."""
        with self._copying:
            shared = {id(tensor): tensor for tensor in (*self._model.parameters(), *self._model.buffers())}
            self._of_thread.model = copy.deepcopy(self._model, shared)

    def group(self, episode: EpisodeIndex) -> Any:
        """Episodes of one group share photos: one after the other they need a small cache."""
        return episode.class_id

    def row(self, episode: EpisodeIndex) -> Row:
        """The counts of one episode: [background, foreground] of the method and of every control."""
        prediction, target, pseudo, present = self._predict(episode)
        row = _counted(prediction, target)
        if present is not None:  # what the method says of the photo as a whole
            row["present"] = [present]
        key = ("controls", episode.query, episode.class_id)
        row["controls"] = dict(self.cache.get(key, lambda: self._controls(episode.query, target)))
        if pseudo is not None:  # the mask that the method was given of the query, alone
            row["controls"]["pseudo_mask"] = _overlap(pseudo, target)
        return row

    def predict(self, episode: EpisodeIndex) -> tuple[Tensor, Tensor]:
        """Predicted and true mask (h, w) int64 on the canvas of the protocol, on the CPU; truth 255 = ignored."""
        return self._predict(episode)[:2]

    def _predict(self, episode: EpisodeIndex) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
        label = self.label(episode.query, episode.class_id)
        query = self.photo(episode.query)
        target = protocols.canvas(self.protocol, label, self.geometry, (query.image.shape[2], query.image.shape[3]))
        supports = [self.support(i) for i in episode.supports]
        if self.protocol.fusion == "model":
            supports = [getattr(self.model, "merge", Support.join)(supports)]

        def decided(shots: list[Tensor]) -> Tensor:
            scored, original = (target.shape[0], target.shape[1]), (label.shape[0], label.shape[1])
            return protocols.decide(self.protocol, shots, scored, original, self.geometry, self.size).cpu()

        with torch.no_grad():  # of this thread only
            told = self.told(episode)
            found = [self.model(query.features, support, query.image, **told) for support in supports]
            pseudo = found[0].extra.get("pseudo_mask")
            if pseudo is not None:  # (1, h, w) in [0, 1]
                pseudo = decided([torch.cat([1 - pseudo, pseudo]).float()])
            says = [x.extra["presence"][0].softmax(0)[1] for x in found if "presence" in x.extra]
            present = int(torch.stack(says).mean() > 0.5) if says else None
            return decided([x.logits[0] for x in found]), target, pseudo, present

    def told(self, episode: EpisodeIndex) -> dict[str, Any]:
        """What the model ``asks`` beside photos: the class's name, the query's own size, the names of all its true classes."""
        asks = getattr(self.model, "asks", ())
        if not asks:
            return {}
        content = self.pool.items[episode.query].content
        known = {
            "class_name": [self.pool.classes[episode.class_id]],
            "present": [sorted({x.class_name for x in self.dataset.items if x.content == content})],
            "sizes": [self.sample(episode.query)[0].shape[:2]],
        }
        return {name: known[name] for name in asks}

    def photo(self, i: int) -> Encoded:
        """The photo of item ``i`` of the pool, encoded."""
        return self.cache.get(("photo", self.pool.items[i].content), lambda: self._encode(i))

    def _encode(self, i: int) -> Encoded:
        patch = self.model.encoder.patch
        image, _ = protocols.working_pair(self.sample(i)[0], None, self.geometry, self.size, patch)
        with torch.no_grad():
            batch = image[None].to(self.device)
            return Encoded(batch, self.model.encode(batch))

    def support(self, i: int) -> Support:
        """Item ``i`` of the pool as the one shot of its class."""
        return self.cache.get(("support", i), lambda: self._encode_support(i))

    def _encode_support(self, i: int) -> Support:
        photo, mask = self.photo(i), self.working_mask(i)
        masks = None if mask is None else mask[None]
        names = (self.pool.items[i].class_name,)
        with torch.no_grad():
            return self.model.encode_support(photo.image[None], masks, photo.features, class_names=names)

    def working_mask(self, i: int) -> Tensor | None:
        """(1, h, w) int64: the mask of item ``i`` at the working size, None where the model must not see it."""
        if getattr(self.model, "needs", "masks") != "masks":
            return None
        pixels, mask = self.sample(i)
        _, resized = protocols.working_pair(pixels, mask, self.geometry, self.size, self.model.encoder.patch)
        assert resized is not None
        return resized[None].to(self.device)

    def label(self, i: int, class_id: int) -> np.ndarray:
        """(H, W) uint8 in {0, 1, 255}: where the photo of item ``i`` shows the class, nowhere without that label."""
        shown = self.pool.labelled(i, class_id)
        mask = self.sample(i if shown is None else shown)[1]
        return mask if shown is not None else np.where(mask == IGNORE, IGNORE, 0)

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo (H, W, 3) uint8 and mask (H, W) in {0, 1, 255} of item ``i`` of the pool."""

        def read() -> tuple[np.ndarray, np.ndarray]:
            sample = self.dataset.sample(self.pool.positions[i])
            return sample.image, sample.mask

        return self.cache.get(("sample", i), read)

    def _controls(self, query: int, target: Tensor) -> dict[str, Row]:
        masks = self.control_masks(query, (target.shape[0], target.shape[1]))
        return {name: _overlap(mask, target) for name, mask in masks.items()}

    def control_masks(self, query: int, canvas: tuple[int, ...]) -> dict[str, Tensor]:
        """(h, w) int64 in {0, 1} on a canvas of that size: what each control says of the photo of item ``query``."""
        height, width = self.sample(query)[1].shape
        features = self.photo(query).features
        inside = (height, width) if self.protocol.score_at != "working" else (canvas[0], canvas[1])
        if self.geometry == "pad":  # nothing but the photo itself is looked at, and drawn on
            valid = protocols.padded_size((height, width), self.size)
            inside = valid if self.protocol.score_at == "working" else inside
            features = _cropped(features, valid[0] / self.size, valid[1] / self.size)
        drawn = {
            "all_foreground": controls.all_foreground(inside),
            "centre": controls.centre_disc(inside),
            "saliency": controls.salient(features, inside),
        }
        margins = (0, canvas[1] - inside[1], 0, canvas[0] - inside[0])
        return {name: F.pad(mask, margins) for name, mask in drawn.items()}


def _cropped(features: Features, height: float, width: float) -> Features:
    """The top left part of every map, as fractions of its sides."""
    maps = tuple(m[..., : ceil(m.shape[-2] * height), : ceil(m.shape[-1] * width)] for m in features.maps)
    return Features(maps, features.strides, features.classes)


def _counted(prediction: Tensor, target: Tensor) -> Row:
    intersection, union, true, ignored = (x[0].tolist() for x in count(prediction[None], target[None]))
    return {"intersection": intersection, "union": union, "target": true, "ignored": ignored}


def _overlap(prediction: Tensor, target: Tensor) -> Row:
    return {
        name: amounts for name, amounts in _counted(prediction, target).items() if name in ("intersection", "union")
    }


def evaluate(
    evaluator: Any,
    episodes: Sequence[Any],
    partial: Path | None = None,
    fingerprint: str = "",
    resume: bool = True,
    workers: int = 1,
    batch: int = 8,
    on_rows: Callable[[int], None] = lambda count: None,
) -> list[Row] | None:
    """The row of every episode, in order; under ``torchrun`` None on all processes but the first.

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
    return [done[i] for i in range(len(episodes))] if rank == 0 else None


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


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Sums of floats depend on how an operation is split over threads, so each operation gets one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processes() -> tuple[int, int]:
    """(rank, number of processes); joins the group that ``torchrun`` describes."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        atexit.register(torch.distributed.destroy_process_group)  # its threads must not outlive Python
    return (torch.distributed.get_rank(), world) if world > 1 else (0, 1)


def told_by_first(value: Any) -> Any:
    """The value that the first of the processes of this run has."""
    if _processes()[1] == 1:
        return value
    shared = [value]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]


# --- partial results: a line with the fingerprint, then one line an episode -------------------------------------------


def partial_files(partial: Path) -> list[Path]:
    """The files of all processes of a run that writes to ``partial``."""
    return sorted(partial.parent.glob(f"{escape(partial.stem)}*{partial.suffix}"))


def _resume(partial: Path, fingerprint: str, resume: bool) -> dict[int, Row]:
    done: dict[int, Row] = {}
    for path in partial_files(partial):
        if not resume:
            raise UsageError(f"{path}: counts of an interrupted run; go on with --resume, or remove it")
        head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]  # a torn last line is done again
        if head and head != json.dumps({"fingerprint": fingerprint}):
            raise UsageError(f"{path}: counts of another run; remove it, or choose another --out")
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
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        if not whole:
            file.write(json.dumps({"fingerprint": fingerprint}).encode() + b"\n")

        def append(rows: list[tuple[int, Row]]) -> None:
            file.write(b"".join(json.dumps({"i": i, "row": row}).encode() + b"\n" for i, row in rows))
            file.flush()

        yield append
