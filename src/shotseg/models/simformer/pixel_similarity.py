"""SimFormer's pixel-pixel similarity transfer (Chen et al., NeurIPS 2022): SimNet, its pairs, its balance, its distillation.

Photos come in pairs, 2i with 2i + 1. SimNet learns from base classes whether two pixels of two photos show the same
class; where the two share a novel class, its answer is distilled into the scores of the novel classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE
from shotseg.device import sent
from shotseg.models.blocks.norm import BatchNorm
from shotseg.models.blocks.set_criterion import classes_of, cross_entropy_of

POSITIVE = 0.8  # share of the points that lie in the common base class
HISTORY, STRIDE = 25, 5  # of the class balance: steps looked back, and every fifth pair a side


class SimNet(nn.Module):
    """Probability that two pixels show the same class: (B, 2C, h, w), the features of both joined -> (B, 1, h, w).

    Residual blocks of 1x1 convolutions. Not symmetric in the two; both orders occur in a pair of photos.
    """

    def __init__(self, channels: int = 512, width: int = 256, blocks: int = 3, norm: bool = True):
        super().__init__()
        widths = [channels] + [width] * blocks
        self.blocks = nn.Sequential(*(_Block(a, b, norm) for a, b in pairwise(widths)))
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        return self._answer(self.blocks(pairs))

    def between(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of every pair of points with features (B, K, C) and (B, L, C): (B, K, L). The same, at half the work: what the first
        block makes of a pair is a sum of what it makes of its points."""
        return self._answer(self.blocks[1:](self.blocks[0].between(ours, theirs)))[:, 0]  # type: ignore[operator]

    def _answer(self, x: Tensor) -> Tensor:
        return self.out(x).softmax(1)[:, 1:]


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, norm: bool):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 1)
        self.bn1 = BatchNorm(width) if norm else nn.Identity()
        self.bn2 = BatchNorm(width) if norm else nn.Identity()
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        rest = x if self.shortcut is None else self.shortcut(x).relu_()
        return self._residual(self.conv1(x)) + rest

    def between(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.shortcut is None:
            return self(joined_pairs(ours, theirs).permute(0, 3, 1, 2))
        return self._residual(_of_pairs(self.conv1, ours, theirs)) + _of_pairs(self.shortcut, ours, theirs).relu_()

    def _residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(x).relu_())).relu_()


def _of_pairs(layer: nn.Conv2d, ours: Tensor, theirs: Tensor) -> Tensor:
    """A 1x1 convolution of joined pairs (B, K, L, 2C): (B, width, K, L), channels last in memory, as convolutions like it."""
    first, second = layer.weight[..., 0, 0].chunk(2, 1)
    pairs = F.linear(ours, first, layer.bias)[:, :, None] + F.linear(theirs, second)[:, None]
    return pairs.permute(0, 3, 1, 2)


def partners(x: Tensor) -> Tensor:
    """The batch with the two photos of each pair in the other's place."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def draw_points(region: Tensor, count: int, noise: Tensor | None = None) -> Tensor:
    """``count`` random places in a region (B, h, w) of 0 and 1: (B, count, 2), x and y in [-1, 1] (corners aligned).

    Places outside follow where the region is too small. ``noise``: (B, h, w) in [0, 1] in place of random numbers.
    """
    score = region.float() + 0.1 * (torch.rand_like(region, dtype=torch.float32) if noise is None else noise)
    height, width = region.shape[-2:]
    place = score.flatten(1).topk(min(count, height * width), 1).indices
    x, y = place % width, place.div(width, rounding_mode="floor")
    return torch.stack([x / max(width - 1, 1), y / max(height - 1, 1)], -1) * 2 - 1


def at_points(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of maps (B, C, h, w) at :func:`draw_points`: (B, K, C)."""
    return F.grid_sample(maps, points[:, :, None], mode=mode, align_corners=True)[..., 0].transpose(1, 2)


def joined_pairs(ours: Tensor, theirs: Tensor) -> Tensor:
    """Features (B, K, C) and (B, L, C) of every pair of points, side by side: (B, K, L, 2C)."""
    return torch.cat(
        [ours[:, :, None].expand(-1, -1, theirs.shape[1], -1), theirs[:, None].expand(-1, ours.shape[1], -1, -1)], -1
    )


