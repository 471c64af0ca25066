"""COCO-20i and LVIS-92i: instances of the official JSON as masks.

COCO-20i: one label map a photo, class ids 1 to 80 in the order of COCO's categories. Where objects overlap the smaller
one is on top; crowd regions lie below all others. A photo without an annotation is in no list (2014: 82,081 and 40,137
remain).

LVIS-92i (Matcher, Liu et al., 2024): the categories of LVIS v1 with at least two photos in the val set, in id order;
fold f holds every tenth from the f-th. One binary mask for each class in a photo, the union of its instances.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import LeftOut, Plan, Source, instances
from shotseg.data.sets.coco_masks import decode


def coco20i(found: dict[str, Any], facts: dict[str, Any]) -> Plan:
    class_of = {category: i for i, category in enumerate(facts["category_ids"], start=1)}
    sources: list[Source] = []
    left_out: list[LeftOut] = []
    records = 0
    for part in ("train", "val"):
        path = next(iter(sorted(found["annotations"].glob(f"instances_{part}{found['variant']}.json"))))
        photos, objects, _, looked_at = instances.read(path, left_out, set(class_of))
        records += looked_at
        by_photo = defaultdict(list)
        for one in objects:
            by_photo[one["image_id"]].append(one)
        for photo in sorted(photos.values(), key=lambda photo: photo["file_name"]):
            if own := by_photo.get(photo["id"]):
                paint = partial(_label_map, own, photo["height"], photo["width"], class_of)
                image = found[part] / Path(photo["file_name"]).name
                sources.append(Source(image.stem, image, paint, (part,)))
    notes = {"year": found["variant"], "overlap": "smaller object on top, crowds at the bottom"}
    not_2014 = "made from COCO 2017: published COCO-20i numbers use 2014 and are not comparable"
    warnings = (not_2014,) if found["variant"] == "2017" else ()
    classes = dict(enumerate(facts["classes"], start=1))
    return Plan(classes, facts["folds"], sources, notes, warnings, left_out, records)


def lvis92i(found: dict[str, Any], facts: dict[str, Any]) -> Plan:
    version = found["variant"]
    val = found["annotations"] / f"lvis_{version}_val.json"
    train = val.with_name(f"lvis_{version}_train.json")
    left_out: list[LeftOut] = []
    photos, objects, names, records = instances.read(val, left_out)
    images_of = defaultdict(set)
    for one in objects:
        images_of[one["category_id"]].add(one["image_id"])
    kept = sorted(c for c, images in images_of.items() if len(images) >= facts["min_images"])
    folds = {"interleaved": {str(f): kept[f :: facts["fold_count"]] for f in range(facts["fold_count"])}}
    sources = _lvis_sources(photos, objects, set(kept), found, "val")
    warnings = []
    if version != "v1":
        warnings.append(f"made from LVIS {version}: published LVIS-92i numbers use v1 and are not comparable")
    if train.is_file():
        photos, objects, _, looked_at = instances.read(train, left_out)
        sources = _lvis_sources(photos, objects, set(kept), found, "train") + sources
        records += looked_at
    else:
        warnings.append(f"{train} is absent: the train list is empty, so this set is for testing only")
    notes = {"year": version, "classes": f"categories with at least {facts['min_images']} photos in {val.name}"}
    return Plan({c: names[c] for c in kept}, folds, sources, notes, warnings, left_out, records)


def _lvis_sources(
    photos: dict[int, dict], objects: list[dict], kept: set[int], found: dict[str, Path], part: str
) -> list[Source]:
    by_pair = defaultdict(list)
    for one in objects:
        if one["category_id"] in kept:
            by_pair[one["image_id"], one["category_id"]].append(one)
    images = {photo: _lvis_photo(photos[photo], found, part) for photo in {photo for photo, _ in by_pair}}
    sources = []
    for (photo, class_id), own in sorted(by_pair.items()):
        union = partial(_union, own, photos[photo]["height"], photos[photo]["width"])
        sources.append(Source(images[photo].stem, images[photo], union, (part,), class_id))
    return sources


def _lvis_photo(photo: dict, found: dict[str, Path], part: str) -> Path:
    """Val photos of LVIS lie in train2017 and in val2017; v0.5 names them as COCO 2014 did."""
    name = photo["file_name"]
    name = name.rpartition("_")[2] if name.startswith("COCO_") else name
    places = [found[place] / name for place in (part, "train", "val")]
    return next((place for place in places if place.is_file()), places[0])


def _label_map(objects: list[dict], height: int, width: int, class_of: dict[int, int]) -> np.ndarray:
    drawn = [(one, decode(one["segmentation"], height, width)) for one in objects]
    labels = np.zeros((height, width), dtype=np.uint8)
    for one, mask in sorted(drawn, key=lambda pair: _depth(*pair)):
        labels[mask] = class_of[one["category_id"]]
    return labels


def _depth(one: dict, mask: np.ndarray) -> tuple[bool, float, int]:
    """What sorts objects from the lowest to the one on top."""
    return not one.get("iscrowd", 0), -(mask.sum() if one["area"] is None else one["area"]), one["id"]


def _union(objects: list[dict], height: int, width: int) -> np.ndarray:
    return np.any([decode(one["segmentation"], height, width) for one in objects], axis=0).astype(np.uint8)
