"""Several classes at once, some absent: which photos are drawn, what is counted, and what every score makes of the counts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import shotseg.cli as cli
from shotseg.data.folder import FolderDataset
from shotseg.data.images import write_png
from shotseg.data.samples import Support
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.evaluation import door, draws, several_run, several_scores
from shotseg.evaluation.controls import centre_disc
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import preset
from shotseg.evaluation.several import Several, cut_that_keeps
from shotseg.evaluation.several_scores import ALARM, Table, auroc, scores
from shotseg.models import presence
from shotseg.models.few_shot_model import FewShot
from shotseg.models.presence import Decision

CLASSES = {"blue": 2, "green": 1, "red": 0}


def picture(*boxes: tuple[str, slice, slice], shade: int = 10) -> np.ndarray:
    image = np.full((20, 20, 3), shade, np.uint8)
    for name, rows, columns in boxes:
        image[rows, columns, CLASSES[name]] = 250
    return image


def add(root, name: str, stem: str, image: np.ndarray, mask: np.ndarray | None = None) -> None:
    write_png(root / "images" / name / f"{stem}.png", image)
    mask = np.where(image[..., CLASSES[name]] == 250, 255, 0) if mask is None else mask
    write_png(root / "masks" / name / f"{stem}.png", mask.astype(np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Five photos of each colour alone, and one of green and blue, listed under both."""
    for k, name in enumerate(CLASSES):
        for i in range(5):
            add(tmp_path, name, f"{i}", picture((name, slice(5, 15), slice(5, 15)), shade=10 + 5 * k + i))
    both = picture(("green", slice(0, 10), slice(20)), ("blue", slice(15, 20), slice(20)), shade=90)
    for name in ("green", "blue"):
        add(tmp_path, name, "both", both)
    return tmp_path


class Colours(FewShot):
    """A model whose support is the channel that is bright inside the mask."""

    geometry, size, encoder = "squash", 20, SimpleNamespace(patch=1)

    def encode(self, images):
        return Features((images, images), (1, 1))


def encode_shot(model, image, mask, features, class_names):
    return Support({"channel": (image * (mask == 1)).flatten(2).sum(2).argmax(1)[None]})


def decide(model, query, supports, image, told=None, threshold=0.5):
    """Presence is the brightest value of the class's channel; what is below the threshold has no mask."""
    channels = [int(s["channel"][0, 0]) for s in supports]
    present = torch.tensor([float(image[0, c].max()) for c in channels])
    found = torch.stack([image[0, c] - 0.5 for c in channels])
    if threshold is None:
        found, threshold = found + 0.5, 0
    found[present < threshold] = -1
    return Decision(torch.cat([torch.zeros_like(found[:1]), found]), present)


@pytest.fixture
def by_colour(monkeypatch):
    monkeypatch.setattr(presence, "decide", decide)
    monkeypatch.setattr(presence, "encode_shot", encode_shot)


def evaluator(root, shots=1, seeds=(0,), **options) -> Several:
    dataset = FolderDataset(root)
    pool = Pool(dataset, dataset.classes, shots)
    return Several(Colours(), dataset, pool, preset("shotseg").override(seeds=seeds), **options)


def query(own: Several, name: str, supports=((1,), (7,), (12,))) -> draws.Query:
    """The photo of that id, asked with given examples."""
    item = [x.id for x in own.pool.items].index(name)
    return draws.Query(item, draws.Draw(0, (0, 1, 2), supports))


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_no_photo_is_twice_in_a_draw_whatever_classes_it_shows(photos):
    pool = evaluator(photos, shots=2).pool
    for seed in range(20):
        drawn = draws.draw(pool, 3, shots=2, queries=10, seed=seed)
        used = [i for own in drawn[0].draw.supports for i in own] + [q.item for q in drawn]
        contents = [pool.items[i].content for i in used]
        assert len(contents) == len(set(contents)) == 16  # every photo is used once
        assert all(pool.items[i].class_id == c for c, own in zip((0, 1, 2), drawn[0].draw.supports) for i in own)


