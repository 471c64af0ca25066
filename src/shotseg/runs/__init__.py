"""A folder in, masks out: one pass in bounded memory, resumable anywhere, sharded or spread with Ray.

Reading and writing run in threads beside the model. What a run leaves under ``out``:

- ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette; 0 = background, i + 1 = class i);
- ``results.jsonl``, one line a photo, appended as they are done and in the order of the photos at the end; ``errors.csv`` where
  something failed; ``report.html``;
- of a sequence ``overlay.mp4``, the frames with their masks;
- with ``annotations="coco"`` and the like, ``coco/`` with the annotations in that format;
- with ``instances``, ``instances/<name>.png`` and ``instances/objects.csv``: every object with a number of its own;
- ``.shotseg/``: the journal that ``resume`` reads, and the report's thumbnails and further pages.

A run takes the place of the one before it: what that one wrote goes, unless ``resume`` keeps it. A shard
writes ``results.shard-1-of-4.jsonl`` and so on; the last one to finish joins them under the plain names.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from shotseg import report
from shotseg.data import images as files
from shotseg.data.annotations import Labelled, names, write
from shotseg.data.annotations import instances as label_images
from shotseg.data.annotations.labelled import arranged
from shotseg.errors import InputError, UsageError, note
from shotseg.heap import check_batch
from shotseg.predictor import Predictor
from shotseg.runs import journal
from shotseg.runs.destination import Folder, place_at, put
from shotseg.runs.engines import ENGINES, Engine
from shotseg.runs.output import OutputError, check_output, full, picture, write_annotations, write_errors, write_lines
from shotseg.runs.photo_list import PhotoFile, PhotoList
from shotseg.runs.photos import find_photos, named, pages_of, parse_shard
from shotseg.runs.records import Record, Records
from shotseg.runs.tracking import Frames, check_tracks, frames_of, in_sequence, write_overlay

TABLES = (("results", "jsonl"), ("report", "html"), ("errors", "csv"))

__all__ = [
    "OutputError",
    "PhotoFile",
    "PhotoList",
    "Summary",
    "check_output",
    "check_tracks",
    "find_photos",
    "frames_of",
    "named",
    "pages_of",
    "parse_shard",
    "put",
    "segment_folder",
    "write_errors",
]


@dataclass(frozen=True)
class Summary:
    """What a run did: counts of this run's photos, and where the results lie: paths, or addresses."""

    photos: int
    failed: int
    results: Path | str
    report: Path | str
    errors: Path | str | None


