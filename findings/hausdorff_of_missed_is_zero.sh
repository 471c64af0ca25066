#!/usr/bin/env bash
# miseval 1.3.0 and seg-metrics 1.2.8: the Hausdorff distance is 0, as of a perfect mask, where an object is elsewhere or was not found at all.
#
# Seen: an object of 10 x 20 pixels in a mask of 60 x 80. When it is found 30 rows too low, the distance is 30; "HD" of miseval is 0. It gives the
# mask to a function that takes a list of points, so that each row of the mask is a point of 80 numbers, and rows may stand in any order.
# 30 columns to the right are 4.47. Its "AHD", average Hausdorff distance, is the plain maximum: 30. When the object is not found at all,
# seg-metrics says 0 for "hd", "hd95" and "msd", and its warning speaks of precision and recall alone.
# Why it matters: in a mean over photos the worst masks pull the distance down. A model that finds nothing has
# the best distance of all, and one that finds it elsewhere the same.
# What to do: take `medpy`, MONAI or surface-distance, which agree with scipy; leave out and count what was not
# found, or give it the diagonal of the photo.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(miseval==1.3.0 seg-metrics==1.2.8 simpleitk==2.5.7 scipy==1.17.1 numpy==2.2.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
exact: scipy 0.00; miseval HD 0.00, AHD 0.00; seg-metrics hd 0.00, hd95 0.00, msd 0.00
3 rows too low: scipy 3.00; miseval HD 0.00, AHD 3.00; seg-metrics hd 3.00, hd95 3.00, msd 2.04
30 rows too low: scipy 30.00; miseval HD 0.00, AHD 30.00; seg-metrics hd 30.00, hd95 30.00, msd 25.50
30 columns too far right: scipy 30.00; miseval HD 4.47, AHD 30.00; seg-metrics hd 30.00, hd95 30.00, msd 20.50
not found: scipy none; miseval HD 4.47, AHD 35.23; seg-metrics hd 0.00, hd95 0.00, msd 0.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import logging

import numpy as np
from miseval import evaluate
from scipy.spatial.distance import directed_hausdorff
from seg_metrics import seg_metrics

logging.disable(logging.WARNING)
NAMES = ["hd", "hd95", "msd"]


def mask(top, left):
    drawn = np.zeros((60, 80), np.uint8)
    drawn[top : top + 10, left : left + 20] = 1
    return drawn


def exact(truth, found):
    points = np.argwhere(truth), np.argwhere(found)
    if not all(map(len, points)):
        return "none"
    return f"{max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0]):.2f}"


truth = mask(10, 10)
cases = {"exact": truth, "3 rows too low": mask(13, 10), "30 rows too low": mask(40, 10), "30 columns too far right": mask(10, 40)}
for title, found in (cases | {"not found": np.zeros_like(truth)}).items():
    [scores] = seg_metrics.write_metrics(labels=[1], gdth_img=truth, pred_img=found, metrics=NAMES)
    own = ", ".join(f"{name} {float(scores[name][0]):.2f}" for name in NAMES)
    theirs = ", ".join(f"{name} {float(evaluate(truth, found, metric=name)):.2f}" for name in ("HD", "AHD"))
    print(f"{title}: scipy {exact(truth, found)}; miseval {theirs}; seg-metrics {own}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
