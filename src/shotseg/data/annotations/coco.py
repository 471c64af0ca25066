"""COCO instances: ``annotations/instances_default.json``, one annotation for each connected part of each class.

Run lengths by default: exact, with holes, and small. ``polygons=True`` is for tools that take nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.annotations.labelled import Labelled, malformed, read_json, write_json
from shotseg.data.annotations.outlines import outline, parts
from shotseg.data.sets.coco_masks import decode

FILE = "annotations/instances_default.json"  # the place and name that other tools look for


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str], polygons: bool = False) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for result in results:
        height, width = result.labels.shape
        images.append({"id": len(images) + 1, "file_name": result.file, "width": width, "height": height})
        for label in result.present(len(classes)):
            score = result.scores.get(classes[label - 1])
            for part, top, left in parts(result.labels == label):
                drawn = _polygon(part, top, left) if polygons else _run_lengths(part, top, left, height, width)
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": label,
                    "segmentation": drawn,
                    "area": int(part.sum()),
                    "bbox": [left, top, part.shape[1], part.shape[0]],
                    "iscrowd": 0,
                }
                annotations.append(annotation | ({} if score is None else {"score": round(float(score), 6)}))
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, start=1)]
    write_json(
        out / FILE,
        {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations},
    )


def read(path: Path) -> tuple[list[str], Iterator[Labelled]]:
    """``path``: an instances file, or the folder that :func:`write` wrote. Where parts overlap, the later is seen."""
    path = path / FILE if path.is_dir() else path
    content = read_json(path)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        label_of = {category["id"]: label for label, category in enumerate(categories, start=1)}
        of_image = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        images = [(i["file_name"], i["height"], i["width"], of_image[i["id"]]) for i in content["images"]]
        return [category["name"] for category in categories], _label_maps(path, images, label_of)
    except (KeyError, TypeError) as error:
        raise malformed(path, error, "COCO instances") from error


def _label_maps(path: Path, images: list[tuple[str, int, int, list]], label_of: dict[int, int]) -> Iterator[Labelled]:
    for file, height, width, drawn in images:
        labels = np.zeros((height, width), np.uint8)
        try:
            for annotation in drawn:
                labels[decode(annotation["segmentation"], height, width)] = label_of[annotation["category_id"]]
        except (KeyError, TypeError, ValueError) as error:
            raise malformed(path, error, f"COCO instances of {file}") from error
        yield Labelled(file, labels)


def _polygon(part: np.ndarray, top: int, left: int) -> list[list[float]]:
    return [outline(part, top, left).round(2).ravel().tolist()]


def _run_lengths(part: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths of a part of a height x width image: down the columns, background first."""
    columns, rows = np.nonzero(part.T)
    places = (columns + left) * height + rows + top
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts, ends = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]] + 1
    runs = np.diff(np.r_[0, np.stack([starts, ends], axis=1).ravel(), height * width]).tolist()
    return {"size": [height, width], "counts": compress(runs if runs[-1] else runs[:-1])}


def compress(runs: list[int]) -> str:
    """Run lengths as COCO's string: five bits a character, lowest first.

    From the fourth run on it holds the change since the run two before (maskApi.c, rleToString).
    """
    text = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + 32 * more + 48))
    return "".join(text)
