"""What ``shotseg evaluate`` measures and on what, as its options say: the data set, the protocol, the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotseg.cli.console import say
from shotseg.errors import UsageError

if TYPE_CHECKING:
    from shotseg.cli.evaluate import Evaluate


def protocol(verb: Evaluate) -> Any:
    """The preset that is named, with what the options change of it."""
    from shotseg.evaluation.protocols import preset

    return preset(verb.protocol, verb.dataset).override(
        episodes=verb.episodes,
        seeds=verb.seeds or None,
        size=verb.size,
        geometry=verb.geometry,
        score_at=verb.score_at,
        fusion=verb.fusion,
        ignore_band=verb.ignore_band,
        rule=verb.rule,
    )


def data_set(verb: Evaluate, root: Path) -> tuple[Any, list[str]]:
    """The data set and the names of the classes to test."""
    from shotseg import data
    from shotseg.evaluation.pool import with_enough_photos

    if verb.dataset == "folder":
        dataset: Any = data.load("folder", root, kind=verb.kind, min_area=verb.min_area, **verb.reading.view)
        wanted = dataset.classes
        if verb.fold is not None:
            found = {str(fold): names for fold, names in dataset.folds.items()}
            if verb.fold not in found:
                known = f"choose from: {', '.join(found)}" if found else "its index.csv names none, leave it out"
                raise UsageError(f"--fold: no fold {verb.fold!r} in {root}; {known}")
            wanted = found[verb.fold]
    else:
        verb.reading.refuse("a prepared data set")
        family = "pfenet" if verb.protocol in ("pfenet", "bam", "hdmnet", "pi-clip") else "hsnet"
        # the class of a query is drawn among all that it shows; the pool itself asks for the least area
        least = 1 if protocol(verb).min_pixels else None
        view = {"split": "test", "fold": verb.fold, "family": family, "folds": verb.folds, "min_pixels": least}
        dataset = data.load(verb.dataset, root, **view)
        wanted = dataset.classes
    if unknown := set(verb.classes) - set(wanted):
        raise UsageError(f"--classes: no class {sorted(unknown)[0]!r} to test; choose from: {', '.join(wanted)}")
    if verb.classes:
        return dataset, [name for name in wanted if name in verb.classes]
    enough = with_enough_photos(dataset, wanted, verb.shot)
    if left_out := [name for name in wanted if name not in enough]:
        say(f"left out, fewer than {verb.shot + 1} photos: {', '.join(left_out)}")
    if not enough:
        raise UsageError(
            f"--shot {verb.shot}: no class of {root} has the {verb.shot + 1} photos with masks that this needs"
        )
    return dataset, enough


def model(verb: Evaluate) -> tuple[Any, Any]:
    """The model, ready to predict, and the device that it is on."""
    import os

    from shotseg import encoders, models
    from shotseg.device import pick_device

    local = os.environ.get("LOCAL_RANK")
    device = pick_device(verb.device)
    if device.type == "cuda" and local is not None:
        device = pick_device(f"cuda:{local}")
    if verb.checkpoint is not None:
        from shotseg.training.checkpoint import load_model

        return load_model(verb.checkpoint, str(device)), device
    method, encoder = names(verb)
    model = models.load(method, encoders.load(encoder, device=str(device)))
    models.warn_untrained(method, model)
    return model.to(device).eval(), device


def names(verb: Evaluate) -> tuple[str, str]:
    """Method and encoder, of the flags or of the checkpoint."""
    from shotseg import models

    if verb.checkpoint is None:
        return verb.method, models.encoder_for(verb.method) if verb.encoder == "auto" else verb.encoder
    from shotseg.training.checkpoint import names

    return names(verb.checkpoint)


def about(verb: Evaluate, dataset: Any) -> dict[str, Any]:
    """What is measured on what, as a result file says it."""
    from shotseg.data.images import sha256

    method, encoder = names(verb)
    weights = verb.checkpoint and {"file": str(verb.checkpoint), "sha256": sha256(verb.checkpoint)}
    return {
        "method": method,
        "encoder": encoder,
        "checkpoint": weights,
        "dataset": verb.dataset,
        "fold": int(verb.fold) if verb.fold and verb.fold.isdecimal() else verb.fold,
        "shot": verb.shot,
        "data": getattr(dataset, "choices", {"root": str(verb.root), "kind": verb.kind, "min_area": verb.min_area})
        | verb.reading.said,
    }
