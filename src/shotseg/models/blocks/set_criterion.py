"""Losses on sets of mask proposals: matching, classification, masks, and the complement of what has masks.

MaskFormer (Cheng, Schwing, Kirillov, NeurIPS 2021, section 3.3) where every class of a photo has a mask; SimFormer (Chen et
al., NeurIPS 2022) where some are known by their name alone. B photos, Q proposals, C classes and the null class C, T
targets (those of the photo with the most; the others are filled up with label -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import IGNORE
from shotseg.device import sent
from shotseg.encoders.features import full_precision

FOCAL, DICE = 20.0, 1.0  # weights of the two mask losses, in the cost as in the loss
NO_OBJECT = 0.1  # weight of the null class in the cross-entropy
FLOOR = -2.9444  # logit of 0.05: what lies below counts as "not proposed" in the complementary loss


@dataclass(frozen=True, eq=False)
class Proposals:
    """What a decoder layer says. classes: (B, Q, C + 1) logits, null last.    masks: (B, Q, h, w) logits."""

    classes: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """The classes of B photos, in each photo those with masks first.

    On the CPU, as Python must know them:  labels: (B, T) int64 class ids, -1 = none.   has_mask: (B, T) bool, has a pixel.
    Where the network is:  masks: (B, T, H, W) bool, empty where there is none.         padding: (B, H, W) bool.
    """

    labels: Tensor
    has_mask: Tensor
    masks: Tensor
    padding: Tensor

    @staticmethod
    def of(maps: Tensor, tags: Sequence[Sequence[int]], padding: Tensor | None = None) -> Targets:
        """From label maps (B, H, W), 255 = unknown, and the classes without a mask that are known to be in each photo."""
        known = classes_of(maps)
        named = [sorted(set(extra) - set(own)) for own, extra in zip(known, tags)]
        most = max(1, *(len(own) + len(extra) for own, extra in zip(known, named)))
        labels = torch.tensor([[*a, *b] + [-1] * (most - len(a) - len(b)) for a, b in zip(known, named)])
        has_mask = torch.tensor([[True] * len(a) + [False] * (most - len(a)) for a in known])
        masks = maps[:, None] == sent(labels, maps.device)[:, :, None, None]
        return Targets(
            labels, has_mask, masks, torch.zeros_like(maps, dtype=torch.bool) if padding is None else padding
        )

    @property
    def real(self) -> Tensor:
        """(B, T) bool: the entries that are a class."""
        return self.labels >= 0


def classes_of(maps: Tensor) -> list[list[int]]:
    """The class ids that each of (B, H, W) int64 maps shows, 255 left out. All photos are asked at once: a GPU is waited for."""
    shown = torch.zeros(len(maps), IGNORE + 1, dtype=torch.bool, device=maps.device)
    rows = shown.scatter_(1, maps.flatten(1), True)[:, :IGNORE].cpu().numpy()
    return [np.flatnonzero(row).tolist() for row in rows]


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of (..., H, W) logits, target 0 or 1, mean over pixels (Lin et al., ICCV 2017, equation 5)."""
    against = logits * (1 - 2 * target)  # the logit of the other answer: its probability is what is missed
    weight = 1 - alpha + (2 * alpha - 1) * target
    return (weight * against.sigmoid() ** gamma * F.softplus(against)).flatten(-2).mean(-1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 <s, m> + 1) / (sum s + sum m + 1) of (..., H, W) logits."""
    s, m = logits.sigmoid().flatten(-2), target.flatten(-2)
    return 1 - (2 * (s * m).sum(-1) + 1) / (s.sum(-1) + m.sum(-1) + 1)


def pairwise_focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """:func:`focal` of each of (B, Q, P) logits with each of (B, T, P) masks: (B, Q, T)."""
    p = logits.sigmoid()
    there = alpha * (1 - p) ** gamma * F.softplus(-logits)
    absent = (1 - alpha) * p**gamma * F.softplus(logits)
    return (absent.sum(-1, keepdim=True) + (there - absent) @ target.transpose(1, 2)) / logits.shape[-1]


def pairwise_dice(logits: Tensor, target: Tensor) -> Tensor:
    """:func:`dice` of each of (B, Q, P) logits with each of (B, T, P) masks: (B, Q, T)."""
    s = logits.sigmoid()
    return 1 - (2 * s @ target.transpose(1, 2) + 1) / (s.sum(-1)[..., None] + target.sum(-1)[:, None] + 1)


def small_masks(targets: Targets, size: tuple[int, int]) -> Tensor:
    """The masks at the size of the logits, nearest: (B, T, h, w) float32."""
    return F.interpolate(targets.masks.float(), size, mode="nearest")


@torch.no_grad()
def costs(proposals: Proposals, targets: Targets, small: Tensor) -> Tensor:
    """Cost of every proposal for every class: (B, Q, T).

    -p(class) + 20 focal + dice; of a class whose mask is empty at this size, ``small`` (B, T, h, w), -p(class) alone.
    """
    p = proposals.classes.softmax(-1)
    labels = sent(targets.labels.clamp(min=0), p.device)
    named = p.gather(2, labels[:, None].expand(-1, p.shape[1], -1))
    logits, masks = proposals.masks.flatten(2).float(), small.flatten(2)
    shape = FOCAL * pairwise_focal(logits, masks) + DICE * pairwise_dice(logits, masks)
    return shape * masks.any(2)[:, None] - named


@torch.no_grad()
def match(layers: Sequence[Proposals], targets: Targets, reordered: bool = False) -> Tensor:
    """The proposal of each class by the Hungarian method, in every layer: (L, B, T) int64 on the CPU, -1 = none.

    The costs of all layers travel to the CPU together. ``reordered``: the release puts the columns of the classes with
    a mask at this size first, and then reads them as if they were in the order of the targets.
    """
    small = small_masks(targets, (layers[0].masks.shape[-2], layers[0].masks.shape[-1]))
    matrices = torch.stack([costs(layer, targets, small) for layer in layers]).cpu().numpy()  # (L, B, Q, T)
    counts = targets.real.sum(1).tolist()
    columns = [list(range(count)) for count in counts]
    if reordered:
        order = (~small.flatten(2).any(2)).long().argsort(stable=True, dim=1).tolist()
        columns = [[t for t in row if t < count] for row, count in zip(order, counts)]
    found = torch.full((len(layers), *targets.labels.shape), -1)
    for image, own in enumerate(columns):
        for layer in range(len(layers)):
            rows, taken = linear_sum_assignment(matrices[layer, image][:, own])
            found[layer, image, torch.from_numpy(taken)] = torch.from_numpy(rows)
    return found


def classification(classes: Tensor, targets: Targets, matched: Tensor) -> Tensor:
    """Cross-entropy (B, Q, C + 1): a matched proposal has its class, the others the null class with weight 0.1."""
    null = classes.shape[-1] - 1
    wanted = torch.full(classes.shape[:2], null)
    image, place = torch.nonzero(matched >= 0, as_tuple=True)
    wanted[image, matched[image, place]] = targets.labels[image, place]
    weight = torch.ones(null + 1, device=classes.device)
    weight[null] = NO_OBJECT
    return F.cross_entropy(classes.flatten(0, 1).float(), sent(wanted.flatten(), classes.device), weight)


def cross_entropy_of(p: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities, not reduced, in float32: autocast refuses it at a lower precision."""
    with full_precision():
        return F.binary_cross_entropy(p.float(), wanted.float(), reduction="none")


