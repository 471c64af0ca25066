"""Frozen vision-language models of open_clip: dense tokens, attention, a differentiable last block, and text.

seen = clip.tokens_and_attention(images, until_last=True)          # no gradient
last = clip.last_block(seen, clip.text(["dog", "grass"]))          # gradient through the last block only
gradient, = torch.autograd.grad(last.probabilities[:, 0].sum(), last.activation, retain_graph=True)
weights, values = last.map(gradient), last.map(last.activation)    # (B, C, h, w), as Grad-CAM wants them
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import Format, PatchEmbed
from timm.models import Eva
from timm.models import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.encoders import vit
from shotseg.encoders import weights as table
from shotseg.encoders.features import Encoder, Features, full_precision
from shotseg.errors import InputError, UsageError


@dataclass(frozen=True, eq=False)
class Seen:
    """What the image tower computes without gradient.

    tokens:      ViT: one (B, T, D) residual stream a block, T = 1 class token + h * w patches (SigLIP has none).
                 CNN: one (B, C, h, w) map a stage.
    attention:   ViT: one (B, T, T) head-averaged attention a block that was asked for it, rows sum to 1. CNN: empty.
    before_last: what :meth:`VisionLanguage.last_block` continues from.
    grid:        (h, w) of the last map.        prefix: how many tokens stand before the patches.
    rotary:      the rotary position table, where the model has one.
    """

    tokens: tuple[Tensor, ...]
    attention: tuple[Tensor, ...]
    before_last: Tensor
    grid: tuple[int, int]
    prefix: int = 0
    rotary: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LastBlock:
    """The differentiable end of the image tower.

    probabilities: (B, N) softmax over the N texts.
    activation:    the leaf that gradients are taken at: (B, T, D) tokens after the last block's first LayerNorm, or the
                   (B, C, h, w) output of the last stage of a CNN.
    attention:     (B, T, T) head-averaged attention of the last block, detached; None for a CNN and where none is wanted.
    """

    probabilities: Tensor
    activation: Tensor
    attention: Tensor | None
    grid: tuple[int, int]
    prefix: int

    def map(self, tokens: Tensor) -> Tensor:
        """The activation, or a gradient of its shape, as a map (B, C, h, w) of the patches."""
        if tokens.dim() == 4:
            return tokens
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


class VisionLanguage(Encoder):
    """A model with an image tower and a text tower in one space (Radford et al. 2021).

    model: an open_clip model.     tokenize: texts to (N, L) token ids.
    """

    model: Any
    visual: Any

    def __init__(
        self, model: nn.Module, name: str, mean: tuple[float, ...], std: tuple[float, ...], tokenize: Callable
    ):
        super().__init__(mean, std)
        self.name, self.model, self.tokenize = name, model, tokenize

    @torch.no_grad()
    def text(self, class_names: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)) -> Tensor:
        """(N, D) unit text features: every template encoded and normalised, averaged, normalised."""
        tokens = self.tokenize([template.format(name) for name in class_names for template in templates])
        return self.text_of_tokens(tokens.unflatten(0, (len(class_names), len(templates))))

    @full_precision()
    @torch.no_grad()
    def text_of_tokens(self, tokens: Tensor) -> Tensor:
        """The same for token ids (N, templates, L)."""
        batches = tokens.flatten(0, 1).to(self.mean.device).split(256)
        features = torch.cat([F.normalize(self.model.encode_text(batch), dim=-1) for batch in batches])
        return F.normalize(features.unflatten(0, tokens.shape[:2]).mean(1), dim=-1)

    def tokens_and_attention(
        self,
        images: Tensor,
        *,
        normalised: bool = False,
        until_last: bool = False,
        round_positions: bool = False,
        attention: int | None = None,
    ) -> Seen:
        """All tokens and attention maps of (B, 3, H, W) images in [0, 1], without gradient.

        normalised: the images already are.      until_last: leave the last block out, when only ``last_block`` is wanted.
        round_positions: pass the resized position table through float16, as PI-CLIP and CLIP-ES do even in float32.
        attention:  of how many blocks, counted from the end of the tower, it is kept; None = of all.
        """
        if not normalised:
            images = (images - self.mean) / self.std
        with torch.no_grad():
            return self._see(images, until_last, round_positions, attention)

    def last_block(self, seen: Seen, text: Tensor, attention: bool = True) -> LastBlock:
        """The rest of the tower with gradient at one activation, against (N, D) unit text features."""
        raise NotImplementedError

    def extract(self, normalised: Tensor) -> Features:
        seen = self._see(normalised, until_last=False, round_positions=False, attention=0)
        if seen.tokens[0].dim() == 4:
            return Features(seen.tokens, self.strides)
        maps = tuple(t[:, seen.prefix :].transpose(1, 2).unflatten(2, seen.grid) for t in seen.tokens)
        return Features(maps, self.strides, tuple(t[:, 0] if seen.prefix else t.mean(1) for t in seen.tokens))

    def _see(self, normalised: Tensor, until_last: bool, round_positions: bool, attention: int | None) -> Seen:
        raise NotImplementedError

    def _probabilities(self, feature: Tensor, text: Tensor) -> Tensor:
        return (self.model.logit_scale.exp() * F.normalize(feature, dim=-1) @ text.T).softmax(-1)


class ClipViT(VisionLanguage):
    """open_clip's own ViT; maps: the residual stream's patch tokens after every block, with their class tokens.

    The image feature of ``last_block`` is the mean of the patch tokens, not the class token, so that the gradient
    reaches every patch (CLIP-ES, Lin et al. 2023).
    """

    def __init__(self, model: nn.Module, *args: Any):
        super().__init__(model, *args)
        self.visual = model.visual
        self.blocks = self.visual.transformer.resblocks
        if not all(isinstance(block, ResidualAttentionBlock) for block in self.blocks):
            raise UsageError(
                f"{self.name}: its attention blocks keep no attention maps; choose a plain ViT such as clip-vit-b16"
            )
        self.patch = self.visual.patch_size[0]
        self.strides = (self.patch,) * len(self.blocks)
        self.channels = (self.visual.conv1.out_channels,) * len(self.blocks)

    def positions(self, grid: tuple[int, int], rounded: bool = False) -> Tensor:
        """The position table (1 + h * w, D) for a grid: bilinear, class row kept."""
        own, table_ = self.visual.grid_size, self.visual.positional_embedding
        if tuple(grid) != tuple(own):
            squares = table_[1:].T.unflatten(1, own)[None]
            resized = F.interpolate(squares, size=grid, mode="bilinear", align_corners=False)
            table_ = torch.cat([table_[:1], resized[0].flatten(1).T])
        return table_.half().float() if rounded else table_

    def _see(self, normalised: Tensor, until_last: bool, round_positions: bool, attention: int | None) -> Seen:
        x = self.visual.conv1(normalised)
        grid = (x.shape[2], x.shape[3])
        first = self.visual.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2)], dim=1)
        x = self.visual.ln_pre(x + self.positions(grid, round_positions))
        tokens, maps, before_last, depth = [], [], x, len(self.blocks)
        for i, block in enumerate(self.blocks[: depth - until_last]):
            before_last = x
            x, seen = _run(block, x, block.ln_1(x), attention is None or i >= depth - attention)
            tokens.append(x)
            maps += [] if seen is None else [seen]
        return Seen(tuple(tokens), tuple(maps), x if until_last else before_last, grid, prefix=1)

    @torch.enable_grad()
    def last_block(self, seen: Seen, text: Tensor, attention: bool = True) -> LastBlock:
        block = self.blocks[-1]
        activation = block.ln_1(seen.before_last).detach().requires_grad_()
        x, weights = _run(block, seen.before_last, activation, attention)
        if self.visual.attn_pool is not None:
            feature = self.visual._pool(x)[0]
        elif self.visual.final_ln_after_pool:
            feature = self.visual.ln_post(x[:, 1:].mean(1))
        else:
            feature = self.visual.ln_post(x)[:, 1:].mean(1)
        if self.visual.proj is not None:
            feature = feature @ self.visual.proj
        return LastBlock(self._probabilities(feature, text), activation, weights, seen.grid, seen.prefix)


def _run(block: ResidualAttentionBlock, x: Tensor, normed: Tensor, attention: bool) -> tuple[Tensor, Tensor | None]:
    """A pre-norm block on (B, T, D) tokens, with its head-averaged attention (B, T, T) where that is wanted."""
    heads = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = heads.unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, d) each
    attended, weights = vit.attend(q, k, v, attention)
    x = x + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x))), weights


class ClipCNN(VisionLanguage):
    """CLIP's ResNets and timm CNN towers; maps: the output of every stage.

    The image feature of ``last_block`` is the model's own pooling (attention pooling for the ResNets).
    """

    def __init__(self, model: nn.Module, *args: Any):
        super().__init__(model, *args)
        self.visual = model.visual
        if isinstance(self.visual, ModifiedResNet):
            self.stages = [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]
            self.strides = (4, 8, 16, 32)
            self.channels = tuple(stage[-1].conv3.out_channels for stage in self.stages)
        else:
            taps = self.visual.trunk.feature_info
            self.stages = [self.visual.trunk.get_submodule(tap["module"]) for tap in taps]
            self.strides = tuple(tap["reduction"] for tap in taps)
            self.channels = tuple(tap["num_chs"] for tap in taps)
        self.patch = self.strides[-1]

    def _see(self, normalised: Tensor, until_last: bool, round_positions: bool, attention: int | None) -> Seen:
        maps: list[Tensor] = []
        hooks = [
            stage.register_forward_hook(lambda module, inputs, output: maps.append(output)) for stage in self.stages
        ]
        try:
            if isinstance(self.visual, ModifiedResNet):
                last = self.visual.stem(normalised)
                for stage in self.stages:
                    last = stage(last)
            else:
                last = self.visual.trunk.forward_features(normalised)
        finally:
            for hook in hooks:
                hook.remove()
        return Seen(tuple(maps), (), last, (last.shape[2], last.shape[3]))

    @torch.enable_grad()
    def last_block(self, seen: Seen, text: Tensor, attention: bool = True) -> LastBlock:
        activation = seen.before_last.detach().requires_grad_()
        if isinstance(self.visual, ModifiedResNet):
            feature = _attention_pool(self.visual.attnpool, activation)
        else:
            feature = self.visual.head(self.visual.trunk.forward_head(activation))
        return LastBlock(self._probabilities(feature, text), activation, None, seen.grid, 0)


def _attention_pool(pool: AttentionPool2d, x: Tensor) -> Tensor:
    """CLIP's attention pooling (B, C, h, w) -> (B, D) at any size: the position table is resized as the ViT's is."""
    own = pool.positional_embedding
    side = round((len(own) - 1) ** 0.5)
    squares = own[1:].T.unflatten(1, (side, side))[None]
    resized = F.interpolate(squares, size=x.shape[-2:], mode="bilinear", align_corners=False)[0].flatten(1).T
    positions = torch.cat([own[:1], resized])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + positions
    heads = (pool.num_heads, -1)
    query = pool.q_proj(x[:, :1]).unflatten(2, heads).transpose(1, 2)
    key = pool.k_proj(x).unflatten(2, heads).transpose(1, 2)
    value = pool.v_proj(x).unflatten(2, heads).transpose(1, 2)
    return pool.c_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))[:, 0]


class ClipTimmViT(VisionLanguage):
    """A timm ViT as image tower (SigLIP, EVA-CLIP, ...); maps: the patch tokens after every block.

    The image feature of ``last_block`` is the model's own pooling.
    """

    def __init__(self, model: nn.Module, *args: Any):
        super().__init__(model, *args)
        self.visual = model.visual
        trunk = self.visual.trunk
        # What timm's own dynamic_img_size=True sets; open_clip has no argument for it.
        trunk.dynamic_img_size, trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = True, False, False
        trunk.patch_embed.output_fmt = Format.NHWC
        self.tower = vit.ViT(trunk, self.name, *args[1:3])
        self.patch, self.strides, self.channels = self.tower.patch, self.tower.strides, self.tower.channels

    def _see(self, normalised: Tensor, until_last: bool, round_positions: bool, attention: int | None) -> Seen:
        seen = self.tower.tokens(normalised, norm=False, normalised=True)
        depth, before_last = len(seen.layers), seen.layers[-2]
        first = 0 if attention is None else max(0, depth - attention)
        maps = tuple(seen.attention(i).mean(1) for i in range(first, depth - until_last))
        _, rotary = self.tower.embed(normalised[..., : seen.grid[0] * self.patch, : seen.grid[1] * self.patch])
        return Seen(seen.layers[: depth - until_last], maps, before_last, seen.grid, seen.prefix, rotary)

    @torch.enable_grad()
    def last_block(self, seen: Seen, text: Tensor, attention: bool = True) -> LastBlock:
        trunk, block = self.visual.trunk, self.visual.trunk.blocks[-1]
        activation = block.norm1(seen.before_last).detach().requires_grad_()
        swap = block.norm1.register_forward_hook(lambda module, inputs, output: activation)
        try:
            x, queries, keys, _ = self.tower.run(block, seen.before_last, seen.rotary, -1)
        finally:
            swap.remove()
        feature = self.visual.head(trunk.forward_head(trunk.norm(x)))
        weights = vit.attention(queries, keys).mean(1).detach() if attention else None
        return LastBlock(self._probabilities(feature, text), activation, weights, seen.grid, seen.prefix)


def wrap(
    model: nn.Module,
    name: str = "clip",
    mean: tuple[float, ...] = table.CLIP_MEAN,
    std: tuple[float, ...] = table.CLIP_STD,
    tokenize: Callable | None = None,
) -> VisionLanguage:
    """An open_clip model as a :class:`VisionLanguage`; without ``tokenize`` CLIP's own byte-pair tokenizer."""
    visual = model.visual
    tokenize = tokenize or _byte_pairs()
    if isinstance(visual, VisionTransformer):
        return ClipViT(model, name, mean, std, tokenize)
    if isinstance(visual, ModifiedResNet):
        return ClipCNN(model, name, mean, std, tokenize)
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        if isinstance(trunk, TimmVisionTransformer | Eva) and isinstance(trunk.patch_embed, PatchEmbed):
            return ClipTimmViT(model, name, mean, std, tokenize)
        if hasattr(trunk, "stages") and hasattr(trunk, "feature_info") and not hasattr(trunk, "blocks"):
            return ClipCNN(model, name, mean, std, tokenize)
    raise UsageError(
        f"{name}: its image tower {type(visual).__name__} has no dense tokens here; choose a ViT, ResNet or ConvNeXt"
    )


