"""From soft class maps to masks with unsure pixels: two thresholds, refinement along the photo's edges, and a rescue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shotseg.data.samples import IGNORE
from shotseg.priors.cam_labels import Refine, soft_masks, threshold_labels, two_background_labels
from shotseg.priors.pixel_adaptive import pamr, par

Labels = Literal["episode", "image"]
REFINE: dict[str, Refine] = {"par": par, "pamr": pamr}


@dataclass(frozen=True, eq=False)
class PseudoMasks:
    """What is believed of a photo (H, W) that shows N named classes.

    labels:        (H, W) uint8, 0 = background, i + 1 = the i-th name, 255 = unsure.
    masks:         (N, H, W) uint8 in {0, 1, 255}, each class's own; never without a 1.
    probabilities: (N, H, W) float32 in [0, 1].
    """

    labels: np.ndarray
    masks: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Cut:
    """How soft maps in [0, 1] become masks.

    high, low: a pixel is the class where its map wins against a background of ``high``, background where it loses against
               ``low``, and unsure (255) between (AFA, Ru et al., CVPR 2022). Equal: no pixel is unsure.
    refine:    "par" (AFA) or "pamr" draw the maps along the photo's edges before the decision; "none" does not.
    sharpness: of the probabilities, a softmax of sharpness times [background, maps].
    rescue:    (a, b): where no pixel is the class, its highest a of the pixels are; where none is background, the lowest b.
    """

    high: float = 0.55
    low: float = 0.35
    refine: Literal["par", "pamr", "none"] = "par"
    sharpness: float = 10.0
    rescue: tuple[float, float] = (0.05, 0.2)

    def __call__(self, photo: Tensor, maps: Tensor, labels: Labels = "episode") -> PseudoMasks:
        """photo (1, 3, h, w) at the size at which edges are followed; maps (1, N, H, W) at the size of the masks.

        labels: "episode": each class against the background alone, so two masks may overlap. "image": all compete.
        """
        groups = [[i] for i in range(maps.shape[1])] if labels == "episode" else [list(range(maps.shape[1]))]
        masks, probabilities = [], []
        for group in groups:
            decided = self.decide(photo, maps[:, group])[0]
            masks += [torch.where(decided == IGNORE, IGNORE, (decided == k + 1).long()) for k in range(len(group))]
            probabilities.append(self.probabilities(photo, maps[:, group])[0])
        own, probability = torch.stack(masks), torch.cat(probabilities)
        return PseudoMasks(
            merged(own, maps[0]).to(torch.uint8).cpu().numpy(),
            own.to(torch.uint8).cpu().numpy(),
            probability.float().cpu().numpy(),
        )

    def decide(self, photo: Tensor, maps: Tensor) -> Tensor:
        """(1, N, H, W) maps of classes that compete -> (1, H, W) int64: class + 1, 0, or 255 where unsure."""
        present = torch.ones_like(maps[:, :, 0, 0])
        if self.refine == "none":
            labels = threshold_labels(maps, present, high=self.high, low=self.low)
        else:
            refine = REFINE[self.refine]
            labels = two_background_labels(photo, maps, present, high=self.high, low=self.low, refine=refine)
        return self._rescued(labels, maps)

    def probabilities(self, photo: Tensor, maps: Tensor) -> Tensor:
        """(1, N, H, W) in [0, 1]; with the background's they sum to 1, and at the middle of the cut they are equal."""
        middle = (self.high + self.low) / 2
        if self.refine == "none":
            scores = torch.cat([torch.full_like(maps[:, :1], middle), maps], 1)
        else:
            present = torch.ones_like(maps[:, :, 0, 0])
            scores = soft_masks(photo, maps, present, background=middle, refine=REFINE[self.refine])
        return (self.sharpness * scores).softmax(1)[:, 1:]

    def _rescued(self, labels: Tensor, maps: Tensor) -> Tensor:
        flat = labels.flatten(1).clone()
        for i in range(maps.shape[1]):
            if not (flat == i + 1).any():
                flat[0, maps[0, i].flatten().topk(max(1, int(self.rescue[0] * flat.shape[1]))).indices] = i + 1
        lowest = int(self.rescue[1] * flat.shape[1])
        if lowest and not (flat == 0).any():
            flat[0, maps[0].amax(0).flatten().topk(lowest, largest=False).indices] = 0
        return flat.view_as(labels)


def merged(masks: Tensor, scores: Tensor) -> Tensor:
    """One label map (H, W) int64 of N masks (N, H, W) in {0, 1, 255}: of those that claim a pixel the highest score.

    255 where the highest is shared, or where nobody claims it and somebody is unsure.
    """
    claimed = scores.masked_fill(masks != 1, -torch.inf)
    best, winner = claimed.max(0)
    shared = (claimed == best).sum(0) > 1
    labels = torch.where(best.isinf(), torch.where((masks == IGNORE).any(0), IGNORE, 0), winner + 1)
    return labels.masked_fill(~best.isinf() & shared, IGNORE)
