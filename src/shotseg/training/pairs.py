"""Which photo is paired with which: SimFormer's partner lists (Chen et al., NeurIPS 2022) from the classes of each photo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator

PER_CLASS, COMMON = 500, 50  # photos kept in a list


@dataclass(frozen=True)
class Partners:
    """Positions of the photos that go with one photo, each list in ascending order.

    single: novel class -> photos with which it is the only novel class in common.
    novel:  photos with a novel class in common.            base: photos with a base class in common.
    """

    single: dict[int, list[int]] = field(default_factory=dict)
    novel: list[int] = field(default_factory=list)
    base: list[int] = field(default_factory=list)


class PairSampler:
    """Draws the partner of a photo.

    novel, base: for each photo, its novel and its base class ids.      rarest: see :meth:`partner`.
    reference:   the release's lists: "novel" holds what does not share exactly one novel class, even none, and is empty
                 for a photo with fewer than two; a photo is in its own lists.
    """

    def __init__(
        self,
        novel: Sequence[frozenset[int]],
        base: Sequence[frozenset[int]],
        mode: str = "deconfounded",
        rarest: float = 0.01,
        reference: bool = False,
    ):
        self.novel, self.base = list(novel), list(base)
        self.mode, self.rarest, self.reference = mode, rarest, reference
        self._showing: dict[int, list[int]] = defaultdict(list)
        for i, (a, b) in enumerate(zip(novel, base)):
            for c in a | b:
                self._showing[c].append(i)

    def lists(self, i: int) -> Partners:
        """All partners of photo i, before any cap."""
        single: dict[int, list[int]] = {
            c: [j for j in self._showing[c] if self.novel[i] & self.novel[j] == {c} and (j != i or self.reference)]
            for c in sorted(self.novel[i])
        }
        if self.reference:
            several = len(self.novel[i]) >= 2
            others = [j for j, own in enumerate(self.novel) if len(own & self.novel[i]) != 1] if several else []
        else:
            others = self._sharing(self.novel[i], i)
        return Partners(single, others, self._sharing(self.base[i], i))

    def _sharing(self, classes: frozenset[int], i: int) -> list[int]:
        found = {j for c in classes for j in self._showing[c]}
        return sorted(found if self.reference else found - {i})

    def partner(self, i: int, stream: Generator) -> int:
        """A partner for photo i.

        Deconfounded: of one of its novel classes, now and then (``rarest``) the one with the fewest partners, a photo that
        shares that class alone; where there is none, one with any novel class in common, then any base class, then itself.
        """
        found = self.lists(i)
        own = [j for j in _capped(found.novel, COMMON, stream) if j != i]
        near = [j for j in _capped(found.base, COMMON, stream) if j != i]
        if self.mode == "random":
            return _one(range(len(self.novel)), stream)
        orders = {"novel": [own, near], "base": [near]}.get(self.mode)
        if orders is None:
            single = {c: [j for j in _capped(js, PER_CLASS, stream) if j != i] for c, js in found.single.items()}
            by_size = sorted(single, key=lambda c: len(single[c]) or PER_CLASS)
            rare = float(torch.rand((), generator=stream)) < self.rarest
            chosen = [single[by_size[0] if rare else _one(sorted(single), stream)]] if single else []
            orders = [*chosen, own, near]
        return next((_one(listed, stream) for listed in orders if listed), i)


def _capped(listed: list[int], most: int, stream: Generator) -> list[int]:
    if len(listed) <= most:
        return listed
    return [listed[k] for k in torch.randperm(len(listed), generator=stream)[:most].tolist()]


def _one(choices: Sequence[int], stream: Generator) -> int:
    return choices[int(torch.randint(len(choices), (), generator=stream))]
