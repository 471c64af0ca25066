"""Checkpoints of MaskFormer and SimFormer in detectron2's and transformers' layout: key maps and nothing else.

detectron2's names are those of facebookresearch/MaskFormer and bcmi/SimFormer-Weak-Shot-Semantic-Segmentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shotseg.encoders import weights as table
from shotseg.errors import InputError
from shotseg.models.maskformer import MaskFormer
from shotseg.models.simformer.pixel_similarity import SimNet

_ENCODER, _DECODER = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder"
_TRANSFORMER = "model.transformer_module"
_LAYER = rf"{_TRANSFORMER}.decoder.layers.\1"

# detectron2 to transformers, rule after rule.
_RULES = [
    (r"^backbone\.stem\.conv1\.norm\.", f"{_ENCODER}.embedder.embedder.normalization."),
    (r"^backbone\.stem\.conv1\.", f"{_ENCODER}.embedder.embedder.convolution."),
    (r"^backbone\.res(\d)\.(\d+)\.shortcut\.norm\.", rf"{_ENCODER}.encoder.stages.<\1-2>.layers.\2.shortcut.normalization."),
    (r"^backbone\.res(\d)\.(\d+)\.shortcut\.", rf"{_ENCODER}.encoder.stages.<\1-2>.layers.\2.shortcut.convolution."),
    (r"^backbone\.res(\d)\.(\d+)\.conv(\d)\.norm\.", rf"{_ENCODER}.encoder.stages.<\1-2>.layers.\2.layer.<\3-1>.normalization."),
    (r"^backbone\.res(\d)\.(\d+)\.conv(\d)\.", rf"{_ENCODER}.encoder.stages.<\1-2>.layers.\2.layer.<\3-1>.convolution."),
    (r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)", "sem_seg_head.pixel_decoder."),  # older files
    (r"^sem_seg_head\.pixel_decoder\.layer_4\.norm\.", f"{_DECODER}.fpn.stem.1."),
    (r"^sem_seg_head\.pixel_decoder\.layer_4\.", f"{_DECODER}.fpn.stem.0."),
    (r"^sem_seg_head\.pixel_decoder\.adapter_(\d)\.norm\.", rf"{_DECODER}.fpn.layers.<3-\1>.proj.1."),
    (r"^sem_seg_head\.pixel_decoder\.adapter_(\d)\.", rf"{_DECODER}.fpn.layers.<3-\1>.proj.0."),
    (r"^sem_seg_head\.pixel_decoder\.layer_(\d)\.norm\.", rf"{_DECODER}.fpn.layers.<3-\1>.block.1."),
    (r"^sem_seg_head\.pixel_decoder\.layer_(\d)\.", rf"{_DECODER}.fpn.layers.<3-\1>.block.0."),
    (r"^sem_seg_head\.pixel_decoder\.mask_features\.", f"{_DECODER}.mask_projection."),
    (r"^sem_seg_head\.predictor\.query_embed\.", f"{_TRANSFORMER}.queries_embedder."),
    (r"^sem_seg_head\.predictor\.input_proj\.", f"{_TRANSFORMER}.input_projection."),
    (r"^sem_seg_head\.predictor\.class_embed\.", "class_predictor."),
    (r"^sem_seg_head\.predictor\.mask_embed\.layers\.(\d)\.", r"mask_embedder.\1.0."),
    (r"^sem_seg_head\.predictor\.transformer\.decoder\.norm\.", f"{_TRANSFORMER}.decoder.layernorm."),
    (r"^sem_seg_head\.predictor\.transformer\.decoder\.layers\.(\d+)\.", _LAYER + "."),
    (r"\.multihead_attn\.", ".encoder_attn."),
    (r"_attn\.out_proj\.", "_attn.o_proj."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"(layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(layers\.\d+)\.norm2\.", r"\1.encoder_attn_layer_norm."),
    (r"(layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
]  # fmt: skip

# files of transformers, which keep the names of its version 4, to the names of its modules
_HUB = [(r"_attn\.out_proj\.", "_attn.o_proj."), (r"(decoder\.layers\.\d+)\.(fc\d)\.", r"\1.mlp.\2.")]

_NETWORK, _CRITERION = ("backbone.", "sem_seg_head."), "criterion."
_NOT_SIMNET = re.compile(r"(backbone|sem_seg_head|criterion(?!\.cro_pixel_sim_net))\.")

# transformers to ours
_OURS = [
    (f"{_ENCODER}.", "encoder.net."),
    (f"{_DECODER}.", "pixel_decoder."),
    (f"{_TRANSFORMER}.", "transformer."),
]

_SIMNET = [
    (r"^criterion\.cro_pixel_sim_net\.", ""),
    (r"^fc_branch\.layers\.block(\d)\.", r"blocks.\1."),
    (r"\.layer(\d)\.", r".conv\1."),
    (r"\.sqz\.", ".shortcut."),
    (r"^out_head\.", "out."),
]


def transformers_names(name: str) -> list[str]:
    """The name(s) in transformers of a detectron2 name: three for a joined matrix of queries, keys and values."""
    for pattern, ours in _RULES:
        name = re.sub(pattern, ours, name)
    name = re.sub(r"<(\d)-(\d)>", lambda m: str(int(m[1]) - int(m[2])), name)
    if ".in_proj_" in name:
        stem, kind = name.split(".in_proj_")
        return [f"{stem}.{part}_proj.{kind}" for part in "qkv"]
    return [name]


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detectron2 state dict under the names of transformers, unknown names as they are; ``criterion.`` is left out."""
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(_CRITERION):
            names = transformers_names(name)
            named.update(zip(names, tensor.chunk(len(names))))
    return named


