"""Annotation files that are torn, empty, or of mixed ids: one true line each, and the rest is read."""

import csv
import json

import numpy as np
import pytest

from annotated import SQUARE, instances, labelme_file, labels_of, photos, two, written
from shotseg.cli import main
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import write_png
from shotseg.errors import InputError, LeftOutWarning, ShotsegError


@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
@pytest.mark.parametrize(
    ("format", "file"),
    [
        ("coco", "annotations/instances_default.json"),
        ("labelstudio", "tasks.json"),
        ("labelme", "a.json"),
        ("cvat", "annotations.xml"),
    ],
)
def test_a_torn_file_is_named_and_no_folder_is_taken_for_classes(format, file, part, tmp_path):
    root = written(tmp_path, format)
    for path in root.rglob("*.json") if format == "labelme" else [root / file]:
        path.write_bytes(path.read_bytes()[: max(60, int(path.stat().st_size * part))])
    with pytest.raises(InputError, match=rf"{file}: not (JSON|CVAT).*export it again"):
        open_folder(root)


def test_an_empty_file_is_named_and_outlines_without_names_say_what_is_absent(tmp_path):
    photos(tmp_path / "a", "a.jpg")
    (tmp_path / "a/instances.json").write_text("")
    with pytest.warns(LeftOutWarning, match=r"empty: instances\.json"):
        detect(tmp_path / "a")
    root = written(tmp_path, "yolo")
    for content in (None, "", "train: images\n"):
        (root / "data.yaml").unlink()
        if content is not None:
            (root / "data.yaml").write_text(content)
        with pytest.raises(
            InputError, match=r"data\.yaml: (no such file, which names|the file is empty|not a data\.yaml)"
        ):
            open_folder(root)
        (root / "data.yaml").touch()


