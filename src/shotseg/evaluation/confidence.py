"""How sure a decision is: the IoU that its masks are expected to have, and whether the classes are there at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shotseg.evaluation.counts import expected_iou


def of_class(probability: np.ndarray, mask: np.ndarray, present: float) -> float:
    """In [0, 1]: the expected IoU of a mask times the probability that the class is there; of an empty mask, how far that lies
    below even odds, 1 - 2 present, at least 0.

    probability: (H, W) in [0, 1].      mask: (H, W) bool.
    """
    return present * expected_iou(probability, mask) if mask.any() else max(0.0, 1 - 2 * present)


def of_sums(inside: float, everywhere: float, area: float, present: float) -> float:
    """The same of the sum of p inside the mask, of all p, and of the mask's pixels."""
    return present * inside / (area + everywhere - inside) if area else max(0.0, 1 - 2 * present)


def of_photo(areas: Sequence[float], confidences: Sequence[float]) -> float:
    """The mean of the confidences of the classes found, weighted by area; where none is found the lowest, of no class 1."""
    found = [(area, confidence) for area, confidence in zip(areas, confidences) if area]
    if not found:
        return min(confidences, default=1.0)
    return sum(area * confidence for area, confidence in found) / sum(area for area, _ in found)


def of_labels(labels: np.ndarray, probabilities: np.ndarray, present: np.ndarray) -> float:
    """:func:`of_photo` of a label map (H, W), n + 1 where class n is; probabilities (N, H, W), presence (N,)."""
    masks = [labels == n for n in range(1, len(probabilities) + 1)]
    sure = [of_class(soft, mask, float(there)) for soft, mask, there in zip(probabilities, masks, present)]
    return of_photo([float(mask.mean()) for mask in masks], sure)
