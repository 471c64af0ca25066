"""matching: the same answer alone and in a batch, on any size, with any mask, on any encoder."""

import functools

import numpy as np
import pytest
import torch

import golden
import shotseg
from shotseg import encoders, models
from shotseg.data.samples import Support
from shotseg.encoders.features import GROUP, highest
from shotseg.models.matching import Matching, coarsest_three
from shotseg.models.ridge import classify, ridge, ridge_values

SHAPES = [(64, 64), (64, 96), (96, 33), (8, 8), (1, 1), (1, 70)]
SWITCHES = ["contrast", "ridge", "border", "self_support", "edges"]


@functools.cache
def model(name="efficientnet-lite0"):
    torch.manual_seed(0)
    return models.load("matching", encoders.load(name, weights="random"), size=64).eval()


def scene(height=64, width=96, seed=0):
    """A bright textured box on dark noise: (3, H, W) and its mask (H, W)."""
    stream = torch.Generator().manual_seed(seed)
    image = 0.3 * torch.rand(3, height, width, generator=stream)
    mask = torch.zeros(height, width, dtype=torch.long)
    mask[height // 4 : max(1, height * 3 // 4), width // 4 : max(1, width * 3 // 4)] = 1
    return torch.where(mask == 1, 0.6 + image, image), mask


@torch.no_grad()
def logits(matching, support, image):
    return matching(matching.encode(image), support, image).logits


def known(matching, *scenes):
    images, masks = (torch.stack(parts)[None] for parts in zip(*scenes))
    with torch.no_grad():
        return matching.encode_support(images, masks)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "timm:vit_tiny_patch16_224"])
def test_a_batch_of_queries_is_its_queries_one_by_one(name):
    matching = model(name)
    support = known(matching, scene(seed=1))
    queries = torch.stack([scene(seed=s)[0] for s in (2, 3, 4)])
    together = logits(matching, support, queries)
    for i in range(3):
        golden.assert_close(f"query {i}", together[i : i + 1], logits(matching, support, queries[i : i + 1]), atol=1e-3)


def test_a_batch_of_classes_is_its_classes_one_by_one():
    matching, queries = model(), torch.stack([scene(seed=s)[0] for s in (2, 3)])
    scenes = [scene(seed=5), scene(seed=6)]
    both = Support({k: torch.cat([known(matching, s)[k] for s in scenes]) for k in known(matching, scenes[0]).tensors})
    images, masks = torch.stack([s[0] for s in scenes])[:, None], torch.stack([s[1] for s in scenes])[:, None]
    with torch.no_grad():
        encoded = matching.encode_support(images, masks)
    for name, tensor in both.tensors.items():
        golden.assert_close(name, encoded[name], tensor, atol=1e-3)
    for i in range(2):
        alone = logits(matching, known(matching, scenes[i]), queries[i : i + 1])
        golden.assert_close(f"class {i}", logits(matching, both, queries)[i : i + 1], alone, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_query_of_any_size_gets_a_finite_answer(shape):
    found = logits(model(), known(model(), scene()), scene(*shape)[0][None])
    assert found.isfinite().all() and found.shape[:2] == (1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_support_of_any_size_teaches_the_class(shape):
    found = logits(model(), known(model(), scene(*shape)), scene()[0][None])
    assert found.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (40, 700), (333, 2)])
def test_the_answer_has_the_size_of_the_photo(shape):
    segmenter = shotseg.Segmenter(size=64, device="cpu")
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    segmenter.add("thing", [photo], [np.ones(shape, np.uint8)])
    result = segmenter.predict(photo)
    assert result.labels.shape == shape
    assert np.isfinite(result.probabilities["thing"]).all()


def masks():
    """Masks that say little: the whole photo, nothing, nothing known but a pixel of either kind, one pixel, a frame."""
    _, plain = scene()
    kinds = {"all of it": torch.ones_like(plain), "none of it": torch.zeros_like(plain)}
    for name, value in (("ignore but one foreground", 1), ("ignore but one background", 0)):
        kinds[name] = torch.full_like(plain, 255)
        kinds[name][30, 40] = value
    kinds["all ignored"] = torch.full_like(plain, 255)
    kinds["one pixel"] = torch.zeros_like(plain)
    kinds["one pixel"][30, 40] = 1
    kinds["a frame"] = 1 - plain
    return kinds


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("name", ["efficientnet-lite0", "timm:vit_tiny_patch16_224"])
def test_a_mask_that_says_little_still_gives_a_finite_answer(name, kind):
    found = logits(model(name), known(model(name), (scene()[0], masks()[kind])), scene(seed=1)[0][None])
    assert found.isfinite().all()


