"""COCO panoptic as support, truth and to convert."""

import json

import numpy as np
import pytest
from PIL import Image

from annotated import photos
from shotseg.cli import main
from shotseg.data.annotations import detect, index, read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import InputError

SEGMENTS = {70_000: 7, 300: 7, 5: 2}  # number -> category
CATEGORIES = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]


def ids() -> np.ndarray:
    """Two cats that touch, the sky, and pixels of no segment."""
    found = np.zeros((60, 80), np.int64)
    found[:20] = 5
    found[30:50, 10:30], found[30:50, 30:40] = 70_000, 300
    return found


def stored(root, *names, filler=0):
    """A panoptic file as COCO's: photos, PNGs in a folder named as the file; filler: photos of which nothing is there."""
    photos(root / "photos", *(f"{name}.jpg" for name in names))
    (root / "panoptic_val").mkdir(exist_ok=True)
    colours = np.stack([ids() % 256, ids() // 256 % 256, ids() // 256**2], 2).astype(np.uint8)
    for name in names:
        Image.fromarray(colours).save(root / f"panoptic_val/{name}.png")
    segments = [{"id": id, "category_id": category, "iscrowd": 0} for id, category in SEGMENTS.items()]
    images = [{"id": i, "file_name": f"{n}.jpg", "height": 60, "width": 80} for i, n in enumerate(names)]
    images += [{"id": 1000 + i, "file_name": f"{i:0100d}.jpg", "height": 60, "width": 80} for i in range(filler)]
    rows = [{"image_id": i, "file_name": f"{name}.png", "segments_info": segments} for i, name in enumerate(names)]
    rows += [{"image_id": 1000 + i, "file_name": f"{i}.png", "segments_info": segments} for i in range(filler)]
    content = {"info": {}, "licenses": [], "images": images, "annotations": rows, "categories": CATEGORIES}
    (root / "panoptic_val.json").write_text(json.dumps(content))
    return root


def test_segments_are_classes_and_pixels_of_none_are_ignored(tmp_path):
    root = stored(tmp_path, "a", "b")
    assert detect(root) == detect(root / "panoptic_val.json") == "panoptic"
    classes, results = read("panoptic", root)
    maps = {result.file: result.labels for result in results}
    assert classes == ["sky", "cat"] and sorted(maps) == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal(maps["a.jpg"], np.select([ids() == 5, ids() > 5], [1, 2], 255))
    dataset = open_folder(root)
    assert sorted(item.id for item in dataset.items) == ["cat/a", "cat/b", "sky/a", "sky/b"]
    sample = dataset.sample(next(i for i, item in enumerate(dataset.items) if item.id == "cat/a"))
    np.testing.assert_array_equal(sample.mask, np.select([ids() > 5, ids() == 0], [1, 255], 0))
    assert main(["convert", str(root), "--to", "voc", "--out", str(tmp_path / "voc")]) == 0


def test_a_file_whose_photos_alone_fill_its_beginning_is_told_too(tmp_path):
    root = stored(tmp_path, "a", filler=9000)
    assert (root / "panoptic_val.json").stat().st_size > 2 * 2**20 and detect(root) == "panoptic"


def test_a_photo_may_have_the_name_of_its_png(tmp_path):
    root = stored(tmp_path, "a")
    content = json.loads((root / "panoptic_val.json").read_text())
    content["images"][0]["file_name"] = "a.png"
    (root / "panoptic_val.json").write_text(json.dumps(content))
    Image.open(root / "photos/a.jpg").save(root / "photos/a.png")
    (root / "photos/a.jpg").unlink()
    (photo,) = index("panoptic", root, root / "photos").photos
    assert photo.photo == root / "photos/a.png" and photo.source == root / "panoptic_val/a.png"


def test_what_is_missing_or_broken_is_one_line(tmp_path):
    root = stored(tmp_path, "a", "b")
    content = json.loads((root / "panoptic_val.json").read_text())
    content["annotations"].append({"image_id": 99, "file_name": "c.png", "segments_info": []})
    (root / "panoptic_val.json").write_text(json.dumps(content))
    with pytest.warns(match="1 annotations of photos that it does not list, left out; export it again"):
        assert len(index("panoptic", root).photos) == 2
    (root / "panoptic_val/b.png").unlink()
    with pytest.warns(match=r"1 photos without a PNG of their segments, left out \(b.jpg\)"):
        found = index("panoptic", root)
    assert [photo.file for photo in found.photos] == ["a.jpg"] and found.left_out == 1
    content = json.loads((root / "panoptic_val.json").read_text())
    content["images"][0]["height"] = 10**30
    (root / "panoptic_val.json").write_text(json.dumps(content))
    with pytest.warns(match="photo a.jpg left out .a photo of 80 x"):
        assert index("panoptic", root).left_out == 2
    content["annotations"][0]["segments_info"][0]["category_id"] = 99
    (root / "panoptic_val.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"not COCO panoptic \(a segment of category 99, which it does not name\)"):
        index("panoptic", root)
