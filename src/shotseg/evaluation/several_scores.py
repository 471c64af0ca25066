"""From the counts of queries that were asked for several classes to scores, intervals and the result file.

One rule for every score: it is made of all queries of a draw, and the mean is taken over the draws. Its interval resamples the
queries of each draw among themselves, with everything of a query (all its classes, masks, presences) kept together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from shotseg.data.episodes import list_hash
from shotseg.evaluation import counts as reduce
from shotseg.evaluation.draws import Query, named
from shotseg.evaluation.evaluator import Row
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import Protocol
from shotseg.evaluation.several import KEEP
from shotseg.evaluation.summary import Summary, between

FORMAT = "shotseg-several-1"
ALARM = 0.01  # part of a photo from which a mask of a class that is not there is a false alarm
THIRDS = ("small", "medium", "large")
CHOICES = ("name", "seeds", "size", "geometry", "score_at", "align_corners", "ignore_band", "fusion", "overridden")
RULES = {
    "rule": "K examples of each class and queries, no photo twice in a draw, by content",
    "truth": "label map of all classes that are labelled in the photo; where masks overlap, the smaller lies on top",
    "absent": "a class without a label in the photo; a class in no truth and no decision of a draw is left out of its mean",
    "accumulate": "over all queries of a draw, then the mean of classes, then of draws",
    "interval": "95 %, queries resampled within each draw, 1000 times; the cut that keeps 90 % is held",
}

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one draw. Amounts are pixels, (E, 1 + N) int64 with the background first.

    present: (E, N) presence.        area_at_cut: (E, 1 + N).       own: (E,) the class, 0..N - 1, that a query was drawn for.
    known: (E, 2) intersection and union of that class where it alone is asked for.      confidence: (E,), NaN = not measured.
    """

    intersection: Array
    union: Array
    target: Array
    present: Array
    area_at_cut: Array
    own: Array
    known: Array
    confidence: Array

    @property
    def area(self) -> Array:
        """(E, 1 + N) pixels that each class was given."""
        return self.union + self.intersection - self.target

    @cached_property
    def there(self) -> Array:
        """(E, N) bool: the class is in the photo."""
        return self.target[:, 1:] > 0

    @property
    def share(self) -> Array:
        """(E, N) part of the photo that each class covers in truth."""
        return self.target[:, 1:] / self.pixels

    @property
    def pixels(self) -> Array:
        """(E, 1) pixels that count."""
        return np.maximum(self.target.sum(1, keepdims=True), 1)

    @property
    def photo_iou(self) -> Array:
        """(E,) intersections of all classes over their unions; 1 where nothing was there and nothing found."""
        inter, union = self.intersection[:, 1:].sum(1), self.union[:, 1:].sum(1)
        return np.where(union > 0, inter / np.maximum(union, 1), 1.0)


def table(queries: Sequence[Query], rows: Sequence[Row], pool: Pool) -> Table:
    """The rows of one draw as arrays."""

    def pixels(name: str) -> Array:
        return np.array([row[name] for row in rows], np.int64)

    confidence = [np.nan if row["confidence"] is None else row["confidence"] for row in rows]
    return Table(
        intersection=pixels("intersection"),
        union=pixels("union"),
        target=pixels("target"),
        present=np.array([row["present"] for row in rows]),
        area_at_cut=pixels("area_at_cut"),
        own=np.array([q.draw.classes.index(pool.items[q.item].class_id) for q in queries]),
        known=np.array([[row["known"]["intersection"], row["known"]["union"]] for row in rows], np.int64),
        confidence=np.array(confidence, np.float64),
    )


def under(control: str, asked: Table, rows: Sequence[Row]) -> Table:
    """The same queries as a control decides them."""
    amounts = {n: np.array([row["controls"][control][n] for row in rows], np.int64) for n in ("intersection", "union")}
    return replace(asked, **amounts)


# --- scores of one draw: each takes weights (R, E), how often each of R resamples takes a query, and gives (R,) -------------

Score = Callable[[Table, Array], Array]


