#!/usr/bin/env bash
# datumaro 1.13.12: of Cityscapes, every car and person with a number of its own is lost, or else the road.
#
# Seen: `*_gtFine_instanceIds.png` holds 26000 and 26001 for the first and second car, and 26 for cars that are not told apart
# (class times 1000 plus the number; https://github.com/mcordts/cityscapesScripts). The importer reads this file and looks for the
# classes' own ids alone: only what is not told apart is left. It says nothing. Road and sky, which have no objects, are whole.
# Where `*_gtFine_labelTrainIds.png` is there, that is read in its place: cars and people are whole, and the road, whose number is
# 0, is lost.
# Why it matters: what cities are about is gone from counts, training and conversion, and photos look empty of it.
# What to do: read `*_gtFine_labelIds.png`, whose values are the classes, as a folder of masks.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(datumaro==1.13.12 numpy==2.4.6 opencv-python-headless==4.14.0.94)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
in the photo: car 108, person 36, road 656 pixels
as downloaded: car 36, road 656 pixels
with labelTrainIds: car 108, person 36 pixels
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
from pathlib import Path

import datumaro as dm
import numpy as np
from PIL import Image

ROAD, PERSON, CAR = 7, 24, 26
TRAIN_ID = {ROAD: 0, PERSON: 11, CAR: 13}
instances = np.full((20, 40), ROAD, np.uint16)
for left, number in ((2, 1000 * CAR), (12, 1000 * CAR + 1), (22, 1000 * PERSON), (32, CAR)):
    instances[2:8, left : left + 6] = number
labels = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)

name = "train/aachen/aachen_000000_000019"
truth = Path(f"given/gtFine/{name}_gtFine_instanceIds.png")
photo = Path(f"given/leftImg8bit/{name}_leftImg8bit.png")
for path in (truth, photo):
    path.parent.mkdir(parents=True)
Image.new("RGB", (40, 20)).save(photo)
Image.fromarray(instances).save(truth)
Image.fromarray(labels).save(f"given/gtFine/{name}_gtFine_labelIds.png")


def said(what: str, pixels: dict[str, int]) -> None:
    print(f"{what}: {', '.join(f'{name} {count}' for name, count in sorted(pixels.items()))} pixels")


def read() -> dict[str, int]:
    given = dm.Dataset.import_from("given", "cityscapes")
    names = [category.name for category in given.categories()[dm.AnnotationType.label]]
    pixels: dict[str, int] = {}
    for item in given:
        for mask in item.annotations:
            pixels[names[mask.label]] = pixels.get(names[mask.label], 0) + int(mask.image.sum())
    return pixels


said("in the photo", {"road": int((labels == ROAD).sum()), "person": int((labels == PERSON).sum()), "car": int((labels == CAR).sum())})
said("as downloaded", read())
train_ids = np.vectorize(TRAIN_ID.get)(labels).astype(np.uint8)
Image.fromarray(train_ids).save(f"given/gtFine/{name}_gtFine_labelTrainIds.png")
said("with labelTrainIds", read())
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
