"""Which mask is whose: several masks of one photo, and names with words before and behind."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from shotseg.data.annotations import read, write
from shotseg.data.annotations.opened import open_folder
from shotseg.evaluation.pool import Pool
from shotseg.photo import read_shot

LEFT, RIGHT = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
LEFT[3:9, 2:12], RIGHT[8:17, 12:25] = True, True  # they touch


def photo(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (20, 30, 3), np.uint8)).save(path)


def mask(path, drawn) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).save(path)


OBJECTS = {
    "numbered": ("images/cat/a.jpg", "masks/cat/a_1.png", "masks/cat/a_2.png"),
    "with the word before": ("images/cat/a.jpg", "masks/cat/a_mask_0.png", "masks/cat/a_mask_1.png"),
    "with the word behind": ("images/cat/a.jpg", "masks/cat/A-1-mask.png", "masks/cat/A-2-mask.png"),
    "by instance": ("images/a.jpg", "masks/a.instance.1.png", "masks/a.instance.2.png"),
    "beside the photo": ("a.jpg", "a_mask1.png", "a_mask2.png"),
    "a folder for each photo": ("images/a.jpg", "masks/a/0.png", "masks/a/1.png"),
    "a folder for each photo of a class": ("images/cat/a.jpg", "masks/cat/a/0.png", "masks/cat/a/1.png"),
}


@pytest.mark.parametrize("names", OBJECTS.values(), ids=OBJECTS)
def test_masks_of_the_objects_of_a_photo_are_its_class_together(tmp_path, names):
    photo(tmp_path / names[0])
    mask(tmp_path / names[1], LEFT)
    mask(tmp_path / names[2], RIGHT)
    with pytest.warns(UserWarning, match=r"several masks of a photo are one class together: a.jpg \(2\)"):
        dataset = open_folder(tmp_path)
    assert len(dataset) == 1, "no mask is a photo"
    assert (dataset.sample(0).mask == (LEFT | RIGHT)).all()


def test_a_folder_for_each_photo_with_its_masks_is_one_class(tmp_path):
    for name in ("ab12", "cd34"):
        photo(tmp_path / name / "images" / f"{name}.png")
        mask(tmp_path / name / "masks" / f"{name[::-1]}.png", LEFT)
        mask(tmp_path / name / "masks" / "7.png", RIGHT)
    with pytest.warns(UserWarning, match="one class together"):
        dataset = open_folder(tmp_path, name="nucleus")
    assert [item.id for item in dataset.items] == ["nucleus/ab12", "nucleus/cd34"]
    assert all((dataset.sample(i).mask == (LEFT | RIGHT)).all() for i in range(2))


@pytest.mark.filterwarnings("ignore:.*one class together")
def test_objects_with_masks_of_their_own_stay_apart_in_other_formats(tmp_path):
    photo(tmp_path / "in" / "images/cat/a.jpg")
    mask(tmp_path / "in" / "masks/cat/a_1.png", LEFT)
    mask(tmp_path / "in" / "masks/cat/a_2.png", RIGHT)
    classes, results = read("mask", tmp_path / "in")
    write("coco", tmp_path / "out", results, classes)
    found = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())["annotations"]
    assert sorted(object_["area"] for object_ in found) == sorted([int(LEFT.sum()), int(RIGHT.sum())])


def test_a_mask_named_as_another_photo_is_not_an_object_of_this_one(tmp_path):
    for name in ("a", "a_1"):
        photo(tmp_path / "images" / f"{name}.jpg")
    mask(tmp_path / "masks/a_1.png", LEFT)
    dataset = open_folder(tmp_path)
    assert [item.mask_path and item.mask_path.name for item in dataset.items] == [None, "a_1.png"]


def test_beside_a_whole_mask_numbered_ones_are_named_not_joined(tmp_path):
    photo(tmp_path / "images/a.jpg")
    mask(tmp_path / "masks/a.png", LEFT)
    mask(tmp_path / "masks/a_1.png", RIGHT)
    with pytest.warns(UserWarning, match="a mask of no photo: a_1.png"):
        assert (open_folder(tmp_path).sample(0).mask == LEFT).all()


def test_beside_a_mask_of_its_word_numbered_ones_are_more_of_the_same(tmp_path):
    photo(tmp_path / "benign (1).png")
    mask(tmp_path / "benign (1)_mask.png", LEFT)
    mask(tmp_path / "benign (1)_mask_1.png", RIGHT)
    with pytest.warns(UserWarning, match="one class together"):
        assert (open_folder(tmp_path).sample(0).mask == (LEFT | RIGHT)).all()


def test_masks_by_class_of_photos_that_all_classes_share(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "images" / f"{name}.jpg")
    mask(tmp_path / "masks/cat/a.png", LEFT)
    mask(tmp_path / "masks/dog/a.png", RIGHT)
    mask(tmp_path / "masks/dog/b.png", RIGHT)
    photo(tmp_path / "images/c.jpg")
    mask(tmp_path / "masks/cat/c.png", LEFT & ~LEFT)
    dataset = open_folder(tmp_path)
    assert [item.id for item in dataset.items] == ["cat/a", "dog/a", "dog/b"], (
        "b has no mask of cat, c an empty one: they show none"
    )
    assert (dataset.sample(0).mask == LEFT).all()


@pytest.mark.parametrize(
    ("photo_name", "mask_name"),
    [
        ("image_001.jpg", "mask_001.png"),
        ("img001.jpg", "mask001.png"),
        ("100034_sat.jpg", "100034_mask.png"),
        ("a_rgb.png", "a_label.png"),
        ("road_seg.jpg", "road_seg_mask.png"),
        ("001.jpg", "gt_001.png"),
        ("21_training.tif", "21_manual1.gif"),
        ("BRATS_001_0000.png", "BRATS_001.png"),
    ],
)
def test_words_that_mark_photo_and_mask_are_no_part_of_their_name(tmp_path, photo_name, mask_name):
    photo(tmp_path / "images" / photo_name)
    mask(tmp_path / "masks" / mask_name, LEFT)
    assert (open_folder(tmp_path).sample(0).mask == LEFT).all()


def test_a_photo_called_anno_beside_its_photo_is_its_mask(tmp_path):
    photo(tmp_path / "train_1.bmp")
    mask(tmp_path / "train_1_anno.bmp", LEFT)
    [item] = open_folder(tmp_path).items
    assert item.mask_path.name == "train_1_anno.bmp"


def test_a_word_of_photos_stays_where_two_would_have_one_name(tmp_path):
    for name in ("img_1.jpg", "photo_1.jpg", "2.jpg", "2_sat.jpg"):
        photo(tmp_path / "images" / name)
    mask(tmp_path / "masks/1.png", LEFT)
    mask(tmp_path / "masks/2_mask.png", LEFT)
    with pytest.warns(UserWarning, match="a mask of no photo: 1.png"):
        dataset = open_folder(tmp_path)
    assert [item.image_path.name for item in dataset.items if item.mask_path] == ["2.jpg"]


def test_a_list_of_mask_files_of_one_photo_is_one_mask(tmp_path):
    photo(tmp_path / "a.jpg")
    mask(tmp_path / "1.png", LEFT)
    mask(tmp_path / "2.png", RIGHT)
    _, known = read_shot(tmp_path / "a.jpg", [tmp_path / "1.png", str(tmp_path / "2.png")])
    assert (known == (LEFT | RIGHT)).all()


def test_a_run_with_another_mask_of_an_object_is_another_run(tmp_path):
    for name in ("a", "bb"):
        photo(tmp_path / f"in/images/cat/{name}.jpg")
        mask(tmp_path / f"in/masks/cat/{name}_1.png", LEFT)
        mask(tmp_path / f"in/masks/cat/{name}_2.png", RIGHT)

    def state() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Pool(open_folder(tmp_path / "in"), ["cat"], shots=1).state()

    before = state()
    mask(tmp_path / "in/masks/cat/a_2.png", LEFT & RIGHT)
    assert state() != before


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_truth_values_of_several_objects_are_one_mask(tmp_path, count):
    empty = np.zeros((count - 2, 20, 30), bool) if count > 2 else np.zeros((0, 20, 30), bool)
    stack = np.concatenate([[LEFT, RIGHT], empty]) if count > 1 else (LEFT | RIGHT)[None]
    shot = np.full((20, 30, 3), 90, np.uint8)
    np.save(tmp_path / "a.npy", stack)
    forms = [stack, torch.from_numpy(stack), stack[:, None], stack[None], np.moveaxis(stack, 0, 2), tmp_path / "a.npy"]
    for form in forms:
        assert (read_shot(shot, form)[1] == (LEFT | RIGHT)).all()