def class_iou(t: Table, weights: Array) -> Array:
    """(R, N): intersections over unions, each summed over the queries."""
    return _ratio(weights @ t.intersection[:, 1:], weights @ t.union[:, 1:])


def known_iou(t: Table, weights: Array) -> Array:
    """(R, N): the same where a query is asked for its own class alone, which is known to be there."""
    drawn_for = t.own[:, None] == np.arange(t.present.shape[1])
    return _ratio(weights @ (drawn_for * t.known[:, :1]), weights @ (drawn_for * t.known[:, 1:]))


def main_class(t: Table, weights: Array) -> Array:
    """The class with the largest mask is one that the photo shows; no mask at all is wrong."""
    area, rows = t.area[:, 1:], np.arange(len(t.area))
    largest = area.argmax(1)
    return _share(weights, (area[rows, largest] > 0) & t.there[rows, largest], np.ones(len(area), bool))


def false_alarms(t: Table, weights: Array) -> Array:
    """Of the (photo, class) pairs that are not there: with a mask over 1 % of the photo."""
    return _share(weights, t.area[:, 1:] > ALARM * t.pixels, ~t.there)


def auroc(values: Array, positive: Array, weights: Array) -> Array:
    """(R,) probability that a positive has the higher value than a negative, ties half; NaN without either.

    values, positive: (E,) or (E, N).     weights: (R, E).
    """
    each = values.ravel()
    order = np.argsort(each, kind="stable")
    starts = np.flatnonzero(np.diff(each[order], prepend=np.nan) != 0)  # of each run of equal values
    positive, query = positive.ravel()[order], order // (values.size // len(values))
    areas = np.empty(len(weights))
    for r, row in enumerate(weights):  # one after the other: all at once would fill the memory
        good, bad = (np.add.reduceat(row[query] * side, starts) for side in (positive, ~positive))
        below = np.cumsum(bad) - bad
        areas[r] = _ratio((good * (below + bad / 2)).sum(), good.sum() * bad.sum())
    return areas


def _presence_auroc(t: Table, weights: Array) -> Array:
    return auroc(t.present, t.there, weights)


def _confidence_auroc(t: Table, weights: Array) -> Array:
    return auroc(-t.confidence, t.photo_iou < 0.5, weights)


SCORES: dict[str, Score] = {
    "miou": lambda t, weights: _mean(class_iou(t, weights), -1),
    "main_class": main_class,
    "false_alarms": false_alarms,
}


def scores(threshold: float, cut: float, sizes: Sequence[float], confident: bool) -> dict[str, Score]:
    """Every score by its name in the result. sizes: the two areas (parts of a photo) between small, medium and large."""

    def share_kept(at: float) -> Score:
        return lambda t, weights: _share(weights, t.present >= at, t.there)

    def alarms(t: Table, weights: Array) -> Array:
        return _share(weights, (t.present >= cut) & (t.area_at_cut[:, 1:] > ALARM * t.pixels), ~t.there)

    def recall(third: int) -> Score:
        covered = lambda t: t.intersection[:, 1:] / np.maximum(t.target[:, 1:], 1)  # noqa: E731
        return lambda t, weights: _share(weights, covered(t), t.there & (np.digitize(t.share, sizes) == third))

    return {
        **SCORES,
        "kept": share_kept(threshold),
        "false_alarms_at_cut": alarms,
        "kept_at_cut": share_kept(cut),
        "presence_auroc": _presence_auroc,
        "known_miou": lambda t, weights: _mean(known_iou(t, weights), -1),
        **{f"recall_{name}": recall(third) for third, name in enumerate(THIRDS)},
        **({"confidence_auroc": _confidence_auroc} if confident else {}),
    }


def _share(weights: Array, what: Array, of: Array) -> Array:
    """(R,) mean of ``what`` over the entries ``of`` all queries. what, of: (E,) or (E, N)."""
    of = of.reshape(len(of), -1)
    return _ratio(weights @ (what.reshape(of.shape) * of).sum(1), weights @ of.sum(1))


