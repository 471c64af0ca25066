"""QGNet's prior region map: where a photo is like the prior features that another frozen network has of the same photo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.encoders.cnn import EveryBlockResNet
from shotseg.encoders.features import Encoder, full_precision
from shotseg.models.blocks.prior_guided import project
from shotseg.priors.visual import correspondence, max_cosine, min_max

PriorSource = Literal["dense", "region", "bank", "control", "none"]
MATCHED: tuple[PriorSource, ...] = ("dense", "region", "control")  # those that learn two convolutions


class PriorExtractor(nn.Module):
    """A frozen network of which the last map is read: (B, 3, H, W) in [0, 1] -> (B, C, h, w).

    dilate: the last two stages of a ResNet keep the grid of the second (stride 8), by dilation 2 and 4 of every 3x3
            convolution in them, as in PFENet's encoder.
    """

    def __init__(self, encoder: Encoder, dilate: bool = True):
        super().__init__()
        self.body = encoder.requires_grad_(False)  # not "encoder": a checkpoint keeps these weights
        net: nn.Module = getattr(encoder, "net", encoder)
        if hasattr(net, "fc"):
            net.fc = nn.Identity()
        self.channels, self.stride = encoder.channels[-1], encoder.strides[-1]
        if dilate and self.stride == 32 and hasattr(net, "layer4"):
            self.stride = 8
            for name, rate in (("layer3", 2), ("layer4", 4)):
                _dilate(net.get_submodule(name), rate)
        self.rectified = not isinstance(encoder, EveryBlockResNet)  # whose maps are sums before their ReLU

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        last = self.body(images).maps[-1]
        return last if self.rectified else last.relu()


def _dilate(stage: nn.Module, rate: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate, rate)
        elif isinstance(module, nn.AvgPool2d):  # in the shortcuts of some variants
            module.kernel_size = module.stride = 1


class PriorRegion(nn.Module):
    """One map in [0, 1], class-agnostic, learnt with the masks of the training classes.

    query, prior: channels of the query's last map and of the prior features.
    source:  the set P of priors, of which the most alike counts for each position of the query.
             "dense":   every position of the prior features of the same photo (the release);
             "region":  their means over the photo's superpixels;
             "bank":    ``centres`` prototypes of a whole collection (:mod:`shotseg.priors.bank`), compared with the prior
                        features themselves; one weight a prototype is learnt;
             "control": no priors: as many weights as "dense", on the query's map alone, cosine position by position.
    flat:    a map whose range is below it becomes 0.
    """

    def __init__(
        self, query: int, prior: int, width: int = 256, source: str = "dense", centres: int = 128, flat: float = 1e-6
    ):
        super().__init__()
        self.source, self.flat = source, flat
        if source in MATCHED:
            self.query = project(query, width, kernel=3)
            self.prior = project(query if source == "control" else prior, width, kernel=3)
        else:
            self.register_buffer("bank", F.normalize(torch.randn(centres, prior), dim=1))
            self.weight = nn.Parameter(torch.zeros(centres))
        self.bank: Tensor

    def fill(self, bank: Tensor, objectness: Tensor) -> None:
        """The prototypes (N, C), unit vectors, and how unlike the photos' border each is, (N,) in [0, 1]."""
        self.bank.copy_(bank)
        with torch.no_grad():
            self.weight.copy_(torch.logit(0.05 + 0.9 * objectness))

    def forward(self, query: Tensor, prior: Tensor, labels: Tensor | None = None) -> Tensor:
        """query (B, C, h, w), prior (B, C', h', w'), labels (B, 1, h', w') of superpixels for "region" -> (B, 1, h, w).

        In float32 throughout: the ranges of flat maps are near its noise. The gradient reaches the two convolutions.
        """
        with full_precision():
            query, prior = query.float(), prior.float()
            if self.source == "bank":
                cosine = torch.einsum("bchw,nc->bnhw", F.normalize(prior, dim=1), self.bank).relu()
                return min_max((self.weight.sigmoid()[:, None, None] * cosine).amax(1, keepdim=True), flat=self.flat)
            a = self.query(query)
            if self.source == "control":
                return min_max(F.cosine_similarity(a, self.prior(query), dim=1)[:, None], flat=self.flat)
            b = self.prior(prior)
            if self.source == "dense":
                return correspondence(a, b, flat=self.flat)
            assert labels is not None
            means, present = region_means(b, labels)
            return min_max(max_cosine(a, means, present), flat=self.flat)


def region_means(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """maps (B, C, h, w), labels (B, 1, h, w) whole numbers from 0 -> means (B, C, R, 1), (B, R, 1) which of them occur."""
    inside = F.one_hot(labels.flatten(1).long()).to(maps.dtype)  # (B, h w, R)
    count = inside.sum(1)
    return (maps.flatten(2) @ inside / count.clamp(min=1)[:, None])[..., None], (count > 0)[..., None]