def test_a_poor_shot_beside_a_good_one_does_no_harm():
    segmenter = shotseg.Segmenter(size=160, device="cpu")
    image, mask = scene(120, 160)
    photo = (image.permute(1, 2, 0) * 255).byte().numpy()
    segmenter.add("box", [photo], [mask.numpy().astype(np.uint8)])
    before = segmenter.predict(photo).masks["box"]
    one = np.zeros_like(before, np.uint8)
    one[60, 80] = 1
    segmenter.add("box", [photo], [one])
    after = segmenter.predict(photo).masks["box"]
    truth = mask.numpy() == 1
    assert (before & truth).sum() / (before | truth).sum() > 0.7
    assert (after & truth).sum() / (after | truth).sum() > 0.6


@pytest.mark.parametrize("size", [(64, 64), (48, 112), (112, 32)])
def test_a_vision_transformer_carries_it_at_any_aspect(size):
    matching = model("timm:vit_tiny_patch16_224")
    assert len(set(matching.encoder.strides)) == 1
    found = logits(matching, known(matching, scene(*size)), scene(*size, seed=1)[0][None])
    assert found.isfinite().all()


def test_levels_are_the_three_coarsest_strides_or_three_depths():
    assert coarsest_three((2, 4, 8, 16, 32)) == (2, 3, 4)
    assert coarsest_three((16,) * 12) == (5, 8, 11)
    assert coarsest_three((4, 4, 8, 8, 8)) == (2, 3, 4)  # a dilated network has two strides


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_ingredient_can_be_switched_off_and_matters(switch):
    own = model().encoder
    query, support = scene(seed=1)[0][None], scene()
    whole, less = Matching(own, 64), Matching(own, 64, **{switch: False})
    ours, theirs = (logits(m, known(m, support), query) for m in (whole, less))
    assert theirs.isfinite().all()
    assert ours.shape != theirs.shape or not torch.allclose(ours, theirs)


def test_many_shots_and_their_order_make_one_support():
    matching, query = model(), scene(seed=9)[0][None]
    shots = [known(matching, scene(seed=s)) for s in range(4)]
    forward, backward = (logits(matching, matching.merge(list(order)), query) for order in (shots, shots[::-1]))
    golden.assert_close("order", forward, backward, atol=1e-3)


def test_ridge_is_the_weighted_least_squares_solution():
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 50, 4, generator=stream, dtype=torch.float64)
    inside = (torch.rand(1, 50, generator=stream) > 0.6).double()
    found = ridge(tokens, inside, 1 - inside, strength=0.0)[0]
    weight = inside[0] / inside.sum() + (1 - inside[0]) / (1 - inside).sum()
    x = torch.cat([tokens[0], torch.ones(50, 1, dtype=torch.float64)], 1)
    target = 2 * inside[0] - 1
    solved = torch.linalg.solve(x.mT @ (weight[:, None] * x), x.mT @ (weight * target))
    golden.assert_close("ridge", found, solved, atol=1e-8)


def test_conjugate_gradients_give_the_values_of_the_closed_form():
    stream = torch.Generator().manual_seed(0)
    tokens = torch.nn.functional.normalize(
        torch.randn(2, 300, 64, generator=stream).cumsum(1), dim=2
    )  # neighbours are alike
    foreground = torch.rand(2, 3, 300, generator=stream) * (torch.arange(300) < 40)
    background = torch.rand(2, 3, 300, generator=stream) * (torch.arange(300) > 90)
    found = ridge_values(tokens, foreground, background, strength=3.0)
    for n in range(3):
        expected = classify(tokens, ridge(tokens, foreground[:, n], background[:, n], strength=3.0))
        assert (found[:, n] - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize("width", [5, 60, 11 * GROUP - 1, 11 * GROUP, 11 * GROUP + 1, 3501])
def test_the_highest_values_of_a_row_are_those_that_sorting_finds(width):
    rows = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(width))
    before = rows.clone()
    expected = rows.sort(-1, descending=True).values[..., :5]
    assert torch.equal(highest(rows, 5).sort(-1, descending=True).values, expected)
    assert torch.equal(highest(rows.mT.contiguous().mT, 5).sort(-1, descending=True).values, expected)  # another layout
    equal = rows.round()  # many of one value
    assert torch.equal(highest(equal, 5).sort(-1).values, equal.sort(-1).values[..., -5:])
    assert torch.equal(rows, before)
    rows.requires_grad_()
    highest(rows, 5).sum().backward()
    assert (rows.grad.sum(-1) == 5).all()
