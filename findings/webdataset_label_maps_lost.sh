#!/usr/bin/env bash
# webdataset 1.0.2: no image decoder of `decode(...)` keeps a label map that is stored as a palette or as 16 bits.
#
# Seen: the same three class numbers written as PNG three ways, and read by each of the decoders that the library names for pictures.
# With a palette, as VOC and DAVIS store their masks, "pil" and "rgb8" give colours, and "l8" and "pill" the brightness of these
# colours: class 1 comes back as 38, class 2 as 75. Of 16 bits, as instance numbers are stored, all that is above 255 becomes 255, so
# that objects melt into one. Plain 8-bit grey survives in "l8", "pill" and, three times, in "pil" and "rgb8".
# Why it matters: photo and mask of a sample have the same decoder, and nothing raises. Brightness numbers are valid class numbers.
# What to do: leave masks to a handler of your own, `decode(wds.handle_extension("mask.png", lambda b: np.array(Image.open(io.BytesIO(b)))), "pil")`,
# or write them as `.npy`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
written: palette 0 1 2, 16 bits 0 300 600, grey 0 1 2
pil: palette 0 128 of 3 channels, 16 bits 0 255 of 3 channels, grey 0 1 2 of 3 channels
rgb8: palette 0 128 of 3 channels, 16 bits 0 255 of 3 channels, grey 0 1 2 of 3 channels
pill: palette 0 38 75, 16 bits 0 255, grey 0 1 2
l8: palette 0 38 75, 16 bits 0 255, grey 0 1 2
a handler of one's own: palette 0 1 2, 16 bits 0 300 600, grey 0 1 2
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import io

import numpy as np
import webdataset as wds
from PIL import Image

labels = np.zeros((8, 8), np.uint8)
labels[2:5, 2:5] = 1
labels[5:7] = 2
palette = Image.fromarray(labels).convert("P")
palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
maps = {"palette": palette, "16 bits": Image.fromarray(labels.astype(np.uint16) * 300), "grey": Image.fromarray(labels)}


def told(title, arrays):
    parts = []
    for name, array in arrays.items():
        values = " ".join(map(str, np.unique(array)))
        parts.append(f"{name} {values}" + (f" of {array.shape[2]} channels" if array.ndim == 3 else ""))
    print(f"{title}: " + ", ".join(parts))


def read(*handlers):
    samples = wds.WebDataset("maps.tar", shardshuffle=False).decode(*handlers)
    return {sample["__key__"]: np.array(sample["mask.png"]) for sample in samples}


with wds.TarWriter("maps.tar") as tar:
    for name, picture in maps.items():
        stored = io.BytesIO()
        picture.save(stored, "PNG")
        tar.write({"__key__": name, "mask.png": stored.getvalue()})
told("written", {name: np.array(picture) for name, picture in maps.items()})
for decoder in ("pil", "rgb8", "pill", "l8"):
    told(decoder, read(decoder))
own = wds.handle_extension("mask.png", lambda stored: np.array(Image.open(io.BytesIO(stored))))
told("a handler of one's own", read(own, "pil"))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
