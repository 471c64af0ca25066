"""What folder jobs, reports and the command line ask of a predictor, stated once."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from shotseg.data.windows import Windows
from shotseg.device import pick_device
from shotseg.photo import Photo
from shotseg.result import Result


def in_turns(method: Callable[..., Any]) -> Callable[..., Any]:
    """Threads take turns in what is marked so: a class is added between two predictions, never within one."""

    @functools.wraps(method)
    def held(self: Predictor, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return held


class Predictor(ABC):
    """Photos in, a :class:`Result` for each.

    device: "auto" (CUDA, else MPS, else CPU) or any torch device; afterwards the torch device it works on.
    """

    def __init__(self, device: str | torch.device = "auto"):
        self.device, self._lock = pick_device(device), threading.RLock()

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of all classes, in order: what the values 1, 2, ... of label maps mean."""

    @property
    def thumbnails(self) -> Mapping[str, list[np.ndarray]]:
        """Class name -> pictures (h, w, 3) uint8 of its examples, for reports; a class without any may be missing."""
        return {}

    @property
    def sees(self) -> int | None:
        """Pixels of a photo's longer side from which on more would change no mask; None: every pixel counts."""
        return None

    def windows(self, path: str, bands: Sequence[int] | None = None, page: int = 1) -> Windows | None:
        """A file that this predictor sees in windows, as a photo to predict; None for one that it sees as a whole."""
        return None

    def twin(self) -> Self | None:
        """Another over the same weights and classes, for a thread of its own, since a forward pass may keep state in its
        modules; None where there is no such thing."""
        return None

    def predict(self, photo: Photo) -> Result:
        """Segment one photo. Raises InputError for one that cannot be read."""
        return self.predict_batch([photo])[0]

    @abstractmethod
    def predict_batch(self, photos: Iterable[Photo]) -> Sequence[Result]:
        """A result for each photo, in their order."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Keep in one file what :meth:`load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "auto") -> Self:
        """The predictor that :meth:`save` kept. Raises InputError for another file."""
