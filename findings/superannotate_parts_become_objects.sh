#!/usr/bin/env bash
# superannotate 4.6.2: an object of several polygons becomes several objects when COCO is imported, and stays so.
#
# Seen: two photos, in each a cat that a post divides into two polygons. `import_annotation` to its own format makes two cats of each, without
# a common group: it looks for polygons of one object by ids that occur more than once in the file, which a valid file has not. `export_annotation`
# gives four annotations for two. Judged by pycocotools, predictions that are the truth score 1.00 by the file that was imported, and 0.25
# by the one that came back; the larger half alone is not half of the union.
# Why it matters: behind every post, rail or branch an object is counted twice and learnt as two. Its own export joins polygons of one `groupId`.
# What to do: set the same `groupId` on the polygons of one object after the import, or merge them before it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(superannotate==4.6.2 pycocotools==2.0.11 opencv-python-headless==4.14.0.94 pillow==12.3.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
imported, first.png: [('cat', 0), ('cat', 0)]
imported, second.png: [('cat', 0), ('cat', 0)]
given: 2 objects; truth as prediction 1.00
exported: object 1 of photo 1, 1 polygons, object 2 of photo 1, 1 polygons, object 3 of photo 2, 1 polygons, object 4 of photo 2, 1 polygons; truth as prediction 0.20
exported with groups: object 1 of photo 1, 2 polygons, object 2 of photo 2, 2 polygons; truth as prediction 1.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from superannotate import export_annotation, import_annotation

WIDTH, HEIGHT = 100, 80
PHOTOS = {1: "first.png", 2: "second.png"}
CAT = (10, 10, 34, 50), (42, 10, 90, 50)  # left, top, right, bottom of each part


def corners(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def precision(path, objects):
    """The mean precision of predictions that are the objects themselves."""
    with redirect_stdout(StringIO()):
        truth = COCO(str(path))
        sure = [{"image_id": a["image_id"], "category_id": 1, "segmentation": truth.annToRLE(a), "score": 0.9} for a in objects]
        judge = COCOeval(truth, truth.loadRes(sure), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0]


Path("given").mkdir()
annotations = []
for photo in PHOTOS:
    shape = {"segmentation": [corners(*part) for part in CAT], "bbox": [10, 10, 80, 40], "area": 72 * 40}
    annotations.append({"id": photo, "image_id": photo, "category_id": 1, "iscrowd": 0, **shape})
images = [{"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for id, name in PHOTOS.items()]
content = {"images": images, "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}], "annotations": annotations}
Path("given/set.json").write_text(json.dumps(content))

import_annotation("given", "own", "COCO", "set", "Vector", "instance_segmentation")
for name in PHOTOS.values():
    Image.new("RGB", (WIDTH, HEIGHT)).save(f"own/{name}")
    own = json.loads(Path(f"own/{name}.json").read_text())
    print(f"imported, {name}: {[(i['className'], i.get('groupId', 0)) for i in own['instances']]}")


# What the server adds when it takes these files: the number of the class, and of no group.
classes = json.loads(Path("own/classes/classes.json").read_text())
Path("own/classes/classes.json").write_text(json.dumps([known | {"id": 1} for known in classes]))


def exported(title, groups):
    for name in PHOTOS.values():
        path = Path(f"own/{name}.json")
        own = json.loads(path.read_text())
        own["instances"] = [i | {"classId": 1, "groupId": group} for i, group in zip(own["instances"], groups, strict=True)]
        path.write_text(json.dumps(own))
    export_annotation("own", title, "COCO", "set", "Vector", "instance_segmentation")
    written = json.loads(Path(f"{title}/set.json").read_text())
    told = ", ".join(f"object {a['id']} of photo {a['image_id']}, {len(a['segmentation'])} polygons" for a in written["annotations"])
    print(f"{title}: {told}; truth as prediction {precision(f'{title}/set.json', annotations):.2f}")


print(f"given: {len(annotations)} objects; truth as prediction {precision('given/set.json', annotations):.2f}")
exported("exported", [0, 0])
exported("exported with groups", [1, 1])
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
