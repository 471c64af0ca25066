#!/usr/bin/env bash
# label-studio-sdk 2.0.19: a photo labelled by brush comes out of the COCO and YOLO exports as a photo without objects.
#
# Seen: a project with a brush and a polygon tool is offered COCO and YOLO. Of its two photos one has a brush mask, the other a
# polygon. Both photos are exported, the mask is not: COCO lists the photo without annotations, YOLO gives it an empty label file.
# The only sign is a line on the log, "Unknown label type or labels are empty {task_id=}", with its braces unfilled.
# A project with a brush alone is not offered the two formats; one that has both tools gets no such hint.
# Why it matters: to YOLO training an empty label file is a photo of background, so the labelled objects teach their absence.
# What to do: export JSON, or `BRUSH_TO_COCO`, where brushes are used.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(label-studio-sdk==2.0.19 pillow numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
brush and polygon: COCO offered True, YOLO offered True
brush alone: COCO offered False, YOLO offered False
COCO: brush.png 0 annotations, polygon.png 1 annotations
YOLO: brush.txt 0 lines, polygon.txt 1 lines
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import json
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import mask2rle
from PIL import Image

WIDTH, HEIGHT = 20, 10
BRUSH = '<BrushLabels name="brush" toName="image"><Label value="leaf"/></BrushLabels>'
POLYGON = '<PolygonLabels name="polygon" toName="image"><Label value="leaf"/></PolygonLabels>'


def converter(*tools):
    config = f'<View><Image name="image" value="$image"/>{"".join(tools)}</View>'
    return Converter(config, "project", upload_dir="project/upload", download_resources=True)


def task(number, tool, value):
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    kind = f"{tool}labels"
    result = {"id": tool, "from_name": tool, "to_name": "image", "type": kind, "value": value | {kind: ["leaf"]}} | size
    annotation = {"id": number, "completed_by": 1, "result": [result]}
    return {"id": number, "data": {"image": f"/data/upload/1/{tool}.png"}, "annotations": [annotation]}


mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
mask[2:5, 3:9] = 255
values = {
    "brush": {"format": "rle", "rle": [int(byte) for byte in mask2rle(mask)]},
    "polygon": {"points": [[10, 10], [50, 10], [50, 50]], "closed": True},
}
photos = Path("project/upload/1")
photos.mkdir(parents=True)
for tool in values:
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / f"{tool}.png")
tasks = [task(number, tool, value) for number, (tool, value) in enumerate(values.items(), start=1)]
Path("tasks.json").write_text(json.dumps(tasks))

for name, tools in (("brush and polygon", (BRUSH, POLYGON)), ("brush alone", (BRUSH,))):
    formats = converter(*tools).supported_formats
    print(f"{name}: COCO offered {'COCO' in formats}, YOLO offered {'YOLO' in formats}")

both = converter(BRUSH, POLYGON)
both.convert_to_coco("tasks.json", "coco", is_dir=False)
coco = json.loads(Path("coco/result.json").read_text())
counts = [
    f"{Path(photo['file_name']).name} {sum(a['image_id'] == photo['id'] for a in coco['annotations'])} annotations"
    for photo in coco["images"]
]
print("COCO: " + ", ".join(counts))

both.convert_to_yolo("tasks.json", "yolo", is_dir=False)
labels = sorted(Path("yolo/labels").glob("*.txt"))
print("YOLO: " + ", ".join(f"{file.name} {len(file.read_text().splitlines())} lines" for file in labels))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
