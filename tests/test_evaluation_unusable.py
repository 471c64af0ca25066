"""A photo or mask that cannot be used stops no evaluation of the others."""

import numpy as np
import pytest
from PIL import Image
from skimage.draw import disk

import shotseg
from annotated import instances
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import write_png
from shotseg.errors import InputError
from shotseg.evaluation.usable import usable


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
    assert [line.partition(":")[2].split(":")[0] for line in said[:2]] == [" a/0", " b/1"]
    assert "masks/a/0.png" in said[0] and "no pixel is the class" in said[1]
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
    dataset = open_folder(root)
    [(name, reason)] = usable(dataset, dataset.classes)[1]
    assert name == "a/2" and str(photo) in reason


def test_above_a_third_the_folder_itself_must_be_wrong(root):
    for number in range(3):
        broken(root / f"masks/a/{number}.png")
    with pytest.raises(
        InputError, match=r"3 of 8 photos or masks cannot be used, more than 33%; the first: .*masks/a/0\.png"
    ):
        measured(root)


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
    assert len(view.items) + len(left_out) == len(dataset.items) and view.classes == dataset.classes
    assert all((view.sample(i).mask == 1).any() for i in range(len(view)))
