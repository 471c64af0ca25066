"""Shapes that current versions of annotation tools write, and how many objects they are."""

import warnings

import numpy as np
import pytest

from annotated import labelme_file, photos
from shotseg.cli import main
from shotseg.data.annotations import detect, read

DIAMOND = [[40, 10], [60, 30], [40, 50], [20, 30]]
SQUARE = [[10, 10], [29, 10], [29, 29], [10, 29]]  # 400 pixels by LabelMe's rule


def result_of(path):
    """The one photo, and all that was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classes, found = read(detect(path), path)
        (result,) = list(found)
    return classes, result, " ".join(str(each.message) for each in caught)


@pytest.mark.parametrize("kind", ["rectangle", "quadrilateral", "rotation", "oriented_rectangle"])
def test_four_corners_of_labelme_are_their_own_outline_not_the_box_around_them(tmp_path, kind):
    photos(tmp_path, "a.jpg")
    labelme_file(tmp_path / "a.json", {"label": "cat", "shape_type": kind, "points": DIAMOND})
    y, x = np.mgrid[:60, :80]
    _, result, said = result_of(tmp_path)
    np.testing.assert_array_equal(result.labels == 1, abs(x - 40) + abs(y - 30) <= 20)
    assert not said


@pytest.mark.parametrize("turn", range(4))
def test_the_corners_of_an_upright_rectangle_may_begin_anywhere(tmp_path, turn):
    photos(tmp_path, "a.jpg")
    points = SQUARE[turn:] + SQUARE[:turn]
    labelme_file(tmp_path / "a.json", {"label": "cat", "shape_type": "rectangle", "points": points})
    expected = np.zeros((60, 80), np.uint8)
    expected[10:30, 10:30] = 1
    np.testing.assert_array_equal(result_of(tmp_path)[1].labels, expected)


def labelme_pieces(folder):
    other = [[50, 10], [59, 10], [59, 19], [50, 19]]
    pieces = [("cat", SQUARE, 1), ("cat", other, 1), ("dog", [[50, 40], [59, 40], [59, 49], [50, 49]], 1)]
    pieces += [
        ("dog", [[70, 40], [79, 40], [79, 49], [70, 49]], None),
        ("dog", [[1, 40], [10, 40], [10, 49], [1, 49]], None),
    ]
    shapes = [{"label": name, "shape_type": "polygon", "points": p, "group_id": group} for name, p, group in pieces]
    labelme_file(folder / "a.json", *shapes)


def cvat_pieces(folder):
    boxes = [("cat", 10, 10, 30, 1), ("cat", 50, 10, 60, 1), ("dog", 50, 40, 60, 1), ("dog", 70, 40, 80, 0)]
    rows = [
        f'<box label="{name}" xtl="{x}" ytl="{y}" xbr="{end}" ybr="{y + end - x}" group_id="{group}"/>'
        for name, x, y, end, group in boxes
    ]
    rows.append('<box label="dog" xtl="1" ytl="40" xbr="11" ybr="50"/>')
    (folder / "annotations.xml").write_text(
        "<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label><label><name>dog</name>"
        f'</label></labels></task></meta><image id="0" name="a.jpg" width="80" height="60">{"".join(rows)}</image>'
        "</annotations>"
    )


@pytest.mark.parametrize("written", [labelme_pieces, cvat_pieces])
def test_pieces_of_one_class_and_group_are_one_object(tmp_path, written):
    written(photos(tmp_path, "a.jpg"))
    classes, result, _ = result_of(tmp_path)
    found = [(classes[part.label - 1], int(part.mask.sum())) for part in result.parts]
    assert found == [("cat", 500), ("dog", 100), ("dog", 100), ("dog", 100)]
    assert (result.labels == 1).sum() == 500 and (result.labels == 2).sum() == 300
    assert main(["convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    assert len(result_of(tmp_path / "out")[1].parts) == 4


def test_what_labelme_keeps_for_itself_is_no_class(tmp_path):
    photos(tmp_path, "a.jpg")
    shapes = [{"label": name, "points": SQUARE} for name in ("cat", "__ignore__", "_background_")]
    labelme_file(tmp_path / "a.json", *shapes)
    classes, result, said = result_of(tmp_path)
    assert classes == ["cat"] and result.labels.sum() == 400
    assert "polygon called __ignore__ left out" in said and "polygon called _background_ left out" in said


OUTLINE = "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"


@pytest.mark.parametrize("behind", ["", "0.93", "1", "0", "1.000000", "7", "0.93 7", "1 2"])
def test_a_confidence_and_a_track_behind_an_outline_of_yolo_are_passed_over(tmp_path, behind):
    photos(tmp_path / "images", "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"{OUTLINE} {behind}\n1 0.5 0.5 0.2 0.2 {behind}\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    _, result, said = result_of(tmp_path)
    expected = np.zeros((60, 80), np.uint8)
    expected[15:30, 20:40] = 1
    np.testing.assert_array_equal(result.labels, expected)
    assert "lines are no outlines (a box)" in said
