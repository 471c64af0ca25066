"""PFENet, BAM, HDMNet and PI-CLIP on an ordinary encoder: any size, any number of shots, one switch at a time."""

import functools

import pytest
import torch

import golden
import tiny_clip
from shotseg import encoders
from shotseg.data.samples import Episode, Support
from shotseg.errors import UsageError
from shotseg.models.bam import BAM
from shotseg.models.base_learner import BaseLearner, base_labels, convolved_larger
from shotseg.models.blocks.ensemble import Ensemble
from shotseg.models.blocks.prior_guided import cross_entropy, resize
from shotseg.models.hdmnet import HDMNet, distillation
from shotseg.models.pfenet import PFENet
from shotseg.models.pi_clip import PICLIP
from shotseg.models.pi_clip_priors import ClipPriorsOnly, ClipZeroShot
from training_miniature import TINY

BASE = {"base_classes": (3, 7, 9)}
MAKE = {
    "pfenet": lambda encoder, **o: PFENet(encoder, width=16, **o),
    "bam": lambda encoder, **o: BAM(encoder, width=16, **BASE, **o),
    "bam without a base learner": lambda encoder, **o: BAM(encoder, width=16, **o),
    "hdmnet": lambda encoder, **o: HDMNet(encoder, width=16, tokens=16, **BASE, **o),
    "pi-clip hdmnet": lambda encoder, **o: PICLIP(encoder, clip=clip(), width=16, tokens=16, **BASE, **o),
    "pi-clip bam": lambda encoder, **o: PICLIP(encoder, clip=clip(), host="bam", width=16, **BASE, **o),
    "pi-clip pfenet": lambda encoder, **o: PICLIP(encoder, clip=clip(), host="pfenet", width=16, **o),
}
every_model = pytest.mark.parametrize("name", MAKE)


@functools.cache
def clip():
    return tiny_clip.pi_clip()


@functools.cache
def encoder(name=TINY):
    return encoders.load(name, weights="random")


def task(batch=2, shots=2, height=64, width=80) -> Episode:
    masks = torch.zeros(batch, shots + 1, height, width, dtype=torch.long)
    masks[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    masks[..., :4] = 255
    images = torch.rand(batch, shots + 1, 3, height, width)
    names = ("dog", "cat")[:batch]
    ids = torch.tensor([3, 8])[:batch]
    return Episode(images[:, 0], images[:, 1:], ids, masks[:, 0], masks[:, 1:], names)


def answer(model, episode: Episode) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().predict(episode).logits


@every_model
@pytest.mark.parametrize("shape", [(64, 80), (33, 47)])
def test_any_size_gives_logits_of_that_size(name, shape):
    model = MAKE[name](encoder())
    logits = answer(model, task(1, 1, *shape))
    assert logits.shape == (1, 2, *shape)
    assert logits.isfinite().all()


@every_model
def test_a_batch_is_its_episodes_one_by_one(name):
    model, both = MAKE[name](encoder()), task()
    logits = answer(model, both)
    for i in range(2):
        at = slice(i, i + 1)
        one = Episode(
            both.query[at], both.support[at], both.class_id[at], None, both.support_mask[at], both.class_name[at]
        )
        golden.assert_close(f"episode {i}", answer(model, one), logits[at], atol=1e-4)


@every_model
def test_shots_encoded_one_by_one_and_joined_are_the_shots_together(name):
    model, episode = MAKE[name](encoder()).eval(), task(1, 3)
    with torch.no_grad():
        query = model.encode(episode.query)
        together = model.encode_support(episode.support, episode.support_mask, class_names=("dog",))
        parts = [
            model.encode_support(
                episode.support[:, k : k + 1], episode.support_mask[:, k : k + 1], class_names=("dog",)
            )
            for k in range(3)
        ]
        joined = model(query, Support.join(parts), episode.query)
        golden.assert_close("joined", joined.logits, model(query, together, episode.query).logits, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MAKE if not name.startswith("pi-clip")])  # CLIP's prior counts shots
