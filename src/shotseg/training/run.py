"""From a recipe and a folder of photos to trained weights, with the base learner that some models need on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from shotseg import models
from shotseg.arguments import checked
from shotseg.device import pick_device, usual_tensors
from shotseg.errors import UsageError
from shotseg.models.base_learner import BaseLearner
from shotseg.training import checkpoint, loop, qgnet_training
from shotseg.training import recipe as recipes
from shotseg.training.base_training import BaseTraining
from shotseg.training.data import views
from shotseg.training.few_shot import FewShot, check_enough
from shotseg.training.recipe import Recipe


@checked
@usual_tensors()
def train(
    recipe: Recipe | str | Path,
    root: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
    until: str = "",
) -> loop.Outcome:
    """Train by a recipe on the photos at ``root``.

    recipe: of :func:`shotseg.training.recipe.load`, or what that takes: a name, or a file of your own.
    out:    as of :func:`shotseg.training.loop.train`; ``base/`` gets the base learner, ``features/`` what is kept on disk,
            ``pseudo/`` the masks made from class names, where these are the supervision and no other folder is named.
    resume: go on where a run of the same recipe stopped; a base learner that is finished is not trained again.
    device: "auto" is what accelerate finds: CUDA, MPS, or the CPU where neither is. "cuda" and "mps" are that by name.
    say:    gets a line about what is done beside the training itself.
    until:  of QGNet: stop after the stage "extractor" or "priors"; the same call without it goes on from there.
    Raises UsageError for choices that do not fit together, InputError for a photo or checkpoint that cannot be used.
    """
    if isinstance(recipe, str | Path):
        recipe = recipes.load(recipe)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe: of type {type(recipe).__name__}; give a name, a file, or what recipe.load gives")
    root, out = Path(root), Path(out)
    _check_read(recipe)
    _check_device(device)
    if until and recipe.model.name != "qgnet":
        raise UsageError(f"until {until!r}: {recipe.model.name} has no such stage; leave it out")
    if recipe.model.name in models.SEMANTIC:
        from shotseg.training import weak_shot_training

        return weak_shot_training.train(recipe, root, out, resume, device, say)
    if recipe.model.name == "contrastive":
        return qgnet_training.train_extractor(recipe, root, out, resume, device, say)
    pseudo = Path(recipe.data.pseudo) if recipe.data.pseudo else out / "pseudo"
    choice = views(recipe.data, root, recipe.validation.on_test_fold, pseudo)
    say(
        f"{len(choice.train.listed)} photos of {len(choice.train.classes)} classes to train on,"
        f" {len(choice.validation.listed)} to validate on; never seen: {', '.join(choice.test) or 'none'}"
    )
    cache = out / "features" if recipe.cache_features else None
    if recipe.model.name == "base-learner":
        torch.manual_seed(recipe.seed)
        model = checkpoint.make_model(recipe, len(choice.train.classes))
        task: loop.Task = BaseTraining(recipe, choice, model, cache, _encoder_key(recipe, None))
    else:
        check_enough(recipe, choice)  # before other networks are trained for it
        base, file = _base_learner(recipe, root, out, resume, device, say) if recipe.base else (None, None)
        if base is not None and base.head.classify[-1].out_channels != len(choice.train.classes) + 1:
            raise UsageError(f"{file}: its classes are not those of this training; give the base learner of this fold")
        extractor = qgnet_training.extractor_file(recipe, root, out, resume, device, say) if recipe.extractor else None
        if until == "extractor":
            return loop.Outcome(extractor or out, 0.0, 0)
        torch.manual_seed(recipe.seed)  # whether the others were trained or loaded
        model = checkpoint.make_model(recipe, len(choice.train.classes), base)
        if recipe.model.name == "qgnet":
            qgnet_training.fill(model, recipe, root, out, extractor, device, say)
        task = FewShot(recipe, choice, model, cache, _encoder_key(recipe, file, extractor))
        if until == "priors":
            return qgnet_training.keep_priors(task, out, device, say)
    return loop.train(task, recipe, out, resume, device)


def _check_read(recipe: Recipe) -> None:
    """Raise UsageError for what another kind of model would read, and this one does not."""
    name, usual = recipe.model.name, Recipe(steps=1)
    read_by = {"weak_shot": models.SEMANTIC, "contrastive": ("contrastive",), "extractor": ("qgnet",)}
    read_by |= {"unlabelled": ("contrastive", "qgnet"), "base": ("bam", "hdmnet", "pi-clip", "qgnet", "guided")}
    for field, readers in read_by.items():
        if name not in readers and getattr(recipe, field) != getattr(usual, field):
            raise UsageError(
                f"recipe field {field}: changes nothing for {name}, only for {', '.join(readers)}; leave it out"
            )


def _check_device(device: str) -> None:
    """Raise UsageError for a device that is not here, or that accelerate would not take."""
    wanted, found = pick_device(device), pick_device("auto")
    if wanted.type not in ("cpu", found.type):
        raise UsageError(f"device {device!r}: a training takes {found.type} here; give auto or cpu")
    if wanted.index:
        raise UsageError(
            f"device {device!r}: a training takes the first; give auto, and choose by CUDA_VISIBLE_DEVICES"
        )


def _base_learner(
    recipe: Recipe, root: Path, out: Path, resume: bool, device: str, say: Callable[[str], None]
) -> tuple[BaseLearner, Path]:
    """The base learner of a recipe and its file: loaded, or trained now on the same photos."""
    if recipe.base.endswith(".safetensors"):
        say(f"base learner: loaded from {recipe.base}")
        return checkpoint.load_base(recipe.base), Path(recipe.base)
    base_recipe = recipes.load(recipe.base)
    model = replace(base_recipe.model, encoder=recipe.model.encoder, weights=recipe.model.weights)
    photos = replace(recipe.data, every_photo=base_recipe.data.every_photo)
    base_recipe = replace(base_recipe, model=model, data=photos, workers=recipe.workers)
    file, last = out / "base" / "best.safetensors", out / "base" / "last.safetensors"
    if file.is_file() and resume and checkpoint.finished(last, base_recipe):
        say(f"base learner: {file} is finished, loaded")
    else:
        say(f"base learner: trained first by {recipe.base}, into {file.parent}")
        outcome = train(base_recipe, root, file.parent, resume, device, lambda line: None)
        say(f"base learner: mIoU {outcome.score:.1f} on held-out photos of the base classes")
    return checkpoint.load_base(file), file


def _encoder_key(recipe: Recipe, base: Path | None, extractor: Path | None = None) -> str:
    """What frozen features depend on beside the photo: the networks and their weights."""
    files = [base if base is not None else Path(recipe.model.weights), extractor]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file is not None and file.is_file()]
    content = " ".join(hashes) or recipe.model.weights
    masks = "" if recipe.data.supervision == "mask" else f" pseudo {recipe.data.pseudo}"
    read = "".join(f" {name} {value}" for name, value in recipe.data.reading.said.items())
    return f"{recipe.model.name} {recipe.model.encoder} {content} {sorted(recipe.model.options.items())}{masks}{read}"
