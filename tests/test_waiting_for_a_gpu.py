"""Operations whose result Python must know make the processor wait for a GPU; they can be counted without one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shotseg.models.corenet.voronoi import cells

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}


class Waits(TorchDispatchMode):
    """Counts what waits, indexing with truth values included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        chosen = (
            [index for index in args[1] if index is not None] if name in ("index", "index_put", "index_put_") else []
        )
        self.count += name in WAITING or any(index.dtype in (torch.bool, torch.uint8) for index in chosen)
        return func(*args, **(kwargs or {}))


def test_cells_of_the_background_are_found_without_waiting_for_a_gpu():
    inside = torch.rand(4, 12, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    inside[1] = True
    with Waits() as waits:
        found = cells(inside, 5, torch.tensor([0, 1, 2, 3]))
        assert waits.count == 0
        inside[inside].sum().item()
        assert waits.count == 2  # what this test must see
    assert torch.allclose(found.sum(1), torch.ones(4, 5))
    assert ((found > 0).any(2) == ~inside.flatten(1))[[0, 2, 3]].all()
