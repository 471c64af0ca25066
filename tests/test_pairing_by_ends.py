"""Masks that are named as their photos with an end that no list of words knows."""

import pytest

from shotseg.data.annotations.opened import open_folder
from shotseg.runs import find_photos
from test_pairing import LEFT, RIGHT, mask, photo

ENDS = [
    ("Image_01L.jpg", "Image_01L_1stHO.png"),
    ("0001TP_006690.png", "0001TP_006690_L.png"),
    ("im0001.png", "im0001.ah.png"),
    ("a.png", "a_matte.png"),
    ("a.tif", "a-silhouette.tif"),
    ("plant001_rgb.png", "plant001_fg.png"),
    ("a_color.png", "a_mask.png"),
]


def paired(root):
    return {item.image_path.name: [path.name for path in item.mask_paths] for item in open_folder(root).items}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(("photo_name", "mask_name"), ENDS)
@pytest.mark.filterwarnings("ignore:.*are named as their photos with")
def test_a_mask_with_any_end_behind_the_name_of_its_photo_is_its_mask(tmp_path, photo_name, mask_name, beside):
    photos, masks = (tmp_path, tmp_path) if beside else (tmp_path / "images", tmp_path / "masks")
    for number in "12":
        photo(photos / f"{number}{photo_name}")
        mask(masks / f"{number}{mask_name}", LEFT)
    found = paired(tmp_path)
    assert len(found) == 2, "no mask is a photo"
    assert all(len(drawn) == 1 for drawn in found.values())


def test_the_end_is_said_and_of_several_the_others_are_named(tmp_path):
    for name in ("Image_01L", "Image_01R"):
        photo(tmp_path / f"{name}.jpg")
        mask(tmp_path / f"{name}_1stHO.png", LEFT)
        mask(tmp_path / f"{name}_2ndHO.png", RIGHT)
    with (
        pytest.warns(match="masks are named as their photos with _1stHO behind"),
        pytest.warns(match="left out, further masks of the photos: Image_01L_2ndHO.png, Image_01R_2ndHO.png"),
    ):
        assert paired(tmp_path) == {f"{name}.jpg": [f"{name}_1stHO.png"] for name in ("Image_01L", "Image_01R")}


def test_a_mask_of_a_known_word_comes_before_one_of_any_end(tmp_path):
    photo(tmp_path / "plant1_rgb.png")
    mask(tmp_path / "plant1_label.png", LEFT)
    mask(tmp_path / "plant1_centers.png", RIGHT)
    with pytest.warns(match="left out, further masks of the photos: plant1_centers.png"):
        assert paired(tmp_path) == {"plant1_rgb.png": ["plant1_label.png"]}


def test_photos_that_are_named_after_others_stay_photos(tmp_path):
    for name in ("a.jpg", "a_back.jpg", "b.png", "b_edited.png", "b_2.png"):
        photo(tmp_path / name)
    assert paired(tmp_path) == {name: [] for name in ("a.jpg", "a_back.jpg", "b.png", "b_edited.png", "b_2.png")}


def test_in_a_folder_of_masks_an_end_of_few_pairs_nothing(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "images" / name)
    mask(tmp_path / "masks/a_x.png", LEFT)
    mask(tmp_path / "masks/b.png", LEFT)
    photo(tmp_path / "images/d.jpg")
    with pytest.warns(match="left out, a mask of no photo: a_x.png"):
        assert paired(tmp_path)["a.jpg"] == []


def test_masks_beside_their_photos_are_no_photos_to_segment(tmp_path):
    for name in ("a.jpg", "B.PNG", "c_mask.png", "d.jpg", "d_label.jpg"):
        photo(tmp_path / "deep" / name)
    for name in ("a_mask.png", "B_seg.png", "a_mask_2.png"):
        mask(tmp_path / "deep" / name, LEFT)
    with pytest.warns(match="3 masks beside their photos are not segmented"):
        found = {photo.file for photo in find_photos(tmp_path)}
    assert found == {"deep/a.jpg", "deep/B.PNG", "deep/c_mask.png", "deep/d.jpg", "deep/d_label.jpg"}
    asked = {photo.file for photo in find_photos(str(tmp_path / "deep/*_mask.png"))}
    assert asked == {"a_mask.png", "c_mask.png"}
