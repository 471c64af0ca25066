"""Several classes at once as a whole: draw, decide, count, and make the content of the result file and its page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.episodes import list_hash
from shotseg.device import one_thread_each
from shotseg.evaluation import draws, result_page, results, several_scores
from shotseg.evaluation.draws import Query
from shotseg.evaluation.episode_loop import OnProgress, Tally
from shotseg.evaluation.result_page import Pictures, without_ignored
from shotseg.evaluation.several import Several, count_queries
from shotseg.overlay import draw


def measure(
    several: Several,
    about: dict[str, Any],
    partial: Path | None,
    on_progress: OnProgress,
    left_out: tuple[str, ...] = (),
    **how: Any,
) -> tuple[dict[str, Any], str]:
    """The content of the result file of all queries, and its page. Each query is counted twice, once in each pass.

    about:    what is measured on what, with ``way``, ``shot`` and ``queries``.
    left_out: classes that had too few photos to be in any draw, by name.
    partial, how: of :func:`shotseg.evaluation.several.count_queries`.
    """
    pool, protocol = several.pool, several.protocol
    way, shot, queries = (about[name] for name in ("way", "shot", "queries"))
    lists = {seed: draws.draw(pool, way, shot, queries, seed) for seed in protocol.seeds}
    asked = [query for listed in lists.values() for query in listed]
    hashes = [list_hash(draws.named(pool, listed)) for listed in lists.values()]
    what = [about, asdict(protocol), several.threshold, hashes, str(several.device), partial and pool.state()]
    fingerprint = json.dumps(what, sort_keys=True, default=str)
    tally = Tally(on_progress, 2 * len(asked))
    rows, cut = count_queries(several, asked, partial, fingerprint, on_rows=tally, **how)
    content = {
        **several_scores.result(about, protocol, pool, lists, rows, several.threshold, cut),
        "without_query": without_query(several, lists),
        "left_out": sorted({*left_out, *(pool.classes[c] for own in lists.values() for c in own[0].draw.left_out)}),
        "seconds_per_query": round(2 * tally.seconds, 5),
        "environment": results.environment(several.device),
    }
    pictures = best_and_worst(several, content, asked)
    return content, result_page.page(content, several_scores.summary(content), pictures)


def without_query(several: Several, lists: dict[int, list[Query]]) -> list[str]:
    """Classes of a draw whose photos were all used for other classes before one could be a query, by name."""
    asked = {(seed, several.pool.items[query.item].class_id) for seed, listed in lists.items() for query in listed}
    given = {(seed, c) for seed, listed in lists.items() for c in listed[0].draw.classes}
    return sorted({several.pool.classes[c] for _, c in given - asked})


def best_and_worst(several: Several, content: dict[str, Any], queries: list[Query], count: int = 6) -> Pictures:
    """Pictures of the queries with the highest and the lowest IoU of all classes together, no photo twice: truth, decision."""
    stored = content["counts"]["per_query"]
    both, either = (np.array(stored[name])[:, 1:].sum(1) for name in ("intersection", "union"))
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    order = np.argsort(iou, kind="stable").tolist()
    with one_thread_each():
        return {
            heading: [_drawn(several, queries[i], iou[i]) for i in result_page.distinct(ranked, stored["query"], count)]
            for heading, ranked in (("Worst queries", order), ("Best queries", order[::-1]))
        }


def _drawn(several: Several, query: Query, iou: float) -> tuple[str, list[np.ndarray]]:
    photo = several.sample(query.item)[0]
    labels = (several.truth(query), several.decided(query, several.threshold)[0])
    overlays = [draw(*without_ignored((photo, x.numpy().astype(np.uint8)))) for x in labels]
    names = [
        ", ".join(several.pool.classes[query.draw.classes[n - 1]] for n in x.unique().tolist() if 0 < n < 255)
        for x in labels
    ]
    caption = f"{100 * iou:.1f} {several.pool.items[query.item].id}; truth: {names[0] or 'nothing'}"
    return f"{caption}; decision: {names[1] or 'nothing'}", overlays
