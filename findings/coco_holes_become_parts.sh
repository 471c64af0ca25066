#!/usr/bin/env bash
# kili-formats 1.6.0 and imantics 0.1.12: in their COCO files a hole is one polygon more, which every reader of COCO fills.
#
# Seen: a plate of 40 x 40 pixels with a hole of 20 x 20. Both write two polygons for it and the area 1,200. COCO takes the polygons of an object as
# parts that are joined: pycocotools draws 1,600 pixels of the file of Kili, and 1,521 of the one of imantics, whose corners are
# the middles of pixels. Supervision 0.31.2 fills it too. The IoU with the plate is 0.75 and 0.70. YOLO files of Kili have the outer polygon alone.
# Why it matters: what lies in a hole is learnt as the object, and a model that leaves it out loses a quarter of its score. The area, by which
# evaluation sorts objects into sizes, is of another shape than the mask. Nothing is said.
# What to do: draw the first polygon and take away the others, where each of them lies within it; write run lengths.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=('kili-formats[coco,image]==1.6.0' imantics==0.1.12 supervision==0.31.2
  opencv-python==5.0.0.93 pycocotools==2.0.11 shapely==2.2.0 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
plate: 1200 pixels
kili-formats: 2 polygons, area 1200; drawn by pycocotools 1600, supervision 1681; IoU with the plate 0.75
kili-formats, YOLO: 4 corners
imantics: 2 polygons, area 1200; drawn by pycocotools 1521, supervision 1600; IoU with the plate 0.70
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import imantics
import numpy as np
import supervision as sv
from kili_formats.format.coco import convert_from_kili_to_coco_format
from kili_formats.format.yolo import convert_from_kili_to_yolo_format
from kili_formats.types import JobCategory
from PIL import Image
from pycocotools.coco import COCO

WIDTH, HEIGHT = 100, 80
PLATE, HOLE = (10, 20, 50, 60), (20, 30, 40, 50)  # left, top, right, bottom
mask = np.zeros((HEIGHT, WIDTH), bool)
for (left, top, right, bottom), value in ((PLATE, True), (HOLE, False)):
    mask[top:bottom, left:right] = value
Image.new("RGB", (WIDTH, HEIGHT)).save("photo.png")


def vertices(left, top, right, bottom):
    corners = (left, top), (right, top), (right, bottom), (left, bottom)
    return {"normalizedVertices": [{"x": x / WIDTH, "y": y / HEIGHT} for x, y in corners]}


def told(name, content):
    [image], [known] = content["images"], content["annotations"]
    image |= {"file_name": "photo.png", "width": WIDTH, "height": HEIGHT}
    categories = [{"id": known["category_id"], "name": "plate"}]
    path = Path(f"{name}.json")
    path.write_text(json.dumps({"images": [image], "categories": categories, "annotations": [known]}))
    with redirect_stdout(StringIO()):
        coco = COCO(str(path))
    drawn = coco.annToMask(known).astype(bool)
    [(_, _, found)] = sv.DetectionDataset.from_coco(".", str(path), force_masks=True)
    iou = np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask)
    pixels = f"pycocotools {drawn.sum()}, supervision {found.mask.sum()}"
    print(f"{name}: {len(known['segmentation'])} polygons, area {known['area']:g}; drawn by {pixels}; IoU with the plate {iou:.2f}")


print(f"plate: {mask.sum()} pixels")
job = {"content": {"categories": {"PLATE": {"name": "plate"}}}}
drawn = {"type": "semantic", "categories": [{"name": "PLATE"}], "boundingPoly": [vertices(*PLATE), vertices(*HOLE)]}
response = {"JOB": {"annotations": [drawn]}}
asset = {"content": "photo.png", "externalId": "photo.png", "latestLabel": {"jsonResponse": response}}
with redirect_stdout(StringIO()):
    written = convert_from_kili_to_coco_format({"JOB": job}, [asset], "set", "IMAGE", None, merged=False)
told("kili-formats", written)
category = JobCategory(category_name="PLATE", id=0, job_id="JOB")
[line] = convert_from_kili_to_yolo_format("JOB", {"jsonResponse": response}, {"JOB__PLATE": category})
print("kili-formats, YOLO:", (len(line) - 1) // 2, "corners")

photo = imantics.Image(width=WIDTH, height=HEIGHT, path="photo.png")
photo.add(imantics.Mask(mask), imantics.Category("plate", id=0))
told("imantics", photo.coco())
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
