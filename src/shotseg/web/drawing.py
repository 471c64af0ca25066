"""Strokes of a pen as pixels of a photo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from shotseg.data.samples import IGNORE


@dataclass(frozen=True)
class Stroke:
    """A line of a pen for a class: inside it or not. points: (x, y), and radius, in pixels of the photo; 0 is one pixel."""

    number: int
    inside: bool
    radius: float
    points: tuple[tuple[float, float], ...]


def marked(drawn: Iterable[Stroke], names: Mapping[int, str], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Class name -> (H, W) uint8 of its strokes in a photo of (height, width): 1 = inside, 0 = outside, 255 = none.

    The newest lies on top, and a pixel is one class at most.
    """
    maps: dict[str, np.ndarray] = {}
    for stroke in drawn:
        own = names[stroke.number]
        if own not in maps:
            maps[own] = np.full(size, IGNORE, np.uint8)
        place, covered = _covered(stroke, size)
        for name, labels in maps.items():
            if name == own:
                labels[place][covered] = int(stroke.inside)
            elif stroke.inside:  # it may have been marked as the other class before
                labels[place][covered] = IGNORE
    return maps


def painted(labels: np.ndarray, drawn: Iterable[Stroke]) -> np.ndarray:
    """The (H, W) uint8 label map with strokes laid on it: inside sets a class, outside takes it away."""
    labels = labels.copy()
    for stroke in drawn:
        place, covered = _covered(stroke, (labels.shape[0], labels.shape[1]))
        under = labels[place]
        under[covered if stroke.inside else covered & (under == stroke.number)] = stroke.number if stroke.inside else 0
    return labels


def _covered(stroke: Stroke, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of a photo of (height, width) in which a stroke lies, and which (h, w) pixels there are under it."""
    points = np.floor(stroke.points).astype(int)  # (0.7, 0.2) lies in the first pixel
    room = int(stroke.radius) + 2
    ends = np.array(size[::-1])
    first = (points.min(0) - room).clip(min=-ends)  # not 0: Pillow rounds otherwise below it
    high = np.maximum((points.max(0) + room + 1).clip(max=ends), first.clip(min=0))
    canvas = Image.new("1", tuple((high - first).tolist()))
    if canvas.width and canvas.height:
        _line(ImageDraw.Draw(canvas), [(int(x), int(y)) for x, y in points - first], stroke.radius)
    low = first.clip(min=0)
    left, top = low - first
    return (slice(low[1], high[1]), slice(low[0], high[0])), np.array(canvas)[top:, left:]


def _line(pen: ImageDraw.ImageDraw, points: list[tuple[int, int]], radius: float) -> None:
    if radius < 1:
        pen.line(points, fill=1) if len(points) > 1 else pen.point(points, fill=1)
        return
    if len(points) > 1:
        pen.line(points, fill=1, width=round(2 * radius))
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
