"""What is measured on what: the photos and classes, the model, and how a result file says both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shotseg import data, encoders, models
from shotseg.data.images import sha256
from shotseg.device import pick_device
from shotseg.encoders import runtime as runtimes
from shotseg.errors import UsageError
from shotseg.evaluation.pool import with_enough_photos
from shotseg.evaluation.protocols import Protocol

OF_ITEMS = (
    "id",
    "content",
    "class_id",
    "class_name",
    "mask_path",
)  # what is read of an item, see shotseg.data.folder.Item
PFENETS = ("pfenet", "bam", "hdmnet", "pi-clip")  # protocols with the lists of PFENet; the others have HSNet's


def place(dataset: Any, root: str | Path | None) -> tuple[str, Path | None]:
    """The name of a data set and where it lies; of one that is open already None.

    Raises UsageError for a name without a place, and where there is nothing.
    """
    if not isinstance(dataset, str | Path):
        return getattr(getattr(dataset, "manifest", None), "name", "folder"), None
    if root is None and dataset != "folder" and Path(dataset).exists():
        return "folder", Path(dataset)
    if root is None:
        raise UsageError(
            f"{dataset}: no folder of that name, and no --root where a data set of that name lies; give one"
        )
    if not Path(root).exists():
        raise UsageError(f"--root {root}: no such file or folder; check the path")
    return str(dataset), Path(root)


def opened(
    dataset: Any,
    name: str,
    root: Path | None,
    protocol: Protocol,
    fold: str | None,
    folds: str | None,
    view: dict[str, Any],
) -> tuple[Any, list[str]]:
    """The data set and the names of its classes to test. view: kind, min_area, format, bands and page of a folder.

    Raises UsageError for a fold that it has not.
    """
    if root is not None and name != "folder":
        family = "pfenet" if protocol.name in PFENETS else "hsnet"
        # the class of a query is drawn among all that it shows; the pool itself asks for the least area
        least = 1 if protocol.min_pixels else None
        prepared = data.load(name, root, split="test", fold=fold, family=family, folds=folds, min_pixels=least)
        return prepared, prepared.classes
    dataset = data.load("folder", root, **view) if root is not None else _open(dataset)
    if fold is None:
        return dataset, dataset.classes
    folds_by_name = {str(number): names for number, names in getattr(dataset, "folds", {}).items()}
    if fold not in folds_by_name:
        choices = (
            f"choose from: {', '.join(folds_by_name)}" if folds_by_name else "its index.csv names none, leave it out"
        )
        raise UsageError(f"--fold: no fold {fold!r} in {root or name}; {choices}")
    return dataset, folds_by_name[fold]


def _open(dataset: Any) -> Any:
    """A data set that is open, as it is. Raises UsageError for what is none."""
    is_one = "give a folder, a name with root, or a data set with items, classes and sample(i)"
    if missing := [name for name in ("items", "classes", "sample") if not hasattr(dataset, name)]:
        raise UsageError(f"dataset: of type {type(dataset).__name__}, without {missing[0]}; {is_one}")
    for item in list(dataset.items)[:1]:
        if missing := [name for name in OF_ITEMS if not hasattr(item, name)]:
            raise UsageError(f"dataset: its items have no {missing[0]}; give {', '.join(OF_ITEMS)} to each")
    return dataset


def tested(
    dataset: Any, where: object, known: Sequence[str], chosen: Sequence[str], shot: int, way: int
) -> tuple[list[str], list[str]]:
    """The classes that are tested, and those that were left out because they have too few photos.

    known: the classes to choose from.      chosen: of them, (): all. Of those that are chosen one at a time none is left out.
    Raises UsageError for an unknown class, and where none is left, or less than two of several.
    """
    if unknown := set(chosen) - set(known):
        raise UsageError(f"--classes: no class {sorted(unknown)[0]!r} to test; choose from: {', '.join(known)}")
    wanted = [name for name in known if not chosen or name in chosen]
    if chosen and way == 1:
        return wanted, []
    enough = with_enough_photos(dataset, wanted, shot)
    needs = f"the {shot + 1} photos with masks that this needs"
    if not enough:
        raise UsageError(f"--shot {shot}: no class of {where} has {needs}")
    if len(enough) < min(2, way, len(wanted)):
        raise UsageError(f"--way {way}: only {enough[0]!r} of {where} has {needs}; give photos to a second class")
    return enough, [name for name in wanted if name not in enough]


def names(method: Any, encoder: str, checkpoint: str | Path | None) -> tuple[str, str]:
    """Method and encoder by name: as they are given, of a model that is ready, or of a checkpoint."""
    if checkpoint is not None:
        from shotseg.training import checkpoint as trained  # it takes long to import

        return trained.names(checkpoint, method, encoder)
    if not isinstance(method, str):
        if not hasattr(method, "encode_support"):
            its = "; give its model, as segmenter.model" if hasattr(method, "model") else ""
            raise UsageError(f"method: of type {type(method).__name__}, neither a name nor a few-shot model{its}")
        return type(method).__name__.lower(), str(getattr(method.encoder, "name", type(method.encoder).__name__))
    return method, models.encoder_for(method) if encoder == "auto" else encoder


def model(
    method: Any, encoder: str, checkpoint: str | Path | None, device: str, runtime: str = "auto"
) -> tuple[Any, Any]:
    """The model, ready to predict, and the device that it is on. runtime: of the encoder, where the model is made here."""
    local, chosen = os.environ.get("LOCAL_RANK"), pick_device(device)
    if chosen.type == "cuda" and local is not None:
        chosen = pick_device(f"cuda:{local}")
    if checkpoint is not None:
        from shotseg.training import checkpoint as trained

        made = trained.load_model(checkpoint, str(chosen))
    elif not isinstance(method, str):
        return method.to(chosen).eval(), chosen
    else:
        name, encoder = names(method, encoder, None)
        made = models.load(name, encoders.load(encoder, device=str(chosen)))
        models.warn_untrained(name, made)
    made = made.to(chosen).eval()
    runtimes.use(made.encoder, runtime)
    return made, chosen


def learnt_before(checkpoint: str | Path | None, tested: Sequence[str]) -> list[str]:
    """Which of the classes that are tested the checkpoint was trained on; none without a checkpoint."""
    if checkpoint is None:
        return []
    from shotseg.training import checkpoint as trained

    known = set(trained.read(checkpoint)[1]["classes"])
    return [name for name in tested if name in known]


def about(
    method: Any, encoder: str, checkpoint: str | Path | None, dataset: Any, name: str, fold: str | None, **said: Any
) -> dict[str, Any]:
    """What is measured on what, as a result file says it. said: ``shot``, and ``data`` where the data set does not say it."""
    method_name, encoder_name = names(method, encoder, checkpoint)
    weights = checkpoint and {"file": str(checkpoint), "sha256": sha256(checkpoint)}
    fold = getattr(dataset, "fold", None) if fold is None else fold
    return {
        "method": method_name,
        "encoder": encoder_name,
        "checkpoint": weights,
        "dataset": name,
        "fold": int(fold) if isinstance(fold, str) and fold.isdecimal() else fold,
        **said,
        "data": getattr(dataset, "choices", said["data"]),
    }
