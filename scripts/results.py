"""Trains every method on the same photos, measures all on the same episodes, and writes the page that compares them.

python scripts/results.py --data folder-of-the-data-sets --out results

The plan is experiments/results.yaml. Each training and each measurement is a process of its own, ``--jobs`` at a time, so that
its processor time and peak memory are its own. What lies in ``out`` already is not done again, nor what was measured before:
experiments/measured.tar.xz holds it, with every episode's numbers. ``--anew`` measures that too. ``--only-page`` writes the page
of what is there.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date
from functools import partial
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tyro
import yaml
from experiment import filled, merged, slug

PLAN = Path(__file__).resolve().parents[1] / "experiments/results.yaml"
MEASURED = PLAN.with_name("measured.tar.xz")
SEED = 321
AGAINST = "matching"


@dataclass(frozen=True)
class Results:
    """rows, sets: those that are wanted, () = all.   steps, episodes: fewer than the plan says, to try."""

    data: Path
    out: Path = Path("results")
    page: Path = Path("docs/comparison.md")
    rows: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    steps: int | None = None
    episodes: int | None = None
    jobs: int = os.cpu_count() or 1
    device: str = "cpu"
    only_page: bool = False
    anew: bool = False


@dataclass(frozen=True)
class Task:
    """One measurement: a row of the plan, on one fold of a data set, in one way."""

    row: str
    place: str
    fold: str
    measure: str

    @property
    def file(self) -> str:
        return f"{slug(self.row)}-{self.place}-{self.fold or 'all'}-{slug(self.measure)}.json"


def tasks(plan: Mapping[str, Any], run: Results) -> list[Task]:
    """All that the plan asks for, in the order in which a reader wants them: the first fold of everything first."""
    found = [
        Task(row, place, fold, measure)
        for place, how in plan["sets"].items()
        for fold in how.get("folds", [""])
        for measure in plan["measures"]
        for row in plan["rows"]
        if measure not in how.get("without", ()) and (not run.rows or row in (*run.rows, AGAINST))
    ]
    return [task for task in found if not run.sets or task.place in run.sets]


def trained_on(task: Task) -> str:
    """The fold whose network answers: the set's own, or the first where the set has none."""
    return task.fold or "0"


