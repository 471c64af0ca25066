"""Which photos training episode i asks for, a function of (seed, i) alone.

Ours draws a class first, so that rare classes teach as often as common ones. The releases walk their list of photos, or
of (photo, class) pairs, so that a class teaches as often as it is in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Generator

from shotseg.data.episodes import EpisodeIndex, EpisodeSampler
from shotseg.training.data import Part, generator

Rule = Literal["class", "pair", "photo"]


class Draws(Protocol):
    """``draws[i]`` for any i >= 0.   epoch: episodes in an epoch."""

    epoch: int

    def __getitem__(self, i: int) -> EpisodeIndex: ...


class ByClass:
    """A class uniformly, then a query and supports uniformly among its photos; an epoch is as many as there are photos."""

    def __init__(self, part: Part, classes: Sequence[int], shots: int, seed: int):
        self.at = part.listed
        self.sampler = EpisodeSampler([part.items[i] for i in self.at], classes, shots, seed)
        self.epoch = len({part.items[i].content for i in self.at})

    def __getitem__(self, i: int) -> EpisodeIndex:
        drawn, at = self.sampler[i], self.at
        return EpisodeIndex(at[drawn.query], tuple(at[s] for s in drawn.supports), drawn.class_id)


class Walk:
    """Every turn once an epoch, each epoch in its own order; of the items of a turn one is the query.

    turns: positions of items.   epoch: turns in an epoch, where the last ones of an order are left out.
    """

    def __init__(self, part: Part, turns: Sequence[Sequence[int]], shots: int, seed: int, epoch: int):
        self.part, self.turns, self.shots, self.seed, self.epoch = part, turns, shots, seed, epoch

    def __getitem__(self, i: int) -> EpisodeIndex:
        epoch, place = divmod(i, self.epoch)
        order, stream = (
            torch.randperm(len(self.turns), generator=generator(self.seed, 4, epoch)),
            generator(self.seed, 5, i),
        )
        query = one(self.turns[int(order[place])], stream)
        class_id = self.part.items[query].class_id
        return EpisodeIndex(query, supports(self.part, query, class_id, self.shots, stream), class_id)


def draws(rule: Rule, part: Part, shots: int, seed: int, batch: int) -> Draws:
    """The episodes of a rule, of the classes that have ``shots`` + 1 photos or more.

    "class": see :class:`ByClass`.
    "pair":  the list of (photo, class) pairs is walked, as by HSNet, TLG and CST on PASCAL.
    "photo": the list of photos is walked, and one of the classes that a photo shows at all is asked for, as by PFENet, BAM,
             HDMNet, QGNet and PI-CLIP; their loaders leave out the rest of an epoch that does not fill a ``batch``.
    """
    classes = part.classes_with(shots + 1)
    if rule == "class":
        return ByClass(part, classes, shots, seed)
    listed = [i for i in part.listed if part.items[i].class_id in classes]
    if rule == "pair":
        return Walk(part, [[i] for i in listed], shots, seed, len(listed))
    contents = dict.fromkeys(part.items[i].content for i in listed)
    turns = [[i for i in part.of_photo[content] if part.items[i].class_id in classes] for content in contents]
    return Walk(part, turns, shots, seed, whole_batches(len(turns), batch))


def supports(part: Part, query: int, class_id: int, shots: int, stream: Generator) -> tuple[int, ...]:
    """Positions of ``shots`` items of a class, uniformly; no photo twice, and none is that of the query."""
    found: list[int] = []
    while len(found) < shots:
        support = one(part.of_class[class_id], stream)
        if part.items[support].content not in {part.items[i].content for i in (query, *found)}:
            found.append(support)
    return tuple(found)


def whole_batches(photos: int, batch: int) -> int:
    """Photos in an epoch of whole batches; all of them where they fill none."""
    return photos - photos % batch or photos


def one(choices: Sequence[int], stream: Generator) -> int:
    return choices[int(torch.randint(len(choices), (), generator=stream))]
