"""A photo or mask that cannot be used stops no evaluation of the others, and no training on them."""

import numpy as np
import pytest
from PIL import Image
from skimage.draw import disk

import shotseg
from annotated import instances
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import write_png
from shotseg.data.usable import usable
from shotseg.errors import InputError
from shotseg.training import recipe
from shotseg.training.data import views


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(4):
            mask = np.zeros((40, 60), np.uint8)
            mask[disk((20, 15 + 8 * number), 9)] = 255
            photo = np.where(mask[..., None] > 0, [200, 40, 40], generator.integers(0, 90, (40, 60, 3)))
            write_png(tmp_path / f"images/{name}/{number}.png", photo.astype(np.uint8))
            write_png(tmp_path / f"masks/{name}/{number}.png", mask)
    return tmp_path


def broken(path):
    path.write_bytes(path.read_bytes()[:60])


def measured(root, **options):
    said = []
    small = {"encoder": "efficientnet-lite0", "size": 64, "seeds": [0], "say": said.append}
    result = shotseg.evaluate(root, **small, **(options or {"episodes": 4}))
    return result, said


@pytest.mark.parametrize("options", [{}, {"way": 2, "queries": 1}])
def test_what_cannot_be_used_is_named_and_the_others_are_measured(root, options):
    broken(root / "masks/a/0.png")
    write_png(root / "masks/b/1.png", np.zeros((40, 60), np.uint8))
    result, said = measured(root, **options)
    assert said[0].startswith(f"left out: a/0: {root / 'masks/a/0.png'}: ")
    assert said[1] == "left out, no pixel of the class in the mask: b/1"
    assert result.content["data"]["left_out"] == 2


def test_the_numbers_are_those_of_a_folder_without_what_cannot_be_used(root):
    write_png(root / "images/a/9.png", np.zeros((40, 60, 3), np.uint8))
    (root / "masks/a/9.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result, said = measured(root)
    assert len(said) == 1
    for folder in ("images", "masks"):
        (root / folder / "a/9.png").unlink()
    alone, said = measured(root)
    assert not said and alone.scores == result.scores


def test_a_truncated_photo_is_found_before_any_is_drawn(root):
    photo = root / "images/a/2.png"
    Image.open(photo).save(photo.with_suffix(".jpg"), quality=95)
    photo.unlink()
    photo = photo.with_suffix(".jpg")
    photo.write_bytes(photo.read_bytes()[:-300])
    dataset, said = open_folder(root), []
    assert usable(dataset, dataset.classes, said.append)[1] == 1
    assert said[0].startswith(f"left out: a/2: {photo}")


def test_above_a_third_the_folder_itself_must_be_wrong(root):
    for number in range(3):
        broken(root / f"masks/a/{number}.png")
    with pytest.raises(
        InputError, match=r"3 of 8 photos or masks cannot be used, more than 33%; the first: a/0: .*masks/a/0\.png"
    ):
        measured(root)


def test_many_empty_masks_are_no_fault(root):
    for name, number in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        write_png(root / f"masks/{name}/{number}.png", np.zeros((40, 60), np.uint8))
    result, said = measured(root)
    assert said == ["left out, no pixel of the class in the mask: a/0, a/1, b/0, b/1"]
    assert result.content["data"]["left_out"] == 4


def test_annotations_that_cannot_be_drawn_are_left_out_too(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 80} for number in range(4)]
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    shapes = [[[1, 1, 2]] if number == 2 else square for number in range(4)]
    annotations = [{"image_id": number, "segmentation": shape} for number, shape in enumerate(shapes)]
    root = instances(tmp_path, annotations, images)
    for number in range(4):
        Image.new("RGB", (80, 60), (number, 9, 9)).save(root / f"{number}.jpg")
    dataset = open_folder(root)
    view, left_out = usable(dataset, dataset.classes)
    assert len(view.items) + left_out == len(dataset.items) and view.classes == dataset.classes
    assert all((view.sample(i).mask == 1).any() for i in range(len(view)))


def test_a_training_leaves_out_what_cannot_be_used(root):
    broken(root / "masks/a/0.png")
    choice = recipe.load("guided/tiny").data
    with pytest.warns(UserWarning, match=r"left out: a/0: .*masks/a/0\.png"):
        found = views(choice, root)
    items = [*found.train.items, *found.validation.items]
    assert len(items) == 7 and "a/0" not in [item.id for item in items]
    assert all((found.train.sample(i).mask == 1).any() for i in range(len(found.train)))
