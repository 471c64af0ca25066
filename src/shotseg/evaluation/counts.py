"""Count first, reduce later: pixel counts of every episode, and each published score as a reduction of them.

A few-shot episode is one row with one class (N = 1) and the background in column 0. An image of semantic segmentation
is one row with N classes and an empty column 0. All counts are int64, so sums are exact and order never matters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from shotseg.data.samples import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray


def count(prediction: Tensor, target: Tensor, classes: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixel counts of each image of a batch.

    prediction: (B, H, W) integers in 0..classes.       target: the same shape, 255 = ignored.
    Gives intersection, union and target area, each (B, 1 + classes) int64 with the background first, and the number of
    ignored pixels (B,). Nothing is counted where the target is 255, whatever was predicted there.
    """
    import torch

    columns = classes + 1
    code = torch.add(prediction.long(), target, alpha=columns).flatten(1)
    pairs = [torch.bincount(x, minlength=columns * columns) for x in code]
    confusion = torch.stack([x[: columns * columns] for x in pairs]).unflatten(
        1, (columns, columns)
    )  # (B, true, predicted)
    ignored = torch.stack([x[columns * IGNORE :].sum() for x in pairs])  # whatever was predicted there
    both, true = confusion.diagonal(dim1=1, dim2=2), confusion.sum(2)
    return both, confusion.sum(1) + true - both, true, ignored


