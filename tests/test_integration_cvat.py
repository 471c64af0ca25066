"""The function module of CVAT on real photos, with CVAT's own driver and types as the judge; no server."""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from shotseg.cli.demo import demo_items

driver = pytest.importorskip("cvat_sdk.auto_annotation.driver", reason="cvat-sdk is not installed")
masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
from cvat_sdk import models  # noqa: E402

from shotseg.integrations import cvat  # noqa: E402


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    import shotseg

    segmenter = shotseg.Segmenter(size=160, device="cpu")
    for item in demo_items()[0]:
        segmenter.add(item.class_name, [item.image_path], [item.mask_path])
    path = tmp_path_factory.mktemp("cvat") / "demo.safetensors"
    segmenter.save(path)
    return cvat.create(str(path), device="cpu")


def uploaded(function, monkeypatch, labels=("hair", "dress"), **options):
    """What CVAT's own driver sends to the server for the demo's photos, with the photos."""
    sent = {}
    photos = [Image.open(item.image_path).convert("RGB") for item in demo_items()[1][:3]]
    samples = [
        SimpleNamespace(frame_name=f"{i}.jpg", frame_index=i, media=SimpleNamespace(load_image=lambda p=photo: p))
        for i, photo in enumerate(photos)
    ]
    known = [
        models.Label(name=name, id=40 + i, type="any", attributes=[], sublabels=[]) for i, name in enumerate(labels)
    ]
    monkeypatch.setattr(driver, "TaskDataset", lambda *a, **k: SimpleNamespace(labels=known, samples=samples))
    update = lambda task, labeled_data_request: sent.update(shapes=labeled_data_request.shapes)  # noqa: E731
    client = SimpleNamespace(
        logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=SimpleNamespace(update_annotations=update))
    )
    driver.annotate_task(client, 1, function, clear_existing=True, **options)
    return sent["shapes"], photos


def test_cvat_s_driver_takes_our_masks_and_they_are_the_same_pixels(function, monkeypatch):
    shapes, photos = uploaded(function, monkeypatch)
    assert shapes and {shape.type.value for shape in shapes} == {"mask"}
    for number, photo in enumerate(photos):
        found = function.segmenter.predict(photo)
        for label, name in ((40, "hair"), (41, "dress")):
            drawn = np.zeros(found.size, bool)
            for shape in shapes:
                if shape.frame == number and shape.label_id == label:
                    drawn |= masks.decode_mask(shape.points, image_width=photo.width, image_height=photo.height)
            np.testing.assert_array_equal(drawn, found.masks[name])


def test_polygons_come_where_cvat_asks_for_them(function, monkeypatch):
    shapes, _ = uploaded(function, monkeypatch, conv_mask_to_poly=True)
    assert shapes and {shape.type.value for shape in shapes} == {"polygon"}


def test_the_threshold_of_cvat_leaves_out_doubtful_classes(function, monkeypatch):
    assert not uploaded(function, monkeypatch, conf_threshold=1.0)[0]


def test_labels_match_by_name_and_an_unmatched_one_is_cvat_s_own_error(function, monkeypatch):
    with pytest.raises(driver.BadFunctionError, match="dress"):
        uploaded(function, monkeypatch, labels=("hair",))
    shapes, _ = uploaded(function, monkeypatch, labels=("hair",), allow_unmatched_labels=True)
    assert {shape.label_id for shape in shapes} == {40}


def test_a_folder_of_examples_serves_too_and_one_shape_a_class_is_an_option(monkeypatch, tmp_path):
    examples = tmp_path / "examples"
    for item in demo_items()[0]:
        for kind, path in (("images", item.image_path), ("masks", item.mask_path)):
            (examples / kind / item.class_name).mkdir(parents=True)
            shutil.copy(path, examples / kind / item.class_name)
    function = cvat.create(str(examples), device="cpu", one_a_class=True)
    shapes, _ = uploaded(function, monkeypatch)
    assert len({(shape.frame, shape.label_id) for shape in shapes}) == len(shapes) > 0
