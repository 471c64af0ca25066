"""CST's episodes of several classes asked for at once, and a model's own word on whether a class is there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import shotseg.cli as cli
from shotseg.data.folder import FolderDataset
from shotseg.data.images import write_png
from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.evaluation import n_way, results
from shotseg.evaluation.episode_loop import count_episodes
from shotseg.evaluation.episode_rules import draw_episodes
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import preset
from shotseg.models.few_shot_model import FewShot

COLOURS = {"green": 1, "blue": 2, "red": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("colours")
    for name, channel in COLOURS.items():
        for i in range(4):
            image, mask = np.full((32, 32, 3), 10 + i, np.uint8), np.zeros((32, 32), np.uint8)
            image[4:20, 6:24, channel], mask[4:20, 6:24] = 250, 255
            write_png(root / "images" / name / f"{i}.png", image)
            write_png(root / "masks" / name / f"{i}.png", mask)
    return root


class ByColour(FewShot):
    """Finds the channel that is bright inside the support's mask; says that a class is there where it finds it."""

    geometry, size, encoder = "squash", 32, SimpleNamespace(patch=1)

    def encode(self, images):
        return Features((images, images), (1, 1))

    def encode_support(self, images, masks, features=None, class_names=()):
        inside = (masks == 1)[:, :, None]
        return Support({"colour": (images * inside).flatten(3).sum(3)})

    def __call__(self, query, support, images):
        found = query.maps[0][:, support["colour"].mean(1).argmax(1)[0]] - 0.5
        present = found.flatten(1).amax(1)
        return Prediction(20 * torch.stack([-found, found], 1), {"presence": 20 * torch.stack([-present, present], 1)})


def evaluator(photos, **protocol) -> Evaluator:
    dataset = FolderDataset(photos)
    pool = Pool(dataset, dataset.classes, 1)
    chosen = preset(protocol.pop("name", "cst")).override(size=32, **protocol)
    return Evaluator(ByColour(), dataset, pool, chosen)


def test_half_of_the_queries_show_the_class_asked_for_and_no_class_comes_twice(photos):
    pool = evaluator(photos).pool
    drawn = n_way.draw(pool, 2, shots=1, episodes=300)
    first = [e.classes[0] == pool.items[e.query].class_id for e in drawn]
    assert 0.4 < np.mean(first) < 0.6
    assert all(len(set(e.classes)) == 2 for e in drawn)
    assert any(pool.items[e.query].class_id not in e.classes for e in drawn)
    assert all(pool.items[s].class_id == c for e in drawn for c, own in zip(e.classes, e.supports) for s in own)
    assert drawn[:5] == n_way.draw(pool, 2, shots=1, episodes=5)
    with pytest.raises(UsageError, match="4 ways of 3"):
        n_way.draw(pool, 4)


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_a_perfect_model_scores_100_with_any_number_of_ways(photos, ways):
    own = evaluator(photos)
    scores = n_way.evaluate(own, n_way.draw(own.pool, ways, episodes=12))
    assert scores == {"miou": 100.0, "exact_ratio": 100.0}


def test_several_classes_are_scored_by_the_rules_of_one():
    for name, value in n_way.FIXED.items():
        assert value == getattr(preset("cst"), name), name
    assert n_way.FIXED == {"rule": "cst", "score_at": "original", "align_corners": True} | {
        "ignore_band": "background",
        "fusion": "mean",
        "absent": "zero",
    }


def test_the_band_of_255_is_background_for_several_classes_too(photos):
    own, whole = evaluator(photos), Evaluator.label
    (episode,) = n_way.draw(own.pool, 3, episodes=1)
    inside = whole(own, episode.query, own.pool.items[episode.query].class_id) == 1

    def banded(i, class_id):
        label = whole(own, i, class_id).copy()
        label[10:20][inside[10:20]] = 255  # ten of the sixteen rows of the object
        return label

    own.label = banded
    found = n_way.evaluate(own, [episode])["miou"]
    assert found == pytest.approx(
        100 * 6 / 16 / 3
    )  # the model finds all sixteen; two classes never occur, and count as zero


