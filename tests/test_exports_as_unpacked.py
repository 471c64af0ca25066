"""Exports as they lie on people's disks: packed, unpacked one folder too deep, from Windows, or from a tool that is not read."""

import json
import warnings
import zipfile

import pytest
from PIL import Image

from annotated import SQUARE, instances, photos
from shotseg.data.annotations import detect
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import ShotsegError, UsageError

OUTLINE = "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n"
CORNERS = [[10, 10], [30, 10], [30, 30]]


def refused(path) -> str:
    with warnings.catch_warnings(record=True) as caught, pytest.raises(ShotsegError) as error:
        warnings.simplefilter("always")
        open_folder(path)
    assert "\n" not in str(error.value)
    return " ".join([str(error.value), *(str(each.message) for each in caught)])


def drawn(path) -> dict[str, int]:
    dataset = open_folder(path)
    return {item.id: int((dataset.sample(i).mask == 1).sum()) for i, item in enumerate(dataset.items)}


def test_an_archive_is_called_one_as_a_file_and_in_a_folder(tmp_path):
    folder = photos(instances(tmp_path / "coco", [{"segmentation": SQUARE}]), "a.jpg")
    (tmp_path / "in").mkdir()
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "in/export.zip", "w", packing) as archive:
            archive.write(folder / "instances.json", "annotations/instances.json")
        assert refused(tmp_path / "in/export.zip").endswith("export.zip: a ZIP archive; unpack it, and give the folder")
    assert "archives, unpack them: export.zip" in refused(tmp_path / "in")


def test_annotations_one_folder_deeper_are_no_class_of_that_name(tmp_path):
    photos(instances(tmp_path / "export/project-1", [{"segmentation": SQUARE}]), "a.jpg")
    (tmp_path / "export/__MACOSX").mkdir()
    assert f"one folder deeper; give {tmp_path / 'export/project-1'}" in refused(tmp_path / "export")
    assert drawn(tmp_path / "export/project-1") == {"cat/a": 400}
    photos(instances(tmp_path / "export/project-2", [{"segmentation": SQUARE}]), "a.jpg")
    both = f"give {tmp_path / 'export/project-1'} or {tmp_path / 'export/project-2'}"
    assert f"in 2 folders of their own; {both}" in refused(tmp_path / "export")


def test_names_that_hold_the_folders_of_windows_are_found(tmp_path):
    folder = instances(
        tmp_path, [{"segmentation": SQUARE}], [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}]
    )
    (folder / "instances.json").rename(folder / "annotations\\instances_default.json")
    photos(tmp_path, "images\\a.jpg")
    assert drawn(tmp_path) == {"cat/a": 400}


def test_endings_and_folders_may_be_in_capitals(tmp_path):
    photos(instances(tmp_path / "coco", [{"segmentation": SQUARE}]), "a.jpg")
    (tmp_path / "coco/instances.json").rename(tmp_path / "coco/LABELS.JSON")
    assert drawn(tmp_path / "coco") == {"cat/a": 400}
    for images, labels in (("Images", "Labels"), ("IMAGES", "LABELS"), ("Images", "labels")):
        root = tmp_path / f"{images}-{labels}"
        photos(root / images, "a.jpg")
        (root / labels).mkdir()
        (root / labels / "a.txt").write_text(OUTLINE)
        (root / "Data.YAML").write_text(f"names: [cat]\ntrain: {images}\n")
        assert drawn(root) == {"cat/a": 300}


def test_photos_of_yolo_of_which_none_has_labels_are_no_photos_without_objects(tmp_path):
    photos(tmp_path / "pictures", "a.jpg", "b.jpg")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: pictures\n")
    assert "no labels of its 2 photos, looked for as" in refused(tmp_path)


@pytest.mark.parametrize("named", ["a", 7])
def test_a_photo_that_is_named_without_its_ending_is_found_and_has_it_again(tmp_path, named):
    images = [{"id": 1, "file_name": named, "height": 60, "width": 80}]
    folder = instances(tmp_path, [{"segmentation": SQUARE}], images)
    photos(folder / "images", f"{named}.jpg")
    photos(folder / "masks", f"{named}.png")
    from shotseg.data.annotations import index

    (photo,) = index("coco", folder).photos
    assert (photo.file, photo.photo) == (f"{named}.jpg", folder / f"images/{named}.jpg")


def test_categories_without_any_name_are_called_by_their_supercategories(tmp_path):
    categories = [{"id": 1, "supercategory": "cat"}, {"id": 2, "supercategory": "dog"}]
    photos(instances(tmp_path, [{"segmentation": SQUARE, "category_id": 2}], categories=categories), "a.jpg")
    assert drawn(tmp_path) == {"dog/a": 400}
    instances(tmp_path, [{"segmentation": SQUARE}], categories=[{**c, "supercategory": "pet"} for c in categories])
    assert "categories without a name" in refused(tmp_path)


ISAT = {"info": {"description": "ISAT", "name": "a.jpg"}, "objects": [{"category": "cat", "segmentation": CORNERS}]}
NDJSON = '{"type": "dataset", "task": "segment", "class_names": {"0": "cat"}}\n{"type": "image", "file": "a.jpg"}\n'
OTHERS = {
    "ISAT": ("a.json", json.dumps(ISAT)),
    "Ultralytics NDJSON": ("set.ndjson", NDJSON),
    "VOC boxes": ("a.xml", "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"),
    "CreateML": ("a.json", json.dumps([{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {}}]}])),
    "YOLO without data.yaml": ("a.txt", OUTLINE),
}


@pytest.mark.parametrize("tool", OTHERS)
def test_photos_beside_annotations_that_are_not_read_are_no_examples_without_masks(tmp_path, tool):
    name, content = OTHERS[tool]
    photos(tmp_path, "a.jpg")
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=f"annotations of {tool}, which are not read; export them as COCO"):
        open_folder(tmp_path)
    Image.new("L", (80, 60), 255).save(tmp_path / "a_mask.png")
    assert detect(tmp_path) == "mask"  # with masks of its own, the photos are examples whatever else lies there