def _ratio(above: Any, below: Any) -> Any:
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def _mean(values: Array, axis: int) -> Array:
    """Mean of what is not NaN; NaN where all is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis))


# --- the result ---------------------------------------------------------------------------------------------------------


def result(
    about: dict[str, Any],
    protocol: Protocol,
    pool: Pool,
    lists: dict[int, list[Query]],
    rows: list[Row],
    threshold: float,
    cut: float,
) -> dict[str, Any]:
    """The content of a result file, ready for JSON; scores are percent, counts are pixels.

    about: what was measured on what, with ``way``, ``shot`` and ``queries``, written as it is.
    lists: the queries of each draw.    rows: of :func:`shotseg.evaluation.several.count_queries`, in the same order.
    """
    ends = np.cumsum([len(listed) for listed in lists.values()])
    parts = dict(zip(lists, (rows[end - len(listed) : end] for end, listed in zip(ends, lists.values()))))
    tables = {seed: table(lists[seed], parts[seed], pool) for seed in lists}
    areas = np.concatenate([t.share[t.there] for t in tables.values()])
    sizes = np.quantile(areas, (1 / 3, 2 / 3)).tolist() if len(areas) else [0.0, 0.0]
    every = scores(threshold, cut, sizes, not any(np.isnan(t.confidence).any() for t in tables.values()))
    controls = {
        control: _summary(SCORES, {seed: under(control, t, parts[seed]) for seed, t in tables.items()})
        for control in rows[0]["controls"]
    }
    scored_method = _summary(every, tables)
    return {
        "format": FORMAT,
        **about,
        "classes": pool.classes,
        "protocol": {
            **{name: getattr(protocol, name) for name in CHOICES},
            "present": threshold,
            "cut": cut,
            "cut_keeps": KEEP,
            "alarm": ALARM,
            "sizes": sizes,
            **RULES,
            "lists": {str(seed): list_hash(named(pool, listed)) for seed, listed in lists.items()},
        },
        **scored_method["mean"],
        **{name: scored_method[name] for name in ("ci95", "intervals", "per_seed")},
        "per_class": _per_class(pool, lists, tables),
        "controls": {name: {**scored["mean"], "ci95": scored["ci95"]} for name, scored in controls.items()},
        "counts": {"per_query": _stored(pool, lists, rows)},
    }


def _summary(wanted: dict[str, Score], tables: dict[int, Table]) -> dict[str, Any]:
    """Mean over the draws, ``ci95`` (of resampled queries), the intervals over queries and draws, and each draw's own scores."""
    each: dict[str, dict[str, Any]] = {str(seed): {} for seed in tables}
    mean, queries, draws = {}, {}, {}
    weights = {seed: reduce.resamples(len(t.own), seed=i).astype(float) for i, (seed, t) in enumerate(tables.items())}
    for name, score in wanted.items():
        of_draws = np.array([score(t, np.ones((1, len(t.own))))[0] for t in tables.values()])
        resampled = _mean(np.array([score(t, weights[seed]) for seed, t in tables.items()]), 0)
        numbers = of_draws[~np.isnan(of_draws)]
        mean[name] = _percent(_mean(of_draws, 0))
        queries[name] = _interval(resampled)
        over = reduce.seed_interval(numbers.tolist())
        draws[name] = None if over is None else [100 * x for x in over]
        for seed, value in zip(each, of_draws):
            each[seed][name] = _percent(value)
    return {"mean": mean, "ci95": queries, "intervals": {"queries": queries, "draws": draws}, "per_seed": each}


def _interval(resampled: Array) -> list[float] | None:
    numbers = resampled[~np.isnan(resampled)]
    return [100 * float(x) for x in np.percentile(numbers, (2.5, 97.5))] if len(numbers) else None


def _percent(value: Any) -> float | None:
    return None if np.isnan(value) else 100 * float(value)