def test_the_same_shot_five_times_says_what_it_says_once(name):
    torch.manual_seed(0)
    model, once = MAKE[name](encoder()), task(1, 1)
    support, masks = once.support.repeat(1, 5, 1, 1, 1), once.support_mask.repeat(1, 5, 1, 1)
    five = Episode(once.query, support, once.class_id, None, masks, once.class_name)
    golden.assert_close("logits", answer(model, five), answer(model, once), atol=1e-4)


@every_model
def test_training_reaches_every_head_parameter_and_no_frozen_one(name):
    model, episode = (
        MAKE[name](encoder(), shots=2) if name not in ("pfenet", "pi-clip pfenet") else MAKE[name](encoder()),
        task(),
    )
    model.train()
    sum(model.loss(episode).values()).backward()
    for key, parameter in model.named_parameters():
        frozen = any(part in ("encoder", "clip", "base") for part in key.split("."))
        unused = name == "bam without a base learner" and "merge" in key and "ensemble" in key
        assert parameter.requires_grad != frozen, key
        assert unused or frozen == (parameter.grad is None), key


@every_model
def test_kept_features_give_the_same_losses(name):
    model, episode = MAKE[name](encoder()).eval(), task()
    with torch.no_grad():
        query = model.encode(episode.query)
        masked = getattr(model, "encode_masked", None)
        support = (
            masked(episode.support, episode.support_mask) if masked else model.encode(episode.support.flatten(0, 1))
        )
        kept, fresh = model.loss(episode, query, support), model.loss(episode)
    assert kept.keys() == fresh.keys()
    for term in fresh:
        golden.assert_close(term, kept[term], fresh[term], atol=1e-5)


