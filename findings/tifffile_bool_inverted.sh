#!/usr/bin/env bash
# tifffile 2026.3.3, with Pillow 13.0.0, OpenCV 5.0.0 and rasterio 1.4.4: a mask of truth values is stored as "0 is white".
#
# Seen: `imwrite` of a bool array tags one bit a pixel as MINISWHITE, with 1 for True, and no word of it. tifffile does not turn such
# files when it reads them, so its own round trip is whole. Pillow and OpenCV turn them, as the tag asks: object and background change
# places. rasterio gives the bits. The same array as uint8 is the same mask for all of them.
# Why it matters: a mask saved by one library is its opposite in the next, with the right shape, and nothing says so.
# What to do: `imwrite(path, mask.astype("uint8") * 255)`, or `photometric="minisblack"`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(tifffile==2026.3.3 pillow==13.0.0 opencv-python-headless==5.0.0.93 rasterio==1.4.4 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
bool, as it comes: tag MINISWHITE; of 100 pixels tifffile has 100, Pillow 500, OpenCV 500, rasterio 100
bool, minisblack: tag MINISBLACK; of 100 pixels tifffile has 100, Pillow 100, OpenCV 100, rasterio 100
uint8: tag MINISBLACK; of 100 pixels tifffile has 100, Pillow 100, OpenCV 100, rasterio 100
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import cv2
import numpy as np
import rasterio
import tifffile
from PIL import Image

mask = np.zeros((20, 30), bool)
mask[5:15, 10:20] = True


def show(how, array, **options):
    tifffile.imwrite("mask.tif", array, **options)
    with tifffile.TiffFile("mask.tif") as file:
        tag, own = file.pages[0].photometric.name, file.asarray()
    with Image.open("mask.tif") as image:
        pillow = np.array(image)
    with rasterio.open("mask.tif") as file:
        bits = file.read(1)
    read = {"tifffile has": own, "Pillow": pillow, "OpenCV": cv2.imread("mask.tif", cv2.IMREAD_GRAYSCALE), "rasterio": bits}
    found = ", ".join(f"{name} {np.count_nonzero(values)}" for name, values in read.items())
    print(f"{how}: tag {tag}; of {mask.sum()} pixels {found}")


show("bool, as it comes", mask)
show("bool, minisblack", mask, photometric="minisblack")
show("uint8", mask.astype(np.uint8) * 255)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
