#!/usr/bin/env bash
# segmentation-models-pytorch 0.6.0: its mean IoU counts classes that occur nowhere as perfect: no right pixel scores 0.84.
#
# Seen: of 19 classes a batch shows two, and the prediction says a third one everywhere. `iou_score(..., reduction="macro")` is 0.84,
# for the 16 classes that neither has count as 1. With one of two photos right it is 0.89; the classes that occur have a mean of 0.33.
# With `zero_division=0.0` absent classes count as 0, so that a perfect prediction has 0.11. No setting leaves them out: with "nan"
# the mean is nan. `f1_score` does the same, and "macro-imagewise" does it photo by photo.
# Why it matters: the more classes and the fewer in a photo, the higher the score; it hides failure.
# What to do: add up tp, fp and fn of the whole test set, and take the mean of the classes with tp + fp + fn > 0.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(segmentation-models-pytorch==0.6.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
no right pixel: of the 3 classes that occur 0.00
  macro, as it is: IoU 0.84, F1 0.84
  macro, zero_division 0.0: IoU 0.00, F1 0.00
  macro, zero_division nan: IoU nan, F1 nan
  macro-imagewise, as it is: IoU 0.84, F1 0.84
  macro-imagewise, zero_division 0.0: IoU 0.00, F1 0.00
  macro-imagewise, zero_division nan: IoU nan, F1 nan
one photo of two right: of the 3 classes that occur 0.33
  macro, as it is: IoU 0.89, F1 0.91
  macro, zero_division 0.0: IoU 0.05, F1 0.07
  macro, zero_division nan: IoU nan, F1 nan
  macro-imagewise, as it is: IoU 0.92, F1 0.92
  macro-imagewise, zero_division 0.0: IoU 0.05, F1 0.05
  macro-imagewise, zero_division nan: IoU nan, F1 nan
perfect: of the 2 classes that occur 1.00
  macro, as it is: IoU 1.00, F1 1.00
  macro, zero_division 0.0: IoU 0.11, F1 0.11
  macro, zero_division nan: IoU nan, F1 nan
  macro-imagewise, as it is: IoU 1.00, F1 1.00
  macro-imagewise, zero_division 0.0: IoU 0.11, F1 0.11
  macro-imagewise, zero_division nan: IoU nan, F1 nan
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import torch
from segmentation_models_pytorch.metrics import f1_score, get_stats, iou_score

CLASSES = 19
truth = torch.ones(2, 32, 32, dtype=torch.long)
truth[:, :, 16:] = 2
wrong = torch.zeros_like(truth)
half = truth.clone()
half[1] = 0

for title, prediction in (("no right pixel", wrong), ("one photo of two right", half), ("perfect", truth)):
    tp, fp, fn, tn = get_stats(prediction, truth, mode="multiclass", num_classes=CLASSES)
    occur = (tp + fp + fn).sum(0) > 0
    of_those = (tp.sum(0) / (tp + fp + fn).sum(0).clamp(min=1))[occur].mean().item()
    print(f"{title}: of the {int(occur.sum())} classes that occur {of_those:.2f}")
    for reduction in ("macro", "macro-imagewise"):
        for division in (1.0, 0.0, "nan"):
            given = {} if division == 1.0 else {"zero_division": float(division)}
            scores = [score(tp, fp, fn, tn, reduction=reduction, **given).item() for score in (iou_score, f1_score)]
            name = "as it is" if division == 1.0 else f"zero_division {division}"
            print(f"  {reduction}, {name}: IoU {scores[0]:.2f}, F1 {scores[1]:.2f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
