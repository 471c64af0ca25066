"""Several classes at once, some of them absent: who is there, and whose is a pixel."""

import functools
from types import SimpleNamespace

import pytest
import torch

import golden
from shotseg import encoders, models
from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Features
from shotseg.models import nearest, presence
from shotseg.models.few_shot_model import FewShot
from shotseg.models.ridge import ridge
from shotseg.priors.guided_filter import guided_filter

COLOURS = {"red": (0.8, 0.1, 0.1), "blue": (0.1, 0.2, 0.8), "white": (0.9, 0.9, 0.9)}


@functools.cache
def matching():
    return models.load("matching", encoders.load("efficientnet-lite0"), size=128).eval()


def picture(name, seed, box=(30, 100, 40, 110)):
    """A square of a colour on grass: (1, 3, 128, 128), and its mask (1, 128, 128)."""
    stream = torch.Generator().manual_seed(seed)
    image = torch.tensor([0.25, 0.55, 0.25])[:, None, None] + 0.1 * torch.rand(3, 128, 128, generator=stream)
    mask = torch.zeros(1, 128, 128, dtype=torch.long)
    top, bottom, left, right = box
    mask[:, top:bottom, left:right] = 1
    coloured = torch.tensor(COLOURS[name])[:, None, None] + 0.05 * torch.rand(3, 128, 128, generator=stream)
    return torch.where(mask == 1, coloured, image)[None], mask


@torch.no_grad()
def shot(name, seed=0, model=None):
    model, (image, mask) = model or matching(), picture(name, seed)
    return presence.encode_shot(model, image, mask, model.encode(image), (name,))


@torch.no_grad()
def decide(supports, image, threshold=0.5, model=None, told=None):
    model = model or matching()
    return presence.decide(model, model.encode(image), supports, image, told, threshold)


def test_of_several_classes_the_one_in_the_photo_is_the_likeliest():
    supports = [shot(name, seed) for seed, name in enumerate(COLOURS)]
    for i, name in enumerate(COLOURS):
        found = decide(supports, picture(name, 20 + i, box=(20, 80, 50, 120))[0])
        assert int(found.present.argmax()) == i
        labels = found.scores.argmax(0)
        assert (labels == i + 1).sum() > 0.9 * (labels > 0).sum() > 0


def test_presence_is_the_same_at_every_threshold_and_a_class_below_it_has_no_pixel():
    supports, image = [shot("red"), shot("blue")], picture("red", 7)[0]
    free, strict, known = (decide(supports, image, threshold) for threshold in (0.0, 0.999999, None))
    assert torch.equal(free.present, strict.present) and torch.equal(free.present, known.present)
    assert (strict.scores[1:] < 0).all() and (strict.scores[0] == 0).all()


def test_presence_that_nobody_asks_for_is_not_judged(monkeypatch):
    supports, image, model = [shot("red"), shot("blue")], picture("red", 7)[0], matching()
    known = decide(supports, image, None)
    monkeypatch.setattr(presence, "_Judge", None)
    with torch.no_grad():
        found = presence.decide(model, model.encode(image), supports, image, threshold=None, judged=False)
    assert found.present.tolist() == [1, 1] and torch.equal(found.scores, known.scores)


def test_a_class_is_asked_again_only_when_its_support_or_what_it_is_told_changes(monkeypatch):
    red, blue, image = shot("red"), shot("blue"), picture("red", 7)[0]
    asked, evidence_of = [], presence.evidence_of
    monkeypatch.setattr(presence, "evidence_of", lambda *args: asked.append(len(args[2])) or evidence_of(*args))
    answers, model = {}, matching()
    query = model.encode(image)

    def again(supports, told=None):
        asked.clear()
        with torch.no_grad():
            found = presence.decide(model, query, supports, image, told, answers=answers)
            new = presence.decide(model, query, supports, image, told)
        golden.assert_close("scores", found.scores, new.scores, atol=1e-3)
        golden.assert_close("presence", found.present, new.present, atol=1e-4)
        return list(asked)

    assert again([red, blue]) == [2, 2]
    assert again([blue, red]) == [2]  # in another order: only the one that knows nothing asks
    assert again([red, shot("blue", 5)]) == [1, 2]
    assert again([red, blue], [{}, {"class_name": ["navy"]}]) == [1, 2]