def to_detectron2(state: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, Tensor]:
    """The way back, for the detectron2 ``names`` that are wanted."""
    wanted = {name: transformers_names(name) for name in names if name.startswith(_NETWORK)}
    return {name: torch.cat([state[part] for part in parts]) for name, parts in wanted.items()}


def simnet_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of SimNet in a SimFormer checkpoint, under our names."""
    return _renamed({name: tensor for name, tensor in state.items() if not _NOT_SIMNET.match(name)}, _SIMNET)


def load(path: str | Path, heads: int = 8, size: int = 640) -> MaskFormer:
    """The network of a published ResNet checkpoint, in either layout; its sizes are read from the tensors.

    heads: of the transformer decoder, which no tensor tells.       size: shorter side at which photos are segmented.
    Raises InputError for a file of another network.
    """
    return from_state(table.read(Path(path)), path, heads, size)


def from_state(state: Mapping[str, Tensor], path: str | Path = "state", heads: int = 8, size: int = 640) -> MaskFormer:
    """As :func:`load`, of tensors in memory."""
    from transformers import AutoBackbone, ResNetConfig

    from shotseg.encoders.hf import TransformersBackbone

    state = to_transformers(state) if any(name.startswith("sem_seg_head.") for name in state) else _renamed(state, _HUB)
    try:
        stages = [_numbers(state, rf"{_ENCODER}\.encoder\.stages\.{i}\.layers\.(\d+)\.") for i in range(4)]
        stem = f"{_ENCODER}.embedder.embedder.convolution.weight"
        widths = [
            state[f"{_ENCODER}.encoder.stages.{i}.layers.0.layer.2.convolution.weight"].shape[0] for i in range(4)
        ]
        config: Any = ResNetConfig(  # type: ignore[call-arg]
            layer_type="bottleneck",
            depths=stages,
            embedding_size=state[stem].shape[0],
            hidden_sizes=widths,
            downsample_in_bottleneck=False,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        queries, width = state[f"{_TRANSFORMER}.queries_embedder.weight"].shape
        layers = _numbers(state, rf"{_TRANSFORMER}\.decoder\.layers\.(\d+)\.")
        ffn = state[f"{_TRANSFORMER}.decoder.layers.0.mlp.fc1.weight"].shape[0]
        model = MaskFormer(
            TransformersBackbone(AutoBackbone.from_config(config)),
            state["class_predictor.weight"].shape[0] - 1,
            size=size,
            width=width,
            mask_width=state[f"{_DECODER}.mask_projection.weight"].shape[0],
            queries=queries,
            layers=layers,
            heads=heads,
            ffn=ffn,
        )
    except KeyError as error:
        raise InputError(f"{path}: no MaskFormer on a ResNet, {error} is missing; give a checkpoint of one") from None
    fill(model, state, path)
    return model.eval()


def fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill a network of ours on a transformers backbone from names of transformers; strictly."""
    ours = {}
    for name, tensor in state.items():
        if not name.startswith(_CRITERION):  # what transformers keeps of its own loss
            for theirs, own in _OURS:
                name = name.replace(theirs, own, 1) if name.startswith(theirs) else name
            ours[name] = tensor
    table.load_strictly(model, ours, path)


def load_simnet(state: Mapping[str, Tensor], path: str | Path = "state") -> SimNet:
    """The SimNet of a SimFormer checkpoint. Raises InputError for a state dict without one, or with unknown names."""
    named = simnet_names(state)
    if "blocks.0.conv1.weight" not in named:
        missing = "criterion.cro_pixel_sim_net.fc_branch.layers.block0.layer1.weight"
        raise InputError(f"{path}: no SimNet, {missing} is missing; give a checkpoint of SimFormer's training")
    width, channels = named["blocks.0.conv1.weight"].shape[:2]
    blocks = _numbers(named, r"blocks\.(\d+)\.")
    simnet = SimNet(channels, width, blocks, norm="blocks.0.bn1.weight" in named)
    table.load_strictly(simnet, named, path)
    return simnet.eval()


def load_floor(state: Mapping[str, Tensor], path: str | Path = "state") -> float:
    """The option ``floor`` of a SimFormer checkpoint. Raises InputError for a state dict without one."""
    if "criterion.ingore_th" not in state:  # sic
        raise InputError(f"{path}: criterion.ingore_th is missing; give a checkpoint of SimFormer's training")
    return float(state["criterion.ingore_th"])


def _renamed(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    named = dict(state)
    for pattern, ours in rules:
        named = {re.sub(pattern, ours, name): tensor for name, tensor in named.items()}
    return named


def _numbers(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers occur in the names that match."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})
