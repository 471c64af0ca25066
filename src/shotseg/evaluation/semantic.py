"""Scores of a semantic model: every pixel has one of all classes; base, novel and harmonic mean IoU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from shotseg.data.samples import IGNORE
from shotseg.data.weak_shot import WeakShotData
from shotseg.evaluation.counts import Counts, count, resamples, weak_shot, weighted

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
        **{name: round(100 * value, 3) for name, value in scores.items()},
        "interval": {name: [round(100 * float(v), 3) for v in pair] for name, pair in interval.items()},
        "per_class": {
            name: round(100 * float(inter[i] / union[i]), 3) if target[i] else None
            for i, name in enumerate(data.classes)
        },
        "novel_classes": [data.classes[i] for i in data.novel],
        "photos": len(counts),
    }


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


def confusion(predicted: Array, truth: Array, classes: int, ignore: int = IGNORE) -> Array:
    """(C + 1, C + 1) int64 pixel counts [predicted, true]; the last row and column are ``ignore``."""
    said, true = (np.where(x == ignore, classes, x).astype(np.int64).ravel() for x in (predicted, truth))
    return np.bincount((classes + 1) * said + true, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)


def released_scores(conf: Array, base: Array, novel: Array) -> dict[str, float]:
    """The scores of MaskFormer's evaluator as SimFormer's release extends it, in percent, under its names.

    Pixels that are predicted as "ignore", which only pseudo labels are, count nowhere.
    """
    inner = conf[:-1, :-1].astype(np.float64)
    hit, said, true = inner.diagonal(), inner.sum(1), inner.sum(0)
    union = true + said - hit
    there, any_ = true > 0, union > 0
    iou = np.where(there, hit / np.maximum(union, 1), np.nan)
    accuracy = np.where(there, hit / np.maximum(true, 1), np.nan)
    share = true / max(true.sum(), 1)
    scores = {
        "mIoU": np.nansum(iou) / max(any_.sum(), 1),
        "fwIoU": np.nansum(iou * share),
        "mACC": np.nansum(accuracy) / max(there.sum(), 1),
        "pACC": hit.sum() / max(true.sum(), 1),
        **{f"IoU-{c}": v for c, v in enumerate(iou)},
        **{f"ACC-{c}": v for c, v in enumerate(accuracy)},
    }
    for group, ids in (("Base", base), ("Novel", novel)):
        kept = there[ids]
        for name, values in (("IoU", iou), ("ACC", accuracy)):
            scores[f"{group}{name}"] = values[ids][kept].mean() if kept.any() else np.nan
    return {name: 100 * float(value) for name, value in scores.items()}
