"""The tiny CLIPs of the golden files, rebuilt from their recipes."""

import json
import math

import numpy as np
import torch

import golden
from shotseg.encoders import clip


def pi_clip() -> clip.ClipViT:
    """The tiny CLIP of ``pi_clip/clip_tiny_weights`` (token rows that are not stored are never read: zeros)."""
    root = golden.folder("pi_clip")
    sizes = golden.load_json(root / "clip_tiny_manifest.json")["config"]
    state, _ = golden.tensors(root / "clip_tiny_weights.safetensors")
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    embedding = torch.zeros(sizes["vocab_size"], sizes["transformer_width"])
    embedding[state.pop("token_embedding.row_ids").long()] = state.pop("token_embedding.rows")
    vision = {
        "image_size": sizes["image_resolution"],
        "layers": sizes["vision_layers"],
        "width": sizes["vision_width"],
        "patch_size": sizes["vision_patch_size"],
    }
    text = {
        "context_length": sizes["context_length"],
        "vocab_size": sizes["vocab_size"],
        "width": sizes["transformer_width"],
        "heads": sizes["transformer_heads"],
        "layers": sizes["transformer_layers"],
    }
    config = {"embed_dim": sizes["embed_dim"], "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    return clip.from_config(config, state | {"token_embedding.weight": embedding})


def clipes() -> clip.ClipViT:
    """The tiny ViT of ``corenet/clipes_gradcam``; its scale is 1 / 0.07."""
    vision = {"image_size": 64, "layers": 10, "width": 128, "patch_size": 16}
    return _visual_only(vision, "clipes_vit_tiny", seed=555, scale=1 / 0.07)


def imr() -> clip.ClipCNN:
    """The tiny ResNet of ``corenet/imr_gradcam``; its scale is 100."""
    vision = {"image_size": 96, "layers": (1, 1, 1, 1), "width": 16, "patch_size": None}
    # open_clip spreads width * 32 channels over heads of this width: 8 heads.
    return _visual_only(vision, "imr_rn_tiny", seed=556, scale=100)


def _visual_only(vision: dict, manifest: str, seed: int, scale: float):
    text = {"context_length": 77, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    model = clip.from_config({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True})
    model.visual.load_state_dict(by_recipe(manifest, seed), strict=False)
    model.model.logit_scale.fill_(math.log(scale))
    return model


def by_recipe(name: str, seed: int, manifest: str = "manifest_small.json") -> dict[str, torch.Tensor]:
    """The weights that the README of ``corenet`` describes."""
    rng = np.random.default_rng(seed)
    weights = {}
    for key, shape, *default in json.loads((golden.folder("corenet") / manifest).read_text())[name]:
        if default:
            continue
        noise = rng.standard_normal(shape)
        if key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(noise)
        elif len(shape) > 1:
            value = noise / np.sqrt(np.prod(shape[1:]))
        elif key.endswith("weight"):
            value = 1 + 0.1 * noise
        else:
            value = 0.05 * noise
        weights[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return weights


def random() -> clip.ClipViT:
    """A tiny CLIP of random weights, for tests of what does not depend on them; no golden file is read."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    return clip.from_config({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True})
