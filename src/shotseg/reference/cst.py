"""Published checkpoints of CST (dahyun-kang/cst): key maps and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from shotseg.encoders import weights as table
from shotseg.encoders.vit import ViT
from shotseg.models.cst import CST
from shotseg.reference.pi_clip import load_by_names, renamed

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
_BACKBONE = "backbone."


def published_names(model: CST) -> dict[str, str]:
    """Our names in ``model.learner`` -> the authors', without their ``learner.``, in our order."""
    return {own: renamed(own, _RULES) for own in model.learner.state_dict()}


def load(model: CST, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load an authors' checkpoint (path or state dict): the learner, and the ViT where the file holds it.

    Raises InputError that names what is missing, unexpected or of another shape, in the authors' names.
    """
    title = "the state dict" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else table.read(Path(source))
    given = {name.removeprefix("learner."): t for name, t in state.items()}
    load_by_names(model.learner, given, published_names(model), (_BACKBONE,), title)
    backbone = {name.removeprefix(_BACKBONE): t for name, t in state.items() if name.startswith(_BACKBONE)}
    if backbone and isinstance(model.encoder, ViT):
        table.load_strictly(model.encoder.net, table.timm_names(model.encoder.net, backbone), title)