def from_config(config: dict[str, Any], state: dict[str, Tensor] | None = None, name: str = "clip") -> VisionLanguage:
    """A model of any size from an open_clip configuration: {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}.

    state: its weights under OpenAI's or open_clip's names, loaded strictly; None = random.
    """
    model = open_clip.CLIP(**config)
    if state is not None:
        table.load_strictly(model, state, name)
    return wrap(model, name).freeze()  # type: ignore[return-value]


def load(row: table.Weights, weights: str = "default") -> VisionLanguage:
    """The model of a table row."""
    path = None if weights == "random" else table.resolve(row, weights)  # first: what is not here ends it at once
    quick = bool(row.tag) and bool(open_clip.get_pretrained_cfg(row.model, row.tag).get("quick_gelu"))
    logging.disable(logging.WARNING)  # open_clip warns of random weights, which we are about to replace
    try:
        model = open_clip.create_model(row.model, load_weights=False, force_quick_gelu=quick, pretrained_hf=False)
    except OSError as error:  # a text tower whose configuration lies on a hub
        raise UsageError(
            f"{row.name}: its text tower cannot be downloaded; connect once or choose clip-vit-b16"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    if path is not None:
        try:
            open_clip.factory.load_checkpoint(model, str(path))
        except (*table.UNREADABLE, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: cannot be loaded into {row.model} ({' '.join(str(error).split())[:300]}); give this model's "
                "state dict under OpenAI's or open_clip's names, as safetensors"
            ) from error
    return wrap(model, row.name, row.mean, row.std, _Tokenizer(row))


@functools.cache
def _byte_pairs() -> Callable:
    """CLIP's own tokenizer, whose table of merges is read once."""
    return open_clip.tokenizer.SimpleTokenizer()


@dataclass
class _Tokenizer:
    """The tokenizer of a table row, loaded at its first use: some lie on a hub, and images alone need none.

    Travels to another process as the row alone.
    """

    row: table.Weights

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self.loaded(list(texts))

    @functools.cached_property
    def loaded(self) -> Callable[[list[str]], Tensor]:
        try:
            return open_clip.get_tokenizer(self.row.model)
        except Exception as error:  # transformers has many errors for "no network"; the mend is the same
            raise UsageError(
                f"{self.row.name}: its tokenizer cannot be downloaded; connect once or choose clip-vit-b16"
            ) from error

    def __reduce__(self) -> tuple[type, tuple]:
        return _Tokenizer, (self.row,)
