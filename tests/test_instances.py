"""Objects of one class that touch, kept apart: in masks, in results, in the annotations and label images of a run."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.draw import disk, ellipse

from shotseg.cli.segment import Segment
from shotseg.data.annotations import Labelled, instances, touching, write
from shotseg.errors import LeftOutWarning, UsageError
from shotseg.result import Result


def discs(*apart: int, radius: int = 40) -> np.ndarray:
    mask = np.zeros((120, 600), bool)
    for x in np.cumsum((60, *apart)):
        mask[disk((60, x), radius, shape=mask.shape)] = True
    return mask


def waisted(depth: float) -> np.ndarray:
    """A bar with rounded ends whose thickness falls by a share of itself in the middle."""
    x = np.arange(300) - 150
    half = 40 * (1 - depth * np.exp(-((x / 30) ** 2))) * (np.abs(x) < 140)
    return np.abs(np.arange(120) - 60)[:, None] < half


def count(mask: np.ndarray) -> int:
    return len(list(touching.objects(mask)))


def test_discs_that_touch_or_overlap_are_apart_and_keep_every_pixel():
    for mask, number in ((discs(79), 2), (discs(60, 70, 62), 4), (discs(25), 1)):
        found = list(touching.objects(mask))
        assert len(found) == number
        drawn = np.zeros(mask.shape, int)
        for part, top, left in found:
            drawn[top : top + part.shape[0], left : left + part.shape[1]] += part
        np.testing.assert_array_equal(drawn, mask)  # each pixel once


def test_one_object_stays_one():
    bar = np.zeros((90, 400), bool)
    bar[ellipse(45, 200, 30, 190)] = True
    limbs = discs()
    limbs[56:64, 60:300] = True
    limbs[disk((60, 300), 8)] = True
    whole = (bar, limbs, waisted(0.2), np.ones((30, 40), bool), np.ones((1, 900), bool), np.eye(50, dtype=bool))
    assert [count(mask) for mask in whole] == [1] * len(whole)
    assert count(waisted(0.5)) == 2 and count(np.zeros((5, 5), bool)) == 0


def test_a_large_photo_is_divided_as_a_small_one_and_fast_enough_to_be_asked_for():
    large = discs(70).repeat(6, 0).repeat(6, 1)
    sizes = [int(part.sum()) for part, _, _ in touching.objects(large)]
    assert len(sizes) == 2 and sum(sizes) == large.sum() and abs(sizes[0] - sizes[1]) < 0.05 * sum(sizes)


def test_coins_of_a_photo_that_were_drawn_into_each_other_are_counted_as_those_of_the_clean_mask():
    coins = ndimage.binary_opening(ndimage.binary_fill_holes(data.coins() > 110), iterations=4)
    grown = ndimage.binary_dilation(coins, iterations=5)
    whole, joined, found = ndimage.label(coins)[1], ndimage.label(grown)[1], count(grown)
    assert joined < whole - 3  # several are one part now
    assert abs(found - whole) <= 1


def test_a_result_numbers_its_objects_over_all_classes():
    labels = np.where(discs(75), 1, 0).astype(np.uint8)
    labels[:, 400:450] = 2
    result = Result(np.zeros((*labels.shape, 3), np.uint8), ("disc", "bar"), labels, {}, present={"disc": 1, "bar": 1})
    found = result.instances()
    assert found.classes == ("disc", "disc", "bar") and found.labels.dtype == np.int32
    assert np.unique(found.labels).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.labels > 0, labels > 0)
    assert (found.labels[labels == 2] == 3).all()


def test_annotations_hold_the_objects_apart_only_where_that_is_asked_for(tmp_path):
    labels = discs(75).astype(np.uint8)
    for asked, number in ((False, 1), (True, 2)):
        write("coco", tmp_path, [Labelled("a.jpg", labels)], ["disc"], instances=asked)
        found = json.loads((tmp_path / "annotations/instances_default.json").read_text())["annotations"]
        assert len(found) == number and sum(a["area"] for a in found) == labels.sum()


def test_a_photo_of_more_objects_than_a_png_holds_is_left_out_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "MOST", 1)
    both = [Labelled("two.jpg", discs(200).astype(np.uint8)), Labelled("one.jpg", discs().astype(np.uint8))]
    with pytest.warns(LeftOutWarning, match="two.jpg: 2 objects, of which a PNG holds 1"):
        instances.write(tmp_path, both, ["disc"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["objects.csv", "one.png"]
    assert (tmp_path / "objects.csv").read_text().splitlines()[1:] == [f"one.jpg,1,disc,{discs().sum()}"]


@pytest.fixture
def balls(tmp_path):
    """Examples of a red ball on grey, and photos of two that touch and of none."""
    for kind in ("images", "masks"):
        (tmp_path / "examples" / kind / "ball").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for path, mask in (
        ("examples/images/ball/a", discs()),
        ("photos/two", discs(79)),
        ("photos/none", discs() & False),
    ):
        pixels = np.where(mask[..., None], (200, 30, 30), (128, 128, 128)).astype(np.uint8)
        Image.fromarray(pixels[:, :300]).save(tmp_path / f"{path}.png")
    Image.fromarray(discs()[:, :300]).convert("L").save(tmp_path / "examples/masks/ball/a.png")
    return tmp_path


def test_a_run_writes_label_images_a_table_and_annotations_of_the_same_objects(balls):
    options = {"query": str(balls / "photos"), "support": balls / "examples", "device": "cpu", "format": "coco"}
    out = balls / "out"
    assert Segment(out=out, instances=True, **options).run() == 0
    rows = list(csv.DictReader((out / "instances/objects.csv").open()))
    two, none = (Image.open(out / "instances" / f"{name}.png") for name in ("two", "none"))
    assert two.mode.startswith("I") and np.asarray(none).max() == sum(row["file"] == "none.png" for row in rows)
    mine = [row for row in rows if row["file"] == "two.png"]
    assert [row["number"] for row in mine] == ["1", "2"] and {row["class"] for row in mine} == {"ball"}
    assert np.bincount(np.asarray(two).ravel())[1:].tolist() == [int(row["area"]) for row in mine]
    found = json.loads((out / "coco/annotations/instances_default.json").read_text())["annotations"]
    assert len(found) == len(rows)
    with pytest.raises(UsageError, match="leave one out"):
        Segment(out=out, instances=True, one_a_class=True, **options).run()
    options["format"] = "mask"
    assert Segment(out=out, instances=True, min_object=10**6, **options).run() == 0
    assert (out / "instances/objects.csv").read_text().count("\n") == 1 and not (out / "coco").exists()
    assert Segment(out=out, **options).run() == 0
    assert not (out / "instances").exists()  # of the run before
