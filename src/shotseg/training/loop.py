"""The training loop of every system, on one device or many.

What step ``s`` does depends on the recipe and ``s`` alone: photos, augmentation and dropout are drawn from streams keyed by
(seed, step), so a run that was killed goes on bit for bit, and neither workers nor processes change the data.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from shotseg.data.images import write_bytes
from shotseg.device import cores, repeatable
from shotseg.errors import InputError, ShotsegError, UsageError, note
from shotseg.models.blocks.norm import BatchNorm
from shotseg.training import checkpoint, interrupt
from shotseg.training.progress import FIGURE, Log, has_lines
from shotseg.training.recipe import Optimiser, Recipe, Schedule, build, decisive, plain

Pictures = list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]
DROPOUT = 7  # keys the stream of the network's own random numbers, apart from those of the photos


class Task(Protocol):
    """What the loop asks of a training; :class:`shotseg.training.few_shot.FewShot` is one."""

    model: nn.Module
    classes: list[str]
    epoch: int
    validation: int
    best_is: str
    learns_from: str  # what tells its photos from others
    unit: str  # what a batch is made of

    def prepare(
        self, share: Callable[[Sequence[int]], Sequence[int]], advance: Callable[[str, int, int], None]
    ) -> None: ...
    def draw(self, i: int) -> Any: ...
    def draw_validation(self, j: int) -> Any: ...
    def collate(self, batches: Sequence[Any]) -> Any: ...
    def loss(self, model: Any, batch: Any) -> dict[str, Tensor]: ...
    def count(self, model: nn.Module, batch: Any) -> Tensor: ...
    def pictures(self, model: nn.Module, device: torch.device) -> Pictures: ...


@dataclass(frozen=True)
class Outcome:
    """best: the file of the best weights.    score: what they reached in validation, in percent.    steps: steps done."""

    best: Path
    score: float
    steps: int


class Objective(nn.Module):
    """A network as the map from a batch to its losses: what many devices share is this call."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], dict[str, Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.loss(self.model, batch)


def train(task: Task, recipe: Recipe, out: Path, resume: bool = False, device: str = "auto") -> Outcome:
    """Train to the end of the recipe, or until validation stops to improve.

    out: gets ``last.safetensors`` (to resume from), ``best.safetensors`` (to use), ``recipe.json``, ``metrics.jsonl``,
    ``tensorboard/`` and ``report.html``.     resume: go on from ``last.safetensors`` if it is there.
    Raises UsageError where ``out`` holds another run.
    """
    with repeatable(recipe.deterministic):
        return _train(task, recipe, out, resume, device)


