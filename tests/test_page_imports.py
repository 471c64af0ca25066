"""A project that begins with masks that there are already."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from page_project import SIZE, photos_folder, project_of, square
from shotseg.cli.serve import Serve
from shotseg.data.annotations import Labelled, write
from shotseg.errors import UsageError
from shotseg.web.examples import pairs
from shotseg.web.imports import take
from shotseg.web.project import Project


def coco(folder, files, classes=("cat", "dog")):
    labels = square(10, 10) + 2 * square(30, 30)
    write("coco", folder, [Labelled(file, labels) for file in files], list(classes))
    return folder, labels


def by_name(project):
    return {photo.file: photo for photo in project.said.photos.values()}


def test_photos_get_the_masks_of_another_tool_as_accepted(tmp_path):
    project = project_of(tmp_path)
    source, labels = coco(tmp_path / "coco", ["photo0.png", "elsewhere.png"])
    said = take(project, source)
    assert "1 photos have their masks" in said and "1 are not in the project (elsewhere.png)" in said
    photo = by_name(project)["photo0.png"]
    assert photo.state == "accepted" and [own.name for own in project.classes] == ["cat", "dog"]
    assert np.array_equal(project.in_order(project.drawn_mask(photo)), labels)
    assert by_name(project)["photo1.png"].state == "open"


def test_what_a_person_decided_stays_and_the_same_command_again_changes_nothing(tmp_path):
    project = project_of(tmp_path)
    project.add_class("dog")
    mine = by_name(project)["photo0.png"]
    project.correct(mine.id, mine.version, square(2, 2))
    source, _ = coco(tmp_path / "coco", ["photo0.png", "photo1.png"])
    assert "1 photos have their masks from it; 1 were decided before and stay" in take(project, source)
    assert np.array_equal(project.in_order(project.drawn_mask(mine)), square(2, 2))
    other = project.drawn_mask(by_name(project)["photo1.png"])
    assert [project.klass(f"c{number}").name for number in np.unique(other[other > 0])] == ["dog", "cat"]
    assert "0 photos have their masks from it; 2 were decided" in take(project, source)


def test_the_folder_that_segment_wrote_is_taken_and_what_is_damaged_in_it_is_named(tmp_path, capsys):
    project, run = project_of(tmp_path), tmp_path / "result"
    lines = [{"file": f"photo{i}.png", "name": f"photo{i}", "confidence": 0.25} for i in range(3)]
    lines += [{"file": "photo1.png", "name": "../../../out"}, {"file": "odd\u2028name.png", "name": "odd\u2028name"}]
    (run / "masks" / "cat").mkdir(parents=True)
    (run / "results.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines) + "{\n")
    Image.fromarray(square(5, 5) * 255).save(run / "masks" / "cat" / "photo0.png")
    (run / "masks" / "cat" / "photo1.png").write_bytes(b"no mask")
    Image.fromarray(np.full((SIZE[0] - 1, SIZE[1]), 255, np.uint8)).save(run / "masks" / "cat" / "photo2.png")
    with pytest.warns() as told:
        assert "1 photos have their masks from it, to be reviewed" in take(project, run)
    said = "\n".join(str(line.message) for line in told)
    assert (
        "line 6 is damaged" in said and said.count("damaged") == 1 and "'../../../out' lies outside its folder" in said
    )
    assert "photo1.png" in said and "photo2.png: left out" in said
    photo = by_name(project)["photo0.png"]
    assert np.array_equal(project.drawn_mask(photo), square(5, 5))
    assert (photo.state, photo.confidence, pairs(project, "cat")) == (
        "predicted",
        0.25,
        [],
    )  # nobody has looked at it yet
    project.predicted(photo, 7, 0.9, {1: 1.0}, {1: 0.5})
    project.close()
    project = Project(tmp_path / "project")
    photo = by_name(project)["photo0.png"]
    assert (photo.state, photo.confidence) == ("predicted", 0.25)
    project.set_state(photo.id, photo.version, "accepted")
    project.publish()
    assert np.array_equal(project.drawn_mask(photo), square(5, 5)) and photo.confidence is None
    assert len(pairs(project, "cat")) == 1


def test_a_photo_is_known_by_its_name_alone_where_one_alone_has_it(tmp_path):
    project = project_of(tmp_path)
    photos_folder(tmp_path / "photos" / "more", 2)
    source, _ = coco(tmp_path / "coco", ["photo0.png", "sub/photo2.png"])
    take(project, source)
    assert {file for file, photo in by_name(project).items() if photo.reviewed} == {"photo0.png", "photo2.png"}


def test_classes_that_no_photo_shows_are_left_out_and_one_that_can_be_no_folder_is_named(tmp_path):
    project = project_of(tmp_path)
    source, labels = coco(tmp_path / "coco", ["photo0.png"], ["cat", "a/b", "absent"])
    with pytest.warns(match="'a/b' cannot be a folder's name.*its masks are left out"):
        take(project, source)
    assert [own.name for own in project.classes] == ["cat"]
    assert np.array_equal(project.drawn_mask(by_name(project)["photo0.png"]), labels * (labels == 1))


def test_masks_of_no_photo_of_the_project_are_one_line(tmp_path):
    project = project_of(tmp_path)
    source, _ = coco(tmp_path / "coco", ["elsewhere.png"])
    with pytest.raises(UsageError, match=r"none of its photos is in the project \(elsewhere.png\); give their"):
        take(project, source)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"source": "coco"}, "--from changes nothing without --masks"),
        ({"source": "none"}, "--from none: no such format"),
        ({"masks": Path("absent")}, "--masks absent: no such file or folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_a_project_is_made(tmp_path, flags, line):
    with pytest.raises(UsageError, match=line):
        Serve(tmp_path / "project", **flags).run()
    assert not (tmp_path / "project").exists()
