"""Stacks given to trainings from masks of some classes and names of others, and to those from masks that names made."""

import numpy as np
import tifffile

from shotseg.data import weak_shot
from shotseg.data.images import write_png
from shotseg.data.reading import Reading
from shotseg.training.data import views
from shotseg.training.recipe import DataChoice
from test_stacks import stacks


def pages_of(photos):
    """Of each photo its id, its grey and its label map."""
    return {item.id: (int(photos.image(i).max()), photos.truth(i)) for i, item in enumerate(photos.items)}


def test_a_page_of_a_stack_of_label_maps_comes_with_its_own_map(tmp_path):
    stacks(tmp_path, "images/a.tif", "masks/a.tif")
    maps = np.stack([np.full((30, 40), value, np.uint8) for value in (1, 2, 1)])
    tifffile.imwrite(tmp_path / "masks/a.tif", maps, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "classes.csv").write_text("class_id,class\n0,background\n1,nucleus\n2,wall\n")
    found = pages_of(weak_shot.load("folder", tmp_path, novel=["wall"]))
    assert {id: (grey, set(np.unique(labels))) for id, (grey, labels) in found.items()} == {
        "a.tif_p001": (10, {0}),
        "a.tif_p002": (20, {1}),
        "a.tif_p003": (30, {0}),
    }
    chosen = pages_of(
        weak_shot.load("folder", tmp_path, novel=["wall"], labels=("x", "y", "wall"), reading=Reading(page=2))
    )
    assert [(id, grey, set(np.unique(labels))) for id, (grey, labels) in chosen.items()] == [("a.tif", 20, {2})]


def test_a_page_of_a_stack_of_a_class_comes_with_its_own_mask(tmp_path):
    masks = stacks(tmp_path, "images/cell/a.tif", "masks/cell/a.tif")
    write_png(tmp_path / "images/other/b.png", np.zeros((30, 40, 3), np.uint8))
    found = pages_of(weak_shot.load("folder", tmp_path))
    for page in (0, 2):
        grey, labels = found[f"cell/a_p00{page + 1}"]
        assert grey == 10 * (page + 1) and ((labels > 0) == masks[page]).all()


def test_each_page_gets_the_mask_that_is_made_from_its_own_pixels(tmp_path):
    stacks(tmp_path, "images/cell/a.tif", "masks/cell/a.tif")
    part = views(DataChoice(supervision="pseudo", fold="", held_out=0), tmp_path, pseudo=tmp_path / "pseudo").train
    part.make = lambda image, name: (np.arange(40) < image[..., 0]).astype(np.uint8)
    for page, sample in enumerate(map(part.sample, range(3)), 1):
        assert sample.image.max() == 10 * page and (sample.mask == 1).sum() == 30 * 10 * page
