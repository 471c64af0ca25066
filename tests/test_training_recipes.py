"""Recipes: read strictly, changed by flags, and each of them complete."""

import dataclasses
import json
import math
from dataclasses import replace
from functools import partial
from importlib.resources import files

import pytest
import torch

import golden
from shotseg import data, encoders, models
from shotseg.cli import _parsed
from shotseg.errors import InputWarning, UsageError
from shotseg.training import recipe as recipes
from shotseg.training import run
from shotseg.training.loop import learning_rate
from shotseg.training.recipe import Schedule
from shotseg.training.run import train
from training_miniature import TINY, settings, squares

GUIDED = recipes.load("guided/tiny")


@pytest.mark.parametrize("name", recipes.list_recipes())
def test_every_recipe_names_a_model_an_encoder_and_a_data_set_that_exist(name):
    recipe = recipes.load(name)
    assert recipe.model.name in [*models.list_models(), "base-learner", "contrastive"]
    assert recipe.model.encoder in encoders.list_encoders() or recipe.model.encoder.startswith("timm:")
    assert recipe.data.name in data.list_datasets()
    assert not recipe.base or recipes.load(recipe.base).model.name == "base-learner"


@pytest.mark.parametrize(
    "system",
    ["guided", "hsnet", "tlg", "bam", "pi-clip", "base-learner", "contrastive", "qgnet", "cst", "corenet", "simformer"],
)
def test_every_system_has_a_tiny_recipe_that_trains_it(system):
    assert f"{system}/tiny" in recipes.list_recipes() and recipes.load(f"{system}/tiny").model.name == system


@pytest.mark.parametrize(("old", "new"), recipes.RENAMED.items())
def test_a_recipe_that_was_renamed_is_still_read_and_says_its_name(old, new, tmp_path):
    assert old not in recipes.list_recipes()
    with pytest.warns(InputWarning, match=f"recipe {old} is now called {new}"):
        assert recipes.load(old) == recipes.load(new)
    (tmp_path / "own.yaml").write_text(f"extends: {old}\n")
    with pytest.warns(InputWarning, match=new):
        assert recipes.load(str(tmp_path / "own.yaml")) == recipes.load(new)


def published():
    """(system, data set, backbone) of every published row of the systems of this family."""
    rows = json.loads((files("shotseg.evaluation") / "published.json").read_text())["rows"]
    systems = ("pfenet", "bam", "hdmnet", "pi-clip")
    return sorted({(row["method"], row["dataset"], row["backbone"]) for row in rows if row["method"] in systems})


@pytest.mark.parametrize("system, dataset, backbone", published())
def test_every_published_system_data_set_and_backbone_has_its_recipe(system, dataset, backbone):
    backbone, _, host = backbone.partition(", in ")
    suffix = f"-{host}" if host not in ("", "hdmnet") else ""
    recipe = recipes.load(f"{system}/{dataset}-{backbone}{suffix}")
    assert (recipe.model.name, recipe.data.name) == (system, dataset)
    assert recipe.model.encoder.startswith(backbone)
    assert recipe.model.options.get("host", "") == host


@pytest.mark.parametrize("name", ["pascal5i-resnet50", "pascal5i-vgg16", "coco20i-resnet50", "coco20i-vgg16"])
def test_every_part_of_tlg_learns_and_the_release_in_which_some_do_not_is_named_so(name):
    ours, released = recipes.load(f"tlg/{name}"), recipes.load(f"tlg/released-{name}")
    assert "reference" not in ours.model.options and released.model.options["reference"] is True
    options = {key: value for key, value in released.model.options.items() if key != "reference"}
    assert dataclasses.replace(released, model=dataclasses.replace(released.model, options=options)) == ours


def test_no_recipe_chooses_its_weights_on_test_classes():
    assert not any(recipes.load(name).validation.on_test_fold for name in recipes.list_recipes())


def test_an_unknown_field_of_a_file_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("extends: guided/tiny\noptimiser: {learning_rate: 1}\n")
    with pytest.raises(UsageError, match=r"unknown field 'optimiser\.learning_rate'"):
        recipes.load(str(path))


def test_a_value_of_the_wrong_kind_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("steps: soon\n")
    with pytest.raises(UsageError, match="field 'steps' is 'soon'"):
        recipes.load(str(path))


def test_an_unknown_recipe_brings_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'guided/tiny'"):
        recipes.load("pfenet/tinny")


def test_a_recipe_survives_being_written_and_read():
    recipe = recipes.load("hdmnet/pascal5i-resnet50")
    assert recipes.build(recipes.plain(recipe)) == recipe


@pytest.mark.parametrize("said", [True, False])
def test_a_flag_is_known_in_both_senses_whatever_the_recipe_says(said):
    flags = ["--cache-features", "--weak-shot.retrain"] if said else ["--no-cache-features", "--weak-shot.no-retrain"]
    settings = _parsed(["train", "simformer/tiny", "--root", "a", "--out", "b", *flags]).settings
    assert settings.cache_features is said and settings.weak_shot.retrain is said


