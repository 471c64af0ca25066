"""The door of this room: one call measures a method on a data set. The command line and the scripts come in here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from shotseg import models
from shotseg.arguments import checked
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.data.usable import usable
from shotseg.data.writable import check_out
from shotseg.device import usual_tensors, working
from shotseg.errors import UsageError, note
from shotseg.evaluation import effort as strokes
from shotseg.evaluation import n_way, options, outcome, several_run, single_run, subject
from shotseg.evaluation.episode_loop import OnProgress, is_first, partial_files
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.outcome import EvaluationResult
from shotseg.evaluation.pool import Pool, areas
from shotseg.evaluation.protocols import Protocol, preset
from shotseg.evaluation.several import Several, second


@checked
@usual_tensors()
def evaluate(
    dataset: Any,
    method: Any = "matching",
    *,
    root: str | Path | None = None,
    reading: Reading = AS_SEEN,
    out: str | Path | None = None,
    encoder: str = "auto",
    checkpoint: str | Path | None = None,
    fold: str | int | None = None,
    shot: int = 1,
    way: int = 1,
    queries: int = 10,
    present: float = 0.5,
    effort: bool = False,
    classes: Sequence[str] = (),
    kind: str | None = None,
    min_area: float = 0.0,
    folds: str | None = None,
    protocol: str = "shotseg",
    episodes: int | None = None,
    seeds: Sequence[int] = (),
    size: int | None = None,
    geometry: str | None = None,
    score_at: str | None = None,
    fusion: str | None = None,
    ignore_band: str | None = None,
    rule: str | None = None,
    device: str | torch.device = "auto",
    runtime: str = "auto",
    workers: int = 0,
    batch: int = 8,
    cache_mb: int = 2000,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] | None = None,
) -> EvaluationResult:
    """Measure a few-shot method, beside controls that know nothing of the class: examples and photos in, masks counted.

    dataset:    a folder or annotation file of your own; the name of a prepared data set, with ``root``; or one that is open
                (``classes``; ``items``, each with id, content, class_id, class_name and mask_path as those of
                :class:`shotseg.data.folder.Item`; ``sample(i)`` with image (H, W, 3) uint8 and mask (H, W) in {0, 1, 255}).
    method:     a name (``shotseg.list_models``), or a few-shot model that is ready.      encoder: of a method by name.
    checkpoint: a trained model; its recipe says method and encoder. A semantic model is scored on what its training held out.
    fold, folds, classes, kind, min_area, reading: which classes and masks of the data set, see shotseg evaluate --help.
    shot:       examples of each class, 1 or more.
    way:        classes asked for at once, 1 or more. Above 1 most are absent: ``queries`` photos of each class are asked for all
                of them, and from a presence of ``present`` on, 0 to 1, a class is said to be there.
    effort:     count the strokes of a simulated person who corrects ``episodes`` photos of each class, in place of pixels.
    protocol:   a preset (docs/benchmarks.md). episodes (of each seed), seeds, size (pixels), geometry, score_at, fusion,
                ignore_band and rule each change one of its choices, and the result says so.
    runtime:    what computes the encoder on a CPU: torch, onnxruntime, or auto, the fastest that is installed.
    device:     cpu, cuda, mps or auto.      workers: threads, 0 = one a core, which is the most.
    batch:      episodes a worker takes at a time, 1 to 256.
    cache_mb:   bound on what is kept in memory, MiB. None of these four changes a count.
    out:        result file (.json), written with its report (.report.html). An interrupted run leaves its counts beside it, and
                the same call with ``resume`` goes on from them, unless model or data set were given ready.
    on_progress: told (done, total) as episodes are counted.      say: told lines that stop nothing;
                default a warning.

    Gives scores in percent with 95 % intervals, the protocol and the counts. Under ``torchrun`` every process gets the result,
    and the first writes it. Raises UsageError for options that do not fit, InputError
    for a photo or checkpoint that cannot be used.
    """
    asked = SimpleNamespace(**locals())
    given = [option for option, value in vars(asked).items() if _is_given(option, value)]
    options.check(vars(asked), given)
    asked.say, asked.on_progress = say or note, on_progress or (lambda done, total: None)
    asked.out = _writable(out, resume)
    if checkpoint is not None and not Path(checkpoint).exists():
        raise UsageError(f"--checkpoint {checkpoint}: no such file or folder; check the path")
    asked.name, asked.root = subject.place(dataset, root)
    if not isinstance(method, str):
        options.refuse(given, options.OF_MODELS, "a model that is ready")
    if asked.root is None:
        options.refuse(given, options.OF_PLACES, "a data set that is open")
    asked.keeps = asked.out is not None and isinstance(method, str) and asked.root is not None
    own = subject.names(method, encoder, checkpoint)[0]
    if own not in models.SEMANTIC:
        return kept(*_few_shot(asked), asked.out)
    if checkpoint is None:
        raise UsageError(f"--method {own}: it knows only the classes of its training; give --checkpoint")
    if asked.root is None:
        raise UsageError(f"{checkpoint}: a semantic model; give its data set by name and --root, not open")
    options.refuse(given, set(given) - options.SEMANTIC, "the checkpoint of a semantic model")
    from shotseg.evaluation import semantic_run  # it takes long to import

    where = (checkpoint, asked.name, asked.root)
    return kept(semantic_run.measure(*where, str(device), size, asked.on_progress), "", asked.out)


def _few_shot(asked: SimpleNamespace) -> tuple[dict[str, Any], str]:
    """The content of the result file of a few-shot model, and its report; the report is empty where there is none."""
    protocol, shot, way = _protocol(asked), asked.shot, asked.way
    fold = None if asked.fold is None else str(asked.fold)
    chosen = {"kind": asked.kind, "min_area": asked.min_area}
    if asked.name != "folder":
        asked.reading.refuse("a prepared data set")
    elif asked.folds:
        options.refuse(["folds"], ["folds"], "a folder, whose index.csv says the folds")
    where = (asked.name, asked.root, protocol, fold, asked.folds)
    photos, known = subject.opened(asked.dataset, *where, {**chosen, **asked.reading.view})
    photos, unusable = usable(photos, asked.classes or known, asked.say)
    classes, left_out = subject.tested(photos, asked.root or asked.name, known, asked.classes, shot, way)
    if left_out:
        asked.say(f"left out, fewer than {shot + 1} photos: {', '.join(left_out)}")
        way = min(way, len(classes)) if way <= len(classes) + len(left_out) else way
    data = {"root": str(asked.root or getattr(photos, "root", "")), **chosen, **asked.reading.said}
    data |= {"left_out": unusable} if unusable else {}
    made_of = (asked.method, asked.encoder, asked.checkpoint)
    about = subject.about(*made_of, photos, asked.name, fold, shot=shot, data=data)
    if learnt := subject.learnt_before(asked.checkpoint, classes):
        about["trained_on"] = learnt
    model, device = subject.model(*made_of, asked.device, asked.runtime)
    about["runtime"] = getattr(model.encoder, "runtime", "torch")
    pool = Pool(photos, classes, shot, protocol.min_pixels, areas(photos, protocol.min_pixels))
    parts = (model, photos, pool, protocol, device, asked.cache_mb)
    if asked.effort:
        count = asked.episodes or strokes.PHOTOS
        return strokes.whole(Evaluator(*parts), about, count, asked.present, asked.on_progress), ""
    if way > 1 and asked.protocol == "cst":
        return n_way.result(Evaluator(*parts), about, way, shot, preset("cst", asked.name).rule), ""
    how = {"resume": asked.resume, "workers": working(asked.workers or torch.get_num_threads()), "batch": asked.batch}
    keeping = (partial_of(asked.out) if asked.keeps else None, asked.on_progress)
    if way == 1:
        return single_run.measure(Evaluator(*parts), about, *keeping, **how)
    about |= {"way": way, "queries": asked.queries}
    return several_run.measure(Several(*parts, threshold=asked.present), about, *keeping, tuple(left_out), **how)


def _protocol(asked: SimpleNamespace) -> Protocol:
    """The preset that is named, with what the other options change of it."""
    names = ("episodes", "size", "geometry", "score_at", "fusion", "ignore_band", "rule")
    changed = {name: getattr(asked, name) for name in names}
    return preset(asked.protocol, asked.name).override(seeds=tuple(asked.seeds) or None, **changed)


def kept(content: dict[str, Any], page: str, out: Path | None) -> EvaluationResult:
    """The result, written to ``out`` with its report; what an interrupt would have left there is then of no more use."""
    result = outcome.of(content, page)
    if out is not None and is_first():
        if page:
            result.report(out.with_suffix(".report.html"))
        result.save(out)
        for partial in (partial_of(out), second(partial_of(out))):
            for path in partial_files(partial):
                path.unlink()
    return result


def partial_of(out: Path) -> Path:
    """The file of the counts until there is a result."""
    return out.with_suffix(".partial.jsonl")


def _writable(out: str | Path | None, resume: bool) -> Path | None:
    """Raises UsageError where a result cannot be written, before the work that it takes."""
    if out is None:
        if resume:
            raise UsageError("--resume goes on from the counts beside --out; give it")
        return None
    if Path(out).suffix != ".json":
        raise UsageError(f"--out {out}: name a file that ends in .json")
    check_out(Path(out))
    return Path(out)


def _is_given(option: str, value: Any) -> bool:
    """Whether an option is not as it was left."""
    left = inspect.signature(evaluate).parameters[option].default
    return tuple(value) != left if isinstance(left, tuple) else value is not left and value != left