@pytest.mark.parametrize("format", ["coco", "cvat"])
def test_one_torn_file_of_several_is_named_and_the_others_are_read(format, tmp_path):
    root = written(tmp_path, format)
    (file,) = (path for path in root.rglob("*.*") if path.suffix in (".json", ".xml"))
    file.with_stem("instances_torn").write_bytes(file.read_bytes()[:-20])
    with pytest.warns(LeftOutWarning, match=r"instances_torn.*export it again"):
        assert len(labels_of(format, root)) == 3
    assert main(["convert", str(root), "--to", "mask", "--out", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize(
    ("ids", "used"),
    [((0, "0"), (0, "0")), ((1, "2"), (1, "2")), (("1", "2"), (1, 2)), ((1, 2), ("1", "2")), (("a", 7), ("a", "7"))],
)
@pytest.mark.parametrize("what", ["image_id", "category_id"])
def test_ids_may_be_text_or_numbers_and_are_told_apart(ids, used, what, tmp_path):
    frame = {"height": 60, "width": 80}
    images = [{"id": 1, "file_name": "a.jpg", **frame}, {"id": 2, "file_name": "b.jpg", **frame}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    drawn = [{"segmentation": SQUARE, "image_id": i, "category_id": i} for i in (1, 2)]
    for row, own in zip(images if what == "image_id" else categories, ids):
        row["id"] = own
    for annotation, own in zip(drawn, used):
        annotation[what] = own
    photos(instances(tmp_path, drawn, images, categories), "a.jpg", "b.jpg")
    classes, results = read("coco", tmp_path)
    shown = {result.file: [classes[label - 1] for label in result.present()] for result in results}
    assert shown == {"a.jpg": ["cat"], "b.jpg": ["dog"]}


def test_what_cannot_be_used_stands_in_errors_csv_and_the_run_goes_on(tmp_path, capsys):
    line = {"segmentation": [[1, 2, 3, 4]], "category_id": 2}
    box = {"segmentation": [], "bbox": [1, 1, 5, 5]}
    photos(
        instances(
            tmp_path / "support", [{"segmentation": SQUARE}, {"segmentation": SQUARE, "category_id": 2}, line, box]
        ),
        "a.jpg",
    )
    photos(tmp_path / "query", "q.jpg")
    command = [
        "--support",
        tmp_path / "support",
        "--query",
        tmp_path / "query",
        "--out",
        tmp_path / "out",
        "--size",
        96,
    ]
    with pytest.warns(LeftOutWarning):
        assert main(["segment", *map(str, command)]) == 0
    with (tmp_path / "out/errors.csv").open(newline="") as table:
        said = " ".join(row["error"] for row in csv.DictReader(table))
    assert (
        "1 annotations without a segmentation left out (ids 3)" in said
        and "an object left out (an outline of 4 numbers)" in said
    )
    assert "errors.csv" in capsys.readouterr().out
    (tmp_path / "support/instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(ShotsegError, match="no photo in it that can be used"):
        open_folder(tmp_path / "support")


def test_photos_that_are_there_without_an_object_are_not_said_to_be_missing(tmp_path):
    photos(instances(tmp_path, [{"segmentation": None}]), "a.jpg")
    with pytest.warns(LeftOutWarning), pytest.raises(ShotsegError, match="no object that can be used in its 1 photos"):
        open_folder(tmp_path)


def test_files_of_tools_that_are_not_read_are_refused_by_name(tmp_path):
    for tool, file, content in (
        ("CreateML", "c/a.json", [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {}}]}]),
        ("Labelbox", "l/export.json", [{"data_row": {"external_id": "a.jpg"}}]),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(json.dumps(content))
        root = tmp_path / file[0]
        photos(root, "a.jpg")
        for path in (root, tmp_path / file):
            with pytest.raises(ShotsegError, match=f"annotations of {tool}, which are not read; export them as COCO"):
                open_folder(path)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_file_saved_with_a_byte_order_mark_is_read(coding, tmp_path):
    photos(instances(tmp_path, [{"segmentation": SQUARE}]), "a.jpg")
    content = (tmp_path / "instances.json").read_text()
    (tmp_path / "instances.json").write_bytes(content.encode(coding))
    assert open_folder(tmp_path).classes == ["cat"]


@pytest.mark.parametrize(
    ("named", "there"), [("a.jpg", "A.JPG"), ("deep/A.jpg", "a.Jpg"), ("\u00e4.jpg", "a\u0308.jpg")]
)
def test_a_photo_is_found_in_another_letter_case_where_it_is_the_only_one(named, there, tmp_path):
    images = [{"id": 1, "file_name": named, "height": 60, "width": 80}]
    photos(instances(tmp_path, [{"segmentation": SQUARE}], images), there)
    (item,) = open_folder(tmp_path).items
    assert item.image_path == tmp_path / there
    photos(tmp_path / "other", there)
    with (
        pytest.warns(LeftOutWarning, match="1 photos not found"),
        pytest.raises(ShotsegError, match="none of its photos"),
    ):
        open_folder(tmp_path)


def test_entries_of_coco_that_are_no_objects_are_named_and_the_rest_is_read(tmp_path, recwarn):
    photos(instances(tmp_path, [{"segmentation": SQUARE}]), "a.jpg")
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({**content, "images": [None, *content["images"]], "annotations": [*content["annotations"], 5]})
    )
    assert (labels_of("coco", path)["a"] == 1).any()
    said = [str(each.message) for each in recwarn]
    assert any("1 of its images are no objects" in line for line in said) and any("its annotations" in x for x in said)


def test_the_query_of_a_photo_s_address_is_no_part_of_its_name(tmp_path):
    image = {"id": 1, "file_name": "https://example.org/x/my%20a.jpg?token=1", "height": 60, "width": 80}
    photos(instances(tmp_path, [{"segmentation": SQUARE}], [image]), "my a.jpg")
    (found,) = read("coco", tmp_path)[1]
    assert found.file == "my a.jpg" and found.photo == tmp_path / "my a.jpg"


def test_shapes_of_labelme_without_a_label_are_named(tmp_path, recwarn):
    photos(tmp_path, "a.jpg")
    drawn = {"points": [[1, 1], [30, 1], [30, 30]], "shape_type": "polygon"}
    labelme_file(
        tmp_path / "a.json", drawn, {**drawn, "label": None}, {**drawn, "label": " "}, {**drawn, "label": "cat"}
    )
    classes, found = read("labelme", tmp_path)
    assert classes == ["cat"] and [(result.labels > 0).any() for result in found] == [True]
    assert any("a.json: a polygon left out, it has no label" in str(each.message) for each in recwarn)


def test_two_photos_of_one_content_in_a_class_are_two(tmp_path, capsys):
    for name, mask in (("a", two() == 1), ("b", two() == 2)):
        photos(tmp_path / "in/images/cat", f"{name}.png")
        write_png(tmp_path / f"in/masks/cat/{name}.png", np.uint8(mask))
    found = {result.file: result.labels > 0 for result in read("mask", tmp_path / "in")[1]}
    assert [mask.sum() for mask in found.values()] == [(two() == 1).sum(), (two() == 2).sum()]


def test_tasks_of_which_nothing_is_known_are_counted(tmp_path, recwarn):
    photos(tmp_path, "a.jpg")
    drawn = {"value": {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["dog"]}}
    tasks = [
        {"data": {"image": name}, "annotations": [{"result": regions}]}
        for name, regions in (("a.jpg", [drawn]), ("b.jpg", []))
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert len(list(read("labelstudio", tmp_path)[1])) == 1
    assert any("1 tasks without a region" in str(each.message) for each in recwarn)


def test_where_no_photo_can_be_drawn_each_is_said_once(tmp_path, capsys, recwarn):
    named = [{"id": id, "file_name": f"{id}.jpg", "height": 60, "width": 80} for id in (1, 2)]
    boxes = [{"image_id": id, "bbox": [0, 0, 4, 4]} for id in (1, 2)]
    root = instances(photos(tmp_path / "boxes", "1.jpg", "2.jpg"), boxes, named)
    assert main(["convert", str(root), "--to", "mask", "--out", str(tmp_path / "out")]) != 0
    lines = [*capsys.readouterr().err.splitlines(), *(str(each.message) for each in recwarn)]
    assert [sum(f"photo {id}.jpg: none of its 1 objects" in line for line in lines) for id in (1, 2)] == [1, 1]
