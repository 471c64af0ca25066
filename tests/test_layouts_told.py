"""Folders of masks that no table describes: what is told by their names, and what is said where they tell nothing."""

import numpy as np
import pytest
from PIL import Image

from annotated import photos
from shotseg.data.annotations import detect
from shotseg.data.annotations.voc import palette
from shotseg.data.folder import FolderDataset
from shotseg.errors import UsageError
from test_known_layouts import BOTH, LEFT, drawn, in_colours, save, white


def test_photos_in_train_have_their_masks_in_train_labels(tmp_path):
    photos(tmp_path, "train/1.tiff", "val/2.tiff")
    save(tmp_path / "train_labels/1.tif", white())
    save(tmp_path / "val_labels/2.tif", white())
    data = FolderDataset(tmp_path)
    assert data.classes == [tmp_path.name] and all(item.mask_path for item in data.items)


def test_annotations_some_folders_deeper_are_named(tmp_path):
    photos(tmp_path, "VOCdevkit/VOC2012/JPEGImages/a.jpg")
    save(tmp_path / "VOCdevkit/VOC2012/SegmentationClass/a.png", drawn(BOTH), palette())
    with pytest.raises(UsageError, match=r"one folder deeper; give .*VOCdevkit/VOC2012"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([drawn(BOTH, (2, 13)), drawn(LEFT, (2,))], "the values 2, 13, read as one class .* name them in classes.csv"),
        ([drawn(BOTH)] * 3, "the values 1, 2, read"),
        ([drawn(BOTH)] * 2, "the values 1, 2, read"),
        ([drawn(BOTH)], "the values 1, 2, read"),
        ([drawn(), drawn(BOTH)], "the values 1, 2, read"),
        ([in_colours(), in_colours(LEFT)], r"the colours #400080, #808080, read .* name them in class_dict.csv"),
    ],
)
def test_class_ids_that_are_read_as_one_class_are_said(tmp_path, masks, said):
    for number, mask in enumerate(masks):
        photos(tmp_path, f"images/{number}.jpg")
        save(tmp_path / f"masks/{number}.png", mask)
    with pytest.warns(UserWarning, match=said):
        FolderDataset(tmp_path)


def test_a_table_that_says_the_class_of_each_photo_is_said_where_it_is_not_read(tmp_path, recwarn):
    for number in range(2):
        photos(tmp_path, f"images/{number}.jpg")
        save(tmp_path / f"masks/{number}.png", white())
    (tmp_path / "splits.csv").write_text("image,label\n0.jpg,one\n1.jpg,one\n")
    FolderDataset(tmp_path)
    assert not recwarn
    (tmp_path / "data.csv").write_text("Image Name,Class Name\n0.jpg,cat\n1.jpg,dog\n")
    with pytest.warns(UserWarning, match=r"data\.csv: not read, every mask is of the class"):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(
    "masks",
    [
        [white(), white(BOTH)],
        [drawn(), drawn(BOTH), drawn(BOTH)],
        [drawn(BOTH, (255, 1)), drawn(LEFT, (1,))],
        [np.uint8(Image.fromarray(white()).resize((80, 60), Image.Resampling.BILINEAR, (0.3, 0.3, 79, 59)))] * 2,
    ],
)
def test_masks_of_one_class_are_taken_without_a_word(tmp_path, masks, recwarn):
    for number, mask in enumerate(masks):
        photos(tmp_path, f"images/{number}.jpg")
        save(tmp_path / f"masks/{number}.png", mask)
    FolderDataset(tmp_path)
    assert not [str(line.message) for line in recwarn]


def test_a_folder_called_as_masks_that_holds_none_stands_in_the_way_of_no_other(tmp_path):
    photos(tmp_path, "PNGImages/a.png")
    save(tmp_path / "PedMasks/a_mask.png", white())
    (tmp_path / "Annotation").mkdir()
    (tmp_path / "Annotation/a.txt").write_text("1")
    [item] = FolderDataset(tmp_path).items
    assert item.mask_path == tmp_path / "PedMasks/a_mask.png"


def test_a_class_that_is_called_as_masks_gets_a_line(tmp_path):
    photos(tmp_path, "2_Ortho/top_1_RGB.tif")
    save(tmp_path / "5_Labels_all/top_1_label.tif", white())
    with pytest.warns(
        UserWarning, match="read as classes of photos, and named as masks: 5_Labels_all; put photos into"
    ):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "tool"),
    [
        ("a.jpg.json", '{"metadata": {}, "instances": [{"className": "cat"}]}', "SuperAnnotate"),
        ("a.json", '{"objects": [{"objectHash": "x"}]}', "Encord"),
    ],
)
def test_annotations_that_are_not_read_are_named(tmp_path, file, content, tool):
    photos(tmp_path, "a.jpg")
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match=f"annotations of {tool}, which are not read"):
        detect(tmp_path)
