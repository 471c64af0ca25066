"""CORENet's properties: no reference code exists, so its parts are held against CST and against what they must keep."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import shotseg
import tiny_clip
from shotseg import encoders
from shotseg.data.samples import Episode
from shotseg.errors import UsageError
from shotseg.models.blocks import imagenet_guide
from shotseg.models.blocks.class_guide import soft_masks
from shotseg.models.blocks.clip_guide import ClipGuide
from shotseg.models.blocks.correlation_tokens import patches
from shotseg.models.blocks.prior_guided import cross_entropy
from shotseg.models.corenet import CORENet
from shotseg.models.corenet.class_filter import ClassFilter
from shotseg.models.corenet.kernel_fusion import CorrelationGuidedTransformer
from shotseg.models.corenet.noisy_labels import Teacher, confidence, relabelled, weighted_cross_entropy
from shotseg.models.cst import CST
from shotseg.priors.pixel_adaptive import pamr, par
from training_miniature import TINY

SIZE = 64
PHOTO = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8)
PLAIN = {"global_tokens": False, "kernels": "4x3", "soft_mask": False, "cgm": "none", "egm": False, "plane": False} | {
    "prior_weight": 0.0,
    "recentre": 0.0,
    "edges": False,
}


@pytest.fixture(autouse=True)
def names_cost_nothing(monkeypatch):
    """MiniLM is not needed here: a name is a fixed random weighting of the ImageNet labels."""

    def weights(name: str) -> torch.Tensor:
        return torch.rand(1, 1000, generator=torch.Generator().manual_seed(sum(map(ord, name))))

    monkeypatch.setattr(imagenet_guide, "imagenet_weights", weights)


@pytest.fixture(scope="module")
def lite():
    return encoders.load(TINY, "random")


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.random()


@functools.cache
def vit():
    return encoders.load("timm:vit_tiny_patch16_224", "random")


def episode(batch: int = 2, shots: int = 1, size: int = SIZE) -> Episode:
    masks = torch.zeros(batch, 1 + shots, size, size, dtype=torch.long)
    masks[:, :, 16:40, 8:50] = 1
    masks[:, :, 40:44] = 255
    images = torch.rand(batch, 1 + shots, 3, size, size)
    return Episode(images[:, 0], images[:, 1:], torch.arange(batch), masks[:, 0], masks[:, 1:], ("dog", "cat")[:batch])


def changed(task: Episode, **fields) -> Episode:
    return Episode(**{**vars(task), **fields})


def test_with_everything_off_it_is_cst_exactly(lite):
    torch.manual_seed(0)
    baseline = CST(lite, size=SIZE, supervision="pixel").eval()
    ours = CORENet(lite, size=SIZE, read_out="cst", **PLAIN).eval()
    learner, core = baseline.learner, ours.core
    for part, own in (
        (learner.transformer[0], core.transformer.first[0]),
        (learner.transformer[1], core.transformer.second[0]),
        (learner.common, core.transformer.read),
        (learner.mask, core.mask),
    ):
        own.load_state_dict(part.state_dict())
    task = episode()
    task = changed(task, support_mask=task.support_mask.masked_fill(task.support_mask == 255, 0))
    with torch.no_grad():
        expected, found = baseline.predict(task), ours.predict(task)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)


def test_parts_that_start_at_zero_change_nothing_at_the_start(lite):
    torch.manual_seed(0)
    model, task = CORENet(lite, size=SIZE).eval(), episode()
    with torch.no_grad():
        before = model.predict(task).logits
        plane = model.core.transformer.plane
        model.core.transformer.plane = None
        assert torch.allclose(model.predict(task).logits, before, atol=1e-5)
        model.core.transformer.plane = plane
    assert not model.core.transformer.types.any()


def transformer(tokens=(0, 1, 2, 2, 2)) -> CorrelationGuidedTransformer:
    torch.manual_seed(0)
    return CorrelationGuidedTransformer(5, tokens, width=64).eval()


def biases(share: torch.Tensor, globals_: int) -> dict[int, torch.Tensor]:
    return {
        side: F.pad(F.adaptive_avg_pool2d(share, side).flatten(1).clamp(0.01, 1).log(), (globals_, 0))
        for side in (12, 6, 4, 3, 2)
    }


def test_the_order_of_background_cells_does_not_matter():
    model = transformer()
    torch.nn.init.normal_(model.types)
    query, support = (F.normalize(torch.randn(1, 5, 8, n), dim=2) for n in (16, 149))
    own = biases(torch.rand(1, 1, 12, 12), 5)
    turned = torch.cat([support[..., :2], support[..., [4, 2, 3]], support[..., 5:]], -1)
    with torch.no_grad():
        assert torch.allclose(model(query, support, own, (4, 4)), model(query, turned, own, (4, 4)), atol=1e-5)


def test_support_patches_may_change_places_inside_a_window_of_every_branch():
    model = transformer()
    query, support = (F.normalize(torch.randn(1, 5, 8, n), dim=2) for n in (16, 149))
    share = torch.rand(1, 1, 12, 12)
    order = torch.arange(144).view(12, 12)
    order[:3, :3] = order[:3, :3].flatten()[torch.randperm(9)].view(3, 3)
    moved = torch.cat([support[..., :5], support[..., 5:][..., order.flatten()]], -1)
    shuffled = share.flatten()[order].view(1, 1, 12, 12)
    with torch.no_grad():
        before = model(query, support, biases(share, 5), (4, 4))
        assert torch.allclose(before, model(query, moved, biases(shuffled, 5), (4, 4)), atol=1e-5)


def test_a_sure_attention_lets_everything_pass_and_a_missing_one_does_not_end_it():
    x = torch.randn(2, 32, 8, 8)
    gate = ClassFilter(32, "gate").eval()
    with torch.no_grad():
        assert torch.allclose(gate(x, torch.ones(2, 1, 8, 8)), x)
        assert gate(x, torch.zeros(2, 1, 8, 8)).std() > 0
        assert not ClassFilter(32, "hard").eval()(x, torch.zeros(2, 1, 8, 8)).any()
        assert torch.allclose(ClassFilter(32, "residual").eval()(x, torch.ones(2, 1, 8, 8)), 2 * x)


def test_in_training_some_images_are_not_filtered():
    always = ClassFilter(32, "hard", dropout=1.0).train()
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(always(x, torch.zeros(2, 1, 4, 4)), x)


def test_refinement_scales_a_constant_as_its_weights_sum_and_pamr_stops_at_a_step():
    image = torch.rand(1, 3, 40, 40)
    refined = par(image, torch.full((1, 1, 40, 40), 0.3), steps=10)
    assert torch.allclose(refined, torch.full_like(refined, 0.3 * 1.01**10), atol=1e-5)
    step = torch.zeros(1, 3, 60, 60)
    step[..., 30:] = 1
    half = step[:, :1].clone()
    assert pamr(step, half)[..., :30].max() < 1e-6
    assert par(step, half, w2=0.0)[..., :30].max() < 1e-6
    assert 0 < par(step, half)[..., :30].max() < 0.01  # its position term does not look at colours


@pytest.mark.parametrize("mask", ["empty", "full", "one pixel"])
def test_any_support_mask_gives_finite_answers_of_the_right_size(lite, mask):
    model, task = CORENet(lite, size=SIZE).eval(), episode(1)
    known = torch.zeros_like(task.support_mask)
    known[..., 5:6, 7:8] = mask == "one pixel"
    known = known.fill_(1) if mask == "full" else known
    with torch.no_grad():
        found = model.predict(changed(task, support_mask=known))
    assert found.logits.shape == (1, 2, SIZE // 4, SIZE // 4) and found.logits.isfinite().all()


def test_photos_that_are_not_square_give_maps_that_are_not(lite):
    model = CORENet(lite, size=SIZE).eval()
    with torch.no_grad():
        support = model.encode_support(torch.rand(1, 1, 3, 64, 96), None, None, ("dog",))
        images = torch.rand(1, 3, 96, 64)
        assert model(model.encode(images), support, images).logits.shape == (1, 2, 24, 16)


def test_a_class_map_of_nothing_still_leaves_a_pseudo_mask():
    images = torch.rand(2, 3, 64, 64)
    for refine in ("par", "pamr", "guided", "none"):
        masks = soft_masks(torch.zeros(2, 1, 16, 16), images, refine, 0.45)
        assert masks.shape == (2, 64, 64) and ((masks > 0.5).flatten(1).any(1)).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_tokens": False},
        {"cells": 0},
        {"cells": 2},
        {"kernels": "4x3"},
        {"fusion": "sum"},
        {"plane": False},
        {"cgm": "none"},
        {"cgm": "coarse"},
        {"filter": "hard"},
        {"filter": "residual"},
        {"egm": False},
        {"soft_mask": False},
        {"masks": "dino"},
        {"masks": "fused"},
        {"refine": "par"},
        {"confidence_weight": True, "relabel": 1},
        {"swap": False, "aux": 0.0},
    ],
    ids=str,
)
def test_every_switch_trains_and_answers_from_names_alone(lite, options):
    torch.manual_seed(0)
    model, task = CORENet(lite, size=SIZE, **options).train(), episode(1, shots=2)
    for _ in range(2 if "relabel" in options else 1):
        losses = model.loss(task)
    sum(losses.values()).backward()
    learnt = {n for n, p in model.core.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
    assert learnt == {n for n, _ in model.core.named_parameters()}
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("core."))
    with torch.no_grad():
        assert model.eval().predict(changed(task, support_mask=None, query_mask=None)).logits.isfinite().all()


@pytest.mark.parametrize("masks", ["dino", "clip", "fused"])
@pytest.mark.parametrize("cgm", ["coarse", "fine"])
def test_a_vit_with_clip_does_all_of_it(clip, masks, cgm):
    model, task = CORENet(vit(), size=SIZE, clip=clip, masks=masks, cgm=cgm).train(), episode()
    sum(model.loss(task).values()).backward()
    assert len(model.heads) == 12 * 3
    with torch.no_grad():
        found = model.eval().predict(changed(task, support_mask=None))
    assert found.extra["attention"].shape == (2, 1, 4, 4) and found.extra["pseudo_mask"].shape == (2, SIZE, SIZE)


def test_clips_residual_network_may_know_the_name():
    vision = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 16, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    small = encoders.clip.from_config({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    guide = ClipGuide(small)
    images = torch.rand(2, 3, 64, 80)
    seen = guide.see(images)
    for level in ("coarse", "fine"):
        maps = guide(seen, guide.vectors(["dog", "cat"]), images, level)
        assert maps.shape[:2] == (2, 1) and maps.min() >= 0 and maps.max() <= 1


def test_no_class_name_but_the_episodes_reaches_clip(clip, monkeypatch):
    asked, text = [], type(clip).text

    def spied(self, names, *rest):
        asked.extend(names)
        return text(self, names, *rest)

    monkeypatch.setattr(type(clip), "text", spied)
    model = CORENet(vit(), size=SIZE, clip=clip).eval()
    with torch.no_grad():
        model.predict(changed(episode(1), class_name=("zebra",)))
    assert set(asked) == {"zebra", *model.guide.prior.words}


def test_masks_never_reach_a_prediction_that_is_given_none(lite):
    model, task = CORENet(lite, size=SIZE).eval(), episode(1)
    blank = changed(task, support_mask=None, query_mask=None)
    with torch.no_grad():
        assert torch.equal(model.predict(blank).logits, model.predict(changed(task, support_mask=None)).logits)
    assert model.needs == "photos"


def test_a_class_name_is_what_is_looked_for(lite):
    model, task = CORENet(lite, size=SIZE).eval(), episode(1)
    with torch.no_grad():
        dog, cat = (model.predict(changed(task, class_name=(name,))).extra["attention"] for name in ("dog", "cat"))
    assert not torch.allclose(dog, cat)
    with pytest.raises(UsageError, match="class by name"):
        model.encode_support(task.support, None)


def test_a_batch_is_its_parts(lite):
    torch.manual_seed(0)
    model, task = CORENet(lite, size=SIZE).eval(), episode(2)
    with torch.no_grad():
        both = model.predict(task).logits
        one = Episode(task.query[1:], task.support[1:], task.class_id[1:], None, task.support_mask[1:], ("cat",))
        assert torch.allclose(model.predict(one).logits, both[1:], atol=1e-4)


def test_doubtful_images_count_less_and_a_sure_teacher_corrects():
    logits, target = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 8, 8))
    target[:, :2] = 255
    plain = weighted_cross_entropy(logits, target, torch.ones(2))
    assert torch.allclose(plain, cross_entropy(logits, target))
    only = weighted_cross_entropy(logits, target, torch.tensor([0.0, 1.0]))
    assert torch.allclose(only, cross_entropy(logits[1:], target[1:]))
    assert confidence(torch.tensor([[[0.5]], [[1.0]]])).tolist() == [0.0, 1.0]
    taught, believed = torch.tensor([[[0.95, 0.95, 0.05, 0.5]]]), torch.tensor([[[0.8, 0.1, 0.2, 0.9]]])
    assert relabelled(torch.tensor([[[0, 0, 1, 255]]]), taught, believed).tolist() == [[[1, 0, 0, 255]]]


def test_the_teacher_follows_slowly_and_waits():
    student = torch.nn.Linear(1, 1)
    teacher = Teacher(student, start=2)
    before = teacher.network.weight.clone()
    torch.nn.init.constant_(student.weight, 5.0)
    assert [teacher.follow(student) for _ in range(3)] == [False, False, True]
    assert not torch.equal(teacher.network.weight, before) and not teacher.network.weight.requires_grad


def test_the_full_design_has_the_number_of_parameters_of_its_page(clip):
    model = CORENet(encoders.load("dino-vits8", "random"), clip=clip)
    assert 1.37e6 < sum(p.numel() for p in model.core.parameters()) < 1.39e6


def test_the_segmenter_needs_photos_and_names_and_keeps_what_it_learnt(tmp_path):
    segmenter = shotseg.Segmenter("corenet", device="cpu", size=SIZE)
    segmenter.add("dog", [PHOTO, PHOTO[:, ::-1]])
    segmenter.add("cat", [PHOTO])
    result = segmenter.predict(PHOTO)
    assert result.classes == ("dog", "cat") and result.labels.shape == PHOTO.shape[:2]
    segmenter.save(tmp_path / "pets.safetensors")
    assert set(shotseg.load(tmp_path / "pets.safetensors", device="cpu").classes) == {"dog", "cat"}


def test_wrong_kernels_are_named(lite):
    with pytest.raises(UsageError, match="product is 12"):
        CORENet(lite, kernels="5x3")
    assert patches(torch.rand(1, 2, 5, 7), 12).shape == (1, 2, 144)


def test_the_name_alone_answers_where_it_has_the_whole_weight(lite):
    task = episode()
    with torch.no_grad():
        alone = CORENet(lite, size=SIZE, prior_weight=1.0, edges=False).eval().predict(task)
        joined = CORENet(lite, size=SIZE, edges=False).eval().predict(task)
    said = F.interpolate(alone.extra["pseudo_mask"][:, None], alone.logits.shape[-2:], mode="bilinear")[:, 0]
    assert torch.allclose(alone.probability, said.clamp(0.02, 0.98), atol=1e-5)
    assert torch.equal(joined.extra["pseudo_mask"], alone.extra["pseudo_mask"])
    assert not torch.allclose(joined.probability, alone.probability, atol=1e-3)


def test_a_network_that_is_sure_of_too_little_is_moved_towards_the_names_mask(lite):
    photo, prior = torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, 32, 32)
    prior[:, :, :16] = 1
    odds = torch.where(prior > 0, -1.0, -5.0)  # it tells the sides apart, and calls neither the object
    logits = torch.stack([-odds / 2, odds / 2], 1)
    model = CORENet(lite, size=SIZE, prior_weight=0.0, edges=False, recentre=1.0)
    assert torch.equal(model.with_name(logits, prior, photo).argmax(1)[0], prior[0, ::4, ::4].long())
    model.recentre = 0.5
    half = model.with_name(logits, prior, photo)[0]
    assert torch.allclose((half[1] - half[0])[:, 0], torch.tensor(0.5))  # -1 less half of (-1 - 5) / 2


def test_training_sees_neither_edges_nor_the_names_mask_of_the_query(lite):
    losses = []
    for options in ({}, {"edges": False, "prior_weight": 0.0, "recentre": 0.0}):
        torch.manual_seed(0)
        losses.append(CORENet(lite, size=SIZE, **options).train().loss(episode())["main"])
    assert losses[0].isfinite() and losses[0] == losses[1]
