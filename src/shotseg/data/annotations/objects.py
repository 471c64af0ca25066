"""Masks as the objects of other libraries, which are imported only here and only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shotseg.data.annotations.outlines import parts
from shotseg.errors import UsageError

Found = list[
    tuple[str, float, np.ndarray, int, int]
]  # class, score, mask (h, w) bool in its box, the box's top and left


def found(labels: np.ndarray, scores: Mapping[str, float], apart: bool) -> Found:
    """What a label map (H, W) holds, i + 1 = the i-th of ``scores``: one mask a class, or one for each connected part."""
    whole = [(name, score, labels == i) for i, (name, score) in enumerate(scores.items(), 1)]
    if apart:
        return [(name, score, *part) for name, score, mask in whole for part in parts(mask)]
    return [(name, score, *_cropped(mask)) for name, score, mask in whole if mask.any()]


def _cropped(mask: np.ndarray) -> tuple[np.ndarray, int, int]:
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    return mask[top : bottom + 1, left : right + 1], int(top), int(left)


def supervision_detections(objects: Found, classes: tuple[str, ...], size: tuple[int, int]) -> Any:
    """``supervision.Detections``; class ids count from 0. Raises UsageError where the package is missing."""
    try:
        import supervision
    except ImportError as error:
        raise UsageError("supervision is not installed; pip install supervision") from error
    if not objects:
        return supervision.Detections.empty()
    masks = np.zeros((len(objects), *size), bool)
    boxes = np.zeros((len(objects), 4), np.float32)
    for i, (_, _, mask, top, left) in enumerate(objects):
        height, width = mask.shape
        masks[i, top : top + height, left : left + width] = mask
        boxes[i] = left, top, left + width, top + height
    names = [name for name, *_ in objects]
    return supervision.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array([score for _, score, *_ in objects], np.float32),
        class_id=np.array([classes.index(name) for name in names]),
        data={"class_name": np.array(names)},
    )


def fiftyone_detections(objects: Found, size: tuple[int, int]) -> Any:
    """``fiftyone.Detections``, each with its box in parts of the photo, its mask in the box, and its score."""
    labels, (height, width) = _fiftyone(), size
    return labels.Detections(
        detections=[
            labels.Detection(
                label=name,
                bounding_box=[left / width, top / height, mask.shape[1] / width, mask.shape[0] / height],
                mask=mask,
                confidence=score,
            )
            for name, score, mask, top, left in objects
        ]
    )


def fiftyone_segmentation(labels: np.ndarray) -> Any:
    """``fiftyone.Segmentation`` of a label map (H, W) uint8."""
    return _fiftyone().Segmentation(mask=labels)


def _fiftyone() -> Any:
    """Its module of labels, which needs no database."""
    try:
        import fiftyone.core.labels as labels
    except ImportError as error:
        raise UsageError("FiftyOne is not installed; pip install fiftyone") from error
    return labels
