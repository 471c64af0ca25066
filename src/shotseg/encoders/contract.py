"""What every encoder promises, tried on small photos before the work begins: maps where and as wide as it says, at any size."""

from __future__ import annotations

import torch
from torch import Tensor

from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError, first_line

# (height, width). Halved over and over, 127 leaves a rest where it is rounded down and 161 where up: a map that is doubled
# again then has another size than the one that it is added to. 160 and 224 are whole for strides up to 32.
ODD, WHOLE = (127, 161), (160, 224)
SLACK = 4  # cells that a map may lack or have more at its edges, as networks without padding do


def trial(size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """A photo (1, 3, *size) in [0, 1], the same every time."""
    return torch.linspace(0, 1, 3 * size[0] * size[1], device=device).view(1, 3, *size)


@torch.no_grad()
def fault(encoder: Encoder, size: tuple[int, int]) -> str:
    """What is wrong with the maps of a photo of this size, in one line; empty where they are as the encoder says."""
    try:
        maps = encoder.extract(trial(size, encoder.mean.device)).maps
    except Exception as error:  # whatever a network of another library raises for a photo that it does not take
        return first_line(error)
    if len(maps) != len(encoder.strides):
        return f"{len(maps)} maps where {len(encoder.strides)} are said"
    for found, channels, stride in zip(maps, encoder.channels, encoder.strides):
        covered = [
            full - encoder.patch < (side + SLACK) * stride and (side - SLACK) * stride < full
            for side, full in zip(found.shape[2:], size)
        ]
        if found.dim() != 4 or found.shape[1] != channels or not all(covered):
            return f"a map {tuple(found.shape)} where {channels} channels at stride {stride} are said"
    return ""


def check(encoder: Encoder, size: tuple[int, int] = WHOLE) -> None:
    """Raises UsageError naming an encoder that does not keep to it."""
    if found := fault(encoder, size):
        raise UsageError(
            f"encoder {encoder.name}: no maps of a photo of {size[0]} x {size[1]} pixels ({found});"
            " choose a CNN, a plain ViT or Swin, as timm:convnext_tiny or dinov2-vits14"
        )
