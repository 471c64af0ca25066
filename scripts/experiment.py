"""Trains every row of an experiment, measures all on the same episodes, and prints a table with paired intervals.

python scripts/experiment.py experiments/weak.yaml --root photos --out weak --steps 200

The experiment is YAML. ``rows``: name -> ``recipe``, the ``changes`` of it, ``at_test`` (attributes of the trained model
that change its answer alone), ``weights`` (the row whose training it shares). ``changes``: of every row. ``against``: the row
that the others are compared with. ``controls``: of that row, which are rows too. "{out}" and "{extractor}" stand for what the
flags say. What lies in ``out`` already is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml

import shotseg
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from shotseg.training.run import train


@dataclass(frozen=True)
class Run:
    """steps, batch, size: in place of the recipes' own.   rows: those that are wanted beside ``against``; () = all."""

    experiment: tyro.conf.Positional[Path]
    root: Path
    out: Path
    fold: str = "0"
    seeds: tuple[int, ...] = (321, 322)
    episodes: int = 1000
    steps: int | None = None
    batch: int | None = None
    size: int | None = None
    extractor: str = ""
    rows: tuple[str, ...] = ()
    device: str = "cpu"


def result_of(run: Run, name: str, row: Mapping[str, Any], seed: int, *changes: Any) -> shotseg.EvaluationResult:
    """The row trained with a seed and measured on the test fold; the episodes are the same for every row and seed."""
    out = run.out / "results" / f"{slug(name)}-{seed}.json"
    if out.is_file():
        return shotseg.EvaluationResult.load(out)
    weights = run.out / "runs" / slug(row.get("weights", name)) / f"{seed}"
    if not (weights / "best.safetensors").is_file():
        common: dict[str, Any] = {"data": {"fold": run.fold}, "seed": seed, "workers": 0}
        common |= {key: value for key in ("steps", "batch") if (value := getattr(run, key))}
        common |= {"model": {"size": run.size}} if run.size else {}
        recipe = recipes.load(row["recipe"], **merged(common, *changes, row.get("changes", {})))
        train(recipe, run.root, weights, resume=True, device=run.device)
    model = checkpoint.load_model(weights / "best.safetensors", run.device)
    for part, value in row.get("at_test", {}).items():
        setattr(model, part, value)
    how = {"fold": run.fold, "episodes": run.episodes, "seeds": (0,), "device": run.device, "out": out}
    return shotseg.evaluate(run.root, model, **how)


def merged(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested changes as one, the later over the earlier."""
    found: dict[str, Any] = {}
    for change in changes:
        for key, value in change.items():
            found[key] = merged(found.get(key, {}), value) if isinstance(value, Mapping) else value
    return found


def filled(value: Any, **given: str) -> Any:
    """The same with "{name}" in its texts replaced."""
    if isinstance(value, Mapping):
        return {key: filled(inner, **given) for key, inner in value.items()}
    return value.format(**given) if isinstance(value, str) and "{" in value else value


def slug(name: str) -> str:
    """A row's name as a file name."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name).split())


def main(run: Run) -> None:
    plan = filled(yaml.safe_load(run.experiment.read_text()), out=str(run.out), extractor=run.extractor)
    last = plan["against"]
    rows = {name: row for name, row in plan["rows"].items() if not run.rows or name in (*run.rows, last)}
    found = {
        name: [result_of(run, name, row, seed, plan.get("changes", {})) for seed in run.seeds]
        for name, row in rows.items()
    }
    found |= {control: [result.control(control) for result in found[last]] for control in plan.get("controls", ())}
    print(f"| row | mIoU, each training seed | {last} minus it, 95 % interval, each seed |", "|---|---|---|", sep="\n")
    for name, results in found.items():
        scores = " ".join(f"{result.scores['miou']:.1f}" for result in results)
        pairs = [ours.compare(theirs) for ours, theirs in zip(found[last], results)]
        margins = " ".join(f"{p['difference']:+.2f} ({p['low']:+.2f} .. {p['high']:+.2f})" for p in pairs)
        print(f"| {name} | {scores} | {'' if name == last else margins} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Run, description=__doc__))
