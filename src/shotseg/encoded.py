"""What went through the encoder: a photo, which need not be encoded again, and the examples of a class."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from shotseg.data import images as files
from shotseg.encoders.features import Features
from shotseg.errors import InputError, UsageError, first_line
from shotseg.models.presence import Answers
from shotseg.photo import Opened, Photo, enough, open_photo, title

FORMAT = "shotseg-encoded-2"


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """A photo after :meth:`Segmenter.encode`; the classes may change meanwhile.

    photo: as it was opened.   resized: (3, h, w) float in [0, 1], as it was encoded.   features: of it, batch 1.
    by: the method, encoder, size and trained model that the features are of.
    answers: what each class says of the photo, as far as it was asked: deciding again asks those that changed.
    """

    photo: Opened
    resized: Tensor
    features: Features
    by: str
    answers: Answers = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.photo.size
        return f"<Encoded {width} x {height}, {self.by}>"

    def save(self, path: str | Path) -> None:
        """Keep it as safetensors: features in half precision, what was made of them, the working input, and the photo's size, not
        its pixels."""
        features = self.features
        kept = {"resized": (self.resized * 255).round().byte()}  # it came from bytes: nothing is lost
        kept |= {f"map/{i}": _half(x) for i, x in enumerate(features.maps)}
        kept |= {f"class/{i}": _half(x) for i, x in enumerate(features.classes)}
        made = features.made.items()  # one value a token is little room, and cues are stretched: those stay as they are
        kept |= {f"made/{name}": x if x.dim() == 3 else _half(x) for name, x in made}
        tensors = {name: _channels_last(tensor).contiguous().cpu() for name, tensor in kept.items()}
        about = {"format": FORMAT, "size": self.photo.size, "strides": features.strides, "by": self.by}
        files.write_bytes(path, serialise(tensors, {"shotseg": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path, photo: Photo | None = None) -> Encoded:
        """What :meth:`save` kept, features in single precision on the CPU.

        photo: the same photo, for the picture of the result; without it the working input stands in, at the photo's size.
        Raises InputError for a file that is damaged or of another kind, UsageError for a photo of another size.
        """
        try:
            with safe_open(str(path), "pt") as stored:
                about = json.loads((stored.metadata() or {})["shotseg"])
                if about["format"] != FORMAT:
                    raise KeyError("format")
                height, width = about["size"]
                pixels = stored.get_tensor("resized")
                resized, seen = pixels / 255, pixels.permute(1, 2, 0).numpy()
                names = sorted(set(stored.keys()) - {"resized"})
                tensors = {name: _channels_first(stored.get_tensor(name)).float() for name in names}
            maps = tuple(tensors[f"map/{i}"] for i in range(len(about["strides"])))
            classes = tuple(tensors[name] for name in (f"class/{i}" for i in range(len(maps))) if name in tensors)
            made = {name.removeprefix("made/"): x for name, x in tensors.items() if name.startswith("made/")}
            features, by = Features(maps, tuple(about["strides"]), classes, made), str(about["by"])
        except Exception as error:
            raise InputError(f"{path}: not a kept photo ({first_line(error)}); make it with Encoded.save") from None
        if photo is None:
            opened = Opened(seen, (height, width), partial(_scaled, seen, (width, height)))
        else:
            opened = open_photo(photo, enough(max(resized.shape[1:])))
            if opened.size != (height, width):
                raise UsageError(f"{path}: of a photo of {(height, width)} pixels, not {title(photo)}; give that photo")
        return cls(opened, resized, features, by)

    def to(self, device: torch.device | str) -> Encoded:
        """The same with every tensor on ``device``."""
        return replace(self, resized=self.resized.to(device), features=self.features.to(device))


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """What was learnt of a class.

    shots:  how many photos it was learnt from; 0 where the method needs the name alone.
    digest: SHA-256 of what is kept of them, in hexadecimal; another as soon as a shot is added.
    thumbnails: pictures (h, w, 3) uint8 of the shots that were added to this Segmenter, the class tinted. A support file holds
        encoded shots and no photos: those that came from one have no picture, and their photos cannot be had back.
    """

    name: str
    shots: int
    digest: str
    thumbnails: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return (
            f"<Examples of {self.name}: {self.shots} shots, {len(self.thumbnails)} with a picture, {self.digest[:12]}>"
        )


def _scaled(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(image).resize(sides))


def _channels_last(x: Tensor) -> Tensor:
    """Maps lie so where they are compared token by token."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _channels_first(x: Tensor) -> Tensor:
    """The same maps as (B, C, h, w) again, in memory as they were kept."""
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


def _half(x: Tensor) -> Tensor:
    """In half precision, where no value is too large for it."""
    return x.half() if bool(x.abs().max() <= torch.finfo(torch.half).max) else x.float()
