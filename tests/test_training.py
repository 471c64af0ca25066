"""Training on photos of coloured shapes: the data it takes, resuming after a kill, many processes, checkpoints."""

import base64
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import warm
from shotseg.cli import _parsed, main
from shotseg.data.images import read_mask, write_png
from shotseg.errors import InputError, InputWarning, UsageError
from shotseg.training import checkpoint, loop
from shotseg.training import recipe as recipes
from shotseg.training.data import FeatureCache, views
from shotseg.training.few_shot import FewShot
from shotseg.training.run import train
from training_miniature import TINY

SMALL = [
    "--model.size",
    "64",
    "--model.encoder",
    TINY,
    "--model.weights",
    "random",
    "--model.options.width",
    "8",
    "--device",
    "cpu",
    "--data.held-out",
    "0.3",
]
SMALL += ["--validation.every", "4", "--validation.episodes", "3", "--save-every", "2"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two folds of two classes of shapes on noise; the first disc is also, as the same file, among the stripes."""
    root, stream, side = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0), 64
    y, x = np.mgrid[:side, :side]
    rows = ["class,fold"]
    for number, name in enumerate(("disc", "square", "stripe", "cross")):
        rows.append(f"{name},{number // 2}")
        for i in range(8):
            dy, dx = abs(y - stream.integers(20, 44)), abs(x - stream.integers(20, 44))
            inside = [dy**2 + dx**2 < 100, (dy < 10) & (dx < 10), dy < 6, (dy < 4) | (dx < 4)][number]
            image = stream.integers(0, 90, (side, side, 3)).astype(np.uint8)
            image[inside] = stream.integers(120, 255, 3)
            write(root, name, str(i), image, inside)
            if name == "disc" and i == 0:
                write(root, "stripe", "twin", image, inside)
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    return root


def write(root: Path, name: str, stem: str, image: np.ndarray, inside: np.ndarray) -> None:
    for kind, array in (("images", image), ("masks", inside.astype(np.uint8))):
        path = root / kind / name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, array)


def settings(*flags: str, name: str = "guided/tiny") -> recipes.Recipe:
    return _parsed(["train", name, "--root", ".", "--out", ".", *SMALL, *flags]).settings


def command(photos: Path, out: Path, *flags: str) -> list[str]:
    return ["train", "guided/tiny", "--root", str(photos), "--out", str(out), *SMALL, *flags]


def task(photos: Path, *flags: str, cache: Path | None = None) -> FewShot:
    recipe = settings(*flags)
    choice = views(recipe.data, photos)
    return FewShot(recipe, choice, checkpoint.make_model(recipe, len(choice.train.classes)), cache)


def test_no_photo_of_a_test_class_trains_or_validates(photos):
    choice = views(settings().data, photos)
    used = [item for part in (choice.train, choice.validation) for item in part.items]
    assert choice.test == ("disc", "square")
    assert {item.class_name for item in used} == {"stripe", "cross"}
    assert "stripe/twin" not in {item.id for item in used}  # the same file is a photo of a disc


def test_a_photo_trains_or_validates_but_never_both(photos):
    choice = views(settings().data, photos)
    train, validation = ({item.content for item in part.items} for part in (choice.train, choice.validation))
    assert train and validation and not train & validation


def test_choosing_on_the_test_fold_is_a_switch(photos):
    assert views(settings().data, photos, on_test_fold=True).validation.classes == ["disc", "square"]


def test_an_unknown_fold_or_class_is_named(photos):
    with pytest.raises(UsageError, match="no fold '7'"):
        views(settings("--data.fold", "7").data, photos)
    with pytest.raises(UsageError, match="no class 'zebra'"):
        views(settings("--data.test-classes", "zebra").data, photos)


def test_an_episode_depends_on_seed_and_number_alone(photos):
    flags = ("--no-cache-features", "--augment.geometry", "crop", "--augment.jitter", "0.2")
    first, second = task(photos, *flags), task(photos, *flags)
    second.draw(0)
    second.draw(5)
    a, b = first.draw(3).episode, second.draw(3).episode
    assert a.ids == b.ids
    assert torch.equal(a.query, b.query) and torch.equal(a.support_mask, b.support_mask)
    assert not torch.equal(a.query, task(photos, *flags, "--seed", "5").draw(3).episode.query)


def test_features_on_disk_are_those_of_the_encoder(photos, tmp_path):
    kept = task(photos, cache=tmp_path)
    cache: FeatureCache = kept.caches["train"]
    cache.prepare(0)
    for flipped in (False, True):
        stored = cache.read(0, flipped)
        fresh = kept.model.encode(stored.image[None])
        for ours, theirs, stride in zip(stored.features.maps, fresh.maps, fresh.strides):
            if stride >= 8:
                assert torch.allclose(ours, theirs, atol=2e-3 * theirs.abs().max().item())


def test_a_mask_that_was_corrected_is_read_again(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    stored = []
    for _ in range(2):
        cache = next(iter(task(root, cache=tmp_path / "kept").caches.values()))
        cache.prepare(0)
        stored.append(cache.read(0, False).mask)
        [path] = cache.part.mask_files(0)
        write_png(path, np.full_like(read_mask(path), 255))
    assert not (stored[0] == 1).all() and (stored[1] == 1).all()


def test_the_loss_falls(photos, tmp_path):
    flags = ("--steps", "30", "--model.options.width", "16", "--schedule.warmup", "0", "--optimiser.lr", "3e-3")
    train(settings(*flags), photos, tmp_path, device="cpu", say=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert (tmp_path / "report.html").read_text().count("<figure>") == 3
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_curves_of_a_report_are_a_picture_with_and_without_a_validation(curves):
    losses, scores = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)], [{"step": 3, "validation": 50.0}]
    pictures = []
    for lines in (losses, losses + scores, []):
        head, _, content = curves(lines, "mIoU").partition(",")
        pictures.append(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
        assert head == "data:image/png;base64" and pictures[-1].size == (1100, 330)
    blue = [
        (np.array(picture) == (31, 119, 180)).all(2) for picture in pictures
    ]  # the line, at the left and at the right
    assert [[bool(half.any()) for half in (drawn[:, :550], drawn[:, 550:])] for drawn in blue] == [
        [True, False],
        [True, True],
        [False, False],
    ]


def test_a_killed_run_goes_on_to_the_same_weights(photos, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--steps", "12", "--workers", "0")
    train(settings(*flags), photos, whole, device="cpu", say=lambda line: None)
    process = warm.shotseg(tmp_path, *command(photos, killed, *flags))
    while process.poll() is None and not (killed / "last.safetensors").is_file():
        time.sleep(0.05)
    time.sleep(np.random.default_rng().uniform(0, 0.2))  # at any step
    process.kill()
    assert warm.shotseg(tmp_path, *command(photos, killed, "--resume", *flags)).wait() == 0
    ours, theirs = load_file(killed / "last.safetensors"), load_file(whole / "last.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [json.loads(line).get("loss") for line in (killed / "metrics.jsonl").read_text().splitlines()]
    again = [json.loads(line).get("loss") for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert steps == again


def test_resuming_with_other_photos_is_said_and_a_torn_checkpoint_names_the_mend(photos, tmp_path):
    root, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    command = ["train", "guided/tiny", "--root", str(root), "--out", str(out), "--steps", "2", "--batch", "2", *SMALL]
    assert main(command) == 0
    for kind in ("images", "masks"):
        for number in range(4):
            (root / kind / f"cross/{number}.png").unlink()
    with pytest.warns(InputWarning, match="the run began with other training photos"):
        assert main([*command, "--resume"]) == 0
    last = out / "last.safetensors"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(InputError, match="of a run that cannot go on: choose another"):
        train(_parsed(command).settings, root, out, resume=True, device="cpu")


def test_resuming_with_another_recipe_names_the_difference(photos, tmp_path):
    quiet = {"device": "cpu", "say": lambda line: None}
    train(settings("--steps", "2"), photos, tmp_path, **quiet)
    with pytest.raises(UsageError, match="--resume"):
        train(settings("--steps", "2"), photos, tmp_path, **quiet)
    with pytest.raises(UsageError, match=r"another optimiser\.lr"):
        train(settings("--steps", "2", "--optimiser.lr", "0.5"), photos, tmp_path, resume=True, **quiet)


def test_a_run_of_an_older_version_which_knew_fewer_settings_goes_on(photos, tmp_path):
    train(settings("--steps", "2"), photos, tmp_path, device="cpu", say=lambda line: None)
    tensors, about = checkpoint.read(tmp_path / "last.safetensors")
    del about["recipe"]["sync_bn"]
    checkpoint.write(tmp_path / "last.safetensors", tensors, about)
    train(settings("--steps", "2"), photos, tmp_path, resume=True, device="cpu", say=lambda line: None)


def test_a_batch_in_parts_gives_the_weights_of_the_whole(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout2d, "forward", lambda self, x: x)
    flags = ("--steps", "2", "--optimiser.name", "sgd", "--ema", "0")
    parts = [train(settings(*flags, "--accumulate", n), photos, tmp_path / n, device="cpu", say=print) for n in "12"]
    one, two = (checkpoint.read(part.best)[0] for part in parts)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def without_dropout(flags: list[str]) -> int:
    torch.nn.Dropout2d.forward = lambda self, x: x
    return main(flags)


def test_two_processes_give_the_weights_of_one_with_the_joint_batch(photos, tmp_path, monkeypatch):
    flags = ["--steps", "2", "--optimiser.name", "sgd", "--ema", "0", "--model.options.hide", "0.0"]
    warm.group(tmp_path, 2, without_dropout, command(photos, tmp_path / "two", *flags))
    said = [(tmp_path / f"{rank}.out").read_text() for rank in range(2)]
    assert ["after 2 steps" in text for text in said] == [True, False], "the result is said once"
    monkeypatch.setattr(torch.nn.Dropout2d, "forward", lambda self, x: x)
    train(settings(*flags), photos, tmp_path / "one", device="cpu", say=lambda line: None)
    one, two = (load_file(tmp_path / out / "last.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    # after SGD's first step its momentum is the gradient itself
    assert all(torch.allclose(one[name], two[name], atol=1e-6, rtol=1e-4) for name in one)


def test_a_batch_that_cannot_be_cut_is_an_error(photos, tmp_path):
    with pytest.raises(UsageError, match="accumulate=3"):
        train(settings("--steps", "2", "--accumulate", "3"), photos, tmp_path, device="cpu", say=print)


@pytest.mark.parametrize("name", ["pfenet", "bam", "hdmnet"])
def test_a_checkpoint_loads_as_the_model_that_was_trained(photos, tmp_path, name):
    said: list[str] = []
    base = tmp_path / "base.yaml"
    base.write_text(
        "extends: base-learner/tiny\nmodel: {size: 64}\nsteps: 2\nvalidation: {every: 0}\ndata: {held_out: 0.3}\n"
    )
    flags = ["--steps", "2"] + ([] if name == "pfenet" else ["--base", str(base)])
    outcome = train(settings(*flags, name=f"{name}/tiny"), photos, tmp_path / "run", device="cpu", say=said.append)
    model = checkpoint.load_model(outcome.best)
    tensors, own = checkpoint.read(outcome.best)[0], model.state_dict()
    assert all(torch.equal(own[n.removeprefix("model.")], t) for n, t in tensors.items())
    photo = torch.rand(1, 3, 64, 96)
    support = model.encode_support(photo[:, None], torch.ones(1, 1, 64, 96, dtype=torch.long))
    assert model(model.encode(photo), support, photo).logits.shape[:2] == (1, 2)
    assert any("trained first" in line for line in said) == (name != "pfenet")
    if name == "bam":  # finished: it is not trained twice, and can be given by its file
        train(settings(*flags, name="bam/tiny"), photos, tmp_path / "run", resume=True, device="cpu", say=said.append)
        assert "is finished, loaded" in said[-1]


def test_a_checkpoint_that_does_not_fit_names_its_tensor(photos, tmp_path):
    model = checkpoint.make_model(settings(), 2)
    tensors = checkpoint.weights(model)
    tensors.pop("model.host.down_query.0.weight")
    with pytest.raises(InputError, match=r"host\.down_query\.0\.weight"):
        checkpoint.load_weights(model, tensors, "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"a\.safetensors"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_a_factor_of_parameters_that_are_not_there_is_refused_and_null_takes_one_out(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"no parameter begins with 'decoder\.'; they begin with 0"):
        loop.make_optimiser(model, recipes.Optimiser(factors={"decoder.": 2.0}))
    (tmp_path / "a.yaml").write_text("extends: hdmnet/pascal5i-resnet50\noptimiser: {factors: {transformer: null}}")
    assert recipes.load(tmp_path / "a.yaml").optimiser.factors == {"": 10.0}


def test_rates_differ_by_the_beginning_of_a_name():
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "body": torch.nn.Linear(2, 2)})
    groups = loop.make_optimiser(model, recipes.Optimiser(factors={"": 10.0, "body": 1.0})).param_groups
    assert sorted((group["factor"], len(group["params"])) for group in groups) == [(1.0, 2), (10.0, 2)]
