#!/usr/bin/env bash
# labelme2yolo 0.4.0: a mask of LabelMe becomes a YOLO box that lies elsewhere.
#
# Seen: LabelMe's shape "mask" (what its AI tools draw) has two corners and a picture. In the polygon format the two corners are written
# as they are: four numbers, which YOLO reads as middle and size. Columns 10 to 40 and rows 60 to 80 of a photo of 100 x 100 pixels
# are read by supervision 0.31.2 as columns -10 to 30 and rows 20 to 100. The polygon beside it is right. The box format gives the box.
# Nothing is said, and the picture in the file is not looked at.
# Why it matters: in a set of polygons and masks the masks are learnt as boxes of the wrong place; training does not complain.
# What to do: turn masks into polygons first, or read LabelMe's files by another tool.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(labelme2yolo==0.4.0 supervision==0.31.2 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
polygon file: 0 0.500000 0.100000 0.900000 0.100000 0.900000 0.400000 0.500000 0.400000
polygon file: 1 0.100000 0.600000 0.400000 0.800000
polygon, cat: columns 50 to 90, rows 10 to 40
polygon, dog: columns -10 to 30, rows 20 to 100
bbox file: 0 0.700000 0.250000 0.400000 0.300000
bbox file: 1 0.250000 0.700000 0.300000 0.200000
bbox, cat: columns 50 to 90, rows 10 to 40
bbox, dog: columns 10 to 40, rows 60 to 80
STATED

cd "$folder"
PATH="$folder/venv/bin:$PATH" "$python" -W ignore - >"$folder/seen" <<'PYTHON'
import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

drawn = io.BytesIO()
Image.fromarray(np.ones((21, 31), bool)).save(drawn, "PNG")
POLYGON = {"label": "cat", "shape_type": "polygon", "points": [[50, 10], [90, 10], [90, 40], [50, 40]]}
MASK = {"label": "dog", "shape_type": "mask", "points": [[10, 60], [40, 80]], "mask": base64.b64encode(drawn.getvalue()).decode()}

Path("labelme").mkdir()
Image.new("RGB", (100, 100)).save("labelme/photo.png")
shapes = [{"flags": {}, "group_id": None, "description": "", **shape} for shape in (POLYGON, MASK)]
content = {"version": "5.8.3", "flags": {}, "shapes": shapes, "imagePath": "photo.png", "imageData": None}
Path("labelme/photo.json").write_text(json.dumps(content | {"imageHeight": 100, "imageWidth": 100}))

for format in ("polygon", "bbox"):
    command = ["labelme2yolo", "--json_dir", "labelme", "--output_dir", format, "--output_format", format]
    subprocess.run([*command, "--val_size", "0", "--deterministic_labels"], check=True, capture_output=True)
    root = Path(format)
    folders = {"images_directory_path": root / "images/train", "annotations_directory_path": root / "labels/train"}
    dataset = sv.DetectionDataset.from_yolo(**{key: str(path) for key, path in folders.items()}, data_yaml_path=str(root / "dataset.yaml"))
    (_, _, found), = dataset
    for line in sorted(next(folders["annotations_directory_path"].glob("*.txt")).read_text().splitlines()):
        print(f"{format} file: {line}")
    for name, (left, top, right, bottom) in sorted(zip([dataset.classes[i] for i in found.class_id], found.xyxy.tolist(), strict=True)):
        print(f"{format}, {name}: columns {left:.0f} to {right:.0f}, rows {top:.0f} to {bottom:.0f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
