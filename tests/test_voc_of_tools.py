"""Folders of VOC as LabelMe and others write them."""

import numpy as np
import pytest
from PIL import Image

from annotated import photos, two
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.voc import palette
from shotseg.data.folder import FolderDataset
from shotseg.errors import InputError, InputWarning


def voc(root, name="a.png", folder="SegmentationClass"):
    photos(root / "JPEGImages", "a.jpg")
    (root / folder).mkdir()
    image = Image.fromarray(two())
    image.putpalette(palette().ravel().tolist())
    image.save(root / folder / name, "PNG")
    return root


def drawn(root):
    assert detect(root) == "voc"
    classes, (result,) = read("voc", root)
    return classes, result.labels


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_the_classes_of_labelme_s_voc_are_those_of_its_own_list(tmp_path, folder):
    root = voc(tmp_path, folder=folder)
    (root / "SegmentationClass").mkdir(exist_ok=True)
    np.save(root / "SegmentationClass/a.npy", two())
    (root / "class_names.txt").write_text("_background_\ncat\ndog\n")
    classes, labels = drawn(root)
    assert classes == ["cat", "dog"]
    np.testing.assert_array_equal(labels, two())
    (root / "class_names.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"class_names\.txt: not _background_ and then one class a line"):
        read("voc", root)


def test_the_header_of_a_label_map_may_lack_its_mark_and_masks_may_end_in_capitals(tmp_path):
    root = voc(tmp_path, "a.PNG")
    text = "label:color_rgb:parts:actions\r\nbackground:0,0,0::\r\ndog:0, 128, 0::\r\ncat:128,0,0::\r\n"
    (root / "labelmap.txt").write_bytes(text.encode("utf-8-sig"))
    classes, labels = drawn(root)
    assert classes == ["dog", "cat"]
    np.testing.assert_array_equal(labels, np.uint8([0, 2, 1])[two()])


def test_a_folder_of_voc_without_masks_is_no_data_set_of_no_photos(tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    np.save(tmp_path / "SegmentationClass/a.npy", two())
    with pytest.raises(InputError, match="no PNG in its SegmentationClass or SegmentationClassPNG"):
        read("voc", tmp_path)


@pytest.mark.parametrize("mask", ["a_cp_masks.png", "a_label_ground-truth.png", "a-segmask.tif", "a_masks.tif"])
def test_a_mask_is_known_by_the_words_that_tools_put_behind_a_name(tmp_path, mask):
    photos(tmp_path / "images", "a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.uint8(two() == 1)).save(tmp_path / "masks" / mask)
    assert FolderDataset(tmp_path).items[0].mask_path == tmp_path / "masks" / mask


def test_a_palette_of_other_colours_counts_by_its_indices_where_no_table_says_colours(tmp_path):
    root = voc(tmp_path)
    image = Image.fromarray(two())
    image.putpalette([0, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(root / "SegmentationClass/a.png")
    with pytest.warns(InputWarning, match=r"no labelmap\.txt, so values have the names of PASCAL VOC, 1 = aeroplane"):
        classes, labels = drawn(root)
    assert classes[:2] == ["aeroplane", "bicycle"]
    np.testing.assert_array_equal(labels, two())
    (root / "labelmap.txt").write_text("background:0,0,0::\ndog:0,0,255::\ncat:0,255,0::\n")
    np.testing.assert_array_equal(drawn(root)[1], np.uint8([0, 2, 1])[two()])


def test_voc_with_the_masks_of_sbd_alone_has_voc_s_classes(tmp_path):
    photos(tmp_path / "JPEGImages", "a.jpg")
    (tmp_path / "SegmentationClassAug").mkdir()
    Image.fromarray(two() * 4).save(tmp_path / "SegmentationClassAug/a.png")
    np.testing.assert_array_equal(drawn(tmp_path)[1], two() * 4)
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(two()).save(tmp_path / "SegmentationClass/a.png")
    with pytest.warns(
        UserWarning, match="masks in SegmentationClass count, those in SegmentationClassAug are passed over"
    ):
        np.testing.assert_array_equal(drawn(tmp_path)[1], two())
