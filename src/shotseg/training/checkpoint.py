"""Checkpoints: one safetensors file, tensors beside a JSON header with the whole recipe; replaced whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from shotseg import encoders, models
from shotseg.arguments import checked
from shotseg.data.images import write_bytes
from shotseg.device import usual_tensors
from shotseg.errors import InputError, UsageError
from shotseg.models.base_learner import BaseLearner
from shotseg.training.recipe import Recipe, build, decisive

HEADER = "shotseg"
ENCODER = "encoder"  # the module whose weights are kept only where it learned
FOREIGN = frozenset({"clip"})  # modules that never learn
WEIGHTS = "model."  # how a tensor of the network begins; others are of the optimiser and the average


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what is known of them (JSON)."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(stored, metadata={HEADER: json.dumps(about)}))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote. Raises InputError for a file that is missing, damaged or of another kind."""
    try:
        with safe_open(str(path), "pt") as stored:
            about = json.loads((stored.metadata() or {})[HEADER])
            if not {"recipe", "classes"} <= about.keys():
                raise KeyError("recipe")
            return {name: stored.get_tensor(name) for name in stored.keys()}, about  # noqa: SIM118 (no mapping)
    except KeyError:
        raise InputError(f"{path}: no checkpoint of shotseg; give a file that `shotseg train` wrote") from None
    except (OSError, SafetensorError, ValueError) as error:
        reason = "a file of PyTorch, which may hold code" if _is_of_torch(path) else error
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason}); give best.safetensors of a run"
        ) from error


def _is_of_torch(path: str | Path) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02"))
    except OSError:
        return False


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that a checkpoint needs: not those of an encoder that is as its own file gave it."""
    elsewhere = FOREIGN if model.encoder_learned else {ENCODER, *FOREIGN}
    learnt = {name: tensor for name, tensor in model.state_dict().items() if not _within(name, elsewhere)}
    return {WEIGHTS + name: tensor for name, tensor in learnt.items()}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Fill a network from the tensors of a checkpoint. Raises InputError naming a missing, strange or misshapen tensor."""
    given = {name.removeprefix(WEIGHTS): t for name, t in tensors.items() if name.startswith(WEIGHTS)}
    expected = model.state_dict()
    needed = {name for name in expected if not _within(name, {ENCODER, *FOREIGN})}
    wrong = sorted(needed - given.keys()) or sorted(given.keys() - expected.keys())
    wrong = wrong or [name for name, tensor in given.items() if tensor.shape != expected[name].shape]
    if wrong:
        raise InputError(f"{path}: tensor {wrong[0]!r} does not fit the model; take the checkpoint of this recipe")
    model.load_state_dict(given, strict=False)
    if any(_within(name, {ENCODER}) for name in given):
        model.encoder_learned = True  # type: ignore[assignment]


def make_model(
    recipe: Recipe,
    classes: int,
    base: BaseLearner | None = None,
    device: str = "cpu",
    novel: Sequence[int] = (),
) -> Any:
    """The untrained network of a recipe.

    classes: number of base classes; of a semantic model, of all.    novel: ids of the novel ones, for SimFormer to learn.
    base:    the trained base learner that BAM and HDMNet carry, with its encoder.
    """
    choice = recipe.model
    encoder = encoders.load(choice.encoder, choice.weights) if base is None else base.encoder
    options: dict[str, Any] = dict(choice.options)
    if choice.name == "base-learner":
        model: Any = BaseLearner(encoder, classes, **options)
        model.encoder_learned = model.train_encoder
        model.size, model.geometry = choice.size, "fit"
    elif choice.name in models.SEMANTIC:
        classes_options = {"novel": tuple(novel)} if choice.name == "simformer" else {}
        model = models.load(choice.name, encoder, classes=classes, size=choice.size, **classes_options, **options)
        model.geometry = choice.geometry or model.geometry
    else:
        if base is not None:
            options |= {"base_classes": tuple(range(classes)), "base": base.head}
        if recipe.extractor:
            options["extractor_weights"] = "random"  # they are filled in, or come with the checkpoint
        host = options.get("host", "pfenet") if choice.name == "qgnet" else choice.name
        if recipe.shots > 1 and host in ("bam", "hdmnet", "pi-clip"):
            options["shots"] = recipe.shots
        model = models.load(choice.name, encoder, size=choice.size, **options)
        model.encoder_learned = model.encoder_bn == "train" or (base is not None and base.encoder_learned)
        if choice.geometry:
            model.geometry = choice.geometry
    return model.to(device)


