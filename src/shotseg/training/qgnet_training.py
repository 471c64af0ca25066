"""The stages of QGNet: the prior extractor from photos without labels, then its priors, then few-shot training.

The last stage is :mod:`shotseg.training.few_shot`, as of every few-shot model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from shotseg import encoders
from shotseg.data import transforms
from shotseg.data.images import write_bytes
from shotseg.errors import InputError, UsageError
from shotseg.models.qgnet import PriorExtractor
from shotseg.priors import bank
from shotseg.reference.qgnet import load_moco
from shotseg.training import checkpoint, loop
from shotseg.training import recipe as recipes
from shotseg.training.contrastive import ContrastiveTraining, collect, queue_length
from shotseg.training.contrastive_views import segment
from shotseg.training.data import generator
from shotseg.training.momentum import Contrastive
from shotseg.training.recipe import Recipe

Say = Callable[[str], None]
TARGET = f"{checkpoint.WEIGHTS}target.encoder."


def train_extractor(recipe: Recipe, root: Path, out: Path, resume: bool, device: str, say: Say) -> loop.Outcome:
    """Stage 1: contrastive learning by a recipe; ``out/superpixels`` keeps these. Arguments as of ``run.train``."""
    photos = collect(recipe, root)
    queue = queue_length(recipe, len(photos.train))
    say(f"{len(photos.train)} photos to learn from without labels, {len(photos.held_out)} to measure on; queue {queue}")
    torch.manual_seed(recipe.seed)
    encoder = encoders.load(recipe.model.encoder, recipe.model.weights)
    task = ContrastiveTraining(recipe, photos, Contrastive(encoder, recipe.contrastive, queue), out / "superpixels")
    return loop.train(task, recipe, out, resume, device)


def extractor_file(recipe: Recipe, root: Path, out: Path, resume: bool, device: str, say: Say) -> Path:
    """The weights of a QGNet recipe's extractor: the file that it names, or trained now into ``out/extractor``."""
    if recipe.extractor.endswith((".safetensors", ".pth", ".pt", ".tar")):
        say(f"prior extractor: loaded from {recipe.extractor}")
        return Path(recipe.extractor)
    first_stage = recipes.load(recipe.extractor)
    name = str(recipe.model.options.get("extractor", "contrastive"))
    name = recipe.model.encoder if name == "contrastive" else name
    first_stage = replace(
        first_stage, model=replace(first_stage.model, encoder=name), data=recipe.data, workers=recipe.workers
    )
    first_stage = replace(first_stage, unlabelled=recipe.unlabelled)
    file = out / "extractor" / "best.safetensors"
    if file.is_file() and checkpoint.finished(file.with_name("last.safetensors"), first_stage):
        say(f"prior extractor: {file} is finished, loaded")
        return file
    say(f"prior extractor: trained first by {recipe.extractor}, into {file.parent}")
    outcome = train_extractor(first_stage, root, file.parent, resume, device, say)
    say(f"prior extractor: {outcome.score:.1f} on held-out photos")
    return file


def load_extractor(extractor: PriorExtractor, path: Path) -> None:
    """Fill an extractor from the momentum encoder of a contrastive run, or of a file in MoCo's layout.

    Raises InputError naming a tensor that does not fit.
    """
    if path.suffix != ".safetensors":
        return load_moco(extractor.body, path)
    given = {n.removeprefix(TARGET): t for n, t in checkpoint.read(path)[0].items() if n.startswith(TARGET)}
    tensors = extractor.body.state_dict()
    wrong = [name for name, tensor in tensors.items() if name not in given or given[name].shape != tensor.shape]
    if wrong:
        raise InputError(
            f"{path}: tensor {wrong[0]!r} does not fit {extractor.body.name}; give the run of this network"
        )
    extractor.body.load_state_dict({name: given[name] for name in tensors})
    return None


def fill(model: Any, recipe: Recipe, root: Path, out: Path, file: Path | None, device: str, say: Say) -> None:
    """Give an untrained QGNet its extractor's weights, and its bank of priors where it has one (``out/priors``).

    Raises UsageError where it has an extractor and nothing says with which weights.
    """
    if file is None and model.untaught:
        raise UsageError(
            "extractor: QGNet's priors come from a network that learnt without labels; name a contrastive recipe or the"
            " checkpoint of one, or set model.options.extractor to same for the supervised encoder"
        )
    if file is not None:
        if model.extractor is None:
            raise UsageError(
                "extractor: the model has none; set model.options.extractor to the network that was trained"
            )
        load_extractor(model.extractor, file)
    if model.prior_source == "bank":
        path = out / "priors" / "bank.safetensors"
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else ""
        about = {"of": f"{content} {recipe.unlabelled} {recipe.model.size} {len(model.region.bank)}"}
        if not path.is_file() or _about(path) != about:
            say(f"priors: a bank of {len(model.region.bank)} from the unlabelled photos, into {path}")
            write_bytes(path, save(_bank(model, recipe, root, device), about))
        stored = load_file(path)
        model.region.fill(stored["centres"], stored["objectness"])


def _about(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


def keep_priors(task: loop.Task, out: Path, device: str, say: Say) -> loop.Outcome:
    """Stage 2 alone: what the last stage reads of the frozen networks, on the disk."""
    accelerator = Accelerator(cpu=device == "cpu")
    task.model.to(accelerator.device).eval()
    task.prepare(
        lambda items: items[accelerator.process_index :: accelerator.num_processes], lambda what, done, total: None
    )
    accelerator.wait_for_everyone()
    say(f"priors: kept below {out}")
    return loop.Outcome(out, 0.0, 0)


@torch.no_grad()
def _bank(model: Any, recipe: Recipe, root: Path, device: str) -> dict[str, Tensor]:
    here = Accelerator(cpu=device == "cpu").device
    model.to(here).eval()

    def vectors() -> Iterator[tuple[Tensor, Tensor]]:
        for photo in collect(recipe, root).train:
            image, _ = transforms.squash(recipe.data.reading.page_of(photo), recipe.model.size)
            last = model.prior_features(image[None].to(here))[0].cpu()
            labels = torch.from_numpy(segment((image * 255).byte().permute(1, 2, 0).numpy(), "slic", model.segments))
            rows, columns = (torch.arange(n) * m // n for n, m in zip(last.shape[-2:], labels.shape))
            yield bank.region_vectors(last, labels[rows][:, columns])

    stream = generator(recipe.seed, 6)
    centres, objectness = bank.build(*bank.sampled(vectors(), stream), len(model.region.bank), stream)
    model.cpu()
    return {"centres": centres.contiguous(), "objectness": objectness.contiguous()}