def test_the_number_of_queries_and_the_other_classes_do_not_change_the_examples(photos):
    pool = evaluator(photos).pool
    few, many = (draws.draw(pool, 3, 1, n, seed=3) for n in (1, 4))
    assert few[0].draw == many[0].draw
    assert {q.item for q in few} <= {q.item for q in many}
    dataset = FolderDataset(photos)
    alone = Pool(dataset, ["red"], 1)
    (red,) = draws.draw(alone, 1, 1, 1, seed=3)[0].draw.supports[0]
    assert alone.items[red].id == pool.items[few[0].draw.supports[2][0]].id


def test_fewer_ways_than_classes_are_drawn_anew_for_each_seed(photos):
    pool = evaluator(photos).pool
    drawn = {draws.draw(pool, 2, 1, 1, seed)[0].draw.classes for seed in range(20)}
    assert drawn == {(0, 1), (0, 2), (1, 2)}
    with pytest.raises(UsageError, match="--way 4: there are 3 classes"):
        draws.draw(pool, 4, 1, 1, seed=0)


@pytest.mark.parametrize(("shots", "word"), [(1, "no photo is left"), (2, "class 'green': 1 photos are left")])
def test_classes_that_share_all_their_photos_cannot_be_asked_for_together(tmp_path, shots, word):
    for i in range(2 + (shots == 2)):
        both = picture(("green", slice(5), slice(5)), ("blue", slice(9, 12), slice(5)), shade=i)
        for name in ("green", "blue"):
            add(tmp_path, name, f"{i}", both)
    with pytest.raises(UsageError, match=word):
        draws.draw(evaluator(tmp_path, shots).pool, 2, shots, 5, seed=0)


def test_a_class_without_a_query_of_its_own_is_named(tmp_path, by_colour):
    for i in range(6):
        add(tmp_path, "green", f"{i}", picture(("green", slice(5), slice(5)), shade=i))
    for i in range(2):  # both photos of blue are examples: one of blue, one of red
        both = picture(("blue", slice(5), slice(5)), ("red", slice(8, 9), slice(5)), shade=i)
        for name in ("blue", "red"):
            add(tmp_path, name, f"{i}", both)
    content = whole(tmp_path, tmp_path / "x.json", seeds=(0,))
    assert content["without_query"] == ["blue", "red"] and content["per_class"]["blue"] == {
        "iou": None,
        "known_iou": None,
        "photos": 0,
    }
    assert (
        "blue, red" in several_scores.summary(content).notes[0]
        and "blue, red" in (tmp_path / "x.report.html").read_text()
    )


# --- what is true ------------------------------------------------------------------------------------------------------


def test_truth_joins_the_masks_of_a_photo_by_its_content(photos):
    own = evaluator(photos)
    truth = own.truth(query(own, "green/both"))
    assert (truth[:10] == 2).all() and (truth[10:15] == 0).all() and (truth[15:] == 1).all()
    assert torch.equal(truth, own.truth(query(own, "blue/both")))


def test_the_smaller_of_two_masks_lies_on_top_and_ignored_gives_way_to_what_is_known(tmp_path):
    image, whole, part = picture(shade=7), np.zeros((20, 20)), np.zeros((20, 20))
    whole[:10], whole[10:12] = 1, 255
    part[:2], part[10] = 1, 1
    add(tmp_path, "green", "x", image, whole)
    add(tmp_path, "blue", "x", image, part)
    for name in ("green", "blue"):
        add(tmp_path, name, "y", picture((name, slice(5), slice(5))))
    own = evaluator(tmp_path)
    item = [x.id for x in own.pool.items].index("green/x")
    rows = own.truth(draws.Query(item, draws.Draw(0, (0, 1), ((1,), (3,)))))[:, 0].tolist()
    assert rows == [1] * 2 + [2] * 8 + [1] + [255] + [0] * 8


