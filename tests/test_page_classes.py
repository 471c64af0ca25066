"""Classes of a project that are changed: two that turn out to be one, and whose key is whose."""

import numpy as np
import pytest

from page_project import project_of, square
from shotseg.errors import UsageError
from shotseg.web.examples import pairs
from shotseg.web.project import Project

BOTH = square(5, 5) + 2 * square(30, 30)


def joined(tmp_path, *more):
    """Its first photo shows red and crimson, of which crimson becomes red."""
    project = project_of(tmp_path)
    red, crimson, *_ = (project.add_class(name) for name in ("red", "crimson", *more))
    photo = min(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(photo.id, photo.version, BOTH)
    project.publish()
    project.remove_class(crimson.id, red.id)
    project.publish()
    return project, photo


def test_pixels_areas_examples_and_results_of_a_joined_class_are_the_others(tmp_path):
    project, photo = joined(tmp_path)
    assert [own.name for own in project.classes] == ["red"]
    assert np.array_equal(project.drawn_mask(photo), (BOTH > 0).astype(np.uint8))
    assert photo.areas == {1: pytest.approx((BOTH > 0).mean())} and photo.present[1] == 1
    assert len(pairs(project, "red")) == 1 and not pairs(project, "crimson")
    assert not (tmp_path / "project/results/masks/crimson").exists()


def test_a_joined_class_is_the_other_after_a_start_and_goes_with_it(tmp_path):
    project, photo = joined(tmp_path, "sky")
    project.remove_class("c1", "c3")
    project.close()
    again = Project(tmp_path / "project")
    photo = again.photo(photo.id)
    assert np.array_equal(again.drawn_mask(photo), 3 * (BOTH > 0).astype(np.uint8))
    assert np.array_equal(again.in_order(BOTH), (BOTH > 0).astype(np.uint8))
    again.remove_class("c3")
    assert not again.drawn_mask(photo).any()


def test_what_a_page_sends_that_has_not_heard_of_it_is_the_others(tmp_path):
    project, photo = joined(tmp_path)
    project.correct(photo.id, photo.version, 2 * square(40, 10))
    assert np.array_equal(project.drawn_mask(photo), square(40, 10)) and photo.areas == {1: square(40, 10).mean()}


def test_strokes_of_a_joined_class_are_the_others(tmp_path):
    project = project_of(tmp_path)
    for name in ("red", "crimson"):
        project.add_class(name)
    photo = min(project.said.photos.values(), key=lambda photo: photo.file)
    project.draw(photo.id, photo.version, "c2", [(True, 2.0, [(5, 5), (9, 9)])])
    project.remove_class("c2", "c1")
    assert [stroke.number for stroke in photo.strokes] == [1]


def test_a_class_is_not_joined_to_itself_or_to_none(tmp_path):
    project = project_of(tmp_path)
    project.add_class("red")
    for other in ("c1", "c9"):
        with pytest.raises(UsageError):
            project.remove_class("c1", other)
    assert [own.name for own in project.classes] == ["red"]


def test_masks_of_a_joined_class_that_no_photo_of_the_project_has_stay_examples(tmp_path):
    project = project_of(tmp_path)
    for name in ("red", "crimson"):
        project.add_class(name)
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        place = tmp_path / "project" / "examples" / kind / "crimson" / f"mine.{ending}"
        place.parent.mkdir(parents=True)
        place.write_bytes(b"")
    project.remove_class("c2", "c1")
    assert [image.name for image, _ in pairs(project, "red")] == ["mine.jpg"]


def test_a_key_is_that_of_one_class(tmp_path):
    project = project_of(tmp_path)
    project.add_class("red", key="3")
    with pytest.raises(UsageError, match="key 3 is that of class 'red'; choose another key, or none"):
        project.add_class("sky", key="3")
    assert project.add_class("sky").key == "1"
