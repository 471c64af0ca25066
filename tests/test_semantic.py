"""Every class of a large photo: scores are made in rows, the decision stays at the working size, and memory with it."""

import tracemalloc
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotseg import encoders, semantic
from shotseg.models import maskformer
from shotseg.models.blocks.set_criterion import Proposals
from shotseg.models.maskformer import Inference, Look, MaskFormer, Window, padded_size, starts
from shotseg.models.maskformer import semantic as semantic_scores
from shotseg.photo import Opened
from shotseg.semantic import LabelMap, SemanticSegmenter, decide


def looks(count, sides, mirrored=False, queries=7):
    """What a network may say of a photo at each size: blobs that grow smoothly."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for side in sides:
        coarse = torch.randn(1, queries, 4, 5, generator=generator) * 6 - 2
        masks = torch.nn.functional.interpolate(coarse, [x // 4 for x in padded_size(side)], mode="bicubic")[0]
        said = (torch.randn(queries, count, generator=generator) * 3).softmax(1)
        found.append(Look(side, mirrored, [Window(0, 0, side, said, masks)]))
    return found


def at_once(found, size):
    """The shares of all classes (C, *size), without bands."""
    drawn = []
    for look in found:
        (part,) = look.windows
        logits = torch.full((len(part.classes), part.classes.shape[1] + 1), -1e9)
        logits[:, :-1] = part.classes.log()
        scores = semantic_scores(Proposals(logits[None], part.masks[None]), padded_size(look.size))
        scores = scores[..., : look.size[0], : look.size[1]]
        scores = scores.flip(-1) if look.mirrored else scores
        drawn.append(torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)[0])
    whole = torch.stack(drawn).mean(0)
    return (whole / whole.sum(0)).numpy()


SIDES = [(96, 128), (64, 85)]


@pytest.mark.parametrize("size", [(48, 64), (31, 130), (500, 37), (96, 128), (9, 7), (1, 1)])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sides", [SIDES[:1], SIDES])
def test_scores_in_bands_are_scores_at_once(size, sides, mirrored, monkeypatch):
    monkeypatch.setattr(maskformer, "BAND", 5000)
    said = looks(6, sides, mirrored)
    expected = at_once(said, size)
    parts = list(maskformer.bands(said, size))
    found = torch.cat(parts, 1)
    assert len(parts) > 1 or size[0] < 10
    np.testing.assert_allclose(found / found.sum(0), expected, atol=1e-5)
    some = torch.cat(list(maskformer.bands(said, size, [4, 1])), 1)
    np.testing.assert_allclose(some, found[[4, 1]], atol=1e-5)
    ranked = np.sort(expected, 0)
    sure = ranked[-1] - ranked[-2] > 1e-5
    assert np.array_equal(maskformer.labelled(said, size)[sure], expected.argmax(0)[sure])


@pytest.mark.parametrize("names", [["background", *"abcde"], ["a", "b", "background", *"cde"], [*"abcdef"]])
@pytest.mark.parametrize("size", [(96, 128), (300, 401), (40, 50)])
def test_a_label_map_is_decided_at_the_working_size_and_drawn_larger(names, size):
    said = looks(6, SIDES, queries=12)
    photo = np.zeros((*size, 3), np.uint8)
    classes = tuple(name for name in names if name != "background")
    result = LabelMap(Opened(photo, size, lambda: photo), classes, decide(said, names))
    small, whole = (at_once(said, side) for side in (SIDES[0], size))
    order = [i for i, name in enumerate(names) if name == "background"] + [names.index(name) for name in classes]
    value = 1 - names.count("background")
    assert (result.preview.labels == small[order].argmax(0) + value).mean() > 0.999
    assert (result.labels == whole[order].argmax(0) + value).mean() > 0.98
    areas, sure = result.areas, result.preview.confidences
    for name in classes:
        i = names.index(name)
        assert result.present[name] == pytest.approx(small[i].max(), abs=1e-5)
        assert np.abs(result.probabilities[name] - whole[i]).mean() < 0.01
        assert result.confidences[name] == pytest.approx(sure[name], abs=1e-4)
        assert areas[name] == pytest.approx(result.masks[name].mean())


def test_without_a_background_class_every_pixel_is_of_some_class():
    nothing = [look._replace(windows=[look.windows[0]._replace(classes=torch.zeros(7, 2))]) for look in looks(2, SIDES)]
    assert decide(nothing, ["a", "b"]).labels.min() == 1
    assert decide(nothing, ["b", "background"]).labels.max() == 0


class Live(TorchDispatchMode):
    """The most bytes that the tensors made within it took at once, and the largest of them."""

    def __init__(self):
        super().__init__()
        self.now = self.most = self.largest = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves(found):
            if isinstance(x, torch.Tensor) and (key := x.untyped_storage()._cdata) not in self.known:
                size = x.untyped_storage().nbytes()
                self.known.add(key)
                self.now, self.largest = self.now + size, max(self.largest, size)
                self.most = max(self.most, self.now)
                weakref.finalize(x.untyped_storage(), self.freed, key, size)
        return found

    def freed(self, key, size):
        self.known.discard(key)
        self.now -= size


CLASSES = 60
SMALL = {
    "size": 128,
    "geometry": "short",
    "width": 32,
    "mask_width": 16,
    "queries": 5,
    "layers": 1,
    "heads": 2,
    "ffn": 32,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskFormer(encoders.load("efficientnet-lite0", weights="random"), CLASSES, **SMALL).eval()


@contextmanager
def memory():
    """Gives the tensors, and at its end the bytes that arrays and tensors took at most."""
    found = {}
    tracemalloc.start()
    try:
        with Live() as tensors:
            yield found
        found["bytes"] = tensors.most + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", [Inference(flip=True, scales=(128, 160)), Inference(window=128)])
def test_no_scores_of_all_classes_are_held_at_any_size(model, how, monkeypatch):
    monkeypatch.setattr(semantic.trained, "load_semantic", lambda *a: (model, [f"c{i}" for i in range(CLASSES)]))
    monkeypatch.setattr(semantic.trained, "names", lambda path: ("maskformer", "efficientnet-lite0"))
    monkeypatch.setattr(maskformer, "BAND", 2**17)
    segmenter = SemanticSegmenter("none.safetensors", device="cpu", inference=how)
    photo = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    volume = CLASSES * 160 * 213 * 4
    with memory() as network:
        model.look(model.fit(photo), how)
    most = max(volume, 1.1 * network["bytes"])
    with memory() as took:
        result = segmenter.predict(photo)
        drawn = result.labels
    assert took["bytes"] < most
    with memory() as took:
        exact = model.label(photo, how)
    assert took["bytes"] < most
    assert drawn.shape == exact.shape == (150, 200) and (drawn == exact + 1).mean() > 0.95
    with memory() as took:
        assert sum(result.probabilities.values()) == pytest.approx(np.ones((150, 200)), abs=1e-4)
    assert took["bytes"] < 2.5 * volume  # they are kept, at the largest of the sizes


def test_what_is_held_is_seen():
    with Live() as tensors:
        x = torch.zeros(1000)
        y = x[:10].view(5, 2) + 1
        del x, y
        torch.ones(500)
    assert tensors.most == 4000 + 40 and tensors.now == 0


def test_windows_are_averaged_where_they_overlap(model):
    photo = torch.rand(3, 150, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (look,) = model.look(photo, Inference(window=64))
        total, seen = torch.zeros(CLASSES, 150, 96), torch.zeros(150, 96)
        for top in starts(150, 64):
            for left in starts(96, 64):
                part = (slice(top, top + 64), slice(left, left + 64))
                total[:, *part] += model.scores(photo[None, :, *part])[0]
                seen[part] += 1
    found = torch.cat(list(maskformer.bands([look], (150, 96))), 1)
    np.testing.assert_allclose(found, total / seen, atol=1e-5)
