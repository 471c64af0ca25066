"""Masks of COCO annotations: polygons and run lengths, to the pixel as COCO's own API draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

UPSCALE = 5  # COCO draws the outline at five times the size and keeps the points that fall between pixel columns


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a ``segmentation``: a list of polygons [x0, y0, x1, y1, ...], or a dict with run lengths.

    Run lengths are in column order and begin with background; they may be a list or COCO's compressed string.
    ValueError where they do not fill the image.
    """
    if not isinstance(segmentation, dict):
        mask = np.zeros((height, width), dtype=bool)
        for points in segmentation:
            mask |= polygon(np.asarray(points, dtype=np.float64).reshape(-1, 2), height, width)
        return mask
    counts = segmentation["counts"]
    runs = np.asarray(expand(counts) if isinstance(counts, str | bytes) else counts, dtype=np.int64)
    if runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels for an image of {width} x {height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool of one closed polygon (N, 2) of x, y. The rule of rleFrPoly in COCO's maskApi.c."""
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
