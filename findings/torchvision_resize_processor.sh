#!/usr/bin/env bash
# torchvision 0.29.1, torch 2.14.1: `resize` of a uint8 photo with antialias gives other bytes on a processor without AVX2.
#
# Seen: photos of random bytes, 400 x 600 to 96 x 144. With the kernels for AVX2 and with the plain ones, which the variable
# ATEN_CPU_CAPABILITY chooses, about a tenth of the bytes differ, by one grey level. The same photo as float32 differs by less
# than 0.001 grey levels.
# Why it matters: photos are resized so before most networks. Stored values and hashes that hold on one machine fail on another,
# and a network behind it amplifies the step. What to do: resize float32, or compare with a tolerance.
# Needs a processor with AVX2.
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
bytes: 5 to 15 % differ, by 1 at most
floats: less than 0.001 apart
STATED

cat >"$folder/resize.py" <<'PYTHON'
import sys

import torch
from torchvision.transforms.v2 import functional as moves

photo = torch.randint(0, 256, (3, 400, 600), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
torch.save([moves.resize(x, [96, 144], antialias=True) for x in (photo, photo.float())], sys.argv[1])
PYTHON
for kernels in default avx2; do
  ATEN_CPU_CAPABILITY=$kernels "$python" -W ignore "$folder/resize.py" "$folder/$kernels.pt"
done

"$python" -W ignore - "$folder" >"$folder/seen" <<'PYTHON'
import sys

import torch

plain, vector = (torch.load(f"{sys.argv[1]}/{kernels}.pt", weights_only=True) for kernels in ("default", "avx2"))
apart = (plain[0].int() - vector[0].int()).abs()
share = 100 * (apart > 0).float().mean().item()
print(f"bytes: {'5 to 15' if 5 < share < 15 else f'{share:.1f}'} % differ, by {apart.max().item()} at most")
floats = (plain[1] - vector[1]).abs().max().item()
print(f"floats: {'less than 0.001' if floats < 0.001 else floats} apart")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
