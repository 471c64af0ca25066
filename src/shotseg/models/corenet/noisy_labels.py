"""A loss for masks that are wrong at times: doubtful images count less, and a slow teacher corrects what it is sure of.

Method page, section 8; none of it is the paper's.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE
from shotseg.models.blocks.prior_guided import resize


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over labelled pixels, each counted by its image's weight (B,); logits (B, 2, h, w) are resized to the target."""
    pixel_loss = F.cross_entropy(resize(logits, target.shape[-2:]), target, ignore_index=IGNORE, reduction="none")
    pixel_weight = (target != IGNORE) * weight[:, None, None]
    return (pixel_loss * pixel_weight).sum() / pixel_weight.sum().clamp(min=1e-6)


def confidence(soft: Tensor) -> Tensor:
    """(B, H, W) in [0, 1] -> (B,) in [0, 1]: how far from 1/2 a soft mask is on average."""
    return (2 * soft - 1).abs().mean((1, 2))


def relabelled(target: Tensor, teacher: Tensor, soft: Tensor, sure: float = 0.9, agree: float = 0.3) -> Tensor:
    """target (B, H, W) in {0, 1, 255}, corrected where the teacher's probability of the object is above ``sure`` for either
    answer and the soft mask gives that answer at least ``agree``; teacher, soft: (B, H, W) in [0, 1]."""
    foreground = (teacher > sure) & (soft > agree)
    background = (teacher < 1 - sure) & (soft < 1 - agree)
    return target.masked_fill(foreground, 1).masked_fill(background, 0)


class Teacher(nn.Module):
    """A moving average of a network (decay 0.999), which starts to teach after ``start`` steps."""

    def __init__(self, student: nn.Module, start: int, decay: float = 0.999):
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.start, self.decay = start, decay
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.step: Tensor

    @torch.no_grad()
    def follow(self, student: nn.Module) -> bool:
        """One step of the average, faster in the first steps; True once it teaches."""
        decay = min(self.decay, (1 + int(self.step)) / (10 + int(self.step)))
        for average, learnt in zip(self.network.parameters(), student.parameters()):
            average.lerp_(learnt, 1 - decay)
        self.step += 1
        return int(self.step) > self.start

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)
