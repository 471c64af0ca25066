#!/usr/bin/env bash
# transformers 5.24.0: MobileViT's and MobileNetV2's processors cut the sides off a photo, and masks of the middle are stretched over it.
#
# Seen: from a photo of 480 x 640 the processor takes the middle square, and a label map is cut in the same way. The network answers for
# that square; `post_process_semantic_segmentation(outputs, target_sizes)` resizes the answer to 480 x 640. Answers that are the cut
# truth itself, as of a perfect network, agree with the truth to 0.66 and 0.43, and an object at the side is in no answer.
# With `do_center_crop=False` and a size of the photo's shape both objects agree to 1.00.
# Why it matters: both are named as processors of segmentation networks, nothing raises, masks have the size asked for, and a score
# counted on the cut label maps does not show it.
# What to do: `do_center_crop=False` and a size for both sides; square photos are not stretched, but lose a margin on every side.
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
MobileViTImageProcessor as it is: seen as (256, 256), object 1 IoU 0.66, object 2 IoU 0.00
MobileViTImageProcessor uncropped: seen as (240, 320), object 1 IoU 1.00, object 2 IoU 1.00
MobileNetV2ImageProcessor as it is: seen as (224, 224), object 1 IoU 0.43, object 2 IoU 0.00
MobileNetV2ImageProcessor uncropped: seen as (240, 320), object 1 IoU 1.00, object 2 IoU 1.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
from types import SimpleNamespace

import numpy as np
from PIL import Image
from torch.nn.functional import one_hot
from transformers import MobileNetV2ImageProcessor, MobileViTImageProcessor

HEIGHT, WIDTH = 480, 640
PHOTO = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[100:380, 400:560] = 1  # right of the middle
TRUTH[200:300, 10:50] = 2  # at the left side


def iou(seen, number):
    mask, truth = seen == number, number == TRUTH
    return (mask & truth).sum() / (mask | truth).sum()


for kind in (MobileViTImageProcessor, MobileNetV2ImageProcessor):
    for title, options in (("as it is", {}), ("uncropped", {"do_center_crop": False, "size": {"height": 240, "width": 320}})):
        processor = kind(**options)
        labels = processor([PHOTO], [Image.fromarray(TRUTH)], return_tensors="pt")["labels"]
        logits = one_hot(labels, 3).movedim(-1, 1).float() * 20
        (seen,) = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), [(HEIGHT, WIDTH)])
        found = ", ".join(f"object {number} IoU {iou(seen.numpy(), number):.2f}" for number in (1, 2))
        print(f"{kind.__name__} {title}: seen as {tuple(labels.shape[1:])}, {found}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
