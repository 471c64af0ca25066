"""What makes the processor wait for a GPU can be counted without one. How often each model waits: ``test_every_model.py``."""

import pytest
import torch

from pretend_device import Elsewhere, pretended
from shotseg.device import sent
from shotseg.models.corenet.voronoi import cells


def test_cells_of_the_background_are_found_without_waiting_for_a_gpu():
    inside = torch.rand(4, 12, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    inside[1] = True
    with pretended() as waits:
        found = cells(Elsewhere(inside), 5, Elsewhere(torch.tensor([0, 1, 2, 3]))).inner
    assert not waits
    assert torch.allclose(found.sum(1), torch.ones(4, 5))
    assert ((found > 0).any(2) == ~inside.flatten(1))[[0, 2, 3]].all()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.masked_fill_(x > 1, 0)[[0, 1]],
        lambda x: torch.where(x > 1),
        lambda x: torch.unique(x),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x.copy_(torch.zeros(3)),
    ],
)
def test_what_waits_is_seen(wait):
    with pretended() as waits:
        wait(Elsewhere(torch.arange(3.0)))
        assert len(waits) == 1


def test_what_does_not_wait_is_not():
    with pretended() as waits:
        x = Elsewhere(torch.arange(3.0))
        x[sent(torch.tensor([0, 2]), x.device)] += x.new_zeros(2).scatter_(0, (x[:2] > 1).long(), 1.0)
        assert not waits
