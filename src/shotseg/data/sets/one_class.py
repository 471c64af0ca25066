"""FSS-1000 and the cross-domain sets ISIC, chest X-ray, DeepGlobe and SUIM: one class an episode."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.images import read_image
from shotseg.data.sets import LeftOut, Plan, Source, names
from shotseg.data.sets.files import by_stem, lines, matched, stems, without_photo
from shotseg.errors import InputError


def fss1000(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Classes sorted by name, ids from 1; the splits of ``trn.txt``, ``val.txt``, ``test.txt`` where those are."""
    data = found["data"]
    folders = {path: _fss_class(path) for path in sorted(data.iterdir()) if path.is_dir() and path.name[0] != "."}
    folders = {path: own for path, own in folders.items() if any(own)}
    classes = {i: path.name for i, path in enumerate(folders, start=1)}
    lists = {part: _first(found["root"], data, name) for part, name in _FSS_LISTS.items()}
    warnings, left_out = [], []
    if all(lists.values()):
        ids = {name: i for i, name in classes.items()}
        listed = {part: set(lines(path)) for part, path in lists.items() if path}
        definition = {"official": {part: sorted(ids[n] for n in own & ids.keys()) for part, own in listed.items()}}
        absent = sorted((name, part) for part, own in listed.items() for name in own - ids.keys())
        left_out += [LeftOut(name, f"{lists[part]}: class {name} has no folder in the data") for name, part in absent]
        unlisted = sorted(ids.keys() - set().union(*listed.values()))
        if unlisted:
            warnings.append(f"classes in no list, and so in no split: {', '.join(unlisted)}")
    else:
        cycle = ["train", "test", "train", "val"] * 6 + ["train"]  # 13, 6 and 6 of 25 are 520, 240 and 240 of 1000
        definition = {"by-name": {part: [i for i in classes if cycle[(i - 1) % 25] == part] for part in _FSS_LISTS}}
        warnings.append(
            f"no trn.txt, val.txt and test.txt in {found['root']}: classes are split by name (folds 'by-name'), not as "
            "published; copy the lists from splits/fss of github.com/juhongm999/hsnet there and prepare again"
        )
    sources = []
    for class_id, (path, (photos, masks)) in enumerate(folders.items(), start=1):
        left_out += without_photo(masks, photos)
        for stem in sorted(photos, key=lambda stem: (len(stem), stem)):
            read = partial(_white, matched(path, stem, masks))
            sources.append(Source(f"{path.name}/{stem}", photos[stem], read, ("all",), class_id))
    return Plan(classes, definition, sources, {}, warnings, left_out)


