"""Folders of examples as people call them."""

import numpy as np
import pytest
from PIL import Image

from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import ShotsegError, UsageError

MASK = np.zeros((8, 12), bool)
MASK[2:6, 3:9] = True


def written(root, photos: str, masks: str) -> None:
    for folder, image in ((photos, Image.new("RGB", (12, 8), (9, 90, 200))), (masks, Image.fromarray(MASK))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        image.save(root / folder / "a.png")


@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        ("img", "mask"),
        ("imgs", "masks"),
        ("Images", "Masks"),
        ("images", "labels"),
        ("photos", "GT"),
        ("image", "label"),
        ("Original", "Ground Truth"),
        ("JPEGImages", "ground_truth"),
    ],
)
def test_the_folders_of_photos_and_masks_are_known_by_their_usual_names(tmp_path, photos, masks):
    layouts = {"flat": ("", "flat"), "classes": ("/cat", "cat")}
    for name, (below, class_name) in layouts.items():
        written(tmp_path / name, photos + below, masks + below)
        dataset = open_folder(tmp_path / name)
        assert dataset.classes == [class_name], "a folder of masks is no class"
        assert (dataset.sample(0).mask == MASK).all()
    written(tmp_path / "nested", f"cat/{photos}", f"cat/{masks}")
    assert (open_folder(tmp_path / "nested").sample(0).mask == MASK).all()


def test_a_folder_called_photos_is_a_class_where_no_masks_are_beside_it(tmp_path):
    for name in ("photos", "drawings"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (12, 8)).save(tmp_path / name / "a.jpg")
    assert open_folder(tmp_path).classes == ["drawings", "photos"]


def test_an_empty_class_folder_is_named_and_the_others_are_used(tmp_path):
    written(tmp_path, "images/cat", "masks/cat")
    (tmp_path / "images/dog").mkdir()
    with pytest.warns(UserWarning, match="class folders without a photo: dog"):
        assert open_folder(tmp_path).classes == ["cat"]


def test_a_data_set_of_splits_says_which_folder_to_give(tmp_path):
    written(tmp_path, "train/images/cat", "train/masks/cat")
    with pytest.raises(UsageError, match=rf"holds class folders \(cat\); give {tmp_path}/train$"):
        open_folder(tmp_path)


def test_one_photo_is_no_folder_of_examples(tmp_path):
    written(tmp_path, ".", "masks")
    with pytest.raises(UsageError, match="one image; give the folder of the examples"):
        detect(tmp_path / "a.png")


@pytest.mark.parametrize("option", [{"kind": "thing"}, {"min_area": 0.1}, {"subset": "train"}])
def test_an_option_of_label_maps_is_refused_beside_class_folders(tmp_path, option):
    written(tmp_path, "images/cat", "masks/cat")
    with pytest.raises(UsageError, match="is of label maps"):
        open_folder(tmp_path, **option)


@pytest.mark.parametrize(("format", "table"), [("pairs", "classes.txt"), ("mask", "classes.csv")])
def test_label_maps_of_every_ending_are_converted_and_photos_without_one_are_named(tmp_path, format, table):
    (tmp_path / table).write_text("cat\n" if format == "pairs" else "class_id,class\n0,background\n1,cat\n")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a.png", "b.tif", "c_mask.bmp"):
        Image.new("RGB", (12, 8)).save(tmp_path / "images" / f"{name[0]}.jpg")
        Image.fromarray(MASK.astype(np.uint8)).save(tmp_path / "masks" / name)
    Image.new("RGB", (12, 8)).save(tmp_path / "images/bare.jpg")
    with pytest.warns(UserWarning, match=r"photos without a mask: bare\.jpg"):
        results = list(read(format, tmp_path)[1])
    assert [result.file for result in results] == ["a.jpg", "b.jpg", "c.jpg"]
    assert all((result.labels == MASK).all() for result in results)


def test_a_class_id_that_is_there_twice_is_refused(tmp_path):
    written(tmp_path, "images", "masks")
    (tmp_path / "classes.csv").write_text("class_id,class\n1,cat\n1,dog\n")
    for call in (open_folder, lambda path: read("mask", path)):
        with pytest.raises(ShotsegError, match="twice"):
            call(tmp_path)


def test_objects_of_voc_without_their_classes_are_one_class_which_is_said(tmp_path):
    written(tmp_path / "parts", "JPEGImages", "SegmentationObject")
    with pytest.warns(UserWarning, match="objects without their classes, read as the class 'parts'"):
        dataset = open_folder(tmp_path / "parts")
    assert dataset.classes == ["parts"]
    assert (dataset.sample(0).mask == MASK).all()


@pytest.mark.parametrize("name", ["masks", "SegmentationObject", "SegmentationClass", "Ground Truth"])
def test_a_folder_of_masks_alone_is_not_taken_for_photos(tmp_path, name):
    written(tmp_path, "photos", name)
    with pytest.raises(UsageError, match="a folder of masks by its name; give the folder that holds it"):
        open_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        ("DUTS-TR-Image", "DUTS-TR-Mask"),
        ("train_img", "train_lab"),
        ("PNGImages", "PedMasks"),
        ("images", "ground_truth_mask"),
        ("images", "Semantic_masks/images"),
        ("imagesTr", "labelsTr"),
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
    ],
)
def test_folders_with_a_word_for_photos_and_for_masks_are_those_of_one_class(tmp_path, photos, masks):
    written(tmp_path / "part", photos, masks)
    dataset = open_folder(tmp_path / "part")
    assert dataset.classes == ["part"]
    assert (dataset.sample(0).mask == MASK).all()


def test_two_folders_a_class_named_by_it_and_a_word_are_photos_and_masks(tmp_path):
    for label in ("cat", "dog"):
        written(tmp_path, f"{label}_images", f"{label}_masks")
    dataset = open_folder(tmp_path)
    assert dataset.classes == ["cat", "dog"]
    assert all((dataset.sample(i).mask == MASK).all() for i in range(2))


def test_words_in_the_names_of_classes_are_no_folders_of_masks(tmp_path):
    for label in ("with_mask", "without_mask", "photo_frame"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (12, 8)).save(tmp_path / label / f"{label}.jpg")
    assert open_folder(tmp_path).classes == ["photo_frame", "with_mask", "without_mask"]


@pytest.mark.parametrize("layout", ["{}/images", "images/{}"])
def test_parts_of_a_data_set_are_no_classes(tmp_path, layout):
    for part in ("train", "val"):
        written(tmp_path / "fruit", layout.format(part), layout.format(part).replace("images", "masks"))
    with pytest.warns(UserWarning, match="parts of a data set by their names, read as one class 'fruit': train, val"):
        dataset = open_folder(tmp_path / "fruit")
    assert [item.id for item in dataset.items] == ["fruit/train/a", "fruit/val/a"]
    assert all((dataset.sample(i).mask == MASK).all() for i in range(2))


def test_a_class_may_be_called_train(tmp_path):
    written(tmp_path, "images/train", "masks/train")
    assert open_folder(tmp_path).classes == ["train"]


def test_folders_of_one_photo_and_its_label_are_one_class(tmp_path):
    for name in ("a_json", "b_json"):
        folder = tmp_path / "parts" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (12, 8), (9, 90, 200)).save(folder / "img.png")
        for label in ("label.png", "label_viz.png"):
            Image.fromarray(MASK).save(folder / label)
    dataset = open_folder(tmp_path / "parts")
    assert [item.id for item in dataset.items] == ["parts/a_json", "parts/b_json"]
    assert all((dataset.sample(i).mask == MASK).all() for i in range(2))
