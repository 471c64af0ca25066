"""Label maps of class numbers: found by the model, and packed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from shotseg.encoded import Encoded
from shotseg.models.strokes import Strokes, follow
from shotseg.overlay import PALETTE

UNSEEN = -1.0  # log odds of a class of which nothing is known beside the strokes in this photo


@dataclass
class Found:
    """labels: (H, W) uint8 class numbers.   present: the probability that a class is there, by its number."""

    labels: np.ndarray
    confidence: float = 0.5
    present: dict[int, float] = field(default_factory=dict)


def alone_level(encoded: Encoded, strokes: Strokes) -> np.ndarray:
    """(H, W) log odds of a class that nothing but strokes in this photo speak of."""
    flat = torch.full((1, 1), UNSEEN, device=encoded.resized.device)
    return follow(flat, strokes, encoded.features, encoded.resized[None]).cpu().numpy()


def label_png(labels: np.ndarray, level: int = 6) -> bytes:
    """(H, W) uint8 as an 8-bit palette PNG."""
    image, buffer = Image.fromarray(np.ascontiguousarray(labels)), io.BytesIO()
    image.putpalette(PALETTE.tobytes())
    image.save(buffer, format="PNG", compress_level=level, bits=8)
    return buffer.getvalue()


def unpacked(png: bytes) -> np.ndarray:
    """The (H, W) uint8 label map of :func:`label_png`."""
    return np.array(Image.open(io.BytesIO(png)))
