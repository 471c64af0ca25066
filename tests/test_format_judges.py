"""The libraries of other tools as judges: they read ours, we read theirs; most are no part of the test environment."""

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from annotated import CLASSES, labelme_file, labels_of, photos, two
from shotseg.data.annotations import Labelled, coco, read, write


def test_labelme_draws_the_same_masks(tmp_path):
    shape = pytest.importorskip("labelme.utils.shape", reason="labelme is not installed")
    shapes = [
        {"label": "cat", "points": [[10.3, 10.8], [30.5, 12], [25, 40.2]], "shape_type": "polygon"},
        {"label": "dog", "points": [[60, 30], [70.5, 30]], "shape_type": "circle"},
        {"label": "dog", "points": [[40, 40.6], [20.2, 50]], "shape_type": "rectangle"},
    ]
    labelme_file(tmp_path / "a.json", *shapes)
    theirs, _ = shape.shapes_to_label((60, 80), shapes, {"cat": 1, "dog": 2})
    np.testing.assert_array_equal(labels_of("labelme", tmp_path)["a"], theirs)
    write("labelme", tmp_path / "ours", [Labelled("a.jpg", two())], CLASSES)
    shapes = json.loads((tmp_path / "ours/a.json").read_text())["shapes"]
    for one in shapes:
        one["mask"] = np.array(Image.open(io.BytesIO(base64.b64decode(one["mask"])))).astype(bool)
    theirs, _ = shape.shapes_to_label((60, 80), shapes, {"cat": 1, "dog": 2})
    np.testing.assert_array_equal(theirs, two())


@pytest.mark.parametrize("format, theirs", [("coco", "coco_instances"), ("voc", "voc_segmentation"), ("cvat", "cvat")])
def test_datumaro_writes_what_we_read_and_reads_what_we_write(format, theirs, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    labels = two()
    names = ["zebra", "ant"]  # datumaro sorts some of its tables
    originals = photos(tmp_path / "p", "a.jpg")
    write(format, tmp_path / "ours", [Labelled("a.jpg", labels, photo=originals / "a.jpg")], names, photos="copy")
    dataset = datumaro.Dataset.import_from(str(tmp_path / "ours"), theirs)
    (item,) = dataset
    for number, name in enumerate(names, start=1):
        index = dataset.categories()[datumaro.AnnotationType.label].find(name)[0]
        found = [a.image for a in item.annotations if a.type == datumaro.AnnotationType.mask and a.label == index]
        np.testing.assert_array_equal(np.any(found, axis=0), labels == number)
    if format == "cvat":
        return  # its own writer knows no masks
    options = {"segmentation_mode": "mask"} if format == "coco" else {}  # it makes outlines of masks otherwise
    dataset.export(str(tmp_path / "theirs"), theirs, save_media=True, **options)
    classes, results = read(format, tmp_path / "theirs")
    (result,) = results
    for number, name in enumerate(names, start=1):
        np.testing.assert_array_equal(result.labels == classes.index(name) + 1, labels == number)


def test_cvat_s_own_package_reads_our_masks_and_we_read_its(tmp_path):
    masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
    write("cvat", tmp_path / "ours", [Labelled("a.jpg", two())], CLASSES)
    tree = ElementTree.parse(tmp_path / "ours/annotations.xml")
    drawn = np.zeros_like(two())
    for mask in tree.iter("mask"):
        left, top, width, height = (int(mask.attrib[side]) for side in ("left", "top", "width", "height"))
        encoded = [int(run) for run in mask.attrib["rle"].split(",")] + [left, top, left + width - 1, top + height - 1]
        found = masks.decode_mask(encoded, image_width=80, image_height=60)
        assert masks.encode_mask(found) == encoded
        drawn[found] = CLASSES.index(mask.attrib["label"]) + 1
    np.testing.assert_array_equal(drawn, two())
    (image,) = tree.iter("image")
    image[:] = []
    for label, name in enumerate(CLASSES, start=1):
        *runs, left, top, right, bottom = masks.encode_mask(two() == label)
        box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
        place = {side: str(value) for side, value in box.items()}
        ElementTree.SubElement(image, "mask", label=name, rle=", ".join(map(str, runs)), z_order="0", **place)
    tree.write(tmp_path / "annotations.xml")
    np.testing.assert_array_equal(labels_of("cvat", tmp_path / "annotations.xml")["a"], two())


def test_label_studio_s_converter_reads_our_tasks(tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    write("labelstudio", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    for region in task["predictions"][0]["result"]:
        found = brush.decode_rle(region["value"]["rle"]).reshape(60, 80, 4)[..., 3] > 0
        np.testing.assert_array_equal(found, two() == CLASSES.index(region["value"]["brushlabels"][0]) + 1)


def test_labelformat_reads_our_coco_polygons(tmp_path):
    formats = pytest.importorskip("labelformat.formats", reason="labelformat is not installed")
    write("coco-polygons", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    reader = formats.COCOInstanceSegmentationInput(input_file=tmp_path / coco.FILE)
    (label,) = reader.get_labels()
    assert [o.category.name for o in label.objects] == ["cat", "dog", "dog"]


def test_every_list_of_formats_names_the_same_ones():
    from inspect import getsource

    from shotseg.cli import convert, segment
    from shotseg.data import reading
    from shotseg.data.annotations import FORMATS, READERS, names

    for text in (getsource(convert.Convert), getsource(segment.Segment)):
        assert not [name for name in FORMATS if f"{name}," not in text]
    assert not [name for name in set(READERS) - {"coco-polygons"} if f"{name}," not in getsource(reading.Reading)]
    assert set(names.NEXT) == set(FORMATS)
