"""A set of prior vectors for a whole collection of photos: spherical k-means over region features (QGNet, our reading).

The paper speaks of predetermined priors; its release has none beside the features of the query itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from shotseg.priors.superpixels import region_average

PER_PHOTO, MOST = 50, 200_000


def region_vectors(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """features (C, h, w), labels (h, w) int64 -> unit vectors (R, C), and (R,) bool, which regions touch the border."""
    _, labels = labels.unique(return_inverse=True)
    vectors = F.normalize(region_average(features, labels), dim=1)
    border = torch.cat([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).unique()
    touches = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    touches[border] = True
    return vectors[:PER_PHOTO], touches[:PER_PHOTO]


def sampled(parts: Iterable[tuple[Tensor, Tensor]], stream: Generator, most: int = MOST) -> tuple[Tensor, Tensor]:
    """All vectors of a collection (N, C) and their marks (N,), a uniform sample of ``most`` where there are more."""
    vectors, marks, keys = None, None, None
    for part, mark in parts:
        drawn = torch.rand(len(part), generator=stream)
        vectors = part if vectors is None else torch.cat([vectors, part])
        marks = mark if marks is None else torch.cat([marks, mark])
        keys = drawn if keys is None else torch.cat([keys, drawn])
        if len(keys) > 2 * most:
            vectors, marks, keys = _smallest(vectors, marks, keys, most)
    assert vectors is not None and marks is not None and keys is not None
    return _smallest(vectors, marks, keys, most)[:2]


def _smallest(vectors: Tensor, marks: Tensor, keys: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    kept = keys.argsort()[:most].sort().values
    return vectors[kept], marks[kept], keys[kept]


def build(vectors: Tensor, touches: Tensor, count: int, stream: Generator, rounds: int = 50) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, C) and their marks (N,) -> centres (count, C), unit, and objectness (count,) in [0, 1].

    Spherical k-means from a k-means++ start. Objectness: 1 - the share of a centre's regions that touch the border of their
    photo, stretched over [0, 1]. With fewer vectors than ``count`` some centres occur twice.
    """
    centres = _spread_start(vectors, count, stream)
    member = torch.zeros(len(vectors), dtype=torch.long)
    for _ in range(rounds):
        member = (vectors @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add(0, member, vectors)
        moved = F.normalize(sums, dim=1)
        moved = torch.where(sums.abs().sum(1, keepdim=True) > 0, moved, centres)  # an empty one stays
        if torch.equal(moved, centres):
            break
        centres = moved
    size = member.bincount(minlength=count)
    inside = 1 - torch.zeros(count).index_add(0, member, touches.float()) / size.clamp(min=1)
    low, high = inside[size > 0].min(), inside[size > 0].max()
    return centres, ((inside - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def _spread_start(vectors: Tensor, count: int, stream: Generator) -> Tensor:
    first = int(torch.randint(len(vectors), (), generator=stream))
    chosen = [first]
    distance = 1 - vectors @ vectors[first]
    for _ in range(count - 1):
        odds = distance.clamp(min=0) + 1e-9
        chosen.append(int(torch.multinomial(odds, 1, generator=stream)))
        distance = torch.minimum(distance, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen].clone()
