"""Annotation files as people have them: every format as a data set, from one into another, and what is odd in them."""

import base64
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.draw import disk

from shotseg.cli import main
from shotseg.data import weak_shot
from shotseg.data.annotations import FORMATS, Labelled, coco, detect, read, write
from shotseg.data.annotations.opened import AnnotatedDataset, open_folder
from shotseg.data.sets.coco_masks import decode
from shotseg.errors import InputError, ShotsegError, UsageError

CLASSES = ["cat", "dog"]
TARGETS = [name for name in FORMATS if name != "coco-polygons"]
CLOSE = ("coco-polygons", "yolo")  # outlines: close, not equal


def two() -> np.ndarray:
    """A cat with a hole, and two dogs, one of which touches the border."""
    labels = np.zeros((60, 80), np.uint8)
    labels[disk((30, 30), 20)] = 1
    labels[disk((30, 30), 6)] = 0
    labels[disk((50, 70), 14, shape=labels.shape)] = 2
    labels[5:12, 60:70] = 2
    return labels


def photos(folder: Path, *names: str, size=(80, 60)) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 90, 200)).save(folder / name)
    return folder


def written(tmp_path: Path, format: str) -> Path:
    """A data set in that format, of three photos, one of which shows nothing."""
    originals = photos(tmp_path / "originals", "a.jpg", "deep/b.png", "none.jpg")
    maps = {"a.jpg": two(), "deep/b.png": two()[:, ::-1].copy(), "none.jpg": np.zeros((60, 80), np.uint8)}
    found = [Labelled(file, labels, photo=originals / file) for file, labels in maps.items()]
    write(format, tmp_path / format, found, CLASSES, photos="copy")
    return tmp_path / format


def instances(folder: Path, annotations: list, images=None, categories=None) -> Path:
    images = images or [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}]
    categories = categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for number, annotation in enumerate(annotations):
        annotation.setdefault("id", number)
        annotation.setdefault("image_id", 1)
        annotation.setdefault("category_id", 1)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def labels_of(format: str, path: Path) -> dict[str, np.ndarray]:
    return {result.stem: result.labels for result in read(format, path)[1]}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_told_by_looking_and_opens_as_a_data_set(format, tmp_path):
    folder = written(tmp_path, format)
    assert detect(folder) == format.removesuffix("-polygons")
    dataset = open_folder(folder)
    assert dataset.classes == CLASSES
    assert sorted(item.id for item in dataset.items) == ["cat/a", "cat/deep/b", "dog/a", "dog/deep/b"]
    for index, item in enumerate(dataset.items):
        expected = two() if item.id.endswith("/a") else two()[:, ::-1]
        sample = dataset.sample(index)
        assert sample.image.shape == (60, 80, 3) and sample.tags == {0, 1} and item.content
        wrong = (sample.mask == 1) != (expected == CLASSES.index(item.class_name) + 1)
        assert wrong.sum() <= (12 if format in CLOSE else 0), item.id
    assert open_folder(folder, classes=["dog"]).classes == ["dog"]
    with pytest.raises(UsageError, match="bird"):
        open_folder(folder, classes=["bird"])


@pytest.mark.parametrize("source", TARGETS)
@pytest.mark.parametrize("target", FORMATS)
def test_every_format_is_converted_into_every_other(source, target, tmp_path, capsys):
    folder = written(tmp_path, source)
    assert main(["convert", str(folder), "--to", target, "--out", str(tmp_path / "out"), "--copy-images"]) == 0
    said = capsys.readouterr()
    assert "3 of 3 photos converted" in said.out and "next: " in said.out and said.err == ""
    classes, found = read(target, tmp_path / "out")
    maps = {result.file: result.labels for result in found}
    assert classes == CLASSES
    if target not in ("mask", "voc"):
        assert sorted(maps) == ["a.jpg", "deep/b.png", "none.jpg"]
    for file, labels in maps.items():
        expected = {"a": two(), "deep/b": two()[:, ::-1]}.get(file.rpartition(".")[0], np.zeros((60, 80)))
        close = {source, target} & set(CLOSE)
        assert (labels != expected).sum() <= (25 if close else 0), file


