"""What is odd in annotation files: read as it is meant, or named."""

import base64
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from annotated import CLASSES, FORMATS, SQUARE, Blobs, instances, labelme_file, labels_of, photos, two
from shotseg.cli import main
from shotseg.data.annotations import Labelled, coco, detect, read, write
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import InputError, InputWarning, ShotsegError, UsageError

# COCO.


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


def test_polygons_of_an_object_are_holes_where_its_area_is_the_one_without_them(tmp_path):
    """As Kili and imantics write holes. Without such an area they are parts, as COCO says."""
    hole, apart = [15, 15, 25, 15, 25, 25, 15, 25], [40, 10, 50, 10, 50, 20, 40, 20]
    overlapping = [20, 10, 40, 10, 40, 30, 20, 30]
    cases = [
        ([*SQUARE, hole], 300, 300),
        ([*SQUARE, hole], 297.6, 300),  # of corners in the middle of pixels
        ([*SQUARE, hole, apart], 400, 400),
        *(([*SQUARE, hole], area, 400) for area in (400, 500, 0, None, "300", float("nan"))),
        ([*SQUARE, apart], 500, 500),
        ([*SQUARE, overlapping], 600, 600),
        ([*SQUARE, overlapping], 800, 600),  # the sum of both
    ]
    for number, (rings, area, pixels) in enumerate(cases):
        folder = instances(tmp_path / str(number), [{"segmentation": rings, "area": area}])
        photos(folder, "a.jpg")
        assert labels_of("coco", folder)["a"].sum() == pixels, (rings, area)


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


def test_photos_that_cannot_be_told_apart_are_left_out_and_named(tmp_path):
    sized = {"height": 60, "width": 80}
    drawn = [{"segmentation": SQUARE, "image_id": i} for i in (1, 2, 3, 4)]
    images = [{"id": 1, "file_name": name, **sized} for name in ("a.jpg", "b.jpg")]
    images += [
        {"id": i, "file_name": name, **sized} for i, name in ((2, r"C:\x\c.jpg"), (3, r"D:\y\c.jpg"), (4, "d.jpg"))
    ]
    instances(tmp_path, drawn, images)
    with pytest.warns(UserWarning) as caught:
        assert set(labels_of("coco", tmp_path)) == {"d"}
    said = " ".join(str(warning.message) for warning in caught)
    assert "'a.jpg' (another photo has its id, 1)" in said and "'b.jpg'" in said and "2 photos are named c.jpg" in said
    instances(tmp_path, drawn, images, [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}])
    with pytest.raises(InputError, match="two categories of one id"):
        read("coco", tmp_path)


@pytest.mark.parametrize(
    "outline",
    [
        [*SQUARE, [1, 1, 5, 5]],
        [*SQUARE, []],
        [SQUARE[0], [3, 3]],
        list(zip(SQUARE[0][::2], SQUARE[0][1::2])),
        SQUARE[0],
    ],
)
def test_outlines_without_area_draw_nothing_and_points_may_be_pairs(tmp_path, outline):
    instances(tmp_path, [{"segmentation": outline}])
    assert labels_of("coco", tmp_path)["a"].sum() == 400


def test_a_photo_whose_objects_have_unknown_categories_is_no_empty_photo(tmp_path):
    instances(tmp_path, [{"category_id": 77, "segmentation": SQUARE}])
    with pytest.warns(UserWarning, match="unknown category"), pytest.raises(InputError, match="none of its 1 objects"):
        labels_of("coco", tmp_path)


@pytest.mark.parametrize("height", [float("nan"), float("inf"), 0, -1])
def test_an_impossible_size_is_that_of_the_photo(tmp_path, height):
    images = [{"id": 1, "file_name": "a.jpg", "height": height, "width": 80}]
    photos(instances(tmp_path, [{"segmentation": SQUARE}], images), "a.jpg")
    assert labels_of("coco", tmp_path)["a"].sum() == 400


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
    with pytest.warns(UserWarning, match="outside its folder|no file_name"):
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


@pytest.mark.parametrize("own", ["", "1a2b3c4d-"])
@pytest.mark.parametrize(
    "place", ["../../label-studio/media/upload/1/", "/data/upload/1/", "..\\..\\media\\upload\\1\\", ""]
)
def test_photos_that_label_studio_exports_without_are_found_in_the_folder_by_their_own_names(place, own, tmp_path):
    images = [{"id": 1, "file_name": f"{place}1a2b3c4d-a.jpg", "height": 60, "width": 80}]
    file = instances(tmp_path / "in", [{"segmentation": SQUARE}], images)
    photos(file, "photos/" + own + "a.jpg")
    assert open_folder(tmp_path / "in").items[0].image_path == tmp_path / f"in/photos/{own}a.jpg"


