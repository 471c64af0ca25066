"""Encoded classes as arrays: shots joined, classifiers fitted, classes stacked for the graph that decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Class = dict[str, np.ndarray]  # the tensors of a support, each (1, K, ...)
# What is fitted on all shots together, and not joined: its name, and the channels of the tokens that it reads.
CLASSIFIERS = ("ridge_all", "ridge_middle")


def joined(shots: Sequence[Class], middle: tuple[int, int]) -> Class:
    """The shots of several supports of one class as one support, its classifiers fitted on all of them.

    middle: first channel of the middle level in a token, and the one after its last.
    """
    together = {
        name: np.concatenate(_padded([shot[name] for shot in shots]), 1) for name in shots[0] if name not in CLASSIFIERS
    }
    tokens, foreground, background = (
        together[name].reshape(-1, *together[name].shape[3:]) for name in ("all", "all_foreground", "all_background")
    )
    fitted = [ridge(x, foreground, background) for x in (tokens, tokens[:, slice(*middle)])]
    return together | {name: found[None, None] for name, found in zip(CLASSIFIERS, fitted)}


def stacked(classes: Sequence[Class]) -> Class:
    """Classes as one batch (N, K, ...), zeros where one has fewer shots or a shot fewer tokens than another."""
    return {name: np.concatenate(_padded([support[name] for support in classes], 1)) for name in classes[0]}


def _padded(parts: list[np.ndarray], first: int = 2) -> list[np.ndarray]:
    """All as large as the largest from dimension ``first`` on."""
    most = [max(sides) for sides in zip(*(part.shape for part in parts))]
    room = [[(0, n - side if axis >= first else 0) for axis, (n, side) in enumerate(zip(most, x.shape))] for x in parts]
    return [np.pad(part, around) for part, around in zip(parts, room)]


def ridge(tokens: np.ndarray, foreground: np.ndarray, background: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """:func:`shotseg.models.ridge.ridge` of one class: (C + 1,) float32 of tokens (N, C) and weights (N,)."""
    x, fg, bg = (a.astype(np.float64) for a in (tokens, foreground, background))
    fg, bg = (w / max(w.sum(), 1e-6) for w in (fg, bg))
    mass = (fg + bg) / 2
    used = mass > 0
    x, mass, fg, bg = x[used], mass[used], fg[used], bg[used]
    centre = mass @ x
    root = np.sqrt(mass)
    x = (x - centre) * root[:, None]
    target = (fg - bg) / (2 * root)
    scale = strength * max(np.square(x).sum() / x.shape[1], 1e-8)
    if x.shape[0] < x.shape[1]:
        weight = x.T @ np.linalg.solve(x @ x.T + scale * np.eye(len(x)), target)
    else:
        weight = np.linalg.solve(x.T @ x + scale * np.eye(x.shape[1]), x.T @ target)
    return np.append(weight, -weight @ centre).astype(np.float32)
