"""How the training-free maps behave, whatever the photo."""

import pytest
import torch
from torch.nn import functional as F

from shotseg.encoders.clip import from_config
from shotseg.errors import UsageError
from shotseg.priors.cam_labels import soft_masks, threshold_labels, two_background_labels
from shotseg.priors.clip_input import square, whole_patches
from shotseg.priors.grad_cam import grad_cam, imr_cams
from shotseg.priors.pixel_adaptive import pamr, par
from shotseg.priors.refinement import CLIP_ES, PIR, balance, box_mask
from shotseg.priors.superpixels import felzenszwalb, region_average, slic
from shotseg.priors.text import CLIP_ES_MAPS, VTP, TextPrior, as_released
from shotseg.priors.visual import correspondence, masked_average, max_cosine, min_max, vvp


def small_clip(**vision):
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    return from_config({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True})


@pytest.fixture(scope="module")
def clip():
    return small_clip(image_size=32, layers=9, width=64, patch_size=8)


def every_pair(query: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bcq,bcs->bqs", F.normalize(query.flatten(2), dim=1), F.normalize(support.flatten(2), dim=1))


@pytest.mark.parametrize("eps", ["joint", "each"])
def test_max_cosine_in_small_strips_is_the_full_matrixs_maximum_with_its_gradient(eps):
    query, support = torch.randn(2, 8, 5, 7), torch.randn(2, 8, 6, 4)
    ours, theirs = query.clone().requires_grad_(), query.clone().requires_grad_()
    strips = max_cosine(ours, support, eps=eps, memory=1000)
    full = every_pair(theirs, support).amax(2).view(2, 1, 5, 7)
    torch.testing.assert_close(strips, full, atol=2e-4, rtol=0)
    torch.testing.assert_close(strips, max_cosine(query, support, eps=eps), atol=1e-6, rtol=0)
    strips.square().sum().backward()
    full.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4, rtol=0)


def test_excluded_support_positions_never_win_and_an_empty_support_gives_zero():
    query, support = torch.randn(2, 8, 3, 3), torch.randn(2, 8, 4, 4)
    valid = torch.zeros(2, 4, 4)
    valid[0, 1, 2] = 1
    ours = max_cosine(query, support, valid)
    alone = every_pair(query, support)[0, :, 6].view(1, 3, 3)
    torch.testing.assert_close(ours[0], alone, atol=1e-5, rtol=0)
    assert bool((ours[1] == 0).all())


def test_zero_vectors_and_flat_maps_give_zero_and_never_nan():
    zeros = torch.zeros(1, 4, 3, 3)
    assert bool((max_cosine(zeros, zeros) == 0).all())
    assert bool((correspondence(torch.ones(1, 4, 3, 3), torch.randn(1, 4, 3, 3)) == 0).all())
    assert bool((min_max(torch.full((1, 2, 2), 0.3)) == 0).all())
    assert bool((masked_average(torch.randn(1, 4, 3, 3), torch.zeros(1, 1, 3, 3)) == 0).all())


def test_shots_that_are_the_same_give_the_one_shot_prior():
    query, one, mask = torch.randn(1, 8, 5, 6), torch.randn(1, 1, 8, 4, 7), torch.zeros(1, 1, 16, 28)
    mask[..., 4:12, 6:20] = 1
    mask[..., 12:, :] = 255
    three = one.expand(-1, 3, -1, -1, -1), mask.expand(-1, 3, -1, -1)
    torch.testing.assert_close(vvp([query], [three[0]], three[1]), vvp([query], [one], mask))
    assert vvp([query, query], [three[0]] * 2, three[1], shots="concat").shape == (1, 6, 5, 6)


