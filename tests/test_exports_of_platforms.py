"""Exports of labelling platforms and competitions that are read and not written: Supervisely, tables of run lengths."""

import base64
import csv
import io
import json
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as theirs

from annotated import CLASSES, photos, two
from shotseg.cli import main
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import InputError, ShotsegError


def packed(mask, mode="P"):
    """A mask as Supervisely's SDK stores it: a palette of black and white with black transparent, PNG, zlib, base64."""
    image, file = Image.fromarray(mask.astype(np.uint8) * 255), io.BytesIO()
    if mode == "P":
        image = Image.fromarray(mask.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(file, "PNG", transparency=0)
    else:
        image.save(file, "PNG")
    data = file.getvalue()
    return base64.b64encode(data if mode == "plain" else zlib.compress(data)).decode()


def bitmap(title, mask, left, top, mode="P", kind="bitmap"):
    return {"classTitle": title, "geometryType": kind, "bitmap": {"data": packed(mask, mode), "origin": [left, top]}}


def points(title, kind, exterior, *interior):
    shape = {"points": {"exterior": exterior, "interior": list(interior)}, "bitmap": None}
    return {"classTitle": title, **shape, **({"geometryType": kind} if kind else {})}


def annotation(folder, name, *objects, **more):
    photos(folder / "img", name)
    (folder / "ann").mkdir(exist_ok=True)
    content = {"description": "", "tags": [], "size": {"height": 60, "width": 80}, "objects": list(objects), **more}
    (folder / "ann" / f"{name}.json").write_text(json.dumps(content))


def project(root, *datasets):
    classes = [{"title": title, "shape": "any", "color": "#FF0000"} for title in ("dog", "cat", "never")]
    root.mkdir(exist_ok=True)
    (root / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    for name in datasets:
        labels = two()
        cat, dog = labels == 1, labels == 2
        last = name.rpartition("/")[2]
        annotation(root / name, f"{last}.jpg", bitmap("cat", cat[10:51, 10:51], 10, 10), bitmap("dog", dog, 0, 0, "L"))
        annotation(root / name, f"{last}_none.jpg")
    return root


def test_a_project_of_supervisely_is_read_with_all_its_data_sets_in_the_order_of_its_classes(tmp_path):
    root = project(tmp_path / "project", "day", "night/datasets/late")
    for path in (root, root / "meta.json", root / "day", root / "day/ann/day.jpg.json"):
        assert detect(path) == "supervisely"
    classes, results = read("supervisely", root)
    found = {result.file: result for result in results}
    assert classes == ["dog", "cat", "never"]
    assert set(found) == {
        f"{place}{end}.jpg" for place in ("day/day", "night/datasets/late/late") for end in ("", "_none")
    }
    expected = np.choose(two(), [0, 2, 1])
    np.testing.assert_array_equal(found["day/day.jpg"].labels, expected)
    assert found["day/day.jpg"].photo == root / "day/img/day.jpg"
    assert not found["day/day_none.jpg"].labels.any()


def test_shapes_of_supervisely_have_their_outlines_and_holes_lose_theirs(tmp_path):
    square = [[10, 10], [30, 10], [30, 30], [10, 30]]
    hole = [[15, 15], [20, 15], [20, 20], [15, 20]]
    shapes = {
        "polygon": (points("cat", "polygon", square, hole), 21 * 21 - 6 * 6),
        "old": (points("cat", "", square), 21 * 21),
        "rectangle": (points("cat", "rectangle", [[30, 30], [10, 12]]), 21 * 19),
        "fractions": (points("cat", "rectangle", [[10.9, 12.2], [30.7, 30.1]]), 21 * 19),
        "alpha": (bitmap("cat", np.ones((5, 7), bool), 3, 4, "L", "alpha_mask"), 35),
        "plain": (bitmap("cat", np.ones((5, 7), bool), 3, 4, "plain"), 35),
        "outside": (bitmap("cat", np.ones((9, 9), bool), 75, -4), 5 * 5),
    }
    for name, (shape, _) in shapes.items():
        annotation(tmp_path, f"{name}.png", shape)
    _, results = read("supervisely", tmp_path)
    assert {result.stem: int(result.labels.sum()) for result in results} == {n: area for n, (_, area) in shapes.items()}


def test_the_sdk_of_supervisely_draws_the_same_to_some_pixels_of_an_outline(tmp_path):
    sly = pytest.importorskip("supervisely", reason="supervisely is not installed")
    outline = [[5, 7], [60, 3], [71, 40], [33, 55], [20, 30]]
    shapes = [
        points("cat", "polygon", outline, [[30, 20], [44, 22], [40, 33]]),
        points("dog", "rectangle", [[1, 40], [9, 57]]),
    ]
    annotation(tmp_path / "ds", "a.png", *shapes, bitmap("dog", two()[10:40, 20:50] == 1, 45, 12))
    classes = [sly.ObjClass(name, sly.AnyGeometry) for name in CLASSES]
    meta = sly.ProjectMeta(obj_classes=sly.ObjClassCollection(classes))
    drawn = sly.Annotation.from_json(json.loads((tmp_path / "ds/ann/a.png.json").read_text()), meta)
    canvas = np.zeros((60, 80, 3), np.uint8)
    for label in drawn.labels:
        label.draw(canvas, color=[CLASSES.index(label.obj_class.name) + 1] * 3)
    (result,) = read("supervisely", tmp_path)[1]
    assert (result.labels != canvas[..., 0]).sum() <= 10


def test_what_of_supervisely_cannot_be_drawn_is_named_and_the_rest_is_read(tmp_path):
    line = points("cat", "line", [[1, 1], [9, 9]])
    broken = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": "eJwD", "origin": [0, 0]}}
    annotation(tmp_path, "a.png", line, broken, bitmap("cat", np.ones((3, 3), bool), 0, 0))
    (tmp_path / "ann/b.png.json").write_text("{")
    with pytest.warns(match="a line left out, it has no area that is read"), pytest.warns(match="not JSON"):
        data = open_folder(tmp_path)
    with pytest.warns(match="its mask is no picture"):
        assert data.sample(0).mask.sum() == 9


def runs(mask, order="F", first=1):
    """Run lengths of a mask as text, by pycocotools, which counts down the columns."""
    counts = theirs.encode(np.asfortranarray((mask if order == "F" else mask.T).astype(np.uint8)))
    flat = theirs.decode(counts).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.r_[0, flat, 0]))
    return " ".join(f"{start + first} {end - start}" for start, end in edges.reshape(-1, 2).tolist())


