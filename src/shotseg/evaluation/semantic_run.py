"""A semantic model as a whole: which photos it is scored on, and the content of the result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shotseg.data.images import sha256
from shotseg.device import pick_device
from shotseg.errors import UsageError
from shotseg.evaluation import results, semantic_scores
from shotseg.evaluation.episode_loop import OnProgress, Tally
from shotseg.training import checkpoint as trained
from shotseg.training import weak_shot_training
from shotseg.training.recipe import build, plain


def measure(
    checkpoint: str | Path, name: str, root: Path, device: str, size: int | None, on_progress: OnProgress
) -> dict[str, Any]:
    """Base, novel and harmonic mIoU on the test photos of a data set, or on those that the training held out.

    Raises UsageError where the data set has other classes than the checkpoint.
    """
    device = str(pick_device(device))
    recipe = build(trained.read(checkpoint)[1]["recipe"])
    photos = weak_shot_training.test_photos(recipe, name, root)
    model, classes = trained.load_semantic(checkpoint, device, size)
    if classes != photos.classes:
        raise UsageError(f"{checkpoint}: trained for other classes than {root} has; give the data set of its training")
    tally = Tally(on_progress, len(photos))
    counts = semantic_scores.measure(model.label, photos, tally)
    about = {"method": recipe.model.name, "encoder": recipe.model.encoder, "dataset": name}
    known = {"recipe": plain(recipe), "checkpoint": sha256(checkpoint)}
    return {**about, **semantic_scores.result(counts, photos), **known, "environment": results.environment(device)}
