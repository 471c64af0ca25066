"""Label images of objects: ``<name>.png``, 16 bits, 0 = background, and ``objects.csv``, which names the class of each number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shotseg.data.annotations.labelled import Labelled, Part, numbered
from shotseg.data.annotations.streams import whole
from shotseg.errors import InputError

MOST = 65535  # objects in a PNG of 16 bits


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    """Write a label image for each photo, and one table of all objects.

    Raises InputError for a photo of more than 65535 objects, and where ``out`` cannot be written.
    """
    with whole(out / "objects.csv") as table:
        table.write(_row("file", "number", "class", "area"))
        for result in results:
            save(out / f"{result.stem}.png", result.labels.shape, result.objects)
            for number, part in enumerate(result.objects, start=1):
                table.write(_row(result.file, number, classes[part.label - 1], int(part.mask.sum())))


def save(path: Path, shape: tuple[int, ...], objects: Sequence[Part]) -> None:
    if len(objects) > MOST:
        raise InputError(f"{path}: {len(objects)} objects, of which a PNG holds {MOST}; leave small ones out")
    with whole(path) as file:
        Image.fromarray(numbered(shape, objects).astype(np.uint16)).save(file, format="PNG")


def _row(*cells: object) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode("utf-8", "backslashreplace")