class Balance(nn.Module):
    """Class weights of the pairs from the counts of the last 25 steps, on every fifth point a side; one pair of each at first."""

    counts: Tensor  # (2, 25) of different and of same pairs, the last step at the end

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", F.pad(torch.ones(2, 1), (HISTORY - 1, 0)))

    @torch.no_grad()
    def update(self, same: Tensor, valid: Tensor | None = None) -> Tensor:
        """Take in pairs (B, K, L) of 0 and 1; the weights of different and of same pairs, (2,), which sum to 1."""
        same = same[:, ::STRIDE, ::STRIDE].bool()
        counted = torch.ones_like(same) if valid is None else valid[:, ::STRIDE, ::STRIDE].bool()
        step = torch.stack([(~same & counted).sum(), (same & counted).sum()])
        self.counts.copy_(torch.cat([self.counts[:, 1:], step[:, None]], 1))
        different_sum, same_sum = self.counts.sum(1)
        return torch.stack([same_sum, different_sum]) / (same_sum + different_sum).clamp(min=1)


def class_scores(classes: Tensor, masks: Tensor, novel: Sequence[int], kind: str = "novel") -> Tensor:
    """Scores of classes at points, from proposals (B, Q, C + 1) and their mask logits there (B, K, Q): (B, K, N).

    kind: "novel" = probability x mask of the novel classes; "full" = of all; "logit" = logits in place of
          probabilities, of all; "relu-logit" = the positive part of the logits.
    """
    logits = classes[..., :-1]
    of = {
        "novel": lambda: classes.softmax(-1)[..., sent(torch.tensor(novel), classes.device)],
        "full": lambda: classes.softmax(-1)[..., :-1],
        "logit": lambda: logits,
        "relu-logit": lambda: logits.relu(),
    }[kind]()
    return masks.sigmoid() @ of


def distillation(student: Tensor, teacher: Tensor, kind: str = "cce") -> Tensor:
    """How far the student's similarities in [0, 1] are from the teacher's, both (B, K, L): (B,).

    kind: "cce" = bounded, only the teacher's lean from one half counts; "ce" = binary cross-entropy; "b0.5" = linear.
    """
    if kind == "cce":
        loss = -(teacher - 0.5).relu() * (1 + student).log() - (0.5 - teacher).relu() * (2 - student).log()
    elif kind == "ce":
        loss = cross_entropy_of(student.clamp(0.01, 0.99), teacher.clamp(0.01, 0.99))
    else:
        loss = -(teacher - float(kind[1:])) * student
    return loss.flatten(1).mean(1)


