"""The Labeller: pseudo masks for photos from the names of what they show, in the shape of the folder jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from shotseg.arguments import checked
from shotseg.data import images as files
from shotseg.data.samples import Sample
from shotseg.device import usual_tensors
from shotseg.errors import InputError, UsageError
from shotseg.overlay import PALETTE
from shotseg.photo import Photo, are_many, are_several, check_classes, read_photo, title
from shotseg.predictor import Predictor
from shotseg.priors import label_files, pseudo_masks
from shotseg.priors.cut import Labels
from shotseg.result import Result


@dataclass(frozen=True, eq=False, repr=False)
class PseudoLabel(Result):
    """The pseudo masks of one photo; ``classes`` are those that it is known to show.

    labels: (H, W) uint8, 0 = background, 255 = unsure, else a class's value.
    values: each class's value in ``labels``: its position in the Labeller's ``classes``, from 1.
    own:    (N, H, W) uint8 in {0, 1, 255}, each class's mask. With ``mode="episode"`` two may overlap.
    layout: also write the files that the released code of TLG reads.
    """

    values: tuple[int, ...]
    own: np.ndarray
    layout: label_files.Layout | None = None

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Class name -> (H, W) bool, True where the class surely is."""
        return {name: mask == 1 for name, mask in zip(self.classes, self.own)}

    def save(self, folder: str | Path, name: str = "photo") -> None:
        """Write under ``folder``, all PNG: ``labels/<name>``; for each class ``masks/<class>/<name>`` in {0, 1, 255} and
        ``soft/<class>/<name>``, the probability times 255; and ``tlg/`` in the authors' layout where one is asked for."""
        for class_name, mask in zip(self.classes, self.own):
            files.write_png(Path(folder, "masks", class_name, f"{name}.png"), mask, palette=PALETTE)
        self.save_soft(folder, name)
        if self.layout == "coco":
            label_files.write(Path(folder, "tlg"), name, self.labels)
        elif self.layout == "pascal":
            for value, mask in zip(self.values, self.own):
                label_files.write(Path(folder, "tlg"), name, mask, value - 1)
        files.write_png(Path(folder, "labels", f"{name}.png"), self.labels, palette=PALETTE)


class Labeller(Predictor):
    """Photos and the names of what they show in, pseudo masks out.

    classes:   every class of the data set, in the order of their values in the label maps.
    generator: a name of ``pseudo_masks.GENERATORS``.
    mode:      "episode": each class against the background alone. "image": the classes of a photo compete.
    layout:    see :class:`PseudoLabel`.
    options:   fields of :class:`shotseg.priors.pseudo_masks.Options`.

    >>> labeller = Labeller(["dog", "sofa"])  # doctest: +SKIP
    >>> labeller.predict("a.jpg", ["dog"]).masks["dog"]  # doctest: +SKIP
    """

    @checked
    @usual_tensors()
    def __init__(
        self,
        classes: Sequence[str],
        generator: str = "imagenet-text",
        mode: Labels = "episode",
        device: str | torch.device = "auto",
        layout: label_files.Layout | None = None,
        **options: Any,
    ):
        check_classes(classes, "Labeller")
        if mode not in get_args(Labels):
            raise UsageError(f"mode {mode!r}: choose one of {', '.join(get_args(Labels))}")
        if layout not in (None, *get_args(label_files.Layout)):
            raise UsageError(f"layout {layout!r}: choose one of {', '.join(get_args(label_files.Layout))}, or None")
        super().__init__(device)
        self._classes, self.mode, self.layout = tuple(classes), mode, layout
        self.settings = {"generator": generator, "mode": mode, "layout": layout, **options}
        self.generator = pseudo_masks.load(generator, self.device, classes=self.classes, **options)
        self.cut = self.generator.cut

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of the data set, in the order of their values in the label maps."""
        return self._classes

    @checked
    @usual_tensors()
    def predict(self, photo: Photo, names: Sequence[str] | None = None) -> PseudoLabel:
        """The pseudo masks of one photo.

        names: what it shows; None: the ``tags`` of a Sample, which are positions in :attr:`classes`.
        Raises UsageError for a name that is not among the classes, and where nothing says what the photo shows.
        """
        if are_several(photo) or are_many(photo):
            raise UsageError("several photos at once: give them to predict one by one, each with its names")
        if names is None:
            if not isinstance(photo, Sample):
                raise UsageError(f"{title(photo)}: nothing says what it shows; give names, or a Sample with tags")
            names = [self.classes[i] for i in sorted(photo.tags)]
        if unknown := set(names) - set(self.classes):
            raise UsageError(f"no class {sorted(unknown)[0]!r}; there is {', '.join(self.classes)}")
        names = list(dict.fromkeys(names))
        image = read_photo(photo)
        found = self.generator(image, names, self.mode)
        values = tuple(self.classes.index(name) + 1 for name in names)
        table = np.arange(256, dtype=np.uint8)
        table[1 : len(values) + 1] = values
        return PseudoLabel(
            image,
            tuple(names),
            table[found.labels],
            dict(zip(names, found.probabilities)),
            values,
            found.masks,
            self.layout,
            present=dict.fromkeys(names, 1.0),
        )

    def predict_batch(self, photos: Iterable[Photo]) -> list[PseudoLabel]:
        """The pseudo masks of Samples, by their ``tags``."""
        return [self.predict(photo) for photo in photos]

    @checked
    def save(self, path: str | Path) -> None:
        """Keep how this Labeller was made (JSON), for ``Labeller.load`` on another machine."""
        files.write_bytes(path, json.dumps({"classes": self.classes, **self.settings}).encode())

    @classmethod
    @checked
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> Labeller:
        """The Labeller that ``save`` kept. Raises InputError for another file."""
        try:
            kept = json.loads(files.read_bytes(path))
            classes = kept.pop("classes")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not what Labeller.save writes; make it again") from None
        return cls(classes, device=device, **kept)
