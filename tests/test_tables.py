"""Tables as spreadsheets and other tools save them: of classes, of photos, of labels."""

import numpy as np
import pytest
from PIL import Image

from annotated import photos, two
from shotseg.data import image_labels
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.folder import FolderDataset
from shotseg.data.weak_shot import _label_maps
from shotseg.errors import ShotsegError, UsageError


def label_maps(tmp_path, table: str | bytes, coding: str = "utf-8"):
    photos(tmp_path / "images", "a.jpg")
    (tmp_path / "masks").mkdir(exist_ok=True)
    Image.fromarray(two()).save(tmp_path / "masks/a.png")
    (tmp_path / "classes.csv").write_bytes(table if isinstance(table, bytes) else table.encode(coding))
    return tmp_path


@pytest.mark.parametrize(
    ("table", "coding"),
    [
        ("class_id,class\n1,cat\n2,dog\n", "utf-8"),
        ("Class_ID;Class\r\n1;cat\r\n2;dog\r\n", "utf-8-sig"),
        ("class_id\tclass\n1\tcat\n2\tdog\n", "utf-16"),
        ("sep=;\nid;name\n1;cat\n2;dog\n", "utf-8"),
        ("Label ID, Class Name\n1, cat\n2, dog\n", "utf-8"),
        ("name,id\ncat,1\ndog,2\n", "utf-8"),
        ("value,label\n0,background\n1,cat\n2,dog\n255,void\n", "utf-8"),
        ("label,name\n1,cat\n2,dog\n", "utf-8"),
        ("index;category;colour (r,g,b)\n1;cat;128,0,0\n2;dog;0,128,0\n", "utf-8"),
        ("1,cat\n2,dog\n", "utf-8"),
        ("class_id,class,,\n1.0,cat,,\n,,,\n\n2.0,dog,,\n", "utf-8"),
    ],
)
def test_the_classes_of_label_maps_stand_in_a_table_of_any_common_form(tmp_path, table, coding):
    root = label_maps(tmp_path, table, coding)
    dataset = open_folder(root)
    assert [item.id for item in dataset.items] == ["cat/a", "dog/a"]
    np.testing.assert_array_equal(dataset.sample(1).mask == 1, two() == 2)
    classes, (result,) = read("mask", root)
    assert classes == ["cat", "dog"]
    np.testing.assert_array_equal(result.labels, two())
    assert set(_label_maps(root, "train", ())[0]) >= {"cat", "dog"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,r,g,b\ncat,128,0,0\n", "its headers are 'name, r, g, b'; known are class_id"),
        ("class\ncat\n", "its headers are 'class'; known are"),
        ("class_id,class\n1,cat\n2,\n", "line 3, '2', a row without class_id and class"),
        ("class_id,class\n-1,cat\n", "line 2, '-1, cat', a row without"),
        ("class_id,class\n1,cat\n1.0,dog\n", "class_id 1 is there twice"),
        (b"PK\x03\x04\x14\0\x06\0", "a workbook or an archive, no text; save its sheet as CSV UTF-8"),
        (",\n", "empty; give the columns class_id"),
    ],
)
def test_another_table_of_classes_is_refused_with_what_is_known(tmp_path, table, said):
    root = label_maps(tmp_path, table)
    for call in (FolderDataset, lambda path: read("mask", path)):
        with pytest.raises(ShotsegError) as caught:
            call(root)
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_photo_that_the_index_does_not_list_or_lists_as_windows_does_is_not_lost(tmp_path):
    root = label_maps(tmp_path, "class_id,class\n1,cat\n2,dog\n")
    photos(root / "images", "b.jpg")
    Image.fromarray(two()).save(root / "masks/b.png")
    (root / "index.csv").write_text("Image;Class_ID;Area Fraction\nimages\\a.jpg;1;0.2\nimages\\a.jpg;2;0.1\n")
    assert [item.id for item in FolderDataset(root).items] == ["cat/a", "cat/b", "dog/a", "dog/b"]
    assert [item.id for item in FolderDataset(root, min_area=0.15).items] == ["cat/a", "cat/b"]


def labels(tmp_path, table: str):
    photos(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text(table, newline="")
    found = image_labels.read(tmp_path / "labels.csv", tmp_path)
    return {file: {found.classes[i] for i in numbers} for file, numbers in found.photos.items()}


def test_the_mark_between_cells_is_the_one_that_gives_a_photo_or_a_known_header(tmp_path):
    expected = {"a.jpg": {"dog"}, "b.jpg": {"cat"}}
    assert labels(tmp_path, 'photo;class;"place, date"\na.jpg;dog;"x, 1"\nb.jpg;cat;\n') == expected
    assert labels(tmp_path, '"file, name";class\na.jpg;dog\nb.jpg;cat\n') == expected
    assert labels(tmp_path, "file;class;score (0,1)\na.jpg;dog;0,93\nb.jpg;cat;0,5\n") == expected
    assert labels(tmp_path, ",,\nfile,class,\na.jpg,dog,\nb.jpg,cat,\n") == expected


def test_lines_within_a_cell_are_several_classes(tmp_path):
    assert labels(tmp_path, 'photo,class\r\na.jpg,"dog\nbrown cat"\r\nb.jpg,cat\r\n') == {
        "a.jpg": {"dog", "brown cat"},
        "b.jpg": {"cat"},
    }


def test_a_cross_marks_a_class_in_its_column(tmp_path):
    assert labels(tmp_path, "photo,dog,cat\na.jpg,x,\nb.jpg,-,X\n") == {"a.jpg": {"dog"}, "b.jpg": {"cat"}}
    with pytest.raises(UsageError, match="a workbook or an archive"):
        labels(tmp_path, "PK\x03\x04")


def test_masks_of_roboflow_have_the_classes_of_their_table_in_every_split(tmp_path):
    for split, values in (("train", "0, background\n1, cat\n2, dog\n"), ("valid", "0, background\n1, dog\n2, cat\n")):
        photos(tmp_path / split, "a_jpg.rf.12.jpg")
        Image.fromarray(two()).save(tmp_path / split / "a_jpg.rf.12_mask.png")
        (tmp_path / split / "_classes.csv").write_text(f"Pixel Value, Class\n{values}")
    assert detect(tmp_path) == "pairs"
    dataset = open_folder(tmp_path)
    shown = {item.id: dataset.sample(i).mask == 1 for i, item in enumerate(dataset.items)}
    assert sorted(shown) == [f"{name}/{split}/a_jpg.rf.12" for name in ("cat", "dog") for split in ("train", "valid")]
    np.testing.assert_array_equal(shown["cat/valid/a_jpg.rf.12"], two() == 2)
    np.testing.assert_array_equal(shown["dog/valid/a_jpg.rf.12"], two() == 1)
    assert [item.class_name for item in open_folder(tmp_path / "train").items] == ["cat", "dog"]


def test_a_table_of_whole_photos_of_the_same_name_names_no_values(tmp_path):
    photos(tmp_path, "a.jpg")
    Image.fromarray(np.uint8(two() == 1)).save(tmp_path / "a_mask.png")
    (tmp_path / "_classes.csv").write_text("filename, cat, dog\na.jpg, 1, 0\n")
    assert detect(tmp_path) == "mask"
