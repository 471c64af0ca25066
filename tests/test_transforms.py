"""Image and mask stay together, at any size, and the same generator gives the same numbers."""

import numpy as np
import pytest
import torch

from shotseg.data import transforms
from shotseg.data.transforms import Augmentation, as_tensors, fit, pad, resize_logits, squash

SIZES = [(1, 1), (1, 20000), (20000, 1), (7, 13), (300, 200)]


def pair(height, width):
    """A photo that is white exactly where its mask is 1."""
    y, x = np.mgrid[:height, :width]
    mask = ((y < max(height // 2, 1)) & (x >= width // 3)).astype(np.uint8)
    return np.repeat(mask[..., None] * 255, 3, axis=2), mask


@pytest.mark.parametrize("sides", SIZES)
def test_any_size_fits_in_whole_patches(sides):
    image, mask = pair(*sides)
    pixels, classes = fit(image, 224, 32, mask)
    h, w = pixels.shape[1:]
    assert h % 32 == w % 32 == 0 and min(h, w) >= 32 and max(h, w) == 224
    assert classes.shape == (h, w) and classes.dtype == torch.int64 and (classes == 1).any()
    assert pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1
    assert fit(image, 224, 32)[1] is None


@pytest.mark.parametrize("sides", SIZES)
def test_any_size_is_squashed_and_padded_to_a_square(sides):
    image, mask = pair(*sides)
    assert squash(image, 65, mask)[0].shape == (3, 65, 65)
    pixels, classes, (h, w) = pad(image, 64, mask)
    assert pixels.shape == (3, 64, 64) and max(h, w) == 64
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[:h, :w] = False
    assert torch.equal(classes == 255, outside)
    assert torch.allclose(pixels[:, outside], torch.tensor(transforms.MEAN)[:, None])


@pytest.mark.parametrize("sides", [(120, 160), (30, 40)])
def test_the_mask_lies_where_the_image_does(sides):
    pixels, classes = fit(*(lambda image, mask: (image, 64, 16, mask))(*pair(*sides)))
    assert ((pixels[0] > 0.5).long() != classes).float().mean() < 0.04


def test_an_object_smaller_than_a_cell_is_kept():
    mask = np.zeros((1000, 1000), np.uint8)
    mask[0], mask[501, 707] = 255, 1
    classes = fit(np.zeros((1000, 1000, 3), np.uint8), 32, 32, mask)[1]
    assert (classes == 1).nonzero().tolist() == [[16, 22]]


def test_own_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    pixels, _ = as_tensors(image)
    np.testing.assert_array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), image)


def test_logits_are_resized_in_any_batch_shape():
    logits = torch.randn(2, 3, 2, 4, 5)
    resized = resize_logits(logits, (8, 10))
    assert resized.shape == (2, 3, 2, 8, 10)
    torch.testing.assert_close(resized[1, 2], resize_logits(logits[1, 2], (8, 10)))
    corners = resize_logits(logits, (9, 9), align_corners=True)
    torch.testing.assert_close(corners[..., 0, 0], logits[..., 0, 0])


@pytest.mark.parametrize("sides", [(1, 1), (1, 400), (90, 70)])
def test_augmentation_is_a_function_of_the_generator(sides):
    pixels, classes = as_tensors(*pair(*sides))
    augment = Augmentation(64, jitter=0.3)

    def once(seed):
        return augment(pixels, classes, torch.Generator().manual_seed(seed))

    image, mask = once(5)
    assert image.shape == (3, 64, 64) and mask.shape == (64, 64) and mask.dtype == torch.int64
    torch.rand(3)  # the global stream plays no part
    assert torch.equal(image, once(5)[0]) and torch.equal(mask, once(5)[1])
    assert not torch.equal(image, once(6)[0])
    assert augment(pixels, None, torch.Generator().manual_seed(5))[1] is None


def test_random_moves_keep_image_and_mask_together():
    pixels, classes = as_tensors(*pair(120, 90))
    augment = Augmentation(100, scale=(0.6, 1.4), degrees=30, blur=0)
    for seed in range(20):
        image, mask = augment(pixels, classes, torch.Generator().manual_seed(seed))
        valid = mask != 255
        assert ((image[0] > 0.5).long() != mask)[valid].float().mean() < 0.03
        assert (mask == 1).any()


def test_a_crop_finds_the_object():
    mask = torch.zeros(200, 200, dtype=torch.int64)
    mask[:80, :80] = 1
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert (transforms.random_crop(torch.zeros(3, 200, 200), mask, generator, 64, tries=50)[1] == 1).any()
