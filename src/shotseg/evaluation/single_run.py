"""One class at a time as a whole: draw the episodes, count them, and make the content of the result file and its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shotseg.data.episodes import list_hash
from shotseg.evaluation import result_page, results
from shotseg.evaluation.episode_loop import OnProgress, Tally, count_episodes
from shotseg.evaluation.episode_rules import draw_episodes, named
from shotseg.evaluation.evaluator import Evaluator
from shotseg.models.blocks.prior_guided import Hosted


def measure(
    evaluator: Evaluator,
    about: dict[str, Any],
    partial: Path | None,
    on_progress: OnProgress,
    **how: Any,
) -> tuple[dict[str, Any], str]:
    """The content of the result file, and its page.

    about:  what is measured on what, with ``shot``.    partial, how: of :func:`shotseg.evaluation.episode_loop.count_episodes`.
    """
    pool, protocol = evaluator.pool, evaluator.protocol
    lists = {seed: draw_episodes(protocol, pool, about["shot"], seed) for seed in protocol.seeds}
    episodes = [episode for listed in lists.values() for episode in listed]
    hashes = [list_hash(named(pool, listed)) for listed in lists.values()]
    what = [about, asdict(protocol), hashes, str(evaluator.device), partial and pool.state()]
    fingerprint = json.dumps(what, sort_keys=True, default=str)
    tally = Tally(on_progress, len(episodes))
    rows = count_episodes(evaluator, episodes, partial, fingerprint, on_rows=tally, **how)
    content = {
        **results.result(about, protocol, pool, lists, rows),
        "seconds_per_episode": round(tally.seconds, 5),
        "environment": results.environment(evaluator.device),
    }
    content["published"] = results.published_beside(content, _every_class(evaluator), _host(evaluator.model))
    pictures = result_page.best_and_worst(evaluator, content, episodes)
    return content, result_page.page(content, results.summary(content), pictures)


def _every_class(evaluator: Evaluator) -> bool:
    classes: Sequence[str] = evaluator.dataset.classes
    return len(evaluator.pool.classes) == len(classes)


def _host(model: Any) -> str | None:
    """The network that a method sits in, where it does."""
    return type(model.host).__name__.lower() if isinstance(model, Hosted) else None
