"""QGNet: few-shot segmentation with global and local contrastive learning (Liu et al., arXiv 2108.05293).

A network that was trained without labels sees the query too. Where the query's own features are like some of what that
network sees anywhere in the same photo is a map of what is worth a label, whatever its class; it joins the map of what is
like the support. The rest is PFENet, which this class is with ``prior_source="none"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg import encoders
from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.bam import BAM
from shotseg.models.blocks.prior_guided import Hosted, batch_statistics, resize
from shotseg.models.blocks.prior_region import PriorExtractor, PriorRegion, PriorSource
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet

HOSTS: dict[str, type[PFENet] | type[BAM] | type[HDMNet]] = {"pfenet": PFENet, "bam": BAM, "hdmnet": HDMNet}


class QGNet(Hosted):
    """A few-shot model that is given a prior region map beside the guided one of its own.

    encoder:      supervised, frozen; of the host.
    host:         "pfenet" (the paper's), "bam" or "hdmnet"; further ``options`` are keywords of its class.
    prior_source: see :class:`PriorRegion`; "none" leaves the host as it is.
    extractor:    the network of the priors: a name of ``shotseg.list_encoders()``, an Encoder, or "same": the host's own
                  encoder, which costs no second pass.
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
        extractor: str | Encoder = "same",
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
        own = 1 + bool(host == "hdmnet" and options.get("base_classes"))
        maps = (own if prior_maps is None else prior_maps) * guided + (prior_source != "none")
        if not maps:
            raise UsageError("guided=False with prior_source='none': no prior map is left; choose one of them")
        if host != "hdmnet":  # whose own maps are not stretched
            options["flat"] = flat
        self.host: Any = HOSTS[host](encoder, width=width, prior_maps=maps, reference=reference, **options)
        self.prior_source, self.guided, self.segments = prior_source, guided, segments
        self.extractor: PriorExtractor | None = None
        if prior_source not in ("none", "control") and extractor != "same":
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
        own, learnt = self.split(query)
        taps = self.host.taps(own)
        maps = []
        if priors is not None or self.guided:
            maps.append(self.host.own_priors(taps, support) if priors is None else priors)
        if self.region is not None:
            prior = taps.high if self.extractor is None else learnt[0]
            maps.append(self.region(taps.high, prior, learnt[-1] if self.prior_source == "region" else None))
        size = own.maps[self.host.grid].shape[-2:]
        return self.host(own, support, images, priors=torch.cat([resize(m, size) for m in maps], 1), **context)

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the host's features, the prior features, and for "region" its superpixels."""
        own = self.host.encode(images)
        maps, strides = own.maps, own.strides
        if self.extractor is not None:
            maps, strides = (*maps, self.extractor(images)), (*strides, self.extractor.stride)
        if self.prior_source == "region":
            maps, strides = (*maps, self._superpixels(images, maps[-1].shape[-2:])), (*strides, strides[-1])
        return Features(maps, strides, own.classes)

    def prior_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the last map (B, C, h, w) of the network that gives the priors."""
        return self.host.encode(images).maps[-1] if self.extractor is None else self.extractor(images)

    def split(self, features: Features) -> tuple[Features, tuple[Tensor, ...]]:
        """Features of :meth:`encode` -> the host's, and the maps behind them."""
        count = self.host.map_count
        own = Features(features.maps[:count], features.strides[:count], features.classes)
        return own, features.maps[count:]

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
        kept = {"features": features and self.split(features)[0]}
        if self.masks_input:
            kept = {"masked": masked}
        return self.host.encode_support(images, masks, class_names=class_names, **kept)

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """The host's; nothing supervises the maps themselves."""
        return self.host.losses(prediction, target, base_labels)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.extractor is not None:
            self.extractor.eval()
            if mode and getattr(self.host, "encoder_bn", "eval") == "train":
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
