#!/usr/bin/env bash
# ome-zarr 0.18.0: in a pyramid that write_labels makes, labels lie half a pixel of their level beside the image of write_image.
#
# Seen: columns with their number as value, as an image of float32 and as labels of uint16, both of 256 x 256 and written with the
# defaults. At each coarser level the image holds at its middle the number of the place that the metadata state. The labels hold that
# of a column 0.5, 1.5, 3.5 and 7.5 further on, so whatever they show lies so many pixels of the full image nearer to the origin:
# "nearest" takes the last pixel of each block, while the translation that is written, (step - 1) / 2, is of the block's centre.
# Why it matters: a mask that is shown, measured or trained on at a coarse level of an OME-Zarr file is beside its object.
# What to do: read labels at full size and reduce them yourself, or reckon with the last pixel of each block.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(ome-zarr==0.18.0 zarr==3.1.6 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
level 0: image 0.0, labels 0.0
level 1: image 0.0, labels 0.5
level 2: image 0.0, labels 1.5
level 3: image 0.0, labels 3.5
level 4: image 0.0, labels 7.5
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import numpy as np
import zarr
from ome_zarr.writer import write_image, write_labels

SIDE = 256
columns = np.tile(np.arange(SIDE), (SIDE, 1))
group = zarr.open_group("photo.zarr", mode="w")
write_image(columns.astype(np.float32), group, axes="yx")
write_labels(columns.astype(np.uint16), group, name="mask", axes="yx")


def beyond(where, level):
    """The value at the middle, which far from the borders no smoothing moves, minus the place that is stated for it."""
    array = where[level["path"]]
    column = array.shape[1] // 2
    scale, translation = (each[each["type"]][-1] for each in level["coordinateTransformations"])
    return float(array[array.shape[0] // 2, column]) - (column * scale + translation)


where = group, group["labels/mask"]
levels = zip(*(each.attrs["ome"]["multiscales"][0]["datasets"] for each in where))
for number, pair in enumerate(levels):
    image, labels = (beyond(*each) for each in zip(where, pair))
    print(f"level {number}: image {image:.1f}, labels {labels:.1f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