def image_level(classes: Tensor, targets: Targets) -> Tensor:
    """Multiple-instance loss, off in the release: BCE of the largest probability of each class over the proposals.

    The null class counts as absent. (B, Q, C + 1) logits -> (B, C + 1), not reduced.
    """
    p = classes.softmax(-1).amax(1)
    present = torch.zeros(p.shape)
    image, place = torch.nonzero(targets.real, as_tuple=True)
    present[image, targets.labels[image, place]] = 1
    return cross_entropy_of(p, sent(present, p.device))


def enlarged(masks: Tensor, matched: Tensor, which: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The matched proposals (B, Q, h, w) of the entries ``which`` (B, T): photo, place (N,) and logits (N, H, W)."""
    image, place = torch.nonzero(which & (matched >= 0), as_tuple=True)
    image, place, proposal = sent(torch.stack([image, place, matched[image, place]]), masks.device)
    return image, place, _bilinear(masks[image, proposal].float(), size)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) at another size, half-pixel centres, as two products: on a CPU torch's own resize takes 2 to 7 times as long with
    its gradient."""
    rows, columns = (
        F.interpolate(torch.eye(side, device=maps.device)[None], wanted, mode="linear", align_corners=False)[0]
        for side, wanted in zip(maps.shape[1:], size)
    )
    with full_precision():
        return rows.T @ (maps @ columns)


def mask_count(targets: Targets) -> Tensor:
    """Annotated classes of the batch, the mean over processes, at least 1."""
    count = sent(targets.has_mask.sum().float(), targets.masks.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def mask_losses(masks: Tensor, targets: Targets, matched: Tensor, count: Tensor | float) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of the proposals (B, Q, h, w) whose class has a mask, summed over pairs / ``count``."""
    size = (targets.masks.shape[-2], targets.masks.shape[-1])
    image, place, logits = enlarged(masks, matched, targets.has_mask, size)
    wanted = targets.masks[image, place].float()
    return focal(logits, wanted).sum() / count, dice(logits, wanted).sum() / count


def complementary(
    masks: Tensor,
    targets: Targets,
    matched: Tensor,
    floor: float = FLOOR,
    ignore_padding: bool = False,
    photos: Tensor | None = None,
) -> Tensor:
    """SimFormer's complementary loss: the proposals of the classes without masks together cover what no mask covers.

    The union is the largest logit of those proposals and of ``floor`` (-50 and below: no floor); mean over the photos
    that have such a class. Padding is to be left uncovered, or, with ``ignore_padding``, does not count.
    ``photos``: (B,) bool on the CPU, those to look at; default all.
    """
    named = targets.real & ~targets.has_mask & (matched >= 0)
    if photos is not None:
        named = named & photos[:, None]
    if not named.any():
        return masks.sum() * 0.0
    size = (targets.masks.shape[-2], targets.masks.shape[-1])
    shown = sent(named.any(1).nonzero()[:, 0], masks.device)
    logits = enlarged(masks, matched, named, size)[2]  # photo after photo
    of_each = named.sum(1)[named.any(1)].tolist()  # how many such classes each photo has
    union = torch.stack([own.amax(0) for own in logits.split(of_each)])
    if floor > -50:
        union = union.clamp(min=floor)
    padding = targets.padding[shown]
    rest = (~targets.masks[shown].any(1) & ~padding).float()
    if ignore_padding:
        union = torch.where(padding, union.new_tensor(-100.0), union)
    loss = FOCAL * focal(union, rest) + DICE * dice(union, rest)
    return loss.sum() / (len(shown) + 1e-5)
