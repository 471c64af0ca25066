"""PASCAL VOC segmentation: ``SegmentationClass/<name>.png`` in VOC's palette, the list of names, ``labelmap.txt``.

VOC's own folders have no ``labelmap.txt`` (a custom of annotation tools: ``name:r,g,b::`` a line); its 20 classes are
then taken. 255 is VOC's void.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from shotseg.data.annotations.labelled import Labelled
from shotseg.data.images import read_bytes, read_mask, write_bytes, write_png
from shotseg.errors import InputError

# fmt: off
OWN_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


@cache
def palette() -> np.ndarray:
    """(256, 3) uint8: the bits of the index, lowest three first, are the highest bits of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    names = []
    for result in results:
        write_png(out / "SegmentationClass" / f"{result.stem}.png", result.labels, palette())
        names.append(result.stem)
    write_bytes(out / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{name}\n" for name in names).encode())
    rows = [f"{name}:{','.join(map(str, palette()[i]))}::" for i, name in enumerate(["background", *classes])]
    write_bytes(out / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows, ""]).encode())


def read(folder: Path) -> tuple[list[str], Iterator[Labelled]]:
    masks = folder / "SegmentationClass"
    if not masks.is_dir():
        raise InputError(f"{folder}: no folder SegmentationClass in it; give the folder of a VOC data set")
    path, classes = folder / "labelmap.txt", list(OWN_CLASSES)
    if path.is_file():
        lines = read_bytes(path).decode("utf-8-sig", "replace").splitlines()
        rows = [line.rsplit(":", 3) for line in lines if line.strip() and not line.startswith("#")]
        if not rows or any(len(row) != 4 for row in rows):
            raise InputError(f"{path}: not name:r,g,b:: on each line; export it again")
        classes = [row[0] for row in rows[1:]]
    return classes, _label_maps(masks)


def _label_maps(folder: Path) -> Iterator[Labelled]:
    for path in sorted(folder.rglob("*.png")):
        relative = path.relative_to(folder)
        yield Labelled(relative.with_suffix(".jpg").as_posix(), read_mask(path, labels=True))
