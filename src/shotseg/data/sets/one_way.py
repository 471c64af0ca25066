"""FSS-1000 and the cross-domain sets ISIC, chest X-ray, DeepGlobe and SUIM: one class an episode."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.folder import FolderDataset, Item
from shotseg.data.images import read_image, read_pair
from shotseg.data.sets import Plan, Source, names
from shotseg.data.sets.files import by_stem, lines, matched
from shotseg.errors import InputError


def fss1000(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Classes sorted by name, ids from 1; the splits of ``trn.txt``, ``val.txt``, ``test.txt`` where those are."""
    data = found["data"]
    folders = sorted(path for path in data.iterdir() if path.is_dir() and any(path.glob("*.png")))
    classes = {i: path.name for i, path in enumerate(folders, start=1)}
    lists = {part: _first(found["root"], data, name) for part, name in _FSS_LISTS.items()}
    warnings = []
    if all(lists.values()):
        ids = {name: i for i, name in classes.items()}
        definition = {"official": {part: _known(path, ids) for part, path in lists.items() if path}}
    else:
        cycle = ["train", "test", "train", "val"] * 6 + ["train"]  # 13, 6 and 6 of 25 are 520, 240 and 240 of 1000
        definition = {"by-name": {part: [i for i in classes if cycle[(i - 1) % 25] == part] for part in _FSS_LISTS}}
        warnings.append(
            f"no trn.txt, val.txt and test.txt in {found['root']}: classes are split by name (folds 'by-name'), not as "
            "published; copy the lists from splits/fss of github.com/juhongm999/hsnet there and prepare again"
        )
    sources = [
        Source(f"{path.name}/{photo.stem}", photo, partial(_white, photo.with_suffix(".png")), ("all",), class_id)
        for class_id, path in enumerate(folders, start=1)
        for photo in sorted(path.glob("*.jpg"), key=lambda photo: (len(photo.stem), photo.stem))
    ]
    return Plan(classes, definition, sources, {}, warnings)


_FSS_LISTS = {"train": "trn.txt", "val": "val.txt", "test": "test.txt"}


def isic(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Three classes where the tables of the 2017 challenge (``*Part3*GroundTruth.csv``) are, else one."""
    images, masks = by_stem(found["images"]), by_stem(found["masks"], "*_segmentation.png")
    diagnosis = {}
    for table in sorted(found["root"].glob("**/ISIC-2017*Part3*GroundTruth.csv")):
        with table.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                seborrheic, melanoma = float(row["seborrheic_keratosis"]), float(row["melanoma"])
                diagnosis[row["image_id"]] = 3 if seborrheic else 2 if melanoma else 1
    classes = names(facts) if diagnosis else dict(enumerate(facts["without_diagnosis"], start=1))
    sources, unknown = [], 0
    for stem, image in images.items():
        if diagnosis and stem not in diagnosis:
            unknown += 1
            continue
        mask = matched(found["masks"], f"{stem}_segmentation", masks)
        sources.append(Source(stem, image, partial(_white, mask), ("all",), diagnosis.get(stem, 1)))
    warnings = (f"{unknown} photos have no diagnosis in the tables and are left out",) if unknown else ()
    if not diagnosis:
        warnings = (
            "no ISIC-2017_*_Part3_GroundTruth.csv: one class, skin lesion; with the tables of "
            "https://challenge.isic-archive.com/data/#2017 in the root there are the three published classes",
        )
    return Plan(classes, {}, sources, {"classes": "diagnosis" if diagnosis else "one"}, warnings)


def chest_xray(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """The photos that have a mask: named like the photo (Montgomery) or with ``_mask`` at the end (Shenzhen)."""
    images, masks = by_stem(found["data"] / "CXR_png"), by_stem(found["data"] / "masks")
    sources = []
    for stem, image in images.items():
        if mask := masks.get(f"{stem}_mask") or masks.get(stem):
            sources.append(Source(stem, image, partial(_white, mask), ("all",), 1))
    return Plan(names(facts), {}, sources, {"photos without a mask": len(images) - len(sources)})


def deepglobe(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Whole photos of 2448 x 2448; unknown land (black) is background."""
    images, masks = by_stem(found["data"], "*_sat.*"), by_stem(found["data"], "*_mask.png")
    sources = []
    for stem, image in images.items():
        number = stem.removesuffix("_sat")
        mask = matched(found["data"], f"{number}_mask", masks)
        sources.append(Source(number, image, partial(_coloured, mask, facts["colours"]), ("all",)))
    return Plan(names(facts), {}, sources, {"photos": "whole, not cut into pieces"})


def suim(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Water and anything unnamed (black) is background."""
    sources = []
    for part in ("train", "test"):
        images, masks = by_stem(found[part] / "images"), by_stem(found[part] / "masks", "*.bmp")
        for stem, image in images.items():
            mask = matched(found[part] / "masks", stem, masks)
            sources.append(Source(stem, image, partial(_coloured, mask, facts["colours"]), (part,)))
    return Plan(names(facts), {}, sources)


def folder(found: dict[str, Any], facts: dict[str, Any]) -> Plan:
    """A folder of the one convention: every class of every photo that has a mask."""
    data = FolderDataset(found["root"])
    masked = [item for item in data.items if item.mask_path is not None]
    sources = [Source(item.id, item.image_path, partial(_own, item), ("all",), item.class_id + 1) for item in masked]
    definition = {"index.csv": {str(f): [data.classes.index(c) + 1 for c in own] for f, own in data.folds.items()}}
    notes = {"photos without a mask": len(data.items) - len(masked)}
    return Plan(dict(enumerate(data.classes, start=1)), definition if data.folds else {}, sources, notes)


def _own(item: Item) -> np.ndarray:
    assert item.mask_path is not None
    return read_pair(item.image_path, item.mask_path, item.class_value)[1]


def _white(path: Path) -> np.ndarray:
    """Foreground of a black and white picture, stored in grey, colours or a palette."""
    return (read_image(path).max(axis=2) >= 128).astype(np.uint8)


def _coloured(path: Path, colours: list[list[int]]) -> np.ndarray:
    """Class ids from 1 of a picture whose colours are corners of the RGB cube; the rest 0."""
    corner = (read_image(path) >= 128) @ np.array([4, 2, 1])
    table = np.zeros(8, dtype=np.uint8)
    for class_id, colour in enumerate(colours, start=1):
        table[(np.array(colour) >= 128) @ np.array([4, 2, 1])] = class_id
    return table[corner]


def _first(root: Path, data: Path, name: str) -> Path | None:
    places = (root / name, root / "splits" / "fss" / name, data / name, data.parent / name)
    return next((path for path in places if path.is_file()), None)


def _known(path: Path, ids: dict[str, int]) -> list[int]:
    unknown = [name for name in lines(path) if name not in ids]
    if unknown:
        raise InputError(f"{path}: class {unknown[0]} has no folder in the data; unpack the official archive again")
    return sorted(ids[name] for name in lines(path))
