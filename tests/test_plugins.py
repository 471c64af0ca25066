"""Names that other packages add: the example method is trained, measured and segmented with; broken packages are one line."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import shotseg
from shotseg import encoders, plugins
from shotseg.cli import main
from shotseg.data import annotations
from shotseg.data.images import read_mask
from shotseg.errors import InputWarning, UsageError
from shotseg.priors import pseudo_masks
from training_miniature import squares

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/new_method"
CODE = """
from pathlib import Path
from shotseg.data.annotations import FORMATS, Format
from shotseg.encoders import load
from shotseg.priors.generators import Objectness
twin = FORMATS["coco"]._replace(files=lambda path: [])
def encoder(weights):
    return load("efficientnet-lite0", weights)
def generator(options, device):
    return Objectness(load("efficientnet-lite0", "random", device))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package as an installer leaves it: its code, and its entry points."""

    def install(
        points: dict[str, dict[str, str]], name: str = "added", code: str = CODE, at: Path | None = None
    ) -> None:
        folder = tmp_path / name
        (folder / f"{name}-1.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in own.items()) for group, own in points.items()]
        (folder / f"{name}-1.dist-info/entry_points.txt").write_text("\n".join(lines))
        (folder / f"code_of_{name}.py").write_text(code)
        for path in (folder, at):
            if path is not None:
                monkeypatch.syspath_prepend(str(path))
        plugins.added.cache_clear()

    before = set(sys.modules)
    yield install
    plugins.added.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith(("code_of_", "new_method")):
            del sys.modules[name]


def test_the_example_method_is_trained_measured_and_segmented_with_from_the_command_line(installed, tmp_path, capsys):
    about = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    installed(about["entry-points"], about["name"].replace("-", "_"), at=EXAMPLE)
    photos = squares(tmp_path / "photos")
    small = ["--steps", "8", "--batch", "4", "--save_every", "8", "--model.size", "64", "--model.weights", "random"]
    data = ["--data.fold", "", "--data.test_classes", "cross", "--data.held_out", "0.4", "--validation.episodes", "2"]
    run, masks = tmp_path / "run", tmp_path / "masks"
    assert (
        main(["train", str(EXAMPLE / "prototypes.yaml"), "--root", str(photos), "--out", str(run), *small, *data]) == 0
    )
    learnt = ["--checkpoint", str(run / "best.safetensors")]
    measured = ["--classes", "cross", "--episodes", "4", "--seeds", "0", "--out", str(tmp_path / "result.json")]
    assert main(["evaluate", str(photos), *learnt, *measured]) == 0
    assert shotseg.EvaluationResult.load(tmp_path / "result.json").content["method"] == "prototypes"
    query = ["--query", str(photos / "images/cross/0.png"), "--out", str(masks)]
    assert main(["segment", "--support", str(photos), *query, *learnt]) == 0
    assert read_mask(masks / "masks/cross/0.png").shape == (64, 64)
    assert main(["list", "models"]) == 0
    assert "prototypes  added by shotseg" in " ".join(capsys.readouterr().out.split()).replace(
        "prototypes ", "prototypes  "
    )


def test_the_example_is_a_whole_method_in_less_than_a_hundred_lines():
    assert len((EXAMPLE / "new_method.py").read_text().splitlines()) < 100


def test_an_encoder_a_generator_and_a_format_of_another_package_are_names_like_ours(installed, tmp_path):
    groups = {"encoders": "encoder", "generators": "generator", "formats": "twin"}
    installed({f"shotseg.{kind}": {"mine": f"code_of_added:{what}"} for kind, what in groups.items()})
    assert "mine" in encoders.list_encoders() and "mine" in pseudo_masks.list_generators()
    assert encoders.load("mine", "random").strides == encoders.load("efficientnet-lite0", "random").strides
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    assert pseudo_masks.load("mine")(photo, ["cat"]).labels.shape == (64, 64)
    labels = np.zeros((8, 8), np.uint8)
    labels[2:5, 2:5] = 1
    for name in ("mine", "coco"):
        annotations.write(name, tmp_path / name, iter([annotations.Labelled("a.png", labels)]), ["cat"])
    ours, theirs = (annotations.index(name, tmp_path / name) for name in ("coco", "mine"))
    assert [x.file for x in ours.photos] == [x.file for x in theirs.photos] == ["a.png"]


def test_a_name_of_ours_stands_before_one_that_is_added(installed):
    installed({"shotseg.methods": {"matching": "nowhere:Nothing"}, "shotseg.encoders": {"resnet50": "nowhere:nothing"}})
    assert shotseg.models.kind("matching").__name__ == "Matching"
    assert shotseg.list_models().count("matching") == encoders.list_encoders().count("resnet50") == 1


@pytest.mark.parametrize("code", ["raise ValueError('broken inside')", "import a_module_that_is_not_there", "x = 1"])
def test_a_package_that_does_not_load_is_one_line_that_names_it(installed, code):
    installed({"shotseg.methods": {"theirs": "code_of_bad:Method"}}, "bad", code)
    assert "theirs" in shotseg.list_models()
    with pytest.raises(UsageError, match="method 'theirs': its package bad does not load") as told:
        shotseg.Segmenter("theirs")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("code", ["def mine(*given): raise ValueError('broken inside')", "def mine(*given): return 5"])
def test_what_a_package_adds_that_is_no_such_thing_is_one_line_that_names_it(installed, code, tmp_path):
    kinds = ("methods", "encoders", "generators", "formats")
    installed({f"shotseg.{kind}": {"theirs": "code_of_bad:mine"} for kind in kinds}, "bad", code)
    for kind, call in (
        ("method", lambda: shotseg.Segmenter("theirs")),
        ("encoder", lambda: encoders.load("theirs")),
        ("generator", lambda: pseudo_masks.load("theirs")),
        ("format", lambda: annotations.write("theirs", tmp_path, iter(()), ["cat"])),
    ):
        with pytest.raises(UsageError, match=f"{kind} 'theirs': its package bad (makes none: broken inside|gives ')"):
            call()


@pytest.mark.parametrize("code", ["broken = 5", "raise SystemExit(3)", CODE + "\nbroken = twin._replace(files=None)"])
def test_a_broken_format_of_another_package_stops_nothing_that_did_not_ask_for_it(installed, code, tmp_path):
    installed({"shotseg.formats": {"theirs": "code_of_bad:broken"}}, "bad", code)
    squares(tmp_path / "photos", 2)
    with pytest.warns(InputWarning, match="format 'theirs' of another package is not looked for"):
        assert annotations.detect(tmp_path / "photos") == "mask"


def test_an_unknown_name_lists_the_added_ones_too(installed):
    installed({f"shotseg.{kind}": {"mine": "code_of_added:twin"} for kind in ("methods", "encoders", "formats")})
    for call in (
        lambda: shotseg.Segmenter("no-such"),
        lambda: encoders.load("no-such"),
        lambda: annotations.write("no-such", "x", iter(()), ["cat"]),
    ):
        with pytest.raises(UsageError, match=r"no-such.*mine"):
            call()
