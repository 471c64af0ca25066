"""What Label Studio exports, with the right masks of every shape and the annotation that counts."""

import csv
import json
import warnings

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import ellipse as drawn_ellipse

from annotated import photos
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.label_studio import encode

SIZE = {"original_width": 80, "original_height": 60, "image_rotation": 0}
POINTS = [[0, 0], [25, 0], [25, 50], [0, 50]]  # percent: 20 x 30 pixels
POLYGON = {"points": POINTS, "closed": True, "polygonlabels": ["dog"]}


def region(value: dict, id: str = "r", **more) -> dict:
    kind = next((key for key in value if key.endswith("labels")), "choices")
    return {**SIZE, "id": id, "type": kind, "from_name": "label", "to_name": "image", "value": value, **more}


def task(name: str = "a.jpg", *regions: dict, **more) -> dict:
    annotation = {"id": 1, "result": list(regions or [region(POLYGON)]), **more}
    return {"id": name, "data": {"image": f"/data/local-files/?d={name}"}, "annotations": [annotation]}


def exported(tmp_path, *tasks, name="export.json"):
    photos(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / name).write_text(json.dumps(tasks))
    return drawn(tmp_path)


def drawn(path):
    """file -> class -> its pixels, (H, W) bool; and all that was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert detect(path) == "labelstudio"
        classes, found = read("labelstudio", path)
        maps = {r.file: {n: r.labels == i for i, n in enumerate(classes, 1) if (r.labels == i).any()} for r in found}
    return maps, " ".join(str(each.message) for each in caught)


def test_a_rectangle_is_its_area(tmp_path):
    box = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    maps, said = exported(tmp_path, task("a.jpg", region(box)))
    expected = np.zeros((60, 80), bool)
    expected[15:45, 20:60] = True
    np.testing.assert_array_equal(maps["a.jpg"]["cat"], expected)
    assert not said


def test_a_turned_rectangle_lies_where_label_studio_shows_it(tmp_path):
    """Its x and y are the first corner after turning, the turn is clockwise, and in pixels, not in percent."""
    box = {"x": 50, "y": 25, "width": 25, "height": 10, "rotation": 90, "rectanglelabels": ["cat"]}
    maps, _ = exported(tmp_path, task("a.jpg", region(box)))  # 20 x 6 pixels from (40, 15): down and to the left
    expected = np.zeros((60, 80), bool)
    expected[15:35, 34:40] = True
    np.testing.assert_array_equal(maps["a.jpg"]["cat"], expected)
    box["rotation"] = 30
    maps, _ = exported(tmp_path, task("a.jpg", region(box)))
    ys, xs = np.nonzero(maps["a.jpg"]["cat"])
    along, down = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)]), np.array([-np.sin(np.pi / 6), np.cos(np.pi / 6)])
    middle = np.array([40, 15]) + 10 * along + 3 * down
    assert abs(len(xs) - 120) < 8
    np.testing.assert_allclose([xs.mean() + 0.5, ys.mean() + 0.5], middle, atol=0.3)


@pytest.mark.parametrize(("rotation", "rows", "columns"), [(0, 6, 20), (90, 20, 6), (180, 6, 20), (None, 6, 20)])
def test_an_ellipse_is_its_area_and_turns_about_its_middle(tmp_path, rotation, rows, columns):
    oval = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": rotation, "ellipselabels": ["cat"]}
    maps, said = exported(tmp_path, task("a.jpg", region(oval)))
    expected = np.zeros((60, 80), bool)
    expected[drawn_ellipse(29.5, 39.5, rows, columns)] = True
    assert (maps["a.jpg"]["cat"] != expected).sum() < 10 and not said


def test_a_circle_stays_one_however_it_is_turned_in_a_wide_photo(tmp_path):
    circle = {"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 100 / 6, "rotation": 45, "ellipselabels": ["cat"]}
    maps, _ = exported(tmp_path, task("a.jpg", region(circle)))
    assert abs(maps["a.jpg"]["cat"].sum() - np.pi * 100) < 6


def test_brush_polygon_rectangle_and_ellipse_of_one_task_are_all_drawn_the_later_on_top(tmp_path):
    mask = np.zeros((60, 80), bool)
    mask[50:, 70:] = True
    brush = {"format": "rle", "rle": encode(mask), "brushlabels": ["mouse"]}
    box = {"x": 0, "y": 0, "width": 12.5, "height": 100 / 6, "rotation": 0, "rectanglelabels": ["cat"]}
    maps, said = exported(tmp_path, task("a.jpg", region(brush, "1"), region(POLYGON, "2"), region(box, "3")))
    assert {name: int(m.sum()) for name, m in maps["a.jpg"].items()} == {"mouse": 100, "dog": 500, "cat": 100}
    assert maps["a.jpg"]["cat"][:10, :10].all() and not said


def test_a_rectangle_beside_another_mask_of_its_class_is_drawn_and_said(tmp_path):
    box = {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["dog"]}
    maps, said = exported(tmp_path, task("a.jpg", region(POLYGON, "1"), region(box, "2")))
    assert maps["a.jpg"]["dog"].sum() == 600 + 20 * 15 and ndimage.label(maps["a.jpg"]["dog"])[1] == 2
    assert "rectangles beside other masks of their class are areas of it too (dog)" in said


def test_a_region_that_is_told_twice_or_asked_about_is_one_object(tmp_path):
    """Labels with Polygon export one region as two results of one id, further questions about it as more."""
    bare = {"points": POINTS}
    found = [region(bare, type="polygon"), region({**bare, "labels": ["dog"]}), region({**bare, "text": ["old"]})]
    maps, said = exported(tmp_path, task("a.jpg", *found, {"type": "relation", "from_id": "r", "to_id": "r"}))
    assert maps["a.jpg"]["dog"].sum() == 600 and not said


def test_an_answer_about_the_whole_photo_is_no_object_that_was_lost(tmp_path):
    choice = {"id": "q", "type": "choices", "value": {"choices": ["sharp"]}}
    maps, said = exported(tmp_path, task("a.jpg", region(POLYGON), choice), task("b.jpg", choice))
    assert maps["a.jpg"]["dog"].sum() == 600 and maps["b.jpg"] == {}
    assert "2 answers about whole photos, which are no masks, left out (choices)" in said


SMALL = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["dog"]}


def test_of_several_annotations_the_ground_truth_counts_or_else_the_last(tmp_path):
    first, second = task("a.jpg"), task("a.jpg", region(SMALL))
    both = first | {"annotations": first["annotations"] + second["annotations"]}
    maps, said = exported(tmp_path, both)
    assert maps["a.jpg"]["dog"].sum() == 1200 and "1 tasks have several annotations" in said
    both["annotations"][0]["ground_truth"] = True
    assert exported(tmp_path, both)[0]["a.jpg"]["dog"].sum() == 600


def test_rows_of_json_min_and_of_tables_are_the_annotations_of_one_task(tmp_path):
    rows = [
        {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "label": [{**SIZE, **value}], "annotator": i}
        | {"annotation_id": i, "created_at": "", "updated_at": "", "lead_time": 1.5}
        for i, value in enumerate([POLYGON, SMALL])
    ]
    maps, said = exported(tmp_path / "min", *rows)
    assert maps["a.jpg"]["dog"].sum() == 1200 and "1 tasks have several annotations" in said
    for ending, mark in ((".csv", ","), (".tsv", "\t"), (".CSV", ";")):  # the last as a spreadsheet saves it again
        folder = photos(tmp_path / f"table{ending}", "a.jpg")
        with (folder / f"export{ending}").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter=mark)
            table.writerow(rows[0])
            table.writerows([json.dumps(c) if isinstance(c, list) else c for c in row.values()] for row in rows)
        assert (
            drawn(folder)[0]["a.jpg"]["dog"].sum() == drawn(folder / f"export{ending}")[0]["a.jpg"]["dog"].sum() == 1200
        )


def test_a_brush_longer_than_a_cell_usually_is_is_read_from_a_table(tmp_path):
    stripes = np.indices((60, 80)).sum(0) % 2 == 0
    brush = {"format": "rle", "rle": encode(np.kron(stripes, np.ones((10, 10), bool))), "brushlabels": ["cat"]}
    photos(tmp_path, "a.jpg", size=(800, 600))
    row = {"image": "/data/local-files/?d=a.jpg", "id": 1, "tag": json.dumps([brush] * 4)}
    row |= {"annotator": 1, "annotation_id": 1, "lead_time": 1}
    with (tmp_path / "export.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(row))
        table.writeheader()
        table.writerow(row)
    assert (tmp_path / "export.csv").stat().st_size > 131_072
    assert drawn(tmp_path)[0]["a.jpg"]["cat"].sum() == 240_000


def test_a_skipped_task_is_left_out_though_it_has_a_prediction(tmp_path):
    guess = [{"id": 9, "result": [region(POLYGON)]}]
    skipped = task("a.jpg", was_cancelled=True) | {"predictions": guess}
    unseen = task("b.jpg") | {"annotations": [], "predictions": guess}
    photos(tmp_path, "c.jpg")
    maps, said = exported(tmp_path, skipped, unseen, task("c.jpg"))
    assert sorted(maps) == ["b.jpg", "c.jpg"]
    assert "1 tasks left out, nobody has annotated them" in said and "1 tasks are known by predictions alone" in said
    assert "predictions" not in exported(tmp_path, unseen)[1]


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/{}/a.jpg",
        "https://host/files/{}/a.jpg?token=1",
        "/data/local-files/?d={}/a.jpg",
        "/data/local-files/?d=files%5C{}%5Ca.jpg",
        "/tasks/1/resolve/?fileuri=",
    ],
)
def test_photos_of_one_name_in_two_folders_of_a_storage_keep_apart(tmp_path, address):
    import base64

    photos(tmp_path, "day1/a.jpg", "day2/a.jpg")
    stored = [f"s3://bucket/day{i}/a.jpg" for i in (1, 2)]
    addresses = [address.format(f"day{i}") for i in (1, 2)]
    if address.endswith("="):
        addresses = [address + base64.urlsafe_b64encode(of.encode()).decode().rstrip("=") for of in stored]
    tasks = [task() | {"id": i, "data": {"image": of}} for i, of in enumerate(addresses)]
    tasks[1]["annotations"] = task("", region(SMALL))["annotations"]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    maps, _ = drawn(tmp_path)
    assert len(maps) == 2 and all(file.endswith(f"day{i}/a.jpg") for i, file in zip((1, 2), maps))
    assert [found["dog"].sum() for found in maps.values()] == [600, 1200]


def test_an_uploaded_photo_has_its_own_name_again_where_it_is_the_only_one(tmp_path):
    tasks = [task() | {"data": {"image": f"/data/upload/3/{of}"}} for of in ("0a1b2c3d-a.jpg", "0a1b2c3e-b.jpg")]
    assert sorted(exported(tmp_path, *tasks)[0]) == ["a.jpg", "b.jpg"]
    tasks[1]["data"]["image"] = "/data/upload/3/0a1b2c3e-a.jpg"
    assert sorted(exported(tmp_path, *tasks)[0]) == ["0a1b2c3d-a.jpg", "0a1b2c3e-a.jpg"]


@pytest.mark.parametrize("value", [None, [1, 2], "text", {"polygonlabels": "dog"}, {"x": None, "polygonlabels": None}])
def test_regions_that_make_no_sense_leave_the_others_done(tmp_path, value):
    odd = region({}) | {"value": value, "id": [1]}
    maps, _ = exported(tmp_path, task("a.jpg", odd, region(POLYGON)))
    assert maps["a.jpg"]["dog"].sum() == 600