def _per_class(pool: Pool, lists: dict[int, list[Query]], tables: dict[int, Table]) -> dict[str, dict[str, Any]]:
    """``iou``, ``known_iou`` (percent, means over the draws that have the class) and ``photos`` that show it."""
    shape = (len(lists), len(pool.classes))
    iou, iou_alone, photos = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64)
    for i, (seed, t) in enumerate(tables.items()):
        once, classes = np.ones((1, len(t.own))), list(lists[seed][0].draw.classes)
        iou[i, classes], iou_alone[i, classes], photos[i, classes] = (
            class_iou(t, once),
            known_iou(t, once),
            t.there.sum(0),
        )
    pairs = zip(pool.classes, _mean(iou, 0), _mean(iou_alone, 0), photos.sum(0))
    return {n: {"iou": _percent(a), "known_iou": _percent(b), "photos": int(p)} for n, a, b, p in pairs}


def _stored(pool: Pool, lists: dict[int, list[Query]], rows: list[Row]) -> dict[str, Any]:
    """The rows as columns, beside what was asked; what a draw gave stands once under ``draws``."""
    picks = [(seed, query) for seed, listed in lists.items() for query in listed]
    names = ("intersection", "union", "target", "ignored", "present", "known", "confidence", "area_at_cut", "controls")
    given = {seed: listed[0].draw for seed, listed in lists.items()}
    return {
        "draws": {
            str(seed): {pool.classes[c]: [pool.items[i].id for i in own] for c, own in zip(d.classes, d.supports)}
            for seed, d in given.items()
        },
        "seed": [seed for seed, _ in picks],
        "query": [pool.items[query.item].id for _, query in picks],
        **{name: [row[name] for row in rows] for name in names},
    }


def summary(content: dict[str, Any]) -> Summary:
    """What a result of several classes at once says in one table."""
    asked, drawn = len(content["counts"]["per_query"]["seed"]), len(content["per_seed"])
    return Summary(
        title=f"{content['dataset']}, {content['way']}-way {content['shot']}-shot, {asked} queries in {drawn} draws",
        columns=("percent", "value", "95 % interval"),
        rows=lines(content),
        scores={name: content[name] for name in content["ci95"]},
        intervals=content["ci95"],
        numbers=("value",),
        notes=[note for note in (_unasked(content), _left_out(content)) if note],
    )


def _unasked(content: dict[str, Any]) -> str:
    """One line that names the classes without a query in some draw; empty without any."""
    names = ", ".join(content["without_query"])
    return (
        f"no photo is left to ask for in some draw, all serve other classes: {names}; take fewer --shot"
        if names
        else ""
    )


def _left_out(content: dict[str, Any]) -> str:
    """One line that names the classes that had too few examples for some draw, or for all; empty without any."""
    names, few = ", ".join(content.get("left_out", ())), content["shot"] + 1
    return f"left out of one draw or all, fewer than {few} photos that serve no other class: {names}" if names else ""


def lines(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table: what, percent, 95 % interval."""
    at = f"at presence {content['protocol']['present']:g}"
    names = {
        "miou": f"all classes at once, mIoU, {at}",
        "main_class": f"right main class, {at}",
        "kept": f"classes that are there, kept {at}",
        "false_alarms": f"absent class with a mask over 1 %, {at}",
        "kept_at_cut": f"kept at presence {content['protocol']['cut']:.3g}, the highest that keeps 90 %",
        "false_alarms_at_cut": "absent class with a mask over 1 %, at that presence",
        "presence_auroc": "presence, AUROC",
        "confidence_auroc": "confidence, AUROC of photos below IoU 0.5",
        "known_miou": "one class, known to be there, mIoU",
        **{f"recall_{name}": f"pixels found of the {name} third" for name in THIRDS},
    }
    rows: list[tuple[str, ...]] = [
        (label, *_numbers(content, name)) for name, label in names.items() if name in content
    ]
    short = {"miou": "mIoU", "main_class": "right main class", "false_alarms": "false alarms"}
    for control, scores in content["controls"].items():
        label = f"control: {control.replace('_', ' ')}"
        rows += [(f"{label}, {short[name]}", *_numbers(scores, name)) for name in SCORES]
    return rows


def _numbers(scores: dict[str, Any], name: str) -> tuple[str, str]:
    value, interval = scores[name], scores["ci95"][name]
    return (
        "" if value is None else f"{value:.1f}",
        between(interval),
    )
