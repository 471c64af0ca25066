"""Annotation files as users have them: what they mean is read to the pixel, and what is left out is named."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from annotated import SQUARE, instances, labelme_file, photos
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import ShotsegError

CORNERS = [[10, 10], [30, 10], [30, 30], [10, 30]]
RUNS = {"size": [60, 80], "counts": [610, 20, 40, 20, 4110]}


def said_of(path: Path) -> tuple[dict, str]:
    """File -> class -> pixels, and all that is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            classes, results = read(detect(path), path)
            drawn = {r.file: {classes[i - 1]: int((r.labels == i).sum()) for i in r.present()} for r in results}
            end = ""
        except ShotsegError as error:
            drawn, end = {}, str(error)
    lines = [str(warning.message) for warning in caught] + [end]
    assert not any("\n" in line for line in lines)
    return drawn, "; ".join(lines)


def coco(tmp_path, *segmentations, **more) -> tuple[dict, str]:
    photos(tmp_path, "a.jpg")
    return said_of(instances(tmp_path, [{"segmentation": each} for each in segmentations], **more))


def test_run_lengths_are_read_in_every_spelling_that_tools_write(tmp_path):
    for segmentation in (RUNS, {**RUNS, "size": ["60", "80"]}, [RUNS], {"size": [60, 80], "counts": "b'Rc0d0X10Vo3'"}):
        drawn, said = coco(tmp_path, segmentation)
        assert drawn == {"a.jpg": {"cat": 40}}, (segmentation, said)


def test_an_object_that_covers_no_pixel_is_named(tmp_path):
    fractions = [[0.1, 0.1, 0.4, 0.1, 0.4, 0.5]]
    drawn, said = coco(tmp_path, SQUARE, fractions)
    assert drawn == {"a.jpg": {"cat": 400}}
    assert "photo a.jpg: 1 objects that cover no pixel" in said
    assert coco(tmp_path, fractions)[0] == {}, "it would pass as a photo without objects"


def test_a_category_without_a_name_is_no_class(tmp_path):
    for row in ({"id": 1, "name": None}, {"id": 1}, {"id": 1, "name": " "}):
        objects = [{"segmentation": SQUARE}, {"segmentation": SQUARE, "category_id": 2, "id": 7}]
        photos(tmp_path, "a.jpg")
        drawn, said = said_of(instances(tmp_path, objects, categories=[row, {"id": 2, "name": "dog"}]))
        assert drawn == {"a.jpg": {"dog": 400}}
        assert "categories without a name left out (ids 1)" in said


def test_a_photo_of_coco_without_a_name_or_with_an_odd_size_does_no_harm_to_others(tmp_path):
    rows = [{"id": 1, "file_name": "a.jpg", "height": "tall", "width": 80}, {"id": 2, "height": 60, "width": 80}]
    drawn, said = coco(tmp_path, SQUARE, images=rows)
    assert drawn == {"a.jpg": {"cat": 400}}
    assert "photo 2 (no file_name), left out" in said


def test_a_photo_is_found_by_a_name_with_percent_signs(tmp_path):
    photos(tmp_path, "my cat.jpg")
    rows = [{"id": 1, "file_name": "my%20cat.jpg", "height": None, "width": None}]
    assert said_of(instances(tmp_path, [{"segmentation": SQUARE}], images=rows))[0] == {"my%20cat.jpg": {"cat": 400}}


@pytest.mark.parametrize(
    ("tool", "content"),
    [
        ("COCO results", [{"image_id": 1, "category_id": 1, "segmentation": RUNS, "score": 0.9}]),
        ("Datumaro", {"dm_format_version": "1.0", "categories": {}, "items": []}),
        ("CreateML", [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]),
        ("Cityscapes", {"imgHeight": 60, "imgWidth": 80, "objects": []}),
    ],
)
def test_annotations_that_are_not_read_are_called_by_their_tool(tmp_path, tool, content):
    photos(tmp_path, "a.jpg")
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert f"annotations of {tool}, which are not read" in said_of(tmp_path)[1]


def test_a_file_that_no_reader_knows_is_named_and_no_table_is_missed(tmp_path):
    photos(tmp_path, "a.jpg")
    (tmp_path / "x.json").write_text('{"a": 1}')
    said = said_of(tmp_path)[1]
    assert "no annotations that are known: x.json" in said
    assert "no photo of it has a mask" in said
    assert "classes.csv" not in said


