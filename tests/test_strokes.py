"""Strokes bind, and cost no more than they must: the head looks at the photo once, tokens are compared level by level."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from page_project import photo
from shotseg.data.enlarging import values_at
from shotseg.data.samples import IGNORE
from shotseg.models import presence, strokes
from shotseg.models.strokes import Strokes
from shotseg.photo import Opened
from shotseg.result import Decided, ahead

SQUARES = [photo(seed) for seed in range(9)]


@pytest.fixture
def taught(segmenter):
    """Nine classes: more than are looked at closely. The mask of each is a square of another photo."""
    for number, image in enumerate(SQUARES):
        segmenter.add(f"square {number}", image, np.where(image[..., 0] > 200, np.uint8(255), np.uint8(0)))
    yield segmenter
    for name in segmenter.classes:
        segmenter.remove(name)


def test_with_strokes_the_evidence_of_a_photo_is_made_once(taught, monkeypatch):
    encoded, seen = taught.encode(SQUARES[3]), []
    evidence_of = presence.evidence_of
    monkeypatch.setattr(presence, "evidence_of", lambda *args: seen.append(1) or evidence_of(*args))
    drawn = {"square 2": Strokes.none(SQUARES[3].shape[:2]).disc((10, 10), 4, True)}
    assert taught.decide(encoded, drawn).present["square 2"] == 1 and len(seen) == 1


def test_strokes_of_a_class_that_is_not_among_the_likeliest_bind_all_the_same(taught):
    encoded = taught.encode(SQUARES[0])
    present = taught.decide(encoded).present
    least = min(present, key=present.__getitem__)
    drawn = Strokes.none(SQUARES[0].shape[:2]).disc((50, 70), 3, True)
    labels = taught.decide(encoded, {least: drawn}).labels
    assert (labels[drawn.labels == 1] == taught.classes.index(least) + 1).all()


@pytest.mark.parametrize("flat", [False, True])
def test_tokens_compared_level_by_level_are_as_alike_as_whole_ones(flat):
    grid, marked = (24, 18), torch.arange(0, 24 * 18, 7)
    levels = [torch.rand(1, c, 24 // s, 18 // s) for c, s in ((5, 2), (7, 3), (3, 6))]
    if flat:  # hardly a difference between places
        levels = [1 + 1e-2 * x for x in levels]
    units = [F.normalize(F.interpolate(x, grid, mode="bilinear"), dim=1) for x in levels]
    tokens = torch.cat(units, 1)[0].flatten(1).T
    tokens = F.normalize(tokens - tokens.mean(0), dim=1)
    torch.testing.assert_close(strokes._cosines(levels, grid, marked), tokens @ tokens[marked].T, atol=1e-3, rtol=0)


def test_where_strokes_deny_a_class_the_next_best_one_takes_its_place():
    random, size = np.random.default_rng(0), (40, 30)
    scores = random.normal(0, 2, (4, 10, 8)).astype(np.float32)
    marks = {name: random.choice([0, 1, IGNORE], size, p=[0.3, 0.02, 0.68]).astype(np.uint8) for name in "ac"}
    marks["a"][marks["c"] == 1] = 0
    seen = Opened(np.zeros((*size, 3), np.uint8), size, lambda: np.zeros((*size, 3), np.uint8))
    given = (seen, tuple("abc"), scores, dict.fromkeys("abc", 1.0))
    free = Decided(*given).labels
    labels = Decided(*given, {name: Strokes(drawn) for name, drawn in marks.items()}).labels
    rows, columns = np.indices(size).reshape(2, -1)
    values = values_at(ahead(scores), size, rows, columns).reshape(4, *size)
    for i, name in ((1, "a"), (3, "c")):
        values[i][marks[name] == 0] = -np.inf
    denied = np.any([(free == i) & (marks[name] == 0) for i, name in ((1, "a"), (3, "c"))], axis=0)
    expected = np.where(denied, values.argmax(0), free)
    for i, name in ((1, "a"), (3, "c")):
        expected[marks[name] == 1] = i
    assert denied.any() and np.array_equal(labels, expected)