class PixelSimilarity(nn.Module):
    """Both losses of the pixel-pixel transfer on a batch of pairs.

    novel:  ids of the novel classes.       points: points a photo (J).
    target: what the student's similarity is made of, see :func:`class_scores`.      loss: see :func:`distillation`.
    within: the student compares points of one photo (the release), not of the two that the teacher saw.
    on_padding:      points to distil at may lie on padding (the release).
    teacher_trains:  SimNet answers as the teacher with batch statistics, which then move twice a step (the release).
    count_invalid:   the class balance counts pairs without a base point too (the release).
    detach, detach_teacher: no gradient from SimNet's loss, and from its answer as the teacher, into the features.
    """

    def __init__(
        self,
        channels: int,
        novel: Sequence[int],
        *,
        width: int = 256,
        points: int = 100,
        target: str = "novel",
        loss: str = "cce",
        within: bool = False,
        on_padding: bool = False,
        teacher_trains: bool = False,
        count_invalid: bool = False,
        detach: bool = True,
        detach_teacher: bool = True,
    ):
        super().__init__()
        self.simnet = SimNet(2 * channels, width)
        self.balance = Balance()
        self.novel, self.points, self.target, self.kind = tuple(novel), points, target, loss
        self.within, self.on_padding, self.teacher_trains = within, on_padding, teacher_trains
        self.count_invalid, self.detach, self.detach_teacher = count_invalid, detach, detach_teacher

    def forward(
        self,
        pixels: Tensor,
        classes: Tensor,
        masks: Tensor,
        labels: Tensor,
        padding: Tensor,
        shared: Sequence[bool],
        common: Sequence[int | None] | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss of SimNet, distillation loss, and what they were made of.

        pixels: (B, C, h, w) pixel embeddings, B even.       classes, masks: proposals of the last layer.
        labels: (B, H, W) int64, 255 and novel ids = not a base class.       padding: (B, H, W) bool.
        shared: of each pair, whether the two photos share a novel class.
        common: of each pair the base class to draw in (None = any), in place of a random one that both show.
        noise:  three (B, h, w) in place of random numbers: in the class, outside of it, for distillation.
        """
        size = pixels.shape[-2:]
        labels = F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0]
        padding = F.interpolate(padding[:, None].float(), size, mode="nearest")[:, 0] > 0
        novel = sent(torch.tensor(self.novel), labels.device)
        base = (labels != IGNORE) & ~torch.isin(labels, novel)
        drawn = [None] * 3 if noise is None else list(noise)

        if common is None:
            common = common_classes(labels, base)
        per_photo = [c for c in common for _ in range(2)]
        inside = torch.stack([b if c is None else x == c for c, x, b in zip(per_photo, labels, base)])
        positive = round(POSITIVE * self.points)
        where_in = draw_points(inside, positive, drawn[0])
        where_out = draw_points(~padding & ~inside, self.points - positive, drawn[1])
        where = torch.cat([where_in, where_out], 1)
        found = at_points(labels[:, None], where, "nearest")[..., 0]
        is_base = at_points(base[:, None].float(), where, "nearest")[..., 0] > 0
        same = found[:, :, None] == partners(found)[:, None]
        valid = is_base[:, :, None] | partners(is_base)[:, None]
        features = at_points(pixels.detach() if self.detach else pixels, where)
        said = self.simnet.between(features, partners(features))
        weights = self.balance.update(same, None if self.count_invalid else valid)
        error = weights[same.long()] * cross_entropy_of(said, same.float()) * valid
        per_pair = error.unflatten(0, (-1, 2)).flatten(1).sum(1) / valid.unflatten(0, (-1, 2)).flatten(1).sum(1).clamp(
            min=1e-5
        )
        about = {"similarity": said, "inside": where_in, "outside": where_out}
        about["balance"] = weights
        if not any(shared):
            return per_pair.mean(), (classes.sum() + masks.sum()) * 0.0, about

        unknown = ~base if self.on_padding else ~base & ~padding
        where = draw_points(unknown, self.points, drawn[2])
        # A teacher in training mode takes its statistics from the whole batch.
        taught = torch.tensor(shared).repeat_interleave(2) | self.teacher_trains
        place = sent(taught.nonzero()[:, 0], where.device)
        pixels, classes, masks, where = (x[place] for x in (pixels, classes, masks, where))
        with torch.set_grad_enabled(not self.detach_teacher):
            features = at_points(pixels.detach() if self.detach_teacher else pixels, where)
            mode = self.simnet.training
            self.simnet.train(mode and self.teacher_trains)
            teacher = self.simnet.between(features, partners(features))
            self.simnet.train(mode)
        score = class_scores(classes, at_points(masks, where, "nearest"), self.novel, self.target)
        score = F.normalize(score, dim=2)
        student = score @ (score if self.within else partners(score)).transpose(1, 2)
        about |= {"teacher": teacher, "student": student, "distilled": where}
        lost = distillation(student.relu(), teacher, self.kind).unflatten(0, (-1, 2)).mean(1)
        counted = sent(torch.tensor(shared)[taught[::2]], lost.device)
        return per_pair.mean(), (lost * counted).sum() / len(shared), about


def common_classes(labels: Tensor, base: Tensor) -> list[int | None]:
    """Of each pair of (B, h, w) label maps a random base class that both show, if there is one. base: (B, h, w) bool."""
    shown = classes_of(labels.long().masked_fill(~base, IGNORE))
    both = [sorted({*first} & {*second}) for first, second in zip(shown[::2], shown[1::2])]
    return [own[int(torch.randint(len(own), (), device="cpu"))] if own else None for own in both]
