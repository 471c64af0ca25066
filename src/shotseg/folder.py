"""A folder in, masks out: one pass, constant memory, resumable anywhere, sharded or spread with Ray.

Reading and writing run in threads beside the model. What a run leaves under ``out``:

- ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette; 0 = background, i + 1 = class i);
- ``results.jsonl``, one line a photo in the order of the photos; ``errors.csv`` where something failed; ``report.html``;
- with ``annotations="coco"`` and the like, ``coco/`` with the annotations in that format;
- ``.shotseg/``: the journal that ``resume`` reads, and the report's thumbnails.

A shard writes ``results.shard-1-of-4.jsonl`` and so on; the last one to finish joins them under the plain names.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from shotseg import report
from shotseg.data import images as files
from shotseg.data.annotations import Labelled, names, write
from shotseg.data.folder import find_images
from shotseg.data.samples import Sample
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.result import Result

if TYPE_CHECKING:
    import torch

In = TypeVar("In")
Out = TypeVar("Out")
Record = dict[str, Any]

READ_AHEAD = 4  # photos decoded before the model wants them
WRITE_BEHIND = 4  # results that may wait to be written
STATE = ".shotseg"
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}  # no other photo can be written either


class OutputError(ShotsegError):
    """The output folder takes no more: the run stops, and can be resumed."""


@dataclass(frozen=True)
class Photo:
    """A photo to segment. file: path below the query folder; name: of its masks, without suffix; both with "/".

    tags: the classes that it is known to show (numbers of the worker's ``classes``); empty where nothing is known.
    bands, page: which to read of a file with more, see :func:`shotseg.data.images.read_image`.
    """

    path: str
    file: str
    name: str
    tags: tuple[int, ...] = ()
    bands: tuple[int, ...] | None = None
    page: int = 1


class Worker(Protocol):
    """What goes through the photos: a Segmenter, or another that gives a :class:`Result` for each."""

    device: torch.device
    thumbnails: dict[str, list[np.ndarray]]

    @property
    def classes(self) -> tuple[str, ...]: ...

    def predict_batch(self, photos: Iterable[Sample]) -> Sequence[Result]: ...

    def save(self, path: str | Path) -> None: ...


@dataclass(frozen=True)
class Summary:
    """What a run did: counts of this run's photos, and where the results lie."""

    photos: int
    failed: int
    results: Path
    report: Path
    errors: Path | None


def find_photos(query: str | Path, out: Path | None = None) -> list[Photo]:
    """The photos of a file, a folder (with its sub-folders) or a glob, in the order of their names below it.

    Of a folder with ``images/`` and ``masks/`` only the images are taken; what lies under ``out`` never is. Photos that
    differ only in their suffix keep it in their name: "a.jpg" and "a.png" become "a_jpg" and "a_png".
    Raises UsageError where there is none.
    """
    base = Path(query)
    if (base / "images").is_dir() and (base / "masks").is_dir():
        base = base / "images"
    found = find_images(base, skip=_written(out, base))
    if not base.is_dir():
        base = Path(os.path.commonpath([path.parent for path in found]))
    written = _written(out, base)
    relative = {path.relative_to(base): path for path in found if written.isdisjoint(path.resolve().parents)}
    relative = {file: path for file, path in relative.items() if not any(part.startswith(".") for part in file.parts)}
    if not relative:
        raise UsageError(f"{query}: holds results only; give --query a folder of photos")
    return named([(file.as_posix(), str(path)) for file, path in relative.items()])


def _written(out: Path | None, base: Path) -> set[Path]:
    """The folders of results; where they lie beside the photos, the photos themselves must stay in."""
    if out is None:
        return set()
    beside = out.resolve() == base.resolve()
    return {folder.resolve() for folder in ([out / "masks", out / "labels"] if beside else [out])}


def named(paths: Sequence[tuple[str, str]]) -> list[Photo]:
    """The photos of (file, path) pairs, sorted by file, each with a name that no other has."""
    # Names are compared without case: macOS and Windows cannot keep "A.png" beside "a.png".
    stems = Counter(_stem(file).casefold() for file, _ in paths)
    taken = {stem for stem, count in stems.items() if count == 1}
    photos = []
    for file, path in sorted(paths):
        name = _stem(file)
        if stems[name.casefold()] > 1:
            name = f"{name}_{Path(file).suffix[1:]}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
        photos.append(Photo(path, file, name))
    return photos


def _stem(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def parse_shard(shard: str) -> tuple[int, int]:
    """ "2/4" is (1, 4): the second of four. "0/4" is taken as the fourth, so that counting from 0 covers all too."""
    try:
        part, count = (int(number) for number in shard.split("/"))
    except ValueError:
        part, count = -1, 0
    if not 0 <= part <= count or count < 1:
        raise UsageError(f"--shard {shard}: write i/n with i from 1 to n, as 2/4 for the second of four")
    return (part - 1) % count, count


def segment_folder(
    segmenter: Worker,
    photos: Sequence[Photo],
    out: str | Path,
    *,
    resume: bool = False,
    shard: str = "1/1",
    engine: str = "local",
    batch: int = 1,
    annotations: str = "mask",
    export: Mapping[str, Any] | None = None,
    failed_supports: Sequence[tuple[str, str]] = (),
    settings: Record | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Summary:
    """Segment ``photos`` into ``out``; a photo that fails is a record with its reason, and the rest is done.

    resume:      keep what an earlier run of the same ``settings`` finished; photos that failed are tried again.
    engine:      "local", or "ray" (every node must see the photos and ``out`` under the same paths).
    batch:       photos that go through the encoder together.
    annotations: "mask", or a format of ``shotseg.data.annotations`` to write beside the masks, into ``out/<format>``.
    export:      further keywords of :func:`shotseg.data.annotations.write`.
    failed_supports: (file, reason) of supports that could not be used, for ``errors.csv``.
    on_record:   is told of every photo, also of those done earlier.
    Raises UsageError for a wrong call, OutputError where ``out`` takes no more.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    out = Path(out)
    part, count = parse_shard(shard)
    tag = "" if count == 1 else f".shard-{part + 1}-of-{count}"
    if annotations != "mask":
        names.check(annotations, segmenter.classes, [photo.file for photo in photos], apart=True)
    places = {photo.name: Path(photo.path) for photo in photos}
    photos = photos[part::count]
    settings = {**(settings or {}), "classes": list(segmenter.classes)}
    known = {photo.name: {segmenter.classes[i] for i in photo.tags} for photo in photos if photo.tags}
    lines = _start(out, tag, settings, resume, known)
    for line in lines.values():
        on_record(json.loads(line))
    todo = [photo for photo in photos if photo.name not in lines]
    try:
        with _journal(out, tag).open("a", encoding="utf-8") as journal:
            for record in ENGINES[engine](segmenter, todo, out, batch):
                line = json.dumps(record, ensure_ascii=False)
                journal.write(line + "\n")
                journal.flush()
                lines[record["name"]] = line
                on_record(record)
        mine = [lines[photo.name] for photo in photos]
        _write_results(out, tag, mine, failed_supports)
        tag, joined = _join_shards(out, tag, count, mine, failed_supports)
        page = report.write(out / f"report{tag}.html", joined, out / STATE, segmenter.thumbnails, settings)
        if annotations != "mask" and not tag:
            write(annotations, out / annotations, _labelled(joined, out, places), segmenter.classes, **(export or {}))
    except (OSError, InputError) as error:
        raise _full(out, error) from error
    failed = sum(json.loads(line)["error"] is not None for line in mine)
    errors = out / f"errors{tag}.csv"
    return Summary(len(mine), failed, out / f"results{tag}.jsonl", page, errors if errors.exists() else None)


def check_output(out: Path) -> None:
    """Make the folder ``out``. Raises UsageError where nothing can be written there."""
    probe = out / STATE / f"probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error


def write_errors(out: Path, failed: Sequence[tuple[str, str]], tag: str = "") -> None:
    """``errors.csv`` with the columns file and error; without any, an earlier one goes."""
    path = out / f"errors{tag}.csv"
    path.unlink(missing_ok=True)
    if failed:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("file", "error"), *failed])
        files.write_bytes(path, table.getvalue().encode())


def _full(out: Path, error: OSError | InputError) -> OutputError:
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or str(error)
    return OutputError(f"{out}: cannot be written ({reason}); free space, then run again with --resume")


def _journal(out: Path, tag: str) -> Path:
    return out / STATE / f"journal{tag}.jsonl"


def _start(out: Path, tag: str, settings: Record, resume: bool, known: Mapping[str, set[str]]) -> dict[str, str]:
    """Make ``out`` ready; name -> journal line of what an earlier run finished (nothing without ``resume``).

    known: name -> the classes that its result must have, where it may have others than it had.
    """
    about = out / STATE / "settings.json"
    text = json.dumps(settings, ensure_ascii=False, indent=1, sort_keys=True)
    lines: dict[str, str] = {}
    try:
        if resume and about.exists():
            earlier = json.loads(about.read_text(encoding="utf-8"))
            changed = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
            if changed:
                raise UsageError(
                    f"{out} was made with another {', '.join(changed)}; choose another --out or leave --resume"
                )
            finished = ((line, record) for line, record in _records(_journal(out, tag)) if _is_done(record, known, out))
            lines = {record["name"]: line for line, record in finished}
        for old in (f"results{tag}.jsonl", f"errors{tag}.csv", f"report{tag}.html"):
            (out / old).unlink(missing_ok=True)
        if not tag:  # other shards may be writing theirs
            for half in out.rglob(f"{files.TEMPORARY}*.tmp"):
                half.unlink(missing_ok=True)
        files.write_bytes(about, text.encode())
        files.write_bytes(_journal(out, tag), _text(lines.values()))
    except (OSError, InputError) as error:
        raise _full(out, error) from error
    return lines


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    """The lines of a journal and what they say; one that was cut short by a kill or a power failure is left out."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as journal:
            for line in journal:
                with contextlib.suppress(ValueError):
                    yield line.rstrip("\n"), json.loads(line)


def _is_done(record: Record, known: Mapping[str, set[str]], out: Path) -> bool:
    if set(record["classes"]) != known.get(record["name"], set(record["classes"])):
        return False
    written = [out / "masks" / name / f"{record['name']}.png" for name in record["classes"]]
    written += [out / "labels" / f"{record['name']}.png", report.thumbnail_path(out / STATE, record["name"])]
    return record["error"] is None and all(path.is_file() for path in written)


def _text(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _write_results(out: Path, tag: str, lines: Sequence[str], failed_supports: Sequence[tuple[str, str]]) -> None:
    files.write_bytes(out / f"results{tag}.jsonl", _text(lines))
    records = (json.loads(line) for line in lines)
    failed = [(record["file"], record["error"]) for record in records if record["error"]]
    write_errors(out, [*failed_supports, *failed], tag)


def _join_shards(
    out: Path, tag: str, count: int, mine: list[str], failed_supports: Sequence[tuple[str, str]]
) -> tuple[str, list[str]]:
    """The last shard to finish writes the results of all under the plain names; gives the tag and lines to report."""
    parts = [out / f"results.shard-{i + 1}-of-{count}.jsonl" for i in range(count)]
    if count == 1 or not all(path.is_file() for path in parts):
        return tag, mine
    pairs = sorted((pair for path in parts for pair in _records(path)), key=lambda pair: pair[1]["file"])
    joined = [line for line, _ in pairs]
    _write_results(out, "", joined, failed_supports)
    return "", joined


def _labelled(lines: Iterable[str], out: Path, places: Mapping[str, Path]) -> Iterator[Labelled]:
    for record in map(json.loads, lines):
        if record["error"] is None:
            labels = files.read_mask(out / "labels" / f"{record['name']}.png", labels=True)
            scores = {name: found["confidence"] for name, found in record["classes"].items()}
            yield Labelled(record["file"], labels, record["name"], scores, photo=places.get(record["name"]))


def _run_here(segmenter: Worker, photos: Sequence[Photo], out: Path, batch: int) -> Iterator[Record]:
    """Records in the order of the photos: threads read ahead and write behind while this thread runs the model."""
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        steps = _segmented(segmenter, _ahead(readers, _read, photos, READ_AHEAD), batch)
        yield from _ahead(writers, lambda step: _write(out, step), steps, WRITE_BEHIND)


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

    photo: Photo
    value: np.ndarray | Result | str
    seconds: float


def _read(photo: Photo) -> _Step:
    start = time.perf_counter()
    value: np.ndarray | str
    try:
        value = files.read_image(photo.path, photo.bands, photo.page)
    except InputError as error:
        value = str(error)
    return _Step(photo, value, time.perf_counter() - start)


def _segmented(segmenter: Worker, steps: Iterator[_Step], batch: int) -> Iterator[_Step]:
    while group := list(islice(steps, batch)):
        start = time.perf_counter()
        readable = {
            step.photo.path: Sample(step.value, tags=frozenset(step.photo.tags), id=step.photo.file)
            for step in group
            if isinstance(step.value, np.ndarray)
        }
        results = _predict(segmenter, readable)
        share = (time.perf_counter() - start) / max(len(readable), 1)
        for step in group:
            path = step.photo.path
            yield _Step(step.photo, results[path], step.seconds + share) if path in results else step


def _predict(segmenter: Worker, images: dict[str, Sample]) -> dict[str, Result | str]:
    """A result or a reason for each path; a photo that the model cannot take does not take its batch with it."""
    try:
        return dict(zip(images, segmenter.predict_batch(list(images.values()))))
    except Exception as error:  # out of memory, or a fault: the other photos are still done
        if len(images) > 1:
            return {path: _predict(segmenter, {path: image})[path] for path, image in images.items()}
        what = " ".join(str(error).split())[:200] or "no memory left"
        path = next(iter(images))
        return {path: f"{path}: cannot be segmented ({type(error).__name__}: {what}); try a smaller --size"}


def _write(out: Path, step: _Step) -> Record:
    start = time.perf_counter()
    value = step.value
    if isinstance(value, Result):
        try:
            value.save(out, step.photo.name)
            report.write_thumbnail(out / STATE, step.photo.name, value)
        except InputError as error:
            if getattr(error.__cause__, "errno", None) in FATAL:
                raise _full(out, error) from error
            value = str(error)
    record: Record = {"file": step.photo.file, "name": step.photo.name}
    if isinstance(value, Result):
        main = max(value.classes, key=value.areas.__getitem__)
        found = {
            name: {"area": round(value.areas[name], 6), "confidence": round(value.confidences[name], 6)}
            for name in value.classes
        }
        record |= {
            "class": main,
            "area": found[main]["area"],
            "confidence": round(value.confidence, 6),
            "classes": found,
        }
    else:
        record |= {"class": None, "area": None, "confidence": None, "classes": {}}
    seconds = round(step.seconds + time.perf_counter() - start, 3)
    return {**record, "seconds": seconds, "error": None if isinstance(value, Result) else value}


def _run_on_ray(segmenter: Worker, photos: Sequence[Photo], out: Path, batch: int) -> Iterator[Record]:
    """Records in any order, from one copy of the segmenter for each GPU, or for every two CPUs."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'shotseg[ray]', or use --engine local") from None
    support = out.resolve() / STATE / "support.safetensors"
    segmenter.save(support)
    absolute = (replace(photo, path=str(Path(photo.path).absolute())) for photo in photos)
    rows = [{"photo": json.dumps(asdict(photo))} for photo in absolute]
    if not rows:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    gpus, cpus = int(ray.cluster_resources().get("GPU", 0)), int(ray.cluster_resources().get("CPU", 1))
    worker: Any = _Actor  # Ray's own types know no class whose call takes keywords
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
            yield json.loads(row["record"])
    finally:
        if started:
            ray.shutdown()


class _Actor:
    """A copy of the segmenter in a Ray actor."""

    def __init__(self, kind: Any, support: str, device: str, out: str):
        self.segmenter, self.out = kind.load(support, device=device), Path(out)

    def __call__(self, rows: dict[str, Any], batch: int) -> dict[str, Any]:
        photos = [
            Photo(**{**row, "tags": tuple(row["tags"]), "bands": row.get("bands") and tuple(row["bands"])})
            for row in map(json.loads, rows["photo"])
        ]
        records = _run_here(self.segmenter, photos, self.out, batch)
        return {"record": [json.dumps(record, ensure_ascii=False) for record in records]}


ENGINES = {"local": _run_here, "ray": _run_on_ray}
