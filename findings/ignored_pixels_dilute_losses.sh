#!/usr/bin/env bash
# segmentation-models-pytorch 0.6.0, kornia 0.9.0: some losses divide by ignored pixels too, others of the same library do not.
#
# Seen: two label maps of 8 x 8 with three classes, and the same with 8 and 24 columns of 255 beside them, which `ignore_index` names.
# torch's cross-entropy, and FocalLoss and DiceLoss of segmentation-models-pytorch, say the same for all three. Its
# SoftCrossEntropyLoss and SoftBCEWithLogitsLoss say a half and a quarter of it, and so does kornia's focal_loss with reduction="mean".
# kornia's dice_loss is unchanged. SoftCrossEntropyLoss without smooth_factor, its default, is a TypeError.
# Why it matters: batches with wide void borders or padding teach less, and two terms of a mixed loss change their ratio with them.
# What to do: take reduction="none" and divide by the pixels that count, or torch.nn.functional.cross_entropy with label_smoothing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(segmentation-models-pytorch==0.6.0 kornia==0.9.0 torch==2.14.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
torch cross_entropy             1.00 1.00 1.00
torch cross_entropy, smoothed   1.00 1.00 1.00
smp FocalLoss                   1.00 1.00 1.00
smp DiceLoss                    1.00 1.00 1.00
smp SoftCrossEntropyLoss        1.00 0.50 0.25
smp SoftBCEWithLogitsLoss       1.00 0.50 0.25
kornia dice_loss                1.00 1.00 1.00
kornia focal_loss               1.00 0.50 0.25
smp SoftCrossEntropyLoss(), as it is by default: TypeError
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import torch
from kornia.losses import dice_loss, focal_loss
from segmentation_models_pytorch import losses
from torch.nn import functional as F

CLASSES, IGNORED = 3, 255
stream = torch.Generator().manual_seed(0)
logits = torch.randn(2, CLASSES, 8, 8 + 24, generator=stream)
labels = torch.randint(0, CLASSES, (2, 8, 8 + 24), generator=stream)
labels[..., 8:] = IGNORED
smooth = losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=IGNORED)
binary = losses.SoftBCEWithLogitsLoss(ignore_index=IGNORED)
asked = {
    "torch cross_entropy": lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORED),
    "torch cross_entropy, smoothed": lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORED, label_smoothing=0.1),
    "smp FocalLoss": losses.FocalLoss("multiclass", ignore_index=IGNORED),
    "smp DiceLoss": losses.DiceLoss("multiclass", ignore_index=IGNORED),
    "smp SoftCrossEntropyLoss": smooth,
    "smp SoftBCEWithLogitsLoss": lambda x, y: binary(x[:, 0], torch.where(y == IGNORED, y, (y > 0).long()).float()),
    "kornia dice_loss": lambda x, y: dice_loss(x, y, ignore_index=IGNORED),
    "kornia focal_loss": lambda x, y: focal_loss(x, y, alpha=0.5, reduction="mean", ignore_index=IGNORED),
}
for name, loss in asked.items():
    values = [loss(logits[..., :width], labels[..., :width]).item() for width in (8, 16, 32)]
    print(f"{name:31}", *(f"{value / values[0]:.2f}" for value in values))
try:
    losses.SoftCrossEntropyLoss(ignore_index=IGNORED)(logits, labels)
    told = "a value"
except TypeError as error:
    told = type(error).__name__
print("smp SoftCrossEntropyLoss(), as it is by default:", told)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
