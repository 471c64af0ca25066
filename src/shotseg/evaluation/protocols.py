"""How a number is made: which episodes, what size, scored where. Every choice is a field and written into the result.

A protocol is data. Three things act on it: :func:`draw_episodes` (which photos), :func:`working_pair` (what the model
sees) and :func:`decide` (from logits to a mask on the canvas where it is scored).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.data.episodes import EpisodeIndex, EpisodeSampler
from shotseg.data.samples import IGNORE
from shotseg.errors import UsageError
from shotseg.evaluation.pool import Pool

CHOICES: dict[str, tuple[Any, ...]] = {
    "geometry": (None, "fit", "squash", "pad"),
    "score_at": ("original", "working", "square"),
    "ignore_band": ("exclude", "background"),
    "fusion": ("model", "vote", "mean"),
    "absent": ("skip", "zero"),
}


@dataclass(frozen=True)
class Protocol:
    """Every choice behind a number. ``None`` for size or geometry: as the model was made to work.

    rule:          how episodes are drawn, a key of ``RULES``.
    episodes:      number of episodes in each run.            seeds: one run each; the scores are means over the runs.
    size:          working size in pixels.
    geometry:      "fit" (aspect kept, longer side = size), "squash" (size x size) or "pad" (aspect kept, longer side =
                   size, both sides floored to a multiple of 8, black below and right up to size x size).
    score_at:      canvas on which pixels are counted: "original" (the photo's own size), "working" (the label is
                   resized to the working size, nearest) or "square" (the longer side squared, padding ignored; only
                   with "pad").
    align_corners: of the bilinear resize of the logits to that canvas.
    ignore_band:   pixels labelled 255: "exclude" from all counts, or count as "background".
    fusion:        K shots: "model" (the model sees them together), "vote" (one mask a shot, votes divided by the
                   largest vote in the photo, at least 0.5) or "mean" (mean of the shots' probabilities).
    min_pixels:    photos are listed under a class from this many of its pixels; the class of a query is drawn
                   without that limit.
    absent:        a class that never occurs is left out of the mean ("skip") or counts as "zero".
    training:      whether training photos that show a test class are kept (as background) or dropped.
    selection:     how the checkpoint was chosen. These two describe; nothing here acts on them.
    """

    name: str
    rule: str = "shotseg"
    episodes: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    size: int | None = None
    geometry: str | None = None
    score_at: str = "original"
    align_corners: bool = False
    ignore_band: str = "exclude"
    fusion: str = "model"
    min_pixels: int = 0
    absent: str = "skip"
    training: str = "kept"
    selection: str = "never on test classes"
    overridden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(str(a) for a in allowed if a is not None)
                raise UsageError(f"protocol {name} {getattr(self, name)!r}: choose one of {known}")
        if self.score_at == "square" and self.geometry != "pad":
            raise UsageError("protocol score_at 'square' needs geometry 'pad'")
        if self.episodes < 1 or not self.seeds:
            raise UsageError(
                f"episodes {self.episodes}, seeds {self.seeds}: a protocol needs at least one episode and one seed"
            )

    def override(self, **values: Any) -> Protocol:
        """The same with other values (None = as it was); the changed names are kept in ``overridden``."""
        known = {f.name for f in fields(self)} - {"name", "overridden"}
        if unknown := set(values) - known:
            raise UsageError(f"protocol has no field {sorted(unknown)[0]!r}; fields: {', '.join(sorted(known))}")
        changed = {k: v for k, v in values.items() if v is not None and v != getattr(self, k)}
        return replace(self, **changed, overridden=tuple(sorted({*self.overridden, *changed})))


_BAM_SEEDS = (510, 365, 382, 322, 988)  # numpy randint(0, 1000) after seed 123
_HDM_SEEDS = (*_BAM_SEEDS, 98, 742, 17, 595, 106)
_ON_TEST = "best epoch on the test fold, as released"
_HSNET = Protocol(
    "hsnet", rule="hsnet", seeds=(0,), size=400, geometry="squash", score_at="working", align_corners=True,
    fusion="vote", absent="zero", selection=_ON_TEST,
)  # fmt: skip
_PFENET = Protocol(
    "pfenet", rule="pfenet", episodes=5000, seeds=(321,), size=473, geometry="pad", score_at="square",
    align_corners=True, min_pixels=2048, absent="zero", selection=_ON_TEST,
)  # fmt: skip
_BAM = replace(_PFENET, name="bam", episodes=1000, seeds=_BAM_SEEDS, training="dropped")
_HDMNET = replace(_BAM, name="hdmnet", seeds=_HDM_SEEDS, geometry="squash", score_at="original")
PRESETS = {
    p.name: p
    for p in (
        Protocol("shotseg"),
        _HSNET,
        _PFENET,
        _BAM,
        _HDMNET,
        replace(_HDMNET, name="pi-clip"),
        replace(_HSNET, name="tlg", seeds=(6776,)),
        replace(_HSNET, name="cst", rule="cst", score_at="original", ignore_band="background", fusion="mean"),
    )
}
# what the same release does otherwise on another data set
ELSEWHERE: dict[tuple[str, str], dict[str, Any]] = {
    ("hsnet", "coco20i"): {"rule": "hsnet-coco"},
    ("hsnet", "fss1000"): {"episodes": 2400},  # every photo of the test classes once
    ("hsnet", "lvis92i"): {"rule": "hsnet-coco", "episodes": 2300},
    ("tlg", "coco20i"): {"rule": "hsnet-coco", "episodes": 5000},
    ("cst", "coco20i"): {"rule": "cst-coco"},
    ("pfenet", "coco20i"): {"episodes": 20000, "size": 641},
    ("bam", "coco20i"): {"size": 641},
    ("hdmnet", "coco20i"): {"episodes": 10000, "size": 633},
    ("pi-clip", "coco20i"): {"episodes": 5000},
}


def preset(name: str, dataset: str = "") -> Protocol:
    """The protocol of that name, with what it does otherwise on ``dataset``. Raises UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(f"no protocol {name!r}; choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **ELSEWHERE.get((name, dataset), {}))


# --- which photos ---------------------------------------------------------------------------------------------------


def draw_episodes(protocol: Protocol, pool: Pool, shots: int, seed: int) -> list[EpisodeIndex]:
    """The episodes of one run; numbers are positions in ``pool.items`` and ``pool.classes``."""
    if protocol.rule not in RULES:
        raise UsageError(f"no episode rule {protocol.rule!r}; choose one of {', '.join(RULES)}")
    return RULES[protocol.rule](pool, shots, seed, protocol.episodes)


def list_hash(pool: Pool, episodes: Sequence[EpisodeIndex]) -> str:
    """sha256 of the list by names, [class, query id, support ids]: two runs of one hash have seen the same episodes."""
    names = [
        [pool.classes[e.class_id], pool.items[e.query].id, [pool.items[s].id for s in e.supports]] for e in episodes
    ]
    return hashlib.sha256(json.dumps(names, ensure_ascii=False).encode()).hexdigest()


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
    stream = np.random.RandomState(seed)
    picks = []
    for i in range(episodes):
        query = pool.walk[i % len(pool.walk)]
        class_id = pool.items[query].class_id
        picks.append(EpisodeIndex(query, supports_of(pool, stream, query, class_id, shots), class_id))
    return picks


def _hsnet_coco(pool: Pool, shots: int, seed: int, episodes: int) -> list[EpisodeIndex]:
    """HSNet and TLG on COCO: class, query and supports all drawn from one numpy stream."""
    stream = np.random.RandomState(seed)
    picks = []
    for _ in range(episodes):
        class_id = _one(stream, len(pool.classes))
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
    "pfenet": _pfenet,
    "cst": _cst,
    "cst-coco": partial(_cst, by_class=True),
}


# --- what the model sees ----------------------------------------------------------------------------------------------


def working_pair(
    image: np.ndarray, mask: np.ndarray | None, geometry: str, size: int, multiple: int
) -> tuple[Tensor, Tensor | None]:
    """A photo (H, W, 3) uint8 and its mask at the working size: (3, h, w) float32 in [0, 1], (h, w) int64 or None."""
    if geometry == "pad":
        return pad_pair(image, mask, size)
    if geometry == "squash":
        return transforms.squash(image, size, mask=mask)
    return transforms.fit(image, size, multiple, mask=mask)


def padded_size(sides: tuple[int, int], size: int, multiple: int = 8) -> tuple[int, int]:
    """(h, w) of a photo of (H, W) ``sides`` inside the padded square: longer side ``size``, both floored to
    ``multiple``."""
    height, width = (max(multiple, int(side * (size / max(sides))) // multiple * multiple) for side in sides)
    return height, width


def pad_pair(image: np.ndarray, mask: np.ndarray | None, size: int) -> tuple[Tensor, Tensor | None]:
    """PFENet's resize: the photo at the top left of a black square, 255 around the mask; OpenCV's bilinear and
    nearest."""
    height, width = padded_size((image.shape[0], image.shape[1]), size)
    margins = (0, size - width, 0, size - height)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    if mask is None:
        return F.pad(small, margins)[0], None
    return F.pad(small, margins)[0], F.pad(_nearest(mask, (height, width)), margins, value=IGNORE)


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    classes = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
    return F.interpolate(classes, size, mode="nearest")[0, 0].long()


# --- from logits to a mask that is scored -----------------------------------------------------------------------------


def canvas(protocol: Protocol, mask: np.ndarray, geometry: str, working: tuple[int, int]) -> Tensor:
    """The label (h, w) int64 on the canvas where pixels are counted, 255 = ignored.

    mask: (H, W) in {0, 1, 255} at the photo's own size.      working: (h, w) of the model's input.
    """
    if protocol.ignore_band == "background":
        mask = np.where(mask == IGNORE, 0, mask)
    if protocol.score_at == "working" and geometry == "pad":
        inside = padded_size((mask.shape[0], mask.shape[1]), max(working))
        return F.pad(_nearest(mask, inside), (0, working[1] - inside[1], 0, working[0] - inside[0]), value=IGNORE)
    if protocol.score_at == "working":
        return _nearest(mask, working)
    label = torch.from_numpy(mask.astype(np.int64))
    if protocol.score_at == "square":
        side = max(mask.shape)
        return F.pad(label, (0, side - mask.shape[1], 0, side - mask.shape[0]), value=IGNORE)
    return label


def decide(
    protocol: Protocol,
    shots: list[Tensor],
    scored: tuple[int, int],
    original: tuple[int, int],
    geometry: str,
    size: int,
) -> Tensor:
    """The predicted mask (h, w) int64 in {0, 1} on a canvas of the ``scored`` size.

    shots: logits (2, h, w), one tensor for each shot ("vote", "mean") or one for all ("model").
    original: (H, W) of the photo; with padding and ``score_at="original"`` the valid region is cut out first.
    """
    if geometry == "pad" and protocol.score_at == "original":
        shots = [without_padding(x, original, size, protocol.align_corners) for x in shots]
    sized = torch.stack([transforms.resize_logits(x.float(), scored, protocol.align_corners) for x in shots])
    if protocol.fusion == "vote":
        return vote(sized)
    return foreground(sized.softmax(1).mean(0) if protocol.fusion == "mean" else sized[0])


def without_padding(logits: Tensor, original: tuple[int, int], size: int, align_corners: bool) -> Tensor:
    """Logits (C, h, w) of a padded square of side ``size`` -> those of the photo in it, of (H, W) ``original``."""
    height, width = padded_size(original, size)
    return transforms.resize_logits(logits, (size, size), align_corners)[:, :height, :width]


def foreground(logits: Tensor) -> Tensor:
    """(..., 2, H, W) -> (..., H, W) int64, 1 where the foreground is larger (an argmax over two is slow)."""
    return (logits[..., 1, :, :] > logits[..., 0, :, :]).long()


def vote(logits: Tensor) -> Tensor:
    """(K, 2, H, W) or (K, B, 2, H, W) -> (H, W) or (B, H, W) int64: argmax masks are summed, divided by the largest
    sum in the image (at least 1, and not by K: HSNet's rule), and cut at 0.5."""
    votes = foreground(logits).sum(0)
    largest = votes.flatten(-2).amax(-1).clamp(min=1)[..., None, None]
    return (votes / largest >= 0.5).long()