def test_truth_of_a_folder_of_label_maps_has_every_class_of_the_photo(tmp_path):
    (tmp_path / "classes.csv").write_text("class_id,class\n4,sky\n9,sea\n")
    for i in range(3):
        labels = np.zeros((8, 8), np.uint8)
        labels[:2], labels[6:] = 4, 9
        write_png(tmp_path / "images" / f"{i}.png", np.full((8, 8, 3), i, np.uint8))
        write_png(tmp_path / "masks" / f"{i}.png", labels)
    own = evaluator(tmp_path)
    (asked, *_) = draws.draw(own.pool, 2, 1, 5, seed=0)
    assert own.truth(asked)[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 2, 2]


# --- what is counted ---------------------------------------------------------------------------------------------------


def test_the_counts_of_a_query_are_those_of_its_decision(photos, by_colour):
    own = evaluator(photos, sure=lambda labels, soft, present: soft.shape[0] + labels.max() / 10)
    row = own.counts(query(own, "green/both"))
    assert row["target"] == [100, 100, 200, 0] and row["ignored"] == 0
    assert row["intersection"] == [100, 100, 200, 0] and row["union"] == [100, 100, 200, 0]
    assert row["present"] == pytest.approx([250 / 255, 250 / 255, 90 / 255])
    assert row["known"] == {"intersection": 200, "union": 400}  # told that green is there, it takes every pixel
    assert row["confidence"] == pytest.approx(3.2)


def test_controls_know_no_example_and_every_class_there_is_the_old_behaviour(photos, by_colour):
    own = evaluator(photos)
    row = own.counts(query(own, "green/both"))
    assert list(row["controls"]) == ["every_class_is_there", "all_foreground", "centre", "saliency"]
    assert row["controls"]["every_class_is_there"]["intersection"] == [0, 100, 200, 0]
    assert row["controls"]["every_class_is_there"]["union"] == [100, 200, 200, 0]
    assert row["controls"]["all_foreground"]["union"] == [100, 400, 200, 0]  # all of it blue, the likeliest class
    centre = row["controls"]["centre"]
    assert centre["union"][1] + centre["intersection"][1] - 100 == centre_disc((20, 20)).sum()


@pytest.mark.parametrize("geometry", ["fit", "squash", "pad"])
def test_a_perfect_decision_loses_nothing_by_the_shape_of_a_photo(tmp_path, by_colour, geometry):
    for name in ("green", "blue"):
        for i in range(2):
            image = np.full((32, 64, 3), i, np.uint8)
            image[8:24, 16:40, CLASSES[name]] = 250
            add(tmp_path, name, f"{i}", image)
    dataset = FolderDataset(tmp_path)
    own = Several(
        Colours(), dataset, Pool(dataset, dataset.classes, 1), preset("shotseg").override(geometry=geometry, size=64)
    )
    (asked, _) = draws.draw(own.pool, 2, 1, 5, seed=0)
    row = own.counts(asked)
    assert row["intersection"][1] / row["union"][1] > 0.9 and row["union"][2] == 0


def test_another_threshold_gives_the_areas_of_its_own_decision(photos, by_colour):
    own = evaluator(photos)
    assert own.area(query(own, "green/both"), 0.5)["area"] == [100, 100, 200, 0]
    assert own.area(query(own, "green/both"), 0.99)["area"] == [400, 0, 0, 0]


def test_the_cut_is_the_highest_presence_that_keeps_nine_of_ten():
    rows = [{"present": [p, 1.0], "target": [5, 1, 0]} for p in np.linspace(0.1, 1, 10)]
    assert cut_that_keeps(0.9, rows) == pytest.approx(0.2)
    assert cut_that_keeps(0.9, rows[:9]) == pytest.approx(0.1)
    assert cut_that_keeps(0.9, [{"present": [0.3], "target": [5, 0]}]) == 0


# --- what it makes --------------------------------------------------------------------------------------------------------

# three photos of 1000 pixels, two classes: the first shows class 0 (100 px), the second class 1 (500), the third both
TABLE = Table(
    target=np.array([[900, 100, 0], [500, 0, 500], [600, 200, 200]]),
    intersection=np.array([[890, 50, 0], [480, 0, 250], [600, 0, 150]]),
    union=np.array([[950, 110, 0], [770, 20, 500], [850, 200, 200]]),
    present=np.array([[0.9, 0.2], [0.6, 0.6], [0.4, 0.8]]),
    area_at_cut=np.array([[950, 50, 0], [740, 11, 249], [800, 0, 200]]),
    own=np.array([0, 1, 0]),
    known=np.array([[60, 100], [300, 600], [100, 300]]),
    confidence=np.array([0.2, 0.9, 0.4]),
)
ONCE = np.ones((1, 3))


