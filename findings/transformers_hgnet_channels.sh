#!/usr/bin/env bash
# transformers 5.24.0: the HGNet-V2 backbone announces `channels` that its feature maps do not have.
#
# Seen: with the default configuration 256 channels are announced for stage 1 and 128 come out. With other `stage_out_channels`
# all four are wrong: the announcement is read from `hidden_sizes`, which has its own default, the layers from
# `stage_out_channels`. Nothing compares the two.
# Why it matters: `channels` is what the backbone contract gives to build a decoder with; that decoder fails at its first photo.
# What to do: run one small photo through and take the channels from the maps.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(torch==2.14.1 transformers==5.24.0)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
default: announced [256, 512, 1024, 2048], real [128, 512, 1024, 2048]
narrow: announced [256, 512, 1024, 2048], real [24, 32, 48, 64]
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import torch
from transformers import AutoBackbone, HGNetV2Config

torch.set_num_threads(1)
NARROW = {
    "stem_channels": [3, 8, 16],
    "stage_in_channels": [16, 24, 32, 48],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [24, 32, 48, 64],
}
for name, channels in (("default", {}), ("narrow", NARROW)):
    config = HGNetV2Config(out_features=["stage1", "stage2", "stage3", "stage4"], **channels)
    backbone = AutoBackbone.from_config(config).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 64)).feature_maps
    print(f"{name}: announced {backbone.channels}, real {[features.shape[1] for features in maps]}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
