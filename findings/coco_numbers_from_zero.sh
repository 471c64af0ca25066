#!/usr/bin/env bash
# label-studio-sdk 2.1.2, globox 2.9.0: their COCO files number objects from 0, and pycocotools counts object 0 as missed.
#
# Seen: four objects, one a photo, exported to COCO by either library have the ids 0 to 3. Truth taken as its own result then has
# an average precision of 0.56 in pycocotools 2.0.11 and in faster-coco-eval 1.8.0; the same file numbered from 1 has 1.00. A match
# is noted by the object's id, and 0 stands there for "none": object 0 is missed, and its result is a false alarm. Nothing is said.
# Why it matters: of a class with one object of that number the precision is 0; small test sets lose most.
# What to do: number the annotations of such a file from 1 before it is used as ground truth.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(label-studio-sdk==2.1.2 globox==2.9.0 pycocotools==2.0.11 faster-coco-eval==1.8.0 pillow numpy==2.2.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
label-studio-sdk: ids [0, 1, 2, 3]
  pycocotools: 0.56, numbered from 1 1.00
  faster-coco-eval: 0.56, numbered from 1 1.00
globox: ids [0, 1, 2, 3]
  pycocotools: 0.56, numbered from 1 1.00
  faster-coco-eval: 0.56, numbered from 1 1.00
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from globox import Annotation, AnnotationSet, BoundingBox
from label_studio_sdk.converter import Converter
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 100  # so that percent are pixels
PHOTOS = range(4)
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="ship"/></RectangleLabels>
</View>"""
JUDGES = {"pycocotools": (COCO, COCOeval), "faster-coco-eval": (FasterCOCO, COCOeval_faster)}


def label_studio():
    def task(number):
        value = {"x": 10, "y": 20, "width": 30 + number, "height": 40, "rotation": 0, "rectanglelabels": ["ship"]}
        region = {"id": "a", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value}
        region |= {"original_width": SIDE, "original_height": SIDE, "image_rotation": 0}
        annotation = {"id": number + 1, "completed_by": 1, "result": [region]}
        return {"id": number + 1, "data": {"image": f"/data/upload/1/{number}.png"}, "annotations": [annotation]}

    photos = Path("project/upload/1")
    photos.mkdir(parents=True)
    for number in PHOTOS:
        Image.new("RGB", (SIDE, SIDE)).save(photos / f"{number}.png")
    Path("tasks.json").write_text(json.dumps([task(number) for number in PHOTOS]))
    converter = Converter(CONFIG, "project", upload_dir="project/upload", download_resources=True)
    converter.convert_to_coco("tasks.json", "coco", is_dir=False)
    return json.loads(Path("coco/result.json").read_text())


def globox():
    found = AnnotationSet()
    for number in PHOTOS:
        box = BoundingBox(label="ship", xmin=10, ymin=20, xmax=40 + number, ymax=60)
        found.add(Annotation(image_id=f"{number}.png", image_size=(SIDE, SIDE), boxes=[box]))
    found.save_coco(Path("globox.json"), auto_ids=True)
    return json.loads(Path("globox.json").read_text())


def precision(content, judge):
    """Of the file's own boxes, each as a result of score 1."""
    index, evaluation = JUDGES[judge]
    Path("truth.json").write_text(json.dumps(content))
    results = [{key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for each in content["annotations"]]
    with redirect_stdout(io.StringIO()):
        truth = index("truth.json")
        run = evaluation(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0]


for name, content in (("label-studio-sdk", label_studio()), ("globox", globox())):
    print(f"{name}: ids {[each['id'] for each in content['annotations']]}")
    for judge in JUDGES:
        print(f"  {judge}: {precision(content, judge):.2f}", end="")
        later = [each | {"id": each["id"] + 1} for each in content["annotations"]]
        print(f", numbered from 1 {precision(content | {'annotations': later}, judge):.2f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
