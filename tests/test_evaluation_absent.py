"""One rule for classes that never occur, in score, interval and comparison; and how fast the bootstrap is."""

import json
import time

import numpy as np
import pytest

from shotseg.errors import UsageError
from shotseg.evaluation import counts as reduce
from shotseg.evaluation.counts import Counts
from shotseg.evaluation.episode_rules import draw_episodes
from shotseg.evaluation.outcome import EvaluationResult
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import preset
from shotseg.evaluation.results import lines, of_control, result, unmet
from shotseg.evaluation.semantic_scores import _taken
from test_evaluation_numbers import Listed

# Photos of three classes of which the episodes ask for two, each always as well met: class "a" 0.8, class "b" 0.6.
IOU = {"a": 80, "b": 60}


def stored(path, protocol="hsnet", seeds=(0,), asked="ab", iou=IOU):
    """A result file of 20 episodes a seed: classes a and b in turn, c (which is tested too) never."""
    pool = Pool(Listed([(f"{c}{i}", "abc".index(c)) for c in "abc" for i in range(20)]), ["0", "1", "2"], 1)
    pool.classes[:] = list("abc")
    rows, lists = [], {}
    for seed in seeds:
        picks = draw_episodes(preset("hsnet").override(episodes=60), pool, 1, seed)
        lists[seed] = [e for e in picks if pool.classes[e.class_id] in asked]
        for episode in lists[seed]:
            met = iou[pool.classes[episode.class_id]]
            controls = {"centre": {"intersection": [0, 30], "union": [100, 100]}}
            rows.append(
                {"intersection": [0, met], "union": [100, 100], "target": [0, 100], "ignored": 0}
                | {"controls": controls}
            )
    about = {"method": "matching", "encoder": "none", "checkpoint": None, "dataset": "folder", "fold": None, "shot": 1}
    content = result({**about, "data": {}}, preset(protocol), pool, lists, rows) | {"published": []}
    path.write_text(json.dumps(content))
    return content


def compare(first, second):
    return EvaluationResult.load(first).compare(EvaluationResult.load(second))


def test_a_class_that_never_occurs_counts_alike_in_score_interval_controls_and_comparison(tmp_path):
    ours = stored(tmp_path / "ours.json")
    assert ours["miou"] == pytest.approx((80 + 60 + 0) / 3)  # 46.7
    assert ours["ci95"] == pytest.approx([46.667, 46.667], abs=1e-3)  # a and b are equally well met in any resample
    assert ours["controls"]["centre"]["miou"] == pytest.approx(20)
    assert ours["controls"]["centre"]["ci95"] == pytest.approx([20, 20])
    worse = stored(tmp_path / "worse.json", iou={"a": 20, "b": 20})
    found = compare(tmp_path / "ours.json", tmp_path / "worse.json")
    assert found["miou"] == [ours["miou"], worse["miou"]]
    assert found["difference"] == pytest.approx((60 + 40) / 3) == ours["miou"] - worse["miou"]
    assert [found["low"], found["high"]] == pytest.approx([100 / 3, 100 / 3])
    assert found["per_class"] == {"a": pytest.approx(60), "b": pytest.approx(40), "c": None}


def test_our_own_protocol_leaves_it_out_everywhere(tmp_path):
    ours = stored(tmp_path / "ours.json", "shotseg")
    stored(tmp_path / "worse.json", "shotseg", iou={"a": 20, "b": 20})
    assert ours["miou"] == pytest.approx(70) and ours["ci95"] == pytest.approx([70, 70])
    assert ours["controls"]["centre"]["ci95"] == pytest.approx([30, 30])
    assert compare(tmp_path / "ours.json", tmp_path / "worse.json")["difference"] == pytest.approx(50)


@pytest.mark.parametrize("absent, scale", [("skip", 1), ("zero", 2 / 3)])
def test_a_resample_without_a_class_that_occurs_leaves_it_out_of_that_resample_alone(absent, scale):
    """One episode of each of two classes, three tested: a resample has both (0.7), or the one twice (0.8 or 0.6)."""
    union = np.full((2, 2), 100)
    found = Counts(np.array([[0], [1]]), np.array([[0, 80], [0, 60]]), union, union, np.zeros(2, int))
    ids, weights = np.arange(3), np.array([[1, 1], [2, 0], [0, 2]])
    assert reduce.miou(found, ids, absent) == pytest.approx(0.7 * scale)
    assert reduce.miou(found, ids, absent, weights) == pytest.approx([0.7 * scale, 0.8 * scale, 0.6 * scale])
    low, high = reduce.bootstrap_interval(found, ids, absent)
    assert [low, high] == pytest.approx([0.6 * scale, 0.8 * scale])
    assert low <= reduce.score(found, ids, absent) <= high


