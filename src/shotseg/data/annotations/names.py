"""Names that a format cannot hold, refused before anything is written; and what to do with what was written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from shotseg.data.annotations import imagej
from shotseg.data.annotations.labelled import MOST
from shotseg.data.listing import has_controls
from shotseg.errors import UsageError

# Names that mean something else to the tools that read the format.
RESERVED = {
    "voc": ("background", "ignored"),
    "labelme": ("_background_", "__ignore__"),
}
BY_STEM = (
    "mask",
    "voc",
    "yolo",
    "labelme",
    "geojson",
    "imagej",
)  # formats whose files are found by the photo's name without its ending
STACKS = ("imagej",)  # formats whose objects say their page of a stack
MAPS = ("mask", "voc")
PHOTOS = {"mask": "images", "yolo": "images", "voc": "JPEGImages"}  # where a format wants its photos

NEXT = {
    "mask": "shotseg evaluate folder --root {out} --out result.json",
    "coco": "in CVAT: Upload annotations, COCO 1.0, {out}/annotations/instances_default.json",
    "coco-polygons": "in CVAT: Upload annotations, COCO 1.0, {out}/annotations/instances_default.json",
    "voc": "datum convert -i {out} -if voc_segmentation -f coco_instances -o converted",
    "yolo": "yolo segment train data={out}/data.yaml model=yolo11n-seg.pt",
    "labelstudio": "in Label Studio: Cloud storage, add the photos' folder as local files; Labelling interface, Code, paste "
    "{out}/config.xml; Import {out}/tasks.json",
    "labelme": "labelme PHOTOS --output {out} --labels {out}/labels.txt",
    "cvat": "in CVAT: Upload annotations, CVAT 1.1, {out}/annotations.xml",
    "geojson": "in QuPath: open the image, File, Import objects from file, {out}/",
    "imagej": "in ImageJ: open the photo, then File, Open, its RoiSet.zip of {out}/",
}


def check(format: str, classes: Sequence[str], files: Iterable[str] = (), apart: bool = False) -> None:
    """Raise UsageError for names of classes or photos that the files of a format cannot keep apart or hold.

    apart: the photos have names that keep them apart, which they also get where the format wants them placed.
    """
    for name in classes:
        if not name.strip() or has_controls(name):
            raise UsageError(f"class name {name!r}: blank, or with characters that cannot be written; rename the class")
        if name.casefold() in RESERVED.get(format, ()):
            raise UsageError(
                f"class name {name!r} means something else in {format}; rename it or choose another format"
            )
    if format == "imagej":
        imagej.check(classes)
    if format == "voc":
        for name in classes:
            if name[0] == "#" or ":" in name or name != name.strip():
                raise UsageError(f"class name {name!r} cannot stand in labelmap.txt of voc; rename it, without # and :")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise UsageError(f"class name {twice!r} is there twice; rename one")
    if format in MAPS and len(classes) > MOST:
        raise UsageError(f"{len(classes)} classes, {format} holds {MOST}; choose a format of objects, as coco")
    files = list(files)
    if format == "labelme" and (
        long := [file for file in files if len(os.fsencode(f"{PurePosixPath(file).stem}.json")) > 255]
    ):
        raise UsageError(
            f"{long[0]}: its name is too long for a .json of the same name; shorten it, or choose another format"
        )
    seen: dict[str, str] = {}
    for file in files if format in BY_STEM and not (apart and format in PHOTOS) else ():
        # Compared without case: macOS and Windows cannot keep "A.txt" beside "a.txt".
        key = PurePosixPath(file).with_suffix("").as_posix().casefold()
        if key in seen:
            raise UsageError(f"{seen[key]} and {file}: {format} has one file for both; rename one of the photos")
        seen[key] = file


def next_step(format: str, out: Path) -> str:
    """How what was written is used: the command, or where to click."""
    return "next: " + NEXT[format].format(out=out)