def value(name: str, weights=ONCE, table=TABLE) -> float:
    return float(scores(0.5, 0.4, (0.15, 0.3), True)[name](table, weights)[0])


def test_scores_of_a_draw_are_those_counted_by_hand():
    assert value("miou") == pytest.approx(((50 + 0 + 0) / (110 + 20 + 200) + (0 + 250 + 150) / (0 + 500 + 200)) / 2)
    assert value("main_class") == 1  # 60 of class 0; 250 of class 1 before 20; 150 of class 1 before none
    assert value("false_alarms") == 1 / 2  # of two absent pairs, 20 pixels of 1000 are over 1 %
    assert value("kept") == 3 / 4  # 0.9, 0.6, 0.8 of 0.9, 0.6, 0.4, 0.8
    assert value("kept_at_cut") == 1
    assert value("false_alarms_at_cut") == 1 / 2  # (first, 1) is below the cut; (second, 0): 11 of 1000
    assert value("presence_auroc") == pytest.approx((4 + 2.5) / 8)  # four above 0.2; 0.9 and 0.8 above 0.6, one equal
    assert value("known_miou") == pytest.approx((160 / 400 + 300 / 600) / 2)
    assert value("recall_small") == 50 / 100
    assert value("recall_medium") == pytest.approx((0 / 200 + 150 / 200) / 2)
    assert value("recall_large") == 250 / 500
    # IoU of the photos: 50 / 110, 250 / 520, 150 / 400, so all are below one half
    assert np.isnan(value("confidence_auroc"))


def test_confidence_is_measured_by_how_well_it_ranks_bad_photos():
    better = replace(TABLE, intersection=TABLE.intersection + np.array([[0, 20, 0], [0, 0, 0], [0, 0, 0]]))
    assert value("confidence_auroc", table=better) == 0  # the good one has the lowest confidence
    assert value("confidence_auroc", table=replace(better, confidence=np.array([0.9, 0.2, 0.9]))) == 3 / 4


def test_an_empty_decision_has_no_right_main_class():
    nothing = replace(TABLE, intersection=TABLE.intersection * [1, 0, 0], union=TABLE.target)
    assert value("main_class", table=nothing) == 0 and value("false_alarms", table=nothing) == 0


def test_a_mask_of_just_one_percent_is_no_alarm():
    assert ALARM == 0.01
    at_limit = replace(TABLE, union=TABLE.union + np.array([[0, 0, 10], [0, -10, 0], [0, 0, 0]]))
    assert value("false_alarms", table=at_limit) == 0
    assert value("false_alarms", table=replace(at_limit, union=at_limit.union + np.array([[0, 0, 1]] * 3))) == 1 / 2


@pytest.mark.parametrize("name", list(scores(0.5, 0.4, (0.15, 0.3), True)))
def test_a_resample_counts_a_query_as_often_as_it_takes_it(name):
    twice = Table(
        **{field: np.repeat(array, [2, 0, 3], axis=0) for field, array in vars(TABLE).items() if field != "there"}
    )
    assert value(name, np.array([[2.0, 0, 3]])) == pytest.approx(value(name, np.ones((1, 5)), twice), nan_ok=True)


def test_auroc_counts_pairs_in_the_right_order_and_ties_half():
    values, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert auroc(values, positive, np.ones((1, 4)))[0] == 3.5 / 4
    assert np.isnan(auroc(values, np.ones(4, bool), np.ones((1, 4)))[0])


# --- the whole ------------------------------------------------------------------------------------------------------------


def whole(photos, out, seeds=(0, 1), ways=3, **options):
    own = evaluator(photos, seeds=seeds, threshold=0.5, sure=lambda *x: 1.0)
    about = {"method": "colours", "encoder": "none", "dataset": "folder", "way": ways, "shot": 1, "queries": 3}
    how = {"resume": False, "on_progress": lambda done, total: None, **options}
    return door.kept(*several_run.measure(own, about, door.partial_of(out), **how), out).content


