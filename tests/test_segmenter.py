"""The Segmenter: add once, predict many."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import shotseg
from shotseg import segmenter as module
from shotseg.cli.demo import OTHERS, demo_items
from shotseg.data import images as files
from shotseg.data.samples import Sample
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.models import matching, presence
from shotseg.models.strokes import Strokes

RED, BLUE, GREEN = (200, 30, 30), (30, 40, 200), (60, 140, 60)


def picture(colour, box, size=(120, 160), seed=0):
    """A coloured square on grass, and its mask."""
    noise = np.random.default_rng(seed).integers(0, 25, (*size, 3))
    image = (np.array(GREEN) + noise).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    top, bottom, left, right = box
    mask[top:bottom, left:right] = 1
    image[mask == 1] = (np.array(colour) + noise[mask == 1]).astype(np.uint8)
    return image, mask


@pytest.fixture(scope="module")
def red():
    segmenter = shotseg.Segmenter(size=160, device="cpu")
    image, mask = picture(RED, (30, 90, 40, 110))
    segmenter.add("red", images=[image], masks=[mask])
    return segmenter


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def test_a_class_shown_once_is_found_in_another_photo(red):
    image, mask = picture(RED, (50, 100, 70, 130), seed=1)
    result = red.predict(image)
    assert result.masks["red"].shape == mask.shape
    assert iou(result.masks["red"], mask == 1) > 0.6
    assert 0 <= result.confidence <= 1


def test_a_support_is_encoded_once_however_many_queries_follow(monkeypatch):
    segmenter = shotseg.Segmenter(size=96, device="cpu")
    seen = []
    original = segmenter.model.encoder.forward
    monkeypatch.setattr(segmenter.model.encoder, "forward", lambda x: seen.append(len(x)) or original(x))
    image, mask = picture(RED, (30, 90, 40, 110))
    segmenter.add("red", [image, image[:, ::-1]], [mask, mask[:, ::-1]])
    assert sum(seen) == 2
    for seed in range(4):
        segmenter.predict(picture(RED, (50, 100, 70, 130), seed=seed)[0])
    assert sum(seen) == 2 + 4


def test_several_classes_compete_for_each_pixel():
    segmenter = shotseg.Segmenter(size=160, device="cpu")
    for name, colour in (("red", RED), ("blue", BLUE)):
        image, mask = picture(colour, (30, 90, 40, 110))
        segmenter.add(name, images=[image], masks=[mask])
    query, red_mask = picture(RED, (40, 100, 10, 70), seed=2)
    blue_image, blue_mask = picture(BLUE, (40, 100, 90, 150), seed=2)
    query[blue_mask == 1] = blue_image[blue_mask == 1]
    result = segmenter.predict(query)
    assert not (result.masks["red"] & result.masks["blue"]).any()
    assert iou(result.masks["red"], red_mask == 1) > iou(result.masks["blue"], red_mask == 1)
    assert iou(result.masks["blue"], blue_mask == 1) > iou(result.masks["red"], blue_mask == 1)
    assert np.all(sum(result.probabilities.values()) <= 1 + 1e-5)


def test_a_saved_support_gives_the_same_masks_without_its_photos(red, tmp_path):
    red.save(tmp_path / "red.safetensors")
    loaded = shotseg.load(tmp_path / "red.safetensors", device="cpu")
    image, _ = picture(RED, (50, 100, 70, 130), seed=3)
    ours, theirs = red.predict(image), loaded.predict(image)
    assert loaded.classes == ("red",)
    assert np.array_equal(ours.labels, theirs.labels)
    assert np.allclose(ours.probabilities["red"], theirs.probabilities["red"], atol=1e-6)


def test_shots_added_one_by_one_equal_shots_added_together(tmp_path):
    shots = [picture(RED, (30, 90, 40, 110)), picture(RED, (10, 60, 20, 60), size=(100, 90), seed=4)]
    together, apart = (shotseg.Segmenter(size=128, device="cpu") for _ in range(2))
    together.add("red", [s[0] for s in shots], [s[1] for s in shots])
    for image, mask in shots:
        apart.add("red", [image], [mask])
    query, _ = picture(RED, (50, 100, 70, 130), seed=5)
    assert np.allclose(
        together.predict(query).probabilities["red"], apart.predict(query).probabilities["red"], atol=1e-4
    )


def test_a_batch_of_photos_of_any_size_equals_one_by_one(red):
    photos = [
        picture(RED, (20, 60, 20, 60), size=size, seed=i)[0] for i, size in enumerate([(90, 120), (120, 90), (90, 120)])
    ]
    photos.append(np.full((1, 1, 3), 90, np.uint8))
    for one, many in zip((red.predict(p) for p in photos), red.predict_batch(photos)):
        assert one.labels.shape == many.labels.shape == one.image.shape[:2]
        assert np.allclose(one.probabilities["red"], many.probabilities["red"], atol=1e-3)


def test_paths_arrays_and_samples_are_the_same_photo(tmp_path, red):
    image, mask = picture(RED, (30, 90, 40, 110))
    files.write_png(tmp_path / "ä photo.png", image)
    files.write_png(tmp_path / "mask.png", mask * 255)
    query, _ = picture(RED, (50, 100, 70, 130), seed=6)
    expected = red.predict(query).probabilities["red"]
    for photo, known in (
        (tmp_path / "ä photo.png", tmp_path / "mask.png"),
        (Sample(image, mask), None),
        (image, mask * 255),
    ):
        other = shotseg.Segmenter(size=160, device="cpu")
        other.add("red", photo, known)
        assert np.allclose(other.predict(query).probabilities["red"], expected, atol=1e-5)


def test_save_writes_masks_and_a_label_map(red, tmp_path):
    result = red.predict(picture(RED, (50, 100, 70, 130))[0])
    result.save(tmp_path, "one")
    assert np.array_equal(files.read_mask(tmp_path / "masks/red/one.png") == 1, result.masks["red"])
    assert np.array_equal(files.read_mask(tmp_path / "labels/one.png", labels=True), result.labels)
    assert result.overlay().shape == result.image.shape


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.add("x", [], []), "no photo"),
        (lambda s: s.add("x", [np.zeros((9, 9, 3), np.uint8)], []), "1 photos but 0 masks"),
        (lambda s: s.add("x", [np.zeros((9, 9, 3), np.uint8)], [np.zeros((9, 9), np.uint8)]), "no foreground"),
        (lambda s: s.add("x", [np.zeros((9, 9, 3), np.uint8)], [np.zeros((9, 8), np.uint8)]), "same size"),
        (lambda s: s.predict(np.zeros((9, 9, 7), np.uint8)), "(H, W, 3)"),
        (lambda s: s.predict("nowhere.jpg"), "nowhere.jpg"),
        (lambda s: shotseg.Segmenter("no-such-method"), "matching"),
        (lambda s: shotseg.Segmenter(encoder="no-such-encoder"), "efficientnet-lite0"),
        (lambda s: shotseg.Segmenter(device="no-such-device"), "choose one of auto, cuda, mps, cpu"),
        (lambda s: shotseg.Segmenter(no_such_option=1), "no_such_option"),
        (lambda s: shotseg.Segmenter("simformer"), "--checkpoint"),
        (lambda s: shotseg.Segmenter(size=64).predict(np.zeros((9, 9, 3), np.uint8)), "knows no class"),
    ],
)
def test_a_wrong_call_gets_one_line_that_says_the_mend(red, call, words):
    with pytest.raises(ShotsegError) as caught:
        call(red)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_support_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_text("no")
    with pytest.raises(InputError, match=r"x\.safetensors"):
        shotseg.load(tmp_path / "x.safetensors")


OUTSIDE = ["../../evil", "a/b", "a\\b", "..", "", ".hidden", "a\0"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_class_that_would_be_written_outside_its_folder_is_refused(red, name, tmp_path):
    image, mask = picture(RED, (30, 90, 40, 110))
    with pytest.raises(UsageError, match="class name"):
        red.add(name, [image], [mask])
    assert red.classes == ("red",)
    red.save(tmp_path / "red.safetensors")
    with safe_open(str(tmp_path / "red.safetensors"), "pt") as stored:
        about = json.loads(stored.metadata()["shotseg"])
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    header = {"shotseg": json.dumps({**about, "classes": [name]})}
    save_file(tensors, str(tmp_path / "evil.safetensors"), header)
    with pytest.raises(InputError, match=r"evil\.safetensors: class name"):
        shotseg.load(tmp_path / "evil.safetensors", device="cpu")


def test_more_classes_than_a_label_map_holds_are_refused(red):
    image, mask = picture(RED, (30, 90, 40, 110), size=(100, 120))
    full = shotseg.Segmenter(size=32, device="cpu")
    full._known = {f"c{i}": red._supports["red"] for i in range(254)}
    with pytest.raises(UsageError, match="255 classes"):
        full.add("one more", [image], [mask])
    full.add("c0", [image], [mask])
    assert len(full.classes) == 254


def test_a_support_is_refused_by_another_encoder(red, tmp_path):
    red.save(tmp_path / "red.safetensors")
    with pytest.raises(UsageError, match="efficientnet-lite2"):
        shotseg.Segmenter.load(tmp_path / "red.safetensors", encoder="resnet50")


def test_without_a_mask_the_class_name_makes_one(red, monkeypatch):
    image, mask = picture(RED, (30, 90, 40, 110))
    asked = []
    monkeypatch.setattr(module.pseudo_masks, "from_name", lambda photo, name, device: asked.append(name) or mask)
    other = shotseg.Segmenter(size=160, device="cpu")
    other.add("red", [image])
    query, _ = picture(RED, (50, 100, 70, 130), seed=7)
    assert asked == ["red"]
    assert np.allclose(other.predict(query).probabilities["red"], red.predict(query).probabilities["red"], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cpu_and_gpu_give_the_same_mask(red):
    image, mask = picture(RED, (30, 90, 40, 110))
    other = shotseg.Segmenter(size=160, device="cuda")
    other.add("red", [image], [mask])
    query, _ = picture(RED, (50, 100, 70, 130), seed=8)
    assert (other.predict(query).labels != red.predict(query).labels).mean() < 0.002


def test_a_photo_is_encoded_once_however_often_its_classes_change(red, monkeypatch):
    query, _ = picture(RED, (50, 100, 70, 130), seed=6)
    seg = shotseg.Segmenter(size=128, device="cpu")
    seg.add("red", *([x] for x in picture(RED, (20, 90, 30, 100), seed=1)))
    encoded = seg.encode(query)
    before = seg.decide(encoded)
    assert (before.labels == seg.predict(query).labels).all()
    seg.add("blue", *([x] for x in picture(BLUE, (20, 90, 30, 100), seed=2)))
    monkeypatch.setattr(type(seg.model), "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(type(seg.model.encoder), "embedding", lambda *_: pytest.fail("what is made of it, made again"))
    assert seg.decide(encoded).classes == ("red", "blue")


def test_an_encoded_photo_teaches_what_the_photo_does_and_is_not_encoded_again(tmp_path, monkeypatch):
    shot, mask = picture(RED, (20, 90, 30, 100), seed=1)
    query, _ = picture(RED, (50, 100, 70, 130), seed=6)
    seg, other = shotseg.Segmenter(size=128, device="cpu"), shotseg.Segmenter(size=128, device="cpu")
    seg.add("red", shot, mask)
    wanted = seg.predict(query)
    encoded, asked = other.encode(shot), other.encode(query)
    encoded.save(tmp_path / "kept.safetensors")
    monkeypatch.setattr(type(other.model), "encode", lambda *_: pytest.fail("encoded again"))
    other.add("red", encoded, mask)
    assert (other.decide(asked).labels == wanted.labels).all()
    other.remove("red")
    other.add("red", [shotseg.encoded.Encoded.load(tmp_path / "kept.safetensors")], [mask])
    assert (other.decide(asked).labels == wanted.labels).mean() > 0.99  # half precision
    monkeypatch.undo()
    with pytest.raises(UsageError, match="encode it again"):
        shotseg.Segmenter("matching", "efficientnet-lite0", size=128).add("red", encoded, mask)


def test_what_every_class_asks_of_a_photo_is_made_once_and_kept_with_it(tmp_path, monkeypatch):
    query, _ = picture(RED, (50, 100, 70, 130), seed=6)
    seg = shotseg.Segmenter(size=128, device="cpu")
    seg.add("red", *([x] for x in picture(RED, (20, 90, 30, 100), seed=1)))
    fresh, prepared = seg.encode(query), seg.encode(query)
    presence.prepare(seg.model, prepared.features)
    prepared.save(tmp_path / "kept.safetensors")
    kept = shotseg.encoded.Encoded.load(tmp_path / "kept.safetensors")
    wanted = seg.decide(fresh)
    monkeypatch.setattr(type(seg.model.encoder), "embedding", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(matching, "border_contrast", lambda *_: pytest.fail("made again"))
    found = [seg.decide(encoded) for encoded in (prepared, kept)]
    assert (found[0].labels == wanted.labels).all() and found[0].present == wanted.present
    assert (found[1].labels == wanted.labels).mean() > 0.99  # half precision
    assert found[1].present["red"] == pytest.approx(wanted.present["red"], abs=2e-3)


def test_shots_added_one_by_one_are_fitted_once(monkeypatch):
    seg = shotseg.Segmenter(size=64, device="cpu")
    merge, calls = seg.model.merge, []
    monkeypatch.setattr(seg.model, "merge", lambda supports: calls.append(len(supports)) or merge(supports))
    for seed in range(6):
        seg.add("red", *([x] for x in picture(RED, (20, 90, 30, 100), seed=seed)))
    assert calls == []
    seg.predict(picture(RED, (20, 90, 30, 100), seed=9)[0])
    assert calls == [6]


def test_a_class_that_is_not_in_the_photo_is_not_found_unless_it_is_known_to_be_there():
    examples, queries = demo_items()
    shown = next(item for item in queries if item.class_name == "dress")
    found = {}
    for present in (0.5, None):
        seg = shotseg.Segmenter(device="cpu", present=present)
        for item in examples:
            seg.add(item.class_name, [item.image_path], [item.mask_path])
        found[present] = [seg.predict(photo) for photo in (shown.image_path, *OTHERS)]
    there, *elsewhere = found[0.5]
    assert there.areas["dress"] > 0.05 and there.present["dress"] > 0.5
    for result, guess in zip(elsewhere, found[None][1:]):
        assert not result.labels.any() and guess.labels.any()
        assert max(result.present.values()) < 0.5 and set(guess.present.values()) == {1.0}
        assert result.confidence == pytest.approx(1 - 2 * max(result.present.values()))


def test_strokes_bind_where_they_are_drawn(red):
    query, _ = picture(RED, (50, 100, 70, 130), seed=6)
    strokes = Strokes.none(query.shape[:2]).disc((10, 10), 4, True).disc((75, 100), 4, False)
    labels = red.predict(query, strokes={"red": strokes}).labels
    assert (labels[strokes.labels == 1] == 1).all() and (labels[strokes.labels == 0] == 0).all()
    with pytest.raises(UsageError, match="strokes of 'green'"):
        red.predict(query, strokes={"green": strokes})


@pytest.mark.parametrize("present", [-0.1, 1.5])
def test_an_operating_point_outside_0_to_1_is_refused(present):
    with pytest.raises(UsageError, match="a probability from 0 to 1"):
        shotseg.Segmenter(device="cpu", present=present)
