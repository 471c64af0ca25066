#!/usr/bin/env bash
# labelformat 0.1.17: COCO converted to YOLO keeps the category ids of COCO, so that a cat becomes a dog for who reads it.
#
# Seen: COCO's ids begin at 1 and may have gaps; YOLO's classes are counted from 0. labelformat writes the ids as they are, beside
# `nc: 2` and the names {1: cat, 2: dog}. supervision 0.31.2, which takes the names in their order, reads a photo of a cat as a dog,
# and refuses one with a dog, whose number 2 is none of two classes. Written by COCO's own numbers, 80 classes end at 90.
# Why it matters: where the last class is in no photo, nothing fails, and every label is that of the next class.
# What to do: make the ids 0, 1, 2, ... in the COCO file first.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(labelformat==0.1.17 supervision==0.31.2 opencv-python-headless==4.14.0.94 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
cat: class 1 of nc 2, names {1: 'cat', 2: 'dog'}; supervision reads dog
dog: class 2 of nc 2, names {1: 'cat', 2: 'dog'}; supervision refuses it
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import json
from pathlib import Path

import cv2
import numpy as np
import supervision
import yaml
from labelformat.formats import COCOInstanceSegmentationInput, YOLOv8InstanceSegmentationOutput

CLASSES = {1: "cat", 2: "dog"}
OUTLINE = [10, 10, 40, 10, 40, 30]

for number, name in CLASSES.items():
    folder = Path(name)
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((50, 100, 3), np.uint8))
    drawn = {"id": 1, "image_id": 1, "category_id": number, "segmentation": [OUTLINE], "bbox": [10, 10, 30, 20], "area": 300}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": each, "name": own} for each, own in CLASSES.items()],
        "annotations": [drawn | {"iscrowd": 0}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    read = COCOInstanceSegmentationInput(folder / "coco.json")
    YOLOv8InstanceSegmentationOutput(folder / "data.yaml", "train").save(read)
    about = yaml.safe_load((folder / "data.yaml").read_text())
    label = (folder / "labels/a.txt").read_text().split()[0]
    try:
        places = (str(folder / part) for part in ("images", "labels", "data.yaml"))
        known = supervision.DetectionDataset.from_yolo(*places)
        (seen,) = (known.classes[int(found.class_id[0])] for _, _, found in known)
        said = f"reads {seen}"
    except ValueError:
        said = "refuses it"
    print(f"{name}: class {label} of nc {about['nc']}, names {about['names']}; supervision {said}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
