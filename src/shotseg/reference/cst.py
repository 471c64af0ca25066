"""Published checkpoints of CST (dahyun-kang/cst): key maps and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from shotseg.encoders import weights as table
from shotseg.encoders.vit import ViT
from shotseg.errors import InputError
from shotseg.models.cst import CST

# Our names to theirs, rule after rule.
_RULES = [
    (r"^transformer\.", "corrtransformer."),
    (r"\.attention\.shortcut\.0\.", ".attn.short_cut.0."),
    (r"\.attention\.shortcut\.1\.", ".attn.short_cut.2."),
    (r"\.attention\.merge\.", ".attn.agg."),
    (r"\.attention\.norm\.", ".attn.out_norm."),
    (r"\.attention\.", ".attn."),
    (r"\.feed_forward\.", ".ff.ff."),
    (r"^(corrtransformer\.\d)\.norm\.", r"\1.ff.out_norm."),
    (r"^common\.", "linear."),
    (r"^presence\.first\.", "decoder1_cls."),
    (r"^presence\.second\.", "decoder2_cls."),
    (r"^mask\.first\.", "decoder1_seg."),
    (r"^mask\.second\.", "decoder2_seg."),
]


def published_names(model: CST) -> dict[str, str]:
    """Our names in ``model.learner`` -> the authors', without their ``learner.``, in our order."""
    names = {}
    for own in model.learner.state_dict():
        name = own
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        names[own] = name
    return names


def load(model: CST, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load an authors' checkpoint (path or state dict): the learner, and the ViT where the file holds it.

    Raises InputError that names what is missing, unexpected or of another shape, in the authors' names.
    """
    title = "the state dict" if isinstance(source, Mapping) else str(source)
    state = dict(source) if isinstance(source, Mapping) else table.read(Path(source))
    backbone = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    given = {name.removeprefix("learner."): t for name, t in state.items() if not name.startswith("backbone.")}
    own, names = model.learner.state_dict(), published_names(model)
    wrong = {
        "missing": [theirs for theirs in names.values() if theirs not in given],
        "unexpected": [theirs for theirs in given if theirs not in set(names.values())],
        "of another shape": [t for ours, t in names.items() if t in given and given[t].shape != own[ours].shape],
    }
    if any(wrong.values()):
        raise InputError(f"{title}: {table.describe(wrong)}; load a checkpoint of CST made for this encoder")
    model.learner.load_state_dict({ours: given[theirs] for ours, theirs in names.items()})
    if backbone and isinstance(model.encoder, ViT):
        table.load_strictly(model.encoder.net, table.timm_names(model.encoder.net, backbone), title)
