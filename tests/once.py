"""What every test would do again: reading the encoders of the installation, drawing the curves of a training."""

import contextlib
import functools
import io
import pickle
import weakref
from collections.abc import Callable

import pytest


def encoders_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """Each load is a copy, so that a test may change its own; the random numbers that it draws are drawn."""
    import torch

    from shotseg import encoders
    from shotseg.encoders.weights import own_file

    build, read = encoders._build, {}
    hashed = hashes_are_kept(patch)

    def copied(row, weights):
        random = weights == "random"
        installed = weights == "default" and not own_file(row).is_file()
        small = row.name in ("timm:test_efficientnet", "timm:test_resnet")
        if not (random or installed) or not (small or row.name.startswith("efficientnet")):
            return build(row, weights)
        drawn_from = torch.get_rng_state() if random else torch.zeros(0)
        key = (row.name, drawn_from.numpy().tobytes())
        if key not in read:
            with torch.random.fork_rng(devices=[]):
                built = build(row, weights)
                read[key] = copies(built), hashed.of(built), torch.get_rng_state()
        copy, digest, drawn_to = read[key]
        if random:
            torch.set_rng_state(drawn_to)
        return hashed.known(copy(), digest)

    patch.setattr(encoders, "_build", copied)


class Hashes:
    """Of networks that still have the weights with which they were met: no number was written into since."""

    def __init__(self, digest: Callable):
        self._digest, self._known = digest, weakref.WeakKeyDictionary()

    def of(self, net):
        found = self._known.get(net)
        if found is None or found[0] != self._written(net):
            self.known(net, self._digest(net))
        return self._known[net][1]

    def known(self, net, digest: str):
        self._known[net] = self._written(net), digest
        return net

    @staticmethod
    def _written(net) -> list:
        return [(name, id(tensor), tensor._version) for name, tensor in net.state_dict(keep_vars=True).items()]


def hashes_are_kept(patch: pytest.MonkeyPatch) -> Hashes:
    from shotseg import segmenter
    from shotseg.encoders import runtime, weights

    hashes = Hashes(weights.digest)
    for module in (segmenter, runtime):
        patch.setattr(module, "digest", hashes.of)
    return hashes


def copies(module) -> Callable:
    """What makes copies of a module, in a tenth of the time of ``copy.deepcopy``."""
    import torch

    tensors: list[torch.Tensor] = []
    file = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            if isinstance(found, torch.Tensor):
                tensors.append(found)
                return len(tensors) - 1

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number):
            found = tensors[number]
            copy = found.detach().clone()
            return torch.nn.Parameter(copy, found.requires_grad) if isinstance(found, torch.nn.Parameter) else copy

    Pickler(file, pickle.HIGHEST_PROTOCOL).dump(module)
    return lambda: Unpickler(io.BytesIO(file.getvalue())).load()


def forms_are_kept(patch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime takes is made again only where more encoders than these were used since."""
    from shotseg.encoders import runtime

    patch.setattr(runtime, "KEPT", 5)


def what_is_frozen_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    """All that was imported is frozen for the tests: a run would count it each time, for a tenth of a second."""
    from shotseg import runs

    patch.setattr(runs, "_old_left_alone", contextlib.nullcontext)


def large_weights_are_drawn_in_part(patch: pytest.MonkeyPatch) -> None:
    """The first numbers of a large tensor are drawn and the others repeat them: a random network takes a fifth of its time."""
    import torch

    drawn = 262_147  # a prime: no row of weights is another

    def in_part(fill):
        @functools.wraps(fill)
        def filled(self, *args, **more):
            if self.numel() <= 2 * drawn or not self.is_contiguous() or more.get("generator") is not None:
                return fill(self, *args, **more)
            flat = self.detach().view(-1)
            fill(flat[:drawn], *args, **more)
            done = drawn
            while done < len(flat):
                more_of_it = min(done, len(flat) - done)
                flat[done : done + more_of_it] = flat[:more_of_it]
                done += more_of_it
            return self

        return filled

    for name in ("uniform_", "normal_"):
        patch.setattr(torch.Tensor, name, in_part(getattr(torch.Tensor, name)))


def flags_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """tyro forgets after each command line what it read of its flags in the source, which is half of its time."""
    from tyro import _docstrings

    if source := getattr(_docstrings, "_ClassTokenization", None):
        patch.setattr(source, "make", staticmethod(functools.cache(source.make)))


def curves_are_not_drawn(patch: pytest.MonkeyPatch) -> Callable:
    """Drawing them takes as long as a short training. What draws them."""
    from shotseg.training import progress

    drawn = progress._curves
    patch.setattr(progress, "_curves", lambda lines, name: "data:,")
    return drawn
