"""Frozen vision transformers at any image size: every layer's tokens, queries, keys, values and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from shotseg.encoders import weights as table
from shotseg.encoders.features import Encoder, Features


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a ViT computes on the way. T = prefix + h * w tokens: class token, registers, then patches row by row.

    layers:  one (B, T, D) a block, its output, shallow to deep.
    queries, keys, values: one (B, heads, T, d) a block, as they enter the attention (queries unscaled).
    grid:    (h, w) in patches.     prefix: how many tokens stand before the patches.
    """

    layers: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    grid: tuple[int, int]
    prefix: int

    def map(self, tokens: Tensor) -> Tensor:
        """The patch tokens of (B, T, D) as a map (B, D, h, w)."""
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def attention(self, layer: int = -1) -> Tensor:
        """(B, heads, T, T) attention of one block, every row summing to 1."""
        return attention(self.queries[layer], self.keys[layer])


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, heads, T, T) softmax attention of (B, heads, T, d) queries and keys."""
    return (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(-1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """The values (B, heads, T, d) as they are attended to, and the attention averaged over the heads (B, T, T), without
    gradient, where it is ``wanted``: otherwise they take half the time."""
    if not wanted:
        return F.scaled_dot_product_attention(queries, keys, values), None
    weights = attention(queries, keys)
    return weights @ values, weights.detach().mean(1)


class ViT(Encoder):
    """A timm ViT (Dosovitskiy et al. 2021) with its tokens at any image size; sides are cut to a multiple of the patch.

    Maps: the patch tokens of every block after the final LayerNorm, with their class tokens.

    positions: how the learned position table is resized. "dino" (DINO and DINOv2 without registers): bicubic with scale
    factor (n + 0.1) / grid, as released. "timm" (all others): bicubic with antialiasing; rotary tables are computed at
    the new size.
    """

    net: Any

    def __init__(self, net: Any, name: str, mean: tuple[float, ...], std: tuple[float, ...], positions: str = "timm"):
        super().__init__(mean, std)
        self.name, self.net, self.positions = name, net, positions
        self.patch = self.net.patch_embed.patch_size[0]
        self.strides = (self.patch,) * len(self.net.blocks)
        self.channels = (self.net.embed_dim,) * len(self.net.blocks)
        module: Any
        for module in self.net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True  # the one call that the recorder sees

    def tokens(self, images: Tensor, *, norm: bool = True, normalised: bool = False) -> Tokens:
        """Everything that the blocks compute for (B, 3, H, W) images in [0, 1].

        norm: pass every block's output through the final LayerNorm.    normalised: the images already are.
        """
        if not normalised:
            images = (images - self.mean) / self.std
        height, width = (side // self.patch for side in images.shape[-2:])
        x, rotary = self.embed(images[..., : height * self.patch, : width * self.patch])
        outputs = []
        for depth, block in enumerate(self.net.blocks):
            outputs.append(self.run(block, x, rotary, depth))
            x = outputs[-1][0]
        layers, queries, keys, values = zip(*outputs)
        if norm:
            layers = tuple(self.net.norm(layer) for layer in layers)
        return Tokens(layers, queries, keys, values, (height, width), self.net.num_prefix_tokens)

    def run(
        self, block: nn.Module, x: Tensor, rotary: Tensor | None, depth: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One block on (B, T, D) tokens: its output and its attention's queries, keys and values."""
        with _AttentionRecorder() as seen:
            x = block(x) if rotary is None else block(x, rope=rotary[depth] if self.net.rope_mixed else rotary)
        return x, *seen.queries_keys_values

    def embed(self, normalised: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens (B, T, D) that enter the first block, and the rotary table where the family has one."""
        x = self.net.patch_embed(normalised)
        if self.positions == "dino":
            grid = x.shape[1:3]
            x = torch.cat([self.net.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
            return self.net.norm_pre(x + dino_positions(self.net.pos_embed, grid)), None
        rope: Any = getattr(self.net, "rope", None)
        if getattr(rope, "feat_shape", None) is not None:
            rope.update_feat_shape(list(x.shape[1:3]))  # a table made for one size keeps that size unless told
        embedded = self.net._pos_embed(x)
        x, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
        return self.net.norm_pre(x), rotary

    def extract(self, normalised: Tensor) -> Features:
        tokens = self.tokens(normalised, normalised=True)
        # A model without a class token (SigLIP) is represented by its mean token.
        classes = tuple(t[:, 0] if tokens.prefix else t.mean(1) for t in tokens.layers)
        return Features(tuple(tokens.map(t) for t in tokens.layers), self.strides, classes)


def dino_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """DINO's position table (1, 1 + n * n, D) for another grid, (1, 1 + h * w, D); the class row is kept.

    The scale factor (h + 0.1) / n decides where the table is sampled, so the 0.1 is part of the released features.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if tuple(grid) == (side, side):
        return table
    squares = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = tuple((n + 0.1) / side for n in grid)
    resized = F.interpolate(squares, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class _AttentionRecorder(TorchFunctionMode):
    """Keeps the queries, keys and values of the fused attention that runs inside it."""

    queries_keys_values: tuple[Tensor, Tensor, Tensor]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.queries_keys_values = args[:3]
        return func(*args, **(kwargs or {}))


def load(row: table.Weights, weights: str = "default") -> ViT:
    """The ViT of a table row, at any image size."""
    net = timm.create_model(row.model, dynamic_img_size=True)
    if weights != "random":
        path = table.resolve(row, weights)
        table.load_strictly(net, table.timm_names(net, table.read(path)), path)
    as_dino = "dino" in row.model and net.pos_embed is not None and net.reg_token is None
    return ViT(net, row.name, row.mean, row.std, "dino" if as_dino else "timm")
