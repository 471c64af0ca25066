"""Where a named class is in a photo: five ways to soft maps in [0, 1], each with the cut that suits its maps.

clip-es        softmax Grad-CAM of CLIP's ViT against background words, spread along its attention (CLIP-ES, CVPR 2023)
imr            softmax Grad-CAM of CLIP's ResNet against the other classes (IMR-HSNet, IJCAI 2022)
dino           what DINO's class token looks at; knows no class (CST, CVPR 2023)
fused          clip-es and dino, which must agree
imagenet-text  class activation of the nearest ImageNet labels times border contrast; no download
objectness     border contrast alone; knows no class: the control of imagenet-text
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.priors import dino_masks
from shotseg.priors.cam_labels import soft_masks
from shotseg.priors.cut import Cut, Labels, PseudoMasks
from shotseg.priors.guided_filter import guided_filter
from shotseg.priors.objectness import border_contrast
from shotseg.priors.visual import min_max
from shotseg.priors.words import Words

if TYPE_CHECKING:  # open_clip and transformers are slow to import, and most generators need only one of them
    from shotseg.encoders.clip import VisionLanguage
    from shotseg.encoders.imagenet_text import ImageNetText
    from shotseg.encoders.vit import ViT
    from shotseg.priors.text import TextPrior


class Generator:
    """``generator(image, names)``: the pseudo masks of the classes that a photo is known to show.

    size:   the longer side, in pixels, that photos are brought to; larger only, where ``enlarge`` is False.
    square: aspect not kept.        multiple: the sides become multiples of it.
    blind:  it knows no class, so every name gets the same map.
    align:  how maps are resized to the photo (``align_corners``).
    """

    size, square, multiple, enlarge = 512, False, 1, False
    blind, align = False, False
    cut = Cut()
    device: torch.device

    @torch.no_grad()
    def __call__(self, image: np.ndarray, names: Sequence[str], labels: Labels = "episode") -> PseudoMasks:
        """image (H, W, 3) uint8 RGB; names: the classes in it, one or more.

        labels: "episode": each class alone against the background, as in an episode of that class. "image": all named
                classes compete, in the softmax of CLIP where there is one and for every pixel.
        """
        if not names:
            raise UsageError("a photo without a class name: name at least one class that it shows")
        photo = self.fit(image).to(self.device)
        maps = self.maps(photo, names, labels)
        maps = transforms.resize_logits(maps.float(), image.shape[:2], self.align)
        return self.cut(photo, maps, "episode" if self.blind else labels)

    def fit(self, image: np.ndarray) -> Tensor:
        """The photo (H, W, 3) uint8 as this generator looks at it, (1, 3, h, w) in [0, 1]."""
        size = self.size if self.enlarge else min(self.size, max(image.shape[:2]))
        pixels = transforms.squash(image, size)[0] if self.square else transforms.fit(image, size, self.multiple)[0]
        return pixels[None]

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        """(1, N, h, w) in [0, 1], one map a name, of a photo as :meth:`fit` gives it."""
        raise NotImplementedError


class ClipES(Generator):
    """CLIP-ES (Lin et al.): softmax Grad-CAM at the last block's first LayerNorm, class-aware attention affinity.

    prior: prompt, words, phrases and refinement; ``text.as_released(text.CLIP_ES_MAPS)`` repeats the released code.
    words: of the user's own, in place of the prior's.
    """

    def __init__(
        self,
        clip: VisionLanguage,
        prior: TextPrior | None = None,
        words: Words | None = None,
    ):
        from shotseg.priors import text

        if len(set(clip.strides)) != 1:
            raise UsageError(f"{clip.name!r} keeps no attention maps; choose clip-vit-b16 or another CLIP-like ViT")
        self.clip, self.prior = clip, prior or text.CLIP_ES_MAPS
        self.words, self.device = words or text.WORDS, clip.mean.device
        if words is not None:
            self.prior = replace(self.prior, phrases=words.phrases)

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        prior = replace(self.prior, words=self.words.beside(names))
        seen = prior.see(self.clip, photo)
        groups = [[name] for name in names] if labels == "episode" else [list(names)]
        found = [
            prior.maps_of_seen(self.clip, seen, prior.text(self.clip, group), range(len(group))) for group in groups
        ]
        return torch.cat(found, 1)


class Imr(Generator):
    """The class maps of IMR-HSNet: every class of the data set competes in the softmax, no background word does.

    classes: those of the data set. Where there is but one, the background words compete, as a softmax of one says nothing.
    crop:    "center" is the released preparation, whose maps do not cover a photo that is not square.
    """

    def __init__(
        self,
        clip: VisionLanguage,
        classes: Sequence[str] = (),
        words: Words | None = None,
        crop: Literal["none", "center"] = "none",
    ):
        from shotseg.priors import text

        self.clip, self.classes, self.words, self.crop = clip, tuple(classes), words or text.WORDS, crop
        self.device = clip.mean.device

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        from shotseg.priors.grad_cam import imr_cams

        competing = list(dict.fromkeys([*self.classes, *names]))
        if len(competing) == 1:
            competing += self.words.beside(names)
        targets = [competing.index(name) for name in names]
        return imr_cams(self.clip, photo, competing, targets, crop=self.crop)


class Dino(Generator):
    """CST's masks: the mean cosine of patch keys to the class token's query, as (cosine + 1) / 2, above 0.4.

    threshold: 0.4 is meant for DINO ViT-S/8; None takes Otsu's of each photo for any other encoder.
    """

    size, square, enlarge, blind, align = 400, True, True, True, True

    def __init__(self, dino: ViT, threshold: float | None = None):
        own = dino_masks.THRESHOLD if dino.name == "dino-vits8" else None
        self.dino, self.threshold, self.device = dino, threshold or own, dino.mean.device
        self.size -= self.size % dino.patch
        level = self.threshold or 0.5
        self.cut = Cut(high=level, low=level, refine="none")

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        similarity = dino_masks.key_similarity(self.dino.tokens(photo))
        score = (similarity + 1) / 2 if self.threshold else levelled(min_max(similarity))
        return score.expand(-1, len(names), -1, -1)


class Fused(Generator):
    """A named map and a class-blind one that must agree (our reading of CORENet): clip-es refined, times dino."""

    square, enlarge = True, True

    def __init__(self, named: ClipES, blind: Dino):
        self.named, self.dino, self.size, self.device = named, blind.dino, blind.size, named.device

    def parts(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> tuple[Tensor, Tensor]:
        """The two maps before they meet, on DINO's grid: (1, N, h, w) and (1, 1, h, w), both in [0, 1]."""
        blind = min_max(dino_masks.key_similarity(self.dino.tokens(photo)))
        coarse = self.named.maps(photo, names, labels)
        fine = min_max(soft_masks(photo, resized(coarse, photo.shape[-2:]), torch.ones_like(coarse[:, :, 0, 0]))[:, 1:])
        return F.adaptive_avg_pool2d(fine, (blind.shape[2], blind.shape[3])), blind

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        return agreement(*self.parts(photo, names, labels))


