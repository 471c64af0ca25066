"""Which photos are shown as examples of N classes, and which are then asked for all of them at once.

A draw gives K examples of each of N classes and the queries that are asked of them. No photo, told by its content, is used
twice in a draw, whatever classes it shows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from shotseg.errors import UsageError
from shotseg.evaluation.protocols import Pool

MOST = 254  # classes of one label map: 0 is the background, 255 what is ignored


@dataclass(frozen=True)
class Draw:
    """N classes and their examples, as positions in the pool: ``supports[n]`` are the K items of ``classes[n]``."""

    seed: int
    classes: tuple[int, ...]
    supports: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Query:
    """One photo that is asked for every class of a draw. item: position in the pool, of the class it was drawn for."""

    item: int
    draw: Draw


def draw(pool: Pool, ways: int, shots: int, queries: int, seed: int) -> list[Query]:
    """One draw and its queries: up to ``queries`` photos of each class, those of one class after another.

    Each class has an order of its photos of its own, a function of (seed, its name): its examples come first in it, then its
    queries. So neither other classes nor the number of queries change what is drawn, but for photos that show several classes.
    Raises UsageError for more ways than classes, and where photos of several classes leave too few examples or no query.
    """
    if not 1 <= ways <= min(len(pool.classes), MOST):
        raise UsageError(
            f"--way {ways}: there are {len(pool.classes)} classes; give 1 to {min(len(pool.classes), MOST)}"
        )
    classes = sorted(random.Random(f"{seed}").sample(range(len(pool.classes)), ways))
    orders = {c: _shuffled(pool, c, seed) for c in classes}
    used: set[str] = set()
    supports = {}
    for c in sorted(classes, key=lambda c: len(orders[c])):  # who has few photos chooses first
        supports[c] = _unused(pool, orders[c], shots, used)
        if len(supports[c]) < shots:
            raise UsageError(
                f"class {pool.classes[c]!r}: {len(supports[c])} photos are left that are no example of another class, "
                f"{shots} shots need more; leave it out"
            )
    given = Draw(seed, tuple(classes), tuple(supports[c] for c in classes))
    asked = [Query(i, given) for c in classes for i in _unused(pool, orders[c], queries, used)]
    if not asked:
        raise UsageError(
            f"--shot {shots}: all photos of the classes are examples, no photo is left to ask for; take fewer"
        )
    return asked


def _shuffled(pool: Pool, class_id: int, seed: int) -> list[int]:
    order = list(pool.lists[class_id])
    random.Random(f"{seed}/{pool.classes[class_id]}").shuffle(order)
    return order


def _unused(pool: Pool, order: Sequence[int], count: int, used: set[str]) -> tuple[int, ...]:
    """The first ``count`` items whose photo is in no one's use; they are ``used`` from then on."""
    found: list[int] = []
    for i in order:
        if len(found) == count:
            break
        if pool.items[i].content not in used:
            used.add(pool.items[i].content)
            found.append(i)
    return tuple(found)


def list_hash(pool: Pool, queries: Sequence[Query]) -> str:
    """sha256 of a draw by names, [[class, its examples], ...] and the queries: two runs of one hash have seen the same."""
    given = queries[0].draw
    names = [[pool.classes[c], [pool.items[i].id for i in own]] for c, own in zip(given.classes, given.supports)]
    content = [names, [pool.items[query.item].id for query in queries]]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
