"""Scores of a semantic model: every pixel has one of all classes; base, novel and harmonic mean IoU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from shotseg.data.samples import IGNORE
from shotseg.data.weak_shot import WeakShotData
from shotseg.evaluation.counts import Counts, count, resamples, weak_shot, weighted
from shotseg.evaluation.summary import Summary

FORMAT = "shotseg-semantic-1"
Array = np.ndarray


def measure(
    predict: Callable[[Array], Array], data: WeakShotData, on_photo: Callable[[], None] = lambda: None
) -> Counts:
    """The counts of every photo, a row each with all classes in their order.

    predict: (H, W, 3) uint8 RGB -> (H, W) class ids.
    """
    classes = len(data.classes)
    rows: list[list[Array]] = []
    for i in range(len(data)):
        truth = torch.from_numpy(data.truth(i)).long()
        said = torch.from_numpy(predict(data.image(i)).astype(np.int64))
        # column 0 is the background of few-shot episodes, which semantic segmentation has not
        shifted = torch.where(truth == IGNORE, IGNORE, truth + 1)
        rows.append([x[0].numpy() for x in count(said[None] + 1, shifted[None], classes)])
        on_photo()
    intersection, union, target, ignored = (np.stack(column) for column in zip(*rows))
    return Counts(np.tile(np.arange(classes), (len(rows), 1)), intersection, union, target, ignored)


def result(counts: Counts, data: WeakShotData, times: int = 1000) -> dict[str, Any]:
    """Scores in percent, each with its 95 % interval over resampled photos, and the IoU of every class."""
    base, novel = np.array(data.base, int), np.array(data.novel, int)
    scores = weak_shot(counts, base, novel)
    drawn = [weak_shot(taken, base, novel) for taken in _taken(counts, resamples(len(counts), times))]
    interval = {name: np.percentile([d[name] for d in drawn], (2.5, 97.5)) for name in scores}
    inter, union, target = (counts.of(x, np.arange(len(data.classes))) for x in ("intersection", "union", "target"))
    return {
        "format": FORMAT,
        **{name: round(100 * value, 3) for name, value in scores.items()},
        "interval": {name: [round(100 * float(v), 3) for v in pair] for name, pair in interval.items()},
        "per_class": {
            name: round(100 * float(inter[i] / union[i]), 3) if target[i] else None
            for i, name in enumerate(data.classes)
        },
        "novel_classes": [data.classes[i] for i in data.novel],
        "photos": len(counts),
    }


def summary(content: dict[str, Any]) -> Summary:
    """What a result of a semantic model says in one table."""
    intervals = content["interval"]
    return Summary(
        title=f"{content['dataset']}, {content['photos']} photos, {len(content['per_class'])} classes",
        columns=("percent", "score", "95 % interval"),
        rows=[(name, f"{content[name]:.1f}", "{} .. {}".format(*pair)) for name, pair in intervals.items()],
        scores={name: content[name] for name in intervals},
        intervals=intervals,
    )


def paired(ours: Counts, theirs: Counts, data: WeakShotData, times: int = 2000) -> dict[str, dict[str, float]]:
    """Scores of ``ours`` minus ``theirs`` in percent with 95 % intervals, the same photos resampled together."""
    base, novel = np.array(data.base, int), np.array(data.novel, int)

    def difference(a: Counts, b: Counts) -> dict[str, float]:
        first, second = weak_shot(a, base, novel), weak_shot(b, base, novel)
        return {name: 100 * (first[name] - second[name]) for name in first}

    weights = resamples(len(ours), times)
    drawn = [difference(a, b) for a, b in zip(_taken(ours, weights), _taken(theirs, weights))]
    found = {}
    for name, value in difference(ours, theirs).items():
        low, high = np.percentile([d[name] for d in drawn], (2.5, 97.5))
        found[name] = {"difference": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}
    return found


def _taken(counts: Counts, weights: Array) -> Iterator[Counts]:
    """Of each resample, one row with its sums; ``weights`` (R, E)."""
    sums = [weighted(weights, x) for x in (counts.intersection, counts.union, counts.target, counts.ignored[:, None])]
    for intersection, union, target, ignored in zip(*sums):
        yield Counts(counts.classes[:1], intersection[None], union[None], target[None], ignored)