def test_runs_are_resampled_each_by_itself_and_averaged_as_the_score_is(tmp_path):
    """Seed 0 meets class 0 alone (IoU 0.8), seed 1 class 1 alone (0.2): the score is the mean of the seeds."""
    union = np.full((8, 2), 100)
    inter = np.array([[0, 80]] * 6 + [[0, 20]] * 2)
    found = Counts(np.array([[0]] * 6 + [[1]] * 2), inter, union, union, np.zeros(8, int))
    runs, ids = np.array([0] * 6 + [1] * 2), np.arange(2)
    assert reduce.score(found, ids, runs=runs) == pytest.approx(0.5)
    assert reduce.bootstrap_interval(found, ids, runs=runs) == pytest.approx((0.5, 0.5))
    assert reduce.bootstrap_interval(found, ids, "zero", runs=runs) == pytest.approx((0.25, 0.25))
    same = reduce.paired_bootstrap(found, found, ids, runs=runs)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_results_that_count_absent_classes_by_two_rules_are_not_compared(tmp_path):
    stored(tmp_path / "zero.json")
    stored(tmp_path / "skip.json", "shotseg")
    with pytest.raises(
        UsageError, match="rule 'zero' in the one and 'skip' in the other; measure both with one protocol"
    ):
        compare(tmp_path / "zero.json", tmp_path / "skip.json")


def test_classes_that_no_episode_asks_for_are_named_with_how_they_count(tmp_path):
    content = stored(tmp_path / "x.json")
    assert unmet(content).startswith("no episode asks for 1 of 3 classes, which count as zero: c;")
    assert "are left out of the mean: c;" in unmet(stored(tmp_path / "x.json", "shotseg"))
    everything = stored(tmp_path / "x.json", asked="abc", iou={**IOU, "c": 10})
    assert unmet(everything) == "" and lines(everything)


# --- speed ------------------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_5000_episodes_and_240_classes_takes_a_tenth_of_products_of_integers():
    stream = np.random.default_rng(0)
    union = stream.integers(1000, 160_000, (5000, 2))
    inter, classes = (union * stream.random((5000, 2))).astype(np.int64), stream.integers(240, size=(5000, 1))
    found, ids = Counts(classes, inter, union, union, np.zeros(5000, int)), np.arange(240)
    start = time.process_time()
    low, high = reduce.bootstrap_interval(found, ids)
    ours = time.process_time() - start
    assert low < reduce.miou(found, ids) < high
    weights, spread = reduce.resamples(5000, 100), np.where(classes == ids, union[:, 1:], 0)
    start = time.process_time()
    plain = weights @ spread  # what an interval did twice, for ten times as many resamples
    theirs = 20 * (time.process_time() - start)
    assert (found.of("union", ids, weights) == plain).all()
    assert ours <= theirs / 10


def test_resampled_sums_of_a_semantic_model_are_those_of_products_of_integers():
    stream = np.random.default_rng(0)
    union = stream.integers(0, 1000, (30, 5)) * (stream.random((30, 5)) < 0.5)
    found = Counts(np.tile(np.arange(4), (30, 1)), union // 2, union, union, stream.integers(0, 9, 30))
    weights = reduce.resamples(30, 7)
    assert (weights.sum(1) == 30).all() and (weights == reduce.resamples(30, 7)).all()
    for taken, own in zip(_taken(found, weights), weights, strict=True):
        assert (taken.union == own @ union).all() and (taken.intersection == own @ (union // 2)).all()
        assert taken.ignored.tolist() == [own @ found.ignored]


def test_a_control_has_an_interval_of_the_kind_that_the_method_has(tmp_path):
    for seeds, kind in (((0,), "episodes"), ((0, 1, 2), "seeds")):
        content = stored(tmp_path / "x.json", seeds=seeds)
        control = of_control(content, "centre")
        for found in (content, content["controls"]["centre"], control):
            assert found["ci95"] == found["intervals"][kind]
        assert content["controls"]["centre"]["intervals"] == control["intervals"]


def test_an_interval_over_seeds_holds_nothing_that_a_score_cannot_be():
    assert reduce.seed_interval([0.2, 0.9]) == (0, 1)
    assert reduce.seed_interval([20, 90], most=100) == (0, 100)
    low, high = reduce.seed_interval([50, 52, 54], most=100)
    assert (low, high) == pytest.approx((52 - 4.9682, 52 + 4.9682), abs=1e-3)
