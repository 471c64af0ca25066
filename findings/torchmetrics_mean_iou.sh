#!/usr/bin/env bash
# torchmetrics 1.9.0: two classes for the mean IoU give 75 and 99 for the same maps, and one of them contradicts its own list.
#
# Seen: two photos; in one an object of 50 pixels is found to the pixel, in the other an object of 1 pixel is missed. `MeanIoU` takes
# the IoU of each photo and averages: 50.0 for the object's class. `JaccardIndex` sums pixels over all photos first, as the mIoU of
# segmentation papers does: 98.0. A third class, in no photo and never predicted, is -1 in the list of `MeanIoU`. In the list of
# `JaccardIndex` it is 0, which its own "macro" mean leaves out: 98.7, where the mean of that list is 65.8.
# `MeanIoU` has no `ignore_index`: maps with 255 are refused.
# Why it matters: numbers by the two cannot be compared, and a mean made by hand from the list is not the one that is reported.
# What to do: take `JaccardIndex(average="macro")` for the mIoU of papers, and make no mean of a list with absent classes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
MeanIoU: 99.5 50.0 -100.0, mean 74.8
JaccardIndex: 99.3 98.0 0.0, macro 98.7, mean of the list 65.8
MeanIoU has ignore_index: False
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import inspect

import torch
from torchmetrics import JaccardIndex
from torchmetrics.segmentation import MeanIoU

CLASSES = 3  # background, an object, and a class that is nowhere
truth = torch.zeros(2, 10, 10, dtype=torch.long)
truth[0, :5] = 1
truth[1, 0, 0] = 1
found = truth.clone()
found[1] = 0  # the small object is missed


def percent(values):
    return " ".join(f"{100 * value:.1f}" for value in torch.atleast_1d(values).tolist())


each, mean = (MeanIoU(num_classes=CLASSES, per_class=own, input_format="index")(found, truth) for own in (True, False))
print(f"MeanIoU: {percent(each)}, mean {percent(mean)}")
each, macro = (JaccardIndex(task="multiclass", num_classes=CLASSES, average=how)(found, truth) for how in (None, "macro"))
print(f"JaccardIndex: {percent(each)}, macro {percent(macro)}, mean of the list {percent(each.mean())}")
print("MeanIoU has ignore_index:", "ignore_index" in inspect.signature(MeanIoU.__init__).parameters)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
