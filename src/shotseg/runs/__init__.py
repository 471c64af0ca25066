"""A folder in, masks out: one pass, a few kB of memory a photo, resumable anywhere, sharded or spread with Ray.

Reading and writing run in threads beside the model. What a run leaves under ``out``:

- ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette; 0 = background, i + 1 = class i);
- ``results.jsonl``, one line a photo in the order of the photos; ``errors.csv`` where something failed; ``report.html``;
- with ``annotations="coco"`` and the like, ``coco/`` with the annotations in that format;
- ``.shotseg/``: the journal that ``resume`` reads, and the report's thumbnails.

A run takes the place of the one before it: what that one wrote goes, unless ``resume`` keeps it. A shard
writes ``results.shard-1-of-4.jsonl`` and so on; the last one to finish joins them under the plain names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotseg import report
from shotseg.data import images as files
from shotseg.data.annotations import Labelled, names, write
from shotseg.errors import InputError, UsageError, note
from shotseg.photo import filed_as
from shotseg.predictor import Predictor
from shotseg.runs import journal
from shotseg.runs.engines import ENGINES
from shotseg.runs.journal import Record
from shotseg.runs.output import (
    STATE,
    OutputError,
    check_output,
    full,
    picture,
    write_annotations,
    write_errors,
    write_results,
)
from shotseg.runs.photos import PhotoFile, find_photos, named, parse_shard

__all__ = [
    "OutputError",
    "PhotoFile",
    "Summary",
    "check_output",
    "find_photos",
    "named",
    "parse_shard",
    "segment_folder",
    "write_errors",
]


@dataclass(frozen=True)
class Summary:
    """What a run did: counts of this run's photos, and where the results lie."""

    photos: int
    failed: int
    results: Path
    report: Path
    errors: Path | None


def segment_folder(
    segmenter: Predictor,
    photos: Sequence[PhotoFile],
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
    if annotations != "mask":
        names.check(annotations, segmenter.classes, [photo.file for photo in photos], apart=True)
    places = {photo.name: Path(photo.path) for photo in photos}
    run = _run(photos, {**(settings or {}), "classes": list(segmenter.classes)}, shard)
    lines = journal.start(out, run, photos, resume)
    for line in lines.values():
        on_record(json.loads(line))
    todo = [photo for photo in photos[run.part :: run.count] if photo.name not in lines]
    try:
        with journal.opened(out, run) as written:
            for entry in ENGINES[engine](segmenter, todo, out, batch):
                written.write(journal.line_of(entry) + "\n")
                written.flush()
                record = entry["record"]
                lines[record["name"]] = journal.line_of(record)
                on_record(record)
        mine = [lines[name] for name in run.own]
        write_results(out, run.tag, mine, failed_supports)
        tag, joined = journal.join_shards(out, run, mine, failed_supports)
        page = _report(out, tag, joined, segmenter, run, len(joined))
        if annotations != "mask" and not tag:
            labelled = _labelled(joined, out, places)
            write_annotations(
                out,
                annotations,
                lambda folder: write(annotations, folder, labelled, segmenter.classes, **(export or {})),
            )
    except KeyboardInterrupt:
        with suppress(OSError, InputError):  # the interrupt is what is said
            _report(out, run.tag, list(lines.values()), segmenter, run, len(run.own))
        raise
    except (OSError, InputError) as error:
        raise full(out, error) from error
    failed = sum(json.loads(line)["error"] is not None for line in mine)
    errors = out / f"errors{tag}.csv"
    return Summary(len(mine), failed, out / f"results{tag}.jsonl", page, errors if errors.exists() else None)


def _run(photos: Sequence[PhotoFile], settings: Record, shard: str) -> journal.Run:
    """Raises UsageError where two photos would write the same masks."""
    names = tuple(photo.name for photo in photos)
    if len(set(map(filed_as, names))) < len(names):
        raise UsageError(f"{len(names)} photos with {len(set(map(filed_as, names)))} names; use shotseg.runs.named")
    folder = os.path.commonpath([os.path.dirname(photo.absolute) for photo in photos]) if photos else ""  # noqa: PTH120
    part, count = parse_shard(shard)
    return journal.Run(json.loads(json.dumps(settings)), folder, names, part, count)


def _report(out: Path, tag: str, lines: Sequence[str], segmenter: Predictor, run: journal.Run, total: int) -> Path:
    return report.write(out / f"report{tag}.html", lines, out / STATE, segmenter.thumbnails, run.settings, total)


def _labelled(lines: Iterable[str], out: Path, places: Mapping[str, Path]) -> Iterator[Labelled]:
    for record in map(json.loads, lines):
        if record["error"] is None:
            try:
                labels = files.read_mask(picture(out / "labels", record["name"]), labels=True)
            except InputError as error:
                note(f"{error}; it is left out of the annotations, its masks stay")
                continue
            scores = {name: found["confidence"] for name, found in record["classes"].items()}
            yield Labelled(record["file"], labels, record["name"], scores, photo=places.get(record["name"]))
