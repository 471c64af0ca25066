"""Counts, their reductions, votes, and the released episode streams, against golden values."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import golden
from shotseg.errors import UsageError
from shotseg.evaluation import canvas, n_way
from shotseg.evaluation import counts as reduce
from shotseg.evaluation.counts import Counts, count
from shotseg.evaluation.episode_rules import RULES, draw_episodes
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import PRESETS, preset


def counts_of(prediction, target, class_ids) -> Counts:
    pairs = [(torch.as_tensor(p)[None].long(), torch.as_tensor(t)[None].long()) for p, t in zip(prediction, target)]
    intersection, union, area, ignored = (torch.cat(x).numpy() for x in zip(*(count(p, t) for p, t in pairs)))
    return Counts(np.asarray(class_ids)[:, None], intersection, union, area, ignored)


def with_band(target, ignore):
    return np.where(np.asarray(ignore) > 0, 255, np.asarray(target)).astype(np.int64)


# --- golden -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden.files("tlg", "h_evaluator*.safetensors"))
def test_counts_and_scores_are_those_of_the_hsnet_family(path):
    stored, _ = golden.tensors(path)
    batches = sorted({name.split(".")[0] for name in stored if "." in name}, key=int)
    joined = []
    for b in batches:
        own = {k: stored[f"{b}.{k}"] for k in ("pred", "gt", "ignore", "class_id", "inter", "union")}
        found = counts_of(own["pred"], with_band(own["gt"], own["ignore"]), own["class_id"].numpy())
        golden.assert_close(f"{b}.inter", found.intersection.T, own["inter"], atol=0)
        golden.assert_close(f"{b}.union", found.union.T, own["union"], atol=0)
        joined.append(found)
    every = Counts(
        *(
            np.concatenate([getattr(c, f) for c in joined])
            for f in ("classes", "intersection", "union", "target", "ignored")
        )
    )
    ids = np.arange(5)
    golden.assert_close("miou", 100 * reduce.miou(every, ids, "zero"), stored["miou"], atol=1e-4)
    golden.assert_close("fb_iou", 100 * reduce.fb_iou(every), stored["fb_iou"], atol=1e-4)
    for i in range(stored["inter_buf"].shape[1]):
        own = every[every.classes[:, 0] == i]
        golden.assert_close(f"class {i}", own.intersection.sum(0), stored["inter_buf"][:, i], atol=0)
        golden.assert_close(f"class {i}", own.union.sum(0), stored["union_buf"][:, i], atol=0)


@pytest.mark.parametrize("path", golden.files("corenet", "eval_meter*.npz"))
def test_the_ignore_band_is_left_out_by_hsnet_and_is_background_for_cst(path):
    stored = golden.npz(path)
    classes, interest = stored["class_id_1based"], stored["interest_1based"]
    outside = counts_of(stored["pred"], with_band(stored["gt"], stored["ignore"]), classes)
    golden.assert_close("inter", outside.intersection, stored["hsnet_inter"], atol=0)
    golden.assert_close("union", outside.union, stored["hsnet_union"], atol=0)
    golden.assert_close("miou", 100 * reduce.miou(outside, interest, "zero"), stored["hsnet_miou"], atol=1e-4)
    golden.assert_close("fb_iou", 100 * reduce.fb_iou(outside), stored["hsnet_fbiou"], atol=1e-4)
    cst = preset("cst").override(score_at="original")
    labels = [with_band(g, i).astype(np.uint8) for g, i in zip(stored["gt"], stored["ignore"])]
    background = [canvas.scored_label(cst, label, "squash", (9, 9)) for label in labels]
    as_coded = reduce.miou(counts_of(stored["pred"], background, classes), interest, "zero")
    golden.assert_close("cst", 100 * as_coded, stored["cst_miou_as_coded"], atol=1e-4)


@pytest.mark.parametrize("path", golden.files("tlg", "f_kshot_vote*.safetensors"))
def test_votes_are_divided_by_the_largest_vote_of_the_photo(path):
    stored, _ = golden.tensors(path)
    for name, expected in stored.items():
        case, _, rest = name.partition(".pred_")
        if not rest:
            continue
        shots, _, size = rest.partition("shot")
        logits = stored[f"{case}.logits"][: int(shots)]
        if size:
            scored = tuple(int(n) for n in size.removeprefix("_orig_").split("x"))
            logits = torch.stack([F.interpolate(x, scored, mode="bilinear", align_corners=True) for x in logits])
        golden.assert_close(name, canvas.vote(logits), expected, atol=0)


@pytest.mark.parametrize("path", golden.files("corenet", "hsnet_parts*.npz"))
def test_the_vote_of_hsnet_itself_is_the_same(path):
    stored = golden.npz(path)
    golden.assert_close("vote", canvas.vote(torch.from_numpy(stored["vote_logits"])), stored["vote_pred"], atol=0)


@pytest.mark.parametrize("path", golden.files("pi_clip", "misc*.npz"))
def test_scores_at_original_size_are_those_of_hdmnet(path):
    stored = golden.npz(path)
    protocol, rows = preset("hdmnet"), []
    for i in range(len(stored["ev_classes"])):
        label, logits = stored[f"ev{i}_gt"], torch.from_numpy(stored[f"ev{i}_logits"])[0]
        target = canvas.scored_label(protocol, label, "squash", (33, 33))
        mask = canvas.decide(protocol, [logits], label.shape, label.shape, "squash", 33)
        found = counts_of([mask], [target], [stored["ev_classes"][i]])
        golden.assert_close(f"inter {i}", found.intersection[0], stored[f"ev{i}_inter"], atol=0)
        golden.assert_close(f"union {i}", found.union[0], stored[f"ev{i}_union"], atol=0)
        rows.append(found)
    every = Counts(
        *(
            np.concatenate([getattr(c, f) for c in rows])
            for f in ("classes", "intersection", "union", "target", "ignored")
        )
    )
    ids = np.arange(len(stored["ev_class_iou"]))
    golden.assert_close("classes", np.nan_to_num(reduce.class_iou(every, ids)), stored["ev_class_iou"], atol=1e-6)
    golden.assert_close("miou", reduce.miou(every, ids, "zero"), stored["ev_miou"], atol=1e-6)
    golden.assert_close("fb_iou", reduce.fb_iou(every), stored["ev_fbiou"], atol=1e-6)


@pytest.mark.parametrize("path", golden.files("qgnet", "utils*.npz"))
def test_the_padded_square_is_that_of_pfenet(path):
    stored = golden.npz(path)
    for height, width, size, *valid in stored["resize_geometry"][:, :5].tolist():
        assert list(canvas.padded_size((height, width), size)) == valid
    found = counts_of(stored["iou_pred"], stored["iou_target"], [0] * len(stored["iou_pred"]))
    golden.assert_close("inter", found.intersection.sum(0), stored["iou_inter"], atol=0)
    golden.assert_close("union", found.union.sum(0), stored["iou_union"], atol=0)
    golden.assert_close("target", found.target.sum(0), stored["iou_tgt_area"], atol=0)
    size = stored["resize_out_lab"].shape[0]
    image, mask = canvas.padded_photo(stored["resize_img"], size), canvas.padded_mask(stored["resize_lab"], size)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    golden.assert_close("image", (image - mean) / std, stored["resize_out_img"], atol=2e-5)
    golden.assert_close("label", mask, stored["resize_out_lab"], atol=0)
    logits, side = torch.from_numpy(stored["ori_logit"])[0], stored["ori_pred"].shape[-1]
    mask = canvas.decide(preset("pfenet"), [logits], (side, side), (side, side - 5), "pad", logits.shape[-1])
    golden.assert_close("mask at the original square", mask, stored["ori_pred"][0], atol=0)


class Listed:
    """A miniature of an official list: (photo, class) pairs."""

    def __init__(self, pairs):
        self.items = [
            SimpleNamespace(id=f"{photo}/{c}", content=photo, class_id=c, class_name=str(c), mask_path=photo)
            for photo, c in pairs
        ]


@pytest.mark.parametrize("path", golden.files("tlg", "j_episodes*.json"))
def test_the_first_released_episodes_fit_one_sorted_list_for_each_class(path):
    """Names are known only where the released lists show them. All of them, over seeds and shots, must fit one order."""
    content = golden.load_json(path)
    checked = 0
    for fold in range(4):
        stats = content["stats"][f"pascal{fold}"]
        seen = defaultdict(dict)  # class -> place in its list -> photo
        for key, listed in content["episodes"]["pascal"].items():
            if not key.startswith(f"fold{fold}_"):
                continue
            shots, seed = int(key.split("shot")[1].split("_")[0]), int(key.split("seed")[1])
            lines = [line.split() for line in listed["first"]]
            firsts = [(f"{i:04d}", int(line[1])) for i, line in enumerate(lines)]
            used = defaultdict(int, {c: sum(c == x for _, x in firsts) for _, c in firsts})
            rest = [(f"9{i:03d}", c) for c, n in zip(stats["classes"], stats["per_class"]) for i in range(n - used[c])]
            pool = Pool(Listed(firsts + rest), [str(c) for c in stats["classes"]], shots)
            place = {i: rank for listed_ in pool.lists for rank, i in enumerate(listed_)}
            protocol = preset("hsnet").override(episodes=len(lines))
            for pick, line in zip(draw_episodes(protocol, pool, shots, seed), lines):
                for i, photo in zip((pick.query, *pick.supports), (line[0], *line[2:])):
                    assert seen[line[1]].setdefault(place[i], photo) == photo, f"{key}: {line}"
                    checked += 1
        for class_id, photos in seen.items():
            names = [photos[i] for i in sorted(photos)]
            assert names == sorted(names), f"fold {fold}, class {class_id}"
    assert checked >= 100


@pytest.mark.parametrize("path", golden.files("tlg", "j_episodes*.json"))
def test_the_first_released_class_on_coco_is_the_first_draw(path):
    content = golden.load_json(path)
    for key, listed in content["episodes"]["coco"].items():
        classes = content["stats"]["coco" + key.split("fold")[1][0]]["classes"]
        pool = Pool(Listed([(f"{c}-{i}", c) for c in classes for i in range(9)]), [str(c) for c in classes], 1)
        protocol = preset("tlg", "coco20i").override(episodes=1)
        first = draw_episodes(protocol, pool, 1, int(key.split("seed")[1]))[0]
        assert classes[first.class_id] == int(listed["first"][0].split()[1])


# --- reductions -------------------------------------------------------------------------------------------------------


def test_nothing_is_counted_where_the_target_is_ignored():
    target = torch.tensor([[[0, 1, 255, 1]]])
    for guess in (0, 1, 255):
        prediction = torch.tensor([[[0, 1, guess, 0]]])
        intersection, union, area, ignored = count(prediction, target)
        assert (intersection.tolist(), union.tolist(), area.tolist(), ignored.tolist()) == (
            [[1, 1]],
            [[2, 2]],
            [[1, 2]],
            [1],
        )


def test_classes_that_never_occur_are_left_out_or_count_as_zero():
    found = counts_of([[[1, 1]]], [[[1, 0]]], [3])
    assert reduce.miou(found, np.array([3, 4])) == 0.5
    assert reduce.miou(found, np.array([3, 4]), "zero") == 0.25
    assert np.isnan(reduce.class_iou(found, np.array([4]))[0])


def test_weak_shot_scores_follow_maskformers_evaluator():
    """Four classes: 0 and 1 base, 2 and 3 novel; 3 is predicted but in no ground truth and so counts 0 in the mIoU alone."""
    target = torch.tensor([[[1, 1, 2, 2, 3, 3, 3, 255]]])
    prediction = torch.tensor([[[1, 1, 2, 1, 3, 3, 4, 4]]])
    intersection, union, area, ignored = (x.numpy() for x in count(prediction, target, classes=4))
    found = reduce.weak_shot(
        Counts(np.arange(4)[None], intersection, union, area, ignored), np.array([0, 1]), np.array([2, 3])
    )
    base, novel = (2 / 3 + 1 / 2) / 2, 2 / 3
    expected = {
        "miou": (2 / 3 + 1 / 2 + 2 / 3) / 4,
        "base": base,
        "novel": novel,
        "harmonic": 2 * base * novel / (base + novel),
        "pixel_accuracy": 5 / 7,
    }
    assert found == pytest.approx(expected)


def test_exact_ratio_asks_for_exactly_the_classes_that_are_there():
    found = counts_of([[[1, 0]], [[0, 0]], [[1, 0]], [[0, 0]]], [[[0, 1]], [[0, 0]], [[0, 0]], [[1, 1]]], [0, 0, 0, 0])
    assert reduce.exact_ratio(found) == 0.5
    assert reduce.episode_iou(found).tolist() == [0, 1, 0, 0]


def test_the_bootstrap_interval_holds_the_score_and_shrinks_with_more_episodes():
    generator = np.random.default_rng(0)

    def drawn(n):
        union = generator.integers(50, 100, (n, 2))
        return Counts(
            np.zeros((n, 1), int), (union * generator.random((n, 2))).astype(int), union, union // 2, np.zeros(n, int)
        )

    small, large = drawn(50), drawn(2000)
    widths = []
    for found in (small, large):
        low, high = reduce.bootstrap_interval(found, np.array([0]))
        assert low < reduce.miou(found, np.array([0])) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_the_paired_bootstrap_sees_a_small_gain_on_every_episode():
    union = np.full((300, 2), 100)
    base = np.random.default_rng(1).integers(10, 90, (300, 2))
    ours, theirs = (Counts(np.zeros((300, 1), int), base + gain, union, union, np.zeros(300, int)) for gain in (1, 0))
    found = reduce.paired_bootstrap(ours, theirs, np.array([0]))
    assert found["difference"] == pytest.approx(0.01)
    assert 0.009 < found["low"] <= found["high"] < 0.011
    assert (
        found["p"] == 2 / 2001
    )  # none of 2,000 resamples lies on the other side: no reason to say that none ever would
    same = reduce.paired_bootstrap(theirs, theirs, np.array([0]))
    assert same["p"] == 1


# --- presets ----------------------------------------------------------------------------------------------------------


def test_presets_are_as_the_papers_and_releases_say():
    seeds = np.random.RandomState(123).randint(0, 1000, 10).tolist()
    table = {  # name: episodes PASCAL, COCO, runs, first seed, size, geometry, canvas
        "shotseg": (1000, 1000, 5, 0, None, None, "original"),
        "hsnet": (1000, 1000, 1, 0, 400, "squash", "working"),
        "tlg": (1000, 5000, 1, 6776, 400, "squash", "working"),
        "pfenet": (5000, 20000, 1, 321, 473, "pad", "square"),
        "bam": (1000, 1000, 5, seeds[0], 473, "pad", "square"),
        "hdmnet": (1000, 10000, 10, seeds[0], 473, "squash", "original"),
        "pi-clip": (1000, 5000, 10, seeds[0], 473, "squash", "original"),
        "cst": (1000, 1000, 1, 0, 400, "squash", "original"),
    }
    assert set(table) == set(PRESETS)
    for name, expected in table.items():
        p = preset(name, "pascal5i")
        episodes = (p.episodes, preset(name, "coco20i").episodes)
        assert (*episodes, len(p.seeds), p.seeds[0], p.size, p.geometry, p.score_at) == expected, name
    assert list(preset("pi-clip").seeds) == seeds
    assert preset("hsnet", "lvis92i").episodes == 2300
    assert preset("hdmnet", "coco20i").size == 633


def test_a_changed_choice_is_named_in_the_protocol():
    changed = preset("hsnet").override(size=256, episodes=1000, geometry=None)
    assert (changed.size, changed.overridden) == (256, ("size",))
    with pytest.raises(UsageError, match="no field"):
        preset("hsnet").override(colour=1)
    with pytest.raises(UsageError, match="choose one of"):
        preset("hsnet").override(geometry="round")
    with pytest.raises(UsageError, match="needs geometry 'pad'"):
        preset("hsnet").override(score_at="square")
    with pytest.raises(UsageError, match="no protocol"):
        preset("hsnett")


PAIRS = [(f"photo{i:02d}", c) for i in range(12) for c in range(3) if (i + c) % 4]


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("shots", [1, 3])
def test_no_rule_ever_draws_the_query_as_its_own_support(rule, shots):
    pool = Pool(Listed(PAIRS), ["0", "1", "2"], shots)
    protocol = preset("shotseg").override(rule=rule, episodes=80)
    drawn = draw_episodes(protocol, pool, shots, seed=5)
    assert drawn == draw_episodes(protocol, pool, shots, seed=5)
    assert len(drawn) == 80
    for episode in drawn:
        photos = [pool.items[i].content for i in episode.supports]
        assert pool.items[episode.query].content not in photos
        assert all(pool.items[i].class_id == episode.class_id for i in episode.supports)
        if rule in ("shotseg", "pfenet", "cst", "cst-coco"):
            assert len(set(photos)) == shots


def test_cst_asks_half_of_the_queries_for_another_class():
    pool = Pool(Listed(PAIRS), ["0", "1", "2"], 1)
    drawn = draw_episodes(preset("cst").override(episodes=2000), pool, 1, seed=0)
    own = sum(pool.items[e.query].class_id == e.class_id for e in drawn)
    assert 0.45 < own / 2000 < 0.55


def test_cst_asks_every_class_of_coco_as_often_however_many_photos_it_has():
    counts = np.geomspace(8000, 12, 20).astype(int)
    pairs = [(f"{c}/{i}", c) for c, count in enumerate(counts) for i in range(count)]
    pool = Pool(Listed(pairs), [str(c) for c in range(20)], 1)
    drawn = draw_episodes(preset("cst", "coco20i"), pool, 1, seed=0)
    queries = np.bincount([pool.items[e.query].class_id for e in drawn], minlength=20)
    assert queries.sum() == 1000 and queries.min() >= 35 and queries.max() <= 70
    several = n_way.draw(pool, 2, rule=preset("cst", "coco20i").rule)
    assert [w.query for w in several] == [e.query for e in drawn]


def test_a_small_object_is_listed_nowhere_but_may_be_asked_for():
    areas = [100 if photo == "photo03" and c == 2 else 5000 for photo, c in PAIRS]
    pool = Pool(Listed(PAIRS), ["0", "1", "2"], 1, 2048, areas)
    drawn = draw_episodes(preset("pfenet").override(episodes=400), pool, 1, seed=321)
    small = PAIRS.index(("photo03", 2))
    assert small not in {s for e in drawn for s in e.supports}
    assert small in {e.query for e in drawn}


def test_a_class_with_too_few_photos_is_a_clear_error():
    with pytest.raises(UsageError, match="class '0' has 2 photos with a mask; 2 shots and a query need 3"):
        Pool(Listed([("a", 0), ("b", 0)]), ["0"], 2)


def test_items_that_stand_class_by_class_are_walked_in_turn_of_the_classes():
    listed = Listed([(f"{c}-{i}", c) for c in range(6) for i in range(4)])
    listed.by_class = True
    pool = Pool(listed, [str(c) for c in range(6)], 1)
    for protocol in ("hsnet", "tlg", "pfenet", "cst"):
        drawn = draw_episodes(preset(protocol).override(episodes=12), pool, 1, seed=0)
        met = [pool.items[e.query].class_id for e in drawn]
        assert met == 2 * [0, 1, 2, 3, 4, 5], protocol
    assert len({e.query for e in draw_episodes(preset("hsnet").override(episodes=24), pool, 1, 0)}) == 24


def test_a_released_list_is_walked_as_it_stands():
    pool = Pool(Listed(PAIRS), ["0", "1", "2"], 1)
    assert pool.walk == pool.listed == list(range(len(PAIRS)))
    assert [e.query for e in draw_episodes(preset("hsnet").override(episodes=30), pool, 1, 0)][:24] == list(range(24))
    assert preset("hsnet", "fss1000").episodes == 2400  # all ten photos of 240 classes, as the release walks them


def test_fss_walks_names_as_text_and_draws_supports_by_number():
    """As HSNet's ``data/fss.py``: sorted paths, and ``np.random.choice(range(1, 11), 1, replace=False)``."""
    names, shots = ["bear", "cup"], 2
    pool = Pool(Listed([(f"{name}/{n}", name) for name in names for n in range(1, 11)]), names, shots)
    drawn = draw_episodes(preset("hsnet", "fss1000").override(episodes=20), pool, shots, seed=0)
    np.random.seed(0)
    for episode, query in zip(drawn, sorted(f"{name}/{n}.jpg" for name in names for n in range(1, 11)), strict=True):
        supports = []
        while len(supports) < shots:
            drawn_name = f"{query.split('/')[0]}/{np.random.choice(range(1, 11), 1, replace=False)[0]}.jpg"
            supports += [drawn_name] * (drawn_name != query)
        assert [f"{pool.items[i].content}.jpg" for i in (episode.query, *episode.supports)] == [query, *supports]


