"""A network twice over the same weights: nothing but the weights is shared, and what belongs together stays together."""

import functools

import torch
from torch import nn

from shotseg.encoders.twin import over_same_weights


class Odd(nn.Module):
    """What a plain walk through the children would miss."""

    def __init__(self):
        super().__init__()
        self.first, self.absent = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)), None
        self.again = self.first[0]  # one module, two names
        self.listed = [self.first[1], {"seen": []}]
        self.kept = {}
        self.first[2].kept = self.kept  # one place of two modules
        self.first[2].forward = functools.partial(self.keep, self.first[2])
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.first[0].register_forward_hook(self.note)

    def keep(self, module, x):
        module.kept["shape"] = x.shape
        return x

    def note(self, module, given, output):
        self.listed[1]["seen"].append(module is self.again)

    def forward(self, x):
        return self.first(x)


def test_a_twin_shares_its_weights_and_nothing_that_changes():
    net = Odd().eval()
    twin = over_same_weights(net)
    assert all(
        a is b for a, b in zip(net.state_dict(keep_vars=True).values(), twin.state_dict(keep_vars=True).values())
    )
    assert twin.passing is net.passing and "passing" not in twin.state_dict()
    assert twin.again is twin.first[0] is not net.first[0] and twin.listed[0] is twin.first[1] is not net.first[1]
    assert twin.kept is twin.first[2].kept is not net.kept and twin.absent is None
    assert not {id(module) for module in net.modules()} & {id(module) for module in twin.modules()}

    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(twin(x), net.first[1](torch.nn.functional.conv2d(x, *net.first[0].parameters())))
    assert twin.listed[1]["seen"] == [True] and net.listed[1]["seen"] == []
    assert twin.kept == {"shape": (1, 4, 6, 6)} and net.kept == {}
    twin.train().again.register_forward_hook(print)
    assert not net.first.training and len(net.again._forward_hooks) == 1


def test_a_module_that_is_copied_in_a_way_of_its_own_is():
    class Own(nn.Module):
        def __deepcopy__(self, memo):
            return self

    net = nn.Sequential(Own(), nn.ReLU())
    twin = over_same_weights(net)
    assert twin[0] is net[0] and twin[1] is not net[1]
