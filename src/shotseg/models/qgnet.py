"""QGNet: few-shot segmentation with global and local contrastive learning (Liu et al., arXiv 2108.05293).

A network that was trained without labels sees the query too. Where the query's own features are like some of what that
network sees anywhere in the same photo is a map of what is worth a label, whatever its class; it joins the map of what is
like the support. The rest is PFENet, which this class is with ``prior_source="none"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg import encoders
from shotseg.data.samples import Prediction, Support
from shotseg.encoders.cnn import EveryBlockResNet
from shotseg.encoders.features import Encoder, Features, full_precision
from shotseg.errors import UsageError
from shotseg.models.bam import BAM
from shotseg.models.blocks.prior_guided import Hosted, batch_statistics, project, resize
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet
from shotseg.priors.visual import correspondence, max_cosine, min_max

HOSTS: dict[str, type[PFENet] | type[BAM] | type[HDMNet]] = {"pfenet": PFENet, "bam": BAM, "hdmnet": HDMNet}
PriorSource = Literal["dense", "region", "bank", "control", "none"]
MATCHED: tuple[PriorSource, ...] = ("dense", "region", "control")  # those that learn two convolutions


class QGNet(Hosted):
    """A few-shot model that is given a prior region map beside the guided one of its own.

    encoder:      supervised, frozen; of the host.
    host:         "pfenet" (the paper's), "bam" or "hdmnet"; further ``options`` are keywords of its class.
    prior_source: see :class:`PriorRegion`; "none" leaves the host as it is.
    extractor:    the network of the priors. "contrastive": another of the encoder's kind, with random weights until those of
                  a contrastive training are loaded (:func:`shotseg.training.qgnet_training.load_extractor`), as a recipe
                  and a checkpoint do. A name of ``shotseg.list_encoders()``, or an Encoder. Or "same": the host's own
                  supervised encoder, which costs no second pass and is not the method.
    extractor_weights: "default", "random" or a file.
    dilate:       see :class:`PriorExtractor`.
    segments:     superpixels of a photo, for ``prior_source="region"``.      centres: size of the bank, for "bank".
    guided:       the map of what is like the support; False leaves it out.
    prior_maps:   number of maps that ``forward`` will be given from elsewhere in place of the guided one.
    flat, encoder_bn, reference: see :class:`PFENet`; they hold for both networks and both maps.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        host: Literal["pfenet", "bam", "hdmnet"] = "pfenet",
        prior_source: PriorSource = "dense",
        extractor: str | Encoder = "contrastive",
        extractor_weights: str = "default",
        dilate: bool = True,
        segments: int = 50,
        centres: int = 128,
        guided: bool = True,
        prior_maps: int | None = None,
        width: int = 256,
        flat: float = 1e-6,
        reference: bool = False,
        **options: Any,
    ):
        super().__init__()
        if host not in HOSTS:
            raise UsageError(f"unknown host {host!r}; choose one of {', '.join(HOSTS)}")
        if reference:
            prior_source, flat = "dense", 0.0
        host_priors = 1 + bool(host == "hdmnet" and options.get("base_classes"))
        maps = (host_priors if prior_maps is None else prior_maps) * guided + (prior_source != "none")
        if not maps:
            raise UsageError("guided=False with prior_source='none': no prior map is left; choose one of them")
        if host != "hdmnet":  # whose own maps are not stretched
            options["flat"] = flat
        self.host: Any = HOSTS[host](encoder, width=width, prior_maps=maps, reference=reference, **options)
        self.prior_source, self.guided, self.segments = prior_source, guided, segments
        self.extractor: PriorExtractor | None = None
        self.untaught = False  # the extractor has no weights yet that mean something
        if prior_source not in ("none", "control") and extractor != "same":
            if extractor == "contrastive":
                extractor, extractor_weights, self.untaught = encoder.name, "random", True
            loaded = encoders.load(extractor, extractor_weights) if isinstance(extractor, str) else extractor
            self.extractor = PriorExtractor(loaded, dilate)
        self.region: PriorRegion | None = None
        if prior_source != "none":
            channels = self.host.high_channels
            prior = channels if self.extractor is None else self.extractor.channels
            self.region = PriorRegion(channels, prior, width, prior_source, centres, flat)

    def forward(
        self, query: Features, support: Support, images: Tensor, priors: Tensor | None = None, **context: Any
    ) -> Prediction:
        """query: of B images, from :meth:`encode`; images (B, 3, H, W) for their size; priors (B, P, h', w') in place of
        the guided map.

        Logits and extra as the host's, whose ``prior`` (B, P, h, w) are the guided map and then the prior region map.
        """
        host_features, learnt = self.split(query)
        taps = self.host.taps(host_features)
        maps = []
        if priors is not None or self.guided:
            maps.append(self.host.own_priors(taps, support) if priors is None else priors)
        if self.region is not None:
            prior = taps.high if self.extractor is None else learnt[0]
            maps.append(self.region(taps.high, prior, learnt[-1] if self.prior_source == "region" else None))
        size = host_features.maps[self.host.grid].shape[-2:]
        return self.host(
            host_features, support, images, priors=torch.cat([resize(m, size) for m in maps], 1), **context
        )

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the host's features, the prior features, and for "region" its superpixels."""
        host_features = self.host.encode(images)
        maps, strides = host_features.maps, host_features.strides
        if self.extractor is not None:
            maps, strides = (*maps, self.extractor(images)), (*strides, self.extractor.stride)
        if self.prior_source == "region":
            maps, strides = (*maps, self._superpixels(images, maps[-1].shape[-2:])), (*strides, strides[-1])
        return Features(maps, strides, host_features.classes)

    def prior_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the last map (B, C, h, w) of the network that gives the priors."""
        return self.host.encode(images).maps[-1] if self.extractor is None else self.extractor(images)

    def split(self, features: Features) -> tuple[Features, tuple[Tensor, ...]]:
        """Features of :meth:`encode` -> the host's, and the maps behind them."""
        count = self.host.map_count
        host_features = Features(features.maps[:count], features.strides[:count], features.classes)
        return host_features, features.maps[count:]

    def encode_masked(self, images: Tensor, masks: Tensor) -> Features:
        """See :meth:`HDMNet.encode_masked`; only where the host ``masks_input``."""
        return self.host.encode_masked(images, masks)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
        masked: Features | None = None,
    ) -> Support:
        """The host's; the priors know nothing of the support. features: from :meth:`encode`."""
        encoded = {"features": features and self.split(features)[0]}
        if self.masks_input:
            encoded = {"masked": masked}
        return self.host.encode_support(images, masks, class_names=class_names, **encoded)

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """The host's; nothing supervises the maps themselves."""
        return self.host.losses(prediction, target, base_labels)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.extractor is not None:
            self.extractor.eval()
            if mode and self.encoder_bn == "train":
                batch_statistics(self.extractor)
        return self

    def _superpixels(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """(B, 1, h, w) of whole numbers, at the size of the prior features."""
        from shotseg.priors.superpixels import slic

        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        labels = torch.stack([torch.from_numpy(slic(photo, self.segments)) for photo in pixels])
        return F.interpolate(labels[:, None].to(images), tuple(size), mode="nearest-exact")

    @property
    def map_count(self) -> int:
        return self.host.map_count + (self.extractor is not None) + (self.prior_source == "region")

    @property
    def grid(self) -> int:
        return self.host.grid


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
