"""Ridge classifiers of tokens: in closed form, and of many classes at once by conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 22  # of conjugate gradients, after which rounding alone is left


def ridge(tokens: Tensor, foreground: Tensor, background: Tensor, strength: float = 1.0) -> Tensor:
    """A linear classifier in closed form, both classes of equal weight: targets +1 and -1.

    tokens: (B, N, C).   foreground, background: (B, N) weights >= 0.   strength: ridge, in mean variances of a channel.
    Gives (B, C + 1): the coefficients and the constant.
    """
    fg, bg = (w / w.sum(1, keepdim=True).clamp(min=1e-6) for w in (foreground, background))
    mass = (fg + bg) / 2
    centre = (mass[..., None] * tokens).sum(1, keepdim=True)  # (B, 1, C)
    x = (tokens - centre) * mass[..., None].sqrt()
    target = torch.where(mass > 0, (fg - bg) / (2 * mass.clamp(min=1e-12).sqrt()), 0)[..., None]  # (B, N, 1)
    scale = strength * x.square().sum((1, 2)).div(x.shape[-1]).clamp(min=1e-8)[:, None, None]
    if x.shape[1] < x.shape[2]:  # fewer tokens than channels: the same answer from the smaller matrix of their products
        weight = x.mT @ _solved(x @ x.mT, scale, target)
    else:
        weight = _solved(x.mT @ x, scale, x.mT @ target)
    weight = weight[..., 0]
    return torch.cat([weight, -(weight * centre[:, 0]).sum(1, keepdim=True)], 1)


def _solved(products: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """(B, n, 1): the solution of (products + scale I) x = target; products (B, n, n) symmetric, scale (B, 1, 1) > 0."""
    eye = torch.eye(products.shape[-1], device=products.device, dtype=products.dtype)
    return torch.cholesky_solve(target, torch.linalg.cholesky(products + scale * eye))


def classify(tokens: Tensor, classifier: Tensor) -> Tensor:
    """(B, N): the value of a (B or 1, C + 1) classifier at tokens (B, N, C)."""
    return (tokens @ classifier[:, :-1, None])[..., 0] + classifier[:, -1:]


def ridge_values(tokens: Tensor, foreground: Tensor, background: Tensor, strength: float) -> Tensor:
    """(B, N, M): what N classifiers as of :func:`ridge` say of the tokens (B, M, C) that they are fitted on.

    foreground, background: (B, N, M) weights >= 0. By conjugate gradients (Hestenes and Stiefel 1952), which need two products of
    all tokens with N vectors a step and no matrix of a class's own. A ridge of a few mean variances makes the system so well
    conditioned that the answer is that of :func:`ridge` to 1e-4 of its range.
    """
    fg, bg = (w / w.sum(2, keepdim=True).clamp(min=1e-6) for w in (foreground, background))
    mass = (fg + bg) / 2
    target = torch.where(mass > 0, (fg - bg) / (2 * mass.clamp(min=1e-12)), 0)
    centre = mass @ tokens  # (B, N, C)
    spread = mass @ tokens.square().sum(2, keepdim=True) - centre.square().sum(2, keepdim=True)
    scale = strength * (spread / tokens.shape[2]).clamp(min=1e-8)  # (B, N, 1)

    def values(weight: Tensor) -> Tensor:
        return weight @ tokens.mT - (weight * centre).sum(2, keepdim=True)

    def gathered(x: Tensor) -> Tensor:  # the transpose of ``values``, each token by its mass
        x = x * mass
        return x @ tokens - x.sum(2, keepdim=True) * centre

    residual = gathered(target)
    weight, direction = torch.zeros_like(residual), residual
    size = residual.square().sum(2, keepdim=True)
    for _ in range(STEPS):
        image = gathered(values(direction)) + scale * direction
        step = size / (direction * image).sum(2, keepdim=True).clamp(min=1e-20)
        weight, residual = weight + step * direction, residual - step * image
        before, size = size, residual.square().sum(2, keepdim=True)
        direction = residual + size / before.clamp(min=1e-20) * direction
    return values(weight)
