#!/usr/bin/env bash
# Pillow 13.0.0: an uncompressed TIFF whose Orientation is 5 to 8 has the wrong sides and pixels when it is opened by its path.
#
# Seen: a photo of 3 x 2 with Orientation 6 says that it is 2 x 3, as it should, and is 3 x 2 once it is loaded, its pixels in a
# wrong order. From bytes in memory, or compressed, the same photo is right. Grey, 16-bit grey and RGBA are affected; RGB is not.
# Files opened by a path are mapped into memory with the sides that they have after the turn, and are then turned.
# Why it matters: scanners and cameras write such files; a mask drawn on the right photo does not fit the one that is read.
# What to do: read the file's bytes and open those: `Image.open(io.BytesIO(path.read_bytes()))`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(pillow==13.0.0 numpy==2.4.1)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
L raw, by path: announced (2, 3), loaded (3, 2), rows [[5, 3, 1], [6, 4, 2]]
L raw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
L tiff_lzw, by path: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
L tiff_lzw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
I;16 raw, by path: announced (2, 3), loaded (3, 2), rows [[5, 3, 1], [6, 4, 2]]
I;16 raw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
I;16 tiff_lzw, by path: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
I;16 tiff_lzw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGBA raw, by path: announced (2, 3), loaded (3, 2), rows [[5, 3, 1], [6, 4, 2]]
RGBA raw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGBA tiff_lzw, by path: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGBA tiff_lzw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGB raw, by path: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGB raw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGB tiff_lzw, by path: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
RGB tiff_lzw, from memory: announced (2, 3), loaded (2, 3), rows [[4, 1], [5, 2], [6, 3]]
orientation 1: by path as from memory
orientation 2: by path as from memory
orientation 3: by path as from memory
orientation 4: by path as from memory
orientation 5: by path not as from memory
orientation 6: by path not as from memory
orientation 7: by path not as from memory
orientation 8: by path not as from memory
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import io
from pathlib import Path

import numpy as np
from PIL import Image

VALUES = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)  # two rows of three
MODES = {"L": VALUES, "I;16": VALUES.astype(np.uint16), "RGBA": np.dstack([VALUES] * 4), "RGB": np.dstack([VALUES] * 3)}


def seen(source):
    with Image.open(source) as image:
        announced = image.size
        image.load()
        values = np.asarray(image)
    rows = (values if values.ndim == 2 else values[..., 0]).tolist()
    return f"announced {announced}, loaded {image.size}, rows {rows}"


path = Path("turned.tif")
for mode, values in MODES.items():
    for compression in ("raw", "tiff_lzw"):
        Image.fromarray(values).save(path, tiffinfo={0x0112: 6}, compression=compression)
        print(f"{mode} {compression}, by path: {seen(path)}")
        print(f"{mode} {compression}, from memory: {seen(io.BytesIO(path.read_bytes()))}")
for orientation in range(1, 9):
    Image.fromarray(VALUES).save(path, tiffinfo={0x0112: orientation}, compression="raw")
    same = seen(path) == seen(io.BytesIO(path.read_bytes()))
    print(f"orientation {orientation}: by path {'as' if same else 'not as'} from memory")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
