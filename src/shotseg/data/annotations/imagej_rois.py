"""One ROI of ImageJ: what it fills, and an object of a mask as one. roifile (extra: imagej) knows the bytes.

Areas cover the pixels that ImageJ itself fills: those whose middle lies inside; of a rectangle or an oval, the box of whole
pixels that the file says. Lines, points, texts and pictures are no areas.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from shotseg.data.annotations.labelled import Part
from shotseg.data.annotations.outlines import filled, stairs
from shotseg.errors import InputError

NEEDED = "ROIs of ImageJ need roifile: pip install 'shotseg[imagej]'"
NO_AREAS = (1, 2, 4)  # subtypes: text, arrow, picture
SPLINE_FIT = 1  # of the options
POINTS = (1, 1, 2, 3, 0)  # of each step of a path: to move, a line, a quadratic curve, a cubic one, to close
CLOSE = 4
MOST_WHOLE = 60_535  # the highest whole coordinate of a ROI
FINE = 16  # points in which a curve is drawn


def library() -> ModuleType:
    """roifile. Raises InputError where it is not installed."""
    try:
        import roifile
    except ImportError:
        raise InputError(NEEDED) from None
    logging.getLogger("roifile").setLevel(logging.CRITICAL)  # its remarks on odd ROIs are not for the user
    return roifile


def kind(roi: Any) -> str:
    """What a ROI is, in a word."""
    return (roi.subtype if roi.subtype in NO_AREAS else roi.roitype).name.lower()


def area(roi: Any) -> Callable[[int, int], np.ndarray] | None:
    """How a ROI is filled, (height, width) -> (h, w) bool; None where it is no area. Raises as odd content makes code raise."""
    if roi.subtype in NO_AREAS:
        return None
    box, form = (roi.left, roi.top, roi.right, roi.bottom), roi.roitype.name
    if roi.composite:
        return partial(filled, list(_path(roi.multi_coordinates.tolist())))
    if form == "RECT":
        arc = max(0, int(roi.rounded_rect_arc_size))
        return partial(_round, box, arc, arc)
    if form == "OVAL":
        return partial(_round, box, roi.right - roi.left, roi.bottom - roi.top)
    if form not in ("POLYGON", "FREEHAND", "TRACED"):
        return None
    points = np.asarray(roi.coordinates(), np.float64)
    return partial(filled, [_spline(points) if roi.options & SPLINE_FIT and len(points) > 2 else points])


def _round(box: tuple[int, int, int, int], across: int, down: int, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a box whose corners are quarters of an ellipse of this width and height; 0: square."""
    left, top, right, bottom = box
    mask = np.zeros((height, width), bool)
    rows, columns = np.arange(max(top, 0), min(bottom, height)), np.arange(max(left, 0), min(right, width))
    off = [
        np.maximum(np.abs(at + 0.5 - (start + end) / 2) - (end - start - size) / 2, 0) / (size / 2) if size else 0 * at
        for at, start, end, size in (
            (rows, top, bottom, min(down, bottom - top)),
            (columns, left, right, min(across, right - left)),
        )
    ]
    mask[rows[:, None], columns] = off[0][:, None] ** 2 + off[1] ** 2 <= 1
    return mask


def _spline(points: np.ndarray) -> np.ndarray:
    """The smooth curve through the points (N, 2) of a closed outline."""
    from scipy.interpolate import CubicSpline

    curve = CubicSpline(np.arange(len(points) + 1), np.concatenate([points, points[:1]]), bc_type="periodic")
    return curve(np.arange(0, len(points), 1 / FINE))


def _path(steps: list[float]) -> Iterator[np.ndarray]:
    """The rings (N, 2) of a composite's path: numbers of steps, each with its points."""
    ring, at = list[list[float]](), 0
    while at < len(steps):
        kind = int(steps[at])
        points = [steps[i : i + 2] for i in range(at + 1, at + 1 + 2 * POINTS[kind], 2)]
        at += 1 + 2 * len(points)
        if kind == 0 and ring:
            yield np.array(ring)
            ring = []
        ring += points if kind < 2 else _curve(np.array([ring[-1], *points]))
    if ring:
        yield np.array(ring)


def _curve(points: np.ndarray) -> list[list[float]]:
    """FINE points of a Bezier curve, without its beginning."""
    part = np.arange(1, FINE + 1)[:, None] / FINE
    levels = [point * np.ones_like(part) for point in points]
    while len(levels) > 1:
        levels = [a + (b - a) * part for a, b in pairwise(levels)]
    return levels[0].tolist()


def stored(part: Part, name: str, plane: int) -> bytes:
    """The ROI of an object on a plane, 0 for none: its outline along the edges of pixels; of several rings a path."""
    roifile = library()
    rings = stairs(part.mask, part.top, part.left)
    (left, top), (right, bottom) = (side(np.concatenate(rings), axis=0).tolist() for side in (np.min, np.max))
    roi = roifile.ImagejRoi(name=name, position=plane, left=left, top=top, right=right, bottom=bottom)
    if len(rings) == 1 and max(right, bottom) <= MOST_WHOLE:
        roi.roitype, roi.n_coordinates = roifile.ROI_TYPE.TRACED, len(rings[0])
        roi.integer_coordinates = rings[0] - (left, top)
    else:
        path = [number for ring in rings for number in (*_steps(ring.tolist()), CLOSE)]
        roi.roitype, roi.multi_coordinates = roifile.ROI_TYPE.RECT, np.array(path, np.float32)
        roi.shape_roi_size = len(roi.multi_coordinates)
    return roi.tobytes()


def _steps(ring: list[list[int]]) -> Iterator[int]:
    """To its first point, and lines to the others."""
    for number, point in enumerate(ring):
        yield from (min(number, 1), *point)
