"""Several classes at once, some of them absent: every query is decided against all classes of its draw, and counted.

A query is decided by :func:`shotseg.models.presence.decide` at the operating point, again with every class known to be there
(a control), and once with the examples of its own class alone. A second pass decides at the presence that keeps 90 % of what
is there, which only the first pass can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotseg.data import transforms
from shotseg.data.episodes import EpisodeIndex
from shotseg.data.samples import IGNORE, Support
from shotseg.evaluation import canvas, confidence
from shotseg.evaluation.counts import count
from shotseg.evaluation.draws import Query
from shotseg.evaluation.episode_loop import count_episodes
from shotseg.evaluation.evaluator import Evaluator, Row
from shotseg.models import presence
from shotseg.models.presence import Decision

KEEP = 0.9  # of the classes that are there: where false alarms of two methods are compared

# labels (H, W) uint8, probabilities (N, H, W), presence (N,) -> one number for the photo
Confidence = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


class Several(Evaluator):
    """An evaluator of queries. threshold: the operating point.     sure: how sure a decision is; None = not measured."""

    def __init__(
        self, *args: Any, threshold: float = 0.5, sure: Confidence | None = confidence.of_labels, **options: Any
    ):
        super().__init__(*args, **options)
        self.threshold, self.sure = threshold, sure
        self._item = {(x.content, x.class_id): i for i, x in reversed(list(enumerate(self.pool.items)))}

    def counts(self, query: Query) -> Row:
        """The counts of one query: lists have the background first, then the classes of the draw; ``present`` has none."""
        truth = self.truth(query)
        labels, scores, decision = self.decided(query, self.threshold)
        every = self.decided(query, None)[0]
        likeliest = 1 + int(decision.present.argmax())
        own = {name: mask * likeliest for name, mask in self.control_masks(query.item, truth.shape).items()}
        there, ways = {"every_class_is_there": every, **own}, len(decision.present)
        return {
            **_counted(labels, truth, ways),
            "present": decision.present.tolist(),
            "known": self._known(query),
            "confidence": self._confidence(labels, scores, decision),
            "controls": {name: _overlap(mask, truth, ways) for name, mask in there.items()},
        }

    def truth(self, query: Query) -> Tensor:
        """(H, W) int64: n + 1 where the photo shows ``draw.classes[n]``, 0 elsewhere, 255 = ignored.

        Masks are joined by the photo's content. Where two overlap, the smaller object lies on top; 255 of one mask holds
        where no other mask says what is there.
        """
        content, classes = self.pool.items[query.item].content, query.draw.classes
        shown = [(n, self._item[content, c]) for n, c in enumerate(classes, 1) if (content, c) in self._item]
        masks = sorted(((n, self.sample(i)[1]) for n, i in shown), key=lambda x: -int((x[1] == 1).sum()))
        truth = np.zeros(masks[0][1].shape, np.int64)
        for n, mask in masks:
            truth[mask == 1] = n
        for _, mask in masks:
            truth[(mask == IGNORE) & (truth == 0)] = IGNORE
        return torch.from_numpy(truth)

    def decided(
        self, query: Query, threshold: float | None, ways: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor, Decision]:
        """Labels (H, W) int64 and scores (N + 1, H, W) at the photo's own size, and the decision they come from.

        ways: positions of the classes in the draw that are asked for; default all.
        """
        photo, given = self.photo(query.item), query.draw
        asked = [(given.classes[n], given.supports[n]) for n in (range(len(given.classes)) if ways is None else ways)]
        told = [self.told(EpisodeIndex(query.item, own, class_id)) for class_id, own in asked]
        height, width = self.sample(query.item)[1].shape
        with torch.no_grad():
            supports = [self.joined(own) for _, own in asked]
            decision = presence.decide(self.model, photo.features, supports, photo.image, told, threshold)
            scores = decision.scores.float()
            if self.geometry == "pad":
                scores = canvas.without_padding(scores, (height, width), self.size, align_corners=False)
            scores = transforms.resize_logits(scores, (height, width))
        return scores.argmax(0).cpu(), scores, replace(decision, present=decision.present.cpu())

    def joined(self, items: tuple[int, ...]) -> Support:
        """The examples of one class as its support."""
        join = self.model.merge
        return self.cache.get(("joined", items), lambda: join([self._shot(i) for i in items]))

    def _shot(self, i: int) -> Support:
        photo, mask = self.photo(i), self.working_mask(i)
        with torch.no_grad():
            names = (self.pool.items[i].class_name,)
            return presence.encode_shot(self.model, photo.image, mask, photo.features, names)

    def _known(self, query: Query) -> Row:
        """Overlap of the query's own class, which is known to be there, decided by its examples alone."""
        own = self.pool.items[query.item].class_id
        labels = self.decided(query, None, [query.draw.classes.index(own)])[0]
        found = _overlap(labels, torch.from_numpy(self.label(query.item, own).astype(np.int64)), 1)
        return {name: amounts[1] for name, amounts in found.items()}

    def area(self, query: Query, threshold: float) -> Row:
        """Pixels that each class covers at another threshold, background first, where the truth is not ignored."""
        labels = self.decided(query, threshold)[0][self.truth(query) != IGNORE]
        return {"area": torch.bincount(labels, minlength=len(query.draw.classes) + 1).tolist()}

    def _confidence(self, labels: Tensor, scores: Tensor, decision: Decision) -> float | None:
        if self.sure is None:
            return None
        soft = scores.softmax(0)[1:].cpu().numpy()
        return float(self.sure(labels.numpy().astype(np.uint8), soft, decision.present.numpy()))


