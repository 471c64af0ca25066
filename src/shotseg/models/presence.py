"""Which classes are in a photo, and which pixels are whose: absolute evidence beside the relative evidence of a model.

A few-shot model says where in the photo a class would be (relative evidence). :func:`decide` asks of each such region whether it
is the class at all: against the class's own examples, against those of the other classes, against nothing in particular.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shotseg.data.samples import Support
from shotseg.encoders.features import Features


@dataclass(frozen=True, eq=False)
class Decision:
    """scores: (N + 1, h, w) log odds, the background's 0 first; a class that is not there is below 0 everywhere.

    present: (N,) float in [0, 1], the probability that the class is in the photo.
    """

    scores: Tensor
    present: Tensor


def encode_shot(
    model: Any, image: Tensor, mask: Tensor | None, features: Features, class_names: tuple[str, ...]
) -> Support:
    """The model's support of one shot with what :func:`decide` needs of it. image: (1, 3, H, W). mask: (1, H, W) or None."""
    return model.encode_support(image[None], None if mask is None else mask[None], features, class_names=class_names)


def decide(
    model: Any,
    query: Features,
    supports: Sequence[Support],
    image: Tensor,
    told: Sequence[Mapping[str, Any]] | None = None,
    threshold: float | None = 0.5,
) -> Decision:
    """All classes against one photo.

    query: ``model.encode(image)``.   image: (1, 3, H, W) in [0, 1].   supports: one a class, of batch 1.
    told: what the model asks beside photos, one mapping a class.
    threshold: presence from which a class takes part; None: every class is known to be in the photo.
    """
    told = told or [{}] * len(supports)
    found = [model(query, support, image, **asked) for support, asked in zip(supports, told)]
    evidence = torch.cat([x.logits[:, 1] - x.logits[:, 0] for x in found])
    present = torch.ones(len(supports), device=evidence.device)
    return Decision(torch.cat([torch.zeros_like(evidence[:1]), evidence]), present)
