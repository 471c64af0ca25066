"""PASCAL-5i: VOC 2012 and the annotations of SBD (Hariharan et al., ICCV 2011).

The lists, from the official files only:
- ``val``: VOC's segmentation val, masks of VOC.
- ``trainaug`` (HSNet family): all of SBD and VOC's segmentation train, less ``val``.
- ``train5953`` (PFENet family): the photos of SBD in VOC's ``Main/train.txt``, and VOC's segmentation train,
  less ``val``.
A photo that both annotate has VOC's mask.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import Plan, Source, names
from shotseg.data.sets.files import indices, label_map, lines


def plan(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    voc, sbd = found["voc"], found["sbd"]
    train, val = (set(lines(voc / "ImageSets/Segmentation" / f"{part}.txt")) for part in ("train", "val"))
    boundaries = set(lines(sbd / "train.txt")) | set(lines(sbd / "val.txt"))
    main = voc / "ImageSets/Main/train.txt"
    warnings = () if main.is_file() else (f"{main} is absent: list train5953 takes SBD's own train.txt instead",)
    train_only = boundaries & set(lines(main if main.is_file() else sbd / "train.txt"))
    lists = {"trainaug": (boundaries | train) - val, "train5953": (train_only | train) - val, "val": val}
    sources = []
    for stem in sorted(lists["trainaug"] | val):
        from_voc = stem in train or stem in val
        image = (voc / "JPEGImages" if from_voc else sbd / "img") / f"{stem}.jpg"
        read = partial(indices, voc / "SegmentationClass" / f"{stem}.png") if from_voc else partial(_sbd, sbd, stem)
        sources.append(Source(stem, image, read, tuple(name for name in lists if stem in lists[name])))
    notes = {"annotated by VOC and SBD": "VOC's mask", "boundary": "255 = ignore in VOC's masks, none in SBD's"}
    return Plan(names(facts), facts["folds"], sources, notes, warnings)


def _sbd(folder: Path, stem: str) -> np.ndarray:
    return label_map(folder / "cls" / f"{stem}.mat", "GTcls.Segmentation", 255).astype(np.uint8)
