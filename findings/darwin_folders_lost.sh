#!/usr/bin/env bash
# darwin-py 3.6.3: photos of one name in two folders become one file in YOLO, VOC and instance-mask exports; the first is lost.
#
# Seen: a data set with a/0.jpg, which shows a cat, and b/0.jpg, which shows a dog. The YOLO, YOLO polygon, VOC and instance mask
# exports hold one file for both. COCO holds two images of the same file name, without their folders. Label maps alone keep the
# folders. Nothing is said.
# Why it matters: cameras number their files anew in every folder. What is left is then learnt for both photos.
# What to do: names that differ in the whole data set, or the export of label maps.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(darwin-py==3.6.3)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
yolo: 0.txt
yolo_segmented: 0.txt
pascalvoc: 0.xml
instance_mask: masks/0_00000.png
semantic_mask_index: masks/a/0.png, masks/b/0.png
in the YOLO file: class 1 of ['cat', 'dog']
coco: 0.jpg, 0.jpg
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from darwin.exporter import export_annotations, get_exporter

FORMATS = {"yolo": "*.txt", "yolo_segmented": "*.txt", "pascalvoc": "*.xml", "instance_mask": "*.png", "semantic_mask_index": "*.png"}


def content(folder, name, side):
    corners = [{"x": 10.0, "y": 10.0}, {"x": side, "y": 10.0}, {"x": side, "y": side}]
    shape = {"polygon": {"paths": [corners]}, "bounding_box": {"x": 10, "y": 10, "w": side - 10, "h": side - 10}}
    drawn = {"id": name, "name": name, "slot_names": ["0"], "properties": [], **shape}
    slot = {"type": "image", "slot_name": "0", "width": 100, "height": 100, "thumbnail_url": ""}
    slot["source_files"] = [{"file_name": "0.jpg", "url": ""}]
    source = {"dataset": {"name": "d", "slug": "d"}, "team": {"name": "t", "slug": "t"}, "item_id": name, "workview_url": ""}
    item = {"name": "0.jpg", "path": f"/{folder}", "source_info": source, "slots": [slot]}
    return {"version": "2.0", "item": item, "annotations": [drawn]}


for folder, name, side in (("a", "cat", 50.0), ("b", "dog", 90.0)):
    Path("darwin", folder).mkdir(parents=True)
    Path("darwin", folder, "0.json").write_text(json.dumps(content(folder, name, side)))
for format, files in FORMATS.items():
    Path(format).mkdir()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        export_annotations(get_exporter(format), [Path("darwin")], Path(format))
    print(f"{format}: {', '.join(sorted(str(file.relative_to(format)) for file in Path(format).rglob(files)))}")
print("in the YOLO file: class", Path("yolo/0.txt").read_text()[0], "of", Path("yolo/darknet.labels").read_text().split())
Path("coco").mkdir()
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    export_annotations(get_exporter("coco"), [Path("darwin")], Path("coco"))
print("coco:", ", ".join(each["file_name"] for each in json.loads(Path("coco/output.json").read_text())["images"]))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
