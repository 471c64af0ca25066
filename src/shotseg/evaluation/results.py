"""From counts to the result file: scores, intervals, controls, published numbers, and the comparison of two results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from shotseg.data.episodes import EpisodeIndex, list_hash
from shotseg.errors import UsageError
from shotseg.evaluation import counts as reduce
from shotseg.evaluation.counts import Counts
from shotseg.evaluation.episode_rules import named
from shotseg.evaluation.evaluator import Row
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import Protocol
from shotseg.evaluation.summary import Summary, between

FORMAT = "shotseg-evaluation-1"
LIBRARIES = ("shotseg", "torch", "torchvision", "timm", "numpy", "pillow")


def result(
    about: dict[str, Any], protocol: Protocol, pool: Pool, lists: dict[int, list[EpisodeIndex]], rows: list[Row]
) -> dict[str, Any]:
    """The content of a result file, ready for JSON; scores are percent, counts are pixels.

    about: what was measured on what (method, encoder, checkpoint, dataset, fold, shot, ...), written as it is.
    lists: the episodes of each seed.       rows: their counts, in the same order.
    """
    picks = [(seed, i, episode) for seed, listed in lists.items() for i, episode in enumerate(listed)]
    stored: dict[str, Any] = {
        "seed": [seed for seed, _, _ in picks],
        "episode": [i for _, i, _ in picks],
        "class": [pool.classes[e.class_id] for _, _, e in picks],
        "query": [pool.items[e.query].id for _, _, e in picks],
        "support": [[pool.items[s].id for s in e.supports] for _, _, e in picks],
        **{name: [row[name] for row in rows] for name in ("intersection", "union", "target", "ignored")},
        **({"present": [row["present"] for row in rows]} if "present" in rows[0] else {}),
        "controls": {
            control: {name: [row["controls"][control][name] for row in rows] for name in ("intersection", "union")}
            for control in rows[0]["controls"]
        },
    }
    content: dict[str, Any] = {
        "format": FORMAT,
        **about,
        "classes": pool.classes,
        "protocol": {
            **asdict(protocol),
            "accumulate": "per class over the episodes of a seed, then the mean of classes, then of seeds",
            "lists": {str(seed): list_hash(named(pool, listed)) for seed, listed in lists.items()},
        },
        "counts": {"per_episode": stored},
    }
    content["counts"]["per_class"] = _class_sums(content)
    return _scored(content, list(lists))


def of_control(content: dict[str, Any], control: str) -> dict[str, Any]:
    """A control as a result of its own, which can be compared episode by episode."""
    stored = content["counts"]["per_episode"]
    counts = {**{name: x for name, x in stored.items() if name != "present"}, **stored["controls"][control]}
    as_method = {**content, "method": control, "counts": {"per_episode": {**counts, "controls": {}}}, "published": []}
    as_method["counts"]["per_class"] = _class_sums(as_method)
    return _scored(as_method, sorted(set(stored["seed"]), key=stored["seed"].index))


def _scored(content: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """The content with all that is made of its counts: scores, intervals, classes, seeds, controls."""
    per_seed: dict[str, dict[str, Any]] = {str(seed): _scores(_counts(content, seed=seed), content) for seed in seeds}
    intervals = _intervals(content, [s["miou"] for s in per_seed.values()])
    controls = content["counts"]["per_episode"]["controls"]
    return {
        **content,
        **_mean_of(list(per_seed.values())),
        "ci95": _shown(intervals),
        "intervals": intervals,
        "per_class": {n: _mean([s["per_class"][n] for s in per_seed.values()]) for n in content["classes"]},
        "per_seed": {seed: {k: v for k, v in s.items() if k != "per_class"} for seed, s in per_seed.items()},
        "controls": {control: _control_scores(content, control, seeds) for control in controls},
    }


def _counts(content: dict[str, Any], seed: int | None = None, control: str | None = None) -> Counts:
    """The counts of a result file (of one seed, of a control), classes as positions in its ``classes``."""
    stored = content["counts"]["per_episode"]
    number = {name: i for i, name in enumerate(content["classes"])}
    amounts = {name: (stored["controls"][control] if control else stored)[name] for name in ("intersection", "union")}
    every = Counts(
        classes=np.array([[number[name]] for name in stored["class"]], dtype=np.int64),
        target=np.array(stored["target"], dtype=np.int64),
        ignored=np.array(stored["ignored"], dtype=np.int64),
        present=np.array(stored["present"], dtype=np.int64) if "present" in stored and not control else None,
        **{name: np.array(values, dtype=np.int64) for name, values in amounts.items()},
    )
    return every if seed is None else every[np.array(stored["seed"]) == seed]


def _scores(counts: Counts, content: dict[str, Any]) -> dict[str, Any]:
    ids = np.arange(len(content["classes"]))
    each = 100 * reduce.class_iou(counts, ids)
    return {
        "miou": 100 * float(reduce.miou(counts, ids, content["protocol"]["absent"])),
        "fb_iou": 100 * float(reduce.fb_iou(counts)),
        "episode_iou": 100 * float(reduce.episode_iou(counts).mean()),
        "exact_ratio": 100 * reduce.exact_ratio(counts),
        "pixel_accuracy": 100 * reduce.pixel_accuracy(counts),
        "per_class": {name: None if np.isnan(v) else float(v) for name, v in zip(content["classes"], each)},
    }


def _control_scores(content: dict[str, Any], control: str, seeds: list[int]) -> dict[str, Any]:
    per_seed = [_scores(_counts(content, seed, control), content) for seed in seeds]
    scores = {k: v for k, v in _mean_of(per_seed).items() if k != "exact_ratio"}
    intervals = _intervals(content, [s["miou"] for s in per_seed], control)
    return {**scores, "ci95": _shown(intervals), "intervals": intervals}


def _mean_of(per_seed: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([s[name] for s in per_seed])) for name in per_seed[0] if name != "per_class"}


def _mean(values: list[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return float(np.mean(numbers)) if numbers else None


def _intervals(
    content: dict[str, Any], of_seeds: list[float], control: str | None = None
) -> dict[str, list[float] | None]:
    seeds = reduce.seed_interval(of_seeds, most=100)
    return {"seeds": None if seeds is None else list(seeds), "episodes": _of_episodes(content, control)}


def _shown(intervals: dict[str, list[float] | None]) -> list[float] | None:
    """The one that stands in the table: the same kind for the method and for its controls."""
    return intervals["seeds"] or intervals["episodes"]


def _of_episodes(content: dict[str, Any], control: str | None = None) -> list[float]:
    """The interval over resampled episodes, by the rules of the score itself."""
    ids, runs = np.arange(len(content["classes"])), np.array(content["counts"]["per_episode"]["seed"])
    counts, absent = _counts(content, control=control), content["protocol"]["absent"]
    return [100 * x for x in reduce.bootstrap_interval(counts, ids, absent, runs=runs)]


def unmet(content: dict[str, Any]) -> str:
    """One line that names the tested classes for which no episode asks, and how they count; empty without any."""
    per_class = content["counts"]["per_class"]
    names = [name for name, sums in per_class.items() if not sums["episodes"]]
    how = "count as zero" if content["protocol"]["absent"] == "zero" else "are left out of the mean"
    what = f"no episode asks for {len(names)} of {len(per_class)} classes, which {how}"
    return f"{what}: {', '.join(names)}; take more --episodes" if names else ""


def _class_sums(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sums over all seeds: [background, foreground] of the episodes of each class."""
    all_counts = _counts(content)
    of_class = {name: all_counts[all_counts.classes[:, 0] == i] for i, name in enumerate(content["classes"])}
    return {
        name: {
            "episodes": len(c),
            "intersection": c.intersection.sum(0).tolist(),
            "union": c.union.sum(0).tolist(),
            "ignored": int(c.ignored.sum()),
        }
        for name, c in of_class.items()
    }


