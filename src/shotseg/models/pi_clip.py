"""PI-CLIP: Rethinking Prior Information Generation with CLIP for few-shot segmentation (Wang et al., CVPR 2024).

The paper takes two maps from CLIP without training, where the class's name is (VTP, refined by PIR) and where things are
that look like the supports (VVP), and gives them to a few-shot model in place of its own prior mask. Released is the
model around HDMNet; those around PFENet and BAM are our reading, and no published code confirms them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from shotseg import encoders
from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.clip import VisionLanguage
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.bam import BAM
from shotseg.models.blocks.clip_priors import ClipPriors, Context
from shotseg.models.blocks.prior_guided import Hosted, resize
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet
from shotseg.models.qgnet import QGNet
from shotseg.priors.text import VTP, TextPrior, as_released

Host = type[PFENet] | type[BAM] | type[HDMNet] | type[QGNet]
HOSTS: dict[str, Host] = {"hdmnet": HDMNet, "bam": BAM, "pfenet": PFENet, "qgnet": QGNet}


class PICLIP(Hosted):
    """A few-shot model whose prior maps come from CLIP.

    encoder: of the host.      clip: a name of ``shotseg.list_encoders()`` or a VisionLanguage of the ViT kind.
    host:    "hdmnet", "bam", "pfenet", or "qgnet" (PFENet with a learnt prior map beside CLIP's, from its own encoder unless
             an ``extractor`` is given); further ``options`` are keywords of its class.
    shots:   K of the training (of the host's vote, and of the channels of the "released" layout).
    layout:  "compact": one VTP channel, then one VVP channel a layer, its shots averaged by the host's own rule, so that
             the weights serve any number of shots. "released": VTP twice, then VVP layer by layer, shot by shot.
    reference: every switch of the priors and of the host as in the release.

    Switches of the priors (``text_context``, ``known``, ``layers``, ...): see :class:`ClipPriors`.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        clip: str | VisionLanguage = "clip-vit-b16",
        host: Literal["hdmnet", "bam", "pfenet", "qgnet"] = "hdmnet",
        shots: int = 1,
        layout: Literal["compact", "released"] = "compact",
        layers: Sequence[int] | None = None,
        text_context: Context = "target",
        known: str | Sequence[str] = (),
        text_prior: TextPrior = VTP,
        vvp_norm: Literal["minmax", "none"] = "minmax",
        vvp_background: Literal["exclude", "zero"] = "exclude",
        vvp_input: Literal["clip", "encoder"] = "clip",
        vtp_input: Literal["shared", "photo"] = "shared",
        refine_vvp: bool = False,
        reference: bool = False,
        **options: Any,
    ):
        super().__init__()
        if host not in HOSTS:
            raise UsageError(f"unknown host {host!r}; choose one of {', '.join(HOSTS)}")
        if reference:
            layout, text_context, text_prior, refine_vvp = "released", "oracle", as_released(text_prior), False
            vvp_norm, vvp_background, vvp_input, vtp_input = "none", "zero", "encoder", "photo"
        known = (known,) if isinstance(known, str) else known
        layers = layers or ((-1, -2) if host == "hdmnet" else (-1,))  # PFENet and BAM have one prior channel to replace
        self.priors = ClipPriors(
            encoders.load(clip) if isinstance(clip, str) else clip,
            layers=layers,
            text_context=text_context,
            known=known,
            text_prior=text_prior,
            vvp_norm=vvp_norm,
            vvp_background=vvp_background,
            vvp_input=vvp_input,
            vtp_input=vtp_input,
            refine_vvp=refine_vvp,
            like=encoder,
        )
        self.layout, self.shots = layout, shots
        maps = 1 + len(layers) if layout == "compact" else 2 + len(layers) * shots
        if host in ("bam", "hdmnet"):
            options["shots"] = shots
        elif host == "qgnet":
            options.setdefault("extractor", "same")
        self.host = HOSTS[host](encoder, prior_maps=maps, reference=reference, **options)

    @property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.priors.asks

    def forward(
        self,
        query: Features,
        support: Support,
        images: Tensor,
        class_id: Tensor | None = None,
        class_name: Sequence[str] = (),
        present: Sequence[Sequence[str]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        **context: Any,
    ) -> Prediction:
        """query: features of B images from :meth:`encode`; images (B, 3, H, W) in [0, 1] at working size.

        ``text_context="oracle"`` also wants class_name (B names) and ``present``, the names of all classes in each query;
        ``vtp_input="photo"`` uses ``sizes``, the original (H, W) of each query (default: that of ``images``).
        Logits and extra as the host's, whose ``prior`` (B, P, h, w) are CLIP's maps.
        """
        host_features, clip_features = self.split(query)
        size = host_features.maps[self.host.grid].shape[-2:]
        text = self.priors.text_map(clip_features, support, images, class_name, present, sizes, size)  # (B, 1, h, w)
        visual = resize(self.priors.visual_maps(clip_features, support).flatten(1, 2), size)  # (B, L K, h, w)
        if self.layout == "released":
            if support.shots != self.shots:
                wanted = f"layout='released' is for {self.shots} shot(s), the support has {support.shots}"
                raise UsageError(f"{wanted}; use layout='compact' for any number")
            priors = torch.cat([text, text, visual], 1)
        else:
            weights = self.shot_weights(host_features, support)[:, None, :, None, None]  # (B, 1, K, 1, 1)
            priors = torch.cat([text, (visual.unflatten(1, (-1, support.shots)) * weights).sum(2)], 1)
        return self.host(host_features, support, images, priors=priors, class_id=class_id)

    def shot_weights(self, query: Features, support: Support) -> Tensor:
        """(B, K), summing to 1: the host's own rule, psi for BAM and the mean for the others."""
        if isinstance(self.host, BAM):
            return self.host.shot_weights(query, support)
        return query.maps[0].new_full((len(query.maps[0]), support.shots), 1 / support.shots)

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the host's features, then CLIP's (see :meth:`ClipPriors.see`): once per image."""
        return _join(self.host.encode(images), self.priors.see(images))

    def encode_masked(self, images: Tensor, masks: Tensor) -> Features:
        """The frozen part of B K supports (B, K, 3, H, W) with their masks (B, K, H, W)."""
        host_features = (
            self.host.encode_masked(images, masks)
            if isinstance(self.host, HDMNet)
            else self.host.encode(images.flatten(0, 1))
        )
        return _join(host_features, self.priors.see_masked(images, masks))

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
        masked: Features | None = None,
    ) -> Support:
        """The host's support, and ``visual0..`` (B, K, D, h, w) and ``inside`` of CLIP, and ``text`` (B, K, N, D).

        class_names: one for each of the B classes. features: of the whole images, from :meth:`encode`. masked: from
        :meth:`encode_masked`.
        """
        if masked is not None:
            host_features, clip_features = self.split(masked)
            encoded: dict[str, Any] = {"masked" if self.host.masks_input else "features": host_features}
        else:
            clip_features = self.priors.see_masked(images, masks)
            encoded = {"features": features and self.split(features)[0]}
        tensors = self.host.encode_support(images, masks, **encoded).tensors
        return Support({**tensors, **self.priors.support(clip_features, masks, class_names)})

    def predict(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        present: Sequence[Sequence[str]] | None = None,
    ) -> Prediction:
        """An episode from pixels to logits; query, support: kept from :meth:`encode` and :meth:`encode_masked`."""
        masks = self.masks_of(episode)
        encoded = self.encode_support(episode.support, masks, class_names=episode.class_name, masked=support)
        query = self.encode(episode.query) if query is None else query
        context = {"class_id": episode.class_id, "class_name": episode.class_name, "sizes": episode.sizes or None}
        return self(query, encoded, episode.query, present=present, **context)

    def loss(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        base_labels: Tensor | None = None,
        present: Sequence[Sequence[str]] | None = None,
    ) -> dict[str, Tensor]:
        """The host's terms; train on their sum."""
        if episode.query_mask is None:
            raise UsageError("training needs the mask of every query")
        return self.host.losses(self.predict(episode, query, support, present), episode.query_mask, base_labels)

    def split(self, features: Features) -> tuple[Features, Features]:
        """Features of :meth:`encode` -> the host's, and CLIP's."""
        host_maps = self.host.map_count
        host_classes = len(features.classes) - 2
        return (
            Features(features.maps[:host_maps], features.strides[:host_maps], features.classes[:host_classes]),
            Features(features.maps[host_maps:], features.strides[host_maps:], features.classes[host_classes:]),
        )

    @property
    def masks_input(self) -> bool:  # type: ignore[override]
        return True  # CLIP sees the masked supports, whatever the host does


def _join(host: Features, clip: Features) -> Features:
    return Features(host.maps + clip.maps, host.strides + clip.strides, host.classes + clip.classes)