@pytest.mark.parametrize("kind", ["efficientnet-lite0", "vgg16-bn", "timm:test_resnet"])
def test_other_encoders_carry_the_hosts(kind):
    for name in ("pfenet", "bam", "hdmnet"):
        assert answer(MAKE[name](encoder(kind)), task(1, 1, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("name", ["pfenet", "bam", "hdmnet"])
def test_an_object_of_one_pixel_is_not_lost(name):
    episode = task(1, 1)
    dot = torch.zeros_like(episode.support_mask)
    dot[..., 21, 43] = 1
    for keep in (True, False):
        model = MAKE[name](encoder(), keep_small=keep).eval()
        with torch.no_grad():
            support = model.encode_support(episode.support, dot)
        assert (support["prototype"].abs().sum() > 0) == keep


def test_restoring_the_order_of_the_votes_follows_the_shots():
    clean, released = Ensemble((), 3), Ensemble((), 3, restore_order=False)
    released.load_state_dict(clean.state_dict())
    distances = torch.tensor([[0.3, 0.1, 0.2]])
    swapped = distances[:, [2, 0, 1]]
    golden.assert_close("clean", clean.weights(swapped), clean.weights(distances)[:, [2, 0, 1]])
    golden.assert_close("released", released.weights(swapped), released.weights(distances))
    golden.assert_close("other K", clean.weights(torch.rand(1, 2)), torch.full((1, 2), 0.5))


def test_the_own_class_of_an_episode_leaves_the_base_map_only_in_training():
    ensemble = Ensemble((3, 7))
    logits = torch.zeros(1, 3, 2, 2)
    for training, own, expected in ((True, 3, 1 / 3), (True, 5, 2 / 3), (False, 3, 2 / 3)):
        ensemble.train(training)
        _, known = ensemble(torch.zeros(1, 2, 2, 2), logits, torch.zeros(1, 1), torch.tensor([own]))
        golden.assert_close("base map", known, torch.full((1, 1, 2, 2), expected))


def test_distillation_without_foreground_costs_nothing_at_the_coarsest_level():
    flat = [torch.zeros(1, s, s) for s in (2, 4, 8)]
    assert distillation(flat, torch.zeros(1, 16, 16, dtype=torch.long)) == 0
    target = torch.ones(1, 16, 16, dtype=torch.long)
    golden.assert_close(
        "both targets agree on a full mask", distillation(flat, target), distillation(flat, target, "filled")
    )


def test_a_target_of_ignored_pixels_costs_nothing():
    assert cross_entropy(torch.randn(1, 2, 4, 4), torch.full((1, 8, 8), 255)) == 0


def test_the_base_learner_trains_its_head_and_its_encoder_only_if_asked():
    own = encoders.load("efficientnet-lite0", weights="random")
    labels = base_labels(torch.tensor([[[0, 3, 9, 5, 255]]]), (9, 3))
    assert labels.tolist() == [[[0, 1, 2, 0, 255]]]
    for train_encoder in (False, True):
        learner = BaseLearner(own, 2, train_encoder=train_encoder).train()
        learner.loss(torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))["main"].backward()
        assert learner.head.classify[2].weight.grad is not None
        assert (own.net.conv_stem.weight.grad is not None) == train_encoder
        assert not own.training


@pytest.mark.parametrize("size", [(60, 60), (7, 5), (3, 2), (6, 6), (1, 1)])
def test_averages_that_are_convolved_before_they_are_enlarged_are_those_after(size):
    for bins in (1, 2, 3, 6):
        x, weight = torch.randn(2, 4, bins, bins), torch.randn(5, 4, 3, 3)
        after = torch.nn.functional.conv2d(resize(x, size), weight, padding=1)
        golden.assert_close("convolved", convolved_larger(x, weight, size), after, atol=1e-4)


def test_the_words_of_known_classes_compete_and_the_truth_is_not_read_unasked():
    episode = task(1, 1)
    maps = []
    for options in ({}, {"text_context": "known", "known": ("cat", "bird")}):
        model = ClipPriorsOnly(clip(), maps=("text",), **options)
        with torch.no_grad():
            support = model.encode_support(episode.support, episode.support_mask, class_names=("dog",))
            maps.append(model(model.encode(episode.query), support, episode.query).extra["prior"])
    assert not torch.equal(*maps)
    model = PICLIP(encoder(), clip=clip(), text_context="oracle", width=16, tokens=16)
    with pytest.raises(UsageError, match="present"):
        model.predict(episode)
    assert model.predict(episode, present=[["dog", "cat"]]).logits.isfinite().all()


def test_the_batched_text_prior_is_the_library_function_on_each_photo():
    episode = task(2, 1)
    model = ClipZeroShot(clip())
    support = model.encode_support(None, None, class_names=episode.class_name)
    ours = model(model.encode(episode.query), support, episode.query).extra["prior"]
    theirs = model.priors.text_prior(clip(), episode.query, episode.class_name)
    golden.assert_close("VTP", ours, theirs, atol=1e-4)


def test_the_priors_alone_segment_without_training():
    episode = task(1, 2)
    for model in (
        ClipPriorsOnly(clip()),
        ClipPriorsOnly(clip(), maps=("visual",), refine_vvp=True),
        ClipZeroShot(clip()),
    ):
        with torch.no_grad():
            support = model.encode_support(episode.support, episode.support_mask, class_names=("dog",))
            out = model(model.encode(episode.query), support, episode.query)
        assert out.logits.shape[:2] == (1, 2)
        assert 0 <= out.extra["prior"].min() <= out.extra["prior"].max() <= 1
    with pytest.raises(UsageError, match="CLIP"):
        ClipPriorsOnly(encoder())


def test_the_released_layout_refuses_another_number_of_shots():
    model = PICLIP(encoder(), clip=clip(), layout="released", width=16, tokens=16)
    with pytest.raises(UsageError, match="compact"):
        model.predict(task(1, 2))
