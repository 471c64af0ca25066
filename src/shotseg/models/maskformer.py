"""MaskFormer (Cheng, Schwing, Kirillov, NeurIPS 2021): semantic segmentation by proposals, each a mask and its class.

Pixel decoder, transformer decoder and heads are those of transformers; matching and losses are ours
(:mod:`shotseg.models.blocks.set_criterion`), as is inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data import transforms
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks import set_criterion as criterion
from shotseg.models.blocks.set_criterion import DICE, FOCAL, Proposals, Targets
from shotseg.models.few_shot_model import Model

MULTIPLE = 32  # sides of the network's input
BAND = 2**21  # scores and masks that are drawn at once: they stay in a processor's cache
LONGEST = 4  # the longer side is at most this many times ``size``


@dataclass(frozen=True, eq=False)
class Layers:
    """proposals: of every decoder layer, the last one at the end.    pixels: (B, D, h, w) pixel embeddings."""

    proposals: list[Proposals]
    pixels: Tensor


@dataclass(frozen=True)
class Inference:
    """How a photo is segmented.

    window: 0 = as a whole; else in overlapping squares of this side, in pixels of the working size.
    scales: shorter sides (of the working photo) to average over; empty = the working size alone.
    flip:   average with the mirrored photo.
    """

    window: int = 0
    scales: tuple[int, ...] = ()
    flip: bool = False


class Window(NamedTuple):
    """What is said of a part of a photo: class probabilities (Q, C) and mask logits (Q, h, w) of its padded square. Scores of all
    classes follow from it, in rows, and take a hundred times the memory."""

    top: int
    left: int
    size: tuple[int, int]
    classes: Tensor
    masks: Tensor

    def rows(self, start: int, stop: int, classes: list[int] | slice) -> Tensor:
        """(C, stop - start, width): :func:`semantic` of some rows."""
        masks = self.masks
        masks = transforms.resize_rows(lambda a, b: masks[:, a:b], masks.shape[1], padded_size(self.size), start, stop)
        return torch.einsum("qc,qhw->chw", self.classes[:, classes], masks[..., : self.size[1]].sigmoid())


class Look(NamedTuple):
    """What is said of a whole photo at one size (h, w), mirrored or not: windows that cover it."""

    size: tuple[int, int]
    mirrored: bool
    windows: list[Window]

    def cpu(self) -> Look:
        """The same in the machine's own memory."""
        windows = [part._replace(classes=part.classes.cpu(), masks=part.masks.cpu()) for part in self.windows]
        return self._replace(windows=windows)

    def rows(self, start: int, stop: int, classes: list[int] | slice) -> Tensor:
        """(C, stop - start, w) class scores: the mean over the windows that see a pixel."""
        mean = (
            self.windows[0].rows(start, stop, classes) if len(self.windows) == 1 else self._mean(start, stop, classes)
        )
        return mean.flip(-1) if self.mirrored else mean

    def _mean(self, start: int, stop: int, classes: list[int] | slice) -> Tensor:
        total: Any = 0.0
        seen: Any = 0.0
        for part in self.windows:
            first, last = max(start, part.top), min(stop, part.top + part.size[0])
            if first < last:
                scores = part.rows(first - part.top, last - part.top, classes)
                around = (part.left, self.size[1] - part.left - part.size[1], first - start, stop - last)
                total, seen = total + F.pad(scores, around), seen + F.pad(torch.ones_like(scores[:1]), around)
        return total / seen

    def drawn(self, size: tuple[int, int], start: int, stop: int, classes: list[int] | slice) -> Tensor:
        """(C, stop - start, W): rows of the scores drawn bilinear at ``size`` (H, W)."""
        if size == self.size:
            return self.rows(start, stop, classes)
        return transforms.resize_rows(lambda a, b: self.rows(a, b, classes), self.size[0], size, start, stop)


