"""Tables of image-level labels as people and programs write them."""

import pytest
from PIL import Image

from shotseg.data import image_labels
from shotseg.errors import UsageError


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


HEADERS = [
    "Image Name,Class Name",
    "img_name,label",
    "image_id,labels",
    "FILE PATH;Category",
    "photo\tTags",
    "filename,species",
    "name,label",
    "fname,class_label",
    "Image Filename,Tag",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_of_any_common_form_is_no_photo(photos, tmp_path, header):
    mark = next(mark for mark in ",;\t" if mark in header)
    (tmp_path / "labels.csv").write_text(f"{header}\na.jpg{mark}red|green\nb.png{mark}green\n")
    found = image_labels.read(tmp_path / "labels.csv", photos)
    assert found.classes == ("green", "red") and found.photos == {"a.jpg": (0, 1), "b.png": (0,)} and not found.failed


def test_an_unknown_header_is_an_error_that_lists_the_known(photos, tmp_path):
    for content in ("foo,bar\na.jpg,red\n", "Bild;Klasse\na.jpg;red\n", "image,colour\na.jpg,red\n"):
        (tmp_path / "labels.csv").write_text(content)
        with pytest.raises(UsageError, match=r"labels\.csv.*class, label, category") as caught:
            image_labels.read(tmp_path / "labels.csv", photos)
        assert "\n" not in str(caught.value)


def test_a_header_stays_one_where_a_photo_is_called_like_it(photos, tmp_path):
    Image.new("RGB", (9, 9)).save(photos / "Image.jpg")
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,red\nimage.jpg,green\n")
    assert image_labels.read(tmp_path / "labels.csv", photos).photos == {"a.jpg": (1,), "Image.jpg": (0,)}
    (tmp_path / "labels.csv").write_text("image,breed\na.jpg,red\n")
    with pytest.raises(UsageError, match="class, label"):
        image_labels.read(tmp_path / "labels.csv", photos)


def test_text_of_16_bits_without_its_mark_says_how_to_save_it(photos, tmp_path):
    (tmp_path / "labels.csv").write_bytes("image,label\na.jpg,red\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match="save it as UTF-8"):
        image_labels.read(tmp_path / "labels.csv", photos)


def test_numbers_of_classes_are_their_names_where_there_are_no_others(photos, tmp_path):
    (tmp_path / "labels.csv").write_text("image,class_id\na.jpg,0\nb.png,1\n")
    found = image_labels.read(tmp_path / "labels.csv", photos)
    assert found.classes == ("0", "1") and found.photos == {"a.jpg": (0,), "b.png": (1,)}


@pytest.mark.parametrize(
    "content",
    [
        "image,label,label\na.jpg,red,green\nb.png,green,\n",
        "A.JPG,red,green\nb,green\n",
        "image,labels\na.jpg,'red, green'\nb.png,green\n".replace("'", '"'),
        "image,labels\na.jpg,\"['red', 'green']\"\nb.png,\"['green']\"\n",
        "filename,red,green\na.jpg,1,1\nb.png,0,1\n",
        "sep=;\r\nimage;class\r\na.jpg;red|green\r\nb.png;green\r\n",
        "C:\\data\\photos\\a.jpg,red,green\n/home/me/photos/b.png,green\n",
    ],
)
def test_tables_as_other_programs_and_machines_write_them(photos, tmp_path, content):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "labels.csv").write_text(content, encoding=encoding, newline="")
        found = image_labels.read(tmp_path / "labels.csv", photos)
        assert (
            found.photos == {"a.jpg": (0, 1), "b.png": (0,)} and found.classes == ("green", "red") and not found.failed
        )


def test_windows_paths_name_photos_in_folders(tmp_path):
    (tmp_path / "dogs").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "dogs/1.jpg")
    (tmp_path / "labels.csv").write_text("dogs\\1.jpg,dog\n")
    found = image_labels.read(tmp_path / "labels.csv", tmp_path)
    assert found.paths == {"dogs/1.jpg": tmp_path / "dogs/1.jpg"} and found.classes == ("dog",)
    (tmp_path / "labels.csv").write_text("..\\..\\secret.jpg,dog\ndogs/1.jpg,dog\n")
    found = image_labels.read(tmp_path / "labels.csv", tmp_path)
    assert list(found.photos) == ["dogs/1.jpg"] and "names no photo below" in found.failed[0][1]


def test_a_photo_is_found_by_its_address_and_by_a_name_with_percent_signs(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "my cat.jpg")
    for name in ("my%20cat.jpg", "https://x.org/cats/my cat.jpg", "s3://bucket/my cat.jpg"):
        (tmp_path / "t.csv").write_text(f"image,label\n{name},cat\n")
        assert list(image_labels.read(tmp_path / "t.csv", tmp_path).photos) == ["my cat.jpg"], name
