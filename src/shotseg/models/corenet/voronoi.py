"""The background of a support photo in Voronoi cells (FPTrans, Zhang et al., NeurIPS 2022; CORENet's background tokens)."""

from __future__ import annotations

import torch
from torch import Tensor


def cells(foreground: Tensor, count: int, first: int | Tensor = 0) -> Tensor:
    """Means over the background's cells, as a matrix: (B, h, w) bool -> (B, h w, count), each column summing to 1.

    Centres are chosen one by one, the next as far as possible from those before; every background pixel belongs to its
    nearest centre. Ties go to the first, in row-major order. first: (B,) or one index of the first centre among the
    background pixels. A photo with fewer than ``count`` background pixels also counts its first ``count`` pixels.
    """
    width, pixels = foreground.shape[-1], torch.arange(foreground[0].numel(), device=foreground.device)
    background = ~foreground.flatten(1)
    background = background | ((background.sum(1, keepdim=True) < count) & (pixels < count))
    places = torch.stack([pixels // width, pixels % width], 1)
    firsts = torch.as_tensor(first, device=foreground.device).expand(len(foreground))[:, None]
    centre = (background & (background.cumsum(1) == firsts + 1)).byte().argmax(1)  # nothing waits for a GPU
    distances: list[Tensor] = []
    for _ in range(count):
        distances.append((places - places[centre][:, None]).square().sum(2))  # (B, h w)
        centre = torch.where(background, torch.stack(distances).amin(0), -1).argmax(1)
    nearest = torch.stack(distances, 2).argmin(2, keepdim=True) if distances else firsts[..., None]
    matrix = ((nearest == torch.arange(count, device=foreground.device)) & background[..., None]).float()
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)