def learners(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that are trained, after what several of them share."""
    return plan["shared"] | {name: row for name, row in plan["rows"].items() if "recipe" in row}


def weights(run: Results, row: str, fold: str) -> Path:
    return run.out / "runs" / f"{slug(row)}-{fold}"


def result_file(run: Results, task: Task) -> Path:
    return run.out / "measured" / task.file


def cost_file(run: Results, row: str, fold: str) -> Path:
    """What it took to train the row's network for a fold."""
    return run.out / "measured" / f"{slug(row)}-{fold}.training.json"


def is_trained(run: Results, row: str, fold: str) -> bool:
    return (weights(run, row, fold) / "best.safetensors").is_file() and cost_file(run, row, fold).is_file()


def train(run: Results, plan: Mapping[str, Any], row: str, fold: str) -> None:
    """Train the network of a row for a fold."""
    from shotseg.training import checkpoint
    from shotseg.training import recipe as recipes
    from shotseg.training.run import train as fit

    how, folder = learners(plan)[row], weights(run, row, fold)
    changes = merged(plan["changes"], {"data": {"fold": fold}, "seed": SEED}, how.get("changes", {}))
    changes = filled(changes, out=str(run.out), fold=fold)
    if run.steps:
        changes |= {"steps": run.steps, "save_every": run.steps, "validation": {"every": run.steps, "episodes": 20}}
    recipe = recipes.load(how["recipe"], **changes)
    with redirect_stdout(io.StringIO()):
        fit(recipe, run.data / "pascal_coseg15", folder, resume=True, device=run.device)
    if row in plan["shared"]:
        write(cost_file(run, row, fold), used())
        return
    model = checkpoint.load_model(folder / "best.safetensors", "cpu")
    frozen = {id(x) for x in model.encoder.parameters()}
    learnt = sum(x.numel() for x in model.parameters() if id(x) not in frozen)
    spent = {**used(), "parameters": learnt, "steps": recipe.steps, "batch": recipe.batch}
    write(cost_file(run, row, fold), spent)


def measure(run: Results, plan: Mapping[str, Any], task: Task) -> None:
    """Measure one task; ``.cost.json`` beside the result says what that took."""
    import shotseg

    out = result_file(run, task)
    how, row = plan["sets"][task.place], plan["rows"][task.row]
    asked = dict(plan["measures"][task.measure])
    if run.episodes and "episodes" in asked:
        asked["episodes"] = run.episodes
    trained = {"checkpoint": weights(run, task.row, trained_on(task)) / "best.safetensors"}
    made = trained if "recipe" in row else {"encoder": plan["encoder"]}
    chosen = {name: how[name] for name in ("classes", "kind", "min_area") if name in how}
    began = time.process_time()
    shotseg.evaluate(
        run.data / task.place,
        row.get("method", AGAINST),
        **made,
        **chosen,
        **asked,
        fold=task.fold or None,
        seeds=(0,),
        size=plan["changes"]["model"]["size"],
        workers=1,
        device=run.device,
        out=out,
    )
    write(out.with_suffix(".cost.json"), {**used(), "work": time.process_time() - began})


def used() -> dict[str, float]:
    """Processor seconds and peak memory (MiB) of this process until now."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu": time.process_time(), "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}


def write(path: Path, content: Any) -> None:
    from shotseg.data.images import write_bytes

    write_bytes(path, json.dumps(content, indent=1).encode())


def run_all(run: Results, jobs: Sequence[Callable[[], None]], what: str) -> None:
    """Every job in a process of its own; a job that fails is named, and the others go on."""
    with ProcessPoolExecutor(run.jobs, get_context("spawn"), initializer=one_thread, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(job): job for job in jobs}
        for n, done in enumerate(as_completed(waiting), 1):
            error, job = done.exception(), waiting[done]
            named = " ".join(str(x) for x in job.args[2:])  # type: ignore[attr-defined]
            print(f"{what} {n}/{len(jobs)} {named}" + (f": {error}" if error else ""), flush=True)


def one_thread() -> None:
    """Processor seconds mean the same for every method."""
    import torch

    torch.set_num_threads(1)


def unpack(run: Results) -> None:
    """What was measured before, where nothing newer lies."""
    if MEASURED.is_file():
        with tarfile.open(MEASURED) as packed:
            missing = [member for member in packed if not (run.out / "measured" / member.name).exists()]
            packed.extractall(run.out / "measured", missing, filter="data")


def pack(run: Results) -> None:
    """All that is measured, with names in place of the folders of this machine."""
    places = {str(run.out.absolute()): "results", str(run.out): "results", str(run.data): "data"}
    with tarfile.open(MEASURED, "w:xz") as packed:
        for path in sorted((run.out / "measured").glob("*.json")):
            text = path.read_text()
            for place, name in places.items():
                text = text.replace(place, name)
            content = text.encode()
            member = tarfile.TarInfo(path.name)
            member.size, member.mtime = len(content), int(path.stat().st_mtime)
            packed.addfile(member, io.BytesIO(content))


# --- the page -----------------------------------------------------------------------------------------------------------


def page(run: Results, plan: Mapping[str, Any]) -> str:
    """The page of all that has been measured; a cell without a result says so."""
    found = {t: load(result_file(run, t)) for t in tasks(plan, run)}
    lines = [
        "# Every method on the same episodes",
        "",
        *first_line(plan, found),
        "",
        *method(run, plan),
    ]
    for place, how in plan["sets"].items():
        columns = [m for m in plan["measures"] if m not in how.get("without", ())]
        if not any(result for task, result in found.items() if task.place == place):
            continue
        whole = ", ".join(whole_folds(found, place, columns[0]))
        measured = f"Folds {whole} of {', '.join(how['folds'])}." if "folds" in how else "All classes of the plan."
        lines += ["", f"## `{place}`", "", measured, "", *table(plan, found, place, columns)]
    return "\n".join([*lines, "", "## What it costs", "", *costs(run, plan), ""])


def load(path: Path) -> Any:
    import shotseg

    return shotseg.EvaluationResult.load(path) if path.is_file() else None


def first_line(plan: Mapping[str, Any], found: Mapping[Task, Any]) -> Iterator[str]:
    """Who is told apart from ``matching`` on the first data set with one shot, and who is below the masks it was given."""
    place, how = next(iter(plan["sets"])), next(iter(plan["measures"]))
    below, above, under = [], [], []
    for row, about in plan["rows"].items():
        pairs = paired(found, row, place, how)
        if pairs and about["needs"] == "masks" and row != AGAINST:
            (below if pairs[2] < 0 else above if pairs[1] > 0 else []).append(row)
        given = against_control(found, row, place, how, "pseudo_mask")
        if given and given[1] <= 0:
            under.append(row)
    missing = [row for row in plan["rows"] if not results(found, row, place, how)]
    yield f"Weaker than `{AGAINST}`, which learns nothing, with one example: {', '.join(below) or 'none'}."
    yield f"Stronger: {', '.join(above) or 'none'}."
    yield f"Not better than the pseudo masks that they are given: {', '.join(under) or 'none'}."
    if missing:
        yield f"Not run yet: {', '.join(missing)}."


def method(run: Results, plan: Mapping[str, Any]) -> Iterator[str]:
    common, measures = plan["changes"], plan["measures"]
    each = "; ".join(f"{name}: {', '.join(f'{k} {v}' for k, v in how.items())}" for name, how in measures.items())
    times = [path.stat().st_mtime for path in (run.out / "measured").glob("*.json")]
    days = " to ".join(sorted({str(date.fromtimestamp(time)) for time in (min(times), max(times))}))
    yield f"Measured by `make results`, {days}; each line of the plan is in `experiments/results.yaml`."
    yield "The numbers of every episode are in `experiments/measured.tar.xz`."
    yield f"One encoder for all, frozen, without a download: EfficientNet-Lite0, {common['model']['size']} px. Training:"
    yield f"{common['steps']} steps of {common['batch']} by the tiny recipes, seed {SEED}, on the classes of the other folds."
    yield "On the other sets answers the network of fold 0. These are small trainings: no number here compares with a paper's."
    yield f"Episodes, seed 0, the same for every row: {each}. Where several classes are asked for, most are absent."
    yield "Of five shots HSNet and TLG take what half of the surest finds, CST and CORENet the mean probability."
    yield "The others see them together."
    yield "Intervals are 95 %: by bootstrap over the episodes of a fold; of a mean of folds from those of the folds."
    yield "PI-CLIP is not here: it wants CLIP's weights, which are no part of a package."


def table(plan: Mapping[str, Any], found: Mapping[Task, Any], place: str, columns: Sequence[str]) -> Iterator[str]:
    """A row a method: mIoU of each measure, and the paired difference to ``matching`` or to its own pseudo masks."""
    first = columns[0]
    yield "| learns a class from | method | " + " | ".join(columns) + f" | minus `{AGAINST}`, {first} |"
    yield "|---|---|" + "---|" * (len(columns) + 1)
    for row, about in plan["rows"].items():
        cells = [mean(results(found, row, place, column)) for column in columns]
        if not any(cells):  # the first lines name it
            continue
        pairs = paired(found, row, place, first) if row != AGAINST else None
        yield f"| {about['needs']} | {row} | " + " | ".join(map(shown, cells)) + f" | {signed(pairs)} |"
    for row in ("TLG", AGAINST):  # the controls stand once; the pseudo masks are given to those that learn from names
        for control in results(found, row, place, first)[0].controls if results(found, row, place, first) else ():
            if (control == "pseudo_mask") == (row == "TLG"):
                values = [x.control(control) for x in results(found, row, place, first)]
                yield f"| | control: {control.replace('_', ' ')} | {shown(mean(values))} |" + " |" * len(columns)


def results(found: Mapping[Task, Any], row: str, place: str, measured: str) -> list[Any]:
    """Those of a row on the folds that are whole."""
    whole = whole_folds(found, place, measured)
    own = {t.fold: result for t, result in found.items() if (t.place, t.measure, t.row) == (place, measured, row)}
    return [own[fold] for fold in whole if own.get(fold)]


def whole_folds(found: Mapping[Task, Any], place: str, measured: str) -> list[str]:
    """The folds that every row has which has any."""
    rows: dict[str, set[str]] = {}
    for t, result in found.items():
        if result and (t.place, t.measure) == (place, measured):
            rows.setdefault(t.fold, set()).add(t.row)
    begun = set().union(*rows.values())
    return [fold for fold, own in rows.items() if own == begun]


def mean(found: Sequence[Any]) -> tuple[float, float, float] | None:
    """Mean of the folds' mIoU and its interval."""
    return pooled([(x.scores["miou"], *x.intervals["miou"]) for x in found])


def pooled(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    """Mean and interval of a mean of independent values (value, low, high)."""
    if not values:
        return None
    n, middle = len(values), sum(v for v, _, _ in values) / len(values)
    down, up = (sqrt(sum((v - x[side]) ** 2 for v, x in zip((x[0] for x in values), values))) / n for side in (1, 2))
    return middle, middle - down, middle + up


def paired(found: Mapping[Task, Any], row: str, place: str, measured: str) -> tuple[float, float, float] | None:
    ours, theirs = results(found, row, place, measured), results(found, AGAINST, place, measured)
    pairs = [a.compare(b) for a, b in zip(ours, theirs)]
    return pooled([(p["difference"], p["low"], p["high"]) for p in pairs])


def against_control(found: Mapping[Task, Any], row: str, place: str, measured: str, control: str) -> Any:
    ours = results(found, row, place, measured)
    if not ours or control not in ours[0].controls:
        return None
    pairs = [x.compare(x.control(control)) for x in ours]
    return pooled([(p["difference"], p["low"], p["high"]) for p in pairs])


def costs(run: Results, plan: Mapping[str, Any]) -> Iterator[str]:
    """Parameters, time and memory of every row, each from its own processes."""
    yield "One thread, processor time. An episode: reading, encoding and deciding, photos met twice are encoded once."
    yield ""
    yield "| method | weights that learn | training, minutes | its peak memory, MiB | an episode, s | its peak memory, MiB |"
    yield "|---|---|---|---|---|---|"
    place, how = next(iter(plan["sets"])), next(iter(plan["measures"]))
    for row, about in plan["rows"].items():
        task = Task(row, place, plan["sets"][place]["folds"][0], how)
        spent = result_file(run, task).with_suffix(".cost.json")
        taught = cost_file(run, row, trained_on(task))
        if not spent.is_file():
            continue
        one, counted = json.loads(spent.read_text()), load(result_file(run, task))
        episodes = len(counted.counts["per_episode"]["seed"])
        learning = "0 | | |"
        if "recipe" in about:
            t = json.loads(taught.read_text())
            learning = f"{t['parameters']:,} | {t['cpu'] / 60:.1f} | {t['mib']:.0f} |"
        yield f"| {row} | {learning} {one['work'] / episodes:.2f} | {one['mib']:.0f} |"


def shown(value: tuple[float, float, float] | None) -> str:
    return "not run" if value is None else f"{value[0]:.1f} [{value[1]:.1f}, {value[2]:.1f}]"


def signed(value: tuple[float, float, float] | None) -> str:
    return "" if value is None else f"{value[0]:+.1f} [{value[1]:+.1f}, {value[2]:+.1f}]"


def main(run: Results) -> None:
    plan = yaml.safe_load(PLAN.read_text())
    if not run.anew:
        unpack(run)
    if not run.only_page:
        wanted = [task for task in tasks(plan, run) if not result_file(run, task).is_file()]
        for fold in dict.fromkeys(trained_on(task) for task in wanted):  # whole folds, should there be no time for all
            own = [task for task in wanted if trained_on(task) == fold]
            rows = {task.row for task in own}
            learning = [name for name in learners(plan) if name in plan["shared"] or name in rows]
            for first in (True, False):  # what is shared comes before those that share it
                names = [n for n in learning if (n in plan["shared"]) == first and not is_trained(run, n, fold)]
                run_all(run, [partial(train, run, plan, name, fold) for name in names], f"fold {fold}: trained")
            ready = [t for t in own if t.row not in learning or is_trained(run, t.row, fold)]
            run_all(run, [partial(measure, run, plan, task) for task in ready], f"fold {fold}: measured")
    pack(run)
    run.page.write_text(page(run, plan))
    print(run.page)


if __name__ == "__main__":
    main(tyro.cli(Results, description=__doc__))
