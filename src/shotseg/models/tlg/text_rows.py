"""What is known of a class by its words: three text vectors, for its name, a finer phrase and the scenes around it (TLG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from shotseg import encoders
from shotseg.encoders.clip import VisionLanguage
from shotseg.encoders.imagenet_text import Sentences
from shotseg.errors import InputError, UsageError
from shotseg.priors.text import PHRASES

TEMPLATE = "a clean origami {}."
MINILM = "minilm"  # the text encoder that needs no download
Phrases = Mapping[str, Sequence[str]]  # class name -> its own phrase, a finer one, its scenes


@lru_cache(maxsize=1)
def own_phrases() -> dict[str, tuple[str, str, str]]:
    """Our phrases of the classes of PASCAL and COCO."""
    content = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    return {name: (PHRASES.get(name, name), finer, scenes) for name, (finer, scenes) in content.items()}


class TextRows:
    """``rows(names)``: (N, 3, D) unit vectors.

    source:  "minilm", a CLIP-like encoder's name, or a .safetensors file of ready (3, D) rows, one tensor a class name.
    phrases: of the classes; a name without any is said as it is, before "background".
    half:    rows pass through float16, as those that the release computes on a GPU.
    """

    def __init__(self, source: str = MINILM, phrases: Phrases | None = None, half: bool = False):
        self.source, self.half = source, half
        self.phrases = own_phrases() if phrases is None else phrases
        self._rows: dict[str, Tensor] = _read(source) if source.endswith(".safetensors") else {}
        ready = bool(self._rows) or source == MINILM
        encoder: Any = None if ready else encoders.load(source)
        if not (ready or isinstance(encoder, VisionLanguage)):
            raise UsageError(f"text={source!r} reads no words; give {MINILM!r}, a CLIP encoder or a .safetensors file")
        self._encoder: Any = encoder
        if self._rows:
            self.width = next(iter(self._rows.values())).shape[-1]
        else:
            self.width = 384 if source == MINILM else self._encoder.text(["a"]).shape[-1]

    def __call__(self, names: Sequence[str]) -> Tensor:
        """Each name is looked up once. Raises UsageError for one that a file of rows lacks."""
        for name in names:
            if name not in self._rows:
                self._rows[name] = self._encoded(name)
        rows = torch.stack([self._rows[name] for name in names])
        return rows.half().float() if self.half else rows

    def _encoded(self, name: str) -> Tensor:
        if self.source.endswith(".safetensors"):
            raise UsageError(f"{self.source}: no row of {name!r}; add the tensor, or choose text={MINILM!r}")
        said = list(self.phrases.get(name, (PHRASES.get(name, name), name, "background")))
        if self.source == MINILM:
            self._encoder = self._encoder or Sentences("cpu")
            return self._encoder.encode([TEMPLATE.format(phrase) for phrase in said])
        return self._encoder.text(said, (TEMPLATE,)).cpu()


def _read(path: str) -> dict[str, Tensor]:
    try:
        rows = {name: F.normalize(tensor.float(), dim=-1) for name, tensor in load_file(path).items()}
    except Exception as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as rows of text ({why}); give a .safetensors file") from None
    shapes = {tuple(tensor.shape) for tensor in rows.values()}
    if len(shapes) != 1 or next(iter(shapes))[:-1] != (3,):
        raise InputError(f"{path}: tensors of shape {sorted(shapes)}; give each class name one of (3, D)")
    return rows
