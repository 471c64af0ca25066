"""The folder convention as people really fill it, and the real photo sets as they lie on disk."""

import hashlib
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import golden
from shotseg.data.folder import FolderDataset, find_images
from shotseg.errors import InputError, InputWarning, UsageError


def photo(path: Path, shade: int = 0, size=(12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 100, 50)).save(path)
    return path


def mask(path: Path, values=None, size=(12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(size[::-1], np.uint8) if values is None else np.asarray(values, np.uint8)
    if values is None:
        array[2:5, 3:9] = 255
    Image.fromarray(array).save(path)
    return path


def assert_refused(call, *words):
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_classes_are_sorted_and_masks_found_by_name(tmp_path):
    for name in ("zebra/b one.JPG", "zebra/a.tiff", "ångström/ü ☂.webp", "cat/x.jpeg", "cat/y.bmp"):
        photo(tmp_path / "images" / name)
    for name in ("zebra/b one.png", "zebra/a.png", "ångström/ü ☂.png"):
        mask(tmp_path / "masks" / name)
    (tmp_path / "images/zebra/notes.txt").write_text("not a photo")
    (tmp_path / "images/zebra/._a.tiff").write_bytes(b"what macOS leaves")
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == ["cat", "zebra", "ångström"]
    assert [item.id for item in dataset.items] == ["cat/x", "cat/y", "zebra/a", "zebra/b one", "ångström/ü ☂"]
    assert [item.class_id for item in dataset.items] == [0, 0, 1, 1, 2]
    assert [item.mask_path is not None for item in dataset.items] == [False, False, True, True, True]
    sample = dataset.sample(3)
    assert sample.image.shape == (8, 12, 3) and sample.mask.sum() == 18 and set(np.unique(sample.mask)) == {0, 1}
    assert sample.tags == {1} and sample.id == "zebra/b one" and sample.path.name == "b one.JPG"
    assert dataset.sample(0).mask is None and dataset.sample(0).tags == {0}
    assert len(FolderDataset(tmp_path, masks=True)) == 3
    assert FolderDataset(tmp_path, classes=["zebra"]).classes == ["zebra"]
    assert_refused(lambda: FolderDataset(tmp_path, classes=["dog"]), "dog", "zebra")


def test_accents_spelled_in_two_ways_are_one_name(tmp_path):
    photo(tmp_path / "images/u\u0308bung/e\u0301.jpg")
    mask(tmp_path / "masks/\u00fcbung/\u00e9.png")
    assert FolderDataset(tmp_path).items[0].mask_path is not None


def test_the_content_is_the_hash_of_the_file(tmp_path):
    path = photo(tmp_path / "images/cat/x.jpg")
    photo(tmp_path / "images/dog/copy.jpg")
    first, second = FolderDataset(tmp_path).items
    assert first.content == second.content == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_mask_of_another_size_fails_only_its_own_sample(tmp_path):
    photo(tmp_path / "images/cat/x.jpg"), photo(tmp_path / "images/cat/y.jpg")
    mask(tmp_path / "masks/cat/x.png"), mask(tmp_path / "masks/cat/y.png", size=(5, 5))
    dataset = FolderDataset(tmp_path)
    assert dataset.sample(0).mask.any()
    with pytest.raises(InputError, match=r"y\.png is 5 x 5 but .*y\.jpg is 12 x 8"):
        dataset.sample(1)


def test_every_wrong_layout_says_the_mend(tmp_path):
    assert_refused(lambda: FolderDataset(tmp_path / "absent"), "absent", "images/<class>")
    assert_refused(lambda: FolderDataset(tmp_path), "images/<class>")
    (tmp_path / "images").mkdir()
    assert_refused(lambda: FolderDataset(tmp_path), "no class folder")
    (tmp_path / "images/cat").mkdir()
    assert_refused(lambda: FolderDataset(tmp_path), "cat", "no image")
    photo(tmp_path / "images/cat/x.jpg")
    mask(tmp_path / "masks/cat/other.png")
    assert_refused(lambda: FolderDataset(tmp_path), "masks/cat", "same name")
    mask(tmp_path / "masks/cat/x.png")
    assert len(FolderDataset(tmp_path)) == 1
    second = photo(tmp_path / "images/cat/x.png")
    assert_refused(lambda: FolderDataset(tmp_path), "x.jpg", "x.png")
    second.unlink()
    mask(tmp_path / "masks/Cat2/x.png")
    assert_refused(lambda: FolderDataset(tmp_path), "Cat2", "without photos")


def test_folds_come_from_the_index(tmp_path):
    for name in ("cat", "dog", "emu"):
        photo(tmp_path / f"images/{name}/x.jpg")
    assert FolderDataset(tmp_path).folds == {}
    (tmp_path / "index.csv").write_text("image,class,fold\na,cat,1\nb,dog,0\nc,emu,1\n", encoding="utf-8-sig")
    assert FolderDataset(tmp_path).folds == {0: ["dog"], 1: ["cat", "emu"]}
    (tmp_path / "index.csv").write_text("image,class,fold\na,cat,1\nb,cat,0\n")
    assert_refused(lambda: FolderDataset(tmp_path).folds, "cat", "fold")
    (tmp_path / "index.csv").write_bytes(b"class,fold\n\xff\xfe,1\n")
    assert_refused(lambda: FolderDataset(tmp_path).folds, "index.csv", "UTF-8")


@pytest.fixture
def label_maps(tmp_path):
    (tmp_path / "classes.csv").write_text(
        "class_id,class,kind\n0,void,background\n3,cat,thing\n7,grass,stuff\n200,dog,thing\n"
    )
    photo(tmp_path / "images/train/a.jpg"), photo(tmp_path / "images/val/b.jpg")
    values = np.zeros((8, 12), np.uint8)
    values[0], values[1:4], values[4], values[5, 0] = 255, 3, 7, 200
    mask(tmp_path / "masks/train/a.png", values)
    mask(tmp_path / "masks/val/b.png", np.where(values == 3, 7, 0))
    return tmp_path


def test_each_class_of_a_label_map_is_an_item(label_maps):
    dataset = FolderDataset(label_maps)
    assert dataset.classes == ["cat", "grass", "dog"]
    assert [item.id for item in dataset.items] == ["cat/train/a", "grass/train/a", "grass/val/b", "dog/train/a"]
    sample = dataset.sample(0)
    assert [np.unique(row).tolist() for row in sample.mask[:5]] == [[255], [1], [1], [1], [0]]
    assert sample.tags == {0, 1, 2}


def test_label_maps_are_filtered_by_area_kind_and_subset(label_maps):
    assert [i.id for i in FolderDataset(label_maps, min_area=0.1).items][-1] == "grass/val/b"
    assert FolderDataset(label_maps, kind="thing").classes == ["cat", "dog"]
    assert FolderDataset(label_maps, subset="val").classes == ["grass"]
    assert_refused(lambda: FolderDataset(label_maps, subset="test"), "test")
    assert_refused(lambda: FolderDataset(label_maps, min_area=1.0), "loosen")


def test_areas_are_taken_from_the_index_where_it_has_them(label_maps):
    measured = [item.id for item in FolderDataset(label_maps, min_area=0.05).items]
    (label_maps / "index.csv").write_text(
        "image,class_id,area_fraction\nimages/train/a.jpg,3,0.38\nimages/train/a.jpg,7,0.13\n"
        "images/train/a.jpg,200,0.01\nimages/val/b.jpg,7,0.38\n"
    )
    assert [item.id for item in FolderDataset(label_maps, min_area=0.05).items] == measured


def test_a_query_is_a_file_a_folder_or_a_glob(tmp_path, monkeypatch):
    paths = [photo(tmp_path / name) for name in ("b.jpg", "a [1].PNG", "deep/er/ü c.tif")]
    (tmp_path / "readme.txt").write_text("x")
    assert find_images(tmp_path) == sorted(paths)
    assert find_images(str(tmp_path / "a [1].PNG")) == [paths[1]]
    assert find_images(tmp_path / "readme.txt") == [tmp_path / "readme.txt"]  # named outright: the reader says why not
    assert find_images(str(tmp_path / "*.jpg")) == [paths[0]]
    (tmp_path / "clip.mp4").touch()
    with (
        pytest.warns(UserWarning, match=r"left out.*clip\.mp4"),
        pytest.raises(UsageError, match="videos are taken one by"),
    ):
        find_images(str(tmp_path / "*.mp4"))
    assert find_images(str(tmp_path / "**" / "*")) == sorted(paths)
    monkeypatch.chdir(tmp_path)
    assert find_images("deep") == [Path("deep/er/ü c.tif")]
    (tmp_path / "empty").mkdir()
    for query, words in {"empty": ["no image"], "*.webp": ["no image", ".webp"], "absent": ["no such file"]}.items():
        assert_refused(lambda query=query: find_images(query), query, *words)


def test_the_real_photos_of_pascal_load_with_their_folds():
    dataset = FolderDataset(golden.data("pascal_coseg15"))
    assert len(dataset) == 852 and len(dataset.classes) == 15
    assert {fold: len(names) for fold, names in dataset.folds.items()} == {0: 5, 1: 5, 2: 5}
    for index in (0, 400, 851):
        sample = dataset.sample(index)
        assert sample.mask.shape == sample.image.shape[:2] and set(np.unique(sample.mask)) == {0, 1}


@pytest.mark.parametrize("name, options", [("coco_panoptic100", {"kind": "thing"}), ("clothing_ccp", {})])
def test_the_real_label_maps_load_with_the_area_that_their_index_says(name, options):
    dataset = FolderDataset(golden.data(name), min_area=0.01, **options)
    assert dataset.items and "background" not in dataset.classes and "unlabeled" not in dataset.classes
    for index in range(0, len(dataset), 29):
        assert (dataset.sample(index).mask == 1).mean() > 0.0099


def written(root, *names):
    """Photos, and masks where the name speaks of one."""
    for name in names:
        (mask if "mask" in name or name.endswith(".png") else photo)(root / name)


LAYOUTS = {
    "images and masks of one class": ["images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png"],
    "masks without class folder": ["images/sheep/a.jpg", "images/sheep/b.jpg", "masks/a.png", "masks/b.png"],
    "class, then images": ["sheep/images/a.jpg", "sheep/images/b.jpg", "sheep/masks/a.png", "sheep/masks/b.png"],
    "masks beside, by a word": ["a.jpg", "a_mask.png", "b.jpg", "b-mask.png"],
    "masks beside, by their ending": ["a.jpg", "a.png", "b.jpeg", "b.png"],
    "masks beside, by class": ["sheep/a.jpg", "sheep/a.mask.png", "sheep/b.jpg", "sheep/b.png"],
    "masks beside in images": [
        "images/sheep/a.jpg",
        "images/sheep/a_mask.png",
        "images/sheep/b.jpg",
        "images/sheep/b.png",
    ],
    "photos, and a folder of masks": ["a.jpg", "b.jpg", "masks/a.png", "masks/b_Mask.PNG"],
    "masks with a word": [
        "images/sheep/a.jpg",
        "images/sheep/b.jpg",
        "masks/sheep/a_mask.png",
        "masks/sheep/mask_b.png",
    ],
    "masks with the whole name": ["images/a.jpg", "images/b.jpg", "masks/a.jpg.png", "masks/b.jpg_mask.png"],
    "letters of another case": ["images/A.JPG", "images/b.jpg", "masks/a.png", "masks/B.png"],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_one_class_may_be_laid_out_in_any_common_way(tmp_path, names, recwarn):
    root = tmp_path / "sheep"
    written(root, *names)
    dataset = FolderDataset(root)
    assert dataset.classes == ["sheep"] and [item.id.lower() for item in dataset.items] == ["sheep/a", "sheep/b"]
    assert all(item.mask_path is not None for item in dataset.items)
    assert dataset.sample(0).mask.sum() == 18 and not list(recwarn)
    assert FolderDataset(root, name="ram").classes == ["ram"]


def test_several_classes_may_be_folders_with_images_or_with_photos(tmp_path):
    for name in ("sheep", "cow"):
        written(tmp_path / "deep", f"{name}/images/a.jpg", f"{name}/masks/a.png")
        written(tmp_path / "flat", f"{name}/a.jpg", f"{name}/a_mask.png")
    for root in ("deep", "flat"):
        dataset = FolderDataset(tmp_path / root)
        assert dataset.classes == ["cow", "sheep"] and all(item.mask_path for item in dataset.items)
        assert_refused(lambda root=root: FolderDataset(tmp_path / root, name="ram"), "2 classes", "--name ram")


def test_what_a_folder_of_examples_holds_and_is_left_out_is_named(tmp_path):
    written(
        tmp_path, "images/cat/a.jpg", "images/cat/b.jpg", "masks/cat/a_mask.png", "masks/cat/c.png", "images/loose.jpg"
    )
    (tmp_path / "masks/cat/b.json").write_text("{}")
    (tmp_path / "images/cat/raw.cr2").write_bytes(b"II*\0")
    (tmp_path / "images/cat/lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "images/cat/.DS_Store").write_text("x")
    with pytest.warns(InputWarning) as said:
        dataset = FolderDataset(tmp_path)
    assert {item.id: item.mask_path is not None for item in dataset.items} == {"cat/a": True, "cat/b": False}
    lines = sorted(str(line.message).removeprefix(f"{tmp_path}/") for line in said)
    assert lines == [
        "images/cat: left out, a link that leads nowhere: lost.jpg",
        "images/cat: left out, no image that can be read: raw.cr2",
        "images: left out, in no class folder: loose.jpg",
        "masks/cat: left out, a mask of no photo: c.png",
        "masks/cat: left out, no image that can be read: b.json",
    ]


def test_masks_without_images_and_photos_below_a_class_are_said(tmp_path):
    written(tmp_path / "a", "pictures/x.jpg", "masks/x.png")
    assert_refused(lambda: FolderDataset(tmp_path / "a"), "masks/", "images/")
    written(tmp_path / "b", "images/cat/x.jpg", "images/cat/deep/y.jpg")
    with pytest.warns(InputWarning, match=r"images/cat: left out, folders in the folder of a class: deep"):
        assert len(FolderDataset(tmp_path / "b")) == 1


def test_a_mask_may_be_a_numpy_file(tmp_path):
    photo(tmp_path / "images/cat/a.jpg")
    (tmp_path / "masks/cat").mkdir(parents=True)
    drawn = np.zeros((8, 12), bool)
    drawn[2:5, 3:9] = True
    np.save(tmp_path / "masks/cat/a.npy", drawn)
    np.testing.assert_array_equal(FolderDataset(tmp_path).sample(0).mask, drawn)


def test_label_maps_and_photos_without_each_other_are_named(label_maps):
    photo(label_maps / "images/train/bare.jpg")
    mask(label_maps / "masks/train/stray.png")
    with pytest.warns(InputWarning) as said:
        FolderDataset(label_maps)
    text = " ".join(str(line.message) for line in said)
    assert "no label map" in text and "bare.jpg" in text and "a mask of no photo: stray.png" in text


def test_links_to_folders_are_followed_once_in_a_folder_and_in_a_glob(tmp_path):
    inside, outside = photo(tmp_path / "all/z real/a.jpg"), photo(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "all/a link").symlink_to(inside.parent)
    (tmp_path / "all/more").symlink_to(outside.parent)
    (tmp_path / "all/z real/loop").symlink_to(tmp_path / "all")
    expected = [tmp_path / "all/more/b.jpg", inside]
    assert find_images(tmp_path / "all") == expected
    assert find_images(str(tmp_path / "all" / "**" / "*.jpg")) == expected
    (tmp_path / "all/lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for query in (tmp_path / "all", str(tmp_path / "all" / "**" / "*")):
        with pytest.warns(InputWarning, match=r"a link that leads nowhere: lost\.jpg"):
            assert find_images(query) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_among_photos_is_named_and_not_waited_for(tmp_path):
    expected = [photo(tmp_path / "a.jpg")]
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for query in (tmp_path, str(tmp_path / "*")):
        with pytest.warns(InputWarning, match=r"left out, no image that can be read: pipe\.jpg$"):
            assert find_images(query) == expected
    assert_refused(lambda: find_images(tmp_path / "pipe.jpg"), "pipe.jpg: a pipe or a device")


def test_a_photo_is_told_by_its_beginning_where_its_ending_says_nothing(tmp_path):
    for name in ("scan", "IMG_1.JPG_large", "a.jfif", "b.avif", "c.HEIC", "d.dat"):
        photo(tmp_path / "x.jpg").rename(tmp_path / name)
    for name in ("a.jpg~", "b.jpg.bak", "notes.txt", "c.jpg.part", "table.csv", "film.mp4"):
        (tmp_path / name).write_bytes((tmp_path / "scan").read_bytes() if "jpg" in name else b"plain text")
    with pytest.warns(InputWarning, match=r"no image that can be read: a\.jpg~, b\.jpg\.bak, c\.jpg\.part, film"):
        found = find_images(tmp_path)
    assert [path.name for path in found] == ["IMG_1.JPG_large", "a.jfif", "b.avif", "c.HEIC", "d.dat", "scan"]


def test_class_folders_that_differ_in_the_spelling_of_accents_alone_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        photo(tmp_path / "images" / unicodedata.normalize(form, "caf\u00e9") / f"{form}.jpg")
    assert_refused(lambda: FolderDataset(tmp_path), "two folders of this name", "join them")


def test_an_address_in_place_of_a_folder_says_what_to_do():
    assert_refused(lambda: find_images("https://example.org/a.jpg"), "https://example.org/a.jpg", "download it first")
