"""A result in a notebook, and as the objects of other libraries."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from shotseg.data.annotations import objects
from shotseg.errors import UsageError
from shotseg.overlay import PALETTE
from shotseg.photo import read_shot
from shotseg.result import Result

CLASSES = ("dog", "<b>", "cat")


def result(size=(60, 80), classes=CLASSES):
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 3, : size[1] // 4] = 1
    labels[-size[0] // 3 :, -size[1] // 4 :] = 1
    labels[size[0] // 2 :, : size[1] // 4] = 3
    maps = {name: np.where(labels == i, np.float32(0.9), np.float32(0.05)) for i, name in enumerate(classes, 1)}
    return Result(np.full((*size, 3), 90, np.uint8), classes, labels, maps)


@pytest.mark.parametrize("size", [(60, 80), (1, 3000), (3000, 1), (1283, 1999), (641, 640)])
def test_a_notebook_gets_a_small_picture_of_a_photo_of_any_size(size):
    with Image.open(io.BytesIO(result(size)._repr_png_())) as picture:
        assert max(picture.size) <= 640 and min(picture.size) >= 1
        assert picture.width / picture.height == pytest.approx(size[1] / size[0], rel=0.02) or min(size) == 1
        if min(size) > 60:
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert all((colours == PALETTE[i]).all(1).any() for i in (1, 3))  # outlines


def test_a_notebook_says_each_class_beside_its_colour():
    page = result()._repr_html_()
    assert "rgb(255, 64, 129)" in page and "&lt;b&gt; not found (5% present)" in page and "<b>" not in page
    assert re.search(r"cat 12\.5%, expected IoU 0\.\d\d", page) and 'alt="Result 80 x 60: dog' in page


def test_detections_hold_the_masks_boxes_and_names():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = result()
    whole, apart = found.to_supervision(), found.to_supervision(apart=True)
    assert whole.data["class_name"].tolist() == ["dog", "cat"] and whole.class_id.tolist() == [0, 2]
    for i, name in enumerate(("dog", "cat")):
        np.testing.assert_array_equal(whole.mask[i], found.masks[name])
        assert whole.confidence[i] == pytest.approx(found.confidences[name])
    assert apart.data["class_name"].tolist() == ["dog", "dog", "cat"]
    np.testing.assert_array_equal(apart.xyxy, supervision.mask_to_xyxy(apart.mask) + np.array([0, 0, 1, 1]))
    assert apart.area.sum() == np.count_nonzero(found.labels)
    drawn = supervision.MaskAnnotator().annotate(found.image.copy(), whole)
    assert (drawn != found.image).any(2)[found.labels > 0].all()
    assert len(result(classes=("nothing",)).to_supervision()) == 1
    empty = Result(found.image, ("dog",), np.zeros((60, 80), np.uint8), {"dog": np.zeros((60, 80), np.float32)})
    assert len(empty.to_supervision()) == 0


def test_labels_of_fiftyone_hold_the_masks_and_are_read_back():
    fiftyone = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    found = result((61, 83))
    sample = fiftyone.Sample(filepath="a.jpg", masks=found.to_fiftyone(apart=True))
    assert [one.label for one in sample.masks.detections] == ["dog", "dog", "cat"]
    for name in ("dog", "cat"):
        np.testing.assert_array_equal(read_shot(found.image, sample.masks, name)[1] == 1, found.masks[name])
        theirs = sample.masks.to_segmentation(frame_size=(83, 61), mask_targets={1: "dog", 3: "cat"})
        np.testing.assert_array_equal(theirs.mask, found.labels)
    np.testing.assert_array_equal(found.to_fiftyone_segmentation().mask, found.labels)


class _Labels:
    """What FiftyOne's module of labels makes, as dicts."""

    Detections = Detection = Segmentation = dict


def test_fiftyone_gets_boxes_in_parts_of_the_photo(monkeypatch):
    monkeypatch.setattr(objects, "_fiftyone", lambda: _Labels)
    found = result()
    first, *_ = found.to_fiftyone(apart=True)["detections"]
    assert first["label"] == "dog" and first["bounding_box"] == [0, 0, 0.25, 1 / 3] and first["mask"].shape == (20, 20)
    assert found.to_fiftyone_segmentation()["mask"] is found.labels


def test_a_library_that_is_missing_is_one_line(monkeypatch):
    for name in ("supervision", "fiftyone"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(UsageError, match=f"pip install {name}"):
            getattr(result(), f"to_{name}")()
