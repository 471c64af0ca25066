"""The records that travel through the library: a photo with its mask, an episode, an encoded support, a prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:  # whoever only reads photos and masks need not wait for it
    import torch
    from torch import Tensor

IGNORE = 255
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo and what is known of it.

    image: (H, W, 3) uint8 RGB, EXIF rotation applied; in a run over a folder also a :class:`shotseg.photo.Opened`.
    mask:  (H, W) class ids, 255 = ignore; None where there is no mask. As an example of one class it is read by the rule
           of :mod:`shotseg.data.masks`, so that 0 and 255 alone are background and class.
    tags:  ids of the classes known to be in the photo (image-level labels).
    """

    image: Any
    mask: np.ndarray | None = None
    tags: frozenset[int] = frozenset()
    id: str = ""
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class Episode:
    """A batch of B few-shot tasks with K support images each, images in [0, 1] (RGB, not normalised).

    query: (B, 3, H, W) float32.            query_mask: (B, H, W) int64 in {0, 1, 255}, or None.
    support: (B, K, 3, H, W) float32.       support_mask: (B, K, H, W) int64 in {0, 1, 255}, or None (class name only).
    class_id: (B,) int64.                   class_name: B names.
    ids: B tuples, the query's id and then its K supports' ids.     sizes: B original (height, width) of the queries.
    present: (B,) bool, whether the query's photo shows the class at its own size; None: its mask says so.
    """

    query: Tensor
    support: Tensor
    class_id: Tensor
    query_mask: Tensor | None = None
    support_mask: Tensor | None = None
    class_name: tuple[str, ...] = ()
    ids: tuple[tuple[str, ...], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    present: Tensor | None = None

    def to(self, device: torch.device | str) -> Episode:
        """The same episode with every tensor on ``device``."""
        from torch import Tensor

        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Support:
    """What a model keeps of a class after seeing its K support images: tensors only, each (B, K, ...).

    Shots of different sizes are padded with zeros, so a model keeps a weight tensor beside its tokens (0 = padding).

    marks: one for each support that was joined; two of the same marks hold the same.
    """

    tensors: dict[str, Tensor]
    marks: tuple[object, ...] = field(default_factory=lambda: (object(),), repr=False)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, kept as long as this support: for what depends on nothing else and every photo needs."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def shots(self) -> int:
        return max(tensor.shape[1] for tensor in self.tensors.values())  # what was fitted on all of them has one

    @property
    def digest(self) -> str:
        """Of names, types, shapes and values, in hexadecimal: the same for what was saved and read again."""

        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            values = np.asarray(tensor.detach().cpu())
            found.update(f"{name} {values.dtype} {values.shape};".encode())
            found.update(values.tobytes())
        return found.hexdigest()

    def to(self, device: torch.device | str) -> Support:
        return Support({k: v.to(device) for k, v in self.tensors.items()}, self.marks)

    @staticmethod
    def join(supports: list[Support]) -> Support:
        """The shots of several supports of one class as one support (dimension 1 grows)."""
        import torch
        from torch.nn import functional as F

        def pad(tensor: Tensor, shape: list[int]) -> Tensor:
            return F.pad(tensor, [n for d in range(tensor.dim() - 1, 1, -1) for n in (0, shape[d] - tensor.shape[d])])

        joined = {}
        for name in supports[0].tensors:
            parts = [s[name] for s in supports]
            largest = [max(sizes) for sizes in zip(*(p.shape for p in parts))]
            joined[name] = torch.cat([pad(p, largest) for p in parts], dim=1)
        return Support(joined, tuple(mark for support in supports for mark in support.marks))


@dataclass(frozen=True, eq=False)
class Prediction:
    """logits: (B, 2, h, w), background then foreground; ``extra``: named side outputs for losses and reports."""

    logits: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def probability(self) -> Tensor:
        """(B, h, w) probability of the foreground."""
        return self.logits.softmax(1)[:, 1]