CAT, DOG = two() == 1, two() == 2
TABLES = {
    "ship": ("ImageId,EncodedPixels", [("a.jpg", "{cat}"), ("b.jpg", "")], {"a": 1}),
    "steel": (
        "ImageId,ClassId,EncodedPixels",
        [("a.jpg", "3", "{cat}"), ("a.jpg", "10", "{dog}"), ("b.jpg", "3", "")],
        {"a": 2},
    ),
    "clouds": (
        "Image_Label,EncodedPixels",
        [("a.jpg_Fish", "{cat}"), ("a.jpg_Sugar", "{dog}"), ("b.jpg_Fish", "")],
        {"a": 2},
    ),
    "ids": ("id,width,height,rle,class", [("a", "80", "60", "{cat}", "x"), ("a", "80", "60", "{dog}", "y")], {"a": 2}),
}


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("table", TABLES)
def test_run_lengths_are_read_from_tables_of_many_headers_in_either_direction(table, order, tmp_path):
    head, rows, shown = TABLES[table]
    cells = [[cell.format(cat=runs(CAT, order), dog=runs(DOG, order)) for cell in row] for row in rows]
    (tmp_path / "train.csv").write_text("\n".join([head, *map(",".join, cells)]))
    photos(tmp_path / "train_images", "a.jpg", "b.jpg")
    assert detect(tmp_path) == detect(tmp_path / "train.csv") == "rle"
    classes, results = read("rle", tmp_path)
    found = {result.stem: result.labels for result in results}
    many = shown["a"] == 2
    assert (
        classes
        == {"ship": [tmp_path.name], "steel": ["3", "10"], "clouds": ["Fish", "Sugar"], "ids": ["x", "y"]}[table]
    )
    np.testing.assert_array_equal(found["a"], np.where(DOG, 2 * many, CAT))
    assert table == "ids" or not found["b"].any()


