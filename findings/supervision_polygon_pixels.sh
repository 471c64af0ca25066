#!/usr/bin/env bash
# supervision 0.31.2 (with OpenCV 4.14.0): masks grow when COCO polygons are read and shrink for everyone else when they are
# written. Its own round trip is exact, so that a test of it sees nothing.
#
# Seen: a line of 50 x 1 pixels, as COCO's polygon of 50 pixels, is read as 102. A box of 20 x 10 is read as 231 pixels instead of
# 200. Written by supervision, the same box has 171 pixels by pycocotools, though the file says area 200; the line gets an empty
# segmentation (with a warning). Polygon corners are taken for the middles of pixels; in COCO they are corners of pixels.
# Why it matters: small and thin objects change most, in scores too. What to do: exchange run lengths, which it reads exactly.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(supervision==0.31.2 opencv-python-headless==4.14.0.94 pycocotools==2.0.11 pillow numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
line: COCO's rule 50 pixels, read by supervision 102
box: COCO's rule 200 pixels, read by supervision 231
line: 50 pixels written by supervision: area 50, COCO's rule 0, read again 0
box: 200 pixels written by supervision: area 200, COCO's rule 171, read again 200
box: 200 pixels as run lengths, read by supervision 200
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import json
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools import mask as coco

HEIGHT, WIDTH = 60, 80
BOXES = {"line": (10, 20, 60, 21), "box": (10, 20, 30, 30)}
Image.new("RGB", (WIDTH, HEIGHT)).save("photo.png")


def mask_of(box):
    left, top, right, bottom = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def write_coco(segmentation, box):
    left, top, right, bottom = box
    size = [right - left, bottom - top]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
    annotation |= {"bbox": [left, top, *size], "area": size[0] * size[1]}
    photo = {"id": 1, "file_name": "photo.png", "width": WIDTH, "height": HEIGHT}
    data = {"images": [photo], "categories": [{"id": 1, "name": "leaf"}], "annotations": [annotation]}
    Path("coco.json").write_text(json.dumps(data))


def pixels_read():
    [(_, _, found)] = sv.DetectionDataset.from_coco(".", "coco.json", force_masks=True)
    return int(found.mask.sum())


def pixels_by_coco(polygons):
    return int(coco.decode(coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH))).sum()) if polygons else 0


for name, box in BOXES.items():
    left, top, right, bottom = box
    polygon = [left, top, right, top, right, bottom, left, bottom]
    write_coco([polygon], box)
    print(f"{name}: COCO's rule {pixels_by_coco([polygon])} pixels, read by supervision {pixels_read()}")

for name, box in BOXES.items():
    mask = mask_of(box)[None]
    found = sv.Detections(xyxy=sv.mask_to_xyxy(mask), mask=mask, class_id=np.array([0]))
    sv.DetectionDataset(["leaf"], ["photo.png"], {"photo.png": found}).as_coco(annotations_path="coco.json")
    [annotation] = json.loads(Path("coco.json").read_text())["annotations"]
    seen = pixels_by_coco(annotation["segmentation"])
    text = f"area {annotation['area']:g}, COCO's rule {seen}, read again {pixels_read()}"
    print(f"{name}: {mask.sum()} pixels written by supervision: {text}")

mask = mask_of(BOXES["box"])
columns = mask.T.ravel().astype(int)
changes = np.flatnonzero(np.diff(columns)) + 1
write_coco({"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, columns.size]).tolist()}, BOXES["box"])
print(f"box: {mask.sum()} pixels as run lengths, read by supervision {pixels_read()}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