@pytest.mark.parametrize("sure, found", [(0.9, True), (0.6, False)])
def test_the_probabilities_of_the_shots_are_averaged_each_shot_asked_alone(photos, monkeypatch, sure, found):
    """One shot sees the object with a probability ``sure``, the other with 0.2."""
    own, asked = evaluator(photos), iter([sure, 0.2])

    def answer(self, query, support, images):
        assert support["colour"].shape[1] == 1
        p = torch.tensor(next(asked))
        shown = torch.full((1, 32, 32), float(p.logit()))
        return Prediction(torch.stack([0 * shown, shown], 1), {"presence": torch.stack([0 * p, p.logit()])[None]})

    monkeypatch.setattr(ByColour, "__call__", answer)
    episode = next(
        e for e in n_way.draw(own.pool, 1, shots=2, episodes=9) if own.pool.items[e.query].class_id in e.classes
    )
    scores = n_way.evaluate(own, [episode])
    assert (scores["miou"] > 0, scores["exact_ratio"] == 100) == (found, found)


def test_the_exact_ratio_takes_the_models_word(photos):
    own = evaluator(photos, episodes=12)
    own._model.__class__ = type("Denies", (ByColour,), {"__call__": denies})
    episodes = draw_episodes(own.protocol, own.pool, 1, 0)
    content = results.result({}, own.protocol, own.pool, {0: episodes}, count_episodes(own, episodes))
    absent = np.mean([own.pool.items[e.query].class_id != e.class_id for e in episodes])
    assert content["exact_ratio"] == pytest.approx(100 * absent)


def denies(self, query, support, images):
    found = ByColour.__call__(self, query, support, images)
    return Prediction(found.logits, {"presence": torch.tensor([[1.0, -1.0]])})


@pytest.mark.parametrize("geometry", ["fit", "squash", "pad"])
def test_a_perfect_model_loses_nothing_by_the_shape_of_a_photo(tmp_path, geometry):
    for name, channel in COLOURS.items():
        for i in range(4):
            image, mask = np.full((32, 64, 3), 10 + i, np.uint8), np.zeros((32, 64), np.uint8)
            image[4:28, 6:40, channel], mask[4:28, 6:40] = 250, 255
            write_png(tmp_path / "images" / name / f"{i}.png", image)
            write_png(tmp_path / "masks" / name / f"{i}.png", mask)
    own = evaluator(tmp_path, geometry=geometry)
    assert n_way.evaluate(own, n_way.draw(own.pool, 2, episodes=12))["miou"] > 85


def test_several_ways_tell_a_model_what_it_asks(photos, monkeypatch):
    heard, own = [], evaluator(photos)
    answer = ByColour.__call__
    monkeypatch.setattr(ByColour, "asks", ("class_name", "sizes"), raising=False)
    monkeypatch.setattr(ByColour, "__call__", lambda *a, **told: heard.append(told) or answer(*a))
    (episode,) = n_way.draw(own.pool, 2, episodes=1)
    n_way.evaluate(own, [episode])
    assert heard == [{"class_name": [own.pool.classes[c]], "sizes": [(32, 32)]} for c in episode.classes]


@pytest.mark.parametrize(
    "option",
    ["--score-at working", "--fusion vote", "--ignore-band background", "--rule hsnet", "--resume"],
)
def test_what_several_ways_cannot_follow_is_refused(photos, tmp_path, capsys, option):
    flags = [
        "--root",
        str(photos),
        "--out",
        str(tmp_path / "x.json"),
        "--way",
        "2",
        "--protocol",
        "cst",
        *option.split(),
    ]
    assert cli.main(["evaluate", "folder", *flags]) == 2
    assert option.split()[0] in capsys.readouterr().err and not (tmp_path / "x.json").exists()


def test_the_command_line_scores_csts_episodes_with_several_ways(photos, tmp_path):
    out = tmp_path / "two.json"
    flags = ["--way", "2", "--protocol", "cst", "--episodes", "3", "--seeds", "0", "--size", "64", "--device", "cpu"]
    assert cli.main(["evaluate", "folder", "--root", str(photos), "--out", str(out), *flags]) == 0
    found = json.loads(out.read_text())
    assert {"miou", "exact_ratio", "way"} <= found.keys()
    assert n_way.FIXED.items() <= found["protocol"].items()
