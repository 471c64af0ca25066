"""Strokes: what a person marks in a photo, as evidence that binds there and reaches as far as the photo looks the same.

A Gaussian process (Rasmussen and Williams 2006, equation 2.23) over the places of one photo: its mean is what a model found, its
observations are the strokes, its kernel says how alike two places are. Where a stroke agrees with the model nothing moves; where
it does not, the difference carries over to like places. Any method's evidence will do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Support
from shotseg.encoders.features import Features
from shotseg.errors import UsageError

STRIDE = 4  # pixels between the places that are compared
MOST = 256  # examples among the places under strokes; more say nothing new and cost a larger system
CERTAIN = 4.0  # log odds that a stroke's own pixels have at least
TARGET = 2.0  # log odds that a stroke asks of places like its own
# The kernel, chosen by the strokes that five classes of pascal_coseg15 (fold 1) cost: a part that looks at features alone, over
# the whole photo, and one that falls with the distance in colour and place as well.
EVERYWHERE, ANYWHERE, NEARBY = 0.4, 0.5, 0.3  # share of the first part; how fast each falls with 1 - cosine
COLOUR, PLACE, NOISE = 0.1, 0.2, 0.05  # colour in [0, 1], place in longer sides, variance of an observation


@dataclass(frozen=True, eq=False)
class Strokes:
    """What a person marked for one class in one photo.

    labels: (H, W) uint8 at the photo's size: 1 = a stroke on the class, 0 = a stroke on what is not the class, 255 = no stroke.
    It is a mask as a support has it, of which little is known. Raises UsageError for another shape or value.
    """

    labels: np.ndarray

    def __post_init__(self) -> None:
        drawn = self.labels[self.box] if self.labels.ndim == 2 else self.labels
        if self.labels.ndim != 2 or not ((drawn == 0) | (drawn == 1) | (drawn == IGNORE)).all():
            raise UsageError(
                f"strokes: an array {self.labels.shape} of {self.labels.dtype}; give (height, width) with 1 on the class, "
                "0 beside it, 255 elsewhere"
            )

    @classmethod
    def none(cls, size: tuple[int, int]) -> Strokes:
        """No stroke yet in a photo of (height, width)."""
        return cls(np.full(size, IGNORE, np.uint8))

    def disc(self, centre: tuple[int, int], radius: float, foreground: bool) -> Strokes:
        """The same with one more: the pixels within ``radius`` of (row, column), at least that one; the newest lies on top."""
        rows, columns = np.ogrid[: self.labels.shape[0], : self.labels.shape[1]]
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
        return Strokes(np.where(inside, np.uint8(foreground), self.labels))

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns that hold all strokes, few of a large photo."""
        drawn = self.labels != IGNORE
        rows = np.flatnonzero(drawn.any(1))
        if not len(rows):
            return slice(0, 0), slice(0, 0)
        down = slice(int(rows[0]), int(rows[-1]) + 1)
        columns = np.flatnonzero(drawn[down].any(0))
        return down, slice(int(columns[0]), int(columns[-1]) + 1)

    def places(self, side: int) -> np.ndarray:
        """(P,) int64: the pixels of one side, 1 or 0, counted row after row."""
        rows, columns = self.box
        row, column = np.nonzero(self.labels[rows, columns] == side)
        return (row + rows.start) * self.labels.shape[1] + column + columns.start

    def __bool__(self) -> bool:
        return self.box[0].stop > 0

    def at(self, size: tuple[int, int]) -> Tensor:
        """(h, w) int64 in {0, 1, 255} at another size: each cell that one side touches, so that no thin stroke is lost."""
        (rows, columns), (height, width) = self.box, self.labels.shape
        drawn = (self.labels[rows, columns] == side for side in (1, 0))
        inside, outside = (
            _touched(_touched(part, size[0], rows.start, height).T, size[1], columns.start, width).T for part in drawn
        )
        return torch.from_numpy(np.where(inside ^ outside, inside.astype(np.int64), IGNORE))


def checked_strokes(
    strokes: Mapping[str, Strokes], classes: Collection[str], size: tuple[int, int]
) -> dict[str, Strokes]:
    """Those that mark something in a photo of (height, width) ``size``.

    Raises UsageError for what are no strokes, for an unknown class and for another size.
    """
    if not isinstance(strokes, Mapping):
        raise UsageError(f"strokes: of type {type(strokes).__name__}; give a dict of class names and Strokes")
    for name, drawn in strokes.items():
        if not isinstance(drawn, Strokes):
            raise UsageError(f"strokes of {name!r}: of type {type(drawn).__name__}; give Strokes(labels)")
        if drawn and (name not in classes or drawn.labels.shape != size):
            raise UsageError(f"strokes of {name!r}: give them for a class that was added, at the photo's size {size}")
    return {name: drawn for name, drawn in strokes.items() if drawn}


