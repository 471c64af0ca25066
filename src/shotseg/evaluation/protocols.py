"""How a number is made: which episodes, what size, scored where. Every choice is a field and written into the result.

A protocol is data. Two files act on it: ``episode_rules`` says which photos, ``canvas`` what the model sees of them and how
its logits become the mask that is scored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from shotseg.errors import UsageError, one_of

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

    rule:          how episodes are drawn, a key of ``episode_rules.RULES``.
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
        most = (
            2**128 - 1 if self.rule == "shotseg" else 2**32 - self.episodes
        )  # of numpy's streams; CST adds the episode's number
        for seed in self.seeds:
            if not 0 <= seed <= most:
                raise UsageError(f"--seeds {seed}: with rule {self.rule!r} a seed is from 0 to {most}")
            if self.seeds.count(seed) > 1:
                raise UsageError(
                    f"--seeds {seed}: given twice, and the same seed draws the same episodes; name each once"
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
    ("hsnet", "fss1000"): {"rule": "hsnet-fss", "episodes": 2400},  # every photo of the test classes once
    ("hsnet", "lvis92i"): {"rule": "hsnet-lvis", "episodes": 2300},  # each of 92 classes 25 times
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
        raise UsageError(f"no protocol {name!r}{one_of(name, PRESETS)}")
    return replace(PRESETS[name], **ELSEWHERE.get((name, dataset), {}))
