#!/usr/bin/env bash
# timm 1.0.31: `forward_intermediates` of ViTs behind a convolutional stem returns maps of a wrong channel count when the sides
# are no multiple of the stride, with `dynamic_img_size=True` and without an error.
#
# Seen: ViTamin-S has 384 channels. At 72 x 72 it has 5 x 5 tokens, since its stem rounds up, but the map is made for 4 x 4, since
# the size is worked out by rounding down. The tokens are reshaped to what fits: 384 * 25 / 16 = 600 channels, values of
# different tokens mixed. The hybrid vit_tiny_r_s16_p8 does the same at 63 x 63. A plain ViT refuses such sides.
# Why it matters: the values are wrong without a word; a head that is told its width fails later, a cosine does not fail at all.
# What to do: resize to a multiple of the stride. `dynamic_img_pad=True` is no help for ViTamin.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torch==2.14.1 torchvision==0.29.1 timm==1.0.31)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
vit_tiny_patch16_224 at 64: width 192, map 192 x 4 x 4
vitamin_small_224 at 64: width 384, map 384 x 4 x 4
vitamin_small_224 at 72: width 384, map 600 x 4 x 4
vit_tiny_r_s16_p8_224 at 64: width 192, map 192 x 2 x 2
vit_tiny_r_s16_p8_224 at 63: width 192, map 768 x 1 x 1
vitamin_small_224 at 72, padded: width 384, map 600 x 4 x 4
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import timm
import torch

torch.set_num_threads(1)


def show(name, side, **options):
    model = timm.create_model(name, pretrained=False, dynamic_img_size=True, **options).eval()
    with torch.no_grad():
        last = model.forward_intermediates(torch.randn(1, 3, side, side), intermediates_only=True)[-1]
    shape = " x ".join(str(length) for length in last.shape[1:])
    print(f"{name} at {side}{', padded' if options else ''}: width {model.embed_dim}, map {shape}")


for name, side in (
    ("vit_tiny_patch16_224", 64),
    ("vitamin_small_224", 64),
    ("vitamin_small_224", 72),
    ("vit_tiny_r_s16_p8_224", 64),
    ("vit_tiny_r_s16_p8_224", 63),
):
    show(name, side)
show("vitamin_small_224", 72, dynamic_img_pad=True)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
