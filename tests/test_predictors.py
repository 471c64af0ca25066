"""The three predictors: one contract, classes that come and go, photos kept encoded, memory that is bounded."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import shotseg
from shotseg.data.images import read_mask, write_bytes, write_png
from shotseg.data.samples import Sample
from shotseg.encoded import Encoded
from shotseg.errors import InputError, UsageError
from shotseg.labeller import Labeller
from shotseg.overlay import PALETTE
from shotseg.photo import read_photo
from shotseg.predictor import Predictor
from shotseg.result import Result
from shotseg.runs import find_photos, segment_folder
from shotseg.runs.engines import Actor
from shotseg.segmenter import Segmenter
from shotseg.semantic import SemanticSegmenter

RED, GREEN, BLUE = (200, 40, 40), (40, 160, 60), (40, 60, 200)


def picture(colour, seed=0, size=(90, 120)):
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (*size, 3)).astype(np.uint8)
    image[20:60, 30:80] = np.clip(rng.normal(colour, 12, (40, 50, 3)), 0, 255)
    mask = np.zeros(size, np.uint8)
    mask[20:60, 30:80] = 1
    return image, mask


@pytest.fixture
def seg():
    segmenter = Segmenter(encoder="efficientnet-lite0", size=128, device="cpu")
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        image, mask = picture(colour)
        segmenter.add(name, [image], [mask])
    return segmenter


def same(a, b, atol=0.0):
    assert a.classes == b.classes and np.array_equal(a.labels, b.labels)
    for name in a.classes:
        np.testing.assert_allclose(a.probabilities[name], b.probabilities[name], atol=atol)


# --- one contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Segmenter, SemanticSegmenter, Labeller])
def test_every_predictor_keeps_the_one_contract(kind):
    assert issubclass(kind, Predictor)
    assert not kind.__abstractmethods__


class Brightness(Predictor):
    """No more than the contract asks for."""

    @property
    def classes(self):
        return ("bright",)

    def predict_batch(self, photos):
        images = [read_photo(photo) for photo in photos]
        bright = [(image.mean(2) / 255).astype(np.float32) for image in images]
        return [Result(x, self.classes, (p > 0.5).astype(np.uint8), {"bright": p}) for x, p in zip(images, bright)]

    def save(self, path):
        write_bytes(path, b"")

    @classmethod
    def load(cls, path, *, device="auto"):
        return cls(device)


def test_what_keeps_the_contract_and_no_more_goes_through_a_folder_with_a_report(tmp_path):
    for i in range(3):
        write_png(tmp_path / "photos" / f"{i}.png", picture((250, 250, 250), seed=i)[0])
    photos = list(find_photos(tmp_path / "photos"))
    summary = segment_folder(Brightness("cpu"), photos, tmp_path / "out", batch=2)
    assert (summary.photos, summary.failed) == (3, 0)
    assert "bright" in summary.report.read_text(encoding="utf-8")
    found = Brightness("cpu").predict(photos[0].path)
    assert np.array_equal(read_mask(tmp_path / "out/labels/0.png", labels=True), found.labels) and found.labels.any()
    rows = [json.dumps(dataclasses.asdict(photo)) for photo in photos[1:2]]
    (entry,) = Actor(Brightness, b"kept", "cpu", str(tmp_path / "there")).segment(rows, batch=1)
    assert json.loads(entry)["record"]["error"] is None


def test_a_labeller_predicts_a_sample_by_its_tags_as_by_the_names(monkeypatch):
    labeller = Labeller(["cat", "dog"], device="cpu")
    image, _ = picture(RED)
    tagged = labeller.predict(Sample(image, tags=frozenset({1})))
    assert tagged.classes == ("dog",)
    same(tagged, labeller.predict(image, ["dog"]))
    same(tagged, labeller.predict_batch([Sample(image, tags=frozenset({1}))])[0])
    with pytest.raises(UsageError, match="nothing says what it shows"):
        labeller.predict(image)


# --- classes that come and go -----------------------------------------------------------------------------------------


def test_a_class_that_was_removed_is_as_if_it_had_never_been_added(seg, tmp_path):
    query, _ = picture(BLUE, seed=7)
    seg.add("green", *([x] for x in picture(GREEN, seed=3)))  # shots that wait to be merged go too
    seg.remove("green")
    fresh = Segmenter(encoder="efficientnet-lite0", size=128, device="cpu")
    for name, colour in (("red", RED), ("blue", BLUE)):
        image, mask = picture(colour)
        fresh.add(name, [image], [mask])
    same(seg.predict(query), fresh.predict(query))
    assert "green" not in repr(seg) and set(seg.thumbnails) == {"red", "blue"}
    seg.save(tmp_path / "two.safetensors")
    assert shotseg.load(tmp_path / "two.safetensors", device="cpu").classes == ("red", "blue")
    seg.add("green", *([x] for x in picture(GREEN)))
    assert seg.classes == ("red", "blue", "green")


def test_the_picture_of_an_example_has_the_colour_that_its_class_has_now(seg):
    def tint(i):
        return np.abs(seg.thumbnails["blue"][0][20:60, 30:80].mean((0, 1)) - PALETTE[i]).sum()

    assert tint(3) < tint(2)
    seg.remove("red")
    assert tint(2) < tint(3)


def test_a_class_that_was_renamed_keeps_its_place_and_its_masks(seg, tmp_path):
    query, _ = picture(GREEN, seed=7)
    seg.add("green", *([x] for x in picture(GREEN, seed=3)))
    before = seg.predict(query)
    seg.rename("green", "leaf")
    after = seg.predict(query)
    assert seg.classes == ("red", "leaf", "blue") and "leaf (2)" in repr(seg)
    assert np.array_equal(before.labels, after.labels)
    seg.rename("leaf", "leaf")
    seg.rename("leaf", "Leaf")
    seg.save(tmp_path / "kept.safetensors")
    again = shotseg.load(tmp_path / "kept.safetensors", device="cpu")
    again.rename("Leaf", "tree")
    assert np.array_equal(again.predict(query).labels, before.labels)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("yellow", "x", "no class 'yellow'; there is red, green, blue"),
        ("red", "blue", "there already"),
        ("red", "BLUE", "one folder"),
        ("red", "a/b", "class name"),
        ("red", "", "class name"),
    ],
)
def test_a_class_is_not_renamed_to_what_it_cannot_be_called(seg, old, new, said):
    with pytest.raises(UsageError, match=said):
        seg.rename(old, new)
    assert seg.classes == ("red", "green", "blue")


def test_an_unknown_class_cannot_be_removed(seg):
    with pytest.raises(UsageError, match="no class 'cat'"):
        seg.remove("cat")
    for name in seg.classes:
        seg.remove(name)
    with pytest.raises(UsageError, match="no class yet"):
        seg.predict(picture(RED)[0])
    with pytest.raises(UsageError, match="none yet"):
        seg.remove("red")


# --- photos kept encoded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", "timm:vit_tiny_patch16_224"])
def test_a_photo_kept_encoded_gives_the_masks_of_the_photo_within_half_precision(tmp_path, encoder):
    segmenter = Segmenter(encoder=encoder, size=128, device="cpu", weights="random" if ":" in encoder else "default")
    image, mask = picture(RED)
    segmenter.add("red", [image], [mask])
    query, _ = picture(RED, seed=5, size=(101, 133))
    encoded = segmenter.encode(query)
    encoded.save(tmp_path / "photo.safetensors")
    now, kept = segmenter.decide(encoded), segmenter.decide(Encoded.load(tmp_path / "photo.safetensors", query))
    assert np.array_equal(kept.image, query)
    assert (now.labels != kept.labels).mean() < 0.002
    np.testing.assert_allclose(now.probabilities["red"], kept.probabilities["red"], atol=5e-3)
    assert now.present["red"] == pytest.approx(kept.present["red"], abs=5e-3)


def test_a_kept_photo_takes_half_of_its_features_and_a_stand_in_for_its_pixels(seg, tmp_path):
    query, _ = picture(RED, seed=5, size=(180, 240))
    encoded = seg.encode(query)
    encoded.save(tmp_path / "photo.safetensors")
    floats = sum(x.numel() for x in (*encoded.features.maps, *encoded.features.classes))
    assert (tmp_path / "photo.safetensors").stat().st_size < 2 * floats + encoded.resized.numel() + 8192
    alone = Encoded.load(tmp_path / "photo.safetensors")
    assert torch.equal(alone.resized, encoded.resized)
    stand_in = alone.photo.whole()
    assert stand_in.shape == query.shape and np.abs(stand_in.astype(int) - query).mean() < 20
    assert np.array_equal(
        seg.decide(alone).labels, seg.decide(Encoded.load(tmp_path / "photo.safetensors", query)).labels
    )


def test_features_too_large_for_half_precision_are_kept_whole(seg, tmp_path):
    encoded = seg.encode(picture(RED)[0])
    encoded.features.maps[0][0, 0, 0, 0] = 1e6
    encoded.save(tmp_path / "photo.safetensors")
    assert float(Encoded.load(tmp_path / "photo.safetensors").features.maps[0][0, 0, 0, 0]) == 1e6


def test_a_photo_that_another_encoder_encoded_is_refused(seg, tmp_path):
    other = Segmenter(encoder="efficientnet-lite2", size=128, device="cpu")
    other.encode(picture(RED)[0]).save(tmp_path / "photo.safetensors")
    with pytest.raises(
        UsageError, match="on efficientnet-lite2 at 128 px, not by matching on efficientnet-lite0 at 128 px"
    ):
        seg.decide(Encoded.load(tmp_path / "photo.safetensors"))


def test_a_photo_encoded_at_another_size_or_with_other_weights_is_refused(seg, tmp_path):
    kept = tmp_path / "photo.safetensors"
    Segmenter(encoder="efficientnet-lite0", size=96, device="cpu").encode(picture(RED)[0]).save(kept)
    with pytest.raises(UsageError, match=r"at 96 px, not by .* at 128 px"):
        seg.decide(Encoded.load(kept))
    torch.save(seg.model.encoder.net.state_dict(), tmp_path / "own.pth")
    own = Segmenter(encoder="efficientnet-lite0", weights=tmp_path / "own.pth", size=128, device="cpu")
    with pytest.raises(UsageError, match=r"px, not by .* at 128 px, weights [0-9a-f]{16}; encode it again"):
        own.add("red", seg.encode(picture(RED)[0]), picture(RED)[1])
    assert repr(own.encode(picture(RED)[0])).startswith("<Encoded 120 x 90, matching on efficientnet-lite0 at 128 px")


def test_what_is_no_kept_photo_is_named_in_one_line(seg, tmp_path):
    path = tmp_path / "photo.safetensors"
    with pytest.raises(InputError, match=r"photo\.safetensors: not a kept photo"):
        Encoded.load(path)
    seg.save(path)
    with pytest.raises(InputError, match="not a kept photo"):
        Encoded.load(path)
    seg.encode(picture(RED)[0]).save(path)
    with pytest.raises(UsageError, match="give that photo"):
        Encoded.load(path, picture(RED, size=(91, 120))[0])
    with safe_open(str(path), "pt") as stored:
        about, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    for broken in ({"map/0": None}, {"resized": None}):
        save_file({k: x for k, x in tensors.items() if k not in broken}, path, about)
        with pytest.raises(InputError, match="not a kept photo"):
            Encoded.load(path)
    save_file(tensors, path, {"shotseg": json.dumps({**json.loads(about["shotseg"]), "size": "large"})})
    with pytest.raises(InputError, match="not a kept photo"):
        Encoded.load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a kept photo"):
        Encoded.load(path)
