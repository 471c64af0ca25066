"""Strokes bind and reach; the simulated person draws where it should; the loop of corrections counted by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import shotseg.cli as cli
from shotseg.data.images import write_png
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.evaluation import effort
from shotseg.evaluation.counts import expected_iou
from shotseg.models.matching import Matching
from shotseg.models.strokes import CERTAIN, Strokes, competing, follow, shot


def two_halves(size=(48, 64)):
    """A photo (1, 3, H, W), dark on the left and bright on the right, and features that say the same."""
    image = torch.full((1, 3, *size), 0.2)
    image[..., size[1] // 2 :] = 0.8
    small = torch.nn.functional.avg_pool2d(image[:, :1], 8)
    return image, Features((torch.cat([small, 1 - small], 1),), (8,))


@pytest.mark.parametrize("size", [(48, 64), (301, 403), (7, 5), (1, 1)])
@pytest.mark.parametrize("level", [-7.0, 0.0, 7.0])
def test_every_pixel_under_a_stroke_has_its_side_at_the_size_of_the_photo(size, level):
    image, features = two_halves()
    labels = np.full(size, 255, np.uint8)
    labels.flat[:: max(3, labels.size // 400)] = 1
    labels.flat[1 :: max(3, labels.size // 400)] = 0  # both sides in nearly every place of the grid
    found = follow(torch.full((12, 16), level), Strokes(labels), features, image)
    assert found.shape == size and bool(found.isfinite().all())
    assert bool((found[torch.from_numpy(labels == 1)] >= CERTAIN).all())
    assert bool((found[torch.from_numpy(labels == 0)] <= -CERTAIN).all())


def test_a_stroke_reaches_what_looks_alike_and_stops_at_what_does_not():
    image, features = two_halves()
    strokes = Strokes.none((48, 64)).disc((24, 48), 4, True)
    mask = follow(torch.full((12, 16), -1.0), strokes, features, image) > 0
    assert mask[:, 40:].float().mean() > 0.95
    assert mask[:, :24].float().mean() == 0


def test_without_a_stroke_the_evidence_stays_as_it_is():
    image, features = two_halves()
    evidence = torch.linspace(-5, 5, 12 * 16).view(12, 16)
    assert torch.equal(follow(evidence, Strokes.none((12, 16)), features, image), evidence)


def test_a_stroke_over_the_whole_photo_is_a_mask():
    image, features = two_halves((480, 640))
    labels = np.zeros((480, 640), np.uint8)
    labels[100:300, 50:500] = 1
    found = follow(torch.zeros(12, 16), Strokes(labels), features, image) > 0
    assert np.array_equal(found.numpy(), labels == 1)


def test_a_disc_takes_at_least_its_centre_and_the_newest_lies_on_top():
    drawn = Strokes.none((9, 9)).disc((4, 4), 2, True).disc((4, 4), 0, False)
    assert drawn.labels[4, 4] == 0 and (drawn.labels == 1).sum() == 12 and (drawn.labels == 255).sum() == 81 - 13
    assert drawn and not Strokes.none((9, 9))


def test_a_thin_stroke_is_not_lost_at_a_smaller_size():
    strokes = Strokes.none((100, 100)).disc((51, 51), 0, True).disc((3, 90), 0, False)
    small = strokes.at((10, 10))
    assert small[5, 5] == 1 and small[0, 9] == 0 and int((small != 255).sum()) == 2


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7, np.uint8), np.zeros((4, 4)) - 0.5]
)
def test_strokes_that_are_no_strokes_get_one_line(labels):
    with pytest.raises(UsageError, match="1 on the class, 0 beside it, 255 elsewhere"):
        Strokes(labels)


def test_what_is_marked_as_one_class_is_none_of_the_others():
    cat, dog = Strokes.none((8, 8)).disc((2, 2), 1, True), Strokes.none((8, 8)).disc((6, 6), 1, False)
    told = competing({"cat": cat, "dog": dog})
    assert (told["dog"].labels[cat.labels == 1] == 0).all() and (told["dog"].labels == 0).sum() == 10
    assert np.array_equal(told["cat"].labels, cat.labels)
    with pytest.raises(UsageError, match=r"pixel \(1, 2\) is marked as 'cat' and as another class"):
        competing({"cat": cat, "dog": cat})


class Pixels(torch.nn.Module):
    """Colours at three strides, as an encoder."""

    strides, channels, patch = (2, 4, 8), (4, 4, 4), 8

    def forward(self, images):
        images = torch.cat([images, 1 - images.mean(1, keepdim=True)], 1)
        return Features(tuple(torch.nn.functional.avg_pool2d(images, s) for s in self.strides), self.strides)


@pytest.mark.parametrize("sides", [(True,), (False,), (True, False)])
def test_strokes_alone_are_a_shot_of_their_class(sides):
    image, _ = two_halves()
    model = Matching(Pixels())
    features, strokes = model.encode(image), Strokes.none((96, 128))
    for side in sides:
        strokes = strokes.disc((48, 96 if side else 32), 6, side)
    marked = shot(model, strokes, image, features, "bright")
    mask = torch.zeros(1, 1, 48, 64, dtype=torch.long)
    mask[..., 32:] = 1
    whole = model.encode_support(image[None], mask, features)
    for support in (marked, model.merge([whole, marked])):
        assert model(features, support, image).logits.isfinite().all()
    if sides == (True, False):
        logits = model(features, marked, image).logits[0]
        assert (logits[1] - logits[0])[:, 12:].mean() > (logits[1] - logits[0])[:, :4].mean()


def test_a_click_lands_at_the_centre_of_the_largest_error():
    truth, mask = np.zeros((40, 60), np.uint8), np.zeros((40, 60), bool)
    truth[10:21, 10:21] = 1  # missed: 121 pixels, its centre at (15, 15)
    mask[30:35, 40:60] = True  # in excess: 100 pixels
    drawn = effort.next_stroke(mask, truth, Strokes.none((40, 60)), radius=3)
    rows, columns = np.nonzero(drawn.labels == 1)
    assert (rows.mean(), columns.mean()) == (15, 15) and len(rows) == 29 and not (drawn.labels == 0).any()
    mask[10:21, 10:21] = True
    drawn = effort.next_stroke(mask, truth, Strokes.none((40, 60)), radius=50)  # no wider than the error: 2 pixels
    rows, columns = np.nonzero(drawn.labels == 0)
    assert set(rows) == {30, 31, 32, 33, 34} and not (drawn.labels[~mask] == 0).any()


def test_a_click_at_the_border_of_the_photo_keeps_away_from_it_and_ignored_pixels_are_no_error():
    truth = np.ones((11, 31), np.uint8)
    truth[:, 11:] = 255
    drawn = effort.next_stroke(np.zeros((11, 31), bool), truth, Strokes.none((11, 31)), radius=0)
    assert np.argwhere(drawn.labels == 1).tolist() == [[5, 5]]


def test_a_stroke_lies_within_the_error_that_it_marks_whatever_its_shape():
    stream = np.random.default_rng(0)
    for _ in range(30):
        truth, mask = (stream.random((20, 20)) > 0.4).astype(np.uint8), stream.random((20, 20)) > 0.5
        drawn = effort.next_stroke(mask, truth, Strokes.none((20, 20)), radius=9).labels
        marked = drawn != 255
        assert marked.any() and (drawn[marked] == truth[marked]).all() and (mask[marked] != (truth[marked] == 1)).all()


def bars(*widths):
    """Truths of 10 x 20: a bar of each width, from the left."""
    return [(np.arange(20)[None] < width).astype(np.uint8).repeat(10, 0) for width in widths]


class FakeTool:
    """Knows the widths of the examples; finds a bar of the nearest one it knows; a stroke makes it one fifth better."""

    def __init__(self, truths, first):
        self.truths, self.known, self.looked = truths, [first], []

    def truth(self, photo):
        return self.truths[photo]

    def first(self):
        return list(self.known)

    def learn(self, known, photo, mask):
        return [*known, int(mask[0].sum())]

    def find(self, known, photo):
        own = int(self.truths[photo][0].sum())
        width = 0 if known is None else min(known, key=lambda w: abs(w - own))
        return torch.where(torch.arange(20) < width, 2.0, -2.0 - 0.1 * own).expand(10, 20)  # wider: surer

    def present(self, found):
        return 1.0

    def draw(self, found, strokes, photo):
        if strokes:
            self.looked.append(photo)
            own = int(self.truths[photo][0].sum())
            covered = int((found[0] > 0).sum()) + 4 * sum(p == photo for p in self.looked)
            return torch.where(torch.arange(20) < min(own, covered), 2.0, -2.0).expand(10, 20)
        return found


def test_the_loop_of_corrections_counted_by_hand():
    truths, person = bars(16, 16, 8, 4), effort.Person(goal=0.85, most=20)

    def counts(run):
        return {i: done.strokes for i, done in effort.work(FakeTool(truths, 8), range(4), person, run).items()}

    # widths 8 -> 16: 12 then 16; 8 -> 4 is cut to 4 by the first stroke; from nothing 4 pixels a stroke
    assert counts("alone") == {3: 1, 2: 0, 0: 2, 1: 2}
    assert counts("nothing") == {3: 1, 2: 2, 0: 4, 1: 4}
    carried = counts("carried")
    assert carried == {3: 1, 2: 0, 0: 2, 1: 0}  # the second of width 16 finds the first
    assert list(carried)[:1] == [3]  # the narrow one is the most doubtful


def test_a_person_gives_up_after_the_most_strokes_and_the_iou_before_each_is_kept():
    truth = bars(10)[0]
    done = effort.correct(lambda strokes: np.zeros((10, 20), bool), truth, effort.Person(most=3))
    assert done.strokes == 3 and done.ious == [0, 0, 0, 0]
    done = effort.correct(lambda strokes: truth == 1, truth, effort.Person(most=3))
    assert done.strokes == 0 and done.ious == [1]


def row(run, name, photo, ious):
    return {"run": run, "class": name, "photo": photo, "seed": 0, "ious": ious, "strokes": len(ious) - 1}


def test_scores_are_means_of_classes_and_their_ratio_is_carried_over_alone():
    rows = [
        row("carried", "a", "1", [0.9]),
        row("carried", "a", "2", [0.5, 0.9]),
        row("carried", "b", "3", [0.82, 0.9]),
    ]
    rows += [
        row("alone", "a", "1", [0.1, 0.2, 0.9]),
        row("alone", "a", "2", [0.5, 0.9]),
        row("alone", "b", "3", [0.1, 0.9]),
    ]
    rows += [row("nothing", r["class"], r["photo"], [0, 0, 0.3]) for r in rows[:3]]
    content = effort.result({}, rows, effort.Person(), 2)
    carried, alone, nothing = (content["runs"][run] for run in effort.RUNS)
    assert carried["strokes"] == 0.75 and alone["strokes"] == 1.25 and content["carried_to_alone"] == 0.6
    assert carried["none_at_80"] == 75 and carried["none_at_85"] == 25 and nothing["given_up"] == 100
    assert carried["per_class"]["a"]["strokes"] == 0.5
    low, high = carried["interval"]["strokes"]
    assert low == 0.5 and high == 1  # class a: 0 to 1 a photo; class b has one photo
    json.dumps(content)


def test_examples_and_photos_to_correct_are_different_photos():
    items = [SimpleNamespace(content=c, class_id=0) for c in "aabcdde"]
    pool = SimpleNamespace(items=items, lists=[list(range(7))])
    examples, photos = effort.pick(pool, 0, shots=2, photos=9, seed=3)
    assert sorted(items[i].content for i in examples + photos) == list("abcde") and len(examples) == 2
    assert effort.pick(pool, 0, 2, 9, 3) == (examples, photos)


def test_expected_iou_is_expected_intersection_over_expected_union():
    probability = np.array([[0.8, 0.6, 0.3]])
    assert expected_iou(probability, probability > 0.5) == pytest.approx(1.4 / 2.3)
    assert expected_iou(probability, probability > 0.9) == pytest.approx(0.2)


@pytest.fixture()
def photos(tmp_path):
    for i in range(4):
        image, mask = np.full((48, 64, 3), 40, np.uint8), np.zeros((48, 64), np.uint8)
        image[8:40, 8 + 4 * i : 40 + 4 * i] = (220, 60 + 10 * i, 30)
        mask[8:40, 8 + 4 * i : 40 + 4 * i] = 255
        write_png(tmp_path / "in/images/block" / f"{i}.png", image)
        write_png(tmp_path / "in/masks/block" / f"{i}.png", mask)
    return tmp_path / "in"


def test_evaluate_counts_strokes_and_writes_every_photo_with_the_protocol(photos, tmp_path, capsys):
    words = ["evaluate", "folder", "--root", str(photos), "--effort", "--episodes", "2", "--seeds", "1"]
    words += ["--size", "64", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "a.json")]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert [row["run"] for row in content["photos"]] == ["carried"] * 2 + ["alone"] * 2 + ["nothing"] * 2
    assert content["person"]["goal"] == 0.85 and content["size"] == 64 and content["seeds"] == [1]
    assert all(len(row["ious"]) == row["strokes"] + 1 for row in content["photos"])
    assert "carried" in capsys.readouterr().out
    assert cli.main([*words, "--out", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["photos"] == content["photos"]


@pytest.mark.parametrize("flag", [["--way", "2"], ["--rule", "cst"], ["--resume"], ["--protocol", "hsnet"]])
def test_what_effort_does_not_read_is_refused(photos, tmp_path, flag, capsys):
    words = ["evaluate", "folder", "--root", str(photos), "--effort", *flag, "--out", str(tmp_path / "a.json")]
    assert cli.main(words) == 2
    assert f"{flag[0]} changes nothing with --effort" in capsys.readouterr().err
