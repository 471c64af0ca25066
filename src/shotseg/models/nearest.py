"""The best cosines of a photo's tokens to those of the shots of a class; a shot that comes later is compared alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shotseg.data.samples import Support
from shotseg.device import sent
from shotseg.encoders.features import highest

BEST = 5  # cosines that are averaged
AT_ONCE = 4096  # tokens of photos that are compared together: cosines to all of a class are many
PURE = 0.5  # of a token's pixels that are of a side, at least


@dataclass(frozen=True, eq=False)
class Nearest:
    """best: (1, N, BEST or fewer) of one photo's tokens to the foreground and to the background of so many shots.

    marks: of their support.   least: (1, 2, 1), what of a token is pure enough.
    """

    marks: tuple[object, ...]
    shots: int
    least: Tensor
    best: tuple[Tensor, Tensor]


Found = dict[str, Nearest]  # by the name of the tokens


def contrast(
    query: Tensor, support: Support, name: str, channels: slice = slice(None), before: Found | None = None
) -> Tensor:
    """(B, N): mean of the best cosines of each query token (B, N, C) to foreground minus to background tokens."""
    foreground, background = best(query, support, name, channels, before)
    return foreground - background


def best(
    query: Tensor, support: Support, name: str, channels: slice = slice(None), before: Found | None = None
) -> tuple[Tensor, Tensor]:
    """(B, N) each: mean of the best cosines of each query token (B, N, C) to foreground and to background tokens.

    before: what was found of the same photo with the first shots of the class, brought up to date; only of one photo.
    """
    least = support.once(f"{name} least", lambda: _least(support, name))
    known = None if before is None else before.get(name)
    if known is not None and not (known.marks == support.marks[: len(known.marks)] and torch.equal(known.least, least)):
        known = None
    start = 0 if known is None else known.shots
    usable = support.once(f"{name} {channels} from {start}", lambda: _usable(support, name, channels, least, start))
    rows = [query] if len(usable) == 1 else query.expand(len(usable), -1, -1).split(1)
    found = [_compared(mine, *tokens) for mine, tokens in zip(rows, usable)]
    if known is not None:
        found = [tuple(_highest(torch.cat(pair, 2)) for pair in zip(known.best, found[0]))]
    if before is not None:
        kept = [cosines.clone() for cosines in found[0]]  # a view would keep all cosines
        before[name] = Nearest(support.marks, support[name].shape[1], least, (kept[0], kept[1]))
    foreground, background = (torch.cat([_mean(cosines) for cosines in side]) for side in zip(*found))
    return foreground, background


def _shares(support: Support, name: str, start: int = 0) -> Tensor:
    """(B, 2, K M): of each token the parts that are foreground and background, in the shots from ``start`` on."""
    sides = ("foreground", "background")
    return torch.stack([support[f"{name}_{side}"][:, start:].flatten(1) for side in sides], 1)


def _least(support: Support, name: str) -> Tensor:
    """(B, 2, 1): what a token of each side must have; at least the purest token has it."""
    return _shares(support, name).amax(2, keepdim=True).clamp(1e-6, PURE)


def _usable(support: Support, name: str, channels: slice, least: Tensor, start: int) -> list[tuple[Tensor, int]]:
    """For each row of a support its tokens (M, C) that are foreground enough, those that are background enough, and how many
    are of the foreground; of the shots from ``start`` on."""
    tokens = support[name][:, start:].flatten(1, 2)[..., channels]  # (B, K M, C)
    usable = (_shares(support, name, start) >= least).cpu()
    return [
        (mine[sent(torch.cat([side.nonzero()[:, 0] for side in sides]), tokens.device)], int(sides[0].sum()))
        for mine, sides in zip(tokens, usable)
    ]


def _compared(query: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, ...]:
    """(B, N, BEST or fewer) each: the best cosines of (B, N, C) to the first ``count`` of (M, C) tokens, and to the others."""
    parts = [(part @ tokens.mT).tensor_split([count], dim=2) for part in query.split(AT_ONCE, dim=1)]
    return tuple(torch.cat([_highest(cosines) for cosines in side], 1) for side in zip(*parts))


def _highest(cosines: Tensor) -> Tensor:
    """(B, N, BEST or fewer): the highest of (B, N, M)."""
    return cosines if cosines.shape[-1] <= BEST else highest(cosines, BEST)


def _mean(cosines: Tensor) -> Tensor:
    """(B, N): the mean of (B, N, M); 0 where M is 0."""
    return cosines.mean(-1) if cosines.shape[-1] else cosines.new_zeros(cosines.shape[:-1])
