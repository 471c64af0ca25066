"""Values of the wrong type at the doors of Python and in recipes: one line each, and what can be meant is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import shotseg
from shotseg import models, runs
from shotseg.arguments import checked
from shotseg.data.images import read_image, read_mask
from shotseg.errors import UsageError
from shotseg.photo import photos_with_masks
from shotseg.training import recipe
from shotseg.training.run import train

ODD = (["x"], {"a": 1}, 3.5, b"x", object(), np.array([1, 2]))
PHOTO = np.full((8, 12, 3), 90, np.uint8)
MASK = np.eye(8, 12, dtype=bool)


@pytest.fixture(scope="module")
def segmenter():
    made = shotseg.Segmenter(size=64)
    made.add("cat", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), np.eye(64, dtype=bool))
    return made


def one_line(call, *given, **named) -> str:
    with pytest.raises(shotseg.errors.ShotsegError) as raised:
        call(*given, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "option", ["method", "encoder", "device", "checkpoint", "weights", "present", "runtime", "tile", "size"]
)
def test_every_option_of_a_segmenter_of_a_wrong_type_is_one_line(option):
    for value in ODD:
        assert option in one_line(shotseg.Segmenter, **{option: value}), value


def test_wrong_types_at_the_methods_of_a_segmenter_are_one_line(segmenter):
    for value in ODD:
        for call in (segmenter.remove, segmenter.examples, segmenter.save, shotseg.load):
            one_line(call, value)
        one_line(segmenter.rename, value, "dog")
        one_line(segmenter.add, value, PHOTO, MASK)
    for value in (None, 3, object()):
        assert "photos" in one_line(segmenter.predict_batch, value)
        assert "frames" in one_line(lambda frames: list(segmenter.track(frames)), value)
    assert "name of a file" in one_line(segmenter.save, "")
    assert "too long" in one_line(segmenter.rename, "cat", "x" * 300)


def test_wrong_types_at_the_other_doors_are_one_line(tmp_path):
    for call in (shotseg.EvaluationResult.load, shotseg.OnnxSegmenter, shotseg.Labeller.load, read_image, read_mask):
        for value in (["x"], 3.5, object()):
            one_line(call, value)
    for option in ("protocol", "encoder", "fold", "classes", "shot", "root", "out", "kind", "seeds"):
        assert option in one_line(shotseg.evaluate, tmp_path, **{option: object()})
    assert "bands" in one_line(read_image, "a.tif", bands="4,3,2")
    assert "a list of texts" in one_line(shotseg.Labeller, "cat")
    assert "twice" in one_line(shotseg.Labeller, ["cat", "cat"])
    for options in ({"cut": 3}, {"cut": {"high": "a"}}, {"words": 3}, {"generator": ["x"]}):
        one_line(shotseg.Labeller, ["cat"], **options)


def test_the_options_of_a_method_are_held_against_its_class():
    assert one_line(shotseg.Segmenter, contrast="yes") == "contrast 'yes': of type str; give True or False"
    assert "no" in one_line(shotseg.Segmenter, nosuch=1)


def test_numbers_of_numpy_and_paths_are_what_they_stand_for():
    @checked
    def call(place: str | Path, count: int = 1, share: float | None = None, sure: bool = False):
        return place, count, share, sure

    assert call(Path("a"), np.int64(3), np.float32(0.5), np.True_) == (Path("a"), 3, 0.5, True)
    assert call("a", share=None)[2] is None
    with pytest.raises(TypeError, match="unexpected keyword"):
        call("a", nosuch=1)


def test_what_a_segmenter_was_told_in_numbers_of_numpy_is_saved(tmp_path):
    made = shotseg.Segmenter(size=np.int64(64), present=np.float32(0.5), tile=np.int32(200))
    made.add(np.str_("cat"), PHOTO, MASK)
    made.save(tmp_path / "a.safetensors")
    found = shotseg.load(tmp_path / "a.safetensors")
    assert (found.options, found.present, found.tile, found.classes) == ({"size": 64}, 0.5, 200, ("cat",))


def test_lists_of_numpy_and_torch_are_lists():
    @checked
    def call(names: Sequence[str] = (), numbers: Sequence[int] = (), photo: object = None):
        return list(names), list(numbers), photo

    told = call(np.array(["a", "b"]), torch.arange(2)), call([np.str_("a"), "b"], (np.int64(0), 1))
    assert all(found[:2] == (["a", "b"], [0, 1]) for found in told)
    assert {type(each) for found in told for part in found[:2] for each in part} == {str, int}
    for photo in (PHOTO, MASK, [PHOTO, PHOTO], np.frombuffer(b"file", np.uint8), memoryview(b"file"), [[1, 2], [3, 4]]):
        assert call(photo=photo)[2] is photo


def test_true_is_no_number():
    for options in ({"present": True}, {"size": True}, {"tile": False}):
        assert "of type bool" in one_line(shotseg.Segmenter, **options)


def test_one_photo_and_one_mask_need_no_list():
    given = [("a.jpg", ["a.png"]), (["a.jpg"], "a.png"), ("a.jpg", "a.png"), (PHOTO, [MASK]), ([PHOTO], MASK)]
    for images, masks in given:
        photos, drawn = photos_with_masks(images, masks, "cat")
        assert len(photos) == len(drawn) == 1
        assert isinstance(drawn[0], str) or drawn[0].shape == MASK.shape
    assert len(photos_with_masks([PHOTO, PHOTO], np.stack([MASK, MASK]), "cat")[1]) == 2
    assert "2 photos but 1 masks" in one_line(photos_with_masks, ["a.jpg", "b.jpg"], "a.png", "cat")


def recipe_of(tmp_path, text: str, name: str = "own.yaml") -> recipe.Recipe:
    (tmp_path / name).write_text(f"extends: guided/tiny\n{text}\n")
    return recipe.load(tmp_path / name)


def test_a_recipe_takes_what_yaml_makes_of_plain_words(tmp_path):
    assert recipe_of(tmp_path, "optimiser: {lr: 1e-3}").optimiser.lr == 0.001
    data = recipe_of(tmp_path, "data: {fold: 0, test_classes: [1, cat]}").data
    assert (data.fold, data.test_classes) == ("0", ("1", "cat"))
    assert "as [a, b]" in one_line(recipe_of, tmp_path, "data: {test_classes: cat}")
    assert "in quotes" in one_line(recipe_of, tmp_path, "data: {test_classes: [no, yes]}")
    for rate in ("-1", ".nan", "fast"):
        assert "optimiser.lr" in one_line(recipe_of, tmp_path, f"optimiser: {{lr: {rate}}}")


def test_a_recipe_extends_one_that_lies_beside_it_and_never_itself(tmp_path):
    recipe_of(tmp_path, "seed: 9", "base.yaml")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nsteps: 5\n")
    assert (recipe.load(tmp_path / "own.yaml").seed, recipe.load(str(tmp_path / "own.yaml")).steps) == (9, 5)
    (tmp_path / "base.yaml").write_text("extends: own.yaml\n")
    assert "extends" in one_line(recipe.load, tmp_path / "own.yaml")
    for parent in ("[x]", "{a: 1}", "3", "true"):
        (tmp_path / "own.yaml").write_text(f"extends: {parent}\n")
        assert "extends" in one_line(recipe.load, tmp_path / "own.yaml")
    assert "no such recipe file" in one_line(recipe.load, "nosuch.yaml")


def test_a_checkpoint_of_pytorch_is_called_so(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "model.pth")
    assert "a file of PyTorch" in one_line(shotseg.Segmenter, checkpoint=tmp_path / "model.pth")


def test_a_usage_error_says_what_to_give():
    @checked
    def call(name: str):
        return name

    with pytest.raises(UsageError, match=r"^name \['x'\]: of type list; give text$"):
        call(["x"])


def test_what_the_other_doors_take_is_said_where_they_are_given_something_else(segmenter, tmp_path):
    said = one_line(models.load, "matching", "efficientnet-lite0")
    assert said == "encoder: of type str; give shotseg.encoders.load('efficientnet-lite0')"
    assert "what shotseg.encoders.load gives" in one_line(models.load, "hsnet", None)
    assert "find_photos" in one_line(runs.segment_folder, segmenter, ["a.jpg"], tmp_path / "out")
    assert "give a name, a file" in one_line(train, {"steps": 3}, tmp_path, tmp_path / "run")


def test_a_training_takes_its_recipe_by_name(tmp_path):
    nowhere = tmp_path / "nowhere"
    for given in ("guided/tiny", recipe.load("guided/tiny")):
        assert "nowhere: no such file or folder" in one_line(train, given, nowhere, tmp_path / "run")
    assert "nosuch" in one_line(train, "nosuch/recipe", tmp_path, tmp_path / "run")


def test_several_photos_are_not_labelled_by_the_names_of_one():
    labeller = shotseg.Labeller(["cat"], device="cpu")
    for photos in (["a.jpg", "b.jpg"], iter(["a.jpg"]), np.stack([PHOTO, PHOTO])):
        assert "one by one, each with its names" in one_line(labeller.predict, photos, ["cat"])
    assert labeller.predict(PHOTO.tolist(), ["cat"]).labels.shape == PHOTO.shape[:2]


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: shotseg.Segmenter(szie=64), "'matching' has no option 'szie', did you mean size?"),
        (lambda: shotseg.Segmenter("Matchng"), "unknown method 'Matchng', did you mean matching? choose one of"),
        (lambda: shotseg.Segmenter(encoder="dinov2_vits14"), "did you mean dinov2-vits14?"),
        (lambda: shotseg.Segmenter(runtime="onnx"), "did you mean onnxruntime?"),
        (lambda: shotseg.Segmenter(device="gpu"), "device 'gpu', did you mean cuda? choose one of auto, cuda"),
        (lambda: shotseg.Segmenter(device="CPU"), "device 'CPU', did you mean cpu?"),
        (lambda: shotseg.evaluate("pascal5", root="."), "did you mean pascal5i?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(call, near):
    assert near in one_line(call)


def test_a_misspelt_keyword_is_answered_with_the_nearest():
    segmenter = shotseg.Segmenter(size=64)
    with pytest.raises(
        TypeError, match=r"Segmenter.add: got an unexpected keyword argument 'image', did you mean images\?$"
    ):
        segmenter.add("cat", image=PHOTO, masks=MASK)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'shots', did you mean shot\?$"):
        shotseg.evaluate(".", shots=5)


def test_what_are_no_strokes_is_said():
    segmenter = shotseg.Segmenter(size=64)
    segmenter.add("cat", PHOTO, MASK)
    array = np.zeros(PHOTO.shape[:2], np.uint8)
    assert (
        one_line(segmenter.predict, PHOTO, {"cat": array}) == "strokes of 'cat': of type ndarray; give Strokes(labels)"
    )
    assert "give a dict of class names" in one_line(segmenter.predict, PHOTO, [array])


def test_a_folder_in_place_of_a_file_of_classes_is_said(tmp_path):
    assert one_line(shotseg.load, tmp_path) == f"{tmp_path}: a folder; give the file that Segmenter.save wrote"
    segmenter = shotseg.Segmenter(size=64)
    segmenter.add("cat", PHOTO, MASK)
    assert one_line(segmenter.save, tmp_path).endswith("(Is a directory); give the name of a file in it")