def _touched(pixels: np.ndarray, cells: int, first: int, full: int) -> np.ndarray:
    """(cells, W) bool of (H, W), the rows from ``first`` on of ``full``: whether any row that a cell reaches into is True."""
    ends = ((i * full // cells - first, -(-(i + 1) * full // cells) - first) for i in range(cells))
    return np.stack([pixels[max(top, 0) : max(bottom, 0)].any(0) for top, bottom in ends])


def competing(strokes: Mapping[str, Strokes]) -> dict[str, Strokes]:
    """The strokes of several classes in one photo, where what is one class is none of the others.

    Raises UsageError for a pixel that is marked as two classes.
    """
    if len(strokes) == 1:
        return dict(strokes)
    told = {}
    for name, drawn in strokes.items():
        labels = drawn.labels.copy()
        for places in (others.places(1) for other, others in strokes.items() if other != name):
            if len(twice := places[drawn.labels.reshape(-1)[places] == 1]):
                row, column = divmod(int(twice[0]), labels.shape[1])
                raise UsageError(
                    f"strokes: pixel ({row}, {column}) is marked as {name!r} and as another class; erase one"
                )
            labels.reshape(-1)[places] = 0
        told[name] = Strokes(labels)
    return told


def shot(model: Any, strokes: Strokes, image: Tensor, features: Features, class_name: str) -> Support:
    """The strokes as one shot of their class, to ``merge`` with the others. image: (1, 3, H, W); features: of it."""
    labels = strokes.at((image.shape[-2], image.shape[-1])).to(image.device)
    return model.encode_support(image[None], labels[None, None], features, class_names=(class_name,))


def follow(evidence: Tensor, strokes: Strokes, query: Features, image: Tensor) -> Tensor:
    """(H, W) log odds at the size of the strokes: every pixel under a stroke has its side, and like places follow."""
    return _bound(_resize(carried(evidence, strokes, query, image), strokes.labels.shape), strokes)


def carried(evidence: Tensor, strokes: Strokes, query: Features, image: Tensor) -> Tensor:
    """(h, w) log odds on a grid of every fourth pixel: what the strokes say of the places that are like theirs.

    evidence: (h, w) log odds of the class, as ``model(query, support, image)`` gives them (foreground minus background logit).
    query:    the photo's features, batch 1.       image: (1, 3, H', W') in [0, 1], as it was encoded.
    Without strokes the evidence stays as it is.
    """
    if not strokes:
        return evidence
    grid = (max(1, image.shape[-2] // STRIDE), max(1, image.shape[-1] // STRIDE))
    labels = strokes.at(grid).to(evidence.device).flatten()
    marked = (labels != IGNORE).nonzero()[:, 0]
    marked = marked[:: -(-len(marked) // MOST) or 1]
    prior = _resize(evidence, grid).flatten().clamp(-TARGET, TARGET)
    if len(marked):  # where both sides touch each place that is touched, no place says anything
        kernel = _alike(query, image, grid, marked)  # (N, M)
        observed = kernel[marked] + NOISE * torch.eye(len(marked), device=kernel.device)
        missing = TARGET * (2 * labels[marked] - 1) - prior[marked]
        prior = prior + kernel @ torch.linalg.solve(observed, missing)
    return prior.unflatten(0, grid)


def _alike(query: Features, image: Tensor, grid: tuple[int, int], marked: Tensor) -> Tensor:
    """(N, M) in [0, 1]: how alike each place of the grid is to each marked one."""
    colour = F.adaptive_avg_pool2d(image, grid)[0].flatten(1).T
    rows, columns = torch.meshgrid(*(torch.arange(n, device=image.device) for n in grid), indexing="ij")
    place = torch.stack([rows, columns], -1).flatten(0, 1) / max(grid)
    where = torch.cat([colour / COLOUR, place / PLACE], 1)
    unlike = 1 - _cosines((level.float() for level in query.maps), grid, marked)
    away = torch.cdist(where, where[marked], compute_mode="donot_use_mm_for_euclid_dist").square()
    return EVERYWHERE * torch.exp(-unlike / ANYWHERE) + (1 - EVERYWHERE) * torch.exp(-unlike / NEARBY - away / 2)


def _cosines(levels: Iterable[Tensor], grid: tuple[int, int], marked: Tensor) -> Tensor:
    """(N, M): cosines of the tokens of all places with those of the marked ones.

    Of each level (1, C, h, w) a place has the vector there, of length 1; all of them, less the mean of all places, are its token.
    Level by level and in place, for the tokens together are larger than a processor's cache.
    """
    products = squares = torch.zeros((), device=marked.device)
    for level in levels:
        last = level.contiguous(memory_format=torch.channels_last)
        part = F.interpolate(last, grid, mode="bilinear")[0].permute(1, 2, 0).flatten(0, 1)  # (N, C), a row a token
        part /= torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp(min=1e-12)
        part -= part.mean(0)
        products = products + part @ part[marked].T
        squares = squares + torch.linalg.vector_norm(part, dim=1).square()
    length = squares.sqrt().clamp(min=1e-12)
    return products / length[:, None] / length[marked]


def _bound(evidence: Tensor, strokes: Strokes) -> Tensor:
    labels = torch.from_numpy(strokes.labels).to(evidence.device)
    evidence = torch.where(labels == 1, evidence.clamp(min=CERTAIN), evidence)
    return torch.where(labels == 0, evidence.clamp(max=-CERTAIN), evidence)


def _resize(evidence: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(evidence[None, None].float(), size, mode="bilinear")[0, 0]
