"""YOLO segmentation: ``labels/<name>.txt`` with ``class x1 y1 x2 y2 ...``, and ``data.yaml``.

Coordinates are parts of the photo's sides. Put the photos into ``images/`` beside ``labels/``; a photo without any
class has an empty file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from shotseg.data.annotations.labelled import Labelled, malformed
from shotseg.data.annotations.outlines import outline, parts
from shotseg.data.folder import find_images
from shotseg.data.images import read_bytes, read_image, write_bytes
from shotseg.data.sets.coco_masks import polygon
from shotseg.errors import InputError


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    for result in results:
        sides = result.labels.shape[::-1]
        lines = []
        for label in result.present(len(classes)):
            for part, top, left in parts(result.labels == label):
                points = (outline(part, top, left) / sides).clip(0, 1).ravel()
                lines.append(" ".join([str(label - 1), *(f"{value:.6f}" for value in points)]) + "\n")
        write_bytes(out / "labels" / f"{result.stem}.txt", "".join(lines).encode())
    content = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(classes))}
    write_bytes(out / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode())


def read(folder: Path) -> tuple[list[str], Iterator[Labelled]]:
    """Needs the photos in ``images/``: the files do not say how large they are."""
    path = folder / "data.yaml"
    try:
        names = yaml.safe_load(read_bytes(path))["names"]
        classes = [str(names[i]) for i in range(len(names))]  # a list, or numbers to names
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise malformed(path, error, "a data.yaml with names from 0 on") from error
    return classes, _label_maps(folder, len(classes))


def _label_maps(folder: Path, classes: int) -> Iterator[Labelled]:
    for image in find_images(folder / "images"):
        file = image.relative_to(folder / "images")
        height, width = read_image(image).shape[:2]
        labels = np.zeros((height, width), np.uint8)
        path = folder / "labels" / file.with_suffix(".txt")
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            label, points = _outlined(line, path, classes)
            labels[polygon(points * (width, height), height, width)] = label
        yield Labelled(file.as_posix(), labels)


def _outlined(line: str, path: Path, classes: int) -> tuple[int, np.ndarray]:
    """The label and (N, 2) outline of a line."""
    try:
        label, *values = line.split()
        points = np.array(values, dtype=np.float64)
        if len(points) < 6 or len(points) % 2 or not 0 <= int(label) < classes:
            raise ValueError("want a known class and at least three points")
        return int(label) + 1, points.reshape(-1, 2)
    except ValueError as error:
        raise InputError(f"{path}: line {line[:40]!r} is no outline ({error}); export it as segmentation") from error
