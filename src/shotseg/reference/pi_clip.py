"""Published checkpoints of PFENet, BAM, HDMNet, PI-CLIP and their base learners: key maps and nothing else.

The names are those of dvlab-research/PFENet, chunbolang/BAM, Pbihao/HDMNet and vangjin/PI-CLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shotseg.encoders import weights as table
from shotseg.errors import InputError, UsageError

# Our names to theirs, rule after rule.
_ENCODER = [(r"^encoder\.", "")]
_POOLING = [(r"ppm\.branches\.(\d)\.0\.", r"ppm.features.\1.1."), (r"ppm\.branches\.(\d)\.1\.", r"ppm.features.\1.2.")]
_ENSEMBLE = [(r"^ensemble\.vote\.", "kshot_rw."), (r"^ensemble\.", ""), (r"^down_support\.", "down_supp.")]
_T = "transformer.mix_transformer"

_RULES: dict[str, list[tuple[str, str]]] = {
    "BaseLearner": [
        *_ENCODER,
        *_POOLING,
        (r"^head\.classify\.2\.", "cls.4."),
        (r"^head\.embed\.", "cls."),
        (r"^head\.", ""),
    ],
    "PFENet": [*_ENCODER, (r"^down_support\.", "down_supp."), (r"^decoder\.", "")],
    "BAM": [
        *_ENCODER,
        *_POOLING,
        *_ENSEMBLE,
        (r"^base\.ppm\.", "learner_base.0."),
        (r"^base\.embed\.", "learner_base.1."),
        (r"^base\.classify\.2\.", "learner_base.1.4."),
        (r"^aspp\.branches\.(\d)\.", r"ASPP_meta.layer6_\1."),
        (r"^(res1|res2|cls)\.", r"\1_meta."),
    ],
    "HDMNet": [
        *_ENCODER,
        *_POOLING,
        *_ENSEMBLE,
        (r"^support_merge\.", "supp_merge."),
        (r"^base\.embed\.", "cls."),
        (r"^base\.classify\.", "base_learnear."),  # sic
        (r"^base\.", ""),
        (r"^transformer\.down\.(\d)\.project\.", rf"{_T}.down_sample_layers.\1.0.projection."),
        (r"^transformer\.down\.(\d)\.embed_norm\.", rf"{_T}.down_sample_layers.\1.0.norm."),
        (r"^transformer\.down\.(\d)\.blocks\.0\.", rf"{_T}.down_sample_layers.\1.1."),
        (r"^transformer\.down\.(\d)\.blocks\.1\.", rf"{_T}.down_sample_layers.\1.2."),
        (r"^transformer\.down\.(\d)\.norm\.", rf"{_T}.down_sample_layers.\1.3."),
        (r"^transformer\.match\.(\d)\.", rf"{_T}.match_layers.\1.0."),
        (r"^transformer\.fuse\.(\d)\.0\.", rf"{_T}.match_layers.\1.1.conv."),
        (r"^transformer\.fuse\.(\d)\.1\.", rf"{_T}.match_layers.\1.1.bn."),
        (r"^transformer\.parse\.", f"{_T}.parse_layers."),
        (r"^transformer\.cls\.", f"{_T}.cls."),
        (r"\.attention\.(\w)\w*\.weight$", r".attn.attn.linear_\1.weight"),
        (r"\.reduce\.", ".attn.sr."),
        (r"\.reduce_norm\.", ".attn.norm."),
    ],
}
# In their files, but not of the model: a second copy of the backbone, and CLIP, which comes from its own source.
_LEFT_OUT = ("encoder.", "clip_model.")


def published_names(model: nn.Module) -> dict[str, str]:
    """Our state dict's names -> the authors', in our order."""
    host, prefix = _host(model)
    return {prefix + own: renamed(own, _RULES[type(host).__name__]) for own in host.state_dict()}


def renamed(name: str, rules: list[tuple[str, str]]) -> str:
    """A name after one regular expression and its replacement after another."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def load(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load an authors' checkpoint (path or state dict) into a BaseLearner, PFENet, BAM, HDMNet, or a PICLIP around one.

    Raises InputError that names what is missing, unexpected or of another shape, in the authors' names.
    """
    load_by_names(model, source, published_names(model), _LEFT_OUT)


def load_by_names(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    names: Mapping[str, str],
    left_out: tuple[str, ...] = (),
    title: str = "",
) -> None:
    """Load a checkpoint by our names -> the authors'; keys that begin with one of ``left_out`` are not read.

    title: what an error calls the checkpoint; default its path.

    Raises InputError that names what is missing, unexpected or of another shape, in the authors' names.
    """
    title = title or ("the state dict" if isinstance(source, Mapping) else str(source))
    state = table.read(Path(source)) if not isinstance(source, Mapping) else source
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}
    own = model.state_dict()
    counters = {theirs for theirs in names.values() if theirs.endswith("num_batches_tracked")}
    wrong = {
        "missing": [theirs for theirs in names.values() if theirs not in state and theirs not in counters],
        "unexpected": [theirs for theirs in state if theirs not in set(names.values())],
        "of another shape": [t for ours, t in names.items() if t in state and state[t].shape != own[ours].shape],
    }
    if any(wrong.values()):
        made = f"made for {type(model).__name__} with these options"
        raise InputError(f"{title}: {table.describe(wrong)}; load a checkpoint {made}")
    loaded = {ours: state.get(theirs, own[ours]) for ours, theirs in names.items()}
    model.load_state_dict(own | loaded)


def _host(model: Any) -> tuple[nn.Module, str]:
    """The module that a checkpoint's names speak of, and where it lies in ``model``."""
    host, prefix = (model.host, "host.") if type(model).__name__ == "PICLIP" else (model, "")
    name = type(host).__name__
    if name not in _RULES:
        raise UsageError(f"no published checkpoint is known for {name}; choose one of {', '.join(_RULES)}")
    return host, prefix
