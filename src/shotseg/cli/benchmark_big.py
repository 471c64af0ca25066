"""``shotseg benchmark --big``: a folder of photos of 12 megapixels, with one class and with eight."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shotseg.cli.console import progress, table

SIDES = (4000, 3000)
GRAIN = 7.0  # grey levels of noise, as of a camera: without it a scaled photo is a fifth of the bytes of a real one
CLASSES = (1, 8)


def measure(count: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Photos a second of a folder run beside what decoding and encoding alone reach, and the peak memory of each run.

    count: photos.     settings: keywords of :class:`shotseg.segmenter.Segmenter`.
    """
    from shotseg.cli.demo import demo_items

    numbers: dict[str, Any] = {"sides": list(SIDES)}
    paths = [item.image_path for item in demo_items()[1]]
    with tempfile.TemporaryDirectory() as folder, progress("photos of 12 megapixels", count + 3) as advance:
        photos = [Path(folder, f"{i:04d}.jpg") for i in range(count)]
        for i, photo in enumerate(photos):
            write_photo(paths[i % len(paths)], photo, seed=i)
            advance()
        parts: list[tuple[Any, ...]] = [(_encoded,), *((_segmented, classes) for classes in CLASSES)]
        for work, *how in parts:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # a peak of memory is of a whole process
                numbers |= fresh.submit(work, photos, settings, *how).result()
            advance()
    return numbers


def show(numbers: dict[str, Any]) -> None:
    alone = numbers["decode_and_encode_photos_per_second"]
    rows = [("decoded and encoded only", f"{alone:.2f}", "1.00", "")]
    for classes in CLASSES:
        speed = numbers[f"photos_per_second_{classes}"]
        memory = f"{numbers[f'peak_mib_{classes}']:.0f} MiB"
        rows.append(
            (f"segment, {classes} class{'es' if classes > 1 else ''}", f"{speed:.2f}", f"{speed / alone:.2f}", memory)
        )
    title = f"photos of {SIDES[0]} x {SIDES[1]}"
    table(
        title,
        ("what", "photos a second", "of the first", "peak memory"),
        rows,
        numbers=("photos a second", "of the first"),
    )


def write_photo(source: Path, path: Path, seed: int) -> None:
    """A photo enlarged to 12 megapixels, with grain."""
    with Image.open(source) as photo:
        scaled = np.asarray(photo.convert("RGB").resize(SIDES, Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(seed).standard_normal((*scaled.shape[:2], 1), np.float32) * GRAIN
    Image.fromarray((scaled + grain).clip(0, 255).astype(np.uint8)).save(path, quality=88)


def _encoded(photos: Sequence[Path], settings: dict[str, Any]) -> dict[str, float]:
    """Photos a second, read and encoded only, by a thread and a model for each core."""
    from shotseg.device import one_thread_each
    from shotseg.photo import open_photo
    from shotseg.runs.engines import twins_of
    from shotseg.segmenter import Segmenter

    segmenter = Segmenter(**settings)
    twins = [segmenter, *(segmenter.twin() for _ in twins_of(segmenter)[1:])]

    def encode(place: int) -> None:
        for photo in photos[place :: len(twins)]:
            twins[place].encode(open_photo(photo, segmenter.sees))

    with one_thread_each(), ThreadPoolExecutor(len(twins)) as pool:
        for twin in twins:
            twin.encode(open_photo(photos[0], segmenter.sees))  # warm
        start = time.perf_counter()
        list(pool.map(encode, range(len(twins))))
        seconds = time.perf_counter() - start
    return {"decode_and_encode_photos_per_second": len(photos) / seconds}


def _segmented(photos: Sequence[Path], settings: dict[str, Any], classes: int) -> dict[str, float]:
    """Photos a second of :func:`shotseg.runs.segment_folder`, and the peak memory of this process."""
    from shotseg.cli.benchmark import peak_memory
    from shotseg.cli.demo import demo_items
    from shotseg.runs import PhotoFile, segment_folder
    from shotseg.segmenter import Segmenter

    segmenter, examples = Segmenter(**settings), demo_items()[0]
    for i in range(classes):
        example = examples[i % len(examples)]
        segmenter.add(f"class{i}", [example.image_path], [example.mask_path])
    queries = [PhotoFile(str(photo), photo.name, photo.stem) for photo in photos]
    with tempfile.TemporaryDirectory() as out:
        segmenter.predict(photos[0])  # warm
        start = time.perf_counter()
        segment_folder(segmenter, queries, out)
        seconds = time.perf_counter() - start
    return {f"photos_per_second_{classes}": len(photos) / seconds, f"peak_mib_{classes}": peak_memory()}