def _fss_class(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The photos (JPEG) and the masks (PNG) of one class by stem."""
    return stems(folder.iterdir(), (".jpg", ".jpeg")), stems(folder.iterdir(), (".png",))


_FSS_LISTS = {"train": "trn.txt", "val": "val.txt", "test": "test.txt"}


def isic(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Three classes where the tables of the 2017 challenge (``*Part3*GroundTruth.csv``) are, else one."""
    everything, masks = by_stem(found["images"]), by_stem(found["masks"], "*_segmentation.png")
    images = {stem: path for stem, path in everything.items() if not stem.endswith("_superpixels")}
    diagnosis: dict[str, int] = {}
    for table in sorted(found["root"].glob("**/ISIC-2017*Part3*GroundTruth.csv")):
        diagnosis |= _diagnoses(table)
    classes = names(facts) if diagnosis else dict(enumerate(facts["without_diagnosis"], start=1))
    known = [stem for stem in images if not diagnosis or stem in diagnosis]
    sources = []
    for stem in known:
        mask = matched(found["masks"], f"{stem}_segmentation", masks)
        sources.append(Source(stem, images[stem], partial(_white, mask), ("all",), diagnosis.get(stem, 1)))
    unknown = sorted(images.keys() - set(known))
    warnings = [f"{len(unknown)} photos have no diagnosis in the tables and are left out"] if unknown else []
    if not diagnosis:
        warnings = [
            "no ISIC-2017_*_Part3_GroundTruth.csv: one class, skin lesion; with the tables of "
            "https://challenge.isic-archive.com/data/#2017 in the root there are the three published classes",
        ]
    if found["variant"] == "2017":
        warnings.append("made from ISIC 2017: published numbers use ISIC 2018 and are not comparable")
    notes = {
        "year": found["variant"],
        "classes": "diagnosis" if diagnosis else "one",
        "superpixel files": len(everything) - len(images),
        "photos without a diagnosis": unknown,
    }
    return Plan(classes, {}, sources, notes, warnings, without_photo(masks, images, "_segmentation"))


def _diagnoses(table: Path) -> dict[str, int]:
    """photo -> class id: 3 = seborrheic keratosis, 2 = melanoma, 1 = neither."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as rows:
            return {
                row["image_id"]: 3 if float(row["seborrheic_keratosis"]) else 2 if float(row["melanoma"]) else 1
                for row in csv.DictReader(rows)
            }
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{table}: not a table of diagnoses ({reason}); download it again") from error


def chest_xray(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """The photos that have a mask: named like the photo (Montgomery) or with ``_mask`` at the end (Shenzhen)."""
    images, masks = by_stem(found["data"] / "CXR_png"), by_stem(found["data"] / "masks")
    sources = []
    for stem, image in images.items():
        if mask := masks.get(f"{stem}_mask") or masks.get(stem):
            sources.append(Source(stem, image, partial(_white, mask), ("all",), 1))
    notes = {"photos without a mask": len(images) - len(sources)}
    return Plan(names(facts), {}, sources, notes, left_out=without_photo(masks, images, "_mask"))


def deepglobe(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Whole photos of 2448 x 2448; unknown land (black) is background."""
    masks = by_stem(found["data"], "*_mask.png")
    images = {stem.removesuffix("_sat"): path for stem, path in by_stem(found["data"], "*_sat.*").items()}
    sources = []
    for number, image in images.items():
        mask = matched(found["data"], f"{number}_mask", masks)
        sources.append(Source(number, image, partial(_coloured, mask, facts["colours"]), ("all",)))
    notes = {"photos": "whole, not cut into pieces"}
    return Plan(names(facts), {}, sources, notes, left_out=without_photo(masks, images, "_mask"))


def suim(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    """Water and anything unnamed (black) is background."""
    sources: list[Source] = []
    left_out: list[LeftOut] = []
    for part in ("train", "test"):
        images, masks = by_stem(found[part] / "images"), by_stem(found[part] / "masks")
        left_out += without_photo(masks, images)
        for stem, image in images.items():
            mask = matched(found[part] / "masks", stem, masks)
            sources.append(Source(stem, image, partial(_coloured, mask, facts["colours"]), (part,)))
    return Plan(names(facts), {}, sources, left_out=left_out)


def folder(found: dict[str, Any], facts: dict[str, Any]) -> Plan:
    """Every class of every photo that has a mask: of class folders, or of another tool's annotations."""
    from shotseg.data.annotations.opened import open_folder  # which reads masks as data sets do

    data = open_folder(found["root"], found.get("format", "auto"))
    masked = [index for index, item in enumerate(data.items) if item.mask_path is not None and item.pages == 1]
    mend = "save it as a file; evaluate and train take the folder itself"
    stacks = [
        LeftOut(item.id, f"{item.image_path}: page {item.page} of a stack; {mend}")
        for item in data.items
        if item.pages > 1
    ]
    sources = [
        Source(item.id, item.image_path, partial(_own, data, index), ("all",), item.class_id + 1)
        for index in masked
        for item in [data.items[index]]
    ]
    definition = {"index.csv": {str(f): [data.classes.index(c) + 1 for c in own] for f, own in data.folds.items()}}
    notes = {"photos without a mask": len(data.items) - len(masked) - len(stacks)}
    return Plan(
        dict(enumerate(data.classes, start=1)), definition if data.folds else {}, sources, notes, left_out=stacks
    )


def _own(data: Any, index: int) -> np.ndarray:
    return data.sample(index).mask


def _white(path: Path) -> np.ndarray:
    """Foreground of a black and white picture, stored in grey, colours or a palette."""
    values = read_image(path).max(axis=2)
    if (lightest := values.max()) < 128:
        raise InputError(f"{path}: no white pixel, the lightest is {lightest}; the class is white (128 to 255)")
    return (values >= 128).astype(np.uint8)


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