def test_the_direction_of_run_lengths_is_said_where_it_is_not_the_usual_one_or_cannot_be_told(tmp_path):
    photos(tmp_path, "a.jpg")
    (tmp_path / "train.csv").write_text(f"ImageId,EncodedPixels\na.jpg,{runs(CAT, 'C')}\n")
    with pytest.warns(match="its run lengths go along the rows"):
        read("rle", tmp_path)
    photos(tmp_path, "a.jpg", size=(80, 80))
    with pytest.warns(match="square photos do not tell"):
        read("rle", tmp_path)


def test_a_row_whose_runs_leave_the_photo_is_named_and_the_others_are_read(tmp_path):
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    table = f"ImageId,EncodedPixels\na.jpg,{runs(CAT)}\nb.jpg,4790 99\nc.jpg,1 2 3\n,1 2\n"
    (tmp_path / "train.csv").write_text(table)
    with pytest.warns(match=r"1 rows without a photo left out \(lines 5\)"):
        data = open_folder(tmp_path)
    assert data.sample(0).mask.sum() == CAT.sum()
    for place in (1, 2):
        with pytest.warns(match="left out"), pytest.raises(InputError, match="none of its 1 objects has a mask"):
            data.sample(place)


def test_a_table_of_predictions_that_count_from_nought_is_read(tmp_path):
    photos(tmp_path, "a.jpg")
    mask = np.zeros((60, 80), bool)
    mask[:9, :7] = True
    (tmp_path / "t.csv").write_text(f"ImageId,EncodedPixels\na.jpg,{runs(mask, first=0)}\n")
    (result,) = read("rle", tmp_path)[1]
    np.testing.assert_array_equal(result.labels, mask)