@dataclass(frozen=True, eq=False)
class Counts:
    """The counts of E episodes with N classes each, int64.

    classes: (E, N) class ids.      intersection, union, target: (E, 1 + N), background first.      ignored: (E,).
    present: (E, N) 1 where the class was said to be in the photo (a classifier's answer); default: where it was
    predicted.
    """

    classes: Array
    intersection: Array
    union: Array
    target: Array
    ignored: Array
    present: Array | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: Array | slice) -> Counts:
        chosen = {f.name: value[rows] for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return Counts(**chosen)

    @property
    def predicted(self) -> Array:
        """(E, 1 + N) predicted areas."""
        return self.union + self.intersection - self.target

    def of(self, name: str, class_ids: Array, weights: Array | None = None) -> Array:
        """Sums over episodes of ``intersection``, ``union`` or ``target`` for each of the C class ids: (C,), or (R, C)
        with ``weights`` (R, E), how often each episode is taken in each of R resamples."""
        amounts, own = getattr(self, name)[:, 1:], self.classes
        member = own[:, :, None] == np.asarray(class_ids)  # (E, N, C)
        spread = (amounts[:, :, None] * member).sum(1)  # (E, C)
        return spread.sum(0) if weights is None else weighted(weights, spread)


def weighted(weights: Array, amounts: Array) -> Array:
    """weights (R, E) times amounts (E, C), both int64: (R, C) int64, exact.

    An episode has few of the classes: multiplied as sparse, and numpy has no fast product of integers.
    """
    from scipy.sparse import csr_array

    return (csr_array(amounts).T @ weights.T).T


def class_iou(counts: Counts, class_ids: Array, weights: Array | None = None) -> Array:
    """IoU of each class in [0, 1]: its intersections summed over all episodes over its unions summed likewise.

    (C,) float64, or (R, C) with ``weights``; NaN for a class that was neither present nor predicted in any episode.
    """
    union = counts.of("union", class_ids, weights).astype(np.float64)
    return np.divide(
        counts.of("intersection", class_ids, weights), union, out=np.full_like(union, np.nan), where=union > 0
    )


def miou(counts: Counts, class_ids: Array, absent: str = "skip", weights: Array | None = None) -> Array:
    """Mean of :func:`class_iou`. A number, or (R,) with ``weights``.

    ``absent``: classes that occur in none of the episodes are left out ("skip") or count 0 ("zero", as released by the
    HSNet and PFENet families). A class that occurs, but in no episode of a resample, is left out of that resample alone.
    """
    iou = class_iou(counts, class_ids, weights)
    known = ~np.isnan(iou)
    mean = np.nan_to_num(iou).sum(-1) / np.maximum(known.sum(-1), 1)
    return mean * (counts.of("union", class_ids) > 0).mean() if absent == "zero" else mean


def score(counts: Counts, class_ids: Array, absent: str = "skip", runs: Array | None = None) -> float:
    """The mIoU of a result, in [0, 1]: of each run (E,) of episodes alone, then the mean of the runs."""
    return float(np.mean([miou(run, class_ids, absent) for run in _by_run(counts, runs)]))


def _by_run(counts: Counts, runs: Array | None) -> list[Counts]:
    return [counts] if runs is None else [counts[runs == run] for run in np.unique(runs)]


def fb_iou(counts: Counts, weights: Array | None = None) -> Array:
    """Mean IoU of foreground and background, each summed over all episodes regardless of class (HSNet and PFENet
    agree)."""

    def total(amounts: Array) -> Array:  # (E, 1 + N) -> (2,) or (R, 2)
        pair = np.stack([amounts[:, 0], amounts[:, 1:].sum(1)], 1)
        return pair.sum(0) if weights is None else weights @ pair

    return (total(counts.intersection) / np.maximum(total(counts.union), 1)).mean(-1)


def episode_iou(counts: Counts) -> Array:
    """(E,) foreground IoU of each episode (mean over its classes); 1 where nothing was there and nothing predicted."""
    inter, union = counts.intersection[:, 1:], counts.union[:, 1:]
    return np.where(union > 0, inter / np.maximum(union, 1), 1.0).mean(1)


def expected_iou(probability: Array, mask: Array) -> float:
    """The IoU in [0, 1] that a mask is expected to have if the probabilities hold; of an empty mask, 1 - max p.

    probability: (H, W) in [0, 1].   mask: (H, W) bool.   Expected intersection over expected union: sum of p inside the mask /
    (mask's area + sum of p outside it).
    """
    if not mask.any():
        return float(1 - probability.max())
    inside = float(probability[mask].sum(dtype=np.float64))
    everywhere = float(probability.sum(dtype=np.float64))
    return inside / (float(mask.sum()) + everywhere - inside)


def exact_ratio(counts: Counts) -> float:
    """Part of the episodes in which exactly the right classes were said to be present (CST's 0/1 exact ratio)."""
    said = counts.predicted[:, 1:] > 0 if counts.present is None else counts.present > 0
    return float((said == (counts.target[:, 1:] > 0)).all(1).mean())


def pixel_accuracy(counts: Counts) -> float:
    """Part of the pixels that are not ignored and carry the right class."""
    return float(counts.intersection.sum() / max(int(counts.target.sum()), 1))


def weak_shot(counts: Counts, base: Array, novel: Array) -> dict[str, float]:
    """Scores of weak-shot segmentation, in [0, 1] (MaskFormer's evaluator as SimFormer uses it).

    ``miou``: IoU summed over the classes in the ground truth, divided by the classes in ground truth or prediction.
    ``base``, ``novel``: plain means over the group's classes in the ground truth. ``harmonic``: of those two.
    """

    def group(ids: Array) -> float:
        there = counts.of("target", ids) > 0
        return float(class_iou(counts, ids)[there].mean()) if there.any() else 0.0

    everything = np.concatenate([base, novel])
    low, high = group(base), group(novel)
    return {
        "miou": float(miou(counts, everything)),
        "base": low,
        "novel": high,
        "harmonic": 2 * low * high / (low + high) if low + high else 0.0,
        "pixel_accuracy": pixel_accuracy(counts),
    }


def resamples(episodes: int, times: int = 1000, seed: int = 0) -> Array:
    """(times, episodes) int64: how often a bootstrap resample takes each episode; the same for the same arguments."""
    draw, taken = np.random.default_rng(seed), np.empty((times, episodes), np.int64)
    for rows in np.array_split(taken, max(1, taken.size // 10**5)):  # what a cache holds
        drawn = draw.integers(episodes, size=rows.shape) + episodes * np.arange(len(rows))[:, None]
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return taken


def _resampled(counts: Counts, class_ids: Array, absent: str, times: int, runs: Array | None) -> Array:
    """(times,) values of :func:`score`, the episodes of each run resampled among themselves."""
    each = enumerate(_by_run(counts, runs))
    return np.mean([miou(run, class_ids, absent, resamples(len(run), times, seed=i)) for i, run in each], axis=0)


def bootstrap_interval(
    counts: Counts, class_ids: Array, absent: str = "skip", times: int = 1000, runs: Array | None = None
) -> tuple[float, float]:
    """95 % interval of :func:`score` (in [0, 1]) over resampled episodes: the luck of the draw of episodes, not of
    photos."""
    low, high = np.percentile(_resampled(counts, class_ids, absent, times, runs), (2.5, 97.5))
    return float(low), float(high)


def seed_interval(values: list[float], most: float = 1.0) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds (Student's t), within what a score can be, 0 to ``most``; None with fewer than two
    seeds."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return max(0.0, mean - reach), min(most, mean + reach)


def paired_bootstrap(
    ours: Counts,
    theirs: Counts,
    class_ids: Array,
    times: int = 2000,
    absent: str = "skip",
    runs: Array | None = None,
) -> dict[str, float]:
    """:func:`score` of ``ours`` minus ``theirs`` over the same episodes in the same order, both resampled together.

    ``difference`` with its 95 % interval ``low``..``high`` (in [0, 1]) and ``p``, two-sided: twice the part of the
    resamples on the other side of zero, the result itself counted as one of them, so that it is never 0.
    """
    first, second = (_resampled(x, class_ids, absent, times, runs) for x in (ours, theirs))
    drawn = first - second
    low, high = np.percentile(drawn, (2.5, 97.5))
    other_side = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + times)
    difference = score(ours, class_ids, absent, runs) - score(theirs, class_ids, absent, runs)
    return {"difference": difference, "low": float(low), "high": float(high), "p": float(min(1.0, 2 * other_side))}
