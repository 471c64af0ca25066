#!/usr/bin/env bash
# torchmetrics 1.9.0: mean precision of masks passes over every photo without objects, so that what is found there by mistake costs nothing.
#
# Seen: in one photo an object is found with score 0.6; another photo has no object, and something is found there with score 0.9.
# `MeanAveragePrecision(iou_type="segm")` says 1.00, with either backend. For boxes of the same photos it says 0.50, as pycocotools does for
# the masks. With iou_type=("bbox", "segm") the masks get 0.50 too. `tm_to_coco` lists one of the two photos, and the one category 0 in
# place of 1: pycocotools says -1 for that file.
# Why it matters: photos without objects belong into every honest test set. A model that sees objects everywhere looks as good as one that
# does not, and boxes and masks of one model cannot be compared. Nothing is said.
# What to do: give boxes as well, take iou_type=("bbox", "segm"), and read `segm_map`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
pycocotools: masks 0.50
torchmetrics with pycocotools, bbox: boxes 0.50
torchmetrics with pycocotools, segm: masks 1.00
torchmetrics with pycocotools, bbox and segm: boxes 0.50, masks 0.50
torchmetrics with faster_coco_eval, bbox: boxes 0.50
torchmetrics with faster_coco_eval, segm: masks 1.00
torchmetrics with faster_coco_eval, bbox and segm: boxes 0.50, masks 0.50
tm_to_coco: photos [0], categories [0], the object's category 1; pycocotools: masks -1.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from pycocotools import mask as runs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

SIDE, LABEL = 100, 1
BOX = (10, 20, 60, 50)


def objects(boxes, **more):
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    labels = torch.full((len(boxes),), LABEL)
    return {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "masks": masks, "labels": labels, **more}


truth = [objects([BOX]), objects([])]
found = [objects([BOX], scores=torch.tensor([score])) for score in (0.6, 0.9)]


def by_pycocotools(content, predictions):
    with redirect_stdout(StringIO()):
        with open("truth.json", "w") as file:
            json.dump(content, file)
        known = COCO("truth.json")
        judge = COCOeval(known, known.loadRes(predictions), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return f"masks {judge.stats[0]:.2f}"


def packed(mask):
    run = runs.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": run["size"], "counts": run["counts"].decode()}


annotations, predictions = [], []
for photo, (known, seen) in enumerate(zip(truth, found, strict=True), 1):
    for mask in known["masks"]:
        shape = {"segmentation": packed(mask), "area": int(mask.sum()), "bbox": [BOX[0], BOX[1], 50, 30]}
        annotations.append({"id": 1, "image_id": photo, "category_id": LABEL, "iscrowd": 0, **shape})
    for mask, score in zip(seen["masks"], seen["scores"].tolist(), strict=True):
        predictions.append({"image_id": photo, "category_id": LABEL, "segmentation": packed(mask), "score": score})
images = [{"id": photo, "width": SIDE, "height": SIDE} for photo in (1, 2)]
categories = [{"id": LABEL, "name": "leaf"}]
print("pycocotools:", by_pycocotools({"images": images, "categories": categories, "annotations": annotations}, predictions))

for backend in ("pycocotools", "faster_coco_eval"):
    for kinds in (("bbox",), ("segm",), ("bbox", "segm")):
        metric = MeanAveragePrecision(iou_type=kinds, backend=backend)
        metric.update(found, truth)
        scores = metric.compute()
        names = {"bbox": "boxes", "segm": "masks"}
        told = [f"{names[kind]} {scores[f'{kind}_map' if len(kinds) > 1 else 'map']:.2f}" for kind in kinds]
        print(f"torchmetrics with {backend}, {' and '.join(kinds)}: {', '.join(told)}")

metric = MeanAveragePrecision(iou_type="segm")
metric.update(found, truth)
metric.tm_to_coco("written")
with open("written_target.json") as file:
    written = json.load(file)
with open("written_preds.json") as file:
    kept = [prediction for prediction in json.load(file) if prediction["image_id"] == 0]
photos, listed = [image["id"] for image in written["images"]], [category["id"] for category in written["categories"]]
[own] = {annotation["category_id"] for annotation in written["annotations"]}
score = by_pycocotools(written, kept)
print(f"tm_to_coco: photos {photos}, categories {listed}, the object's category {own}; pycocotools: {score}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
