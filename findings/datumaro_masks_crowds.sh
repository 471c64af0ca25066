#!/usr/bin/env bash
# datumaro 1.13.12: with `segmentation_mode="mask"` every object in COCO is written as a crowd, also one that was read as none.
#
# Seen: an object as run lengths with `iscrowd` 0 is read, with the attribute `is_crowd` False, and written again. In mask mode, the
# only one that keeps its 600 pixels, it has `iscrowd` 1. pycocotools then finds no truth left: a perfect prediction scores -1, which
# means that there is nothing to measure. In the default mode `iscrowd` stays 0 and the mask becomes an outline of 551 pixels.
# Why it matters: evaluation passes crowds over, and so do the loaders of most training code: the data set looks empty to them.
# What to do: write in mask mode, then set `iscrowd` to 0 in the file, where the objects are none.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(datumaro==1.13.12 pycocotools==2.0.11 opencv-python-headless==4.14.0.94 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
read: is_crowd False
default: area 551, iscrowd 0, AP50 of the same mask 1
mask: area 600, iscrowd 1, AP50 of the same mask -1
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import contextlib
import io
import json
from pathlib import Path

import cv2
import datumaro
import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 100
drawn = np.zeros((SIDE, SIDE), np.uint8)
drawn[20:40, 30:60] = 1
runs = masks.encode(np.asfortranarray(drawn))
runs["counts"] = runs["counts"].decode()
truth = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": runs, "area": 600, "bbox": [30, 20, 30, 20], "iscrowd": 0}
content = {
    "images": [{"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}],
    "categories": [{"id": 1, "name": "ship"}],
    "annotations": [truth],
}
for part in ("annotations", "images/train"):
    Path("data", part).mkdir(parents=True)
Path("data/annotations/instances_train.json").write_text(json.dumps(content))
cv2.imwrite("data/images/train/a.png", np.zeros((SIDE, SIDE, 3), np.uint8))

read = datumaro.Dataset.import_from("data", "coco")
(item,) = read
print("read: is_crowd", item.annotations[0].attributes["is_crowd"])
for mode, how in (("default", {}), ("mask", {"segmentation_mode": "mask"})):
    read.export(mode, "coco_instances", **how)
    (file,) = Path(mode, "annotations").glob("*.json")
    (written,) = json.loads(file.read_text())["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(file))
        same = {"image_id": 1, "category_id": written["category_id"], "segmentation": runs, "score": 1.0}
        measured = COCOeval(known, known.loadRes([same]), "segm")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    score = round(float(measured.stats[1]))
    print(f"{mode}: area {written['area']:.0f}, iscrowd {written['iscrowd']}, AP50 of the same mask {score}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
