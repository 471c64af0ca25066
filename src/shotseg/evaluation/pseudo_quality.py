"""How good pseudo masks are, against true masks: precision, recall and IoU of each class, and whether the confidence holds."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from shotseg.data.samples import IGNORE
from shotseg.evaluation.controls import all_foreground, centre_disc
from shotseg.evaluation.counts import Counts, bootstrap_interval, class_iou, count, episode_iou, miou
from shotseg.evaluation.result_page import STYLE, bars

BINS = 10


class Judged(NamedTuple):
    """The counts of one pseudo mask: of the mask with unsure pixels as background, of its sure pixels alone, and of the
    controls; each an (intersection, union, target, ignored) of numpy arrays."""

    class_id: int
    confidence: float
    unsure: float
    counts: dict[str, tuple[np.ndarray, ...]]


def judge(mask: np.ndarray, truth: np.ndarray, class_id: int, confidence: float) -> Judged:
    """mask and truth (H, W) uint8 in {0, 1, 255}; 255 is unsure in the mask and not counted in the truth."""
    target = torch.from_numpy(truth.astype(np.int64))
    made = torch.from_numpy(mask.astype(np.int64))
    compared = {
        "masks": ((made == 1).long(), target),
        "sure": ((made == 1).long(), target.masked_fill(made == IGNORE, IGNORE)),
        "all-foreground": (all_foreground(mask.shape), target),  # type: ignore[arg-type]
        "centre disc": (centre_disc(mask.shape), target),  # type: ignore[arg-type]
    }
    counts = {name: tuple(x[0].numpy() for x in count(p[None], t[None])) for name, (p, t) in compared.items()}
    return Judged(class_id, confidence, float((mask == IGNORE).mean()), counts)


def quality(judged: Iterable[Judged], classes: Sequence[str]) -> dict[str, Any]:
    """The report as plain numbers: percent, except what is about confidence, which lies in [0, 1].

    ``miou`` is the mean over classes of summed intersections over summed unions; ``calibration`` compares the confidence
    of masks (the IoU that they are expected to have) with the IoU that they have.
    """
    rows = list(judged)
    if not rows:
        return {"masks": 0}
    ids = np.array([row.class_id for row in rows])
    shown = np.unique(ids)

    def stacked(name: str) -> Counts:
        parts = zip(*(row.counts[name] for row in rows))
        return Counts(ids[:, None], *(np.stack(part) for part in parts))

    masks, sure = stacked("masks"), stacked("sure")
    hits = masks.of("intersection", shown).astype(float)
    precision = hits / np.maximum(masks.of("predicted", shown), 1)
    recall = hits / np.maximum(masks.of("target", shown), 1)
    iou, confidence = class_iou(masks, shown), np.array([row.confidence for row in rows])
    per_class = {
        classes[c]: {
            "masks": int((ids == c).sum()),
            "precision": _percent(precision[i]),
            "recall": _percent(recall[i]),
            "iou": _percent(iou[i]),
            "confidence": round(float(confidence[ids == c].mean()), 3),
        }
        for i, c in enumerate(shown)
    }
    return {
        "masks": len(rows),
        "miou": _percent(miou(masks, shown)),
        "ci95": [_percent(x) for x in bootstrap_interval(masks, shown)],
        "precision": _percent(precision.mean()),
        "recall": _percent(recall.mean()),
        "unsure": _percent(np.mean([row.unsure for row in rows])),
        "miou_of_sure_pixels": _percent(miou(sure, shown)),
        "controls": {name: _percent(miou(stacked(name), shown)) for name in ("all-foreground", "centre disc")},
        "calibration": calibration(confidence, episode_iou(masks)),
        "per_class": per_class,
    }


def calibration(confidence: np.ndarray, iou: np.ndarray) -> dict[str, Any]:
    """Confidences (E,) in [0, 1] beside the IoU (E,) that they foretell.

    ``bins``: of equal width, each with its masks, mean confidence and mean IoU. ``error``: the mean over masks of the
    distance between the two means of their bin (expected calibration error). ``correlation``: Pearson's; None where
    either is constant.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {
            "masks": int((place == i).sum()),
            "confidence": round(float(confidence[place == i].mean()), 3),
            "iou": round(float(iou[place == i].mean()), 3),
        }
        for i in np.unique(place)
    ]
    error = sum(b["masks"] * abs(b["confidence"] - b["iou"]) for b in bins) / len(iou)
    varied = len(iou) > 1 and confidence.std() > 0 and iou.std() > 0
    return {
        "error": round(float(error), 3),
        "correlation": round(float(np.corrcoef(confidence, iou)[0, 1]), 3) if varied else None,
        "confidence": round(float(confidence.mean()), 3),
        "iou": round(float(iou.mean()), 3),
        "bins": bins,
    }


def lines(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a table: masks, each class, controls."""
    rows = [("all", *(f"{content[key]:.1f}" for key in ("miou", "precision", "recall")), str(content["masks"]))]
    for name, row in content["per_class"].items():
        rows.append((name, *(f"{row[key]:.1f}" for key in ("iou", "precision", "recall")), str(row["masks"])))
    return rows + [(f"control: {name}", f"{value:.1f}", "", "", "") for name, value in content["controls"].items()]


def page(content: dict[str, Any], title: str) -> str:
    """One HTML page that opens from disk."""
    head = "".join(f"<th>{name}</th>" for name in ("percent", "IoU", "precision", "recall", "masks"))
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in lines(content)
    )
    found = content["calibration"]
    bins = "".join(
        f"<tr><td>{b['confidence']}</td><td>{b['iou']}</td><td>{b['masks']}</td></tr>" for b in found["bins"]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{html.escape(title)}</h1><table><tr>{head}</tr>{rows}</table><h2>IoU of each class</h2>"
        f"{bars({name: row['iou'] for name, row in content['per_class'].items()})}<h2>Does the confidence hold?</h2>"
        f"<p>Mean confidence {found['confidence']}, mean IoU {found['iou']}, calibration error {found['error']}, correlation "
        f"{found['correlation']}.</p><table><tr><th>confidence</th><th>IoU</th><th>masks</th></tr>{bins}</table></html>\n"
    )


def _percent(value: Any) -> float:
    return round(100 * float(value), 2)
