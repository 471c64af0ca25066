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


NUMBERS = {name: number for number, name in enumerate(ODD)}  # where each stands in the files below


def misshape(annotation, shape):
    annotation.pop("segmentation") if shape is ... else annotation.update(segmentation=shape)


@pytest.fixture(scope="module")
def odd_lvis(tmp_path_factory):
    """In the first photo the second object of each category is an odd one, from category 2 on."""
    root = miniatures.lvis(tmp_path_factory.mktemp("lvis"))

    def change(content):
        for name, (shape, _) in ODD.items():
            misshape(content["annotations"][3 + 2 * NUMBERS[name]], shape)

    edit(root / "lvis_v1_val.json", change)
    start = time.process_time()
    manifest = prepare("lvis92i", root, quiet=True)
    assert time.process_time() - start < 20
    return manifest


@pytest.mark.parametrize("name", ODD)
def test_an_odd_shape_of_lvis_is_left_out_and_named_while_the_others_stay(odd_lvis, name):
    said, number, category = left_out(odd_lvis), 4 + 2 * NUMBERS[name], 2 + NUMBERS[name]
    assert f"lvis_v1_val.json: annotation {number}: " in said[f"annotation {number}"]
    assert ODD[name][1] in said[f"annotation {number}"]
    pixels = {p.mask: p.pixels for p in odd_lvis.photos}
    assert pixels[f"masks/{category}/000000000001.png"] == {category: 100}
    assert pixels[f"masks/{category}/000000000002.png"] == {category: 200}


def test_odd_shapes_of_lvis_alone_are_left_out(odd_lvis):
    assert {each["id"] for each in odd_lvis.facts["left_out"]} == {f"annotation {4 + 2 * n}" for n in range(len(ODD))}
    pixels = {p.mask: p.pixels for p in odd_lvis.photos}
    assert len(pixels) == 60 and pixels["masks/1/000000000001.png"] == {1: 200}


@pytest.fixture(scope="module")
def odd_coco(tmp_path_factory):
    """The small object of each of the first val photos is an odd one."""
    root = miniatures.coco(tmp_path_factory.mktemp("coco"))

    def change(content):
        for name, (shape, _) in ODD.items():
            misshape(content["annotations"][3 * NUMBERS[name]], shape)

    edit(root / "annotations/instances_val2014.json", change)
    return prepare("coco20i", root, quiet=True)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_object_of_coco_is_left_out_and_its_photo_is_painted_without_it(odd_coco, name):
    number = NUMBERS[name]
    assert ODD[name][1] in left_out(odd_coco)[f"annotation {3 * number + 1}"]
    photo = next(p for p in odd_coco.photos if p.id == f"COCO_val2014_{1001 + number:012d}")
    assert set(photo.pixels) == {
        1,
        1 + number // 2,
    }  # the crowd of people and its own class; the small one's is the next


def test_odd_objects_of_coco_alone_are_left_out(odd_coco):
    assert list(left_out(odd_coco)) == [f"annotation {3 * n + 1}" for n in range(len(ODD))]
    small = next(p for p in odd_coco.photos if p.id == f"COCO_val2014_{1001 + len(ODD):012d}")
    assert set(small.pixels) == {1, 1 + len(ODD) // 2, 2 + len(ODD) // 2}


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
