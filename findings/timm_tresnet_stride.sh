#!/usr/bin/env bash
# timm 1.0.31: `feature_info` of a TResNet announces reduction 2 for its first map. The map has stride 4, as has the second.
#
# Seen: a photo of 64 x 64 gives 16 x 16 in both, where 32 x 32 was announced. The stem is a space-to-depth by 4.
# Why it matters: what scales boxes or masks by the announced reduction, or upsamples by 2 between the two levels, is off by a
# factor of 2. What to do: take the stride from the shape of a map. `features_only=True` starts at the second map and is right.
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
map 0: announced stride 2, real stride 4
map 1: announced stride 4, real stride 4
map 2: announced stride 8, real stride 8
map 3: announced stride 16, real stride 16
map 4: announced stride 32, real stride 32
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import timm
import torch

torch.set_num_threads(1)
SIDE = 64
model = timm.create_model("tresnet_m", pretrained=False).eval()
with torch.no_grad():
    maps = model.forward_intermediates(torch.zeros(1, 3, SIDE, SIDE), intermediates_only=True)
for level, (announced, features) in enumerate(zip(model.feature_info, maps, strict=True)):
    print(f"map {level}: announced stride {announced['reduction']}, real stride {SIDE // features.shape[-1]}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
