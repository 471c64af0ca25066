"""Another network over the same weights: what is shared, what is not."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from shotseg import encoders, models
from shotseg.encoders.copies import over_the_same_weights
from training_miniature import TINY


class Odd(nn.Module):
    """Parts of every kind that a network may have."""

    def __init__(self):
        super().__init__()
        self.last = None  # set to a part that comes later
        self.first, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.tied = self.first
        self.named, self.list = nn.ModuleDict({"a": nn.ReLU()}), nn.ModuleList([nn.Linear(2, 2)])
        self.last = [self.list[0]]
        self.kept: dict[str, list] = {"seen": []}
        self.register_buffer("lost", torch.ones(2), persistent=False)
        self.first.register_forward_hook(self.seen)
        self.norm.forward = partial(normed, self)

    def seen(self, *given):
        self.kept["seen"].append(1)

    def forward(self, x):
        return self.last[0](self.norm(self.tied(x)))


def normed(module, x):
    return x + len(module.kept["seen"])


def test_weights_are_shared_and_what_a_module_keeps_is_its_own():
    odd = Odd().eval()
    twin, usual = over_the_same_weights(odd), copy.deepcopy(odd)
    assert dict(twin.named_parameters()).keys() == dict(odd.named_parameters()).keys()
    for ours, theirs in zip((*twin.parameters(), *twin.buffers()), (*odd.parameters(), *odd.buffers())):
        assert ours is theirs
    assert not set(map(id, twin.modules())) & set(map(id, odd.modules()))
    assert twin.tied is twin.first and twin.last[0] is twin.list[0] and not twin.training
    assert twin.state_dict().keys() == usual.state_dict().keys() and "lost" not in twin.state_dict()
    x = torch.rand(3, 2)
    assert torch.equal(twin(x), usual(x)) and twin.kept == usual.kept and odd.kept == {"seen": []}


@pytest.mark.parametrize("name", ["matching", "pfenet", "cst", "tlg"])
def test_a_model_and_its_twin_have_parts_of_the_same_kinds(name):
    model = models.load(name, encoders.load(TINY, "random"))
    twin = over_the_same_weights(model)
    assert [(n, type(m), vars(m).keys()) for n, m in twin.named_modules()] == [
        (n, type(m), vars(m).keys()) for n, m in model.named_modules()
    ]