def test_two_uploads_of_one_name_are_never_taken_for_each_other(tmp_path):
    names = "../media/upload/1/1a2b3c4d-a.jpg", "../media/upload/2/5e6f7a8b-a.jpg"
    images = [{"id": i, "file_name": name, "height": 60, "width": 80} for i, name in enumerate(names, 1)]
    file = instances(tmp_path / "in", [{"segmentation": SQUARE}], images)
    photos(file, "photos/a.jpg")
    with pytest.warns(match="lies outside its folder"), pytest.raises(ShotsegError):
        open_folder(tmp_path / "in")


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


# Other tools.


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
        {"x": 1, "y": 1, "width": 5, "keypointlabels": ["dog"]},
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


def test_boxes_of_a_yolo_set_are_said_in_one_line_and_an_empty_split_in_another(tmp_path, recwarn):
    photos(tmp_path / "images/train", "a.jpg", "b.jpg")
    (tmp_path / "images/val").mkdir()
    (tmp_path / "labels/train").mkdir(parents=True)
    for name in ("a", "b"):
        box = "0 0.1 0.2 0.3 0.4\n"
        (tmp_path / f"labels/train/{name}.txt").write_text(2 * box + "1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n")
    content = {"train": f"../{tmp_path.name}/images/train", "val": "images/val", "names": CLASSES}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    assert {item.id for item in open_folder(tmp_path).items} == {"dog/train/a", "dog/train/b"}
    empty, boxes = (str(each.message) for each in recwarn)
    assert "images/val: no photo in it; left out" in empty
    assert "4 lines are no outlines (a box), left out: a.txt '0 0.1 0.2 0.3 0.4', " in boxes and ".." not in boxes


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


@pytest.mark.parametrize(
    ("region", "named"),
    [
        ({"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}, "rectangle of a.jpg"),
        ({"type": "rectangle", "value": {"x": 1}}, "rectangle without a class of a.jpg"),
        ({"type": "ellipselabels", "value": {"x": 1, "ellipselabels": ["cat"]}}, "ellipse of a.jpg"),
        ({"type": "polygon", "value": {"points": [[1, 1], [9, 1], [9, 9]]}}, "polygon without a class of a.jpg"),
        ({"type": "labels", "value": {"x": 1, "labels": ["cat"]}}, "region of a.jpg"),
        ({"value": {"x": 1, "keypointlabels": ["cat"]}}, "keypoint of a.jpg"),
    ],
)
def test_a_shape_of_label_studio_that_is_no_mask_is_named_as_what_it_is(tmp_path, region, named):
    photos(tmp_path, "a.jpg")
    brush = {"type": "polygonlabels", "value": {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["dog"]}}
    task = {"data": {"image": "/data/upload/1/a.jpg"}, "annotations": [{"result": [region, brush]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.warns(InputWarning, match=f"export.json: {named} is left out; draw"):
        (found,) = read("labelstudio", tmp_path / "export.json")[1]
    assert (found.labels > 0).any()


def test_a_place_or_a_name_that_cannot_be_written_is_one_line_before_the_work(tmp_path, capsys):
    photos(instances(tmp_path / "coco", [{"segmentation": SQUARE}]), "a.jpg")
    (tmp_path / "file").touch()
    assert main(["convert", str(tmp_path / "coco"), "--to", "coco", "--out", str(tmp_path / "file/out")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    long = "x" * 251 + ".jpg"
    image = {"id": 1, "file_name": long, "height": 60, "width": 80}
    photos(instances(tmp_path / "long", [{"segmentation": SQUARE}], [image]), long)
    command = ["convert", str(tmp_path / "long"), "--out", str(tmp_path / "out"), "--to"]
    assert main([*command, "labelme"]) == 2 and "its name is too long" in capsys.readouterr().err
    assert main([*command, "yolo"]) == 0


def test_annotations_of_coco_may_be_a_mapping_by_their_ids(tmp_path):
    file = instances(photos(tmp_path, "a.jpg"), [{"segmentation": SQUARE}]) / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"] = {str(each["id"]): each for each in content["annotations"]}
    file.write_text(json.dumps(content))
    assert labels_of("coco", tmp_path)["a"].any()
