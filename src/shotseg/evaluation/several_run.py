"""``evaluate --way N`` as a whole: draw, decide, count, and write the result file and its page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.images import write_bytes
from shotseg.evaluation import draws, report, results, several_scores
from shotseg.evaluation.draws import Query
from shotseg.evaluation.report import without_ignored
from shotseg.evaluation.run import one_thread_each, partial_files
from shotseg.evaluation.several import Several, measure, second
from shotseg.overlay import draw


def queries_of(several: Several, ways: int, shots: int, count: int) -> dict[int, list[Query]]:
    """The queries of every seed of the protocol."""
    return {seed: draws.draw(several.pool, ways, shots, count, seed) for seed in several.protocol.seeds}


def without_query(several: Several, lists: dict[int, list[Query]]) -> list[str]:
    """Classes of a draw whose photos were all used for other classes before one could be a query, by name."""
    asked = {(seed, several.pool.items[query.item].class_id) for seed, listed in lists.items() for query in listed}
    given = {(seed, c) for seed, listed in lists.items() for c in listed[0].draw.classes}
    return sorted({several.pool.classes[c] for _, c in given - asked})


def unasked(content: dict[str, Any]) -> str:
    """One line that names them; empty without any."""
    names = ", ".join(content["without_query"])
    return (
        f"no photo is left to ask for in some draw, all serve other classes: {names}; take fewer --shot"
        if names
        else ""
    )


def evaluate(
    several: Several,
    lists: dict[int, list[Query]],
    about: dict[str, Any],
    out: Path,
    resume: bool = False,
    workers: int = 1,
    batch: int = 8,
    on_rows: Callable[[int], None] = lambda count: None,
) -> dict[str, Any] | None:
    """The result of all queries, written to ``out`` with a page beside it; None on all processes but the first.

    about: what is measured on what, with ``way``, ``shot`` and ``queries``.     on_rows: told how many queries were counted;
    each is counted twice, once in each pass.
    """
    queries = [query for listed in lists.values() for query in listed]
    asked = [draws.list_hash(several.pool, listed) for listed in lists.values()]
    what = [about, asdict(several.protocol), several.threshold, asked, str(several.device)]
    partial = out.with_suffix(".partial.jsonl")
    start, counted = time.perf_counter(), [0]  # without what an interrupted run had counted

    def on_counted(count: int) -> None:
        counted[0] += count
        on_rows(count)

    fingerprint = json.dumps(what, sort_keys=True, default=str)
    measured = measure(several, queries, partial, fingerprint, resume, workers, batch, on_counted)
    if measured is None:
        return None
    rows, cut = measured
    seconds = 2 * (time.perf_counter() - start) / max(1, counted[0])
    content = {
        **several_scores.result(about, several.protocol, several.pool, lists, rows, several.threshold, cut),
        "without_query": without_query(several, lists),
        "seconds_per_query": round(seconds, 5),
        "environment": results.environment(several.device),
    }
    bars = {name: own["iou"] for name, own in content["per_class"].items()}
    columns, lines = ("percent", "value", "95 % interval"), several_scores.lines(content)
    page = report.document(content, columns, lines, bars, best_and_worst(several, content, queries), unasked(content))
    write_bytes(out.with_suffix(".report.html"), page.encode())
    write_bytes(out, json.dumps(content, ensure_ascii=False).encode())
    for path in (*partial_files(partial), *partial_files(second(partial))):
        path.unlink()
    return content


def best_and_worst(
    several: Several, content: dict[str, Any], queries: list[Query], count: int = 6
) -> dict[str, list[tuple[str, list[np.ndarray]]]]:
    """Pictures of the queries with the highest and the lowest IoU of all classes together, no photo twice: truth, decision."""
    stored = content["counts"]["per_query"]
    both, either = (np.array(stored[name])[:, 1:].sum(1) for name in ("intersection", "union"))
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    order = np.argsort(iou, kind="stable").tolist()
    with one_thread_each():
        return {
            heading: [_drawn(several, queries[i], iou[i]) for i in report.distinct(ranked, stored["query"], count)]
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