@pytest.mark.parametrize("kind", ["supervisely", "rle"])
def test_what_is_read_converts_to_the_formats_that_are_written(kind, tmp_path):
    if kind == "supervisely":
        project(tmp_path / "in", "day")
    else:
        photos(tmp_path / "in", "day.jpg")
        (tmp_path / "in/t.csv").write_text(
            f"ImageId,ClassId,EncodedPixels\nday.jpg,cat,{runs(CAT)}\nday.jpg,dog,{runs(DOG)}\n"
        )
    assert main(["convert", str(tmp_path / "in"), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    classes, results = read("coco", tmp_path / "out")
    labels = next(result.labels for result in results if result.file.endswith("day.jpg"))
    np.testing.assert_array_equal(labels == classes.index("cat") + 1, CAT)
    np.testing.assert_array_equal(labels == classes.index("dog") + 1, DOG)


def test_a_table_of_run_lengths_beside_folders_of_masks_is_not_asked(tmp_path):
    photos(tmp_path / "images", "a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(CAT).save(tmp_path / "masks/a.png")
    (tmp_path / "train.csv").write_text(f"id,rle_mask\na,{runs(CAT)}\n")
    assert detect(tmp_path) == "mask"


def test_other_tables_are_no_run_lengths(tmp_path):
    photos(tmp_path, "a.jpg")
    (tmp_path / "labels.csv").write_text("image,class,mask\na.jpg,cat,a.png\n")
    with pytest.raises(ShotsegError):
        open_folder(tmp_path / "labels.csv")


OUTLINE = ([10, 30, 30, 10], [12, 12, 40, 40])  # 20 x 28 by COCO's rule
SHAPES = [
    ({"name": "polygon", "all_points_x": OUTLINE[0], "all_points_y": OUTLINE[1]}, 560),
    ({"name": "rect", "x": 10, "y": 12, "width": 20, "height": 28}, 560),
    ({"name": "circle", "cx": 40, "cy": 30, "r": 20}, 3.1416 * 400),
    ({"name": "ellipse", "cx": 40, "cy": 30, "rx": 20, "ry": 10, "theta": 0.5}, 3.1416 * 200),
]


def of_via(shapes, attributes=({"class": "cat"},), version=2):
    attributes = [*attributes] * len(shapes)
    regions = [{"shape_attributes": shape, "region_attributes": own} for shape, own in zip(shapes, attributes)]
    several = regions if version == 2 else {str(number): region for number, region in enumerate(regions)}
    return {"a.jpg99": {"filename": "a.jpg", "size": 99, "regions": several, "file_attributes": {}}}


@pytest.mark.parametrize(("shape", "area"), SHAPES, ids=[shape["name"] for shape, _ in SHAPES])
def test_regions_of_via_are_drawn_by_the_rule_of_coco(shape, area, tmp_path):
    photos(tmp_path, "a.jpg")
    (tmp_path / "via_region_data.json").write_text(json.dumps(of_via([shape])))
    (result,) = read(detect(tmp_path), tmp_path)[1]
    assert abs(int(result.labels.sum()) - area) <= 0.01 * area


@pytest.mark.parametrize("kind", ["version 1", "version 2", "project", "table", "splits"])
def test_every_file_of_via_is_read(kind, tmp_path):
    place = tmp_path / "train" if kind == "splits" else tmp_path
    photos(place, "a.jpg", "b.jpg")
    content = of_via(
        [SHAPES[0][0], SHAPES[2][0]], ({"class": "cat"}, {"class": "dog"}), 1 if kind == "version 1" else 2
    )
    content["b.jpg1"] = {"filename": "b.jpg", "size": 1, "regions": [], "file_attributes": {}}
    if kind == "table":
        rows = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
        for number, region in enumerate(content["a.jpg99"]["regions"]):
            cells = [json.dumps(region[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
            rows.append(f'a.jpg,99,"{{}}",2,{number},"{cells[0]}","{cells[1]}"')
        (tmp_path / "via_export_csv.csv").write_text("\n".join([*rows, 'b.jpg,1,"{}",0,0,"{}","{}"']))
    else:
        content = {"_via_settings": {}, "_via_img_metadata": content} if kind == "project" else content
        (place / "via_region_data.json").write_text(json.dumps(content))
    assert detect(tmp_path) == "via"
    classes, results = read("via", tmp_path)
    found = {result.stem: result for result in results}
    assert classes == ["cat", "dog"]
    a, b = (found[f"train/{name}" if kind == "splits" else name] for name in "ab")
    assert [int((a.labels == label).sum()) > 500 for label in (1, 2)] == [False, True]
    assert [part.label for part in a.objects] == [1, 2]
    assert not b.labels.any()


def test_an_outline_of_via_may_be_a_cell_longer_than_csv_takes_unasked(tmp_path):
    photos(tmp_path, "a.jpg")
    corners = np.repeat([(10, 10), (30, 10), (30, 30), (10, 30)], 6000, axis=0)
    shape = {"name": "polygon", "all_points_x": corners[:, 0].tolist(), "all_points_y": corners[:, 1].tolist()}
    row = {"filename": "a.jpg", "region_shape_attributes": json.dumps(shape), "region_attributes": '{"class": "cat"}'}
    assert len(row["region_shape_attributes"]) > csv.field_size_limit()
    with (tmp_path / "via.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)
    (result,) = read(detect(tmp_path), tmp_path)[1]
    assert result.labels.sum() == 400


def test_regions_of_via_without_attributes_are_one_class_and_those_without_an_area_are_named(tmp_path):
    root = tmp_path / "balloon"
    photos(root, "a.jpg")
    point = {"name": "point", "cx": 1, "cy": 1}
    (root / "via.json").write_text(json.dumps(of_via([SHAPES[0][0], point], ({},))))
    with pytest.warns(match="a point of a.jpg left out, it has no area"):
        assert open_folder(root).classes == ["balloon"]


def darwin(path, *objects):
    slot = {"type": "image", "slot_name": "0", "width": 80, "height": 60, "source_files": []}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "2.0", "item": {"name": "a.jpg", "slots": [slot]}, "annotations": objects}))


def test_polygons_with_holes_and_raster_masks_of_darwin_are_read(tmp_path):
    photos(tmp_path / "images", "a.jpg")
    pixels = two().ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.r_[-1, pixels, -1]))
    pairs = [number for start, end in pairwise(edges) for number in (int(pixels[start]) * 3, int(end - start))]
    layer = {"dense_rle": pairs, "mask_annotation_ids_mapping": {"x": 3, "y": 6}, "total_pixels": 4800}
    square = [{"x": x, "y": y} for x, y in ((60, 20), (78, 20), (78, 34), (60, 34))]
    hole = [{"x": x, "y": y} for x, y in ((64, 24), (70, 24), (70, 30), (64, 30))]
    darwin(
        tmp_path / "releases/latest/annotations/a.json",
        {"id": "x", "name": "cat", "mask": {"sparse_rle": None}},
        {"id": "y", "name": "dog", "mask": {"sparse_rle": None}},
        {"id": "z", "name": "__raster_layer__", "raster_layer": layer},
        {
            "id": "p",
            "name": "ant",
            "polygon": {"paths": [square, hole]},
            "bounding_box": {"x": 60, "y": 20, "w": 18, "h": 14},
        },
        {"id": "t", "name": "sunny", "tag": {}},
        {"id": "l", "name": "cat", "line": {"path": square}},
    )
    assert detect(tmp_path) == "darwin"
    with pytest.warns(match="an object of cat left out, it has no area that is read"):
        classes, results = read("darwin", tmp_path)
    (result,) = results
    assert classes == ["ant", "cat", "dog"]
    expected = np.choose(two(), [0, 2, 3])
    expected[20:34, 60:78] = 1
    expected[24:30, 64:70] = np.choose(two(), [0, 2, 3])[24:30, 64:70]
    np.testing.assert_array_equal(result.labels, expected)


def test_masks_of_segment_anything_are_objects_of_one_class_which_stay_apart(tmp_path):
    photos(tmp_path, "sa_1.jpg", "sa_2.jpg")
    found = [theirs.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (CAT, DOG)]
    drawn = [{"segmentation": {**each, "counts": each["counts"].decode()}, "stability_score": 0.9} for each in found]
    image = {"image_id": 1, "width": 80, "height": 60, "file_name": "sa_1.jpg"}
    (tmp_path / "sa_1.json").write_text(json.dumps({"image": image, "annotations": drawn}))
    (tmp_path / "sa_2.json").write_text(json.dumps(drawn))
    assert detect(tmp_path) == "sa1b"
    classes, results = read("sa1b", tmp_path)
    assert classes == ["object"]
    for result in results:
        assert [int(part.mask.sum()) for part in result.objects] == [CAT.sum(), DOG.sum()]
        np.testing.assert_array_equal(result.labels > 0, CAT | DOG)


@pytest.mark.parametrize("kind", ["via", "darwin", "sa1b"])
def test_a_name_that_leads_out_of_the_folder_is_named_and_the_other_photos_are_read(kind, tmp_path):
    photos(tmp_path, "a.jpg")
    counts = theirs.encode(np.asfortranarray(CAT.astype(np.uint8)))["counts"].decode()
    for name in ("a.jpg", "../../b.jpg"):
        file = tmp_path / f"{name[-5]}.json"
        if kind == "via":
            file.write_text(json.dumps(of_via([SHAPES[0][0]])).replace("a.jpg", name))
        elif kind == "darwin":
            darwin(file, {"id": "b", "name": "cat", "bounding_box": {"x": 1, "y": 1, "w": 5, "h": 5}})
            file.write_text(file.read_text().replace("a.jpg", name))
        else:
            drawn = [{"segmentation": {"size": [60, 80], "counts": counts}, "stability_score": 1}]
            image = {"file_name": name, "width": 80, "height": 60}
            file.write_text(json.dumps({"image": image, "annotations": drawn}))
    with pytest.warns(match="lies outside its folder"):
        _, results = read(detect(tmp_path), tmp_path)
    assert [result.file for result in results] == ["a.jpg"]
