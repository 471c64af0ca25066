"""Masks from a class name alone, for photos that nobody has drawn on: generators by name.

generator = pseudo_masks.load("clip-es", device)
found = generator(photo, ["dog", "sofa"], labels="image")     # found.labels, found.masks, found.probabilities
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from shotseg import encoders, plugins
from shotseg.arguments import check, checked
from shotseg.errors import UsageError, one_of
from shotseg.priors import generators, words
from shotseg.priors.cut import REFINE, Cut
from shotseg.priors.generators import Generator


@dataclass(frozen=True)
class Options:
    """What a generator is made of.

    encoder, weights: as :func:`shotseg.encoders.load` has them; default the paper's own encoder.
    dino, dino_weights: the second encoder of "fused".
    words:     class phrases and background words of the user's own (a YAML file); default ours.
    classes:   those of the data set, which compete in "imr".
    reference: the slips of the released code of CLIP-ES and IMR-HSNet: see ``text.as_released`` and ``Imr.crop``.
    cut:       fields of :class:`shotseg.priors.cut.Cut` to change: high, low, refine, sharpness, rescue.
    """

    encoder: str | None = None
    weights: str = "default"
    dino: str = "dino-vits8"
    dino_weights: str = "default"
    words: str | None = None
    classes: tuple[str, ...] = ()
    reference: bool = False
    cut: dict[str, Any] = field(default_factory=dict)


def list_generators() -> list[str]:
    """The names that :func:`load` takes: ours, then those that other packages add."""
    return list(GENERATORS | plugins.added("generators"))


@checked
def load(name: str = "imagenet-text", device: torch.device | str = "cpu", **options: Any) -> Generator:
    """The generator ``name``, one of :func:`list_generators`; ``options``: fields of :class:`Options`.

    Raises UsageError (one line) for an unknown name, option or field of the cut, or for weights that are neither here nor
    can be downloaded.
    """
    if name not in (names := list_generators()):
        raise UsageError(f"unknown generator {name!r}{one_of(name, names)}")
    _check_fields("a generator", options, Options)
    check(Options, **options)
    chosen = Options(**options)
    _check_fields("the cut", chosen.cut, Cut)
    check(Cut, **chosen.cut)
    if (refine := chosen.cut.get("refine", "none")) not in (*REFINE, "none"):
        raise UsageError(f"cut: refine {refine!r}; choose one of {', '.join(REFINE)}, none")
    given = (chosen, str(device))
    generator = GENERATORS[name](*given) if name in GENERATORS else plugins.made("generators", name, Generator, *given)
    generator.cut = replace(generator.cut, **chosen.cut)
    return generator


def _check_fields(what: str, given: Mapping[str, Any], kind: type) -> None:
    known = [f.name for f in fields(kind)]
    if unknown := given.keys() - known:
        raise UsageError(f"{what} has no option {min(unknown)!r}{one_of(min(unknown), known)}")


@torch.no_grad()
def from_name(image: np.ndarray, name: str, device: torch.device | str = "cpu") -> np.ndarray:
    """The pseudo mask (H, W) uint8 in {0, 1} of the class ``name`` in a photo (H, W, 3) uint8 that shows it.

    By "imagenet-text", which needs no download. Never empty: the class is known to be there.
    Raises UsageError where the extra ``offline-text`` is not installed.
    """
    return _offline(str(device))(image, [name]).masks[0]


@lru_cache(maxsize=1)
def _offline(device: str) -> Generator:
    return load("imagenet-text", device)


def _imagenet_text(options: Options, device: str) -> Generator:
    from shotseg.encoders.imagenet_text import ImageNetText

    if options.encoder not in (None, "efficientnet-lite0"):
        raise UsageError(f"imagenet-text has a classifier of its own, not {options.encoder!r}; leave the encoder out")
    return generators.ImageNetMaps(ImageNetText(device))


def _objectness(options: Options, device: str) -> Generator:
    return generators.Objectness(encoders.load(options.encoder or "efficientnet-lite0", options.weights, device))


def _clip_es(options: Options, device: str) -> generators.ClipES:
    from shotseg.priors import text

    prior = text.as_released(text.CLIP_ES_MAPS) if options.reference else text.CLIP_ES_MAPS
    return generators.ClipES(_clip(options, "clip-vit-b16", device), prior, _own_words(options))


def _imr(options: Options, device: str) -> Generator:
    clip = _clip(options, "clip-rn50", device)
    return generators.Imr(clip, options.classes, _own_words(options), "center" if options.reference else "none")


def _dino(options: Options, device: str) -> Generator:
    return generators.Dino(_vit(options.encoder or "dino-vits8", options.weights, device))


def _fused(options: Options, device: str) -> Generator:
    blind = generators.Dino(_vit(options.dino, options.dino_weights, device))
    return generators.Fused(_clip_es(options, device), blind)


def _own_words(options: Options) -> words.Words | None:
    return None if options.words is None else words.read(options.words)


def _clip(options: Options, default: str, device: str) -> Any:
    found = encoders.load(options.encoder or default, options.weights, device)
    if not hasattr(found, "last_block"):
        raise UsageError(f"{found.name!r} knows no text; choose {default} or another CLIP-like model")
    return found


def _vit(name: str, weights: str, device: str) -> Any:
    found = encoders.load(name, weights, device)
    if not hasattr(found, "tokens"):
        raise UsageError(f"{name!r} keeps no attention keys; choose a plain ViT such as dino-vits8")
    return found


# The first is the default: it needs no download.
GENERATORS = {
    "imagenet-text": _imagenet_text,
    "clip-es": _clip_es,
    "imr": _imr,
    "dino": _dino,
    "fused": _fused,
    "objectness": _objectness,
}
