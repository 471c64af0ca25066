"""What CST does beyond its golden values: any encoder, three kinds of supervision, several ways, bounded memory."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shotseg import encoders, models
from shotseg.data.samples import Episode, Prediction
from shotseg.errors import InputError, UsageError
from shotseg.models.blocks import correlation_tokens
from shotseg.models.blocks.correlation_tokens import Correlation, Heads
from shotseg.models.blocks.correlation_transformer import Block, attend
from shotseg.models.cst import CST, decide
from shotseg.reference import cst as reference

SIZE = 64


@pytest.fixture(scope="module")
def lite():
    return encoders.load("efficientnet-lite0", "random")


@functools.cache
def vit(name: str = "timm:vit_tiny_patch16_224"):
    return encoders.load(name, "random")


def episode(batch: int = 2, shots: int = 1, size: int = SIZE) -> Episode:
    masks = torch.zeros(batch, 1 + shots, size, size, dtype=torch.long)
    masks[:, :, 16:40, 8:50] = 1
    images = torch.rand(batch, 1 + shots, 3, size, size)
    ids = torch.arange(batch)
    return Episode(images[:, 0], images[:, 1:], ids, masks[:, 0], masks[:, 1:], ("dog", "cat")[:batch])


def test_a_cnn_has_a_head_for_every_64_channels_and_one_for_the_rest():
    heads = Heads([16, 112, 320])
    assert len(heads) == 1 + 2 + 5
    sizes = [int((row < 448).sum()) for row in heads.index]
    assert sizes == [16, 64, 64, 48, 64, 64, 64, 64]  # head by head, then layer by layer
    assert torch.allclose(heads(torch.randn(2, 448, 9)).norm(dim=2), torch.ones(2, 8, 9), atol=1e-5)


def test_a_strip_of_query_positions_at_a_time_gives_the_same_values_and_gradients():
    torch.manual_seed(0)
    blocks = [Block(6, 32, 2, globals_=2), Block(6, 32, 4, globals_=2)]
    tokens = [F.normalize(torch.randn(2, 6, 8, n), dim=2).requires_grad_() for n in (15, 18)]
    bias = torch.zeros(2, 18)

    def run(memory: int):
        found = attend(blocks, Correlation(*tokens), [bias, bias], memory)
        values = [block.finish(own) for block, own in zip(blocks, found)]
        sum(value.square().mean() for value in values).backward()
        gradients = [t.grad.clone() for t in (*tokens, *blocks[0].parameters())]
        for t in (*tokens, *(p for block in blocks for p in block.parameters())):
            t.grad = None
        return values + gradients

    for whole, strips in zip(run(1 << 30), run(1)):
        assert torch.allclose(whole, strips, atol=1e-5)


def test_correlation_tokens_never_take_more_than_their_budget(monkeypatch):
    taken, rows = [], Correlation.rows

    def spied(self, start, stop):
        found = rows(self, start, stop)
        taken.append(found.numel() * found.element_size())
        return found

    monkeypatch.setattr(correlation_tokens.Correlation, "rows", spied)
    block, budget = Block(72, 8, 4, heads=2), 300 * 2**20
    whole = 4 * 72 * 2500 * 145 * 4
    correlation = Correlation(torch.zeros(4, 72, 1, 2500), torch.zeros(4, 72, 1, 145))
    with torch.no_grad():
        attend([block], correlation, [None], memory=1 << 25)
    assert sum(taken) == whole > budget
    assert max(taken) <= 1 << 25


@pytest.mark.parametrize("supervision", ["image", "pseudo", "pixel"])
@pytest.mark.parametrize("name", ["lite", "vit"])
def test_every_supervision_trains_every_part_that_answers(lite, name, supervision):
    model = CST(lite if name == "lite" else vit(), size=SIZE, supervision=supervision).train()
    losses = model.loss(episode())
    sum(losses.values()).backward()
    still = {n.split(".")[0] for n, p in model.learner.named_parameters() if p.grad is None}
    assert still == ({"mask"} if supervision == "image" else set())
    assert set(losses) == ({"presence"} if supervision == "image" else {"presence", "mask"})
    assert all(p.grad is None for p in model.encoder.parameters())


def test_a_vit_makes_its_own_masks_whatever_is_given():
    model, task = CST(vit(), size=SIZE).eval(), episode()
    other = Episode(**{**vars(task), "support_mask": 1 - task.support_mask, "query_mask": task.query_mask.roll(5, 2)})
    with torch.no_grad():
        assert torch.equal(model.predict(task).logits, model.predict(other).logits)
        assert torch.equal(model.loss(task)["mask"], model.loss(other)["mask"])


def test_without_the_class_the_target_of_a_vit_is_background():
    model, task = CST(vit(), size=SIZE).eval(), episode()
    features = model.encode(task.query)
    absent = model.query_mask(features, features, torch.tensor([True, False]), task)
    assert absent[0].any() and not absent[1].any()


def test_shots_are_averaged_as_probabilities_and_a_batch_is_its_parts(lite):
    model, task = CST(lite, size=SIZE, supervision="pixel").eval(), episode(shots=2)
    with torch.no_grad():
        both = model.predict(task)
        shots = [
            {"support": task.support[:, k : k + 1], "support_mask": task.support_mask[:, k : k + 1]} for k in range(2)
        ]
        each = [model.predict(Episode(**{**vars(task), **shot})) for shot in shots]
        one = model.predict(Episode(task.query[1:], task.support[1:], task.class_id[1:], None, task.support_mask[1:]))
    mean = torch.stack([p.logits.softmax(1) for p in each]).mean(0)
    assert torch.allclose(both.logits.softmax(1), mean, atol=1e-5)
    assert torch.allclose(one.logits, both.logits[1:], atol=1e-4)


def test_several_ways_may_find_no_class_at_all():
    def answer(present: float, inside: float) -> Prediction:
        logits = torch.zeros(1, 2, 4, 4)
        logits[:, 1, :2] = inside
        logits[:, 1, 2:] = -5
        return Prediction(logits, {"presence": torch.tensor([[0.0, present]])})

    present, labels = decide([answer(-1, -1), answer(-2, -3)], (4, 4))
    assert not present.any() and not labels.any()
    present, labels = decide([answer(1, 1), answer(2, 3)], (4, 4))
    assert present.all() and (labels[0, 0] == 2).all() and (labels[0, 3] == 0).all()


def test_the_learner_has_the_published_number_of_parameters(lite):
    own = CST(encoders.load("dino-vits8", "random"))
    assert sum(p.numel() for p in own.learner.parameters()) == 366_004


def test_a_published_checkpoint_loads_and_a_wrong_one_is_named(lite, tmp_path):
    model, other = (CST(vit(), size=SIZE) for _ in range(2))
    state = {f"learner.{t}": model.learner.state_dict()[o] for o, t in reference.published_names(model).items()}
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    reference.load(other, tmp_path / "best.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.learner.parameters(), other.learner.parameters()))
    with pytest.raises(InputError, match=r"linear\.0\.bias"):
        reference.load(other, {n: t for n, t in state.items() if n != "learner.linear.0.bias"})
    with pytest.raises(InputError, match="of another shape"):
        reference.load(CST(lite, size=SIZE), state)


def test_wrong_choices_are_one_clear_error(lite):
    with pytest.raises(UsageError, match="kernels"):
        CST(lite, kernels=(4, 4))
    with pytest.raises(UsageError, match="one for each"):
        CST(lite, size=SIZE, supervision="pixel").encode_support(torch.rand(1, 1, 3, SIZE, SIZE), None)


def test_it_is_a_method_like_any_other(lite):
    assert isinstance(models.load("cst", lite), CST)
    assert np.isclose(models.load("cst", lite).size, 384)
