#!/usr/bin/env bash
# transformers 5.24.0: instance masks of MaskFormer and Mask2Former are decided before they are resized, Mask2Former's at 384 x 384.
#
# Seen: a photo of 2048 x 2048, a slanted bar in it, and a network's answer of 512 x 512 logits that is exact: resized to the photo it
# agrees with the truth to 0.99. `post_process_instance_segmentation` takes the sign of the logits first and repeats pixels by nearest:
# blocks of 4 pixels with MaskFormer. Mask2Former makes the logits 384 x 384 before, whatever their size: blocks of 5 and 6. A bar of 6
# pixels keeps an IoU of 0.74 and 0.63. Semantic maps are resized as logits, Mask2Former's from the same 384 x 384.
# Why it matters: it runs, in the size asked for; a larger input costs time and memory that never reach the mask, and thin or small
# objects are judged worse than the network found them.
# What to do: resize `masks_queries_logits` to the photo's size, and only then decide.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
bar of 24 pixels: the answer resized to the photo, IoU 0.99
  MaskFormerImageProcessor: IoU 0.92
  Mask2FormerImageProcessor: IoU 0.90
bar of 12 pixels: the answer resized to the photo, IoU 0.99
  MaskFormerImageProcessor: IoU 0.86
  Mask2FormerImageProcessor: IoU 0.81
bar of 6 pixels: the answer resized to the photo, IoU 0.99
  MaskFormerImageProcessor: IoU 0.74
  Mask2FormerImageProcessor: IoU 0.63
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
from types import SimpleNamespace

import torch
from torch.nn.functional import interpolate
from transformers import Mask2FormerImageProcessor, MaskFormerImageProcessor

PHOTO, ANSWER = 2048, 512
ROWS, COLUMNS = torch.meshgrid(torch.arange(PHOTO), torch.arange(PHOTO), indexing="ij")
CLASSES = torch.tensor([[[-10.0, 10.0, -10.0]]])  # sure of class 1; the last is "no object"


def bar(width):
    """A slanted bar as logits at the photo's size: the distance to its border."""
    across = (COLUMNS - PHOTO / 2) * 0.8 + (ROWS - PHOTO / 2) * 0.6
    return (width / 2 - across.abs())[None, None]


def iou(mask, truth):
    return ((mask & truth).sum() / (mask | truth).sum()).item()


for width in (24, 12, 6):
    truth = bar(width)[0, 0] > 0
    answer = interpolate(bar(width), (ANSWER, ANSWER), mode="area")
    outputs = SimpleNamespace(class_queries_logits=CLASSES, masks_queries_logits=answer)
    resized = interpolate(answer, (PHOTO, PHOTO), mode="bilinear")[0, 0] > 0
    print(f"bar of {width} pixels: the answer resized to the photo, IoU {iou(resized, truth):.2f}")
    for processor in (MaskFormerImageProcessor, Mask2FormerImageProcessor):
        (result,) = processor().post_process_instance_segmentation(outputs, target_sizes=[(PHOTO, PHOTO)])
        print(f"  {processor.__name__}: IoU {iou(result['segmentation'] == 0, truth):.2f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