def _train(task: Task, recipe: Recipe, out: Path, resume: bool, device: str) -> Outcome:
    AcceleratorState._reset_state()  # a process may train again, in another precision
    accelerator = Accelerator(
        mixed_precision=recipe.precision,
        cpu=device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=getattr(task.model, "rests", True))],
    )
    here = accelerator.device
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    part, rest = divmod(recipe.batch, world * recipe.accumulate)
    if rest or not part:
        raise UsageError(
            f"batch={recipe.batch} cannot be cut into {world} process(es) times accumulate={recipe.accumulate}; change it"
        )
    steps = recipe.steps or max(1, int(recipe.epochs * task.epoch) // recipe.batch)
    last, best = out / "last.safetensors", out / "best.safetensors"

    model = task.model.to(here)
    if recipe.sync_bn and world > 1 and here.type == "cuda":
        share_batch_norms(model)
    objective = Objective(model, task.loss)
    optimiser = make_optimiser(model, recipe.optimiser)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)
    state = _State()
    shadow = {name: tensor.detach().clone() for name, tensor in checkpoint.weights(model).items()} if recipe.ema else {}
    if not resume and (last.is_file() or has_lines(out)):
        raise UsageError(f"{out}: a run is there; add --resume to go on with it, or choose another --out")
    if last.is_file():
        state = _restore(last, task, recipe, model, optimiser, accelerator, shadow)
    accelerator.wait_for_everyone()
    if main:
        write_bytes(out / "recipe.json", json.dumps(plain(recipe), indent=1).encode())

    def keep() -> None:
        """Write what --resume goes on from."""
        if main:
            checkpoint.write(
                last,
                {**checkpoint.weights(model), **_optimiser_tensors(optimiser), **_prefixed("average.", shadow)},
                _about(task, recipe, state)
                | {"done": state.step >= steps or state.stopped(recipe)}
                | {"scaler": accelerator.scaler and accelerator.scaler.state_dict()},
            )

    with Log(out, state.step, steps, quiet=not main) as log:
        task.prepare(lambda items: items[rank::world], log.prepared)
        accelerator.wait_for_everyone()
        places = _places(range(state.step, steps), recipe.batch, recipe.accumulate, rank, world, part)
        batches = _batches(task.draw, task.collate, places, recipe.workers)

        with interrupt.postponed() as wanted:
            while state.step < steps and not state.stopped(recipe):
                step, start = state.step, time.perf_counter()
                rate = learning_rate(step, steps, recipe.schedule)
                for group in optimiser.param_groups:
                    group["lr"] = recipe.optimiser.lr * group["factor"] * rate
                wrapped.train()
                torch.manual_seed(stream_seed(recipe.seed, DROPOUT, step, rank))
                terms: dict[str, Tensor] = {}
                waited = 0.0
                for i in range(recipe.accumulate):
                    final = i == recipe.accumulate - 1
                    with nullcontext() if final else accelerator.no_sync(wrapped):
                        asked = time.perf_counter()
                        batch = next(batches).to(here)
                        waited += time.perf_counter() - asked
                        losses = wrapped(batch)
                        learnt = [value for name, value in losses.items() if not name.startswith(FIGURE)]
                        accelerator.backward(sum(learnt) / recipe.accumulate)
                    for name, value in losses.items():
                        terms[name] = terms.get(name, 0) + value.detach().float() / recipe.accumulate
                if recipe.optimiser.clip:
                    accelerator.clip_grad_norm_(wrapped.parameters(), recipe.optimiser.clip)
                optimiser.step()
                optimiser.zero_grad()
                if shadow:
                    checkpoint.average(shadow, model, min(recipe.ema, (1 + step) / (10 + step)))
                state.step += 1
                stop = torch.tensor(float(wanted.asked), device=here)  # all processes must stop at the same step
                *total, stopping = accelerator.reduce(torch.stack([*terms.values(), stop]), "mean").tolist()
                if not all(map(math.isfinite, total)):
                    raise UsageError(f"step {step}: the loss is no number; lower optimiser.lr, or set optimiser.clip")
                seconds = time.perf_counter() - start
                rate = optimiser.param_groups[0]["lr"]
                speed = recipe.batch / seconds
                log.step(
                    state.step, dict(zip(terms, total)), rate, f"{speed:.1f} {task.unit}/s", speed, waited / seconds
                )

                every = recipe.validation.every
                if state.step == steps or (every and state.step % every == 0):
                    with _averaged(model, shadow):
                        score, per_class = _validate(task, model, recipe, accelerator)
                        better = score > state.best
                        state.best, state.since = (score, 0) if better else (state.best, state.since + 1)
                        if main:
                            if better:
                                checkpoint.write(best, checkpoint.weights(model), _about(task, recipe, state))
                            with torch.no_grad():
                                log.validation(
                                    state.step, task.best_is, score, per_class, task.pictures(model.eval(), here)
                                )
                ended = state.step == steps or state.stopped(recipe)
                if state.step % recipe.save_every == 0 or ended or stopping:
                    keep()
                accelerator.wait_for_everyone()
                if stopping and not ended:
                    raise KeyboardInterrupt
        if main:
            log.report(task.best_is, plain(recipe))
    accelerator.end_training()
    return Outcome(best, state.best, state.step)


@dataclass
class _State:
    step: int = 0
    best: float = -1.0
    since: int = 0  # validations without a better one

    def stopped(self, recipe: Recipe) -> bool:
        return 0 < recipe.validation.patience <= self.since


def learning_rate(step: int, steps: int, schedule: Schedule) -> float:
    """The share of the base rate at a step (0, 1, ...). As in BAM's release, the first step already counts as done."""
    if step + 1 < schedule.warmup:
        return 0.1 + 0.9 * (step + 1) / schedule.warmup
    done = min(1.0, (step + 1) / steps)
    if schedule.name == "poly":
        return (1 - done) ** schedule.power
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1.0


def make_optimiser(model: nn.Module, choice: Optimiser) -> torch.optim.Optimizer:
    """One parameter group for each factor, over the parameters that learn; biases decay as the rest does.

    Raises UsageError for a factor of parameters that are not there.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in choice.factors:
        if not any(name.startswith(prefix) for name in names):
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            raise UsageError(
                f"optimiser.factors: no parameter begins with {prefix!r}; they begin with {', '.join(parts)}"
            )
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    spared = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, norms) and not choice.decay_norms
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fits = [prefix for prefix in choice.factors if name.startswith(prefix)]
            factor = choice.factors[max(fits, key=len)] if fits else 1.0
            groups.setdefault((factor, id(parameter) not in spared), []).append(parameter)
    listed = [
        {"params": parameters, "factor": factor, "weight_decay": choice.weight_decay if decayed else 0.0}
        for (factor, decayed), parameters in groups.items()
    ]
    if choice.name == "adamw":
        return torch.optim.AdamW(listed, choice.lr, weight_decay=choice.weight_decay)
    return torch.optim.SGD(listed, choice.lr, choice.momentum, weight_decay=choice.weight_decay)


def share_batch_norms(model: nn.Module) -> None:
    """Batch norms that learn take their statistics over all processes, in place; PyTorch has that for CUDA alone."""
    for name, child in model.named_children():
        if type(child) in (nn.BatchNorm2d, BatchNorm) and child.weight.requires_grad:
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            share_batch_norms(child)


def stream_seed(*numbers: int) -> int:
    """A seed that depends on ``numbers`` alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _places(steps: range, batch: int, parts: int, rank: int, world: int, size: int) -> Iterator[list[int]]:
    """The places in the endless list of episodes that this process takes, one list for each forward pass."""
    firsts = (step * batch + (i * world + rank) * size for step in steps for i in range(parts))
    return (list(range(first, first + size)) for first in firsts)


