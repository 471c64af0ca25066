"""Small data sets in the formats of other tools."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.draw import disk

from shotseg.data.annotations import FORMATS as KNOWN
from shotseg.data.annotations import Labelled, read, write

CLASSES = ["cat", "dog"]
FORMATS = [name for name in KNOWN if name != "imagej" or find_spec("roifile")]  # roifile is an extra
TARGETS = [name for name in FORMATS if name != "coco-polygons"]
CLOSE = ("coco-polygons", "yolo")  # outlines: close, not equal


def two() -> np.ndarray:
    """A cat with a hole, and two dogs, one of which touches the border."""
    labels = np.zeros((60, 80), np.uint8)
    labels[disk((30, 30), 20)] = 1
    labels[disk((30, 30), 6)] = 0
    labels[disk((50, 70), 14, shape=labels.shape)] = 2
    labels[5:12, 60:70] = 2
    return labels


def photos(folder: Path, *names: str, size=(80, 60)) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 90, 200)).save(folder / name)
    return folder


def written(tmp_path: Path, format: str) -> Path:
    """A data set in that format, of three photos, one of which shows nothing."""
    originals = photos(tmp_path / "originals", "a.jpg", "deep/b.png", "none.jpg")
    maps = {"a.jpg": two(), "deep/b.png": two()[:, ::-1].copy(), "none.jpg": np.zeros((60, 80), np.uint8)}
    found = [Labelled(file, labels, photo=originals / file) for file, labels in maps.items()]
    write(format, tmp_path / format, found, CLASSES, photos="copy")
    return tmp_path / format


def instances(folder: Path, annotations: list, images=None, categories=None) -> Path:
    images = images or [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}]
    categories = categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for number, annotation in enumerate(annotations):
        annotation.setdefault("id", number)
        annotation.setdefault("image_id", 1)
        annotation.setdefault("category_id", 1)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def labels_of(format: str, path: Path) -> dict[str, np.ndarray]:
    return {result.stem: result.labels for result in read(format, path)[1]}


def labelme_file(path: Path, *shapes: dict, **more) -> None:
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": "a.jpg", "imageHeight": 60, "imageWidth": 80}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **more}))


class Blobs:
    """Many small photos, made one at a time."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        labels = two()
        for number in range(self.count):
            yield Labelled(f"{number}.jpg", labels)
