"""What was found in a photo: label map, masks, probabilities, confidence, and the files that hold them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotseg.data import images as files
from shotseg.evaluation import confidence
from shotseg.overlay import PALETTE, draw

SHOWN = 640  # longer side of the picture in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found in one photo.

    image: (H, W, 3) uint8 RGB.                  labels: (H, W) uint8, 0 = background, i + 1 = ``classes[i]``.
    probabilities: class name -> (H, W) float32 in [0, 1]; with the background's they sum to 1.
    present: class name -> the probability that the class is in the photo, in [0, 1]; where it is not said, of its surest pixel.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    present: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not self.present:
            surest = {name: float(soft.max()) for name, soft in self.probabilities.items()}
            object.__setattr__(self, "present", surest)

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Class name -> (H, W) bool; no pixel belongs to two classes."""
        return {name: self.labels == i + 1 for i, name in enumerate(self.classes)}

    @cached_property
    def areas(self) -> dict[str, float]:
        """Class name -> part of the photo that it covers, in [0, 1]."""
        return {name: float(mask.mean()) for name, mask in self.masks.items()}

    @cached_property
    def confidences(self) -> dict[str, float]:
        """Class name -> the IoU that the mask is expected to have, in [0, 1].

        Expected intersection over expected union if the probabilities hold, sum of p inside the mask / (mask's area + sum
        of p outside it), times the probability that the class is in the photo. For a class that was not found: how far its
        presence lies below even odds, 1 - 2 present, at least 0.
        """
        return {
            name: confidence.of_class(self.probabilities[name], mask, self.present[name])
            for name, mask in self.masks.items()
        }

    @property
    def confidence(self) -> float:
        """The mean of the confidences of the classes found, weighted by area; where none is found, the lowest of all. Sort by it
        to see the doubtful photos first."""
        return confidence.of_photo(list(self.areas.values()), list(self.confidences.values()))

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8: the photo with every class tinted and outlined in its palette colour."""
        return draw(self.image, self.labels)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        found = ", ".join(f"{name} {area:.1%}" for name, area in self.areas.items() if area > 0)
        return f"<Result {width} x {height}: {found or 'nothing found'}; confidence {self.confidence:.2f}>"

    def _repr_png_(self) -> bytes:
        """The overlay, as Jupyter shows it."""
        picture = Image.fromarray(self.overlay())
        picture.thumbnail((SHOWN, SHOWN))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """What was found, and the overlay below it."""
        picture = base64.b64encode(self._repr_png_()).decode()
        return f'<p>{html.escape(repr(self)[1:-1])}</p><img alt="" src="data:image/png;base64,{picture}">'

    def save(self, folder: str | Path, name: str = "photo") -> None:
        """Write ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette) under ``folder``."""
        for class_name, mask in self.masks.items():
            files.write_png(Path(folder, "masks", class_name, f"{name}.png"), mask.astype(np.uint8) * 255)
        files.write_png(Path(folder, "labels", f"{name}.png"), self.labels, palette=PALETTE)

    def save_soft(self, folder: str | Path, name: str) -> None:
        """Write ``soft/<class>/<name>.png`` under ``folder``: each class's probability times 255."""
        for class_name, probability in self.probabilities.items():
            soft = (probability * 255).round().astype(np.uint8)
            files.write_png(Path(folder, "soft", class_name, f"{name}.png"), soft)

    def plot(self) -> Any:
        """A matplotlib figure: photo, overlay and one probability map a class."""
        import matplotlib.pyplot as plt

        panels = [("photo", self.image), ("result", self.overlay()), *self.probabilities.items()]
        figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4), squeeze=False)
        for axis, (title, picture) in zip(axes[0], panels):
            axis.imshow(picture, **({} if picture.ndim == 3 else {"vmin": 0, "vmax": 1, "cmap": "magma"}))
            axis.set_title(title)
            axis.axis("off")
        figure.tight_layout()
        return figure


def winners(scores: Tensor) -> Tensor:
    """(H, W) uint8: the highest of (N, H, W) scores, the first on ties; ten times faster than ``argmax(0)`` on a CPU."""
    best, labels = scores[0], torch.zeros_like(scores[0], dtype=torch.uint8)
    for i in range(1, len(scores)):
        labels = labels.masked_fill(scores[i] > best, i)
        best = torch.maximum(best, scores[i])
    return labels
