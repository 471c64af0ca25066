"""The classes that a predictor has learnt from examples: their supports, their names, and what they were learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from shotseg.arguments import checked
from shotseg.data.samples import Support
from shotseg.encoded import Examples
from shotseg.errors import UsageError
from shotseg.overlay import draw
from shotseg.photo import check_classes
from shotseg.predictor import Predictor, in_turns

THUMBNAIL = 320  # longer side of the picture of an example, at most


def made_small(image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """A shot (H, W, 3) uint8 and its mask (H, W) uint8, nothing without one, as small as its picture."""
    shown = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    step = max(1, -(-max(shown.shape) // THUMBNAIL))
    return image[::step, ::step].copy(), shown[::step, ::step].copy()


class Learnt(Predictor):
    """A predictor whose classes come and go. ``model``: merges the shots of a class, and says what it ``needs`` of one."""

    model: Any

    def __init__(self, device: str | torch.device = "auto"):
        super().__init__(device)
        self._known: dict[str, Support] = {}
        self._added: dict[str, list[Support]] = {}  # shots since, not yet merged: classifiers are fitted once for all
        self._shown: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # of each shot a small photo and its mask

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes added so far, in order."""
        return tuple(self._known)

    @property
    @in_turns
    def thumbnails(self) -> dict[str, list[np.ndarray]]:
        """Class name -> pictures (h, w, 3) uint8 of the shots that were added, tinted in the colour of the class."""
        colours = {name: np.uint8(i + 1) for i, name in enumerate(self.classes)}
        return {
            name: [draw(image, np.where(mask == 1, colours[name], np.uint8(0))) for image, mask in shown]
            for name, shown in self._shown.items()
        }

    @property
    def _supports(self) -> dict[str, Support]:
        """Class name -> its support, with every shot merged."""
        merge = self.model.merge
        for name, shots in self._added.items():
            self._known[name] = merge([self._known[name], *shots])
        self._added.clear()
        return self._known

    @property
    def needs(self) -> str:
        """What the method needs of a class: "masks" with its photos, "photos" and the name, or the "name" alone."""
        return self.model.needs

    @checked
    @in_turns
    def examples(self, name: str) -> Examples:
        """What was learnt of a class: how many shots, a digest, and pictures where there are. Raises UsageError without it."""
        self._check_known(name)
        support = self._supports[name]
        shots = 0 if self.needs == "name" else support.shots
        return Examples(name, shots, support.digest, tuple(self.thumbnails[name]))

    @checked
    @in_turns
    def remove(self, name: str) -> None:
        """Forget a class; those after it move up. Raises UsageError where there is none of the name."""
        self._check_known(name)
        for held in (self._known, self._added, self._shown):
            held.pop(name, None)

    @checked
    @in_turns
    def rename(self, old: str, new: str) -> None:
        """Give a class another name; its place and what was learnt of it stay. A model that reads names reads the new one.

        Raises UsageError where there is no class ``old``, and for a name that is another class's or cannot be a folder's.
        """
        self._check_known(old)
        if new == old:
            return
        if new in self.classes:
            raise UsageError(f"rename: class {new!r} is there already; remove it first, or choose another name")
        check_classes([new if name == old else name for name in self.classes], "rename")
        called = {name: name for name in self.classes} | {old: new}
        self._known = {called[name]: support for name, support in self._known.items()}
        self._added = {called[name]: supports for name, supports in self._added.items()}
        self._shown = {called[name]: shots for name, shots in self._shown.items()}

    def _check_known(self, name: str) -> None:
        if name not in self._known:
            raise UsageError(f"no class {name!r}; there is {', '.join(self.classes) or 'none yet'}")
