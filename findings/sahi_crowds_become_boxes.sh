#!/usr/bin/env bash
# sahi 0.12.8: slicing a COCO file turns every mask that is stored as run lengths into its filled box, and crowds into objects.
#
# Seen: two objects of the same shape, 1,200 pixels, one as a polygon, one as run lengths, and a crowd as run lengths, as COCO itself
# stores crowds. After `slice_coco` the polygon has its pixels. The log says that the segmentation of the others "is skipped"; yet the
# file holds a polygon for each of them, the four corners of its box, and `iscrowd` is 0 for all.
# Why it matters: a region labelled as a crowd, which evaluation passes over, is now an object that predictions are measured against.
# Masks of SAM or of a brush, which are run lengths, are taught as boxes. Only a line in the log speaks of it.
# What to do: turn run lengths into polygons before slicing and leave crowds out; or slice photos and label maps by yourself.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(sahi==0.12.8 opencv-python-headless==5.0.0.93 pycocotools==2.0.11 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
given: polygon 1200 pixels, run lengths 1200 pixels, crowd 1200 pixels as a crowd
after slicing: polygon 1200 pixels, run lengths 1600 pixels, crowd 8000 pixels as an object
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import json

import numpy as np
from PIL import Image
from pycocotools import mask as runs
from sahi.slicing import slice_coco

SIDE = 256
NAMES = ("polygon", "run lengths", "crowd")
CORNER = [0, 0, 20, 0, 20, 20, 40, 20, 40, 40, 0, 40]  # an L


def annotation(number, segmentation, crowd=0):
    known = segmentation if isinstance(segmentation, dict) else runs.merge(runs.frPyObjects(segmentation, SIDE, SIDE))
    box, area = runs.toBbox(known).tolist(), int(runs.area(known))
    return {"id": number, "image_id": 1, "category_id": number, "iscrowd": crowd, "bbox": box, "area": area, "segmentation": segmentation}


def run_lengths(mask):
    packed = runs.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def told(title, annotations):
    parts = []
    for number, name in enumerate(NAMES, 1):
        mine = [a for a in annotations if a["category_id"] == number]
        kind = "" if name != "crowd" else " as a crowd" if mine[0]["iscrowd"] else " as an object"
        parts.append(f"{name} {sum(int(a['area']) for a in mine)} pixels{kind}")
    print(f"{title}: " + ", ".join(parts))


drawn = np.zeros((SIDE, SIDE), bool)
drawn[20:60, 100:120] = drawn[40:60, 100:140] = True
people = np.zeros((SIDE, SIDE), bool)
for row, column in ((140, 20), (200, 60), (150, 100)):
    people[row : row + 20, column : column + 20] = True
annotations = [
    annotation(1, [[value + 20 for value in CORNER]]),
    annotation(2, run_lengths(drawn)),
    annotation(3, run_lengths(people), crowd=1),
]
Image.new("RGB", (SIDE, SIDE)).save("photo.png")
image = {"id": 1, "file_name": "photo.png", "width": SIDE, "height": SIDE}
categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
with open("coco.json", "w") as file:
    json.dump({"images": [image], "categories": categories, "annotations": annotations}, file)
told("given", annotations)
how = {"slice_height": SIDE, "slice_width": SIDE, "verbose": False}
sliced, _ = slice_coco("coco.json", ".", output_coco_annotation_file_name="sliced", output_dir="sliced", **how)
told("after slicing", sliced["annotations"])
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
