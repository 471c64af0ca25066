#!/usr/bin/env bash
# transformers 5.24.0: run lengths that `return_coco_annotation=True` calls COCO are not COCO's, and the first is the background's.
#
# Seen: one object of 2 x 3 pixels in a photo of 384 x 384. MaskFormer and Mask2Former return two lists for it. The second holds starts and
# lengths, counted from 1 along the rows; COCO's lengths alternate between outside and inside, along the columns. The first list is
# the background, where no object is, so that list i is object i - 1 of `segments_info`. The other processors with that argument
# (OneFormer, DETR, Conditional DETR, RF-DETR) hold the same function. SAM's processors give COCO's lengths.
# Why it matters: the lists are numbers like COCO's, and a file made of them is read as other masks, one class late.
# What to do: return binary maps and encode them with pycocotools.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
COCO: [385, 2, 382, 2, 382, 2, 146301], read by pycocotools as the mask: True
MaskFormerImageProcessor: objects 1, lists 2
  [386, 3, 770, 3]: starts and lengths along rows True, COCO's False
  [1, 385, 389, 381, 773, 146684]: of the background True
Mask2FormerImageProcessor: objects 1, lists 2
  [386, 3, 770, 3]: starts and lengths along rows True, COCO's False
  [1, 385, 389, 381, 773, 146684]: of the background True
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import torch
from pycocotools import mask as coco
from transformers import Mask2FormerImageProcessor, MaskFormerImageProcessor

MASK = np.zeros((384, 384), np.uint8)
MASK[1:3, 1:4] = 1
LOGITS = torch.from_numpy(MASK * 20.0 - 10)[None, None].float()  # one query, which is sure of this mask
CLASSES = torch.tensor([[[-10.0, 10.0, -10.0]]])  # and of class 1; the last is "no object"
OUTPUTS = SimpleNamespace(class_queries_logits=CLASSES, masks_queries_logits=LOGITS)


def drawn(starts_and_lengths, order):
    flat = np.zeros(MASK.size, np.uint8)
    for start, length in zip(starts_and_lengths[::2], starts_and_lengths[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = 1
    return flat.reshape(MASK.shape, order=order)


counts = [385, 2, 382, 2, 382, 2, 384 * 384 - 1155]  # by COCO's rule, from the mask
of_coco = coco.decode(coco.frPyObjects({"size": list(MASK.shape), "counts": counts}, *MASK.shape))
print(f"COCO: {counts}, read by pycocotools as the mask: {np.array_equal(of_coco, MASK)}")
for processor in (MaskFormerImageProcessor, Mask2FormerImageProcessor):
    (result,) = processor().post_process_instance_segmentation(
        OUTPUTS, target_sizes=[MASK.shape], return_coco_annotation=True
    )
    background, mask = result["segmentation"]
    print(f"{processor.__name__}: objects {len(result['segments_info'])}, lists {len(result['segmentation'])}")
    print(f"  {mask}: starts and lengths along rows {np.array_equal(drawn(mask, 'C'), MASK)}, COCO's {mask == counts}")
    print(f"  {background}: of the background {np.array_equal(drawn(background, 'C'), 1 - MASK)}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