def test_answers_of_classes_that_are_gone_are_let_go():
    model, image, answers = matching(), picture("red", 7)[0], {}
    red, blue = shot("red"), shot("blue")
    with torch.no_grad():
        presence.decide(model, model.encode(image), [red, blue], image, answers=answers)
        both = presence.bytes_of(answers)
        presence.decide(model, model.encode(image), [red], image, answers=answers)
    assert list(answers) == [red.marks[0]] and 0 < presence.bytes_of(answers) < both


@torch.no_grad()
def test_a_further_shot_is_compared_alone_and_says_what_all_shots_say(monkeypatch):
    model, image = matching(), picture("red", 7, box=(10, 60, 60, 110))[0]
    query, answers, shots, compared = model.encode(image), {}, [shot("red", seed) for seed in range(4)], []
    highest = nearest.highest
    monkeypatch.setattr(nearest, "highest", lambda x, count: compared.append(x.shape[-1]) or highest(x, count))
    for count in (1, 3, 4):
        merged = model.merge(shots[:count])
        compared.clear()
        found = presence.decide(model, query, [merged], image, answers=answers)
        mine = max(compared)
        compared.clear()
        new = presence.decide(model, query, [merged], image)
        golden.assert_close("scores", found.scores, new.scores, atol=1e-4)
        assert (mine < max(compared)) == (count > 1)
    kept = presence.bytes_of(answers)
    tokens = query.maps[1].shape[-2:].numel() + query.maps[2].shape[-2:].numel()
    assert kept == 4 * (2 * nearest.BEST * tokens + query.maps[1].shape[-2:].numel())
    assert kept == sum(x.untyped_storage().nbytes() for x in tensors_of(answers))  # and no view keeps more


def tensors_of(answers):
    for answer in answers.values():
        yield answer.evidence
        yield from (x for known in answer.left.values() for x in known.best)


@torch.no_grad()
def test_a_shot_that_changes_what_is_pure_enough_is_no_addition():
    model, image = matching(), picture("red", 7)[0]
    image_of, mask = picture("red", 3)
    faint = torch.zeros_like(mask)
    faint[:, 60:62, 60:62] = 1  # an object of less than half a token
    small = presence.encode_shot(model, image_of, faint, model.encode(image_of), ("red",))
    query, answers = model.encode(image), {}
    for shots in ([small], [small, shot("red")], [small, shot("red"), shot("red", 2)]):
        merged = model.merge(shots)
        found = presence.decide(model, query, [merged], image, answers=answers)
        golden.assert_close("scores", found.scores, presence.decide(model, query, [merged], image).scores, atol=1e-4)


@torch.no_grad()
def test_a_class_of_several_shots_from_a_file_takes_one_more():
    model, image, answers = matching(), picture("red", 7)[0], {}
    stored, query = Support(model.merge([shot("red"), shot("red", 1)]).tensors), model.encode(image)
    for shots in ([stored], [stored, shot("red", 2)]):
        merged = model.merge(shots)
        found = presence.decide(model, query, [merged], image, answers=answers)
        golden.assert_close("scores", found.scores, presence.decide(model, query, [merged], image).scores, atol=1e-4)
    assert answers[stored.marks[0]].left["all"].shots == 3


def test_classes_known_to_be_there_have_the_evidence_of_the_model_itself():
    model, supports, image = matching(), [shot("red"), shot("blue")], picture("red", 7)[0]
    found = decide(supports, image, threshold=None)
    for support, mine in zip(supports, found.scores[1:]):
        with torch.no_grad():
            logits = model(model.encode(image), support, image).logits[0]
        golden.assert_close("evidence", mine, logits[1] - logits[0], atol=1e-3)


