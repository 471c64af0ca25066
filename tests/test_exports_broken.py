"""Exports of labelling platforms that hold what does not belong there."""

import contextlib
import json
import re
import warnings

import pytest

from annotated import SQUARE, instances, photos
from shotseg.data.annotations import read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import ShotsegError
from test_exports_of_platforms import CAT, SHAPES, annotation, bitmap, darwin, of_via, points, runs
from test_geojson import box, feature, store
from test_panoptic import stored


def broken_copies(content):
    """The content of a file with each of its values replaced by what does not belong there."""
    text = json.dumps(content)
    for value in ("null", "-1", "NaN", '"x"', "[]", "[[1]]", "{}", "1e30"):
        for place in re.finditer(r'(?<=: )("[^"]*"|[-\d.]+|\[[^\[\]]*\]|\{[^{}]*\})', text):
            yield text[: place.start()] + value + text[place.end() :]


def test_whatever_does_not_belong_into_a_file_is_one_line(tmp_path):
    square = [{"x": x, "y": y} for x, y in ((60, 20), (78, 20), (78, 34))]
    layer = {"dense_rle": [0, 4000, 3, 800], "mask_annotation_ids_mapping": {"x": 3}, "total_pixels": 4800}
    photos(tmp_path, "a.jpg")
    annotation(tmp_path, "a.jpg", bitmap("cat", CAT, 0, 0), points("dog", "polygon", [[1, 1], [9, 1], [9, 9]]))
    darwin(
        tmp_path / "d.json",
        {"id": "x", "name": "cat", "mask": {}},
        {"id": "z", "name": "layer", "raster_layer": layer},
        {"id": "p", "name": "ant", "polygon": {"paths": [square]}},
        {"id": "e", "name": "ant", "ellipse": {"center": square[0], "radius": square[1], "angle": 0.1}},
    )
    drawn = [{"segmentation": {"size": [60, 80], "counts": [0, 9, 4791]}, "stability_score": 1}]
    image = {"file_name": "a.jpg", "width": 80, "height": 60}
    (tmp_path / "s.json").write_text(json.dumps({"image": image, "annotations": drawn}))
    (tmp_path / "v.json").write_text(json.dumps(of_via([shape for shape, _ in SHAPES])))
    store(
        tmp_path / "a.geojson", feature("MultiPolygon", [[box(1, 1, 9, 9)]], classification={"name": "cat"}), crs=None
    )
    stored(tmp_path, "b")
    files = {"supervisely": "ann/a.jpg.json", "darwin": "d.json", "sa1b": "s.json", "via": "v.json"}
    files |= {"geojson": "a.geojson", "panoptic": "panoptic_val.json"}
    for kind, name in files.items():
        for text in broken_copies(json.loads((tmp_path / name).read_text())):
            (tmp_path / name).write_text(text)
            with warnings.catch_warnings(), contextlib.suppress(ShotsegError):
                warnings.simplefilter("ignore")
                list(read(kind, tmp_path / name)[1])


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    photos(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text(f"ImageId,EncodedPixels\na.jpg,{runs(CAT)}\n{'x' * 300},1 2\n")
    with pytest.warns(match="1 rows without a photo left out"):
        assert len(open_folder(tmp_path)) == 1
    rows = [{"id": i, "file_name": name, "height": 60, "width": 80} for i, name in ((1, "a.jpg"), (2, "x" * 300))]
    photos(instances(tmp_path / "coco", [{"segmentation": SQUARE}], rows), "a.jpg")
    with pytest.warns(match="no file has so long a name"):
        assert len(open_folder(tmp_path / "coco")) == 1
