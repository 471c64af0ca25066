"""COCO-20i and LVIS-92i: instances of the official JSON as masks.

COCO-20i: one label map a photo, class ids 1 to 80 in the order of COCO's categories. Where objects overlap the smaller
one is on top; crowd regions lie below all others. A photo without an annotation is in no list (2014: 82,081 and 40,137
remain).

LVIS-92i (Matcher, Liu et al., 2024): the categories of LVIS v1 with at least two photos in the val set, in id order;
fold f holds every tenth from the f-th. One binary mask for each class in a photo, the union of its instances.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.sets import Plan, Source
from shotseg.data.sets.coco_masks import decode
from shotseg.errors import InputError


def coco20i(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    class_of = {category: i for i, category in enumerate(facts["category_ids"], start=1)}
    sources = []
    for part in ("train", "val"):
        path = next(iter(sorted(found["annotations"].glob(f"instances_{part}{found['variant']}.json"))))
        photos, annotations, _ = _read(path)
        by_photo = defaultdict(list)
        for annotation in annotations:
            if annotation["category_id"] not in class_of:
                raise InputError(
                    f"{path}: category {annotation['category_id']} is not one of COCO's 80; use the official file"
                )
            by_photo[annotation["image_id"]].append(annotation)
        for photo in sorted(photos, key=lambda photo: photo["file_name"]):
            if objects := by_photo.get(photo["id"]):
                paint = partial(_label_map, objects, photo["height"], photo["width"], class_of, path)
                image = found[part] / Path(photo["file_name"]).name
                sources.append(Source(image.stem, image, paint, (part,)))
    notes = {"year": found["variant"], "overlap": "smaller object on top, crowds at the bottom"}
    not_2014 = "made from COCO 2017: published COCO-20i numbers use 2014 and are not comparable"
    warnings = (not_2014,) if found["variant"] == "2017" else ()
    return Plan(dict(enumerate(facts["classes"], start=1)), facts["folds"], sources, notes, warnings)


def lvis92i(found: dict[str, Path], facts: dict[str, Any]) -> Plan:
    val = found["annotations"] / "lvis_v1_val.json"
    train = val.with_name("lvis_v1_train.json")
    photos, annotations, categories = _read(val)
    images_of = defaultdict(set)
    for annotation in annotations:
        images_of[annotation["category_id"]].add(annotation["image_id"])
    kept = sorted(c for c, images in images_of.items() if len(images) >= facts["min_images"])
    classes = {c["id"]: c["name"] for c in sorted(categories, key=lambda c: c["id"]) if c["id"] in set(kept)}
    folds = {"interleaved": {str(f): kept[f :: facts["fold_count"]] for f in range(facts["fold_count"])}}
    sources = _lvis_sources(photos, annotations, set(kept), found, "val")
    warnings = []
    if train.is_file():
        sources = _lvis_sources(*_read(train)[:2], set(kept), found, "train") + sources
    else:
        warnings.append(f"{train} is absent: the train list is empty, so this set is for testing only")
    notes = {"classes": f"categories with at least {facts['min_images']} photos in {val.name}"}
    return Plan(classes, folds, sources, notes, warnings)


def _lvis_sources(
    photos: list[dict], annotations: list[dict], kept: set[int], found: dict[str, Path], part: str
) -> list[Source]:
    objects = defaultdict(list)
    for annotation in annotations:
        if annotation["category_id"] in kept:
            objects[annotation["image_id"], annotation["category_id"]].append(annotation)
    by_id = {photo["id"]: photo for photo in photos}
    sources = []
    for (image_id, class_id), instances in sorted(objects.items()):
        photo = by_id[image_id]
        folder, file = photo["coco_url"].split("/")[-2:]  # val photos of LVIS lie in train2017 and in val2017
        image = found["train" if folder.startswith("train") else "val"] / file
        union = partial(_union, instances, photo["height"], photo["width"])
        sources.append(Source(image.stem, image, union, (part,), class_id))
    return sources


def _label_map(objects: list[dict], height: int, width: int, class_of: dict[int, int], path: Path) -> np.ndarray:
    labels = np.zeros((height, width), dtype=np.uint8)
    for one in sorted(objects, key=lambda one: (not one.get("iscrowd", 0), -one["area"], one["id"])):
        try:
            labels[decode(one["segmentation"], height, width)] = class_of[one["category_id"]]
        except ValueError as error:
            raise InputError(f"{path}: annotation {one['id']}: {error}; use the official file") from error
    return labels


def _union(instances: list[dict], height: int, width: int) -> np.ndarray:
    return np.any([decode(one["segmentation"], height, width) for one in instances], axis=0).astype(np.uint8)


def _read(path: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Photos, annotations and categories of an instances file."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_slim)
        return content["images"], content["annotations"], content["categories"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not an instances file ({error}); unpack the official archive again") from error


def _slim(record: dict) -> dict:
    # A million polygons as Python floats fill the memory of a laptop; as arrays they take a tenth.
    if isinstance(record.get("segmentation"), list):
        record["segmentation"] = [np.asarray(points, dtype=np.float64) for points in record["segmentation"]]
        record.pop("bbox", None)
    return record
