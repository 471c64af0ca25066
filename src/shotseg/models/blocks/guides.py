"""The guides to a class by its name, by their own names."""

from __future__ import annotations

from shotseg.encoders.features import Encoder
from shotseg.encoders.vit import ViT
from shotseg.models.blocks.class_guide import Guide, Refine
from shotseg.models.blocks.imagenet_guide import ImageNetGuide


def guide_of(name: str, encoder: Encoder, clip: str | Encoder, refine: Refine | None) -> Guide:
    """The guide "imagenet-text" or "clip"; "auto" is CLIP beside a ViT, else what needs no download."""
    if name == "imagenet-text" or (name == "auto" and not isinstance(encoder, ViT)):
        return ImageNetGuide(encoder, refine or "guided")
    from shotseg.models.blocks.clip_guide import ClipGuide  # open_clip is slow to import

    return ClipGuide(clip, refine or "par")
