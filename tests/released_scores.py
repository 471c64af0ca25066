"""The scores of MaskFormer's evaluator as SimFormer's release extends it: what golden replays compare with."""

from __future__ import annotations

import numpy as np

from shotseg.data.samples import IGNORE

Array = np.ndarray


def confusion(predicted: Array, truth: Array, classes: int, ignore: int = IGNORE) -> Array:
    """(C + 1, C + 1) int64 pixel counts [predicted, true]; the last row and column are ``ignore``."""
    said, true = (np.where(x == ignore, classes, x).astype(np.int64).ravel() for x in (predicted, truth))
    return np.bincount((classes + 1) * said + true, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)


def released_scores(conf: Array, base: Array, novel: Array) -> dict[str, float]:
    """The scores of MaskFormer's evaluator as SimFormer's release extends it, in percent, under its names.

    Pixels that are predicted as "ignore", which only pseudo labels are, count nowhere.
    """
    inner = conf[:-1, :-1].astype(np.float64)
    hit, said, true = inner.diagonal(), inner.sum(1), inner.sum(0)
    union = true + said - hit
    there, any_ = true > 0, union > 0
    iou = np.where(there, hit / np.maximum(union, 1), np.nan)
    accuracy = np.where(there, hit / np.maximum(true, 1), np.nan)
    share = true / max(true.sum(), 1)
    scores = {
        "mIoU": np.nansum(iou) / max(any_.sum(), 1),
        "fwIoU": np.nansum(iou * share),
        "mACC": np.nansum(accuracy) / max(there.sum(), 1),
        "pACC": hit.sum() / max(true.sum(), 1),
        **{f"IoU-{c}": v for c, v in enumerate(iou)},
        **{f"ACC-{c}": v for c, v in enumerate(accuracy)},
    }
    for group, ids in (("Base", base), ("Novel", novel)):
        kept = there[ids]
        for name, values in (("IoU", iou), ("ACC", accuracy)):
            scores[f"{group}{name}"] = values[ids][kept].mean() if kept.any() else np.nan
    return {name: 100 * float(value) for name, value in scores.items()}
