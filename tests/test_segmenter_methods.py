"""Every method in the Segmenter: trained ones by their checkpoint, those that want photos without masks, or a name alone."""

import json

import numpy as np
import pytest
import torch

import golden
import shotseg
import tiny_clip
from shotseg import cli, encoders, models
from shotseg.data.images import read_mask, write_png
from shotseg.data.samples import Support
from shotseg.errors import InputError, InputWarning, UsageError
from shotseg.models.matching import Matching
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes

SMALL = {"size": 64, "options": {"width": 8}}
PHOTO = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8)
MASK = np.zeros((48, 80), np.uint8)
MASK[10:30, 20:50] = 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as `shotseg train` writes it."""
    recipe = recipes.build({"model": {"name": "pfenet", **SMALL}, "steps": 1})
    model, path = checkpoint.make_model(recipe, 3), tmp_path_factory.mktemp("run") / "best.safetensors"
    checkpoint.write(path, checkpoint.weights(model), {"recipe": recipes.plain(recipe), "classes": ["a", "b", "c"]})
    return path


@pytest.fixture
def clip_is_tiny(monkeypatch):
    small = tiny_clip.random()
    load = encoders.load
    monkeypatch.setattr(
        encoders, "load", lambda name, *a, **k: small if name == "clip-vit-b16" else load(name, *a, **k)
    )


@pytest.fixture
def folder(tmp_path):
    write_png(tmp_path / "photos" / "one.png", PHOTO)
    write_png(tmp_path / "examples" / "images" / "thing" / "a.png", PHOTO)
    write_png(tmp_path / "examples" / "masks" / "thing" / "a.png", MASK * 255)
    return tmp_path


def same(a, b):
    assert np.allclose(a.predict(PHOTO).probabilities["thing"], b.predict(PHOTO).probabilities["thing"], atol=1e-6)


@pytest.mark.parametrize("name", ["pfenet", "bam", "hdmnet", "guided"])
def test_every_few_shot_model_takes_classes_with_any_number_of_shots(name):
    torch.manual_seed(0)
    segmenter = shotseg.Segmenter(name, device="cpu", size=64, width=8)
    for _ in range(2):
        segmenter.add("thing", [PHOTO], [MASK])
    assert segmenter.predict(PHOTO).labels.shape == PHOTO.shape[:2]


def test_a_trained_model_is_used_by_its_file_alone(trained):
    segmenter = shotseg.Segmenter(checkpoint=trained, device="cpu")
    assert (segmenter.method, segmenter.encoder, segmenter.model.size) == ("pfenet", "efficientnet-lite0", 64)
    kept = checkpoint.read(trained)[0]
    assert all(torch.equal(segmenter.model.state_dict()[key.removeprefix("model.")], t) for key, t in kept.items())
    assert shotseg.Segmenter(checkpoint=trained, device="cpu", size=96).model.size == 96


def test_another_method_or_encoder_than_the_checkpoints_is_refused_not_passed_over(trained, folder, capsys):
    for options in ({"method": "tlg"}, {"encoder": "resnet50"}):
        ((what, asked),) = options.items()
        for call in (
            lambda **more: shotseg.Segmenter(checkpoint=trained, device="cpu", **more),
            lambda **more: shotseg.evaluate(folder / "examples", checkpoint=trained, device="cpu", **more),
        ):
            with pytest.raises(
                UsageError, match=f"best.safetensors: of {what} '.*', not '{asked}'; leave the {what} out"
            ):
                call(**options)
        flags = ["--query", str(folder / "photos"), "--out", str(folder / "out"), f"--{what}", asked]
        assert cli.main(["segment", "--support", str(folder / "examples"), "--checkpoint", str(trained), *flags]) == 2
        assert f"of {what} " in capsys.readouterr().err and not (folder / "out" / "masks").exists()
    own = shotseg.Segmenter("pfenet", "efficientnet-lite0", "cpu", trained)
    assert (own.method, own.encoder) == ("pfenet", "efficientnet-lite0")


def test_the_encoder_of_a_checkpoint_is_read_from_the_file_that_is_given(trained, tmp_path, monkeypatch):
    asked, load, own = [], encoders.load, tmp_path / "own.pth"
    monkeypatch.setattr(encoders, "load", lambda name, weights="default", *a: asked.append(weights) or load(name, *a))
    segmenter = shotseg.Segmenter(checkpoint=trained, device="cpu", weights=own)
    segmenter.add("thing", [PHOTO], [MASK])
    segmenter.save(tmp_path / "thing.safetensors")
    own.write_bytes(b"weights")
    same(shotseg.Segmenter.load(tmp_path / "thing.safetensors", own, "cpu"), segmenter)
    same(shotseg.load(tmp_path / "thing.safetensors", "cpu"), segmenter)
    assert asked == [str(own), str(own), "default"]


def test_saved_classes_know_their_checkpoint(trained, tmp_path):
    segmenter = shotseg.Segmenter(checkpoint=trained, device="cpu")
    segmenter.add("thing", [PHOTO], [MASK])
    segmenter.save(tmp_path / "thing.safetensors")
    same(shotseg.load(tmp_path / "thing.safetensors", device="cpu"), segmenter)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(trained.read_bytes())
    same(shotseg.Segmenter.load(tmp_path / "thing.safetensors", device="cpu", checkpoint=moved), segmenter)
    moved.write_bytes(moved.read_bytes() + b" ")
    with pytest.raises(UsageError, match="not encoded with"):
        shotseg.Segmenter.load(tmp_path / "thing.safetensors", device="cpu", checkpoint=moved)


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.device("meta")])
def test_what_a_notebook_made_the_default_of_torch_reaches_no_network_and_stays(trained, tmp_path, default):
    expected = shotseg.Segmenter(checkpoint=trained, device="cpu")
    expected.add("thing", [PHOTO], [MASK])
    change, usual = (
        (torch.set_default_device, None)
        if isinstance(default, torch.device)
        else (torch.set_default_dtype, torch.float32)
    )
    change(default)
    try:
        segmenter = shotseg.Segmenter(checkpoint=trained, device="cpu")
        segmenter.add("thing", [PHOTO], [MASK])
        segmenter.save(tmp_path / "thing.safetensors")
        same(segmenter, shotseg.load(tmp_path / "thing.safetensors", "cpu"))
        same(segmenter, expected)
        assert default in (torch.get_default_dtype(), torch.get_default_device())
    finally:
        change(usual)


def test_a_network_that_gives_no_numbers_is_said(trained, folder):
    segmenter = shotseg.Segmenter(checkpoint=trained, device="cpu")
    segmenter.add("thing", [PHOTO], [MASK])
    for parameter in segmenter.model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.warns(InputWarning, match=r"the network gives no numbers \(NaN\)"):
        assert not segmenter.predict(PHOTO).masks["thing"].any()


@pytest.mark.parametrize("width", [0, -1])
def test_an_option_of_which_no_network_can_be_made_is_named(width):
    with pytest.raises(UsageError, match=f"method 'guided': no network can be made of size=64, width={width}"):
        shotseg.Segmenter("guided", device="cpu", size=64, width=width)


def test_a_prior_extractor_in_the_place_of_a_model_is_called_what_it_is(tmp_path):
    recipe = recipes.load("contrastive/tiny")
    checkpoint.write(tmp_path / "best.safetensors", {}, {"recipe": recipes.plain(recipe), "classes": []})
    with pytest.raises(InputError, match="QGNet's prior extractor, no model by itself; give it as"):
        shotseg.Segmenter(checkpoint=tmp_path / "best.safetensors", device="cpu")


def test_saved_classes_find_their_checkpoint_beside_them_in_another_folder(trained, tmp_path):
    own = tmp_path / "here" / "own.safetensors"
    own.parent.mkdir()
    own.write_bytes(trained.read_bytes())
    segmenter = shotseg.Segmenter(checkpoint=own, device="cpu")
    segmenter.add("thing", [PHOTO], [MASK])
    segmenter.save(own.with_name("thing.safetensors"))
    there = own.parent.rename(tmp_path / "there")
    same(shotseg.load(there / "thing.safetensors", "cpu"), segmenter)
    other = (there / "own.safetensors").rename(tmp_path / "other")
    with pytest.raises(InputError, match=r"own\.safetensors, which is not there; put it beside this file"):
        shotseg.load(there / "thing.safetensors", "cpu")
    same(shotseg.load(there / "thing.safetensors", "cpu", other), segmenter)


def test_a_trained_model_segments_a_folder(trained, folder):
    flags = ["--query", str(folder / "photos"), "--out", str(folder / "out"), "--device", "cpu"]
    assert cli.main(["segment", "--support", str(folder / "examples"), "--checkpoint", str(trained), *flags]) == 0
    assert (folder / "out" / "masks" / "thing" / "one.png").is_file()
    assert "pfenet" in (folder / "out" / "report.html").read_text()


def test_a_checkpoint_trained_anew_is_another_setting(trained, folder, capsys):
    own = folder / "best.safetensors"
    own.write_bytes(trained.read_bytes())
    flags = ["--query", str(folder / "photos"), "--out", str(folder / "out"), "--device", "cpu", "--resume"]
    command = ["segment", "--support", str(folder / "examples"), "--checkpoint", str(own), *flags]
    assert cli.main(command) == 0
    tensors, about = checkpoint.read(own)
    checkpoint.write(own, {name: tensor + 1 for name, tensor in tensors.items()}, about)
    assert cli.main(command) == 2
    assert "other settings (checkpoint)" in capsys.readouterr().err


def test_a_wrong_checkpoint_is_one_clear_error(trained, tmp_path):
    def refused(path, error, words, **options):
        with pytest.raises(error, match=words) as caught:
            shotseg.Segmenter(checkpoint=path, device="cpu", **options)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.safetensors", InputError, "none")
    (tmp_path / "text.safetensors").write_text("text")
    refused(tmp_path / "text.safetensors", InputError, "text")
    matching = shotseg.Segmenter(size=64, device="cpu")
    matching.add("thing", [PHOTO], [MASK])
    matching.save(tmp_path / "support.safetensors")
    refused(tmp_path / "support.safetensors", InputError, "no checkpoint")
    with pytest.raises(InputError, match="--checkpoint"):
        shotseg.load(trained)
    recipe = recipes.build({"model": {"name": "base-learner", "size": 64}, "steps": 1})
    base, about = checkpoint.make_model(recipe, 2), {"recipe": recipes.plain(recipe), "classes": ["a", "b"]}
    checkpoint.write(tmp_path / "base.safetensors", checkpoint.weights(base), about)
    refused(tmp_path / "base.safetensors", InputError, "base learner")
    refused(trained, UsageError, "'width'", width=4)


def test_a_name_alone_is_enough_for_zero_shot(clip_is_tiny, tmp_path):
    segmenter = shotseg.Segmenter("pi-clip-zero-shot", device="cpu", size=64)
    segmenter.add("cat")
    segmenter.add("dog", ["never read.jpg"])
    result = segmenter.predict(PHOTO)
    assert result.classes == ("cat", "dog") and result.labels.shape == PHOTO.shape[:2]
    segmenter.save(tmp_path / "names.safetensors")
    again = shotseg.load(tmp_path / "names.safetensors", device="cpu").predict(PHOTO)
    assert np.allclose(again.probabilities["cat"], result.probabilities["cat"], atol=1e-6)


def test_the_priors_of_clip_take_masks_and_names(clip_is_tiny):
    segmenter = shotseg.Segmenter("pi-clip-priors", device="cpu", size=64)
    segmenter.add("cat", [PHOTO, PHOTO[:, ::-1]], [MASK, MASK[:, ::-1]])
    assert segmenter.predict(PHOTO).labels.shape == PHOTO.shape[:2]
    with pytest.raises(UsageError, match="no photo"):
        segmenter.add("dog")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pi-clip-zero-shot", {"vtp_input": "photo"}),
        ("pi-clip-priors", {"vtp_input": "photo"}),
        ("pi-clip-zero-shot", {"vtp_input": "photo", "text_context": "known", "known": ("cat", "dog")}),
    ],
)
def test_a_method_is_told_the_name_and_the_size_of_the_photo_that_it_asks_for(
    clip_is_tiny, method, options, monkeypatch
):
    segmenter = shotseg.Segmenter(method, device="cpu", size=64, **options)
    for name in ("cat", "dog"):
        segmenter.add(name, [PHOTO], [MASK])
    heard, forward = [], segmenter.model.forward
    monkeypatch.setattr(segmenter.model, "forward", lambda *a, **told: heard.append(told) or forward(*a, **told))
    assert segmenter.predict(PHOTO).labels.shape == PHOTO.shape[:2]
    assert heard == [{"class_name": [name], "sizes": [(48, 80)]} for name in ("cat", "dog")]


def test_clip_that_competes_with_a_photos_true_classes_is_for_evaluation_alone(clip_is_tiny):
    with pytest.raises(UsageError, match=r"'oracle' .* only `evaluate` knows"):
        shotseg.Segmenter("pi-clip-zero-shot", device="cpu", size=64, text_context="oracle")


def test_a_file_of_classes_says_method_and_size_itself(folder, capsys):
    segmenter = shotseg.Segmenter(size=64, device="cpu")
    segmenter.add("thing", [PHOTO], [MASK])
    segmenter.save(folder / "thing.safetensors")
    flags = ["segment", "--support", str(folder / "thing.safetensors"), "--query", str(folder / "photos")]
    for option in (["--size", "96"], ["--method", "hsnet"]):
        assert cli.main([*flags, "--out", str(folder / "out"), *option]) == 2
        assert "leave --method, --size and --insid3 out" in capsys.readouterr().err


def test_a_name_of_the_command_line_writes_nothing_outside(clip_is_tiny, folder, capsys):
    flags = ["segment", "--query", str(folder / "photos"), "--out", str(folder / "out"), "--name", "../../evil"]
    assert cli.main([*flags, "--method", "pi-clip-zero-shot", "--size", "64", "--device", "cpu"]) == 2
    assert "class name '../../evil'" in capsys.readouterr().err
    assert not list(folder.parent.rglob("evil"))


def test_the_command_line_takes_names_where_they_are_enough(clip_is_tiny, folder, capsys):
    flags = ["segment", "--query", str(folder / "photos"), "--out", str(folder / "out"), "--name", "cat", "dog"]
    assert cli.main([*flags, "--method", "pi-clip-zero-shot", "--size", "64", "--device", "cpu"]) == 0
    assert (folder / "out" / "masks" / "cat" / "one.png").is_file()
    capsys.readouterr()
    assert cli.main([*flags, "--size", "64", "--device", "cpu"]) == 2
    assert "--support" in capsys.readouterr().err
    assert cli.main([*flags, "--support", str(folder / "examples")]) == 2


def test_auto_is_the_encoder_that_a_method_is_made_of():
    assert models.encoder_for("pi-clip-zero-shot") == "clip-vit-b16"
    assert models.encoder_for("matching") == "efficientnet-lite2"


class FromPhotos(Matching):
    """A method that wants photos and the class name: what it is given as masks is kept for the test."""

    needs = "photos"

    def encode_support(self, images, masks, features=None, class_names=()):
        self.given, self.names = masks, class_names
        whole = torch.ones(*images.shape[:2], *images.shape[-2:], dtype=torch.long)
        return super().encode_support(images, whole, features)


def test_a_method_that_needs_photos_gets_no_pseudo_mask(monkeypatch):
    monkeypatch.setattr(models, "load", lambda name, encoder, **options: FromPhotos(encoder, **options))
    segmenter = shotseg.Segmenter("matching", device="cpu", size=64)
    segmenter.add("thing", [PHOTO])
    assert segmenter.model.given is None and segmenter.model.names == ("thing",)
    assert segmenter.predict(PHOTO).labels.shape == PHOTO.shape[:2]
    segmenter.add("thing", [PHOTO], [MASK])
    assert segmenter.model.given.shape[:2] == (1, 1)
    assert isinstance(segmenter._supports["thing"], Support) and segmenter._supports["thing"].shots == 2


def test_a_name_alone_is_measured_as_any_other_method(clip_is_tiny, folder):
    for i in range(3):
        write_png(folder / "examples" / "images" / "thing" / f"{i}.png", np.roll(PHOTO, i + 1, 1))
        write_png(folder / "examples" / "masks" / "thing" / f"{i}.png", MASK * 255)
    out = folder / "result.json"
    flags = ["--method", "pi-clip-zero-shot", "--size", "64", "--episodes", "4", "--seeds", "0", "--device", "cpu"]
    assert cli.main(["evaluate", "folder", "--root", str(folder / "examples"), "--out", str(out), *flags]) == 0
    result = json.loads(out.read_text())
    assert result["encoder"] == "clip-vit-b16" and 0 <= result["miou"] <= 100


def test_a_method_that_has_learnt_nothing_says_so():
    with pytest.warns(UserWarning, match=r"pfenet has learnt nothing yet: .*mean nothing"):
        shotseg.Segmenter("pfenet", device="cpu", size=64, width=8)


def test_without_a_checkpoint_a_method_of_names_answers_with_its_pseudo_mask():
    photo = golden.data("pascal_coseg15") / "images" / "cow"
    first, second, query = sorted(photo.iterdir())[:3]
    with pytest.warns(UserWarning, match="corenet has learnt nothing yet: .*pseudo masks"):
        segmenter = shotseg.Segmenter("corenet", device="cpu", size=192)
    segmenter.add("cow", [first, second])
    found = segmenter.predict(query).masks["cow"]
    truth = read_mask(query.parents[2] / "masks" / "cow" / f"{query.stem}.png") == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.4


@pytest.mark.parametrize("method", ["pfenet", "hsnet", "guided"])
def test_what_no_checkpoint_holds_is_saved_with_the_classes(tmp_path, method):
    with pytest.warns(UserWarning, match="has learnt nothing yet"):
        segmenter = shotseg.Segmenter(method, size=64, device="cpu", present=None)
    segmenter.add("box", [PHOTO], [MASK])
    segmenter.save(tmp_path / "box.safetensors")
    torch.manual_seed(1234)  # another network, were it drawn anew
    with pytest.warns(UserWarning, match="has learnt nothing yet"):
        again = shotseg.Segmenter.load(tmp_path / "box.safetensors", device="cpu")
    tensors = zip(segmenter.model.state_dict().values(), again.model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in tensors)
    assert segmenter.predict(PHOTO).confidence == again.predict(PHOTO).confidence
