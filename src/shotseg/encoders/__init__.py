"""Frozen encoders by name.

A name is one of :func:`list_encoders`, ``timm:<model>`` for any timm CNN or ViT, ``open_clip:<model>[/<tag>]``, or
``transformers:<repository or folder>`` for any backbone of transformers.
"""

from __future__ import annotations

from pathlib import Path

from shotseg import heap, plugins
from shotseg.arguments import checked
from shotseg.device import one_thread_each
from shotseg.encoders.features import Encoder, Features
from shotseg.encoders.weights import TABLE, Weights, list_weights, open_clip_row, timm_row
from shotseg.errors import UsageError, one_of

__all__ = ["Encoder", "Features", "Weights", "list_encoders", "list_weights", "load"]

# timm's files whose models are plain ViTs: patch tokens in one resolution, a list of blocks.
_TIMM_VITS = ("vision_transformer", "eva", "deit")


def list_encoders() -> list[str]:
    """The names in the table, the offline default first, then those that other packages add.

    :func:`load` also takes any timm or open_clip model.
    """
    return list(dict.fromkeys([*TABLE, *plugins.added("encoders")]))


@checked
@one_thread_each()  # the networks are tried on small photos
def load(name: str = "efficientnet-lite0", weights: str | Path = "default", device: str = "cpu") -> Encoder:
    """The frozen encoder ``name`` on ``device``.

    weights: "default" (downloaded once by the owning library), "random", or the path of a local file.

    Raises :class:`UsageError` for an unknown name or weights that cannot be downloaded, :class:`InputError` for a
    weights file that is missing, damaged, or of another network.
    """
    row, weights = row_of(name), str(weights)
    if row is not None:
        encoder = _build(row, weights)
    elif name.startswith("transformers:"):
        from shotseg.encoders import hf

        encoder = hf.load(name, weights)
    else:
        encoder = plugins.made("encoders", name, Encoder, weights)
    heap.started()
    return encoder.freeze().to(device)


def row_of(name: str) -> Weights | None:
    """The row of an encoder's weights; None where another package or transformers brings them.

    Raises UsageError for an unknown name.
    """
    if not isinstance(name, str):
        raise UsageError(f"encoder {name!r}: give its name, as {list_encoders()[0]}, or leave it out")
    other = name.startswith("transformers:") or (name not in TABLE and name in plugins.added("encoders"))
    return None if other else _row(name)


def _row(name: str) -> Weights:
    library, _, model = name.partition(":")
    if library == "timm" and model:
        return timm_row(model)
    if library == "open_clip" and model:
        return open_clip_row(model)
    if name not in TABLE:
        raise UsageError(f"unknown encoder {name!r}{one_of(name, list_encoders())}, timm:<model> or open_clip:<model>")
    return TABLE[name]


def _build(row: Weights, weights: str) -> Encoder:
    if row.name.startswith(("clip-", "open_clip:")):
        from shotseg.encoders import clip

        return clip.load(row, weights)
    if row.name.startswith("timm:") or row.name.startswith("dino"):
        from timm.models import is_model_in_modules

        if is_model_in_modules(row.model.partition(".")[0], _TIMM_VITS):
            from shotseg.encoders import vit

            return vit.load(row, weights)
    from shotseg.encoders import cnn

    own = {
        "efficientnet-lite0": cnn.EfficientNetLite,
        "efficientnet-lite2": cnn.EfficientNetLite,
        "efficientnet-lite0-blocks": cnn.EveryBlockEfficientNetLite0,
        "resnet50": cnn.EveryBlockResNet,
        "resnet101": cnn.EveryBlockResNet,
        "vgg16": cnn.EveryConvVGG16,
        "resnet50-v2": cnn.DilatedResNet50,
        "resnet101-v2": cnn.DilatedResNet101,
        "vgg16-bn": cnn.SlicedVGG16BN,
    }
    return own.get(row.name, cnn.TimmCNN)(row, weights)
