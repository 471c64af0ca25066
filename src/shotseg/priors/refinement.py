"""Class maps spread along a vision transformer's own attention: PIR of PI-CLIP and the affinity refinement of CLIP-ES.

Both are one :class:`AttentionRefinement`; they differ in rounds and in how the matrix is made symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from shotseg.device import sent
from shotseg.priors.visual import min_max

BoxEnd = Literal["inclusive", "exclusive"]


@dataclass(frozen=True)
class AttentionRefinement:
    """refined = R diag(box) cam, with R made from the attention A between patch tokens.

    last:          how many of the deepest layers are averaged to A.
    rounds:        how often A is divided by its column sums and then by its row sums (Sinkhorn), giving D.
    combine:       "max": H = max(D, D D'), the high-order matrix of PIR; "mean": H = (D + D') / 2, CLIP-ES.
    power:         R = H to this power.
    box_threshold: share of the map's 8-bit maximum above which a position belongs to a box; see :func:`box_mask`.
    box_end:       "inclusive" or, as the released code of both papers has it, "exclusive".
    """

    last: int = 8
    rounds: int = 1
    combine: Literal["max", "mean"] = "max"
    power: int = 2
    box_threshold: float = 0.4
    box_end: BoxEnd = "inclusive"

    def __call__(self, cam: Tensor, attention: Tensor, prefix: int = 1) -> Tensor:
        """M maps of each image refined: cam (B, M, h, w) in [0, 1] -> (B, M, h, w) in [0, 1].

        attention: (L, B, T, T), shallow to deep, averaged over heads; T = ``prefix`` class and register tokens + h w.
        """
        return min_max(self.spread(cam, self.affinity(attention, prefix)))

    def affinity(self, attention: Tensor, prefix: int = 1) -> Tensor:
        """attention (L, B, prefix + n, prefix + n) -> R (B, n, n)."""
        d = balance(attention[-self.last :, :, prefix:, prefix:].mean(0), self.rounds)
        h = torch.maximum(d, d @ d.mT) if self.combine == "max" else (d + d.mT) / 2
        return torch.linalg.matrix_power(h, self.power)

    def spread(self, cam: Tensor, affinity: Tensor) -> Tensor:
        """cam (B, M, h, w), affinity (B, n, n) -> R diag(box) cam, (B, M, h, w), before the min-max."""
        boxed = cam * box_mask(cam, self.box_threshold, self.box_end)
        return (boxed.flatten(2) @ affinity.mT).view_as(cam)


PIR = AttentionRefinement()
CLIP_ES = AttentionRefinement(rounds=3, combine="mean")


def balance(matrix: Tensor, rounds: int = 1) -> Tensor:
    """(..., n, n), positive: divided by column sums, then by row sums, ``rounds`` times; its rows then sum to 1."""
    for _ in range(rounds):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix


def box_mask(cam: Tensor, threshold: float = 0.4, end: BoxEnd = "inclusive") -> Tensor:
    """(..., h, w) in [0, 1] -> float 1 inside the union of the boxes around every part above the threshold, else 0."""
    maps = cam.detach().reshape(-1, *cam.shape[-2:]).float().cpu().numpy()
    masks = np.zeros_like(maps)
    for mask, one in zip(masks, maps):
        for left, top, right, bottom in boxes(one, threshold, end):
            mask[top:bottom, left:right] = 1
    return sent(torch.from_numpy(masks).view(cam.shape).to(cam.dtype), cam.device)


def boxes(cam: np.ndarray, threshold: float = 0.4, end: BoxEnd = "inclusive") -> list[tuple[int, int, int, int]]:
    """The bounding boxes (left, top, right, bottom) of all contours of an (h, w) map in [0, 1], ends exclusive.

    A position counts where its 8-bit value is above int(threshold * the largest 8-bit value). Contours are the outlines
    of 8-connected parts and of their holes (a hole's outline runs on the part around it). ``end="exclusive"`` repeats a
    slip of CLIP-ES and PI-CLIP: ends are cut to (w - 1, h - 1), so that the last row and column are never inside. A map
    of zeros has no box.
    """
    byte = (255 * cam).astype(np.uint8)
    above = byte > int(threshold * byte.max())
    height, width = above.shape
    cut = (height, width) if end == "inclusive" else (height - 1, width - 1)
    parts, _ = ndimage.label(above, np.ones((3, 3)))
    gaps, _ = ndimage.label(np.pad(~above, 1, constant_values=True))
    found = ndimage.find_objects(parts)
    for rows, columns in ndimage.find_objects(gaps)[1:]:  # the first gap is the frame; the rest are holes
        # One cell of padding and one of outline before a hole; the padding makes up for the outline after it.
        found.append((slice(rows.start - 2, rows.stop), slice(columns.start - 2, columns.stop)))
    return [(c.start, r.start, min(c.stop, cut[1]), min(r.stop, cut[0])) for r, c in found]
