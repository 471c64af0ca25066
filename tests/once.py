"""What every test would do again: reading the encoders of the installation, drawing the curves of a training."""

import copy
from collections.abc import Callable

import pytest


def encoders_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """Each load is a copy, so that a test may change its own. None of them draws a random number."""
    import torch

    from shotseg import encoders
    from shotseg.encoders.weights import own_file

    build, read = encoders._build, {}

    def copied(row, weights):
        installed = row.name.startswith("efficientnet") and weights == "default" and not own_file(row).is_file()
        if not installed:
            return build(row, weights)
        if row.name not in read:
            with torch.random.fork_rng(devices=[]):
                read[row.name] = build(row, weights)
        return copy.deepcopy(read[row.name])

    patch.setattr(encoders, "_build", copied)


def curves_are_not_drawn(patch: pytest.MonkeyPatch) -> Callable:
    """Drawing them takes as long as a short training. What draws them."""
    from shotseg.training import progress

    drawn = progress._curves
    patch.setattr(progress, "_curves", lambda lines, name: "data:,")
    return drawn