def environment(device: str | torch.device) -> dict[str, Any]:
    """What a number may depend on besides the protocol: versions, machine, device."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        **versions,
    }


# --- published numbers ------------------------------------------------------------------------------------------------


@cache
def all_published() -> list[dict[str, Any]]:
    """Every row of ``published.json``, which says what its keys are."""
    return json.loads(files("shotseg.evaluation").joinpath("published.json").read_text(encoding="utf-8"))["rows"]


def published(method: str, dataset: str, shot: int, **measured: Any) -> list[dict[str, Any]]:
    """What was published for a method on a data set with that many shots; empty where nothing is known.

    measured: what else must be the same, of ``protocol``, ``encoder``, ``fold_definition``, ``year``, ``size``, ``host``.
    """
    same = {"method": method.lower().replace("_", "-"), "dataset": dataset, "shot": shot, **measured}
    return [row for row in all_published() if all(row.get(key, value) == value for key, value in same.items())]


def published_beside(content: dict[str, Any], all_classes: bool, host: str | None = None) -> list[dict[str, Any]]:
    """The rows with a number for just this fold, by this encoder (in this ``host``) under this very protocol.

    content: a result.      all_classes: whether every class of the fold was tested.
    """
    protocol, data, fold = content["protocol"], content["data"], content["fold"]
    if not all_classes or protocol["overridden"] or not isinstance(fold, int):
        return []
    rows = published(
        content["method"],
        content["dataset"],
        content["shot"],
        protocol=protocol["name"],
        encoder=content["encoder"],
        fold_definition=data.get("folds"),
        year=data.get("year"),
        size=protocol["size"],
        host=host,
    )
    return [row for row in rows if row["folds"]]


# --- comparison -------------------------------------------------------------------------------------------------------


def compare(a: dict[str, Any], b: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    """Paired bootstrap of two results on the same episodes: mIoU of the first minus the second, in percent points.

    a, b: their contents.       first, second: what they are called.
    Raises UsageError where the episodes, their masks or the rules for classes that never occur are not the same.
    """
    names = ("seed", "episode", "class", "query", "support")
    if any(a["counts"]["per_episode"][name] != b["counts"]["per_episode"][name] for name in names):
        other = ", ".join(_differing(a, b)) or "the photos"
        raise UsageError(
            f"{first} and {second} were not measured on the same episodes ({other}: not the same); measure both alike"
        )
    counted = [[x["protocol"][name] for name in ("score_at", "ignore_band")] for x in (a, b)]
    if counted[0] == counted[1] == ["original", counted[0][1]] and _targets(a) != _targets(b):
        raise UsageError(f"{first} and {second}: masks were changed between the two; measure both anew")
    absent, theirs = a["protocol"]["absent"], b["protocol"]["absent"]
    if absent != theirs:
        rules = f"classes that never occur count by the rule {absent!r} in the one and {theirs!r} in the other"
        raise UsageError(f"{first} and {second}: {rules}; measure both with one protocol")
    ids, runs = np.arange(len(a["classes"])), np.array(a["counts"]["per_episode"]["seed"])
    difference = reduce.paired_bootstrap(_counts(a), _counts(b), ids, absent=absent, runs=runs)
    both = ((name, a["per_class"][name], b["per_class"][name]) for name in a["classes"])
    return {
        "first": first,
        "second": second,
        "miou": [a["miou"], b["miou"]],
        **{name: 100 * value if name != "p" else value for name, value in difference.items()},
        "per_class": {name: None if x is None or y is None else x - y for name, x, y in both},
        "episodes": len(a["counts"]["per_episode"]["seed"]),
    }


def _targets(content: dict[str, Any]) -> list[list[int]]:
    """Pixels of truth, background and class, of each episode."""
    return content["counts"]["per_episode"]["target"]


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What decides the episodes of a result and is not the same in both."""
    about = [name for name in ("dataset", "fold", "shot", "classes") if a[name] != b[name]]
    return about + [
        name for name in ("rule", "episodes", "seeds") if a["protocol"].get(name) != b["protocol"].get(name)
    ]


