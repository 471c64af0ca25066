"""Photos read in processes of their own: the same numbers however these are started, and errors in one line."""

import multiprocessing
import pickle
import shutil

import pytest
import torch

import tiny_clip
import warm
from shotseg import encoders
from shotseg.errors import InputError
from shotseg.training import base_training, checkpoint, contrastive, few_shot, momentum, run, weak_shot_training
from shotseg.training.data import views
from training_miniature import settings, squares


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("photos"))


def task(recipe, root, out):
    """What the loop trains by a recipe."""
    if recipe.model.name == "simformer":
        train, held_out = weak_shot_training.views(recipe, root)
        model = checkpoint.make_model(recipe, len(train.classes), novel=train.novel)
        return weak_shot_training.WeakShot(recipe, train, held_out, model)
    if recipe.model.name == "contrastive":
        found = contrastive.collect(recipe, root)
        model = momentum.Contrastive(encoders.load(recipe.model.encoder, "random"), recipe.contrastive, 4)
        own = contrastive.ContrastiveTraining(recipe, found, model, out)
        own.prepare(lambda items: items, lambda *_: None)
        return own
    choice = views(recipe.data, root)
    model = checkpoint.make_model(recipe, len(choice.train.classes))
    kind = base_training.BaseTraining if recipe.model.name == "base-learner" else few_shot.FewShot
    return kind(recipe, choice, model)


def tensors(batch):
    return [x for x in vars(getattr(batch, "episode", batch)).values() if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize(
    "system", ["pfenet", "hsnet", "tlg", "cst", "corenet", "pi-clip", "base-learner", "simformer", "contrastive"]
)
def test_what_draws_photos_travels_to_another_process_without_the_network(photos, tmp_path, monkeypatch, system):
    load = encoders.load
    monkeypatch.setattr(
        encoders, "load", lambda name, *a, **k: tiny_clip.random() if "clip" in name else load(name, *a, **k)
    )
    own = task(settings(f"{system}/tiny"), photos, tmp_path)
    sent = pickle.dumps((own.draw, own.draw_validation, own.collate))
    assert len(sent) < 100_000
    draw, draw_validation, collate = pickle.loads(sent)
    for ours, theirs in ((own.draw, draw), (own.draw_validation, draw_validation)):
        a, b = (tensors(collate([f(1)])) for f in (ours, theirs))
        assert a and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def spawned():
    """Processes start with nothing but what is sent to them, as on macOS and Windows; torch is imported there already."""
    usual = multiprocessing.get_start_method()
    multiprocessing.set_forkserver_preload(warm.SLOW)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


def test_workers_that_are_spawned_give_the_weights_of_none(photos, tmp_path, spawned):
    def weights(workers):
        recipe = settings("guided/tiny", workers=workers, cache_features=True)
        outcome = run.train(recipe, photos, tmp_path / str(workers), device="cpu", say=lambda line: None)
        return checkpoint.read(outcome.best)[0]

    alone, spawned = weights(0), weights(1)
    assert all(torch.equal(alone[name], spawned[name]) for name in alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_read_is_one_line_whoever_reads_it(photos, tmp_path, workers):
    root = shutil.copytree(photos, tmp_path / "photos")
    recipe = settings("guided/tiny", workers=workers)
    for item in views(recipe.data, root).train.items:
        item.mask_path.write_bytes(b"no mask")
    with pytest.raises(InputError) as error:
        run.train(recipe, root, tmp_path / "out", device="cpu", say=lambda line: None)
    assert "Traceback" not in str(error.value) and str(root) in str(error.value)
