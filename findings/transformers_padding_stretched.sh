#!/usr/bin/env bash
# transformers 5.24.0: what MaskFormer and Mask2Former predict for a batch of photos of different shapes is stretched, because the
# post-processing does not cut off the padding.
#
# Seen: the processor pads a photo of 480 x 640 and one of 640 x 480 to 640 x 640, at the bottom and on the right, and the network answers
# for the padded square. `post_process_semantic_segmentation(outputs, target_sizes)` resizes that whole answer to 480 x 640. Answers
# that are the padded truth itself, as of a perfect network, agree with it to 0.99 one by one, and to 0.47 together.
# Alone it happens too, on a smaller scale: each side is padded to a multiple of 32, 31 pixels at most.
# Why it matters: nothing raises, the masks have the sizes that were asked for, and the same photo is right when it comes alone. Instance
# and panoptic post-processing resize in the same way.
# What to do: one photo at a time with sides that are multiples of 32; or resize the answers to the padded size, cut each to its own
# resized height and width, and only then resize it to the photo's.
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
MaskFormer, wide alone: seen as 480 x 640, IoU 0.99
MaskFormer, tall alone: seen as 640 x 480, IoU 0.99
MaskFormer, both: seen as 640 x 640, IoU 0.47 and 0.47
MaskFormer, both, cut: IoU 1.00 and 1.00
Mask2Former, wide alone: seen as 480 x 640, IoU 1.00
Mask2Former, tall alone: seen as 640 x 480, IoU 1.00
Mask2Former, both: seen as 640 x 640, IoU 0.47 and 0.47
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Mask2FormerImageProcessor, MaskFormerImageProcessor


def disc(height, width):
    """(height, width) uint8: a disc, off the middle."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 240) ** 2 + (columns - (240 if height > width else 480)) ** 2 < 120**2).astype(np.uint8)


def answered(kind, truths):
    """The processor's own padded truth as what a network answers: a quarter of the size, sure of every pixel."""
    processor = kind(size={"shortest_edge": 480, "longest_edge": 640}, ignore_index=255)
    photos = [np.repeat(truth[..., None] * 200, 3, 2) for truth in truths]
    made = processor(images=photos, segmentation_maps=truths, return_tensors="pt")
    size = made["pixel_values"].shape[-2:]
    quarter = [side // 4 for side in size]
    masks = [F.interpolate((mask * 40 - 20)[None], quarter, mode="bilinear", antialias=True) for mask in made["mask_labels"]]
    classes = torch.eye(3)[:2].repeat(len(truths), 1, 1) * 50
    return processor, SimpleNamespace(masks_queries_logits=torch.cat(masks), class_queries_logits=classes), size


def iou(found, truth):
    return f"{(found & truth).sum() / (found | truth).sum():.2f}"


def told(kind, title, truths):
    processor, outputs, (height, width) = answered(kind, truths)
    found = processor.post_process_semantic_segmentation(outputs, target_sizes=[truth.shape for truth in truths])
    agreement = " and ".join(iou(mask.numpy(), truth) for mask, truth in zip(found, truths))
    print(f"{title}: seen as {height} x {width}, IoU {agreement}")


wide, tall = disc(480, 640), disc(640, 480)
for kind in (MaskFormerImageProcessor, Mask2FormerImageProcessor):
    name = kind.__name__.removesuffix("ImageProcessor")
    told(kind, f"{name}, wide alone", [wide])
    told(kind, f"{name}, tall alone", [tall])
    told(kind, f"{name}, both", [wide, tall])
    if kind is MaskFormerImageProcessor:
        _, outputs, size = answered(kind, [wide, tall])
        grown = F.interpolate(outputs.masks_queries_logits, size, mode="bilinear")
        cut = [answer[:, : t.shape[0], : t.shape[1]].argmax(0).numpy().astype(np.uint8) for answer, t in zip(grown, (wide, tall))]
        print(f"{name}, both, cut: IoU " + " and ".join(iou(*pair) for pair in zip(cut, (wide, tall))))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
