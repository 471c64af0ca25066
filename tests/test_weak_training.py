"""Training from class names alone: drawn masks are never opened, and queries may lack the class."""

import shutil

import numpy as np
import pytest
import torch

from shotseg.data.images import read_mask, write_png
from shotseg.errors import InputError, UsageError
from shotseg.models.blocks import imagenet_guide
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from shotseg.training.data import PseudoPart, views
from shotseg.training.few_shot import FewShot
from shotseg.training.run import train
from training_miniature import TINY

CLASSES = ("disc", "stripe", "cross")
SIDE = 64


@pytest.fixture
def photos(tmp_path):
    """Three classes of bright squares with drawn masks, and pseudo masks that are another square."""
    root, pseudo, stream = tmp_path / "photos", tmp_path / "pseudo", np.random.default_rng(0)
    for name in CLASSES:
        for i in range(10):
            image = stream.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
            drawn, guessed = np.zeros((2, SIDE, SIDE), np.uint8)
            drawn[8:32, 8:32], guessed[24:56, 24:56] = 255, 255
            write_png(root / "images" / name / f"{i}.png", image)
            write_png(root / "masks" / name / f"{i}.png", drawn)
            write_png(pseudo / "masks" / name / f"{i}.png", guessed)
    return root, pseudo


def recipe(pseudo, name: str = "guided/tiny", **changes) -> recipes.Recipe:
    weak = {
        "model": {"encoder": TINY, "size": SIDE, "weights": "random"},
        "data": {"test_classes": ["disc"], "supervision": "pseudo", "pseudo": str(pseudo), "held_out": 0.4},
        "validation": {"every": 0, "episodes": 2},
        "base": "",
        "batch": 1,
        "steps": 2,
        "workers": 0,
        "cache_features": False,
    }
    return recipes.load(name, **weak | changes)


def task(photos, **changes) -> FewShot:
    root, pseudo = photos
    own = recipe(pseudo, **changes)
    choice = views(own.data, root, pseudo=pseudo)
    return FewShot(own, choice, checkpoint.make_model(own, len(choice.train.classes)))


@pytest.mark.parametrize("name", ["guided/tiny", "cst/tiny", "corenet/tiny"])
def test_drawn_masks_never_reach_the_model_or_its_loss(photos, tmp_path, monkeypatch, name):
    root, pseudo = photos
    monkeypatch.setattr(imagenet_guide, "imagenet_weights", lambda name: torch.full((1, 1000), 1e-3))

    def weights(out: str) -> dict[str, torch.Tensor]:
        outcome = train(recipe(pseudo, name), root, tmp_path / out, device="cpu", say=lambda line: None)
        return checkpoint.read(outcome.best)[0]

    with_drawn = weights("with")
    shutil.rmtree(root / "masks")
    without = weights("without")
    assert with_drawn.keys() == without.keys()
    assert all(torch.equal(with_drawn[name], without[name]) for name in without)


def test_every_episode_of_training_and_validation_holds_pseudo_masks(photos):
    own = task(photos)
    for batch in (own.draw_validation(0), own.draw_validation(1)):
        for mask in (batch.episode.query_mask[0], batch.episode.support_mask[0, 0]):
            assert mask[40, 40] == 1 and mask[12, 12] == 0
    assert own.best_is == "mIoU against pseudo masks"


def test_a_pseudo_mask_that_is_not_there_is_made_from_the_name_once(photos, tmp_path):
    root, _ = photos
    asked = []

    def make(image, name):
        asked.append(name)
        ternary = np.full(image.shape[:2], 255, np.uint8)
        ternary[:10], ternary[10:20] = 1, 0
        return ternary

    choice = views(recipe(tmp_path / "new").data, root, pseudo=tmp_path / "new")
    part = PseudoPart(choice.train, tmp_path / "new", make)
    first, again = part.sample(0), part.sample(0)
    assert asked == [part.items[0].class_name]
    assert np.array_equal(first.mask, again.mask)
    assert (first.mask[:10] == 1).all() and (first.mask[10:20] == 0).all() and (first.mask[20:] == 255).all()
    assert np.array_equal(read_mask(part.path(0)), first.mask)


@pytest.mark.parametrize("labelled", ["images", "."])
def test_masks_of_pseudo_label_are_found_whatever_folder_it_labelled(photos, tmp_path, labelled):
    root, pseudo = photos
    made = tmp_path / "made"
    for mask in (pseudo / "masks").rglob("*.png"):
        name = mask.parent.name
        photo = (root / "images" / name / mask.name).relative_to((root / labelled).resolve())
        write_png(made / "masks" / name / photo, read_mask(mask))
    (made / "results.jsonl").write_text("")
    part = views(recipe(made).data, root, pseudo=made).train
    assert [part.path(i).is_file() for i in range(len(part))] == [True] * len(part)
    assert part.sample(0).mask[40, 40] == 1 and part.sample(0).mask[12, 12] == 0
    part.path(1).unlink()
    with pytest.raises(InputError, match="run pseudo-label on it too"):
        part.sample(1)


def test_the_folder_of_drawn_masks_is_refused_as_pseudo_masks(photos):
    root, _ = photos
    with pytest.raises(UsageError, match="drawn masks"):
        views(recipe(root).data, root, pseudo=root)


def test_a_query_without_the_class_is_background_and_keeps_the_class_asked_for(photos):
    every = [task(photos, absent=1.0).draw(i).episode for i in range(4)]
    assert all(not (e.query_mask == 1).any() and (e.support_mask == 1).any() for e in every)
    assert all(CLASSES.index(e.class_name[0]) != CLASSES.index(e.ids[0][0].split("/")[0]) for e in every)
    assert all(e.class_name[0] == e.ids[0][1].split("/")[0] for e in every)