def test_pixels_marked_to_be_ignored_are_no_foreground_of_a_prior():
    query, support = torch.randn(1, 8, 5, 6), torch.randn(1, 1, 8, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    ignored = mask.clone()
    ignored[..., 3, :] = 255
    torch.testing.assert_close(vvp([query], [support], mask), vvp([query], [support], ignored))


@pytest.mark.parametrize("end", ["inclusive", "exclusive"])
def test_a_box_reaches_the_last_row_and_column_unless_released(end):
    cam = torch.zeros(1, 1, 6, 8)
    cam[..., 3:, 5:] = 1
    mask = box_mask(cam, end=end)[0, 0]
    assert mask[3:5, 5:7].all() and not mask[:3].any() and not mask[:, :5].any()
    assert bool(mask[5].any()) == bool(mask[:, 7].any()) == (end == "inclusive")


@pytest.mark.parametrize("refinement", [PIR, CLIP_ES])
def test_refining_a_batch_is_refining_one_by_one_and_a_map_of_zeros_stays_zero(refinement):
    attention = torch.rand(12, 2, 21, 21).softmax(-1)
    cam = torch.rand(2, 3, 4, 5)
    cam[1, 2] = 0
    both = refinement(cam, attention)
    torch.testing.assert_close(both[1:], refinement(cam[1:], attention[:, 1:]))
    assert bool((both[1, 2] == 0).all()) and float(both.min()) >= 0 and float(both.max()) <= 1


def test_rows_of_a_balanced_matrix_sum_to_one():
    torch.testing.assert_close(balance(torch.rand(2, 7, 7), 3).sum(-1), torch.ones(2, 7))


@pytest.mark.parametrize("steps", [1, 10])
def test_par_multiplies_a_constant_by_its_weight_sum_and_pamr_keeps_it(steps):
    image, constant = torch.rand(1, 3, 30, 34), torch.full((1, 2, 30, 34), 0.5)
    torch.testing.assert_close(par(image, constant, steps=steps), constant * 1.01**steps, atol=1e-5, rtol=0)
    torch.testing.assert_close(pamr(image, constant, steps=steps), constant, atol=1e-5, rtol=0)


def test_colour_keeps_a_mask_on_its_side_of_an_ideal_edge():
    image, mask = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    image[..., 32:], mask[..., 32:] = 1, 1
    assert float(pamr(image, mask)[..., :32].max()) < 1e-8
    assert float(par(image, mask, w2=0)[..., :32].max()) < 1e-15
    assert 1e-4 < float(par(image, mask)[..., :32].max()) < 0.01  # the position term does not look at colour


def test_pixel_adaptive_refinement_takes_any_size_down_to_one_pixel():
    for height, width in ((1, 1), (1, 40), (5, 3)):
        for refine in (par, pamr):
            refined = refine(torch.rand(1, 3, height, width), torch.rand(1, 2, 2, 2), steps=2)
            assert refined.shape == (1, 2, height, width) and bool(refined.isfinite().all())


def test_label_maps_ignore_what_is_outside_the_box_and_never_name_an_absent_class():
    images, cams = torch.rand(2, 3, 24, 32), torch.rand(2, 3, 24, 32)
    present, box = torch.tensor([[1, 0, 1], [0, 1, 0]]), torch.tensor([[0, 24, 4, 30], [2, 20, 0, 32]])
    for labels in (threshold_labels(cams, present, box), two_background_labels(images, cams, present, box)):
        assert set(labels[0].unique().tolist()) <= {0, 1, 3, 255} and set(labels[1].unique().tolist()) <= {0, 2, 255}
        assert bool((labels[0, :, :4] == 255).all()) and bool((labels[1, :2] == 255).all())
    soft = soft_masks(images, cams, present, box)
    assert soft.shape == (2, 4, 24, 32) and not soft[0, 2].any() and not soft[1, :, 20:].any()


def test_grad_cam_of_a_linear_score_is_its_weighted_activation():
    activation = torch.randn(2, 3, 4, 5, requires_grad=True)
    weights = torch.tensor([0.5, -1.0, 2.0])
    score = (activation * weights[:, None, None]).sum((1, 2, 3))
    expected = (activation.detach() * weights[:, None, None]).sum(1).relu()
    torch.testing.assert_close(grad_cam(score, activation), expected)


def test_only_the_episodes_class_name_reaches_the_text_encoder(clip, monkeypatch):
    said = []
    monkeypatch.setattr(clip, "tokenize", lambda texts, spy=clip.tokenize: said.extend(texts) or spy(texts))
    VTP(clip, torch.rand(2, 3, 24, 40), ["cat", "bird"])
    assert said == ["a photo of cat.", "a photo without cat.", "a photo of bird avian.", "a photo without bird avian."]


def test_a_target_that_the_caller_did_not_list_still_competes(clip):
    photo = torch.rand(1, 3, 24, 40)
    torch.testing.assert_close(VTP(clip, photo, ["cat"], [["dog"]]), VTP(clip, photo, ["cat"], [["dog", "cat"]]))
    with pytest.raises(UsageError, match="cat"):
        as_released(VTP)(clip, photo.expand(2, -1, -1, -1), ["cat", "dog"], [["dog"], ["dog"]])


@pytest.mark.parametrize("prior", [VTP, CLIP_ES_MAPS, TextPrior(refinement=None), as_released(VTP)])
def test_a_text_prior_takes_any_size_and_lies_between_zero_and_one(clip, prior):
    maps = prior(clip, torch.rand(2, 3, 29, 41), ["cat", "dog"])
    assert maps.shape == (2, 1, 4, 6) and float(maps.min()) >= 0 and float(maps.max()) <= 1
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert prior(clip, torch.rand(1, 3, 29, 41), ["cat"], size=(16, 64)).shape == (1, 1, 2, 8)


def test_the_visual_prior_of_a_photo_and_itself_is_highest_on_the_object(clip):
    photo, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    tokens = clip(photo).maps[-2:]
    maps = vvp(tokens, [t[:, None] for t in tokens], mask)
    assert bool((maps[..., 1:3, 1:3] > 0.999).all())


def test_imr_class_maps_cover_the_whole_photo_by_default():
    model = small_clip(image_size=64, layers=(1, 1, 1, 1), width=16, patch_size=None)
    maps = imr_cams(model, torch.rand(2, 3, 50, 90), ["cat", "dog", "car"], [0, 2], size=64)
    assert maps.shape == (2, 2, 50, 50) and float(maps.min()) >= 0 and float(maps.max()) <= 1
    photo = torch.zeros(1, 3, 40, 120)
    photo[..., :20] = 1  # at the left edge, which the centre crop cuts off
    assert float(square(photo, 64).max()) == 1 and float(square(photo, 64, "center").max()) == 0


def test_an_eight_bit_resize_is_close_to_the_float_one():
    photo = F.interpolate(torch.rand(1, 3, 9, 9), (72, 60), mode="bilinear")
    plain, eight_bit = (whole_patches(photo, 16, eight_bit=bits) for bits in (False, True))
    assert plain.shape == eight_bit.shape == (1, 3, 80, 64)
    torch.testing.assert_close(plain, eight_bit, atol=0.01, rtol=0)


def test_superpixels_are_numbered_from_zero_and_their_means_are_those_of_their_pixels():
    image = (torch.rand(40, 60, 3) * 255).to(torch.uint8).numpy()
    for labels in (slic(image, 12), felzenszwalb(image, 50)):
        labels = torch.from_numpy(labels)
        assert labels.shape == (40, 60) and labels.unique().tolist() == list(range(int(labels.max()) + 1))
        features = torch.randn(5, 40, 60)
        torch.testing.assert_close(region_average(features, labels)[0], features[:, labels == 0].mean(1))


def test_a_text_prior_works_where_the_caller_has_turned_gradients_off(clip):
    photo = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        quiet = VTP(clip, photo, ["cat"])
    torch.testing.assert_close(quiet, VTP(clip, photo, ["cat"]))
    assert not quiet.requires_grad


def test_the_lengths_of_a_cosine_are_measured_once(monkeypatch):
    measured, norm = [], torch.Tensor.norm
    monkeypatch.setattr(torch.Tensor, "norm", lambda x, **how: measured.append(x.shape) or norm(x, **how))
    query, support = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2)
    found = max_cosine(query, support)
    assert measured == [(1, 8, 12), (1, 8, 10)]
    every = F.cosine_similarity(query.flatten(2)[..., None], support.flatten(2)[:, :, None], 1)
    torch.testing.assert_close(found.flatten(), every.amax(2).flatten())
