#!/usr/bin/env bash
# transformers 5.24.0: pixels of a label map that are to be ignored become a class of their own, 254, in the processors of
# MaskFormer, Mask2Former and EoMT.
#
# Seen: a label map of background 0, classes 1 and 2, and 255 for pixels of which nothing is known.
# SegFormer with `do_reduce_labels=True` makes 0 and 255 the ignored 255, and 1 and 2 the classes 0 and 1.
# MaskFormer and Mask2Former with `do_reduce_labels=True, ignore_index=255` take one off every value before they leave out 255: what was 255
# is now 254 and gets a mask as a class. Without `do_reduce_labels` they ignore it, as one expects.
# EoMT has no such switch: with `ignore_index=255` alone it takes one off as well, so that the background is left out, every class has
# another number, and 255 is the class 254. Without `ignore_index` 255 is the class 255.
# Why it matters: a class number that the model does not have ends the step on the device, or, with a table of names, teaches the
# unknown pixels as an object. Evaluation by the same processor hides a shift of all classes.
# What to do: set 255 to 0 before MaskFormer with `do_reduce_labels`; for EoMT drop the mask of class 254 yourself, and add 1 to the others.
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
given: 0 on 4000 pixels, 1 on 1600, 2 on 800, 255 on 2816
SegFormer, reduced: 0 on 1600 pixels, 1 on 800, 255 on 6816
MaskFormer, 255 ignored: 0 on 4000 pixels, 1 on 1600, 2 on 800
MaskFormer, 255 ignored and reduced: 0 on 1600 pixels, 1 on 800, 254 on 2816
Mask2Former, 255 ignored and reduced: 0 on 1600 pixels, 1 on 800, 254 on 2816
EoMT, 255 ignored: 0 on 1600 pixels, 1 on 800, 254 on 2816
EoMT: 0 on 4000 pixels, 1 on 1600, 2 on 800, 255 on 2816
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import numpy as np
from transformers import EomtImageProcessor, Mask2FormerImageProcessor, MaskFormerImageProcessor, SegformerImageProcessor

SIDE = 96
labels = np.full((SIDE, SIDE), 255, np.uint8)
labels[8:88, 8:88] = 0
labels[20:60, 20:60] = 1
labels[60:80, 30:70] = 2
photo = np.zeros((SIDE, SIDE, 3), np.uint8)


def told(title, classes):
    counts = [f"{number} on {pixels}" for number, pixels in sorted(classes.items())]
    print(f"{title}: " + ", ".join([f"{counts[0]} pixels", *counts[1:]]))


def of_map(values):
    return {int(v): int((values == v).sum()) for v in np.unique(values)}


def of_masks(kind, **how):
    """The classes of the masks that the processor makes, and the pixels of each."""
    processor = kind(do_resize=False, **how)
    if hasattr(processor, "do_pad"):
        processor.do_pad = False
    made = processor(images=photo, segmentation_maps=labels, return_tensors="pt")
    return {int(n): int(mask.sum()) for n, mask in zip(made["class_labels"][0], made["mask_labels"][0])}


told("given", of_map(labels))
reduced = SegformerImageProcessor(do_resize=False, do_reduce_labels=True)(photo, labels, return_tensors="np")["labels"]
told("SegFormer, reduced", of_map(reduced))
told("MaskFormer, 255 ignored", of_masks(MaskFormerImageProcessor, ignore_index=255))
for name, kind in (("MaskFormer", MaskFormerImageProcessor), ("Mask2Former", Mask2FormerImageProcessor)):
    told(f"{name}, 255 ignored and reduced", of_masks(kind, ignore_index=255, do_reduce_labels=True))
told("EoMT, 255 ignored", of_masks(EomtImageProcessor, ignore_index=255))
told("EoMT", of_masks(EomtImageProcessor))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
