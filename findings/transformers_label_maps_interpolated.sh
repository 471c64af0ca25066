#!/usr/bin/env bash
# transformers 5.24.0: the processors of BEiT, DPT and Sapiens2 interpolate label maps, so that classes appear which no map holds.
#
# Seen: a label map of the classes 0, 1 and 150 with ignored pixels, 255, made smaller by `processor(images, segmentation_maps)`.
# SegFormer and MobileViT resize it by nearest pixels, and the same four values come out. BEiT and DPT take the photo's bicubic, Sapiens2
# the photo's bilinear. So along every border lie values between the two, which are valid numbers of other classes: by bicubic 2, 9,
# 10, 11, 14, 17, 33, 131, 140, 142, 152, 154, 238, 239 and 254.
# Why it matters: nothing raises. With 151 classes the loss takes them for truth, borders are taught as unrelated classes, and ignored
# pixels are taught. With few classes a number that is too large ends the step on the device.
# What to do: resize label maps yourself by nearest pixels, and hand over photos alone; or call the processor with `do_resize=False`.
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
given: 0 1 150 255
SegformerImageProcessor: 0 1 150 255
MobileViTImageProcessor: 0 1 150 255
BeitImageProcessor: 0 1 150 255, and more than ten that were not given
DPTImageProcessor: 0 1 150 255, and more than ten that were not given
Sapiens2ImageProcessor: 0 1 150 255, and more than ten that were not given
BeitImageProcessor, not resized: 0 1 150 255
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import numpy as np
import transformers

SIDE = 96
labels = np.full((SIDE, SIDE), 255, np.uint8)
labels[8:88, 8:88] = 0
labels[20:60, 20:60] = 1
labels[60:80, 30:70] = 150
photo = np.zeros((SIDE, SIDE, 3), np.uint8)
given = set(np.unique(labels).tolist())


def listed(values):
    return " ".join(map(str, sorted(values)))


def told(name, title, **how):
    """The values of the label map after the processor."""
    processor = getattr(transformers, name)(size={"height": SIDE // 2, "width": SIDE // 2}, **how)
    seen = set(np.unique(processor(images=photo, segmentation_maps=labels, return_tensors="np")["labels"]).tolist())
    invented = sorted(seen - given)
    many = "more than ten" if len(invented) > 10 else len(invented)
    print(f"{title}: {listed(seen & given)}" + (f", and {many} that were not given" if invented else ""))


print("given:", listed(given))
told("SegformerImageProcessor", "SegformerImageProcessor")
told("MobileViTImageProcessor", "MobileViTImageProcessor", do_center_crop=False)
for name in ("BeitImageProcessor", "DPTImageProcessor", "Sapiens2ImageProcessor"):
    told(name, name)
told("BeitImageProcessor", "BeitImageProcessor, not resized", do_resize=False)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
