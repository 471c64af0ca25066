"""Published checkpoints of QGNet, and MoCo's layout of contrastive ones: key maps.

Sources: liuweide01/QGNet-Few-shot-segmentation and facebookresearch/moco.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shotseg.encoders import weights as table
from shotseg.encoders.features import Encoder
from shotseg.errors import InputError
from shotseg.models.qgnet import QGNet
from shotseg.reference.pi_clip import load_by_names, renamed

_BODY = r"^extractor\.body\.net\."
_RULES = [
    (_BODY + r"conv1\.", "layer0_unsuper.0."),
    (_BODY + r"bn1\.", "layer0_unsuper.1."),
    (_BODY + r"layer(\d)\.", r"layer\1_unsuper."),
    (r"^host\.(encoder|decoder)\.", ""),
    (r"^host\.down_support\.", "down_supp."),
    (r"^host\.", ""),
    (r"^region\.query\.", "down_learn_super."),
    (r"^region\.prior\.", "down_learn_unsuper."),
]


def published_names(model: QGNet) -> dict[str, str]:
    """Our state dict's names -> the authors', in our order, of a QGNet around PFENet, its extractor a ResNet-50."""
    return {own: renamed(own, _RULES) for own in model.state_dict()}


def load(model: QGNet, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load an authors' checkpoint (path or state dict). Raises InputError naming what is missing, unexpected or misshapen."""
    load_by_names(model, source, published_names(model))


# --- MoCo: module.encoder_q.<torchvision's names>, module.encoder_k.<the same>, module.queue; the head is fc -----------


def moco_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone in a MoCo state dict, of the momentum encoder where there is one, without its head.

    The release of QGNet looks for "module.encoder_k." alone and silently reads nothing from a file without "module.".
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for prefix in ("encoder_k.", "encoder_q.", "backbone.", ""):
        found = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
        found = {name: tensor for name, tensor in found.items() if not name.startswith(("fc.", "queue"))}
        if found:
            return found
    return {}


def load_moco(encoder: Encoder, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load the backbone of a MoCo checkpoint (path or state dict) into an encoder of the same network.

    Raises InputError that names what is missing, unexpected or of another shape.
    """
    title = "the state dict" if isinstance(source, Mapping) else str(source)
    state = moco_backbone(table.read(Path(source)) if not isinstance(source, Mapping) else source)
    net: nn.Module = getattr(encoder, "net", encoder)
    table.load_strictly(net, _with_own_classifier(net, state), title)


def moco_state(contrastive: Any) -> dict[str, Tensor]:
    """The state dict of a trained :class:`shotseg.training.momentum.Contrastive` in MoCo's layout."""
    state: dict[str, Tensor] = {}
    for prefix, branch in (("module.encoder_q.", contrastive.online), ("module.encoder_k.", contrastive.target)):
        net: nn.Module = getattr(branch.encoder, "net", branch.encoder)
        kept = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(("fc.", "classifier"))}
        head = {f"fc.{name}": tensor for name, tensor in branch.head.state_dict().items()}
        state |= {prefix + name: tensor for name, tensor in (kept | head).items()}
    return state | {"module.queue": contrastive.queue_global, "module.queue_ptr": contrastive.pointer}


def write_moco(contrastive: Any, path: str | Path, epoch: int = 0) -> None:
    """Write a file that MoCo's own scripts read."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in moco_state(contrastive).items()}
    torch.save({"epoch": epoch, "arch": contrastive.online.encoder.name, "state_dict": state}, path)


def _with_own_classifier(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the network's own classifier, which no contrastive checkpoint has and no map comes from."""
    own = {n: t for n, t in net.state_dict().items() if n.startswith(("fc.", "classifier", "head.")) and n not in state}
    if not state:
        raise InputError(
            "the MoCo checkpoint holds no backbone; give a file with encoder_k, encoder_q or backbone keys"
        )
    return state | own
