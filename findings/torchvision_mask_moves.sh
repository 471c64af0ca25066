#!/usr/bin/env bash
# torchvision 0.29.1: a photo and its mask that one `v2.Resize` makes smaller move apart, by half a pixel of the small size.
#
# Seen: a disc in the middle of 256 x 256 pixels, as a photo and as its mask. By default the photo is resized bilinear and stays where
# it was. The mask takes the first pixel of each block, not the middle one: at 32 x 32 it lies 4 pixels of the original further down
# and right. `interpolation=NEAREST_EXACT` takes the middle one for masks, but then for the photo of the same call as well.
# Why it matters: small objects and thin borders are taught and measured beside where they are; it grows with the factor.
# What to do: resize masks by a call of their own with NEAREST_EXACT, or by Pillow.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torch==2.14.1 torchvision==0.29.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
default, 128: photo 128.0, mask 128.4
default, 64: photo 128.0, mask 129.3
default, 32: photo 128.0, mask 132.0
NEAREST_EXACT, 32: photo 127.3, mask 127.3
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

SIDE = 256
rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
disc = (rows - 127.5) ** 2 + (columns - 127.5) ** 2 < 60**2
photo, mask = tv_tensors.Image(disc[None].float()), tv_tensors.Mask(disc.to(torch.uint8))


def middle(values):
    """The middle row of what is drawn, in pixels of the original."""
    side = values.shape[-1]
    weight = values.reshape(side, side).float().sum(1)
    return float((weight * (torch.arange(side) + 0.5)).sum() / weight.sum()) * SIDE / side


def resized(side, **how):
    small, target = v2.Resize((side, side), **how)(photo, mask)
    return f"photo {middle(small):.1f}, mask {middle(target):.1f}"


for side in (128, 64, 32):
    print(f"default, {side}: {resized(side)}")
exact = {"interpolation": InterpolationMode.NEAREST_EXACT}
print(f"NEAREST_EXACT, 32: {resized(32, **exact)}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
