#!/usr/bin/env bash
# datumaro 1.13.12: a COCO export of YOLO, VOC or KITTI boxes gives several objects one id, and readers swap or lose objects.
#
# Seen: three photos of two boxes each are exported to COCO. The ids of the six objects are 1 1 2 1 3 1: each photo's own numbers, 0
# and 1, are kept, but for 0, which gets a next one. pycocotools 2.0.11 looks objects up by id, and so do loaders built on it
# (torchvision's CocoDetection): photo a shows the dog of photo c twice and its cat is gone. datumaro itself reads the file well.
# Nothing is said. Objects read from CVAT or Open Images are numbered well.
# Why it matters: the file looks right, every photo has two objects, and a detector is trained on wrong ones.
# What to do: export with reindex=True, or number the annotations anew before the file is used.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(datumaro==1.13.12 pycocotools==2.0.11 pillow numpy==2.2.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
VOC to COCO: ids [1, 1, 2, 1, 3, 1]
  a.jpg: dog of c, dog of c
  b.jpg: cat of b, dog of c
  c.jpg: cat of c, dog of c
YOLO to COCO: ids [1, 1, 2, 1, 3, 1]
  a.jpg: dog of c, dog of c
  b.jpg: cat of b, dog of c
  c.jpg: cat of c, dog of c
VOC to COCO, reindex: ids [1, 2, 3, 4, 5, 6]
  a.jpg: cat of a, dog of a
  b.jpg: cat of b, dog of b
  c.jpg: cat of c, dog of c
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/said" <<'PYTHON' || { cat "$folder/said" >&2; exit 1; }
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

from datumaro import Dataset
from PIL import Image
from pycocotools.coco import COCO

SIDE = 100
CATS = {"a": (10, 10, 40, 40), "b": (50, 50, 90, 90), "c": (0, 60, 30, 100)}
DOG = (60, 5, 80, 25)


def voc(root):
    """Three photos, each with a cat somewhere and a dog at one place."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(CATS))
    for photo, cat in CATS.items():
        Image.new("RGB", (SIDE, SIDE)).save(root / f"JPEGImages/{photo}.jpg")
        objects = ""
        for name, box in (("cat", cat), ("dog", DOG)):
            sides = "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            objects += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        (root / f"Annotations/{photo}.xml").write_text(
            f"<annotation><filename>{photo}.jpg</filename>{size}{objects}</annotation>"
        )


def exported(dataset, name, **options):
    dataset.export(name, "coco_instances", save_media=True, **options)
    return Path(name, "annotations/instances_train.json")


def say(title, file):
    print(f"{title}: ids {[each['id'] for each in json.loads(file.read_text())['annotations']]}")
    with redirect_stdout(io.StringIO()):
        coco = COCO(file)
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        objects = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        seen = [f"{coco.cats[each['category_id']]['name']} of {'abc'[each['image_id'] - 1]}" for each in objects]
        print(f"  {image['file_name']}: {', '.join(seen)}")


voc(Path("voc"))
boxes = Dataset.import_from("voc", "voc_detection")
say("VOC to COCO", exported(boxes, "plain"))
boxes.export("yolo", "yolo", save_media=True)
say("YOLO to COCO", exported(Dataset.import_from("yolo", "yolo"), "from_yolo"))
say("VOC to COCO, reindex", exported(boxes, "anew", reindex=True))
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