def test_a_class_folder_is_converted_and_one_photo_of_two_classes_stays_one(tmp_path):
    root = tmp_path / "mine"
    for number, name in enumerate(CLASSES, start=1):
        photos(root / "images" / name, "a.jpg")
        (root / "masks" / name).mkdir(parents=True)
        Image.fromarray((two() == number).astype(np.uint8) * 255).save(root / "masks" / name / "a.png")
    assert main(["convert", str(root), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    (labels,) = labels_of("coco", tmp_path / "out").values()
    np.testing.assert_array_equal(labels, two())


def test_roboflow_s_splits_are_one_data_set(tmp_path):
    for split, name in (("train", "a.jpg"), ("valid", "b.jpg")):
        photos(tmp_path / split, name)
        instances(
            tmp_path / split, [{"segmentation": SQUARE}], [{"id": 1, "file_name": name, "height": 60, "width": 80}]
        )
        (tmp_path / split / "instances.json").rename(tmp_path / split / "_annotations.coco.json")
    assert detect(tmp_path) == "coco"
    assert [item.id for item in open_folder(tmp_path).items] == ["cat/train/a", "cat/valid/b"]


def test_a_pair_of_folders_holds_label_maps_by_equal_or_marked_stems(tmp_path):
    photos(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "masks").mkdir()
    for name in ("a", "b_mask", "c-mask"):
        Image.fromarray(two()).save(tmp_path / "masks" / f"{name}.png")
    dataset = open_folder(tmp_path, "pairs")
    assert dataset.classes == ["1", "2"] and len(dataset.items) == 6
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    assert detect(tmp_path) == "pairs" and open_folder(tmp_path).classes == CLASSES
    np.testing.assert_array_equal(open_folder(tmp_path).sample(0).mask, two() == 1)


def test_where_two_formats_fit_from_decides(tmp_path):
    photos(tmp_path, "a.jpg")
    instances(tmp_path, [{"segmentation": SQUARE}])
    write("cvat", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    with pytest.raises(UsageError, match=r"coco and cvat both fit.*--from"):
        open_folder(tmp_path)
    assert open_folder(tmp_path, "cvat").classes == CLASSES
    assert open_folder(tmp_path / "instances.json").classes == ["cat"]
    assert main(["convert", str(tmp_path), "--from", "cvat", "--to", "voc", "--out", str(tmp_path / "out")]) == 0


# What is odd in COCO files.


def test_any_number_of_categories_is_read(tmp_path):
    categories = [{"id": i, "name": f"class {i}"} for i in range(300)]  # ids from 0
    images = [{"id": 0, "file_name": "a.jpg", "height": 60, "width": 80}]
    drawn = [{"segmentation": SQUARE, "category_id": 299, "image_id": 0}]
    photos(instances(tmp_path, drawn, images, categories), "a.jpg")
    classes, (result,) = read("coco", tmp_path)
    assert len(classes) == 300 and set(np.unique(result.labels)) == {0, 300}
    dataset = open_folder(tmp_path)
    assert dataset.classes == ["class 299"] and dataset.sample(0).mask.sum() == 400
    for target in ("coco", "cvat", "labelme", "yolo"):
        assert main(["convert", str(tmp_path / "instances.json"), "--to", target, "--out", str(tmp_path / target)]) == 0
    again, (result,) = read("coco", tmp_path / "coco")
    assert again == classes and (result.labels == 300).sum() == 400
    assert main(["convert", str(tmp_path / "instances.json"), "--to", "voc", "--out", str(tmp_path / "voc")]) == 2


def test_sizes_may_be_floats_and_a_photo_without_one_is_left_out_and_named(tmp_path):
    images = [
        {"id": 1, "file_name": "a.jpg", "height": 60.0, "width": 80.0},
        {"id": 2, "file_name": "gone.jpg", "height": None, "width": None},
        {"id": 3, "file_name": "here.jpg", "height": None, "width": None},
    ]
    drawn = [{"segmentation": SQUARE, "image_id": i} for i in (1, 2, 3)]
    photos(instances(tmp_path, drawn, images), "here.jpg")
    with pytest.warns(UserWarning, match=r"gone\.jpg has no size"):
        maps = labels_of("coco", tmp_path)
    assert {name: int(labels.sum()) for name, labels in maps.items()} == {"a": 400, "here": 400}


def test_what_cannot_be_drawn_is_named_and_the_rest_is_read(tmp_path):
    nan = float("nan")
    bad = [
        ({"id": 90}, "without a segmentation"),
        ({"id": 91, "segmentation": None}, "without a segmentation"),
        ({"id": 92, "segmentation": []}, "without a segmentation"),
        ({"id": 93, "segmentation": [[1, 2, 3, 4, 5, nan]]}, "no numbers"),
        ({"id": 94, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "7 numbers"),
        ({"id": 95, "segmentation": [[0, 0, 1e12, 0, 1e12, 1e12]]}, "far outside"),
        ({"id": 96, "segmentation": {"size": [60, 80], "counts": [3, 4]}}, "7 pixels"),
        ({"id": 97, "image_id": 12345, "segmentation": SQUARE}, "of a photo that is not in it"),
        ({"id": 98, "category_id": 77, "segmentation": SQUARE}, "of an unknown category"),
        ({"id": 99, "segmentation": {"size": [60, 80], "counts": "\x7f"}}, "left out"),
        ({"id": 89, "segmentation": "text"}, "left out"),
    ]
    for content in ([], {"images": 3}, {"images": [], "annotations": [], "categories": [3]}, [1], "text"):
        (tmp_path / "instances.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"instances\.json"):
            read("coco", tmp_path / "instances.json")
    instances(tmp_path, [{"segmentation": SQUARE, "category_id": [1]}])
    with pytest.raises(InputError, match=r"instances\.json: not COCO"):
        read("coco", tmp_path)
    for annotation, why in bad:
        instances(tmp_path, [{"id": 1, "segmentation": SQUARE}, annotation])
        with pytest.warns(UserWarning, match=why) as caught:
            maps = labels_of("coco", tmp_path)
        assert len(caught) == 1 and "instances.json" in str(caught[0].message)
        assert maps["a"].sum() == 400


def test_a_photo_of_which_nothing_can_be_drawn_is_no_empty_photo(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (1, 2, 3)]
    instances(tmp_path, [{"segmentation": SQUARE}, {"image_id": 2, "bbox": [1, 1, 9, 9]}], images)
    with pytest.warns(UserWarning, match=r"photo 2\.jpg: none of its 1 objects"):
        maps = labels_of("coco", tmp_path)
    assert sorted(maps) == ["1", "3"] and not maps["3"].any()


def test_masks_of_another_size_are_fitted_where_the_sides_agree_and_named_where_not(tmp_path):
    runs = {"size": [30, 40], "counts": [0, 1200]}
    photos(instances(tmp_path, [{"segmentation": runs}]), "a.jpg")
    with pytest.warns(UserWarning, match="resized"):
        assert open_folder(tmp_path).sample(0).mask.all()
    photos(instances(tmp_path, [{"segmentation": {"size": [40, 30], "counts": [0, 1200]}}]), "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: drawn on 30 x 40, but the photo is 80 x 60"):
        open_folder(tmp_path).sample(0)


def test_files_of_any_length_and_order_of_keys_are_told_apart(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in range(20_000)]
    folder = instances(tmp_path / "long", [{"segmentation": SQUARE}], images)
    assert (folder / "instances.json").stat().st_size > 1_000_000 and detect(folder) == "coco"
    content = json.loads((folder / "instances.json").read_text())
    content = {"categories": content["categories"], "annotations": content["annotations"] * 20_000, "images": images}
    (folder / "instances.json").write_text(json.dumps(content))
    assert detect(folder) == "coco"
    labelme_file(tmp_path / "a/a.json", {"label": "cat", "points": SQUARE}, imageData="x" * 2_000_000)
    assert detect(tmp_path / "a") == "labelme"
    write("labelstudio", tmp_path / "ls", Blobs(700), CLASSES)
    assert (tmp_path / "ls/tasks.json").stat().st_size > 1_000_000 and detect(tmp_path / "ls") == "labelstudio"
    with pytest.raises(UsageError, match="no annotation file"):
        detect(tmp_path / "ls/config.xml")


def test_a_crowd_is_a_mask_like_any_other(tmp_path):
    instances(tmp_path, [{"segmentation": {"size": [60, 80], "counts": [0, 60, 4740]}, "iscrowd": 1}])
    assert (labels_of("coco", tmp_path)["a"][:, 0] == 1).all()


@pytest.mark.parametrize("name", ["../../x.jpg", "..\\..\\x.jpg", "a/../../../x.jpg", "", None])
@pytest.mark.parametrize("target", FORMATS)
def test_no_file_name_leads_out_of_the_output_folder(name, target, tmp_path):
    images = [
        {"id": 1, "file_name": "a.jpg", "height": 60, "width": 80},
        {"id": 2, "file_name": name, "height": 60, "width": 80},
    ]
    instances(tmp_path / "in/deep", [{"segmentation": SQUARE}, {"segmentation": SQUARE, "image_id": 2}], images)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.warns(UserWarning, match="outside its folder"):
        assert main(["convert", str(tmp_path / "in/deep"), "--to", target, "--out", str(tmp_path / "in/out")]) == 1
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert made and all(path.is_relative_to(tmp_path / "in/out") for path in made)
    with pytest.raises(ShotsegError):
        write(target, tmp_path / "again", [Labelled(name or "", two())], CLASSES)


@pytest.mark.parametrize("name", ["/home/me/a.jpg", "C:\\photos\\a.jpg", "https://host/x/a.jpg"])
def test_absolute_names_are_found_by_their_last_part(name, tmp_path):
    images = [{"id": 1, "file_name": name, "height": 60, "width": 80}]
    photos(instances(tmp_path, [{"segmentation": SQUARE}], images), "images/a.jpg")
    assert open_folder(tmp_path).items[0].image_path == tmp_path / "images/a.jpg"


def test_ids_and_order_of_photos_and_categories_survive(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (70, 0, 5)]
    categories = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "ant"}, {"id": 0, "name": "mouse"}]
    instances(tmp_path, [{"segmentation": SQUARE, "image_id": 5, "category_id": 90}], images, categories)
    assert main(["convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / coco.FILE).read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(70, "70.jpg"), (0, "0.jpg"), (5, "5.jpg")]
    assert {c["name"]: c["id"] for c in content["categories"]} == {"mouse": 0, "ant": 3, "zebra": 90}
    assert [(a["image_id"], a["category_id"]) for a in content["annotations"]] == [(5, 90)]


def test_objects_that_touch_or_overlap_stay_apart(tmp_path):
    other = [[20, 10, 40, 10, 40, 30, 20, 30]]
    drawn = [{"segmentation": SQUARE}, {"segmentation": other}, {"segmentation": other, "category_id": 2}]
    photos(instances(tmp_path, drawn), "a.jpg")
    dataset = open_folder(tmp_path)
    assert [int(dataset.sample(i).mask.sum()) for i in range(2)] == [600, 400]
    for target in ("labelme", "cvat", "coco-polygons", "yolo"):
        assert main(["convert", str(tmp_path / "instances.json"), "--to", target, "--out", str(tmp_path / target)]) == 0
        (result,) = read(target, tmp_path / target)[1]
        assert sorted(int(part.mask.sum()) for part in result.parts) == [400, 400, 400]


# What is odd in the files of other tools.


def labelme_file(path: Path, *shapes: dict, **more) -> None:
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": "a.jpg", "imageHeight": 60, "imageWidth": 80}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **more}))


def test_labelme_s_shapes_are_drawn_and_lines_are_named(tmp_path):
    box = {"label": "cat", "shape_type": "rectangle", "points": [[10, 10], [19, 19]]}
    line = {"label": "cat", "shape_type": "linestrip", "points": [[1, 1], [2, 2]]}
    photos(tmp_path / "images", "a.jpg")
    labelme_file(tmp_path / "json/a.json", box, line, imagePath="..\\images\\a.jpg")
    (tmp_path / "json/broken.json").write_text('{"version": "5", "shapes": [')
    with pytest.warns(UserWarning) as caught:
        dataset = open_folder(tmp_path)
    said = " ".join(str(w.message) for w in caught)
    assert "linestrip left out" in said and "broken.json" in said
    assert dataset.items[0].image_path.resolve() == (tmp_path / "images/a.jpg").resolve()
    assert dataset.sample(0).mask.sum() == 100


def test_labelme_files_in_place_of_masks_are_read_and_a_mixture_is_refused(tmp_path):
    square = {"label": "cat", "points": [[10, 10], [30, 10], [30, 30], [10, 30]]}
    for name in ("cat", "dog"):
        photos(tmp_path / "images" / name, "a.jpg")
        labelme_file(tmp_path / "masks" / name / "a.json", {**square, "label": name})
    dataset = open_folder(tmp_path)
    assert [(i.class_name, i.image_path.parent.name) for i in dataset.items] == [("cat", "cat"), ("dog", "dog")]
    Image.fromarray(two()).save(tmp_path / "masks/cat/b.png")
    with pytest.raises(UsageError, match="mask and labelme both fit"):
        open_folder(tmp_path)


def test_cvat_s_shapes_are_drawn_in_their_order_and_lines_are_named(tmp_path):
    (tmp_path / "annotations.xml").write_text(
        '<?xml version="1.0"?><annotations><version>1.1</version><meta><job><labels><label><name>dog</name></label>'
        "<label><name>cat &amp; co</name></label></labels></job></meta>"
        '<image id="0" name="a.jpg" width="80" height="60">'
        '<polygon label="cat &amp; co" points="10,10;30,10;30,30;10,30" z_order="1"/>'
        '<box label="dog" xtl="0" ytl="0" xbr="20" ybr="20" z_order="0"/>'
        '<mask label="dog" rle="0, 2, 2" left="78" top="58" width="2" height="2" z_order="2"/>'
        '<mask label="dog" rle="0, 9" left="0" top="0" width="2" height="2" z_order="2"/>'
        '<polyline label="dog" points="1,1;2,2" z_order="0"/></image></annotations>'
    )
    with pytest.warns(UserWarning) as caught:
        classes, (result,) = read("cvat", tmp_path)
    said = " ".join(str(w.message) for w in caught)
    assert "polyline of a.jpg left out" in said and "9 pixels" in said
    assert classes == ["dog", "cat & co"]
    expected = np.zeros((60, 80), int)
    expected[:20, :20] = 1
    expected[10:30, 10:30] = 2
    expected[58, 78:] = 1
    np.testing.assert_array_equal(result.labels, expected)


def test_label_studio_s_brush_polygon_and_bitmask_are_read_from_both_exports(tmp_path):
    picture = io.BytesIO()
    alpha = np.zeros((60, 80, 4), np.uint8)
    alpha[40:50, 40:50, 3] = 255  # black on transparent, as its bitmask tool exports
    Image.fromarray(alpha).save(picture, "PNG")
    address = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    values = [
        {"points": [[0, 0], [25, 0], [25, 50], [0, 50]], "polygonlabels": ["cat"]},
        {"imageDataURL": address, "bitmasklabels": ["dog"]},
        {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["dog"]},
    ]
    size = {"original_width": 80, "original_height": 60}
    name = "/data/upload/1/0a1b2c3d-my%20photo.jpg"
    full = {"data": {"picture": name}, "annotations": [{"result": [{**size, "value": value} for value in values]}]}
    small = {"picture": name, "label": [{**size, **value} for value in values]}
    for task in (full, small):  # JSON, JSON-MIN
        (tmp_path / "export.json").write_text(json.dumps([task]))
        photos(tmp_path, "my photo.jpg")
        with pytest.warns(UserWarning, match="left out"):
            dataset = open_folder(tmp_path)
        assert dataset.classes == CLASSES
        cat, dog = dataset.sample(0).mask, dataset.sample(1).mask
        assert cat.sum() == 20 * 30 and dog[40:50, 40:50].all() and dog.sum() == 100


def test_yolo_s_layouts_are_read_from_any_working_directory(tmp_path, monkeypatch):
    outline = "1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n"
    for split in ("train", "valid"):  # as Roboflow lays it out
        photos(tmp_path / "set" / split / "images", "a.jpg")
        (tmp_path / "set" / split / "labels").mkdir()
        (tmp_path / "set" / split / "labels/a.txt").write_text(outline)
    content = {"train": "../train/images", "val": "../valid/images", "names": CLASSES}
    (tmp_path / "set/data.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir("/")
    assert [item.id for item in open_folder(tmp_path / "set").items] == ["dog/train/a", "dog/valid/a"]
    assert open_folder(tmp_path / "set/data.yaml").sample(0).mask.sum() == 20 * 15
    write("yolo", tmp_path / "out", [Labelled("a.jpg", two())], CLASSES)
    (tmp_path / "set/data.yaml").write_text(yaml.safe_dump({**content, "names": {1: "dog", 7: "cat"}}))
    assert open_folder(tmp_path / "set").classes == ["dog"]  # numbers with gaps
    assert "path" not in yaml.safe_load((tmp_path / "out/data.yaml").read_text())


def test_voc_s_colours_may_stand_in_any_order_and_unsure_pixels_have_a_line(tmp_path):
    labels = two()
    labels[0] = 255
    write("voc", tmp_path, [Labelled("a.jpg", labels)], CLASSES)
    path = tmp_path / "labelmap.txt"
    assert "ignored:224,224,192::" in path.read_text()
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows[::-1]]))
    png = tmp_path / "SegmentationClass/a.png"
    Image.open(png).convert("RGB").save(png)
    classes, (result,) = read("voc", tmp_path)
    assert classes == ["dog", "cat"]
    np.testing.assert_array_equal(result.labels, np.array([0, 2, 1] + [255] * 253)[labels])
    path.write_text("background:0,0,0::\n")
    with pytest.raises(InputError, match=r"colour #.* labelmap\.txt"):
        list(read("voc", tmp_path)[1])
    write("voc", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    assert "ignored" not in path.read_text()


@pytest.mark.parametrize(
    "name", ["background", "Background", "#1", "a:b", " x", " ", "ignored", "line\nbreak", "a, b", "café"]
)
@pytest.mark.parametrize("format", FORMATS)
def test_class_names_survive_or_are_refused_before_anything_is_written(format, name, tmp_path):
    classes = ["cat", name]
    folder = photos(tmp_path / "p", "a.jpg")
    try:
        write(format, tmp_path / "out", [Labelled("a.jpg", two(), photo=folder / "a.jpg")], classes, photos="copy")
    except UsageError as error:
        assert "class name" in str(error) and not (tmp_path / "out").exists()
        assert not name.strip() or "\n" in name or format == "voc"
        return
    again, (result,) = read(format, tmp_path / "out")
    assert again == classes
    assert ((result.labels == 2) != (two() == 2)).sum() < 15


# Large and small.


class Blobs:
    """Many small photos, made one at a time."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        labels = two()
        for number in range(self.count):
            yield Labelled(f"{number}.jpg", labels)


@pytest.mark.parametrize("format", ["coco", "labelstudio", "cvat"])
def test_ten_times_the_photos_take_no_more_memory(format, tmp_path):
    most = []
    for count in (50, 500):
        tracemalloc.start()
        write(format, tmp_path / str(count), Blobs(count), CLASSES)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < most[0] + 100_000  # 450 photos more
    assert len(labels_of(format, tmp_path / "50")) == 50


def test_small_objects_are_left_out_and_a_class_is_one_annotation_on_request(tmp_path):
    labels = two()
    labels[0, 0] = labels[59, 0] = 1
    one = Labelled("a.jpg", labels)

    def drawn(**options):
        write("coco", tmp_path, [one], CLASSES, **options)
        return json.loads((tmp_path / coco.FILE).read_text())["annotations"]

    assert len(drawn()) == 5
    assert len(drawn(min_object=2)) == 3
    assert [a["area"] for a in drawn(one_a_class=True)] == [int((labels == 1).sum()), int((labels == 2).sum())]
    assert len(drawn(min_object=2, one_a_class=True)) == 2
    write("voc", tmp_path / "voc", [one], CLASSES, min_object=2)
    np.testing.assert_array_equal(labels_of("voc", tmp_path / "voc")["a"], two())


def test_coco_s_run_lengths_are_numbers_and_polygons_are_there_on_request(tmp_path):
    for format, kind in (("coco", dict), ("coco-polygons", list)):
        write(format, tmp_path / format, [Labelled("a.jpg", two())], CLASSES)
        (first, *_) = json.loads((tmp_path / format / coco.FILE).read_text())["annotations"]
        assert isinstance(first["segmentation"], kind) and first["iscrowd"] == 0
    content = json.loads((tmp_path / "coco" / coco.FILE).read_text())
    for annotation in content["annotations"]:
        assert all(isinstance(run, int) for run in annotation["segmentation"]["counts"])
        assert decode(annotation["segmentation"], 60, 80).sum() == annotation["area"]


# Through the verbs.


@pytest.mark.parametrize("format", ["coco", "labelme", "voc"])
def test_segment_and_evaluate_take_annotations(format, tmp_path, capsys):
    folder = written(tmp_path, format)
    query = photos(tmp_path / "query", "a.jpg", "b.jpg")
    arguments = ["segment", "--support", folder, "--query", query, "--out", tmp_path / "out", "--size", 64]
    assert main([*map(str, arguments), "--format", "yolo", "--min-object", "3"]) == 0
    said = capsys.readouterr()
    assert "next: yolo segment train" in said.out
    assert sorted(path.name for path in (tmp_path / "out/yolo/images").iterdir()) == ["a.jpg", "b.jpg"]
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == CLASSES
    arguments = ["evaluate", folder, "--out", tmp_path / "r.json", "--episodes", 2, "--size", 64]
    assert main(list(map(str, arguments))) == 0
    assert json.loads((tmp_path / "r.json").read_text())["dataset"] == "folder"


def test_photos_of_one_stem_keep_apart_where_yolo_looks_for_them(tmp_path):
    folder = written(tmp_path, "coco")
    query = photos(tmp_path / "query", "a.jpg", "a.png", "IMG.JPG", "img.jpg")
    arguments = ["segment", "--support", folder, "--query", query, "--out", tmp_path / "out", "--size", 64]
    assert main([*map(str, arguments), "--format", "yolo"]) == 0
    images = {path.stem for path in (tmp_path / "out/yolo/images").iterdir()}
    assert images == {path.stem for path in (tmp_path / "out/yolo/labels").iterdir()} and len(images) == 4
    assert len(labels_of("yolo", tmp_path / "out/yolo")) == 4
    assert main([*map(str, arguments), "--format", "labelme"]) == 2


def test_a_class_name_in_a_file_cannot_write_outside(tmp_path):
    categories = [{"id": 1, "name": "../../evil"}]
    photos(instances(tmp_path / "in", [{"segmentation": SQUARE}], None, categories), "a.jpg")
    arguments = [
        "segment",
        "--support",
        tmp_path / "in",
        "--query",
        tmp_path / "in/a.jpg",
        "--out",
        tmp_path / "x/y/out",
    ]
    assert main(list(map(str, arguments))) != 0
    assert not list(tmp_path.rglob("*evil*"))


def test_pseudo_masks_are_judged_by_annotations(tmp_path):
    folder = written(tmp_path, "cvat")
    truth = AnnotatedDataset(folder, "cvat")
    np.testing.assert_array_equal(truth.truth("a.jpg", "cat"), two() == 1)
    np.testing.assert_array_equal(truth.truth("elsewhere/b.png", "dog"), two()[:, ::-1] == 2)
    assert truth.truth("a.jpg", "bird") is None and truth.truth("unknown.jpg", "cat") is None
    assert not truth.truth("none.jpg", "cat").any()
    (folder / "images").rename(tmp_path / "photos")
    (tmp_path / "labels.csv").write_text("a.jpg,cat\nnone.jpg,cat\n")
    verb = [
        "pseudo-label",
        "--images",
        tmp_path / "photos",
        "--labels",
        tmp_path / "labels.csv",
        "--out",
        tmp_path / "out",
    ]
    verb += ["--generator", "objectness", "--device", "cpu", "--truth", folder]
    assert main(list(map(str, verb))) == 0
    assert json.loads((tmp_path / "out/quality.json").read_text())["masks"] == 2
    verb[-1] = tmp_path / "nothing"
    assert main(list(map(str, verb))) == 2


# The libraries of other tools as judges; most are no part of the test environment.


def test_labelme_draws_the_same_masks(tmp_path):
    shape = pytest.importorskip("labelme.utils.shape", reason="labelme is not installed")
    shapes = [
        {"label": "cat", "points": [[10.3, 10.8], [30.5, 12], [25, 40.2]], "shape_type": "polygon"},
        {"label": "dog", "points": [[60, 30], [70.5, 30]], "shape_type": "circle"},
        {"label": "dog", "points": [[40, 40.6], [20.2, 50]], "shape_type": "rectangle"},
    ]
    labelme_file(tmp_path / "a.json", *shapes)
    theirs, _ = shape.shapes_to_label((60, 80), shapes, {"cat": 1, "dog": 2})
    np.testing.assert_array_equal(labels_of("labelme", tmp_path)["a"], theirs)
    write("labelme", tmp_path / "ours", [Labelled("a.jpg", two())], CLASSES)
    shapes = json.loads((tmp_path / "ours/a.json").read_text())["shapes"]
    for one in shapes:
        one["mask"] = np.array(Image.open(io.BytesIO(base64.b64decode(one["mask"])))).astype(bool)
    theirs, _ = shape.shapes_to_label((60, 80), shapes, {"cat": 1, "dog": 2})
    np.testing.assert_array_equal(theirs, two())


@pytest.mark.parametrize("format, theirs", [("coco", "coco_instances"), ("voc", "voc_segmentation"), ("cvat", "cvat")])
def test_datumaro_writes_what_we_read_and_reads_what_we_write(format, theirs, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    labels = two()
    names = ["zebra", "ant"]  # datumaro sorts some of its tables
    originals = photos(tmp_path / "p", "a.jpg")
    write(format, tmp_path / "ours", [Labelled("a.jpg", labels, photo=originals / "a.jpg")], names, photos="copy")
    dataset = datumaro.Dataset.import_from(str(tmp_path / "ours"), theirs)
    (item,) = dataset
    for number, name in enumerate(names, start=1):
        index = dataset.categories()[datumaro.AnnotationType.label].find(name)[0]
        found = [a.image for a in item.annotations if a.type == datumaro.AnnotationType.mask and a.label == index]
        np.testing.assert_array_equal(np.any(found, axis=0), labels == number)
    if format == "cvat":
        return  # its own writer knows no masks
    options = {"segmentation_mode": "mask"} if format == "coco" else {}  # it makes outlines of masks otherwise
    dataset.export(str(tmp_path / "theirs"), theirs, save_media=True, **options)
    classes, results = read(format, tmp_path / "theirs")
    (result,) = results
    for number, name in enumerate(names, start=1):
        np.testing.assert_array_equal(result.labels == classes.index(name) + 1, labels == number)


def test_label_studio_s_converter_reads_our_tasks(tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    write("labelstudio", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    for region in task["predictions"][0]["result"]:
        found = brush.decode_rle(region["value"]["rle"]).reshape(60, 80, 4)[..., 3] > 0
        np.testing.assert_array_equal(found, two() == CLASSES.index(region["value"]["brushlabels"][0]) + 1)


def test_labelformat_reads_our_coco_polygons(tmp_path):
    formats = pytest.importorskip("labelformat.formats", reason="labelformat is not installed")
    write("coco-polygons", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    reader = formats.COCOInstanceSegmentationInput(input_file=tmp_path / coco.FILE)
    (label,) = reader.get_labels()
    assert [o.category.name for o in label.objects] == ["cat", "dog", "dog"]


def test_train_and_weak_shot_take_annotations(tmp_path):
    stream = np.random.default_rng(0)
    found, names = [], ["left", "right", "middle"]
    for number in range(24):
        labels = np.zeros((48, 48), np.uint8)
        labels[12:36, 4 + 14 * (number % 3) : 18 + 14 * (number % 3)] = number % 3 + 1
        picture = stream.integers(0, 255, (48, 48, 3)).astype(np.uint8)
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"p/{number}.png")
        found.append(Labelled(f"{number}.png", labels, photo=tmp_path / f"p/{number}.png"))
    write("coco", tmp_path / "coco", found, names, photos="link")
    weak = weak_shot.load("folder", tmp_path / "coco", novel=["right"])
    assert weak.classes == ["background", *names] and weak.novel == (2,) and len(weak) == 24
    assert set(np.unique(weak.truth(0))) == {0, 1}
    small = "--steps 2 --model.size 48 --model.options.width 8 --device cpu --data.held-out 0.3 --validation.every 2"
    verb = ["train", "pfenet/tiny", "--root", tmp_path / "coco", "--out", tmp_path / "run", *small.split()]
    assert main([*map(str, verb), "--validation.episodes", "2", "--data.test-classes", "middle"]) == 0