class _Drawn(Dataset):
    """Batches by the places of their members. What a person can mend travels as it is: a worker's loader would wrap it."""

    def __init__(self, draw: Callable[[int], Any], collate: Callable[[Sequence[Any]], Any]):
        self.draw, self.collate = draw, collate

    def __getitem__(self, places: list[int]) -> Any:
        try:
            return self.collate([self.draw(i) for i in places])
        except ShotsegError as error:
            return error


def _deaf(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; one that reads photos ends with the training, which decides when."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _batches(draw: Callable, collate: Callable, places: Iterable[list[int]], workers: int) -> Iterator[Any]:
    """One batch for each list of places, read in ``workers`` processes, at most one a core. Raises what reading one raises."""
    drawn: Any = _Drawn(draw, collate)
    own = torch.Generator()  # a loader draws a number where it starts: not from the stream of the network's dropout
    workers = min(workers, cores())
    for batch in DataLoader(drawn, None, sampler=places, num_workers=workers, generator=own, worker_init_fn=_deaf):  # type: ignore[arg-type]
        if isinstance(batch, ShotsegError):
            raise batch
        yield batch


def _validate(task: Task, model: nn.Module, recipe: Recipe, accelerator: Accelerator) -> tuple[float, list[float]]:
    """mIoU in percent and the IoU of each class that occurs (others not a number); each process counts its episodes."""
    own = range(accelerator.process_index, task.validation, accelerator.num_processes)
    batches = _batches(task.draw_validation, task.collate, [[j] for j in own], recipe.workers)
    model.eval()
    with torch.no_grad():
        counts = [task.count(model, batch.to(accelerator.device)) for batch in batches]
    total = torch.stack(counts).sum(0) if counts else None
    if accelerator.num_processes > 1:  # a process without an episode adds nothing
        gathered: list[Any] = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(gathered, None if total is None else total.cpu())
        total = torch.stack([t for t in gathered if t is not None]).sum(0)
    assert total is not None
    inter, union = total.cpu().double().unbind(1)
    iou = 100 * inter / union
    return float(iou[union > 0].mean()) if (union > 0).any() else 0.0, iou.tolist()


@contextmanager
def _averaged(model: nn.Module, shadow: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the network has its averaged weights."""
    if not shadow:
        yield
        return
    own = {name: tensor.clone() for name, tensor in checkpoint.weights(model).items()}
    checkpoint.load_weights(model, shadow, "the averaged weights")
    try:
        yield
    finally:
        checkpoint.load_weights(model, own, "the weights")


def _about(task: Task, recipe: Recipe, state: _State) -> dict[str, Any]:
    return {"recipe": plain(recipe), "classes": task.classes, "learns_from": task.learns_from, **vars(state)}


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _optimiser_tensors(optimiser: Any) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _restore(
    path: Path,
    task: Task,
    recipe: Recipe,
    model: nn.Module,
    optimiser: Any,
    accelerator: Accelerator,
    shadow: dict[str, Tensor],
) -> _State:
    try:
        tensors, about = checkpoint.read(path)
    except InputError as error:
        raise InputError(f"{error}; of a run that cannot go on: choose another --out") from None
    made_with = build(about["recipe"], str(path))  # what an older version did not know of has its default
    if changed := next(_differences(decisive(made_with), decisive(recipe)), ""):
        raise UsageError(f"{path}: made with another {changed}; resume with the same recipe, or choose another --out")
    if about.get("learns_from", task.learns_from) != task.learns_from:
        note(f"{path}: the run began with other training photos; it goes on, yet ends as neither would")
    checkpoint.load_weights(model, tensors, path)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    for name in shadow:
        shadow[name].copy_(tensors[f"average.{name}"])
    if accelerator.scaler and about["scaler"]:
        accelerator.scaler.load_state_dict(about["scaler"])
    return _State(about["step"], about["best"], about["since"])


def _differences(ours: dict, theirs: dict, prefix: str = "") -> Iterator[str]:
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name} ({a!r} instead of {b!r})"
