"""Which options of an evaluation go together; a wrong one is a line before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shotseg.errors import UsageError
from shotseg.evaluation.protocols import PRESETS
from shotseg.heap import check_batch

HOW = {"device", "out", "on_progress", "say"}  # they change nothing of what is measured
EFFORT = HOW | {"dataset", "root", "reading", "method", "encoder", "checkpoint", "fold", "folds", "shot", "classes"}
EFFORT |= {"runtime", "kind", "min_area", "episodes", "seeds", "size", "cache_mb", "effort", "present"}
SEMANTIC = HOW | {"dataset", "root", "method", "encoder", "checkpoint", "size"}
SEVERAL_REFUSE = ("score_at", "fusion", "ignore_band", "rule")
# Of what was opened before nothing tells whether an interrupted run had the same.
OF_PLACES = ("root", "reading", "kind", "min_area", "folds", "resume")
OF_MODELS = ("encoder", "checkpoint", "runtime", "resume")

Asked = Mapping[str, Any]  # option -> its value


def check(asked: Asked, given: Iterable[str]) -> None:
    """Raise UsageError for a value out of its range, and for an option that changes nothing beside the others.

    given: names of the options that are not as they were left, in the order of the call.
    """
    check_batch(asked["batch"])
    for name in ("shot", "way", "queries", "cache_mb", "size"):
        if asked[name] is not None and asked[name] < 1:
            raise UsageError(f"{flag(name)} {asked[name]}: must be 1 or more")
    if asked["workers"] < 0:
        raise UsageError(f"--workers {asked['workers']}: must be 0 or more")
    if not 0 <= asked["present"] <= 1:
        raise UsageError(f"--present {asked['present']}: must be from 0 to 1")
    if not 0 <= asked["min_area"] <= 1:
        raise UsageError(f"--min-area {asked['min_area']}: a part of the photo, from 0 to 1")
    given = list(given)
    if asked["effort"]:
        return refuse(given, set(given) - EFFORT, "--effort")
    way, protocol = asked["way"], asked["protocol"]
    if way == 1 or protocol == "cst":
        refuse(given, {"queries", "present"}, "--way 1" if way == 1 else "--protocol cst")
    if way > 1:
        if protocol in PRESETS and protocol not in ("shotseg", "cst"):
            raise UsageError(f"--protocol {protocol} asks for one class; with --way {way}: shotseg or cst")
        other = "resume" if protocol == "cst" else "episodes"
        refuse(given, {*SEVERAL_REFUSE, other}, "--way above 1")


def refuse(given: Iterable[str], unread: Iterable[str], why: str) -> None:
    """Raise UsageError for the first of the ``given`` options that is among the ``unread``."""
    for name in given:
        if name in set(unread):
            raise UsageError(f"{flag(name)} changes nothing with {why}; leave it out")


def flag(name: str) -> str:
    """An option as the command line calls it."""
    return f"--{name.replace('_', '-')}"