class _Pass:
    """What the loop asks of a pass over the queries: ``row`` of each."""

    def __init__(self, several: Several, row: Callable[[Query], Row]):
        self.own_model, self.row = several.own_model, row

    def group(self, query: Query) -> int:
        return query.draw.seed  # the examples of a draw are kept while its queries are asked


def cut_that_keeps(part: float, rows: Sequence[Row]) -> float:
    """The highest presence at which at least this part of the (photo, class) pairs that are there is kept."""
    of_those_there = sorted(
        (p for row in rows for p, area in zip(row["present"], row["target"][1:]) if area), reverse=True
    )
    return of_those_there[math.ceil(part * len(of_those_there) - 1e-9) - 1] if of_those_there else 0.0


def count_queries(
    several: Several,
    queries: list[Query],
    partial: Path | None,
    fingerprint: str,
    **how: Any,
) -> tuple[list[Row], float]:
    """The row of every query with its ``area_at_cut``, and the cut.

    how: the further arguments of :func:`shotseg.evaluation.episode_loop.count_episodes`; each pass has a partial file of its own.
    """
    rows = count_episodes(_Pass(several, several.counts), queries, partial, fingerprint, **how)
    cut = cut_that_keeps(KEEP, rows)
    at_cut = _Pass(several, lambda query: several.area(query, cut))
    again = count_episodes(at_cut, queries, partial and second(partial), f"{fingerprint} {cut!r}", **how)
    return [{**row, "area_at_cut": more["area"]} for row, more in zip(rows, again)], cut


def second(partial: Path) -> Path:
    """The partial file of the second pass, beside that of the first."""
    return partial.with_name(f"cut-{partial.name}")


def _counted(labels: Tensor, truth: Tensor, ways: int) -> Row:
    intersection, union, target, ignored = (x[0].tolist() for x in count(labels[None], truth[None], ways))
    return {"intersection": intersection, "union": union, "target": target, "ignored": ignored}


def _overlap(labels: Tensor, truth: Tensor, ways: int) -> Row:
    counted = _counted(labels, truth, ways)
    return {name: counted[name] for name in ("intersection", "union")}
