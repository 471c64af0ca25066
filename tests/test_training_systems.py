"""Training of each kind: on a prepared data set, with CLIP beside the encoder, with an encoder that moves."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

import miniatures
import tiny_clip
import training_miniature as miniature
from shotseg import encoders
from shotseg.cli import main
from shotseg.data.images import write_png
from shotseg.encoders.clip import ClipViT
from shotseg.training import checkpoint, loop
from shotseg.training import recipe as recipes
from shotseg.training.data import views
from shotseg.training.run import train
from training_miniature import TINY

SMALL = {"encoder": TINY, "weights": "random"}


def settings(name, options=None, **changes):
    """A recipe, made small."""
    model = {"size": 64, "options": {"width": 8, **(options or {})}, **changes.pop("model", {})}
    small = {"validation": {"every": 0, "episodes": 2}, "steps": 2, "epochs": 0.0, "batch": 2, "workers": 0, "base": ""}
    recipe = recipes.load(name, **small | changes | {"model": model})
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out=0.3))


def run(recipe, root, out, **options):
    return train(recipe, root, out, device="cpu", say=lambda line: None, **options)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = miniatures.pascal(tmp_path_factory.mktemp("voc"))
    assert main(["prepare", "pascal5i", "--root", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise with a square."""
    root, stream = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 1
    for name in ("ant", "bee"):
        for i in range(6):
            write_png(root / f"images/{name}/{i}.png", stream.integers(0, 255, (48, 64, 3)).astype(np.uint8))
            write_png(root / f"masks/{name}/{i}.png", mask * 255)
    return root


@pytest.fixture
def clip_is_tiny(monkeypatch):
    load, small = encoders.load, functools.cache(tiny_clip.random)
    torch.manual_seed(0)
    small()
    monkeypatch.setattr(encoders, "load", lambda name, *a, **k: small() if "clip" in name else load(name, *a, **k))


@pytest.mark.parametrize("name", ["guided/tiny", "bam/tiny"])
def test_a_prepared_data_set_trains_a_model_and_its_base_learner(voc, tmp_path, name):
    base = tmp_path / "base.yaml"
    base.write_text(
        f"extends: base-learner/tiny\nmodel: {{encoder: {TINY}, weights: random, size: 64}}\nsteps: 2\n"
        "validation: {every: 0}\ndata: {held_out: 0.3}\n"
    )
    data = {"name": "pascal5i", "fold": "1", "family": "pfenet"}
    recipe = settings(name, data=data, base=str(base) if name == "bam/tiny" else "", model=SMALL)
    outcome = run(recipe, voc, tmp_path / "run")
    about = checkpoint.read(outcome.best)[1]
    novel = {"bus", "car", "cat", "chair", "cow"}
    assert len(about["classes"]) == 15 and novel.isdisjoint(about["classes"])
    choice = views(recipe.data, voc)
    assert set(choice.test) == novel
    forbidden = set(choice.train.dataset.novel_ids)
    for part in (choice.train, choice.validation):
        assert part.photos and all(not forbidden & part.dataset.photos[at].pixels.keys() for at in part.photos)
    if name == "bam/tiny":
        assert checkpoint.load_model(outcome.best).base.classify[-1].out_channels == 16


def test_clip_runs_once_for_each_photo_and_its_weights_are_not_kept(photos, tmp_path, monkeypatch, clip_is_tiny):
    seen, original = [], ClipViT.tokens_and_attention
    counted = lambda self, images, **options: seen.append(len(images)) or original(self, images, **options)  # noqa: E731
    monkeypatch.setattr(ClipViT, "tokens_and_attention", counted)
    recipe = settings("pi-clip/tiny", {"tokens": 8}, data={"fold": ""}, steps=4)
    outcome = run(recipe, photos, tmp_path / "run")
    assert sum(seen) == 12 * 2 * 2  # plain and masked, each as it is and flipped
    names = checkpoint.read(outcome.best)[0]
    assert names and not any({"clip", "encoder"} & set(name.split(".")) for name in names)
    assert checkpoint.load_model(outcome.best).host.prior_scale == 10
    seen.clear()
    flags = ["--checkpoint", str(outcome.best), "--episodes", "30", "--seeds", "0", "--workers", "1", "--device", "cpu"]
    assert main(["evaluate", "folder", "--root", str(photos), "--out", str(tmp_path / "x.json"), *flags]) == 0
    assert sum(seen) <= 12 * 2  # 30 episodes: each photo once as a query and once as a masked support


@pytest.mark.parametrize(
    "options", [{"text_context": "oracle"}, {"reference": True}, {"text_context": "known", "known": "ant"}]
)
def test_clip_is_told_in_training_what_it_asks(photos, tmp_path, clip_is_tiny, options):
    recipe = settings("pi-clip/tiny", {"tokens": 8, **options}, data={"fold": ""}, model=SMALL)
    assert run(recipe, photos, tmp_path / "run").best.is_file()


def test_an_encoder_that_moves_is_kept_and_clip_beside_it_is_not(clip_is_tiny, tmp_path):
    moving = settings("pi-clip/tiny", {"host": "pfenet", "encoder_bn": "train"})
    model = checkpoint.make_model(moving, 2).train()
    assert model.encoder_learned
    kept = checkpoint.weights(model)
    means = [name for name in kept if ".encoder." in name and name.endswith("running_mean")]
    assert means and not any(".clip." in name for name in kept)
    kept[means[0]] = torch.full_like(kept[means[0]], 7.0)
    checkpoint.write(tmp_path / "x.safetensors", kept, {"recipe": recipes.plain(moving), "classes": ["a", "b"]})
    again = checkpoint.load_model(tmp_path / "x.safetensors").state_dict()
    assert (again[means[0].removeprefix(checkpoint.WEIGHTS)] == 7).all()


def test_only_batch_norms_that_learn_are_shared_among_devices():
    model = checkpoint.make_model(settings("hdmnet/coco20i-resnet50", model={"weights": "random"}), 2)
    kinds = {type(module) for module in model.encoder.modules()}
    before = model.state_dict().keys()
    loop.share_batch_norms(model)
    assert {type(module) for module in model.encoder.modules()} == kinds
    shared = [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert len(shared) == 3 + 3 * 3 + 2  # of the decoder: where priors join, a level's convolutions, the classifier
    assert model.state_dict().keys() == before


@pytest.mark.parametrize("system", ["pfenet", "hsnet", "tlg", "cst", "corenet", "simformer", "pi-clip"])
def test_each_system_trains_in_mixed_precision_and_validates_in_full(system, photos, tmp_path, clip_is_tiny):
    own = {"model": {"encoder": "efficientnet-lite0"}} if system == "hsnet" else {}
    novel = ["bee"] if system == "simformer" else []
    recipe = miniature.settings(f"{system}/tiny", precision="bf16", data={"test_classes": novel}, **own)
    run(recipe, photos, tmp_path / "run")
    (line, *_) = (json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert np.isfinite(line["loss"])
