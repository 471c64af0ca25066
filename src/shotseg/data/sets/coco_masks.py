"""Masks of COCO annotations: polygons and run lengths, to the pixel as COCO's own API draws them."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

UPSCALE = 5  # COCO draws the outline at five times the size and keeps the points that fall between pixel columns


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a ``segmentation``: a list of polygons [x0, y0, x1, y1, ...], or a dict with run lengths.

    Run lengths are in column order and begin with background; they may be a list or COCO's compressed string.
    ValueError where there is no shape, or one that is none: see :func:`corners` and :func:`run_lengths`.
    """
    if isinstance(segmentation, dict):
        runs = run_lengths(segmentation, height, width)
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("no segmentation")
    mask = np.zeros((height, width), dtype=bool)
    for points in segmentation:
        mask |= polygon(corners(points), height, width)
    return mask


def usable(segmentation: Any, height: int, width: int) -> tuple[Any, list[str]]:
    """What of a ``segmentation`` :func:`decode` can draw, None where that is nothing, and what is wrong with the rest."""
    if not isinstance(segmentation, dict | list) or not segmentation:
        return None, ["no segmentation"]
    kept, flaws = [], []
    for part in [segmentation] if isinstance(segmentation, dict) else segmentation:
        try:
            if isinstance(part, dict):
                run_lengths(part, height, width)
            else:
                _check_reach(corners(part), height, width)
            kept.append(part)
        except ValueError as error:
            flaws.append(str(error))
    return (None if not kept else segmentation if isinstance(segmentation, dict) else kept), flaws


def corners(points: Any) -> np.ndarray:
    """(N, 2) float64 of a polygon [x0, y0, x1, y1, ...]. ValueError for an odd number of numbers or fewer than six."""
    try:
        values = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon that is no list of numbers") from None
    if values.ndim != 1 or values.size % 2 or values.size < 6:
        raise ValueError(f"a polygon of {values.size} numbers")
    return values.reshape(-1, 2)


def run_lengths(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(N,) int64 of a dict with ``counts``. ValueError where they are none, or do not fill an image of that size."""
    counts = segmentation.get("counts")
    try:
        runs = np.asarray(expand(counts) if isinstance(counts, str | bytes) else counts, dtype=np.float64)
    except (TypeError, ValueError, SyntaxError):
        raise ValueError("run lengths that are no numbers") from None
    size = segmentation.get("size", [height, width])
    if size not in ([height, width], (height, width)):
        raise ValueError(f"run lengths of a mask of size {size} for an image of {width} x {height}")
    if runs.ndim != 1 or not np.isfinite(runs).all() or (runs < 0).any() or (runs % 1).any():
        raise ValueError("run lengths that are not whole numbers")
    if runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum():.0f} pixels for an image of {width} x {height}")
    return runs.astype(np.int64)


def polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool of one closed polygon (N, 2) of x, y. The rule of rleFrPoly in COCO's maskApi.c.

    ValueError for coordinates that are not finite, or so far out that drawing them would fill the memory.
    """
    _check_reach(points, height, width)
    outline = _outline(np.trunc(UPSCALE * points + 0.5).astype(np.int64))
    before, after = outline[:-1], outline[1:]
    crosses = before[:, 0] != after[:, 0]
    before, after = before[crosses], after[crosses]
    columns = (np.where(after[:, 0] < before[:, 0], after[:, 0], after[:, 0] - 1) + 0.5) / UPSCALE - 0.5
    rows = (np.minimum(before[:, 1], after[:, 1]) + 0.5) / UPSCALE - 0.5
    inside = (np.floor(columns) == columns) & (columns >= 0) & (columns <= width - 1)
    mask = np.zeros((height, width), dtype=bool)
    if inside.any():
        columns = columns[inside].astype(np.int64)
        rows = np.ceil(np.clip(rows[inside], 0, height)).astype(np.int64)
        # Down a column the mask flips at each crossing, of which there is an even number; a crossing below the last row
        # falls on the first pixel of the next column, where it ends what began in this one.
        first, count = columns.min(), np.ptp(columns) + 1
        flips = np.bincount((columns - first) * height + rows, minlength=count * height)[: count * height]
        mask[:, first : first + count] = (np.cumsum(flips) % 2 == 1).reshape(count, height).T
    return mask


def expand(text: str | bytes) -> list[int]:
    """The run lengths of COCO's compressed string.

    Five bits a character, lowest first; from the fourth run on the difference to the run two before.
    """
    if isinstance(text, str) and text.startswith("b'"):  # bytes that were written by Python's str()
        text = ast.literal_eval(text)
    runs: list[int] = []
    value = shift = 0
    for character in text.encode() if isinstance(text, str) else text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _check_reach(points: np.ndarray, height: int, width: int) -> None:
    if not np.isfinite(points).all():
        raise ValueError("coordinates that are not numbers")
    around = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum()
    # an outline along every border between two pixels is half as long as the first term
    if max(np.abs(points).max(), around) > 4 * height * width + 10_000:
        raise ValueError(f"coordinates far outside the image of {width} x {height}")


def _outline(corners: np.ndarray) -> np.ndarray:
    """Every point (M, 2) of the closed outline on the fine grid: along each edge one a step of its longer side."""
    starts, ends = corners, np.roll(corners, -1, axis=0)
    steps = np.abs(ends - starts)
    along = (steps[:, 1] > steps[:, 0]).astype(np.int64)[:, None]  # 0: x is the longer side
    major_start, minor_start, major_end, minor_end = (
        np.take_along_axis(corner, axis, 1)[:, 0] for corner in (starts, ends) for axis in (along, 1 - along)
    )
    flipped = major_start > major_end  # drawn from its lower end, and listed in the order of the outline
    length = np.abs(major_end - major_start)
    slope = np.where(flipped, minor_start - minor_end, minor_end - minor_start) / np.maximum(length, 1)
    edge = np.repeat(np.arange(len(corners)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flipped[edge], length[edge] - step, step)
    major = np.where(flipped, major_end, major_start)[edge] + step
    minor = np.trunc(np.where(flipped, minor_end, minor_start)[edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(along[edge] == 0, np.stack([major, minor], 1), np.stack([minor, major], 1))
