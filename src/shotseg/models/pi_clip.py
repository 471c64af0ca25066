"""PI-CLIP: Rethinking Prior Information Generation with CLIP for few-shot segmentation (Wang et al., CVPR 2024).

The paper takes two maps from CLIP without training, where the class's name is (VTP, refined by PIR) and where things are
that look like the supports (VVP), and gives them to a few-shot model in place of its own prior mask. Released is the
model around HDMNet; those around PFENet and BAM are our reading, and no published code confirms them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shotseg import encoders
from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.clip import Seen, VisionLanguage
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.bam import BAM
from shotseg.models.blocks.prior_guided import PriorGuided, resize
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet
from shotseg.priors.clip_input import whole_patches
from shotseg.priors.grad_cam import grad_cam, scaled
from shotseg.priors.text import VTP, TextPrior, as_released
from shotseg.priors.visual import foreground, min_max, vvp

HOSTS: dict[str, type[PFENet] | type[BAM] | type[HDMNet]] = {"hdmnet": HDMNet, "bam": BAM, "pfenet": PFENet}
Context = Literal["target", "known", "oracle"]


class PICLIP(nn.Module):
    """A few-shot model whose prior maps come from CLIP.

    encoder: of the host.      clip: a name of ``shotseg.list_encoders()`` or a VisionLanguage of the ViT kind.
    host:    "hdmnet", "bam" or "pfenet"; further ``options`` are keywords of its class.
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
        host: Literal["hdmnet", "bam", "pfenet"] = "hdmnet",
        shots: int = 1,
        layout: Literal["compact", "released"] = "compact",
        layers: Sequence[int] | None = None,
        text_context: Context = "target",
        known: Sequence[str] = (),
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
        if host != "pfenet":
            options["shots"] = shots
        self.host = HOSTS[host](encoder, prior_maps=maps, reference=reference, **options)

    def forward(
        self,
        query: Features,
        support: Support,
        images: Tensor,
        class_id: Tensor | None = None,
        class_name: Sequence[str] = (),
        present: Sequence[Sequence[str]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Prediction:
        """query: features of B images from :meth:`encode`; images (B, 3, H, W) in [0, 1] at working size.

        ``text_context="oracle"`` also wants class_name (B names) and ``present``, the names of all classes in each query;
        ``vtp_input="photo"`` uses ``sizes``, the original (H, W) of each query (default: that of ``images``).
        Logits and extra as the host's, whose ``prior`` (B, P, h, w) are CLIP's maps.
        """
        own, seen = self.split(query)
        size = own.maps[self.host.grid].shape[-2:]
        text = self.priors.text_map(seen, support, images, class_name, present, sizes, size)  # (B, 1, h, w)
        visual = resize(self.priors.visual_maps(seen, support).flatten(1, 2), size)  # (B, L K, h, w)
        if self.layout == "released":
            if support.shots != self.shots:
                wanted = f"layout='released' is for {self.shots} shot(s), the support has {support.shots}"
                raise UsageError(f"{wanted}; use layout='compact' for any number")
            priors = torch.cat([text, text, visual], 1)
        else:
            weights = self.shot_weights(own, support)[:, None, :, None, None]  # (B, 1, K, 1, 1)
            priors = torch.cat([text, (visual.unflatten(1, (-1, support.shots)) * weights).sum(2)], 1)
        return self.host(own, support, images, priors=priors, class_id=class_id)

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
        own = (
            self.host.encode_masked(images, masks)
            if isinstance(self.host, HDMNet)
            else self.host.encode(images.flatten(0, 1))
        )
        return _join(own, self.priors.see_masked(images, masks))

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
            own, seen = self.split(masked)
            kept: dict[str, Any] = {"masked" if self.host.masks_input else "features": own}
        else:
            seen = self.priors.see_masked(images, masks)
            kept = {"features": features and self.split(features)[0]}
        tensors = self.host.encode_support(images, masks, **kept).tensors
        return Support({**tensors, **self.priors.support(seen, masks, class_names)})

    def predict(
        self,
        episode: Episode,
        query: Features | None = None,
        support: Features | None = None,
        present: Sequence[Sequence[str]] | None = None,
    ) -> Prediction:
        """An episode from pixels to logits; query, support: kept from :meth:`encode` and :meth:`encode_masked`."""
        masks = PriorGuided.masks_of(episode)
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
        own = len(self.host.encoder.channels)
        at = len(features.classes) - 1
        return (
            Features(features.maps[:own], features.strides[:own], features.classes[:at]),
            Features(features.maps[own:], features.strides[own:], features.classes[at:]),
        )

    @property
    def encoder(self) -> Encoder:
        return self.host.encoder

    @property
    def size(self) -> int:
        return self.host.size

    @property
    def geometry(self) -> str:
        return self.host.geometry

    @property
    def masks_input(self) -> bool:
        return True  # CLIP sees the masked supports, whatever the host does


def _join(own: Features, seen: Features) -> Features:
    return Features(own.maps + seen.maps, own.strides + seen.strides, own.classes + seen.classes)


class ClipPriors(nn.Module):
    """VTP and VVP from one pass of CLIP an image.

    layers:       blocks whose tokens VVP compares, one channel each, in this order.
    text_context: the classes whose prompts compete with the target's. "target": none. "known": the names in ``known``. "oracle":
                  the classes that are truly in the query, given by the caller, as in the release, which so reads the
                  query's labels at test time.
    text_prior:   prompts and refinement of VTP, and what the release does otherwise there.
    vvp_norm, vvp_background: see :func:`shotseg.priors.visual.vvp`.
    vvp_input:    "clip": CLIP's mean and std, sides rounded up to whole patches. "encoder": the input of the host's encoder
                  ``like`` as it is, so that what is left of the last patch is dropped and the map stretched.
    vtp_input:    "shared": VTP from the same pass as VVP. "photo": another pass for each query, brought to its original size.
    refine_vvp:   spread VVP along CLIP's attention as VTP is, which the paper's figure shows and the release leaves out.
    """

    def __init__(
        self,
        clip: Encoder,
        *,
        layers: Sequence[int] = (-1, -2),
        text_context: Context = "target",
        known: Sequence[str] = (),
        text_prior: TextPrior = VTP,
        vvp_norm: Literal["minmax", "none"] = "minmax",
        vvp_background: Literal["exclude", "zero"] = "exclude",
        vvp_input: Literal["clip", "encoder"] = "clip",
        vtp_input: Literal["shared", "photo"] = "shared",
        refine_vvp: bool = False,
        like: Encoder | None = None,
    ):
        super().__init__()
        if not isinstance(clip, VisionLanguage) or len(set(clip.strides)) != 1:
            raise UsageError(f"{getattr(clip, 'name', clip)!r} is no CLIP-like ViT; choose clip-vit-b16 or another")
        if text_context == "known" and not known:
            raise UsageError("text_context='known' needs the names of the classes that may compete: known=[...]")
        self.clip = clip.requires_grad_(False)
        self.layers, self.text_context, self.known, self.text_prior = (
            tuple(layers),
            text_context,
            tuple(known),
            text_prior,
        )
        self.vvp_norm, self.vvp_background, self.refine_vvp = vvp_norm, vvp_background, refine_vvp
        self.vvp_input, self.vtp_input = vvp_input, vtp_input
        norm = like if vvp_input == "encoder" and like is not None else clip
        self.register_buffer("mean", norm.mean.clone(), persistent=False)
        self.register_buffer("std", norm.std.clone(), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def see(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> all that the priors need of it, without gradient.

        Maps: the tokens (B, D, h, w) of ``layers``, of the input of the last block, and the attention (B, 1, T, T) averaged
        over the layers that PIR reads; classes: the class token before the last block.
        """
        if self.vvp_input == "clip":
            images = whole_patches(images, self.clip.patch)
        seen = self.clip.tokens_and_attention(
            (images - self.mean) / self.std, normalised=True, round_positions=self.text_prior.round_positions
        )

        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, seen.prefix :].transpose(1, 2).unflatten(2, seen.grid)

        last = self.text_prior.refinement.last if self.text_prior.refinement else 1
        attention = torch.stack(seen.attention[-last:], 1).mean(1, keepdim=True)
        maps = (*(as_map(seen.tokens[layer]) for layer in self.layers), as_map(seen.before_last), attention)
        return Features(maps, (self.clip.patch,) * len(maps), (seen.before_last[:, : seen.prefix].flatten(1),))

    def see_masked(self, images: Tensor, masks: Tensor) -> Features:
        """:meth:`see` of B K supports (B, K, 3, H, W), everything outside their masks at the mean colour."""
        inside = (masks == 1).flatten(0, 1)[:, None]
        return self.see(torch.where(inside, images.flatten(0, 1), self.mean))

    def support(self, seen: Features, masks: Tensor, class_names: Sequence[str] | None) -> dict[str, Tensor]:
        """What the priors keep of B classes: ``visual0..`` (B, K, D, h, w), ``inside`` (B, K, h, w) in {0, 1}, ``text``."""
        shape = masks.shape[:2]
        kept = {f"visual{i}": seen.maps[i].unflatten(0, shape) for i in range(len(self.layers))}
        kept["inside"] = foreground(masks, seen.maps[0].shape[-2:], "nearest")
        return kept | {"text": self.text(class_names, shape)}

    def text(self, class_names: Sequence[str] | None, shape: Sequence[int]) -> Tensor:
        """Text features that compete, the target's first: (B, K, N, D), rows of 0 where a class has fewer."""
        if not class_names:
            raise UsageError("this model asks CLIP for the class by name: pass class_names, one for each class")
        names = [[name, *(self.known if self.text_context == "known" else ())] for name in class_names]
        rows = self._texts(names)
        return rows[:, None].expand(-1, shape[1], -1, -1)

    def _texts(self, names: Sequence[Sequence[str]]) -> Tensor:
        """B lists of names, the target first -> (B, N, D), each name once, rows of 0 at the end of the shorter ones."""
        rows = [self.text_prior.text(self.clip, list(dict.fromkeys(some))) for some in names]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def visual_maps(self, seen: Features, support: Support) -> Tensor:
        """VVP (B, L, K, h, w), a map a layer and shot."""
        shots = [support[f"visual{i}"] for i in range(len(self.layers))]
        query = seen.maps[: len(self.layers)]
        maps = vvp(query, shots, support["inside"], norm=self.vvp_norm, background=self.vvp_background, shots="concat")
        if self.refine_vvp and self.text_prior.refinement is not None:
            maps = self.text_prior.refinement(min_max(maps), seen.maps[-1].transpose(0, 1), self._prefix(seen))
        return maps.unflatten(1, (len(self.layers), -1))

    def text_map(
        self,
        seen: Features,
        support: Support,
        images: Tensor,
        class_name: Sequence[str],
        present: Sequence[Sequence[str]] | None,
        sizes: Sequence[tuple[int, int]] | None,
        size: Sequence[int],
    ) -> Tensor:
        """VTP refined by PIR (B, 1, *size) in [0, 1]; arguments as in :meth:`PICLIP.forward`."""
        if self.text_context == "oracle" and (present is None or not class_name):
            raise UsageError(
                "text_context='oracle' needs class_name and present, the names of all classes in each query"
            )
        if self.vtp_input == "photo":
            return self._text_map_of_photos(images, class_name, present, sizes, size)
        if self.text_context == "oracle":
            text = self._texts([[name, *others] for name, others in zip(class_name, present or ())])
        else:
            text = support["text"][:, 0]
        return resize(self._text_map(seen, text), size)

    def _text_map(self, seen: Features, text: Tensor) -> Tensor:
        """(B, N, D) text features of each image, its target's first -> (B, 1, h, w).

        CLIP's softmax runs over the texts of the whole batch; the share within an image's own texts is its own softmax.
        """
        batch, rows = text.shape[:2]
        prefix, (height, width) = self._prefix(seen), seen.maps[-2].shape[-2:]
        first = seen.classes[0].unflatten(1, (prefix, -1))
        tokens = torch.cat([first, seen.maps[-2].flatten(2).transpose(1, 2)], 1)
        last = self.clip.last_block(Seen((), (), tokens, (height, width), prefix), text.flatten(0, 1))
        with torch.enable_grad():
            index = torch.arange(batch, device=text.device)
            own = last.probabilities.unflatten(1, (batch, rows))[index, index]  # (B, N)
            own = own * (text.abs().sum(2) > 0)
            score = own[:, 0] / own.sum(1).clamp(min=1e-30)
        cam = scaled(grad_cam(score, last.activation, last.map)[:, None])
        if self.text_prior.refinement is None:
            return cam
        return self.text_prior.refinement(cam, seen.maps[-1].transpose(0, 1), prefix)

    def _text_map_of_photos(
        self,
        images: Tensor,
        class_name: Sequence[str],
        present: Sequence[Sequence[str]] | None,
        sizes: Sequence[tuple[int, int]] | None,
        size: Sequence[int],
    ) -> Tensor:
        """The release's own way: photo by photo at its original size, the map brought to that size and then to ``size``."""
        if not class_name:
            raise UsageError("vtp_input='photo' needs class_name, one name for each query")
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        names = {"known": [self.known] * len(images), "oracle": present}.get(self.text_context)
        if names is not None and len(images) > 1:
            missing = [target for target, some in zip(class_name, names) if target not in some]
            if missing and self.text_prior.missing_target == "saturate":
                raise UsageError(
                    f"{missing[0]!r} is not among its photo's known classes; add it, or run one photo at a time"
                )
        maps = []
        for i, target in enumerate(class_name):
            some = None if names is None else [names[i]]
            low = self.text_prior(self.clip, images[i : i + 1], [target], some, sizes[i])
            if low.max() <= 1:
                low = nn.functional.interpolate(low, sizes[i], mode="bilinear", align_corners=False)
            maps.append(resize(low, size))
        return torch.cat(maps)

    @staticmethod
    def _prefix(seen: Features) -> int:
        """How many tokens stand before the patches."""
        return seen.maps[-1].shape[-1] - seen.maps[-2].shape[-2] * seen.maps[-2].shape[-1]


class ClipPriorsOnly(nn.Module):
    """The priors as a few-shot model of their own: nothing is trained, the map's upper half is the object.

    encoder: a CLIP-like ViT.      maps: "text" asks for the name alone, "visual" for the supports alone.
    slope:   how steeply the probability rises with the map (the logit is slope * (map - threshold)).
    Further ``options`` are keywords of :class:`ClipPriors`.
    """

    geometry = "fit"

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: int = 480,
        maps: Sequence[Literal["text", "visual"]] = ("text", "visual"),
        threshold: float = 0.5,
        slope: float = 10.0,
        **options: Any,
    ):
        super().__init__()
        self.priors = ClipPriors(encoder, **options)
        self.size, self.maps, self.threshold, self.slope = size, tuple(maps), threshold, slope

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h, w) on the patch grid; extra: ``prior`` (B, P, h, w) in [0, 1], the text's map first."""
        size, found = query.maps[0].shape[-2:], []
        if "text" in self.maps:
            names = context.get("class_name", ())
            found.append(
                self.priors.text_map(query, support, images, names, context.get("present"), context.get("sizes"), size)
            )
        if "visual" in self.maps:
            found.append(self.priors.visual_maps(query, support).mean(2))
        priors = torch.cat(found, 1)
        evidence = self.slope / 2 * (torch.stack([m.mean(1) for m in found], 1).mean(1) - self.threshold)
        return Prediction(torch.stack([-evidence, evidence], 1), {"prior": priors})

    def encode(self, images: Tensor) -> Features:
        return self.priors.see(images)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """As :meth:`ClipPriors.support`; with maps=("text",) the images are not looked at."""
        if self.maps == ("text",):
            return self.encode_names(class_names, masks.shape[1])
        seen = self.priors.see_masked(images, masks)
        return Support(self.priors.support(seen, masks, class_names))

    def encode_names(self, class_names: Sequence[str] | None, shots: int = 1) -> Support:
        """Zero-shot: what is kept of a name alone."""
        return Support({"text": self.priors.text(class_names, (len(class_names or ()), shots))})

    @property
    def encoder(self) -> Encoder:
        return self.priors.clip


class ClipZeroShot(ClipPriorsOnly):
    """:class:`ClipPriorsOnly` from the class's name alone."""

    def __init__(self, encoder: Encoder, **options: Any):
        super().__init__(encoder, maps=("text",), **options)
