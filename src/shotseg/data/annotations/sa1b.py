"""SA-1B, and what Segment Anything's own script writes: ``sa_1.json`` beside ``sa_1.jpg``, masks without classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from shotseg.data.annotations import coco
from shotseg.data.annotations.drawn import BROKEN, Annotations
from shotseg.data.annotations.entries import Entry, collected
from shotseg.data.annotations.labelled import malformed, read_json, usable
from shotseg.data.annotations.sniff import begins_with, listed
from shotseg.errors import InputError

CLASS = "object"  # of every mask


def files(path: Path) -> list[Path]:
    found = listed(path, ".json") if path.is_dir() else [path]
    return (
        found
        if any(file.suffix.lower() == ".json" and begins_with(file, "stability_score") for file in found[:5])
        else []
    )


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or a folder with some. Raises InputError where nothing can be read."""
    found, broken = usable(files(path), _entry)
    if not found:
        raise InputError(f"{path}: no masks of SA-1B in it; give the folder of its .json files")
    return collected(found, path if path.is_dir() else path.parent, images, broken)


def _entry(path: Path) -> Entry:
    content = read_json(path)
    try:
        listed_alone = isinstance(content, list)  # of the script, beside nothing that names the photo
        image = {} if listed_alone else content["image"]
        drawn = [each["segmentation"] for each in (content if listed_alone else content["annotations"])]
        objects = [(CLASS, partial(coco.draw, each)) for each in drawn]
        name, height, width = (image.get(key) for key in ("file_name", "height", "width"))
    except BROKEN as error:
        raise malformed(path, error, "SA-1B") from error
    return Entry(path, path.parent, name or path.stem, height, width, objects)
