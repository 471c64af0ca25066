"""One file a group of data sets: which photos the official files hold, their lists, and how masks are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np

# data set -> the function that reads its official files, loaded when it is needed
PLANS = {
    "pascal5i": "pascal:plan",
    "coco20i": "coco:coco20i",
    "fss1000": "one_class:fss1000",
    "lvis92i": "coco:lvis92i",
    "coco_stuff10k": "label_maps:coco_stuff10k",
    "ade20k150": "label_maps:ade20k150",
    "isic": "one_class:isic",
    "chest_xray": "one_class:chest_xray",
    "deepglobe": "one_class:deepglobe",
    "suim": "one_class:suim",
    "folder": "one_class:folder",
}


@dataclass(frozen=True)
class Source:
    """One photo of the official files.

    ``mask()`` reads its (H, W) uint8 label map, or, where ``class_id`` is given, {0, 1, 255} of that class.
    """

    id: str
    image: Path
    mask: Callable[[], np.ndarray]
    lists: tuple[str, ...]
    class_id: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """What cannot be used: the id of a photo, annotation or class, and in one line why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a data set is made of: ``sources`` in the order of the manifest, sorted by id within a list.

    ``notes``: choices made while reading, for the manifest; ``warnings``: what a user must know, one line each;
    ``left_out``: what the files hold and cannot be used, as far as it is known before a mask is read, of ``records`` that
    were looked at (0: of the sources and these).
    """

    classes: dict[int, str]
    folds: dict[str, dict[str, list[int]]]
    sources: Sequence[Source]
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    left_out: Sequence[LeftOut] = ()
    records: int = 0

    @property
    def binary(self) -> bool:
        return self.sources[0].class_id is not None


def planner(name: str) -> Callable[[dict[str, Any], dict[str, Any]], Plan]:
    """The function (places of the archives, packaged facts) -> Plan of a data set."""
    module, function = PLANS[name].split(":")
    return getattr(import_module(f"shotseg.data.sets.{module}"), function)


@cache
def spec(name: str) -> dict[str, Any]:
    """The packaged facts of a data set: title, classes, folds, families, archives, expected counts."""
    return json.loads((resources.files("shotseg.data") / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def names(facts: dict[str, Any]) -> dict[int, str]:
    """id -> name of the packaged classes."""
    return dict(enumerate(facts["classes"], start=facts["first_class_id"]))
