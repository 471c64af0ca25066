"""PASCAL-5i: VOC 2012 and the annotations of SBD (Hariharan et al., ICCV 2011).

The lists, from the official files only:
- ``val``: VOC's segmentation val, masks of VOC.
- ``trainaug`` (HSNet family): all of SBD and VOC's segmentation train, less ``val``.
- ``train5953`` (PFENet family): the photos of SBD in VOC's ``Main/train.txt``, and VOC's segmentation train,
  less ``val``.
A photo that both annotate has VOC's mask. In place of SBD its masks may lie as PNG in ``SegmentationClassAug``, together with
those of VOC, as most code of the field has them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import Plan, Source, names
from shotseg.data.sets.files import indices, label_map, lines, stems


def plan(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    voc, sbd, augmented = found["voc"], found.get("sbd"), found["voc"] / "SegmentationClassAug"
    train, val = (set(lines(voc / "ImageSets/Segmentation" / f"{part}.txt")) for part in ("train", "val"))
    main = voc / "ImageSets/Main/train.txt"
    warnings: tuple[str, ...] = ()
    if sbd is None:
        boundaries, listed = set(stems(augmented.iterdir(), (".png",))), main
    else:
        boundaries, listed = set(lines(sbd / "train.txt")) | set(lines(sbd / "val.txt")), main
        if not main.is_file():
            listed, warnings = (
                sbd / "train.txt",
                (f"{main} is absent: list train5953 takes SBD's own train.txt instead",),
            )
    train_only = boundaries & set(lines(listed))
    lists = {"trainaug": (boundaries | train) - val, "train5953": (train_only | train) - val, "val": val}
    sources = []
    for stem in sorted(lists["trainaug"] | val):
        from_voc = stem in train or stem in val
        image = (voc / "JPEGImages" if from_voc or sbd is None else sbd / "img") / f"{stem}.jpg"
        if sbd is None or from_voc:
            read = partial(indices, (voc / "SegmentationClass" if from_voc else augmented) / f"{stem}.png")
        else:
            read = partial(_sbd, sbd, stem)
        sources.append(Source(stem, image, read, tuple(name for name in lists if stem in lists[name])))
    notes = {"annotated by VOC and SBD": "VOC's mask", "boundary": "255 = ignore in VOC's masks, none in SBD's"}
    return Plan(names(facts), facts["folds"], sources, notes, warnings)


def _sbd(folder: Path, stem: str) -> np.ndarray:
    return label_map(folder / "cls" / f"{stem}.mat", "GTcls.Segmentation", 255).astype(np.uint8)