def finished(path: Path, recipe: Recipe) -> bool:
    """Whether a run's last checkpoint is there, of this recipe, and at its end."""
    try:
        about = read(path)[1]
    except InputError:
        return False
    made_with = build(about["recipe"], str(path))
    longer = (made_with.steps, made_with.epochs) != (recipe.steps, recipe.epochs)
    return bool(about["done"]) and decisive(made_with) == decisive(recipe) and not longer


def names(path: str | Path, method: str = "matching", encoder: str = "auto") -> tuple[str, str]:
    """Method and encoder of a checkpoint.

    method, encoder: what was asked for; the values that stand where nobody asks go with every checkpoint. Raises UsageError
    for others than the checkpoint's.
    """
    choice = read(path)[1]["recipe"]["model"]
    for what, asked, free, own in (
        ("method", method, "matching", choice["name"]),
        ("encoder", encoder, "auto", choice["encoder"]),
    ):
        if asked not in (free, own):
            raise UsageError(f"{path}: of {what} {own!r}, not {asked!r}; leave the {what} out, the checkpoint says it")
    return choice["name"], choice["encoder"]


def where(kept: str, beside: str | Path) -> Path:
    """The checkpoint that a file of ours names: where it was when that was saved, or where it is now, in the folder of that file.

    Raises InputError where it is in neither.
    """
    name = PureWindowsPath(kept).name  # both kinds of slash part folders there
    found = [place for place in (Path(kept), Path(beside).parent / name) if place.is_file()]
    if not found:
        raise InputError(
            f"{beside}: made with the trained model {kept}, which is not there; put it beside this file, or give --checkpoint"
        )
    return found[0]


@checked
def load_model(path: str | Path, device: str = "cpu", size: int | None = None, weights: str | Path = "default") -> Any:
    """The trained few-shot model of a checkpoint, with its encoder, ready to use.

    size: the longer working side, in place of that of the training.    weights: of the encoder, a local file of those that it was
    trained on; "default": from where the training had them.
    Raises InputError for a file that is none, UsageError where the encoder's own weights cannot be had.
    """
    model = _load(path, device, size, str(weights))
    if isinstance(model, BaseLearner):
        raise InputError(f"{path}: a base learner, no few-shot model; give best.safetensors of a run that used it")
    if names(path)[0] in models.SEMANTIC:
        raise InputError(f"{path}: a semantic model, which needs no examples; use it with `shotseg segment` alone")
    return model


def load_semantic(path: str | Path, device: str = "cpu", size: int | None = None) -> tuple[Any, list[str]]:
    """The trained MaskFormer or SimFormer of a checkpoint, and the names of its classes.

    Raises InputError where it is the checkpoint of another kind of model.
    """
    if names(path)[0] not in models.SEMANTIC:
        raise InputError(f"{path}: no semantic model; give best.safetensors of a simformer or maskformer recipe")
    return _load(path, device, size), list(read(path)[1]["classes"])


@usual_tensors()
def _load(path: str | Path, device: str = "cpu", size: int | None = None, weights: str = "default") -> Any:
    tensors, about = read(path)
    recipe = build(about["recipe"], str(path))
    if recipe.model.name == "contrastive":
        raise InputError(
            f"{path}: QGNet's prior extractor, no model by itself; give it as --extractor of a qgnet recipe"
        )
    changed: dict[str, Any] = {} if size is None else {"size": size}
    changed |= {} if weights == "default" else {"weights": weights}
    recipe = replace(recipe, model=replace(recipe.model, **changed))
    if recipe.model.name == "qgnet" and not recipe.extractor:  # of older versions, where it then was the encoder itself
        options = {"extractor": "same"} | recipe.model.options
        recipe = replace(recipe, model=replace(recipe.model, options=options))
    base = None
    if recipe.base:
        base = BaseLearner(encoders.load(recipe.model.encoder, recipe.model.weights), len(about["classes"]))
    model = make_model(recipe, len(about["classes"]), base)
    load_weights(model, tensors, path)
    return model.to(device).eval()


def load_base(path: str | Path) -> BaseLearner:
    """The base learner of a checkpoint. Raises UsageError where it is the checkpoint of another network."""
    model = _load(path)
    if not isinstance(model, BaseLearner):
        raise UsageError(f"{path}: no base learner; give best.safetensors of a base-learner recipe")
    return model


def average(shadow: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move the averaged :func:`weights` towards those of the network, in place."""
    for name, value in weights(model).items():
        if value.is_floating_point():
            shadow[name].lerp_(value.detach(), 1 - decay)
        else:
            shadow[name].copy_(value)


def _within(name: str, modules: Set[str]) -> bool:
    """Whether a tensor belongs to one of these modules, at any depth."""
    return not modules.isdisjoint(name.split("."))
