"""Instances files of COCO and LVIS as they really are: odd shapes and records are left out and named, the rest is read."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import miniatures
from shotseg.cli import main
from shotseg.data.preparation import prepare
from shotseg.data.sets.coco_masks import decode, polygon
from shotseg.errors import InputError
from test_prepare_odd import left_out


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))  # NaN and infinity as Python, and many tools, write them


SQUARE = [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]
ODD = {  # a segmentation, and what is said of it
    "absent": (..., "no segmentation"),
    "null": (None, "no segmentation"),
    "empty": ([], "no segmentation"),
    "text": ("a", "no segmentation"),
    "seven numbers": ([SQUARE[:7]], "a polygon of 7 numbers"),
    "two points": ([SQUARE[:4]], "a polygon of 4 numbers"),
    "flat": (SQUARE, "a polygon of 1 numbers"),
    "words": ([["a", "b"]], "a polygon that is no list of numbers"),
    "NaN": ([[float("nan"), *SQUARE[1:]]], "coordinates that are not numbers"),
    "infinite": ([[float("inf"), *SQUARE[1:]]], "coordinates that are not numbers"),
    "null among numbers": ([[None, *SQUARE[1:]]], "coordinates that are not numbers"),
    "far": ([[1e12, *SQUARE[1:]]], "coordinates far outside the image of 80 x 60"),
    "very far": ([[1e300] * 8], "coordinates far outside the image of 80 x 60"),
    "short runs": ({"counts": [5, 5], "size": [60, 80]}, "run lengths of 10 pixels"),
    "runs of another size": ({"counts": [4800], "size": [80, 60]}, "run lengths of a mask of size [80, 60]"),
    "negative runs": ({"counts": [-10, 4810], "size": [60, 80]}, "not whole numbers"),
    "NaN runs": ({"counts": [float("nan")], "size": [60, 80]}, "not whole numbers"),
    "no runs": ({"size": [60, 80]}, "run lengths that are"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_shape_of_lvis_is_left_out_and_named_while_the_others_stay(tmp_path, name):
    root = miniatures.lvis(tmp_path)
    shape, said = ODD[name]

    def change(content):
        one = content["annotations"][3]  # the second of category 2 in the first photo
        one.pop("segmentation") if shape is ... else one.update(segmentation=shape)

    edit(root / "lvis_v1_val.json", change)
    start = time.process_time()
    manifest = prepare("lvis92i", root, quiet=True)
    assert time.process_time() - start < 20
    assert {each["id"] for each in manifest.facts["left_out"]} == {"annotation 4"}
    assert "lvis_v1_val.json: annotation 4: " in left_out(manifest)["annotation 4"]
    assert said in left_out(manifest)["annotation 4"]
    pixels = {p.mask: p.pixels for p in manifest.photos}
    assert (
        len(pixels) == 60
        and pixels["masks/2/000000000001.png"] == {2: 100}
        and pixels["masks/3/000000000001.png"] == {3: 200}
    )


@pytest.mark.parametrize("name", ODD)
def test_an_odd_object_of_coco_is_left_out_and_its_photo_is_painted_without_it(tmp_path, name):
    root = miniatures.coco(tmp_path)
    shape, said = ODD[name]

    def change(content):
        one = content["annotations"][0]  # the small object of the first photo
        one.pop("segmentation") if shape is ... else one.update(segmentation=shape)

    edit(root / "annotations/instances_val2014.json", change)
    manifest = prepare("coco20i", root, quiet=True)
    assert list(left_out(manifest)) == ["annotation 1"] and said in left_out(manifest)["annotation 1"]
    photo = next(p for p in manifest.photos if p.id == "COCO_val2014_000000001001")
    assert set(photo.pixels) == {1}


def test_a_bad_polygon_takes_no_good_one_of_its_object_along(tmp_path):
    root = miniatures.lvis(tmp_path)
    edit(root / "lvis_v1_val.json", lambda c: c["annotations"][3]["segmentation"].append([1, 2, 3]))
    manifest = prepare("lvis92i", root, quiet=True)
    assert "a polygon of 3 numbers" in left_out(manifest)["annotation 4"]
    assert {tuple(p.pixels.values()) for p in manifest.photos} == {(200,)}


def test_records_that_do_not_fit_are_left_out_and_named(tmp_path):
    root = miniatures.coco(tmp_path)

    def change(content):
        first, second, third, fourth, fifth, sixth = content["annotations"][:6]
        first["image_id"] = 77777
        second["category_id"] = 95
        del third["category_id"]
        fourth["id"] = "four"
        del fifth["area"], sixth["iscrowd"]
        content["annotations"].append("no annotation")
        content["images"][9]["height"] = None
        content["images"][10]["width"] = 80.0
        del content["images"][11]["file_name"]

    edit(root / "annotations/instances_val2014.json", change)
    manifest = prepare("coco20i", root, quiet=True)
    found = left_out(manifest)
    assert "of photo 77777, which is not in the file" in found["annotation 1"]
    assert "of category 95, which the data set does not have" in found["annotation 2"]
    assert "no category_id" in found["annotation 3"] and "its id is no number" in found["annotation four"]
    assert "annotation without id" in found and "photo 1010" in found
    assert "photo 1012: no " in found["photo 1012"] and len(found) == 7
    assert len(manifest.photos) == 320 - 3  # the first has lost all three objects, two have no size or name


def test_lvis_0_5_names_its_photos_as_coco_2014_did(tmp_path):
    root = miniatures.lvis(tmp_path)

    def change(content):
        for image in content["images"]:
            image["file_name"] = f"COCO_val2014_{Path(image.pop('coco_url')).name}"

    edit(root / "lvis_v1_val.json", change)
    first = prepare("lvis92i", root, tmp_path / "first", quiet=True)
    assert len(first.photos) == 60 and {p.image for p in first.photos} == {
        "val2017/000000000001.jpg", "val2017/000000000002.jpg", "train2017/000000000003.jpg"
    }  # fmt: skip
    (root / "lvis_v1_val.json").rename(root / "lvis_v0.5_val.json")
    manifest = prepare("lvis92i", root, quiet=True)
    assert manifest.photos == first.photos and manifest.folds == first.folds
    assert any("LVIS v0.5" in warning for warning in manifest.facts["warnings"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": 1, "annotations": [], "categories": []}', "[" * 99999])
def test_a_file_of_another_kind_is_one_line(tmp_path, content):
    root = miniatures.lvis(tmp_path)
    (root / "lvis_v1_val.json").write_text(content)
    with pytest.raises(InputError, match=r"lvis_v1_val\.json: not an instances file") as error:
        prepare("lvis92i", root, quiet=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in ODD if name != "absent"])
def test_decode_refuses_what_is_no_shape_and_never_grows(name):
    with pytest.raises(ValueError):
        decode(ODD[name][0], 60, 80)


def test_a_polygon_that_leaves_the_image_is_still_drawn():
    points = np.array([[-100.0, -100], [300, -100], [300, 300], [-100, 300]])
    assert polygon(points, 60, 80).all()
    assert not polygon(points + 1000, 60, 80).any()


def test_a_share_of_annotations_is_of_the_annotations_and_not_of_the_photos(tmp_path):
    root = miniatures.coco(tmp_path)
    lose = lambda share: lambda c: [a.pop("segmentation", 0) for a in c["annotations"][: int(share * 480)]]  # noqa: E731
    for part in ("train", "val"):
        edit(root / f"annotations/instances_{part}2014.json", lose(0.4))  # 384 of 960 annotations and 322 photos
    assert len(prepare("coco20i", root, quiet=True).facts["left_out"]) == 384
    for part in ("train", "val"):
        edit(root / f"annotations/instances_{part}2014.json", lose(0.5))
    with pytest.raises(InputError, match=r"480 of 1282 photos, masks or annotations cannot be used, more than 33%"):
        prepare("coco20i", root, quiet=True)


def test_many_that_are_left_out_are_counted_beyond_the_first(tmp_path, capsys):
    root = miniatures.coco(tmp_path)
    edit(
        root / "annotations/instances_val2014.json", lambda c: [a.pop("segmentation") for a in c["annotations"][:60:2]]
    )
    assert main(["prepare", "coco20i", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.count("left out: annotation") == 20 and "left out: 10 more" in said
