"""Which photos are shown as examples of N classes, and which are then asked for all of them at once.

A draw gives K examples of each of N classes and the queries that are asked of them. No photo, told by its content, is used
twice in a draw, whatever classes it shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from shotseg.errors import UsageError
from shotseg.evaluation.pool import Pool

MOST = 254  # classes of one label map: 0 is the background, 255 what is ignored


@dataclass(frozen=True)
class Draw:
    """N classes and their examples, as positions in the pool: ``supports[n]`` are the K items of ``classes[n]``."""

    seed: int
    classes: tuple[int, ...]
    supports: tuple[tuple[int, ...], ...]
    left_out: tuple[int, ...] = ()  # classes that were drawn, but had too few photos left to be examples


@dataclass(frozen=True)
class Query:
    """One photo that is asked for every class of a draw. item: position in the pool, of the class it was drawn for."""

    item: int
    draw: Draw


def draw(pool: Pool, ways: int, shots: int, queries: int, seed: int) -> list[Query]:
    """One draw and its queries: up to ``queries`` photos of each class, those of one class after another.

    Each class has an order of its photos of its own, a function of (seed, its name): its examples come first in it, then its
    queries. So neither other classes nor the number of queries change what is drawn, but for photos that show several classes.
    A class that has too few photos beside the examples of others is left out. Raises UsageError for more ways than classes, and
    where no query is left, or fewer than two of several classes.
    """
    if not 1 <= ways <= min(len(pool.classes), MOST):
        raise UsageError(
            f"--way {ways}: there are {len(pool.classes)} classes; give 1 to {min(len(pool.classes), MOST)}"
        )
    classes = sorted(random.Random(f"{seed}").sample(range(len(pool.classes)), ways))
    orders = {c: _shuffled(pool, c, seed) for c in classes}
    used: set[str] = set()
    supports, short = {}, {}
    for c in sorted(classes, key=lambda c: len(orders[c])):  # who has few photos chooses first
        own = _unused(pool, orders[c], shots, used)
        if len(own) < shots:
            short[c] = len(own)
            continue
        supports[c] = own
        used |= {pool.items[i].content for i in own}
    if len(supports) < min(2, ways):
        c, count = next(iter(short.items()))
        raise UsageError(
            f"class {pool.classes[c]!r}: {count} photos are left that are no example of another class, {shots} shots need "
            "more; give it more photos, or ask for other classes"
        )
    kept = [c for c in classes if c in supports]
    given = Draw(seed, tuple(kept), tuple(supports[c] for c in kept), tuple(sorted(short)))
    asked: list[Query] = []
    for c in kept:
        own = _unused(pool, orders[c], queries, used)
        used |= {pool.items[i].content for i in own}
        asked += [Query(i, given) for i in own]
    if not asked:
        raise UsageError(
            f"--shot {shots}: all photos of the classes are examples, no photo is left to ask for; take fewer"
        )
    return asked


def _shuffled(pool: Pool, class_id: int, seed: int) -> list[int]:
    order = list(pool.lists[class_id])
    random.Random(f"{seed}/{pool.classes[class_id]}").shuffle(order)
    return order


def _unused(pool: Pool, order: Sequence[int], count: int, used: Set[str]) -> tuple[int, ...]:
    """The first ``count`` items of different photos that are in no one's use."""
    first: dict[str, int] = {}
    for i in order:
        if pool.items[i].content not in used:
            first.setdefault(pool.items[i].content, i)
    return tuple(first.values())[:count]


def named(pool: Pool, queries: Sequence[Query]) -> list[Any]:
    """A draw by names, for :func:`shotseg.data.episodes.list_hash`: [class, its examples] of each class, and the queries."""
    given = queries[0].draw
    names = [[pool.classes[c], [pool.items[i].id for i in own]] for c, own in zip(given.classes, given.supports)]
    return [names, [pool.items[query.item].id for query in queries]]
