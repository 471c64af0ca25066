#!/usr/bin/env bash
# torchmetrics 1.9.0: the Hausdorff distance of any photo that is wider than high is wrong, and nothing says so.
#
# Seen: two objects in photos of 60 rows and 60, 61 or 90 columns. scipy and MONAI 1.6.1 say 5.39 pixels for all three, torchmetrics 5.39
# for the square alone, then 27.29 and 45.00. Two dots that are 4 pixels apart are 4, 10.00 and 10.44 pixels apart. A photo that is
# higher than wide raises IndexError, which is reported (issue 3300, where wide photos are said to work). Its `distance_transform` counts
# rows by the height: distances land in other pixels, or on each other. The documentation shows squares of 16 pixels.
# Why it matters: most photos are wide. Numbers are of a plausible size, and get worse with every column.
# What to do: pad masks to squares first, or take MONAI's `compute_hausdorff_distance`, which agrees with scipy.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torchmetrics==1.9.0 torch==2.14.1 monai==1.6.1 scipy==1.17.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
rectangles, 60 rows of 60: scipy 5.39, MONAI 5.39, torchmetrics 5.39
rectangles, 60 rows of 61: scipy 5.39, MONAI 5.39, torchmetrics 27.29
rectangles, 60 rows of 90: scipy 5.39, MONAI 5.39, torchmetrics 45.00
dots, 60 rows of 60: scipy 4.00, MONAI 4.00, torchmetrics 4.00
dots, 60 rows of 61: scipy 4.00, MONAI 4.00, torchmetrics 10.00
dots, 60 rows of 90: scipy 4.00, MONAI 4.00, torchmetrics 10.44
90 rows of 60: IndexError
rectangles, padded to a square of 90: scipy 5.39, MONAI 5.39, torchmetrics 5.39
dots, padded to a square of 90: scipy 4.00, MONAI 4.00, torchmetrics 4.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import directed_hausdorff
from torchmetrics.segmentation import HausdorffDistance

SHAPES = ((60, 60), (60, 61), (60, 90))
RECTANGLES = ((10, 20, 10, 30), (12, 24, 15, 33))  # top, bottom, left, right
DOTS = ((5, 6, 5, 6), (5, 6, 9, 10))


def drawn(box, shape):
    top, bottom, left, right = box
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def layers(mask):
    return torch.tensor(np.stack([~mask, mask])[None])


def distances(boxes, shape):
    found, truth = (drawn(box, shape) for box in boxes)
    points = np.argwhere(found), np.argwhere(truth)
    exact = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    monai = compute_hausdorff_distance(layers(found), layers(truth)).item()
    own = HausdorffDistance(num_classes=2)(layers(found).int(), layers(truth).int()).item()
    return f"scipy {exact:.2f}, MONAI {monai:.2f}, torchmetrics {own:.2f}"


for name, boxes in (("rectangles", RECTANGLES), ("dots", DOTS)):
    for shape in SHAPES:
        print(f"{name}, {shape[0]} rows of {shape[1]}: {distances(boxes, shape)}")
try:
    distances(RECTANGLES, (90, 60))
except IndexError as error:
    print("90 rows of 60:", type(error).__name__)
for name, boxes in (("rectangles", RECTANGLES), ("dots", DOTS)):
    print(f"{name}, padded to a square of 90: {distances(boxes, (90, 90))}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
