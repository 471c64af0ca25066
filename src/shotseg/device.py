"""Where tensors live: CUDA, MPS or the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from shotseg.errors import UsageError, first_line


def pick_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA, else MPS, else CPU; anything else is taken by its word."""
    if device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {str(device)!r} does not work here ({first_line(error)}); try --device cpu") from None


def precise(x: Tensor) -> Tensor:
    """The same in double precision, which MPS alone has not."""
    return x if x.device.type == "mps" else x.double()
