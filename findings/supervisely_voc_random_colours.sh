#!/usr/bin/env bash
# supervisely 6.74.51: in a VOC export each object has a random colour in SegmentationClass, which no table and no other photo knows.
#
# Seen: two photos show a cat and a dog each. `sly.convert.to_pascal_voc` writes colors.txt with a colour for each class, and class masks in
# which the cat has another colour in each photo, none of them in colors.txt. Two cats of one photo have two colours. Nothing is said.
# Why it matters: the folder looks like VOC; a reader that looks colours up fails, one that numbers them learns noise. Which class a pixel
# is cannot be had back but by the boxes.
# What to do: export COCO, or read the project itself.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(supervisely==6.74.51 lxml==6.1.3)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
classes in colors.txt: cat, dog, neutral
cat: one colour in both photos False, of colors.txt False
dog: one colour in both photos False, of colors.txt False
two cats of a photo: one colour False
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/said" <<'PYTHON' || { cat "$folder/said" >&2; exit 1; }
import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import supervisely as sly
from PIL import Image

PLACES = {"cat": (5, 5), "dog": (5, 35), "cat again": (25, 5)}  # row, column
CLASSES = {name: sly.ObjClass(name, sly.Bitmap) for name in ("cat", "dog")}


def drawn(name):
    row, column = PLACES[name]
    mask = np.zeros((40, 60), bool)
    mask[row : row + 12, column : column + 20] = True
    return sly.Label(sly.Bitmap(mask), CLASSES[name.split()[0]])


with redirect_stdout(io.StringIO()):
    project = sly.Project("project", sly.OpenMode.CREATE)
    project.set_meta(sly.ProjectMeta(obj_classes=list(CLASSES.values())))
    dataset = project.create_dataset("photos")
    for name in ("0.png", "1.png"):
        annotation = sly.Annotation((40, 60), [drawn(each) for each in PLACES])
        dataset.add_item_np(name, np.zeros((40, 60, 3), np.uint8), annotation)
    sly.convert.to_pascal_voc("project", "voc")

root = Path("voc/VOCdevkit/VOC")
lines = [line.split() for line in (root / "colors.txt").read_text().splitlines() if line]
table = {name: tuple(map(int, colour)) for name, *colour in lines}
print("classes in colors.txt:", ", ".join(sorted(table)))
photos = [np.array(Image.open(file).convert("RGB")) for file in sorted((root / "SegmentationClass").glob("*.png"))]
seen = {name: [tuple(photo[row + 6, column + 10].tolist()) for photo in photos] for name, (row, column) in PLACES.items()}
for name in CLASSES:
    one, other = seen[name]
    print(f"{name}: one colour in both photos {one == other}, of colors.txt {bool({one, other} & {*table.values()})}")
print("two cats of a photo: one colour", seen["cat"][0] == seen["cat again"][0])
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
