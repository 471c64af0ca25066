"""A prepared data set of a few photos, of which every pixel is known: bands of classes on noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shotseg.data.images import write_png
from shotseg.data.manifest import Manifest, ManifestDataset, PreparedPhoto
from shotseg.training.data import Part

SIDE, LEAST = 64, 256  # a quarter of a photo's rows is listed, less is not


def part(
    root: Path, photos: Sequence[dict[int, int]], classes: int, novel: Sequence[int] = (), write: bool = False
) -> Part:
    """The training part of such a data set. photos: of each, class id -> rows that it covers, from the top."""
    made = []
    for number, rows in enumerate(photos):
        labels, top = np.zeros((SIDE, SIDE), np.uint8), 0
        for class_id, count in rows.items():
            labels[top : top + count] = class_id
            top += count
        if write:
            noise = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
            write_png(root / f"{number}.png", noise)
            write_png(root / f"masks/{number}.png", labels)
        pixels = {class_id: count * SIDE for class_id, count in rows.items()}
        made.append(PreparedPhoto(str(number), f"{number}.png", f"masks/{number}.png", SIDE, SIDE, pixels, ("train",)))
    names = {class_id: f"class{class_id}" for class_id in range(1, classes + 1)}
    folds = {"official": {"0": list(novel)}} if novel else {}
    families = {"only": {"train": "train", "test": "train", "min_pixels": LEAST}}
    manifest = Manifest("bands", root, root, names, folds, families, False, made)
    dataset = ManifestDataset(manifest, "train", "0" if novel else None, min_pixels=1)
    return Part(dataset, {photo.image for photo in made})
