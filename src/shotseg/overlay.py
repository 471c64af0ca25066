"""Label maps drawn on photos."""

from __future__ import annotations

import numpy as np

# Colours that stay apart from each other and from skin, grass and sky; 0 is the background, 255 is ignore.
_COLOURS = [
    (0, 0, 0),
    (255, 64, 129),
    (0, 188, 212),
    (255, 193, 7),
    (124, 77, 255),
    (118, 255, 3),
    (255, 87, 34),
    (41, 121, 255),
]


def _palette() -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(_COLOURS)] = _COLOURS
    hues = (np.arange(len(_COLOURS), 255) * 0.61803) % 1.0  # golden-ratio steps never repeat a neighbour's hue
    shifted = np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    table[len(_COLOURS) : 255] = (255 * np.clip(shifted, 0, 1)).astype(np.uint8)
    table[255] = 224
    return table


PALETTE = _palette()  # (256, 3) uint8


def draw(image: np.ndarray, labels: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """The photo with every label tinted and outlined.

    image: (H, W, 3) uint8.  labels: (H, W) uint8, 0 stays as it is.  Gives (H, W, 3) uint8.
    """
    out, inside = image.copy(), labels > 0
    out[inside] = image[inside] * (1 - opacity) + PALETTE[labels[inside]] * opacity
    width = max(3, 2 * (min(labels.shape) // 300) + 1)
    highest = _highest(labels, width // 2)
    edge = highest != 255 - _highest(255 - labels, width // 2)
    out[edge] = PALETTE[highest[edge]]
    return out


def _highest(values: np.ndarray, radius: int) -> np.ndarray:
    """The highest of the (2 radius + 1)^2 values around each place."""
    for _ in range(2):  # rows, then columns
        found, reach = np.pad(values, ((radius, radius), (0, 0)), mode="edge"), 1
        while reach < 2 * radius + 1:  # each row holds the highest of ``reach`` rows from it on
            step = min(reach, 2 * radius + 1 - reach)
            found, reach = np.maximum(found[:-step], found[step:]), reach + step
        values = found.T
    return np.ascontiguousarray(values)
