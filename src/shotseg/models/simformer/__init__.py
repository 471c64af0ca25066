"""SimFormer (Chen et al., NeurIPS 2022): weak-shot semantic segmentation, novel classes from image tags alone.

MaskFormer learns masks from the base classes. A novel class takes the proposal that most believes to be it, and with it
what base classes taught about masks (proposal-pixel similarity transfer); SimNet, which learned on base classes whether
two pixels belong together, says so of novel ones (pixel-pixel similarity transfer); and the proposals of the novel
classes together cover what no base mask covers (complementary loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotseg.data.samples import IGNORE
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks import set_criterion as criterion
from shotseg.models.blocks.set_criterion import FLOOR, Proposals, Targets
from shotseg.models.maskformer import Layers, MaskFormer
from shotseg.models.simformer.pixel_similarity import PixelSimilarity


class SimFormer(MaskFormer):
    """MaskFormer with the losses of SimFormer; after training it is a MaskFormer.

    novel:       ids of the classes without masks.
    complement:  weight of the complementary loss (COCO 0.15, ADE 0.2); 0 = off.      floor: its logit, <= -50 = none.
    ignore_padding: of the complementary loss; the release supervises padding as "not novel".
    similarity, distil: weights of SimNet's loss and of its distillation (COCO 0.1, ADE 0.5); both 0 = no pairs needed.
    image_level: weight of a multiple-instance loss on the class probabilities, which the release defines but never calls.
    points, target, distil_loss, detach, detach_teacher: see :class:`PixelSimilarity`.
    within, on_padding, teacher_trains, count_invalid: see there too.
    reordered:   the columns of matching in the release's order, see :func:`criterion.match`.
    reference:   these five as in the release, all True.
    other keywords: see :class:`MaskFormer`.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        novel: Sequence[int] = (),
        *,
        complement: float = 0.15,
        floor: float = FLOOR,
        ignore_padding: bool = False,
        similarity: float = 1.0,
        distil: float = 0.1,
        image_level: float = 0.0,
        points: int = 100,
        simnet_width: int = 256,
        target: str = "novel",
        distil_loss: str = "cce",
        detach: bool = True,
        detach_teacher: bool = True,
        within: bool = False,
        on_padding: bool = False,
        teacher_trains: bool = False,
        count_invalid: bool = False,
        reordered: bool = False,
        reference: bool = False,
        mask_width: int = 256,
        **options: Any,
    ):
        super().__init__(encoder, classes, mask_width=mask_width, **options)
        self.novel, self.reordered = tuple(novel), reordered or reference
        self.complement, self.floor, self.ignore_padding = complement, floor, ignore_padding
        self.weights = {"similarity": similarity, "distillation": distil}
        self.image_level = image_level
        self.pairs = None
        if self.paired:
            self.pairs = PixelSimilarity(
                mask_width,
                self.novel,
                width=simnet_width,
                points=points,
                target=target,
                loss=distil_loss,
                within=within or reference,
                on_padding=on_padding or reference,
                teacher_trains=teacher_trains or reference,
                count_invalid=count_invalid or reference,
                detach=detach,
                detach_teacher=detach_teacher,
            )

    @property
    def paired(self) -> bool:  # type: ignore[override]
        """Whether a batch must hold pairs of photos, 2i with 2i + 1."""
        return any(self.weights.values())

    def loss(
        self,
        images: Tensor,
        maps: Tensor,
        tags: Sequence[Sequence[int]] = (),
        padding: Tensor | None = None,
        features: Features | None = None,
    ) -> dict[str, Tensor]:
        """As of :class:`MaskFormer`; ``tags``: of each photo, the classes that it shows and that have no mask in it."""
        targets = Targets.of(maps, tags, padding)
        layers = self(images, features)
        losses = self.criterion(layers.proposals, targets)
        if self.paired:
            losses |= self.pair_losses(layers, maps, targets)
        return losses

    def criterion(self, layers: Sequence[Proposals], targets: Targets) -> dict[str, Tensor]:
        """The losses of every layer with its own matching.

        What no mask covers is novel only where every other class of the photo has its mask: the complementary loss leaves
        out photos with a base class, or a background, that is known by tag alone.
        """
        matched = criterion.match(layers, targets, self.reordered)
        losses = self.set_losses(layers, targets, matched)
        if self.complement:
            novel = torch.isin(targets.labels, torch.tensor(self.novel))
            annotated = ~(targets.real & ~targets.has_mask & ~novel).any(1)
            uncovered = [
                criterion.complementary(p.masks, targets, m, self.floor, self.ignore_padding, annotated)
                for p, m in zip(layers, matched)
            ]
            losses["complement"] = self.complement * torch.stack(uncovered).sum()
        if self.image_level:
            named = [criterion.image_level(p.classes, targets).mean() for p in layers]
            losses["image_level"] = self.image_level * torch.stack(named).sum()
        return losses

    def pair_losses(self, layers: Layers, maps: Tensor, targets: Targets) -> dict[str, Tensor]:
        """SimNet's loss and its distillation, of the last layer."""
        assert self.pairs is not None
        named = [{c for c in row if c in self.novel} for row in targets.labels.tolist()]
        shared = [bool(a & b) for a, b in zip(named[::2], named[1::2])]
        last = layers.proposals[-1]
        found = self.pairs(layers.pixels, last.classes, last.masks, maps, targets.padding, shared)
        return {name: self.weights[name] * loss for name, loss in zip(self.weights, found)}


def pseudo_label(predicted: np.ndarray, known: np.ndarray, tags: Sequence[int]) -> np.ndarray:
    """Label map (H, W) uint8 to train again on: what is known, and the tagged classes where they win.

    predicted: (H, W) class ids.    known: (H, W) base classes, 255 = unknown.     tags: classes without a mask.
    Unknown pixels that another class wins stay 255; a tagged class that wins nowhere is gone.
    """
    labels = np.where(np.isin(predicted, list(tags)), predicted, IGNORE)
    return np.where(known != IGNORE, known, labels).astype(np.uint8)