def bands(looks: Sequence[Look], size: tuple[int, int], classes: list[int] | slice = slice(None)) -> Iterator[Tensor]:
    """The mean of the scores of all looks, each drawn at ``size`` (H, W): (C, n, W) of n rows after n rows.

    classes: ids, in the order that is wanted.
    """
    held = max(sum(part.classes[:, classes].shape) for look in looks for part in look.windows)
    step = max(1, BAND // (size[1] * held))
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        drawn = [look.drawn(size, start, stop, classes) for look in looks]
        yield drawn[0] if len(drawn) == 1 else torch.stack(drawn).mean(0)


def labelled(looks: Sequence[Look], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 class ids: those of the highest scores at that size."""
    return np.concatenate([winners(scores).cpu().numpy() for scores in bands(looks, size)])


def winners(scores: Tensor) -> Tensor:
    """(H, W) uint8: the highest of (N, H, W) scores, the first on ties; ten times faster than ``argmax(0)`` on a CPU."""
    best, labels = scores[0], torch.zeros_like(scores[0], dtype=torch.uint8)
    for i in range(1, len(scores)):
        labels = labels.masked_fill(scores[i] > best, i)
        best = torch.maximum(best, scores[i])
    return labels


class MaskFormer(Model):
    """Proposals of C classes on any encoder with maps of several strides.

    classes:  number of classes; the null class comes after them.
    size:     shorter side at which photos are segmented ("short"), side of the square ("squash"), longer side ("fit").
    width:    of both decoders, a multiple of 32.     mask_width: of the pixel embeddings.      finest: their stride.
    queries, layers, heads, ffn, dropout: of the transformer decoder; dropout also inside attention and FFN.
    train_encoder: its convolutions learn; batch norm stays as it is, statistics and scale.
    """

    rests = True  # an encoder's own classifier; the similarities, where no two photos have a class in common

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        size: int = 640,
        geometry: str = "short",
        width: int = 256,
        mask_width: int = 256,
        queries: int = 100,
        layers: int = 6,
        heads: int = 8,
        ffn: int = 2048,
        dropout: float = 0.1,
        finest: int = 4,
        train_encoder: bool = True,
    ):
        super().__init__()
        self.encoder, self.classes, self.size, self.geometry = encoder, classes, size, geometry
        self.train_encoder = self.encoder_learned = train_encoder
        self.finest = finest
        self._used = [i for i, stride in enumerate(encoder.strides) if stride >= finest]
        channels = [encoder.channels[i] for i in self._used]
        body = _transformers_parts(channels, width, mask_width, queries, layers, heads, ffn, dropout)
        self.pixel_decoder, self.transformer, self.mask_embedder = body
        self.class_predictor = nn.Linear(width, classes + 1)
        self._initialise()
        _trainable(encoder, train_encoder)

    @classmethod
    def from_transformers(cls, net: Any, size: int = 640) -> MaskFormer:
        """Take over a ``MaskFormerForInstanceSegmentation`` with its backbone and weights."""
        from shotseg.encoders.hf import TransformersBackbone

        decoder = net.config.decoder_config
        model = cls(
            TransformersBackbone(net.model.pixel_level_module.encoder),
            net.class_predictor.out_features - 1,
            size=size,
            width=net.config.fpn_feature_size,
            mask_width=net.config.mask_feature_size,
            queries=decoder.num_queries,
            layers=decoder.decoder_layers,
            heads=decoder.decoder_attention_heads,
            ffn=decoder.decoder_ffn_dim,
            dropout=decoder.dropout,
        )
        model.pixel_decoder, model.transformer = net.model.pixel_level_module.decoder, net.model.transformer_module
        model.mask_embedder, model.class_predictor = net.mask_embedder, net.class_predictor
        return model

    def _initialise(self) -> None:
        """The release's initial values, where those of transformers differ."""
        for module in (*self.pixel_decoder.modules(), self.transformer.input_projection):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.transformer.queries_embedder.weight)
        for name, module in self.transformer.decoder.named_modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
                nn.init.xavier_uniform_(module.weight)
                if "_attn." in name:
                    nn.init.zeros_(module.bias)
                if name.endswith(("q_proj", "k_proj", "v_proj")):  # one matrix of three in the release
                    bound = math.sqrt(6 / (4 * module.in_features))
                    nn.init.uniform_(module.weight, -bound, bound)
        for module in (*self.mask_embedder.modules(), self.class_predictor):
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1], any size -> the encoder's maps, of the photo padded to a multiple of 32 with its mean."""
        height, width = images.shape[-2:]
        normalised = (images - self.encoder.mean) / self.encoder.std
        normalised = F.pad(normalised, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            return self.encoder.extract(normalised)

    def forward(self, images: Tensor | None, features: Features | None = None) -> Layers:
        """Images (B, 3, H, W) in [0, 1], or what :meth:`encode` made of them -> proposals of every layer."""
        if features is None:
            assert images is not None
            features = self.encode(images)
        maps = [features.maps[i] for i in self._used]
        pixels = self.pixel_decoder(maps).last_hidden_state
        states = self.transformer(maps[-1], output_hidden_states=True).hidden_states
        norm = self.transformer.decoder.layernorm
        states = [*(norm(state) for state in states[1:-1]), states[-1]]  # the first is the empty input
        proposals = [
            Proposals(self.class_predictor(s), torch.einsum("bqd,bdhw->bqhw", self.mask_embedder(s), pixels))
            for s in states
        ]
        return Layers(proposals, pixels)

    def loss(
        self,
        images: Tensor,
        maps: Tensor,
        tags: Sequence[Sequence[int]] = (),
        padding: Tensor | None = None,
        features: Features | None = None,
    ) -> dict[str, Tensor]:
        """Losses summed over the layers, weighted: they are to be added up.

        maps: (B, H, W) int64 class ids, 255 = unknown.     tags: of SimFormer; here only classes with masks teach.
        padding: (B, H, W) bool.                            features: of the photos, where they are known.
        """
        targets = Targets.of(maps, [()] * len(maps), padding)
        layers = self(images, features).proposals
        return self.set_losses(layers, targets, criterion.match(layers, targets))

    def set_losses(self, layers: Sequence[Proposals], targets: Targets, matched: Tensor) -> dict[str, Tensor]:
        """Classification and mask losses of every layer with its matching (L, B, T)."""
        count = criterion.mask_count(targets)
        shapes = [criterion.mask_losses(p.masks, targets, m, count) for p, m in zip(layers, matched)]
        named = [criterion.classification(p.classes, targets, m) for p, m in zip(layers, matched)]
        return {
            "class": torch.stack(named).sum(),
            "focal": FOCAL * torch.stack([a for a, _ in shapes]).sum(),
            "dice": DICE * torch.stack([b for _, b in shapes]).sum(),
        }

    def scores(self, images: Tensor, size: tuple[int, int] | None = None, features: Features | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, *size) class scores, at the images' own size without one."""
        height, width = images.shape[-2:]
        found = semantic(self(images, features).proposals[-1], padded_size((height, width)))[..., :height, :width]
        return found if size in (None, (height, width)) else transforms.resize_logits(found, size)  # type: ignore[arg-type]

    @torch.no_grad()
    def label(self, image: np.ndarray, how: Inference = Inference()) -> np.ndarray:
        """(H, W, 3) uint8 RGB of any size -> (H, W) uint8 class ids: those of the highest scores at that size."""
        return labelled(self.look(self.fit(image), how), (image.shape[0], image.shape[1]))

    @torch.no_grad()
    def look(self, fitted: Tensor, how: Inference = Inference(), features: Features | None = None) -> list[Look]:
        """(3, h, w) at the working size -> what is said of it at each scale, as it is and mirrored.

        features: of the photo, where it is seen as a whole and they are known.
        """
        found = []
        for scale in how.scales or (0,):
            x = transforms.resize_logits(fitted, short_size(tuple(fitted.shape[-2:]), scale)) if scale else fitted
            for mirrored in (False, True)[: 1 + how.flip]:
                seen = x.flip(-1) if mirrored else x
                found.append(Look((x.shape[-2], x.shape[-1]), mirrored, self._windows(seen, how.window, features)))
        return found

    def _windows(self, x: Tensor, side: int, features: Features | None) -> list[Window]:
        height, width = x.shape[-2:]
        if not side or (height <= side and width <= side):
            return [self._window(x, 0, 0, features)]
        corners = [(top, left) for top in starts(height, side) for left in starts(width, side)]
        return [self._window(x[:, top : top + side, left : left + side], top, left) for top, left in corners]

    def _window(self, x: Tensor, top: int, left: int, features: Features | None = None) -> Window:
        last = self(x[None], features).proposals[-1]
        return Window(top, left, (x.shape[-2], x.shape[-1]), last.classes[0].softmax(-1)[:, :-1], last.masks[0])

    def fit(self, image: np.ndarray) -> Tensor:
        """A photo (H, W, 3) uint8 at the working size: (3, h, w) in [0, 1] on the model's device."""
        if self.geometry == "squash":
            x = transforms.squash(image, self.size)[0]
        elif self.geometry == "fit":
            x = transforms.fit(image, self.size)[0]
        else:
            x = transforms.fit(image, max(short_size(image.shape[:2], self.size)))[0]
        return x.to(self.class_predictor.weight.device)


def semantic(proposals: Proposals, size: tuple[int, int]) -> Tensor:
    """Sum over proposals of class probability x mask, masks enlarged as logits: (B, C, *size) (MaskFormer, section 3.4)."""
    masks = F.interpolate(proposals.masks, size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", proposals.classes.softmax(-1)[..., :-1], masks)


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] + -size[0] % MULTIPLE, size[1] + -size[1] % MULTIPLE


def short_size(sides: tuple[int, ...], short: int) -> tuple[int, int]:
    """(height, width) with the shorter side ``short``, unless the longer one would pass 4 times that."""
    scale = min(short / min(sides), LONGEST * short / max(sides))
    return max(1, int(sides[0] * scale + 0.5)), max(1, int(sides[1] * scale + 0.5))


def starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover a length, each third of a window overlapping with the next."""
    step = max(1, window * 2 // 3)
    return [*range(0, max(length - window, 0), step), max(length - window, 0)]


def _transformers_parts(
    channels: list[int], width: int, mask_width: int, queries: int, layers: int, heads: int, ffn: int, dropout: float
) -> tuple[nn.Module, Any, nn.Module]:
    """Pixel decoder, transformer module and mask head."""
    from transformers import DetrConfig, MaskFormerConfig, ResNetConfig
    from transformers.models.maskformer import modeling_maskformer as parts

    decoder = DetrConfig(
        backbone_config=ResNetConfig(),  # not built
        d_model=width,
        encoder_layers=0,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=ffn,
        num_queries=queries,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        auxiliary_loss=False,
    )
    config = MaskFormerConfig(
        backbone_config=ResNetConfig(),
        decoder_config=decoder,
        fpn_feature_size=width,
        mask_feature_size=mask_width,
        use_auxiliary_loss=False,
    )
    pixel_decoder = parts.MaskFormerPixelDecoder(
        in_features=channels[-1], feature_size=width, mask_feature_size=mask_width, lateral_widths=channels[:-1]
    )
    transformer = parts.MaskFormerTransformerModule(in_features=channels[-1], config=config)
    return pixel_decoder, transformer, parts.MaskformerMLPPredictionHead(width, width, mask_width)


def _trainable(encoder: Encoder, learns: bool) -> None:
    """All but the batch norms of an encoder learn, or nothing; its batch statistics never move."""
    encoder.requires_grad_(learns)
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)