class ImageNetMaps(Generator):
    """Class activation of the ImageNet labels nearest to a name, times border contrast; then what is like the surest
    places of the photo; then its edges.

    objectness, self_support, edges: each may be left out, for ablations.
    """

    size, multiple, enlarge = 512, 32, True
    cut = Cut(high=0.4, low=0.4, refine="none", sharpness=8.0)

    def __init__(self, vision: ImageNetText, objectness: bool = True, self_support: int = 2, edges: bool = True):
        self.vision, self.objectness, self.self_support, self.edges = vision, objectness, self_support, edges
        self.device = torch.device(vision.device)

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        features, grid = self.vision.encoder(photo), quarter(photo)
        maps = resized(self.vision.class_map(photo, names, features), grid)
        if self.objectness:
            maps = min_max(maps * objectness(features, grid))
        for _ in range(self.self_support):
            maps = min_max(maps.sqrt() * likeness(features, maps))
        return min_max(guided_filter(maps, F.adaptive_avg_pool2d(photo, grid))) if self.edges else min_max(maps)


class Objectness(Generator):
    """Border contrast of a frozen encoder, cut by Otsu's threshold: the control that knows no name."""

    size, multiple, enlarge, blind = 512, 32, True, True
    cut = Cut(high=0.5, low=0.5, refine="none", sharpness=8.0)

    def __init__(self, encoder: Encoder):
        self.encoder, self.device = encoder, encoder.mean.device

    def maps(self, photo: Tensor, names: Sequence[str], labels: Labels = "episode") -> Tensor:
        grid = quarter(photo)
        drawn = guided_filter(objectness(self.encoder(photo), grid), F.adaptive_avg_pool2d(photo, grid))
        return levelled(min_max(drawn)).expand(-1, len(names), -1, -1)


def agreement(named: Tensor, blind: Tensor, share: float = 2 / 3) -> Tensor:
    """named (B, N, h, w), blind (B, 1, h, w) in [0, 1] -> named^share * blind^(1 - share), scaled to [0, 1] (CORENet)."""
    return min_max(named**share * blind ** (1 - share))


def objectness(features: Features, grid: tuple[int, int]) -> Tensor:
    """(B, 1, *grid): border contrast of the two deepest maps, each scaled to [0, 1], added."""
    levels = (min_max(border_contrast(level)[:, None]) for level in features.maps[-2:])
    return torch.stack([resized(level, grid) for level in levels]).sum(0)


def likeness(features: Features, maps: Tensor, sure: float = 0.5, doubtful: float = 0.3) -> Tensor:
    """(B, N, h, w) in [0, 1]: how much more a place is like the surest places of each map than like the least sure.

    maps: (B, N, h, w) in [0, 1]. The surest lie above ``sure``, the least sure below ``doubtful``; the two deepest levels
    of the features are compared by cosine to the mean of either, and added. An object is more like itself than like any
    other of its class (self-support: Fan et al., ECCV 2022).
    """
    score = torch.zeros_like(maps)
    for level in features.maps[-2:]:
        x = F.normalize(level, dim=1).flatten(2)  # (B, C, n)
        small = F.adaptive_avg_pool2d(maps, (level.shape[2], level.shape[3])).flatten(2)  # (B, N, n)
        inside = (small - sure).clamp(
            min=0
        ) + 1e-6 * small  # the second term: a map without a sure place has a mean too
        outside = (doubtful - small).clamp(min=0) + 1e-6 * (1 - small)
        prototypes = F.normalize(inside @ x.mT, dim=2) - F.normalize(outside @ x.mT, dim=2)
        score = score + min_max(resized((prototypes @ x).unflatten(2, level.shape[-2:]), maps.shape[-2:]))
    return min_max(score)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


def quarter(images: Tensor) -> tuple[int, int]:
    """The grid of a quarter of the images' size."""
    return max(1, images.shape[-2] // 4), max(1, images.shape[-1] // 4)


def levelled(maps: Tensor, level: float = 0.5) -> Tensor:
    """(B, 1, h, w) in [0, 1] with Otsu's threshold of each map moved to ``level`` by a power; 0 and 1 stay."""
    thresholds = [min(max(dino_masks.otsu(one), 1e-3), 1 - 1e-3) for one in maps]
    powers = maps.new_tensor([math.log(level) / math.log(t) for t in thresholds])
    return maps.clamp(0, 1) ** powers.view(-1, 1, 1, 1)
