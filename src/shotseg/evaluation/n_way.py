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
from shotseg.evaluation.protocols import preset
from shotseg.evaluation.results import environment
from shotseg.evaluation.summary import Summary

FORMAT = "shotseg-ways-1"
# what a protocol does not choose here: all of it is as CST's release evaluates, for one class and for several
FIXED: dict[str, Any] = {
    name: getattr(preset("cst"), name)
    for name in ("rule", "score_at", "align_corners", "ignore_band", "fusion", "absent")
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
    """``miou`` and ``exact_ratio`` in percent. Each shot is asked alone, and the probabilities of the shots are averaged.

    A class is there where the model's presence says so (without one, where a pixel is its); a pixel is that of its likeliest
    class from a probability of 1/2 on. The band of 255 is background, and a class that never occurs counts as zero.
    """
    pool, rows, said = evaluator.pool, [], []
    for episode in episodes:
        query = evaluator.photo(episode.query)
        truth, soft, present = None, [], []
        for way, (class_id, own) in enumerate(zip(episode.classes, episode.supports), 1):
            label = torch.from_numpy(evaluator.label(episode.query, class_id).astype(np.int64))
            truth = torch.zeros_like(label) if truth is None else truth
            truth = torch.where(label == 1, way, truth)
            told = evaluator.told(EpisodeIndex(episode.query, own, class_id))
            with torch.no_grad():
                shots = [evaluator.support(i) for i in own]
                found = [evaluator.model(query.features, shot, query.image, **told) for shot in shots]
            soft.append(torch.stack([_soft(evaluator, x.logits[0], label.shape) for x in found]).mean(0))
            says = [x.extra["presence"][0].softmax(0)[1] for x in found if "presence" in x.extra]
            present.append(int(torch.stack(says).mean() > 0.5) if says else None)
        assert truth is not None
        rows.append(_counted(torch.stack(soft), truth))
        said.append(present)
    intersection, union, target, ignored = (np.concatenate([row[i].numpy() for row in rows]) for i in range(4))
    known: Any = None if said[0][0] is None else np.array(said)
    classes = np.array([episode.classes for episode in episodes])
    counted = Counts(classes, intersection, union, target, ignored, known)
    ids = np.arange(len(pool.classes))
    miou = float(reduce.miou(counted, ids, FIXED["absent"]))
    return {"miou": 100 * miou, "exact_ratio": 100 * reduce.exact_ratio(counted)}


def _soft(evaluator: Evaluator, logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """(H, W) probability of the class at the photo's own ``size``."""
    height, width = size
    if evaluator.geometry == "pad":
        logits = without_padding(logits, (height, width), evaluator.size, align_corners=True)
    return transforms.resize_logits(logits, (height, width), align_corners=True).softmax(0)[1].cpu()


def _counted(soft: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    best, way = soft.max(0)
    return count(torch.where(best >= 0.5, way + 1, 0)[None], truth[None], len(soft))
