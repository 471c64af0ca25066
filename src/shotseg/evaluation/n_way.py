"""Several classes asked for at once, of which a query may show none: few-shot classification and segmentation (iFSL, CST).

Kang and Cho (CVPR 2022), Kang et al. (CVPR 2023). Episodes as CST draws them; scored by exact ratio and mIoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotseg.data import transforms
from shotseg.data.episodes import EpisodeIndex
from shotseg.errors import UsageError
from shotseg.evaluation import counts as reduce
from shotseg.evaluation.canvas import without_padding
from shotseg.evaluation.counts import Counts, count
from shotseg.evaluation.episode_rules import cst_query, supports_of
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.results import environment
from shotseg.evaluation.summary import Summary

FORMAT = "shotseg-ways-1"
# what a protocol does not choose here
FIXED: dict[str, Any] = {
    "rule": "cst",
    "score_at": "original",
    "align_corners": True,
    "ignore_band": "exclude",
    "fusion": "model",
    "absent": "skip",
}


@dataclass(frozen=True)
class Ways:
    """One query and N classes with K supports each, as positions in the pool."""

    query: int
    classes: tuple[int, ...]
    supports: tuple[tuple[int, ...], ...]


def draw(pool: Pool, ways: int, shots: int = 1, seed: int = 0, episodes: int = 1000, rule: str = "cst") -> list[Ways]:
    """N classes without replacement, with probability 1/2 on the query's and the rest shared equally; the stream is seeded
    with the episode's number plus ``seed``. rule: "cst", or "cst-coco" where the query's class is drawn first.
    Raises UsageError for more ways than classes."""
    if not 1 <= ways <= len(pool.classes):
        raise UsageError(f"{ways} ways of {len(pool.classes)} classes: give 1 to {len(pool.classes)}")
    found = []
    for i in range(episodes):
        stream = np.random.RandomState(seed + i)
        query = cst_query(pool, stream, i, by_class=rule == "cst-coco")
        own = pool.items[query].class_id
        chances = np.full(len(pool.classes), 0.5 / max(1, len(pool.classes) - 1))
        chances[own] = 1 - (chances.sum() - chances[own])
        drawn = tuple(int(c) for c in stream.choice(len(pool.classes), ways, replace=False, p=chances))
        found.append(
            Ways(query, drawn, tuple(supports_of(pool, stream, query, c, shots, distinct=True) for c in drawn))
        )
    return found


def result(
    evaluator: Evaluator, about: dict[str, Any], ways: int, shots: int, rule: str = FIXED["rule"]
) -> dict[str, Any]:
    """The content of a result file: the means over the seeds of :func:`evaluate`, each seed's, and the protocol.

    rule: of :func:`draw`.
    """
    protocol = replace(evaluator.protocol, **FIXED | {"rule": rule})
    scores = {
        seed: evaluate(evaluator, draw(evaluator.pool, ways, shots, seed, protocol.episodes, rule))
        for seed in protocol.seeds
    }
    means = {name: sum(s[name] for s in scores.values()) / len(scores) for name in ("miou", "exact_ratio")}
    known = {"protocol": asdict(protocol), **means, "per_seed": scores, "environment": environment(evaluator.device)}
    return {"format": FORMAT, **about, "way": ways, **known}


def summary(content: dict[str, Any]) -> Summary:
    """What a result of CST's episodes says in one table."""
    scores = {name: content[name] for name in ("miou", "exact_ratio")}
    each = f"{content['protocol']['episodes']} episodes a seed"
    return Summary(
        title=f"{content['dataset']}, {content['way']}-way {content['shot']}-shot, {each}",
        columns=("percent", "value"),
        rows=[(name, f"{value:.1f}") for name, value in scores.items()],
        scores=scores,
        numbers=("value",),
    )


def evaluate(evaluator: Evaluator, episodes: Sequence[Ways]) -> dict[str, float]:
    """``miou`` and ``exact_ratio`` in percent. A class is there where the model's presence says so (on average over the
    shots; without one, where a pixel is its); a pixel is that of its likeliest class from a probability of 1/2 on."""
    pool, rows, said = evaluator.pool, [], []
    for episode in episodes:
        query = evaluator.photo(episode.query)
        truth, soft, present = None, [], []
        for way, (class_id, own) in enumerate(zip(episode.classes, episode.supports), 1):
            label = torch.from_numpy(evaluator.label(episode.query, class_id).astype(np.int64))
            truth = torch.zeros_like(label) if truth is None else truth
            truth = torch.where(label == 1, way, torch.where((label == 255) & (truth == 0), 255, truth))
            with torch.no_grad():
                support = evaluator.model.merge([evaluator.support(i) for i in own])
                told = evaluator.told(EpisodeIndex(episode.query, own, class_id))
                found = evaluator.model(query.features, support, query.image, **told)
            height, width = label.shape
            logits = found.logits[0]
            if evaluator.geometry == "pad":
                logits = without_padding(logits, (height, width), evaluator.size, align_corners=True)
            soft.append(transforms.resize_logits(logits, (height, width), align_corners=True).softmax(0)[1].cpu())
            says = found.extra.get("presence")
            present.append(None if says is None else int(says[0, 1] > says[0, 0]))
        assert truth is not None
        rows.append(_counted(torch.stack(soft), truth))
        said.append(present)
    intersection, union, target, ignored = (np.concatenate([row[i].numpy() for row in rows]) for i in range(4))
    known: Any = None if said[0][0] is None else np.array(said)
    classes = np.array([episode.classes for episode in episodes])
    counted = Counts(classes, intersection, union, target, ignored, known)
    ids = np.arange(len(pool.classes))
    return {"miou": 100 * float(reduce.miou(counted, ids)), "exact_ratio": 100 * reduce.exact_ratio(counted)}


def _counted(soft: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    best, way = soft.max(0)
    return count(torch.where(best >= 0.5, way + 1, 0)[None], truth[None], len(soft))
