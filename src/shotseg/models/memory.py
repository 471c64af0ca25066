"""Earlier frames of a sequence as further supports of its classes.

1. A frame is kept for a class that it shows with a confidence of SURE or more; of each class the last KEPT frames.
2. A kept frame serves those that look like it: whole photos are compared as in :mod:`shotseg.models.presence`. After a cut it
   is of no use, and does no harm.
3. In a kept frame what its mask shows is the class, and what lies far from that is not. Between them, where an unsure mask errs,
   nothing is learnt.
4. What kept frames say of a class is half of its evidence, the examples' own is the other half.
5. Whether a class is there at all is asked of the examples alone, as without a memory. So a class that has gone is not kept,
   and an error cannot feed itself for ever.

Measured in docs/video.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from shotseg.data.samples import IGNORE, Support
from shotseg.encoders.features import Features
from shotseg.models import presence

KEPT = 4
SURE = 0.4  # lower takes in frames whose errors then spread: at 0.2 tracking costs more than it gives
AROUND = 0.6  # how far from a mask nothing is learnt, in square roots of its area


class Memory:
    """What is kept of one sequence: of each class at most KEPT frames, encoded."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[Support]] = {}

    def __getitem__(self, name: str) -> Sequence[Support]:
        """The frames kept of a class, the latest last."""
        return tuple(self._kept.get(name, ()))

    @torch.no_grad()
    def keep(
        self,
        model: Any,
        image: Tensor,
        features: Features,
        labels: np.ndarray,
        classes: Sequence[str],
        confidences: Mapping[str, float],
    ) -> None:
        """Keep a frame for each class that it shows with confidence.

        image: (3, h, w) in [0, 1], as it was encoded.   features: of it, batch 1.   labels: (H, W) uint8, value i + 1 is
        ``classes[i]``.   confidences: class name -> expected IoU in [0, 1]; a class that is not named is not kept.
        """
        height, width = image.shape[1:]
        for number, name in enumerate(classes, 1):
            if (
                round(confidences.get(name, 0), 6) < SURE
            ):  # as exact as a run's records, from which a memory is made anew
                continue
            drawn = Image.fromarray(np.where(labels == number, np.uint8(255), np.uint8(0)))
            target = _learnt(np.asarray(drawn.resize((width, height), Image.Resampling.BOX)) > 127)
            if {0, 1} <= set(np.unique(target).tolist()):
                mask = torch.from_numpy(target).to(image.device)[None]
                shot = presence.encode_shot(model, image[None], mask, features, (name,))
                self._kept.setdefault(name, deque(maxlen=KEPT)).append(shot)


def _learnt(mask: np.ndarray) -> np.ndarray:
    """(h, w) int64: 1 in the mask, 0 far from it, 255 between."""
    near = ndimage.distance_transform_edt(~mask) < AROUND * np.sqrt(mask.sum())
    return np.where(mask, 1, np.where(near, IGNORE, 0)).astype(np.int64)
