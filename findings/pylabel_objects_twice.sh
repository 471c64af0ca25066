#!/usr/bin/env bash
# pylabel 0.1.55: a COCO export writes an object once more for every photo without objects that follows it, and counts objects from 0.
#
# Seen: three photos, the first and the last with an object, the one between with none. `ImportCoco` reads two objects;
# `ExportToCoco` writes three: the first twice, with the same id, for the same photo. Numbers begin at 0, and pycocotools takes a match with
# object 0 for no match. Predictions that are the truth itself have a mean precision of 1.00 by the file that was read, and of 0.50 by
# the one that was written.
# Why it matters: photos without objects belong into every honest test set. Each of them makes an object that cannot be found; nothing raises.
# What to do: drop annotations whose id was seen already, and number the others from 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(pylabel==0.1.55 pandas==2.3.3 opencv-python-headless==5.0.0.93 pycocotools==2.0.11 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
read: object 1 of photo 11, object 2 of photo 13; truth as prediction 1.00
written: object 0 of photo 11, object 0 of photo 11, object 2 of photo 13; truth as prediction 0.50
mended: object 1 of photo 11, object 2 of photo 13; truth as prediction 1.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import json
import os
from contextlib import redirect_stdout
from io import StringIO

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pylabel import importer

WIDTH, HEIGHT = 160, 100
PHOTOS = {11: "first.png", 12: "none.png", 13: "last.png"}


def box(number, photo, category, left, top, width, height):
    corners = [left, top, left + width, top, left + width, top + height, left, top + height]
    shape = {"bbox": [left, top, width, height], "area": width * height, "segmentation": [corners], "iscrowd": 0}
    return {"id": number, "image_id": photo, "category_id": category, **shape}


def precision(content):
    """The mean precision of predictions that are the objects themselves."""
    with redirect_stdout(StringIO()):
        with open("truth.json", "w") as file:
            json.dump(content, file)
        truth = COCO("truth.json")
        sure = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9} for a in objects]
        judge = COCOeval(truth, truth.loadRes(sure), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0]


def told(title, content):
    listed = ", ".join(f"object {a['id']} of photo {a['image_id']}" for a in content["annotations"])
    print(f"{title}: {listed}; truth as prediction {precision(content):.2f}")


os.mkdir("photos")
for name in PHOTOS.values():
    Image.new("RGB", (WIDTH, HEIGHT)).save(f"photos/{name}")
objects = [box(1, 11, 9, 10, 10, 80, 30), box(2, 13, 5, 100, 10, 40, 30)]
categories = [{"id": 5, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog", "supercategory": "animal"}]
images = [{"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for id, name in PHOTOS.items()]
content = {"images": images, "categories": categories, "annotations": objects}
with open("read.json", "w") as file:
    json.dump(content, file)
told("read", content)
with redirect_stdout(StringIO()):
    importer.ImportCoco("read.json", path_to_images="photos", name="set").export.ExportToCoco(output_path="written.json")
with open("written.json") as file:
    written = json.load(file)
told("written", written)
kept = {a["id"]: a for a in written["annotations"]}.values()
told("mended", written | {"annotations": [a | {"id": number} for number, a in enumerate(kept, 1)]})
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
