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
    width = foreground.shape[-1]
    firsts = torch.as_tensor(first, device=foreground.device).expand(len(foreground))
    matrix = foreground.new_zeros((len(foreground), foreground[0].numel(), count), dtype=torch.float32)
    for own, inside, start in zip(matrix, foreground.flatten(1), firsts if count else ()):
        background = ~inside
        if int(background.sum()) < count:
            background[:count] = True
        pixels = background.nonzero()[:, 0]
        places = torch.stack([pixels // width, pixels % width], 1)
        distances = [(places - places[start]).square().sum(1)]
        while len(distances) < count:
            furthest = torch.stack(distances).amin(0).argmax()
            distances.append((places - places[furthest]).square().sum(1))
        own[pixels, torch.stack(distances).argmin(0)] = 1
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)
