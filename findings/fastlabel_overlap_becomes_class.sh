#!/usr/bin/env bash
# fastlabel 0.26.0: where two objects overlap, the pixels of a semantic export become a third class, or one that does not exist.
#
# Seen: bird, cat and dog are the classes 1, 2 and 3. A bird and a cat that share 200 pixels give these to the dog:
# masks are put together by "or" of their bits, and 1 | 2 is 3. In the instance export objects 2 and 4 share pixels with the number 6, which no
# object has. A polygon under a segmentation is joined in the same way; polygons alone are drawn one over the other, as one would expect.
# Why it matters: a class appears in photos that do not show it; training learns seams as objects. Where 1 lies over 3, the result is 3: whether
# it is noticed depends on the order of the alphabet.
# What to do: export each class by its own call, and lay the masks over each other by yourself.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(fastlabel==0.26.0 opencv-python-headless==4.14.0.94 pillow==12.3.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
a bird (segmentation) and a cat (segmentation): {'bird': 600, 'cat': 400, 'dog': 200}
a bird (polygon) and a cat (segmentation): {'bird': 600, 'cat': 400, 'dog': 200}
a bird (polygon) and a cat (polygon): {'bird': 600, 'cat': 600}
four objects, of which the second and the fourth overlap: {1: 25, 2: 600, 3: 25, 4: 400, 6: 200}
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import os

import numpy as np
from PIL import Image

os.environ["FASTLABEL_ACCESS_TOKEN"] = "none"  # asked for, though nothing is sent
import fastlabel

CLASSES = ["bird", "cat", "dog"]
client = fastlabel.Client()


def annotation(name, kind, box):
    left, top, right, bottom = box
    corners = [left, top, right, top, right, bottom, left, bottom]
    return {"value": name, "type": kind, "points": [[corners]] if kind == "segmentation" else corners, "color": "#ff0000"}


def counted(folder):
    ids, areas = np.unique(np.asarray(Image.open(f"{folder}/photo.png")), return_counts=True)
    return {int(id): int(area) for id, area in zip(ids, areas, strict=True) if id}


def task(*annotations):
    return {"name": "photo.png", "width": 100, "height": 60, "annotations": [annotation(*known) for known in annotations]}


BIRD, CAT = (10, 10, 50, 30), (40, 10, 70, 30)  # 800 and 600 pixels, of which they share 200
for over, under in (("segmentation", "segmentation"), ("segmentation", "polygon"), ("polygon", "polygon")):
    client.export_semantic_segmentation([task(("bird", under, BIRD), ("cat", over, CAT))], output_dir="semantic", classes=CLASSES)
    areas = {CLASSES[id - 1]: area for id, area in counted("semantic").items()}
    print(f"a bird ({under}) and a cat ({over}): {areas}")
dots = [("bird", "segmentation", (0, row, 5, row + 5)) for row in (40, 50)]
four = task(dots[0], ("bird", "segmentation", BIRD), dots[1], ("cat", "segmentation", CAT))
client.export_instance_segmentation([four], output_dir="instance")
print("four objects, of which the second and the fourth overlap:", counted("instance"))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