def test_lvis_takes_its_classes_in_turn():
    """As Matcher's ``matcher/data/lvis.py``: ``idx %= len(self.class_ids)``, then photos of that class."""
    photos = {f"c{c}": [f"c{c}-{i}" for i in range(3 + c)] for c in range(92)}
    pool = Pool(Listed([(photo, name) for name, own in photos.items() for photo in own]), list(photos), 1)
    drawn = draw_episodes(preset("hsnet", "lvis92i"), pool, 1, seed=0)
    assert [e.class_id for e in drawn] == [i % 92 for i in range(2300)]
    np.random.seed(0)
    for episode, own in zip(drawn[:92], photos.values()):
        query = support = np.random.choice(own, 1, replace=False)[0]
        while support == query:
            support = np.random.choice(own, 1, replace=False)[0]
        assert [pool.items[i].content for i in (episode.query, *episode.supports)] == [query, support]


@pytest.mark.parametrize("seeds", [(-1,), (2**32 - 500,), (3, 4, 3)])
def test_a_seed_that_no_stream_takes_or_that_is_there_twice_is_refused_before_any_work(seeds):
    for protocol in ("hsnet", "pfenet", "cst"):
        with pytest.raises(UsageError, match="--seeds"):
            preset(protocol).override(seeds=seeds)
    assert preset("cst").override(seeds=(2**32 - 1000,)).seeds == (2**32 - 1000,)
    assert preset("shotseg").override(seeds=(2**32,)).seeds == (2**32,)
