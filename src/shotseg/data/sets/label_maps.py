"""COCO-Stuff-10K and ADE20K-150: a class for every pixel, ids from 0, 255 = ignore; SimFormer's splits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import LeftOut, Plan, Source, names
from shotseg.data.sets.files import by_stem, indices, label_map, lines, matched, matlab, without_photo

NO_MASK_IN_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # COCO's thing ids that no object has


def coco_stuff10k(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    folder = found["data"]
    sources = [
        Source(
            stem, folder / "images" / f"{stem}.jpg", partial(_stuff, folder / "annotations" / f"{stem}.mat"), (part,)
        )
        for part in ("train", "test")
        for stem in sorted(set(lines(folder / "imageLists" / f"{part}.txt")) - set(facts["excluded"]))
    ]
    return Plan(names(facts), facts["folds"], sources, {"left out of train": facts["excluded"]})


def ade20k150(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    sources: list[Source] = []
    left_out: list[LeftOut] = []
    for official, part in (("training", "train"), ("validation", "test")):
        images = by_stem(found["data"] / "images" / official)
        masks = by_stem(found["data"] / "annotations" / official)
        left_out += without_photo(masks, images)
        for stem in sorted(images.keys() - set(facts["excluded"])):
            mask = matched(found["data"] / "annotations" / official, stem, masks)
            sources.append(Source(stem, images[stem], partial(_ade, mask), (part,)))
    notes = {"left out of train": facts["excluded"]}
    return Plan(names(facts), facts["folds"], sources, notes, left_out=left_out)


def _ade(path: Path) -> np.ndarray:
    return indices(path) - np.uint8(1)  # 0 = other wraps to 255 = ignore


def _stuff(path: Path) -> np.ndarray:
    labels, named = label_map(path, "S", 182), matlab(path, "names")
    if labels.max() > 172 or (named is not None and named.size > 172):  # v1.1 keeps COCO's 182 ids, 0 = unlabelled
        table = np.full(256, 255, dtype=np.uint8)
        kept = [i for i in range(1, 183) if i not in NO_MASK_IN_COCO]
        table[kept] = np.arange(len(kept))
        return table[labels]
    return np.where(labels >= 2, labels - 2, 255).astype(np.uint8)  # v1.0: 1 = unlabelled
