"""Published checkpoints and word lists of TLG (jarch-ma/TLG): key maps, and literals read from a source file."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from shotseg.data.images import read_bytes
from shotseg.encoders.cnn import EveryConvVGG16
from shotseg.errors import InputError
from shotseg.models.tlg import TLG
from shotseg.reference.pi_clip import load_by_names, renamed

# Our names to theirs, rule after rule.
_RULES = [
    (r"^pyramid\.squeeze\.0\.", "hpn_learner.encoder_layer4."),
    (r"^pyramid\.squeeze\.1\.", "hpn_learner.encoder_layer3."),
    (r"^pyramid\.squeeze\.2\.", "hpn_learner.encoder_layer2."),
    (r"^pyramid\.mix\.0\.", "hpn_learner.encoder_layer4to3."),
    (r"^pyramid\.mix\.1\.", "hpn_learner.encoder_layer3to2."),
    *((rf"^(hpn_learner\.\w+)\.{i}\.query\.", rf"\1.{3 * i}.conv1.") for i in range(3)),
    *((rf"^(hpn_learner\.\w+)\.{i}\.support\.", rf"\1.{3 * i}.conv2.") for i in range(3)),
    *((rf"^(hpn_learner\.\w+)\.{i}\.norm\.", rf"\1.{3 * i + 1}.") for i in range(3)),
    (r"^decoder\.coarse\.", "decoder1."),
    (r"^decoder\.fine\.", "decoder2."),
    (r"^fuse\.", "res."),
    (r"^aggregate\.low\.", "conv_512_128."),
    (r"^aggregate\.mid\.", "conv_1024_128."),
    (r"^aggregate\.high\.", "conv_2048_128."),
    (r"^aggregate\.fuse\.", "final_cat."),
    (r"^aggregate\.merge\.", "merge.0."),
    (r"^transport\.own\.", "SelfAttention."),
    (r"^transport\.cross\.", "CrossAttention."),
    (r"^transport\.expand\.", "proj."),
    (r"^transport\.norm\.", "bn."),
    (r"^text\.project\.", "linear_512_625."),
    (r"^text\.mix\.", "conv_2_1."),
]
DEAD = ("conv1024_512.", "voc_conv_bach.", "coco_conv_batch.")  # in every checkpoint, used by nothing

# sha256 of the entries joined by newline, first 16 digits -> what the list is.
LISTS = {
    "baf64c4d09e39e42": ("voc", "names"),
    "7248098fa196b5f9": ("voc", "refined"),
    "203664045aebbc1d": ("voc", "scenes"),
    "cbe7cdb4da65dc9d": ("coco", "names"),
    "b5fc5bcf8b7f0d79": ("coco", "refined"),
    "e00d4980cdac4c19": ("coco", "scenes"),
}


def published_names(model: TLG) -> dict[str, str]:
    """Our state dict's names -> the authors', without their ``module.``, in our order."""
    backbone = r"^encoder\.features\." if isinstance(model.encoder, EveryConvVGG16) else r"^encoder\.net\."
    to = "backbone.features." if isinstance(model.encoder, EveryConvVGG16) else "backbone."
    rules = [(backbone, to), *_RULES]
    if model.aggregate.mid is model.aggregate.low:
        rules.append((r"^conv_(1024|2048)_128\.", "conv_512_128."))
    return {own: renamed(own, rules) for own in model.state_dict() if not own.startswith("guide.")}


def load(model: TLG, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load an authors' checkpoint (path or state dict) into a TLG of its backbone, ``reference=True``, with 512-d text.

    The backbone comes from the file too: its ImageNet weights decayed during training, see :func:`distance`.
    Raises InputError that names what is missing, unexpected or of another shape, in the authors' names.
    """
    left_out: tuple[str, ...] = (*DEAD, "backbone.classifier.")
    if model.aggregate.mid is model.aggregate.low:
        left_out += ("conv_1024_128.", "conv_2048_128.")  # dead where one convolution reads all three maps
    load_by_names(model, source, published_names(model), left_out)


def distance(model: TLG, imagenet: Mapping[str, Tensor]) -> float:
    """How far the encoder lies from its ImageNet weights (its own state dict's names), relative to their norm.

    About 0.005 for a checkpoint trained on several GPUs; near 1 the norm penalty of a single one has destroyed it.
    """
    own = model.encoder.state_dict()
    weights = [(own[name].double(), known.double()) for name, known in imagenet.items() if known.dim() > 1]
    apart = sum(float((ours - known).square().sum()) for ours, known in weights)
    return (apart / sum(float(known.square().sum()) for _, known in weights)) ** 0.5


def read_phrases(path: str | Path, names: Sequence[str], data: str = "voc") -> dict[str, tuple[str, str, str]]:
    """The release's phrases from a user's copy of its ``clip_text.py``, whose literals are read and which is never run.

    names: of the classes, in the order of their ids.     data: "voc" or "coco".
    Gives name -> (its own phrase, the refined one, the scenes), as :class:`shotseg.models.tlg.text_rows.TextRows` takes.
    Raises InputError for a file without the three lists, known by their hashes.
    """
    try:
        tree = ast.parse(read_bytes(path))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: no Python source ({error}); give the release's clip_text.py") from None
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.List):
            entries = [
                part.value for part in node.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            kind = LISTS.get(hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16])
            if kind is not None and kind[0] == data:
                found[kind[1]] = entries
    missing = [what for what in ("names", "refined", "scenes") if what not in found]
    if missing or len(names) != len(found["names"]):
        why = f"no list of {missing[0]}" if missing else f"{len(found['names'])} classes, not {len(names)}"
        raise InputError(f"{path}: {why} of {data!r}; give the release's clip_text.py unchanged")
    return dict(zip(names, zip(found["names"], found["refined"], found["scenes"])))


def rows_of_tables(names: Sequence[str], name: Tensor, refined: Tensor, scenes: Tensor) -> dict[str, Tensor]:
    """Ready tables, each (N, D), as (3, D) rows by class name: what a file of rows holds (``safetensors.torch.save_file``)."""
    import torch

    return {key: torch.stack([table[i] for table in (name, refined, scenes)]) for i, key in enumerate(names)}
