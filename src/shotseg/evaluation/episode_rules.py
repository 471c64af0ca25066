"""Which photos an episode asks for, by the rule of each protocol; every rule is a function of the seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from shotseg.data.episodes import EpisodeIndex, EpisodeSampler
from shotseg.errors import UsageError
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import Protocol


def draw_episodes(protocol: Protocol, pool: Pool, shots: int, seed: int) -> list[EpisodeIndex]:
    """The episodes of one run; numbers are positions in ``pool.items`` and ``pool.classes``."""
    if protocol.rule not in RULES:
        raise UsageError(f"no episode rule {protocol.rule!r}; choose one of {', '.join(RULES)}")
    return RULES[protocol.rule](pool, shots, seed, protocol.episodes)


def named(pool: Pool, episodes: Sequence[EpisodeIndex]) -> list[list[Any]]:
    """The list by names, for :func:`shotseg.data.episodes.list_hash`: [class, query id, support ids] of each episode."""
    items = pool.items
    return [[pool.classes[e.class_id], items[e.query].id, [items[s].id for s in e.supports]] for e in episodes]


def _shotseg(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """Ours: episode i is a pure function of (seed, i); no photo twice in an episode."""
    drawn = EpisodeSampler([pool.items[i] for i in pool.listed], shots=shots, seed=seed).first(episodes)
    at = pool.listed
    return [EpisodeIndex(at[e.query], tuple(at[s] for s in e.supports), e.class_id) for e in drawn]


def _one(stream: np.random.RandomState, count: int) -> int:
    """The place that ``np.random.choice(list, 1, replace=False)`` picks from a list of ``count``."""
    return int(stream.choice(count, 1, replace=False)[0])


def supports_of(
    pool: Pool, stream: np.random.RandomState, query: int, class_id: int, shots: int, distinct: bool = False
) -> tuple[int, ...]:
    """Redrawn where it is the query: one photo may serve as two shots, as HSNet released it; in CST's they are distinct."""
    found: list[int] = []
    listed = pool.lists[class_id]
    while len(found) < shots:
        support = listed[_one(stream, len(listed))]
        if not any(pool.same_photo(support, other) for other in (query, *(found if distinct else ()))):
            found.append(support)
    return tuple(found)


def _hsnet(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """HSNet and TLG on PASCAL: queries walk the list of (photo, class) pairs; one numpy stream draws the supports."""
    return _walked(pool, pool.walk, shots, seed, episodes)


def _hsnet_fss(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """HSNet on FSS-1000 (its ``data/fss.py``): supports are drawn by number, but queries walk the names as text: 1, 10, 2, 3."""
    walk = sorted(pool.listed, key=lambda i: (pool.items[i].class_id, pool.items[i].id))
    return _walked(pool, walk, shots, seed, episodes)


def _walked(pool: Pool, walk: Sequence[int], shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    stream = np.random.RandomState(seed)
    picks = []
    for i in range(episodes):
        query = walk[i % len(walk)]
        class_id = pool.items[query].class_id
        picks.append(EpisodeIndex(query, supports_of(pool, stream, query, class_id, shots), class_id))
    return picks


def _hsnet_coco(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """HSNet and TLG on COCO: class, query and supports all drawn from one numpy stream."""
    stream = np.random.RandomState(seed)
    return _of_classes(pool, (_one(stream, len(pool.classes)) for _ in range(episodes)), stream, shots)


def _hsnet_lvis(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """LVIS-92i (Matcher's ``matcher/data/lvis.py``): the classes are taken in turn, query and supports from one numpy stream."""
    classes = (i % len(pool.classes) for i in range(episodes))
    return _of_classes(pool, classes, np.random.RandomState(seed), shots)


def _of_classes(pool: Pool, classes: Iterable[int], stream: np.random.RandomState, shots: int) -> list[EpisodeIndex]:
    """An episode of each of ``classes``, which may draw from the stream too."""
    picks = []
    for class_id in classes:
        query = pool.lists[class_id][_one(stream, len(pool.lists[class_id]))]
        picks.append(EpisodeIndex(query, supports_of(pool, stream, query, class_id, shots), class_id))
    return picks


def _pfenet(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """PFENet, BAM, HDMNet, PI-CLIP: queries walk the list of photos; Python's ``random`` draws one of its test
    classes, then distinct supports. (The release draws in loader workers, so its own lists depend on their number.)"""
    stream = random.Random(seed)
    photos, picks = pool.by_photo(), []
    for i in range(episodes):
        labels = photos[i % len(photos)]
        query = labels[stream.randint(1, len(labels)) - 1]
        class_id = pool.items[query].class_id
        listed = pool.lists[class_id]
        found: list[int] = []
        while len(found) < shots:
            support = listed[stream.randint(1, len(listed)) - 1]
            if not any(pool.same_photo(support, other) for other in (query, *found)):
                found.append(support)
        picks.append(EpisodeIndex(query, tuple(found), class_id))
    return picks


def cst_query(pool: Pool, stream: np.random.RandomState, i: int, by_class: bool) -> int:
    """CST's query of episode i: the list of (photo, class) pairs is walked; on COCO a class is drawn, then one of its
    photos."""
    if not by_class:
        return pool.walk[i % len(pool.walk)]
    listed = pool.lists[_one(stream, len(pool.classes))]
    return listed[_one(stream, len(listed))]


def _cst(pool: Pool, shots: int, seed: int, episodes: int, by_class: bool = False) -> list[EpisodeIndex]:
    """CST, one way: the class asked for is the query's with probability 1/2, else any other of the fold, so the query
    may show nothing of it. The stream is seeded with the episode's index, plus ``seed`` (0 in the release)."""
    picks = []
    for i in range(episodes):
        stream = np.random.RandomState(seed + i)
        query = cst_query(pool, stream, i, by_class)
        own = pool.items[query].class_id
        others = 0.5 / max(1, len(pool.classes) - 1)
        chances = [0.5 if c == own else others for c in range(len(pool.classes))]
        chances[own] = 1 - sum(chances) + chances[own]  # 1 where there is no other class
        class_id = int(stream.choice(len(pool.classes), 1, replace=False, p=chances)[0])
        picks.append(EpisodeIndex(query, supports_of(pool, stream, query, class_id, shots, distinct=True), class_id))
    return picks


RULES: dict[str, Callable[[Pool, int, int, int], list[EpisodeIndex]]] = {
    "shotseg": _shotseg,
    "hsnet": _hsnet,
    "hsnet-coco": _hsnet_coco,
    "hsnet-fss": _hsnet_fss,
    "hsnet-lvis": _hsnet_lvis,
    "pfenet": _pfenet,
    "cst": _cst,
    "cst-coco": partial(_cst, by_class=True),
}
