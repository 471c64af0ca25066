"""Data sets as they really are: what cannot be used is left out, counted and named, and the rest is prepared."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import miniatures
from shotseg.cli import main
from shotseg.data import load
from shotseg.data import preparation as module
from shotseg.data.images import read_mask
from shotseg.data.preparation import MOST_LEFT_OUT, prepare
from shotseg.data.sets.files import matlab
from shotseg.errors import InputError


def left_out(manifest):
    """id -> reason."""
    return {each["id"]: each["reason"] for each in manifest.facts["left_out"]}


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# --- pairs of photo and mask ------------------------------------------------------------------------------------------

PHOTO = {  # one photo of each miniature: its id and its file
    "pascal5i": ("2007_001000", "VOCdevkit/VOC2012/JPEGImages/2007_001000.jpg"),
    "coco20i": ("COCO_val2014_000000001003", "val2014/COCO_val2014_000000001003.jpg"),
    "fss1000": ("thing_003/2", "fewshot_data/thing_003/2.jpg"),
    "coco_stuff10k": ("COCO_train2014_000000000001", "cocostuff-10k-v1.0/images/COCO_train2014_000000000001.jpg"),
    "ade20k150": ("ADE_train_00000002", "ADEChallengeData2016/images/training/ADE_train_00000002.jpg"),
    "isic": ("ISIC_0000004", "ISIC2018_Task1-2_Training_Input/ISIC_0000004.jpg"),
    "chest_xray": ("CHNCXR_0002_0", "Lung Segmentation/CXR_png/CHNCXR_0002_0.png"),
    "suim": ("d_1_", "train_val/images/d_1_.jpg"),
    "folder": ("plate/1", "images/plate/1.jpg"),
}


@pytest.mark.parametrize("name", PHOTO)
def test_a_truncated_photo_is_left_out_and_named_with_its_file(tmp_path, name, capsys):
    root = miniatures.BUILD[name](tmp_path)
    whole = prepare(name, root, tmp_path / "whole", quiet=True)
    assert not whole.facts["left_out"] and not whole.facts["changed"]
    photo, file = PHOTO[name]
    truncate(root / file)
    assert main(["prepare", name, "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "1 that cannot be used are left out" in said and f"left out: {photo}: " in said and file in said
    facts = json.loads((root / "shotseg" / name / "manifest.json").read_text())
    assert [each["id"] for each in facts["facts"]["left_out"]] == [photo] and facts["photos"] == len(whole.photos) - 1
    view = {"fold": 0} if "0" in facts["folds"].get(next(iter(facts["folds"]), ""), {}) else {}
    assert name == "folder" or load(name, root, **view).choices["left_out"] == 1


def test_a_pair_of_lvis_is_left_out_for_each_class_of_a_truncated_photo(tmp_path):
    root = miniatures.lvis(tmp_path)
    truncate(root / "val2017/000000000002.jpg")
    manifest = prepare("lvis92i", root, quiet=True)
    assert len(manifest.facts["left_out"]) == 20 and len(manifest.photos) == 40


def test_what_was_left_out_is_taken_once_it_is_mended(tmp_path, monkeypatch):
    root = miniatures.fss(tmp_path)
    whole = prepare("fss1000", root, tmp_path / "whole", quiet=True)
    photo = root / "fewshot_data/thing_003/2.jpg"
    content = photo.read_bytes()
    truncate(photo)
    assert list(left_out(prepare("fss1000", root, tmp_path / "out", quiet=True))) == ["thing_003/2"]
    photo.write_bytes(content)
    convert, calls = module._photo, []
    monkeypatch.setattr(module, "_photo", lambda source, *rest: (calls.append(source.id), convert(source, *rest))[1])
    assert prepare("fss1000", root, tmp_path / "out", quiet=True).facts == whole.facts
    assert calls == ["thing_003/2"]


def test_an_fss_mask_of_another_size_is_resized_as_the_fields_loaders_do_and_named(tmp_path, capsys):
    root = miniatures.fss(tmp_path)
    large = np.kron(miniatures.labels(0, 1) * 255, np.ones((3, 3), np.uint8))
    miniatures.picture(root / "fewshot_data/thing_003/2.png", np.repeat(large[..., None], 3, axis=2))
    manifest = prepare("fss1000", root, quiet=True)
    assert len(manifest.photos) == 30 and not manifest.facts["left_out"]
    change = "mask of 240 x 180 resized to the photo's 80 x 60"
    assert manifest.facts["changed"] == [{"id": "thing_003/2", "change": change}]
    mask = read_mask(_mask(manifest, "thing_003/2"), labels=True)
    assert (mask == miniatures.labels(0, 1)).all()
    again = prepare("fss1000", root, quiet=True)
    assert again.facts == manifest.facts and again.photos == manifest.photos


def _mask(manifest, photo):
    return next(manifest.folder / p.mask for p in manifest.photos if p.id == photo)


@pytest.mark.parametrize("name", ["fss1000", "suim", "ade20k150", "isic"])
def test_a_mask_of_another_shape_is_left_out_with_both_sizes(tmp_path, name):
    root = miniatures.BUILD[name](tmp_path)
    photo, file = PHOTO[name]
    miniatures.photo(root / file, size=(30, 30))
    manifest = prepare(name, root, quiet=True)
    assert "30 x 30 pixels but its annotation has 80 x 60" in left_out(manifest)[photo]
    assert photo not in {p.id for p in manifest.photos}


@pytest.mark.parametrize("value, lightest", [(1, 1), (0, 0), (100, 100)])
def test_a_mask_without_white_is_named_with_what_it_holds(tmp_path, value, lightest):
    root = miniatures.fss(tmp_path)
    picture = np.repeat((miniatures.labels(0, 1) * value)[..., None], 3, axis=2)
    miniatures.picture(root / "fewshot_data/thing_003/2.png", picture)
    found = left_out(prepare("fss1000", root, quiet=True))
    assert list(found) == ["thing_003/2"]
    assert f"thing_003/2.png: no white pixel, the lightest is {lightest}" in found["thing_003/2"]


@pytest.mark.parametrize(
    "name, mask, photo",
    [
        ("fss1000", "fewshot_data/thing_003/2.png", "thing_003/2"),
        ("isic", "ISIC2018_Task1_Training_GroundTruth/ISIC_0000004_segmentation.png", "ISIC_0000004"),
        ("suim", "train_val/masks/d_1_.bmp", "d_1_"),
        ("ade20k150", "ADEChallengeData2016/annotations/training/ADE_train_00000002.png", "ADE_train_00000002"),
    ],
)
def test_photos_without_masks_and_masks_without_photos_are_named(tmp_path, name, mask, photo):
    root = miniatures.BUILD[name](tmp_path)
    path = root / mask
    path.rename(path.with_name(f"lost{path.name}"))
    found = left_out(prepare(name, root, quiet=True))
    assert path.with_suffix(".*").name in found[photo] and "no such file" in found[photo]
    assert "a mask without a photo" in found[f"lost{path.stem}"]


def test_photos_of_fss_with_other_endings_are_taken(tmp_path):
    root = miniatures.fss(tmp_path)
    for stem, ending in (("1", ".JPG"), ("2", ".jpeg")):
        path = root / f"fewshot_data/thing_003/{stem}.jpg"
        path.rename(path.with_suffix(ending))
    manifest = prepare("fss1000", root, quiet=True)
    assert len(manifest.photos) == 30 and not manifest.facts["left_out"]


def test_classes_that_the_lists_and_the_folders_of_fss_do_not_share_are_named(tmp_path):
    root = miniatures.fss(tmp_path)
    (root / "trn.txt").write_text("thing_001\nthing_002\nno_such_thing\n")
    manifest = prepare("fss1000", root, quiet=True)
    assert "trn.txt: class no_such_thing has no folder in the data" in left_out(manifest)["no_such_thing"]
    assert "classes in no list, and so in no split: thing_000, thing_003" in manifest.facts["warnings"][1]
    assert load("fss1000", root, split="train").classes == ["thing_001", "thing_002"]


def test_two_photos_of_one_name_do_not_overwrite_each_others_masks(tmp_path):
    root = miniatures.isic(tmp_path)
    miniatures.photo(root / "ISIC2018_Task1-2_Training_Input/ISIC_0000004.png")
    manifest = prepare("isic", root, quiet=True)
    assert len(manifest.photos) == 6
    assert manifest.facts["choices"]["photos without a diagnosis"] == ["ISIC_0000004.png"]


def test_more_than_a_third_that_cannot_be_used_is_an_error_with_the_first_reason(tmp_path):
    root = miniatures.fss(tmp_path)
    assert MOST_LEFT_OUT == 1 / 3
    photos = sorted((root / "fewshot_data").glob("*/*.jpg"))
    for path in photos[:10]:
        truncate(path)
    assert len(prepare("fss1000", root, quiet=True).facts["left_out"]) == 10
    truncate(photos[10])
    (root / "shotseg/fss1000/items.jsonl").unlink()
    with pytest.raises(
        InputError, match=r"11 of 30 photos, masks .* more than 33%; the first: .*thing_000/1\.jpg"
    ) as error:
        prepare("fss1000", root, quiet=True)
    assert "\n" not in str(error.value)


def test_broken_label_maps_are_left_out_and_named(tmp_path):
    root = miniatures.ade(tmp_path)
    path = root / "ADEChallengeData2016/annotations/training/ADE_train_00000002.png"
    miniatures.picture(path, miniatures.labels(0, 1, 200))
    assert "class 199, which the data set does not have" in left_out(prepare("ade20k150", root, quiet=True))[path.stem]
    path.write_bytes(b"")
    assert "empty (0 bytes)" in left_out(prepare("ade20k150", root, tmp_path / "out", quiet=True))[path.stem]


# --- ISIC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", ["2018", "2017"])
def test_superpixels_beside_the_photos_of_isic_are_no_photos(tmp_path, year):
    root = miniatures.isic(tmp_path)
    images = root / "ISIC2018_Task1-2_Training_Input"
    for path in sorted(images.glob("*.jpg")):
        miniatures.photo(images / f"{path.stem}_superpixels.png")
    if year == "2017":
        images.rename(root / "ISIC-2017_Training_Data")
        masks = root / "ISIC2018_Task1_Training_GroundTruth"
        masks.rename(root / "ISIC-2017_Training_Part1_GroundTruth")
    manifest = prepare("isic", root, quiet=True)
    assert [p.id for p in manifest.photos] == [f"ISIC_{i:07d}" for i in range(6)]
    assert not manifest.facts["left_out"] and manifest.facts["choices"]["superpixel files"] == 6
    assert any("ISIC 2017" in warning for warning in manifest.facts["warnings"]) == (year == "2017")


@pytest.mark.parametrize(
    "content", ["image_id,melanoma\nISIC_0000000,1\n", "image_id,melanoma,seborrheic_keratosis\na,x,\n"]
)
def test_a_table_of_diagnoses_of_another_form_is_one_line(tmp_path, content):
    root = miniatures.isic(tmp_path)
    (root / "ISIC-2017_Training_Part3_GroundTruth.csv").write_text(content)
    with pytest.raises(InputError, match=r"GroundTruth\.csv: not a table of diagnoses .* download it again"):
        prepare("isic", root, quiet=True)


# --- MATLAB -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_coco_stuff_of_matlab_7_3_is_read_as_that_of_level_5(tmp_path, version):
    old, new = (
        prepare("coco_stuff10k", miniatures.coco_stuff(tmp_path / name, version, save), quiet=True)
        for name, save in (("old", miniatures.level_5), ("new", miniatures.matlab_7_3))
    )
    assert len(new.photos) == 6 and not new.facts["left_out"] and new.photos == old.photos
    for photo in new.photos:
        ours, theirs = (read_mask(m.folder / photo.mask, labels=True) for m in (new, old))
        assert (ours == theirs).all() and set(np.unique(ours)) == {0, 170, 255}


def test_sbd_may_be_saved_by_matlab_7_3_as_well(tmp_path):
    import h5py

    labels = miniatures.labels(3, 0)
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file.create_group("GTcls").create_dataset("Segmentation", data=labels.T)
    assert (matlab(tmp_path / "x.mat", "GTcls.Segmentation") == labels).all()


def test_a_file_that_matlab_itself_wrote_has_its_rows_and_columns_in_place():
    from scipy.io import matlab as scipy_matlab

    path = Path(scipy_matlab.__file__).parent / "tests/data/testhdf5_7.4_GLNX86.mat"
    if not path.is_file():
        pytest.skip("scipy is installed without its test files")
    found = matlab(path, "testdouble")  # a row of nine numbers, from 0 to 2 pi
    assert found.shape == (1, 9) and found[0] == pytest.approx(np.linspace(0, 2 * np.pi, 9))


@pytest.mark.parametrize("save", [miniatures.level_5, miniatures.matlab_7_3])
@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda path, save: save(path, T=np.ones((60, 80), np.uint8)), "no label map S"),
        (lambda path, save: save(path, S=np.ones((60, 80, 3), np.uint8)), "no label map S"),
        (lambda path, save: save(path, S=np.full((60, 80), 183, np.uint8)), "ids outside 0 to 182"),
        (lambda path, save: save(path, S=np.full((60, 80), -1, np.int16)), "ids outside 0 to 182"),
        (lambda path, save: save(path, S=np.full((60, 80), np.nan)), "ids outside 0 to 182"),
        (lambda path, save: save(path, S=np.ones((80, 60), np.uint8)), "80 x 60 pixels but its annotation has 60 x 80"),
        (lambda path, save: truncate(path, 0.6), "not a MATLAB file"),
        (lambda path, save: path.write_bytes(b"no matlab"), "not a MATLAB file"),
        (lambda path, save: path.unlink(), "no such file"),
    ],
)
def test_a_broken_annotation_of_coco_stuff_is_left_out_and_named(tmp_path, save, break_it, said):
    root = miniatures.coco_stuff(tmp_path, save=save)
    path = root / "cocostuff-10k-v1.0/annotations/COCO_train2014_000000000001.mat"
    break_it(path, save)
    found = left_out(prepare("coco_stuff10k", root, quiet=True))
    assert list(found) == [path.stem] and said in found[path.stem]


def test_a_truncated_annotation_of_sbd_is_left_out_and_named(tmp_path):
    root = miniatures.pascal(tmp_path)
    broken = root / "benchmark_RELEASE/dataset/cls/2009_001000.mat"
    truncate(broken, 0.1)
    (broken.parent / "2009_002000.mat").unlink()
    found = left_out(prepare("pascal5i", root, quiet=True))
    assert list(found) == ["2009_001000", "2009_002000"]
    assert "not a MATLAB file" in found["2009_001000"] and "no such file" in found["2009_002000"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_one_line_before_the_work(tmp_path, capsys):
    root = miniatures.isic(tmp_path / "root")
    (tmp_path / "file").write_text("")
    assert main(["prepare", "isic", "--root", str(root), "--out", str(tmp_path / "file/out")]) == 2
    assert "--out " in (said := capsys.readouterr().err) and "cannot be written" in said and said.count("\n") == 1


def test_an_image_that_pillow_reads_by_content_is_no_fault_of_its_ending(tmp_path):
    root = miniatures.fss(tmp_path)
    path = root / "fewshot_data/thing_003/2.jpg"
    Image.open(path).save(path, "PNG")
    assert not prepare("fss1000", root, quiet=True).facts["left_out"]
