"""COCO panoptic: a PNG for each photo, whose colour is a segment's number, and a ``.json`` that says the class of each.

A pixel of no segment is ignored, as COCO's evaluation does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Photos, check_map, numbered, size
from shotseg.data.annotations.labelled import inside, malformed, note, read_json, some, usable
from shotseg.data.annotations.sniff import json_kind, listed
from shotseg.data.images import read_image
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError

FOLDERS = (".", "annotations")


class Content(NamedTuple):
    """names: of categories by id.   photos: by id.   maps: of each photo its id, its PNG and {segment: category}."""

    file: Path
    names: dict[int, str]
    photos: dict[int, dict]
    maps: list[tuple[int, str, dict[int, int]]]


def files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else [file for name in FOLDERS for file in listed(path / name, ".json")]
    return [file for file in found if json_kind(file) == "panoptic"]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or a folder with some. PNGs lie in a folder named as the file, or anywhere below.

    Classes: in the order of their ids. Raises InputError for a broken file, and for more classes than a label map holds.
    """
    contents, broken = usable(files(path), _content)
    if not contents:
        raise InputError(f"{path}: no panoptic annotations of COCO in it; give their .json")
    classes = numbered(name for content in contents for name in content.names.values())
    check_map(classes, path)
    root = path if path.is_dir() else path.parent
    photos = [photo for content in contents for photo in _photos(root, images, content, classes)]
    return Annotations(classes, photos, broken + sum(len(content.photos) for content in contents) - len(photos))


def _content(file: Path) -> Content:
    content = read_json(file)
    try:
        names = {int(each["id"]): str(each["name"]) for each in sorted(content["categories"], key=lambda c: c["id"])}
        photos = {int(each["id"]): dict(each) for each in content["images"]}
        maps = []
        for each in content["annotations"]:
            segments = {int(segment["id"]): int(segment["category_id"]) for segment in each["segments_info"]}
            if unknown := set(segments.values()) - names.keys():
                raise ValueError(f"a segment of category {min(unknown)}, which it does not name")
            maps.append((int(each["image_id"]), str(each["file_name"]), segments))
    except BROKEN as error:
        raise malformed(file, error, "COCO panoptic") from error
    return Content(file, names, photos, maps)


def _photos(root: Path, images: Path | None, content: Content, classes: list[str]) -> Iterator[Annotated]:
    own = content.file.parent / content.file.stem
    pngs, finder = Photos(root, own, content.file.parent), Photos(images or root, *([images] if images else []))
    label_of = {id: classes.index(name) + 1 for id, name in content.names.items()}
    if unknown := sum(id not in content.photos for id, *_ in content.maps):
        note(f"{content.file}: {unknown} annotations of photos that it does not list, left out; export it again")
    without = {id: str(photo.get("file_name")) for id, photo in content.photos.items()}
    for id, name, segments in content.maps:
        about = content.photos.get(id)
        try:
            png = None if about is None else pngs.find(inside(name, content.file))
            if about is None or png is None:
                continue
            file = inside(about.get("file_name"), content.file)
            frame = size(about.get("height"), about.get("width"))
        except InputError as error:
            note(str(error))
            continue
        except BROKEN as error:
            note(f"{content.file}: photo {file} left out ({error}); export it again")
            continue
        without.pop(id, None)
        labels = partial(_labels, png, {segment: label_of[category] for segment, category in segments.items()})
        yield Annotated(file, png, frame, photo=_not(png, finder, file), map=labels)
    if without:
        names = some(sorted(without.values()))
        note(
            f"{content.file}: {len(without)} photos without a PNG of their segments, left out ({names}); put it beside the file"
        )


def _not(png: Path, finder: Photos, file: str) -> Path | None:
    """The photo, which may have the name of its PNG."""
    found = finder.find(file)
    return None if found == png else found


def _labels(png: Path, label_of: dict[int, int]) -> np.ndarray:
    """(H, W) uint8: 255 where no segment is. Raises InputError where it cannot be read."""
    ids = read_image(png).astype(np.int64) @ (1, 256, 256**2)
    found = np.unique(ids)
    return np.array([label_of.get(id, IGNORE) for id in found.tolist()], np.uint8)[np.searchsorted(found, ids)]