def test_one_class_alone_is_missed_in_a_photo_of_something_else():
    alone = [shot("red")]
    there, elsewhere = (decide(alone, picture(name, 31)[0]).present for name in ("red", "white"))
    assert there > elsewhere


def test_of_many_classes_only_the_likeliest_are_drawn_and_the_others_come_after_them(monkeypatch):
    monkeypatch.setattr(presence, "CANDIDATES", 1)
    supports = [shot(name, seed) for seed, name in enumerate(COLOURS)]
    found = decide(supports, picture("blue", 9)[0], threshold=0.0)
    assert (found.scores[1:].amax((1, 2)) > 0).sum() <= 1
    assert found.present.argmax() == list(COLOURS).index("blue")


def test_shots_added_to_a_class_are_described_together():
    model = matching()
    both = model.merge([shot("red", 1), shot("red", 2)])
    assert both["region_levels"].shape[1] == both["photo_levels"].shape[1] == 2
    assert decide([both], picture("red", 3)[0]).present.shape == (1,)


class Fake(FewShot):
    """A model that has evidence everywhere, and says itself who is there."""

    def __init__(self, said):
        super().__init__()
        self.encoder, self.said = SimpleNamespace(name="none"), said

    def encode(self, images):
        return Features((images,) * 3, (1, 1, 1))

    def forward(self, query, support, images, class_name=None):
        logits = torch.tensor([-1.0, 1.0])[None, :, None, None].expand(1, 2, 4, 4)
        extra = {} if self.said is None else {"presence": torch.tensor([[0.0, self.said[class_name[0]]]])}
        return Prediction(logits, extra)


def test_a_model_with_a_presence_head_is_believed():
    fake, told = Fake({"cat": 3.0, "dog": -3.0}), [{"class_name": ["cat"]}, {"class_name": ["dog"]}]
    found = decide([Support({"x": torch.zeros(1, 1)})] * 2, torch.zeros(1, 3, 8, 8), model=fake, told=told)
    golden.assert_close("present", found.present, torch.sigmoid(torch.tensor([3.0, -3.0])), atol=1e-6)
    assert (found.scores[1] > 0).all() and (found.scores[2] < 0).all()


def test_without_examples_the_surest_pixel_is_the_presence():
    found = decide([Support({"x": torch.zeros(1, 1)})], torch.zeros(1, 3, 8, 8), model=Fake(None))
    golden.assert_close("present", found.present, torch.sigmoid(torch.tensor([2.0])), atol=1e-6)


@pytest.mark.parametrize("tokens", [20, 41])
def test_the_ridge_is_the_same_solved_over_tokens_or_over_channels(tokens):
    x = torch.randn(2, tokens, 40, dtype=torch.float64)
    fg, bg = torch.rand(2, 2, tokens, dtype=torch.float64)
    fg[:, 0] = bg[:, 0] = 0  # padding
    found = ridge(x, fg, bg, strength=0.5)
    for row in range(2):
        f, b = fg[row] / fg[row].sum(), bg[row] / bg[row].sum()
        mass, centre = (f + b) / 2, ((f + b) / 2) @ x[row]
        z = x[row] - centre
        covariance = z.T @ torch.diag(mass) @ z
        scale = 0.5 * covariance.diagonal().mean()
        weight = torch.linalg.solve(covariance + scale * torch.eye(40, dtype=torch.float64), z.T @ ((f - b) / 2))
        golden.assert_close("weights", found[row, :-1], weight, atol=1e-9)
        golden.assert_close("constant", found[row, -1], -(weight @ centre), atol=1e-9)


def test_the_fast_guided_filter_is_close_to_the_exact_one():
    image, mask = picture("red", 3)
    exact, fast = (guided_filter(mask[:, None].float(), image, step=step) for step in (1, 2))
    assert (exact - fast).abs().mean() < 0.02