def test_any_field_is_a_flag_and_the_rest_stays_the_recipe():
    arguments = ["guided/tiny", "--root", "a", "--out", "b", "--optimiser.lr", "0.5", "--model.options.width", "32"]
    settings = _parsed(["train", *arguments, "--data.test-classes", "cat", "dog"]).settings
    tiny = recipes.load("guided/tiny")
    assert (settings.optimiser.lr, settings.data.test_classes) == (0.5, ("cat", "dog"))
    assert settings.model.options["width"] == 32
    assert settings.schedule == tiny.schedule
    assert dataclasses.replace(settings, optimiser=tiny.optimiser, data=tiny.data, model=tiny.model) == tiny


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["pseudo"], "pseudo"), (["4x3", "6x2"], ("4x3", "6x2")), (["1e-3"], 1e-3), (["-1", "-2"], (-1, -2)), (["True"], True),
        ([], True), (["false"], False), (["5,6,7"], "5,6,7"),
    ],
)  # fmt: skip
def test_any_keyword_of_a_model_is_a_flag_also_where_the_recipe_has_it_not(flags, value):
    first = ["train", "guided/tiny", "--model.options.some-keyword", *flags, "--root", "a", "--out", "b"]
    given = _parsed(first).settings.model.options["some_keyword"]
    assert given == value and type(given) is type(value)
    joined = _parsed([*first[:2], "--root", "a", "--out", "b", "--optimiser.factors.decoder.=3"]).settings
    assert joined.optimiser.factors["decoder."] == 3.0


@pytest.mark.parametrize("name", recipes.RANGES)
def test_a_number_that_means_nothing_is_refused_with_the_name_of_its_field(name):
    section, _, field = name.rpartition(".")
    holder = getattr(GUIDED, section) if section else GUIDED
    before = getattr(holder, field)
    for value in (-1.0, math.nan, math.inf):
        wrong = {"x": value} if isinstance(before, dict) else (value, value) if isinstance(before, tuple) else value
        with pytest.raises(UsageError, match=f"recipe field {name}="):
            changed = replace(holder, **{field: wrong})
            replace(GUIDED, **{section: changed})


def test_every_number_of_a_recipe_has_a_range():
    sections = {
        "": GUIDED,
        **{f"{name}.": part for name, part in vars(GUIDED).items() if dataclasses.is_dataclass(part)},
    }
    fields = {prefix + name: value for prefix, part in sections.items() for name, value in vars(part).items()}
    numbers = {name for name, value in fields.items() if type(value) in (int, float)}
    assert numbers <= recipes.RANGES.keys() <= fields.keys()


@pytest.mark.parametrize(
    "changes", [{"weak_shot": {"flip": True}}, {"extractor": "contrastive/tiny"}, {"unlabelled": "photos"}]
)
def test_a_field_that_the_model_does_not_read_is_refused(changes, tmp_path):
    with pytest.raises(UsageError, match=f"recipe field {next(iter(changes))}: changes nothing for guided"):
        train(recipes.load("guided/tiny", **changes), tmp_path, tmp_path / "out")


def test_a_training_takes_the_device_of_its_name_or_refuses_it(tmp_path, monkeypatch):
    asked = partial(train, "guided/tiny", tmp_path / "gone", tmp_path / "out")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'cdua'"):
        asked(device="cdua")
    monkeypatch.setattr(run, "pick_device", lambda name: torch.device({"auto": "cuda:0"}.get(name, name)))
    with pytest.raises(UsageError, match="device 'mps': a training takes cuda here; give auto or cpu"):
        asked(device="mps")
    with pytest.raises(UsageError, match=r"device 'cuda:1': .* choose by CUDA_VISIBLE_DEVICES"):
        asked(device="cuda:1")
    with pytest.raises(UsageError, match="gone: no such file"):
        asked(device="cuda")


def test_a_fold_of_a_folder_without_folds_is_refused(tmp_path):
    root = squares(tmp_path / "photos", 2)
    with pytest.raises(UsageError, match=r"no fold '9', index\.csv says none; name test classes"):
        train(settings("guided/tiny", data={"fold": "9", "test_classes": []}), root, tmp_path / "out")


def test_a_loss_without_a_term_and_a_share_above_one_are_refused():
    with pytest.raises(UsageError, match="gg, ll and gl are all 0"):
        recipes.load("contrastive/tiny", contrastive={"gg": 0, "ll": 0, "gl": 0})
    with pytest.raises(UsageError, match="hide 7: a share of the queries"):
        models.load("guided", encoders.load(TINY, "random"), hide=7)


def test_a_scale_from_more_to_less_is_refused():
    with pytest.raises(UsageError, match=r"augment\.scale=\[1\.1, 0\.9\]"):
        recipes.load("guided/tiny", augment={"scale": [1.1, 0.9]})


def test_an_unknown_flag_is_named():
    with pytest.raises(UsageError, match=r"optimiser\.rate"):
        _parsed(["train", "guided/tiny", "--root", "a", "--out", "b", "--optimiser.rate", "1"])


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_a_schedule_falls_from_the_whole_rate_to_nothing(name):
    rates = [learning_rate(step, 100, Schedule(name, warmup=10)) for step in range(100)]
    assert rates[0] == pytest.approx(0.19)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("path", golden.files("pi_clip", "misc*.npz"))
def test_poly_gives_the_rates_of_the_release(path):
    stored = golden.npz(path)
    for name, base, warmup in (("lr_hdm", 1e-4, 0), ("lr_bam", 5e-2, 0), ("lr_warm", 1e-1, 50)):
        ours = [base * learning_rate(it - 1, 1000, Schedule("poly", 0.9, warmup)) for it in stored["lr_iters"].tolist()]
        golden.assert_close(name, ours, stored[name][:, 0], rtol=1e-6)
