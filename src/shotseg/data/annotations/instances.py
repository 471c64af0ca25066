"""Label images of objects: ``<name>.png``, 16 bits, 0 = background, and ``objects.csv``, which names the class of each number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shotseg.data.annotations.labelled import Labelled, note, numbered
from shotseg.data.annotations.streams import whole

MOST = 65535  # objects in a PNG of 16 bits


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    """Write a label image for each photo, and one table of all objects.

    A photo of more than 65535 objects is left out, with a line. Raises InputError where ``out`` cannot be written.
    """
    with whole(out / "objects.csv") as table:
        table.write(_row("file", "number", "class", "area"))
        for result in results:
            objects = result.objects
            if len(objects) > MOST:
                note(
                    f"{result.file}: {len(objects)} objects, of which a PNG holds {MOST}; leave small ones out, --min-object"
                )
                continue
            with whole(out / f"{result.stem}.png") as file:
                image = numbered(result.labels.shape, objects).astype(np.uint16)
                Image.fromarray(image).save(file, format="PNG")
            for number, part in enumerate(objects, start=1):
                table.write(_row(result.file, number, classes[part.label - 1], int(part.mask.sum())))


def _row(*cells: object) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode("utf-8", "backslashreplace")