def test_two_photos_of_one_name_are_named_in_every_format(tmp_path):
    photos(tmp_path / "labelme", "a.jpg", "b.jpg")
    for stem in ("a", "other"):
        labelme_file(tmp_path / "labelme" / f"{stem}.json", {"label": "cat", "points": CORNERS})
    labelme_file(tmp_path / "labelme" / "b.json", {"label": "cat", "points": CORNERS}, imagePath="b.jpg")
    drawn, said = said_of(tmp_path / "labelme")
    assert drawn == {"b.jpg": {"cat": 441}}
    assert "2 photos are named a.jpg" in said


def test_corners_and_turned_boxes_of_x_anylabeling_are_drawn(tmp_path):
    photos(tmp_path, "a.jpg")
    for kind in ("rectangle", "rotation"):
        labelme_file(tmp_path / "a.json", {"label": "cat", "points": CORNERS, "shape_type": kind})
        assert said_of(tmp_path)[0] == {"a.jpg": {"cat": 441}}
    labelme_file(tmp_path / "a.json", {"label": "cat", "points": CORNERS[:1], "shape_type": "circle"})
    assert "a circle of 1 points" in said_of(tmp_path)[1]


LINE = "0 .125 .1667 .375 .1667 .375 .5 .125 .5"


def yolo(folder: Path, text: str | bytes, names: str = "[cat, dog]") -> tuple[dict, str]:
    photos(folder / "images", "a.jpg")
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "data.yaml").write_text(f"names: {names}\ntrain: images\n")
    return said_of(folder)


def test_labels_of_yolo_are_read_in_every_spelling(tmp_path):
    spellings = (LINE, LINE.replace(" ", ","), f"{LINE} 0.87", b"\xef\xbb\xbf" + LINE.encode(), LINE.encode("utf-16"))
    for text in spellings:
        assert yolo(tmp_path, text)[0] == {"a.jpg": {"cat": 400}}, text


def test_class_names_of_yolo_are_words_also_where_yaml_has_other_plans(tmp_path):
    assert yolo(tmp_path, LINE, "[no, yes]")[0] == {"a.jpg": {"no": 400}}
    assert yolo(tmp_path, LINE, "{0: on, 1: 1.0}")[0] == {"a.jpg": {"on": 400}}
    twice = f"{LINE}\n1 .5 .5 .6 .5 .6 .6 .5 .6"
    assert yolo(tmp_path, twice, "[cat, cat]")[0] == {"a.jpg": {"cat": 448}}


def test_labels_of_no_photo_are_named(tmp_path):
    yolo(tmp_path, LINE)
    (tmp_path / "labels" / "z.txt").write_text(LINE)
    assert "labels of no photo: z.txt" in said_of(tmp_path)[1]


def task(name: str, **more) -> dict:
    points = (np.array(CORNERS) / (0.8, 0.6)).tolist()
    value = {"points": points, "polygonlabels": ["cat"]}
    region = {"type": "polygonlabels", "original_width": 80, "original_height": 60, "value": value}
    return {"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [region], **more}]}


def test_a_skipped_task_is_no_photo_without_objects_and_a_second_opinion_is_said(tmp_path):
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    empty = {"data": {"image": "c.jpg"}, "annotations": []}
    two = task("a.jpg")
    two["annotations"] *= 2
    (tmp_path / "export.json").write_text(json.dumps([two, task("b.jpg", was_cancelled=True), empty]))
    drawn, said = said_of(tmp_path)
    assert drawn == {"a.jpg": {"cat": 400}}
    assert "2 tasks left out, nobody has annotated them" in said
    assert "1 tasks have several annotations" in said


def test_two_classes_of_one_colour_are_refused(tmp_path):
    photos(tmp_path / "JPEGImages", "a.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\ndog:128,0,0::\n")
    assert "'cat' and 'dog' have one colour" in said_of(tmp_path)[1]


def test_annotations_without_their_photos_say_how_to_join_both(tmp_path):
    path = instances(tmp_path, [{"segmentation": SQUARE}])
    with pytest.raises(ShotsegError, match=r"shotseg convert .* --images PHOTOS --copy-images"):
        open_folder(path)