def segment_folder(
    segmenter: Predictor,
    photos: Iterable[PhotoFile],
    out: str | Path,
    *,
    resume: bool = False,
    shard: str = "1/1",
    engine: str = "local",
    batch: int = 1,
    annotations: str = "mask",
    export: Mapping[str, Any] | None = None,
    instances: bool = False,
    failed_supports: Sequence[tuple[str, str]] = (),
    settings: Record | None = None,
    track: Frames | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Summary:
    """Segment ``photos`` into the folder or store ``out``; a photo that fails is a record with its reason, and the rest is done.

    resume:      keep what an earlier run of the same ``settings`` finished; photos that failed are tried again.
    engine:      "local", or "ray" (every node must see the photos and ``out`` under the same paths).
    batch:       photos that go through the encoder together, 1 to 256; where memory has no room for them, fewer.
    annotations: "mask", or a format of ``shotseg.data.annotations`` to write beside the masks, into ``out/<format>``.
    export:      further keywords of :func:`shotseg.data.annotations.write`.
    instances:   also write ``instances/<name>.png``, the objects of each photo apart, see
                 :mod:`shotseg.data.annotations.instances`; ``annotations`` then have the same objects.
    failed_supports: (file, reason) of supports that could not be used, for ``errors.csv``.
    track:       the photos as frames of a sequence: of :func:`shotseg.runs.frames_of`, whose ``photos`` they are.
    on_record:   is told of every photo, also of those done earlier.
    Raises UsageError for a wrong call, OutputError where ``out`` takes no more.
    """
    check_batch(batch)
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    photos = photos if isinstance(photos, PhotoList) else PhotoList(photos)
    if annotations != "mask":
        names.check(annotations, segmenter.classes, (photo.by_itself for photo in photos), apart=True)
    run = _run(photos, {**(settings or {}), "classes": list(segmenter.classes)}, shard)
    with _old_left_alone(), place_at(out) as place:
        records = journal.start(place, run, photos, resume)
        for record in records:
            on_record(record)
        try:
            work = ENGINES[engine] if track is None else in_sequence(track, records)
            with closing(_done(work, segmenter, photos, place, run, records, batch)) as entries:
                for entry in entries:
                    on_record(entry["record"])
            journal.end(place.folder, run, records)
            write_errors(place.folder, chain(failed_supports, records.failures()), run.tag)
            tag, known = run.tag, records
            if (joined := journal.join_shards(place, run)) is not None:
                tag, known = "", joined
                write_lines(place.folder / "results.jsonl", known.lines())
                write_errors(place.folder, chain(failed_supports, known.failures()))
            _report(place, tag, known, segmenter, run, len(known))
            if track is not None:
                write_overlay(track, place.folder)
            if not tag:
                options = {**(export or {}), "instances": instances}
                labelled = partial(_labelled, known, place.folder, photos)
                if writers := _writers(annotations, options, labelled, segmenter):
                    write_annotations(place.folder, writers)
            errors = (place.folder / f"errors{tag}.csv").exists()
            place.finish()
        except KeyboardInterrupt:
            with suppress(OSError, InputError):  # the interrupt is what is said
                _report(place, run.tag, records, segmenter, run, run.own)
                place.finish()
            raise
        except (OSError, InputError) as error:
            raise full(place, error) from error
        results, page, table = (place.at(f"{name}{tag}.{end}") for name, end in TABLES)
    return Summary(len(records), records.failed, results, page, table if errors else None)


@contextmanager
def _old_left_alone() -> Iterator[None]:
    """Inside, what is there already is not searched for garbage: beside torch that takes 0.2 s, in which no thread works.

    Who has frozen objects before keeps them so: thawing knows no half.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _done(
    run_photos: Engine,
    segmenter: Predictor,
    photos: PhotoList,
    place: Folder,
    run: journal.Run,
    records: Records,
    batch: int,
) -> Generator[journal.Entry, None, None]:
    """Do the photos of which there is no record; each is journaled before it comes out."""
    todo = (photo for number, photo in photos.part(run.part, run.count) if number not in records)
    with journal.Journal(place, run) as written:
        for entry in run_photos(segmenter, todo, place, batch):
            written.add(entry)
            number, _ = photos.find(entry["record"]["name"]) or (0, None)
            records.add(number, entry["record"])
            yield entry


def _run(photos: PhotoList, settings: Record, shard: str) -> journal.Run:
    """Raises UsageError where two photos would write the same masks."""
    if photos.names < len(photos):
        raise UsageError(f"{len(photos)} photos with {photos.names} names; use shotseg.runs.named")
    part, count = parse_shard(shard)
    folder: str | None = None
    digest = hashlib.sha256()
    for photo in photos:
        place = os.path.dirname(photo.absolute)  # noqa: PTH120 (fast)
        folder = place if folder is None else _shared(folder, place)
        digest.update(json.dumps(photo.name).encode())
    return journal.Run(json.loads(json.dumps(settings)), folder or "", len(photos), digest.hexdigest(), part, count)


def _shared(one: str, other: str) -> str:
    """The folder that two lie in; "" where one is an address, or on another disk."""
    try:
        return os.path.commonpath([one, other])
    except ValueError:
        return ""


def _report(place: Folder, tag: str, records: Records, segmenter: Predictor, run: journal.Run, total: int) -> None:
    """total: photos that there were to do; a run that did not come to its end gets the first page alone."""
    most = -1 if len(records) == total else report.SHOWN
    counts = report.Counts(total, len(records) - records.failed, records.failed)
    shown = report.Shown(records.doubtful(most), records.failures(), counts)
    place.want(report.thumbnail(record["name"]) for record in records.doubtful(report.SHOWN))
    report.write(place.folder, tag, shown, segmenter.thumbnails, run.settings)


def _writers(
    annotations: str, options: dict[str, Any], labelled: Callable[[], Iterator[Labelled]], segmenter: Predictor
) -> dict[str, Callable[[Path], None]]:
    """What is written beside the masks: a folder's name -> what fills it."""
    classes, writers = segmenter.classes, dict[str, Callable[[Path], None]]()
    if annotations != "mask":
        writers[annotations] = lambda folder: write(annotations, folder, labelled(), classes, **options)
    if options["instances"]:
        least = options.get("min_object", 0)
        apart = arranged(labelled(), least, one_a_class=False, instances=True)
        writers["instances"] = lambda folder: label_images.write(folder, apart, classes)
    return writers


def _labelled(records: Iterable[Record], out: Path, photos: PhotoList) -> Iterator[Labelled]:
    for record in records:
        if record["error"] is None:
            try:
                labels = files.read_mask(picture(out / "labels", record["name"]), labels=True)
            except InputError as error:
                note(f"{error}; it is left out of the annotations, its masks stay")
                continue
            scores = {name: found["confidence"] for name, found in record["classes"].items()}
            _, photo = photos.find(record["name"]) or (0, None)
            found = Labelled(record["file"], labels, record["name"], scores)
            if photo is not None:
                found = replace(found, photo=Path(photo.path), page=photo.page, pages=photo.pages, bands=photo.bands)
            yield found