# --- what is printed ----------------------------------------------------------------------------------------------------


SCORES = ("miou", "fb_iou", "episode_iou", "exact_ratio", "pixel_accuracy")


def summary(content: dict[str, Any]) -> Summary:
    """What a result of one class at a time says in one table."""
    protocol, asked = content["protocol"], len(content["counts"]["per_episode"]["seed"])
    what = f"{content['dataset']}, {len(content['classes'])} classes, {content['shot']}-shot"
    changed = ", ".join(protocol["overridden"])
    notes = [
        unmet(content),
        _unshown(content),
        f"not the preset {protocol['name']}: changed {changed}" if changed else "",
    ]
    return Summary(
        title=f"{what}, {asked} episodes, {protocol['name']}",
        columns=("percent", "mIoU", "95 % interval", "FB-IoU"),
        rows=lines(content),
        scores={name: content[name] for name in SCORES},
        intervals={"miou": content["ci95"]},
        numbers=("mIoU", "FB-IoU"),
        notes=[note for note in notes if note],
    )


def _unshown(content: dict[str, Any]) -> str:
    """A line where numbers were published of this method and data set, none of which may stand beside this result."""
    if content["published"] or not published(content["method"], content["dataset"], content["shot"]):
        return ""
    other = "they have other folds, another encoder or another protocol"
    return f"published numbers of {content['method']}: not shown, {other}"


def lines(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table: name, mIoU, 95 % interval, FB-IoU."""
    rows: list[tuple[str, ...]] = [
        (content["method"], f"{content['miou']:.1f}", between(content["ci95"]), f"{content['fb_iou']:.1f}")
    ]
    for name, scores in content["controls"].items():
        label = f"control: {name.replace('_', ' ')}"
        rows.append((label, f"{scores['miou']:.1f}", between(scores["ci95"]), f"{scores['fb_iou']:.1f}"))
    for row in content["published"]:
        rows.append((_label(row, content["fold"]), f"{row['folds'][content['fold']]:.1f}", "", ""))
    return rows


def _label(row: dict[str, Any], fold: int) -> str:
    """A published row's name in the table: what it is of, its source, and whether that was looked up."""
    checked = row["checked"] and "folds" not in row.get("unchecked", ())
    parts = (
        f"published: {row['backbone']}, fold {fold}",
        row.get("note"),
        row["source"],
        None if checked else "not checked",
    )
    return "; ".join(part for part in parts if part)