def test_a_perfect_decision_scores_100_without_a_false_alarm(photos, by_colour, tmp_path):
    content = whole(photos, tmp_path / "x.json")
    assert content["miou"] == content["main_class"] == content["kept"] == content["presence_auroc"] == 100
    assert content["false_alarms"] == content["false_alarms_at_cut"] == 0
    assert content["ci95"]["miou"] == [100, 100] and content["intervals"]["draws"]["miou"] == [100, 100]
    assert content["protocol"]["cut"] == pytest.approx(250 / 255)
    # blue, the first of equals, takes the background of photos of the others: of every three photos two of six pairs
    assert 30 < content["controls"]["every_class_is_there"]["false_alarms"] < 40
    assert {x["iou"] for x in content["per_class"].values()} == {100}
    assert json.loads(json.dumps(content)) == json.loads((tmp_path / "x.json").read_text())
    assert "Worst queries" in (tmp_path / "x.report.html").read_text()


def test_threads_batches_and_an_interrupt_change_no_count(photos, by_colour, tmp_path):
    plain = whole(photos, tmp_path / "a.json")
    assert whole(photos, tmp_path / "b.json", workers=3, batch=1)["counts"] == plain["counts"]
    for stop_at in (1, len(plain["counts"]["per_query"]["seed"]) + 1):  # in the first pass, in the second
        out = tmp_path / f"{stop_at}.json"

        def stop(done, total, at=stop_at):
            if done >= at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            whole(photos, out, batch=1, on_progress=stop)
        with pytest.raises(UsageError, match="--resume"):
            whole(photos, out)
        assert whole(photos, out, resume=True)["counts"] == plain["counts"]
        assert not list(tmp_path.glob("*.jsonl"))


def test_scores_are_means_of_the_draws_and_the_protocol_says_what_was_asked(photos, by_colour, tmp_path):
    content = whole(photos, tmp_path / "x.json", seeds=(0, 1, 2), ways=2)
    each = [seed["false_alarms"] for seed in content["per_seed"].values()]
    assert content["false_alarms"] == pytest.approx(np.mean(each))
    assert {len(given) for given in content["counts"]["per_query"]["draws"].values()} == {2}
    assert len(set(content["protocol"]["lists"].values())) == 3
    assert several_scores.RULES.items() <= content["protocol"].items()


def test_the_command_line_measures_several_classes_with_a_real_model(photos, tmp_path, capsys):
    out = tmp_path / "two.json"
    flags = ["--way", "2", "--queries", "1", "--present", "0.3", "--seeds", "0", "--size", "64", "--device", "cpu"]
    assert cli.main(["evaluate", "folder", "--root", str(photos), "--out", str(out), *flags]) == 0
    found = json.loads(out.read_text())
    assert found["format"] == several_scores.FORMAT and found["way"] == 2 and found["protocol"]["present"] == 0.3
    assert {"miou", "main_class", "false_alarms_at_cut", "known_miou", "confidence_auroc"} <= found.keys()
    assert len(found["counts"]["per_query"]["query"]) == 2
    assert "right main class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--way 2 --episodes 5", "--episodes"),
        ("--way 2 --fusion vote", "--fusion"),
        ("--way 2 --protocol cst --queries 5", "--queries"),
        ("--way 2 --protocol cst --resume", "--resume"),
        ("--way 2 --protocol hsnet", "--protocol hsnet"),
        ("--present 0.4", "--present"),
        ("--way 2 --present 1.5", "--present 1.5"),
        ("--way 2 --queries 0", "--queries 0"),
        ("--way 7", "--way 7: there are 3 classes"),
    ],
)
def test_what_changes_nothing_is_refused(photos, tmp_path, capsys, flags, word):
    whole = ["--root", str(photos), "--out", str(tmp_path / "x.json"), *flags.split()]
    assert cli.main(["evaluate", "folder", *whole]) == 2
    assert word in capsys.readouterr().err and not (tmp_path / "x.json").exists()
