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
    canvases: dict[str, Image.Image] = {}
    for stroke in drawn:
        own = names[stroke.number]
        canvas = canvases.setdefault(own, Image.new("L", (size[1], size[0]), IGNORE))
        _line(canvas, stroke, int(stroke.inside))
        for name, other in canvases.items():
            if stroke.inside and name != own:  # it may have been marked as the other class before
                _line(other, stroke, IGNORE)
    return {name: np.array(canvas) for name, canvas in canvases.items()}


def painted(labels: np.ndarray, drawn: Iterable[Stroke]) -> np.ndarray:
    """The (H, W) uint8 label map with strokes laid on it: inside sets a class, outside takes it away."""
    for stroke in drawn:
        canvas = Image.new("L", (labels.shape[1], labels.shape[0]), 0)
        _line(canvas, stroke, 1)
        under = np.array(canvas) == 1
        kept = labels if stroke.inside else np.where(labels == stroke.number, np.uint8(0), labels)
        labels = np.where(under, np.uint8(stroke.number) if stroke.inside else kept, labels)
    return labels


def _line(canvas: Image.Image, stroke: Stroke, value: int) -> None:
    pen, radius = ImageDraw.Draw(canvas), stroke.radius
    points = [(int(np.floor(x)), int(np.floor(y))) for x, y in stroke.points]  # (0.7, 0.2) lies in the first pixel
    if radius < 1:
        pen.line(points, fill=value) if len(points) > 1 else pen.point(points, fill=value)
        return
    if len(points) > 1:
        pen.line(points, fill=value, width=round(2 * radius))
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
