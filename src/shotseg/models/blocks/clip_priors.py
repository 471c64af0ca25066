"""The prior maps of PI-CLIP (Wang et al., CVPR 2024) from one pass of CLIP an image: VTP refined by PIR, and VVP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from shotseg.data.samples import Support
from shotseg.encoders.clip import Seen, VisionLanguage
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models.blocks.prior_guided import resize
from shotseg.priors.clip_input import whole_patches
from shotseg.priors.grad_cam import grad_cam, scaled
from shotseg.priors.text import VTP, TextPrior
from shotseg.priors.visual import foreground, min_max, vvp

Context = Literal["target", "known", "oracle"]


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
        self._read: dict[tuple[str, ...], Tensor] = {}
        self.mean: Tensor
        self.std: Tensor

    def see(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> all that the priors need of it, without gradient.

        Maps: the tokens (B, D, h, w) of ``layers``, then of the input of the last block. Classes: the tokens before the
        patches there (B, prefix D), and the attention (B, T T) averaged over the layers that PIR reads.
        """
        if self.vvp_input == "clip":
            images = whole_patches(images, self.clip.patch)
        last = self.text_prior.layers or 1
        clip_pass = self.clip.tokens_and_attention(
            (images - self.mean) / self.std,
            normalised=True,
            round_positions=self.text_prior.round_positions,
            attention=last,
        )

        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, clip_pass.prefix :].transpose(1, 2).unflatten(2, clip_pass.grid)

        attention = torch.stack(clip_pass.attention, 1).mean(1)
        maps = (*(as_map(clip_pass.tokens[layer]) for layer in self.layers), as_map(clip_pass.before_last))
        classes = (clip_pass.before_last[:, : clip_pass.prefix].flatten(1), attention.flatten(1))
        return Features(maps, (self.clip.patch,) * len(maps), classes)

    def see_masked(self, images: Tensor, masks: Tensor) -> Features:
        """:meth:`see` of B K supports (B, K, 3, H, W), everything outside their masks at the mean colour."""
        inside = (masks == 1).flatten(0, 1)[:, None]
        return self.see(torch.where(inside, images.flatten(0, 1), self.mean))

    def support(self, clip_features: Features, masks: Tensor, class_names: Sequence[str] | None) -> dict[str, Tensor]:
        """What the priors keep of B classes: ``visual0..`` (B, K, D, h, w), ``inside`` (B, K, h, w) in {0, 1}, ``text``."""
        shape = masks.shape[:2]
        maps = (clip_features.maps[i].contiguous() for i in range(len(self.layers)))  # laid out as a saved support is
        tensors = {f"visual{i}": x.unflatten(0, shape) for i, x in enumerate(maps)}
        tensors["inside"] = foreground(masks, clip_features.maps[0].shape[-2:], "nearest")
        return tensors | {"text": self.text(class_names, shape)}

    def text(self, class_names: Sequence[str] | None, shape: Sequence[int]) -> Tensor:
        """Text features that compete, the target's first: (B, K, N, D), rows of 0 where a class has fewer."""
        if not class_names:
            raise UsageError("this model asks CLIP for the class by name: pass class_names, one for each class")
        names = [[name, *(self.known if self.text_context == "known" else ())] for name in class_names]
        rows = self._texts(names)
        return rows[:, None].expand(-1, shape[1], -1, -1)

    def _texts(self, names: Sequence[Sequence[str]]) -> Tensor:
        """B lists of names, the target first -> (B, N, D), each name once, rows of 0 at the end of the shorter ones."""
        distinct = [tuple(dict.fromkeys(group)) for group in names]
        for group in distinct:  # a class is read once, however many episodes ask for it
            rows = self._read[group] if group in self._read else self.text_prior.text(self.clip, group)
            self._read[group] = rows.to(self.mean.device)
        return nn.utils.rnn.pad_sequence([self._read[group] for group in distinct], batch_first=True)

    def visual_maps(self, clip_features: Features, support: Support) -> Tensor:
        """VVP (B, L, K, h, w), a map a layer and shot."""
        shots = [support[f"visual{i}"] for i in range(len(self.layers))]
        query = clip_features.maps[: len(self.layers)]
        maps = vvp(query, shots, support["inside"], norm=self.vvp_norm, background=self.vvp_background, shots="concat")
        if self.refine_vvp and self.text_prior.refinement is not None:
            maps = self.text_prior.refinement(min_max(maps), *_attention(clip_features))
        return maps.unflatten(1, (len(self.layers), -1))

    @property
    def asks(self) -> tuple[str, ...]:
        """The arguments of :meth:`PICLIP.forward`, beside photos and supports, without which there is no answer."""
        if self.vtp_input == "photo":
            return ("class_name", "present", "sizes") if self.text_context == "oracle" else ("class_name", "sizes")
        return ("class_name", "present") if self.text_context == "oracle" else ()

    def text_map(
        self,
        clip_features: Features,
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
        return resize(self._text_map(clip_features, text), size)

    def _text_map(self, clip_features: Features, text: Tensor) -> Tensor:
        """(B, N, D) text features of each image, its target's first -> (B, 1, h, w).

        CLIP's softmax runs over the texts of the whole batch; the share within an image's own texts is its own softmax.
        """
        batch, rows = text.shape[:2]
        (attention, prefix), (height, width) = _attention(clip_features), clip_features.maps[-1].shape[-2:]
        first = clip_features.classes[0].unflatten(1, (prefix, -1))
        tokens = torch.cat([first, clip_features.maps[-1].flatten(2).transpose(1, 2)], 1)
        last = self.clip.last_block(Seen((), (), tokens, (height, width), prefix), text.flatten(0, 1), attention=False)
        with torch.enable_grad():
            index = torch.arange(batch, device=text.device)
            probabilities = last.probabilities.unflatten(1, (batch, rows))[index, index]  # (B, N)
            probabilities = probabilities * (text.abs().sum(2) > 0)
            score = probabilities[:, 0] / probabilities.sum(1).clamp(min=1e-30)
        cam = scaled(grad_cam(score, last.activation, last.map)[:, None])
        if self.text_prior.refinement is None:
            return cam
        return self.text_prior.refinement(cam, attention, prefix)

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
            missing = [target for target, present_names in zip(class_name, names) if target not in present_names]
            if missing and self.text_prior.missing_target == "saturate":
                raise UsageError(
                    f"{missing[0]!r} is not among its photo's known classes; add it, or run one photo at a time"
                )
        maps = []
        for i, target in enumerate(class_name):
            present_names = None if names is None else [names[i]]
            low = self.text_prior(self.clip, images[i : i + 1], [target], present_names, sizes[i])
            if low.max() <= 1:
                low = nn.functional.interpolate(low, sizes[i], mode="bilinear", align_corners=False)
            maps.append(resize(low, size))
        return torch.cat(maps)


def _attention(clip_features: Features) -> tuple[Tensor, int]:
    """What :meth:`ClipPriors.see` kept: the attention (1, B, T, T), and how many tokens stand before the patches."""
    _, attention = clip_features.classes
    side, (height, width) = math.isqrt(attention.shape[1]), clip_features.maps[-1].shape[-2:]
    return attention.unflatten(1, (side, side))[None], side - height * width
