"""Label maps as palette PNG: ``masks/<name>.png`` and ``classes.csv``, as :mod:`shotseg.data.folder` reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shotseg.data.annotations.labelled import Labelled, malformed
from shotseg.data.annotations.voc import palette
from shotseg.data.images import read_bytes, read_mask, write_bytes, write_png
from shotseg.data.samples import IGNORE


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    for result in results:
        write_png(out / "masks" / f"{result.stem}.png", result.labels, palette())
    table = io.StringIO()
    rows = [(0, "background"), *enumerate(classes, start=1)]
    csv.writer(table, lineterminator="\n").writerows([("class_id", "class"), *rows])
    write_bytes(out / "classes.csv", table.getvalue().encode())


def read(folder: Path) -> tuple[list[str], Iterator[Labelled]]:
    path = folder / "classes.csv"
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig")))
        names = {int(row["class_id"]): row["class"] for row in rows if int(row["class_id"]) not in (0, IGNORE)}
        label_of = np.zeros(256, np.uint8)
        label_of[list(names)] = np.arange(1, len(names) + 1)
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise malformed(path, error, "a table with class_id and class") from error
    label_of[IGNORE] = IGNORE
    return list(names.values()), _label_maps(folder / "masks", label_of)


def _label_maps(folder: Path, label_of: np.ndarray) -> Iterator[Labelled]:
    for path in sorted(folder.rglob("*.png")):
        yield Labelled(path.relative_to(folder).as_posix(), label_of[read_mask(path, labels=True)])
