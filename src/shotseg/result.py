"""What was found in a photo: label map, masks, probabilities, confidence, and the files that hold them."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from shotseg.arguments import checked
from shotseg.data import images as files
from shotseg.data.enlarging import BAND, Strips, best, best_strips, larger, runs_of, values_at
from shotseg.evaluation import confidence
from shotseg.overlay import PALETTE, draw
from shotseg.photo import Opened

if TYPE_CHECKING:
    from shotseg.data.annotations import objects
    from shotseg.models.strokes import Strokes

SHOWN = 640  # longer side of the picture in a notebook
COUNTED = 1024  # rows of a label map that are counted together
SURE = 4.0  # log odds from which on a class is no surer: where it ends then lies half-way to what it is not


class Instances(NamedTuple):
    """labels: (H, W) int32, 0 = background, i + 1 = the i-th object.    classes: the class of each object."""

    labels: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found in one photo.

    image: (H, W, 3) uint8 RGB.                  labels: (H, W) uint8, 0 = background, i + 1 = ``classes[i]``.
    probabilities: class name -> (H, W) float32 in [0, 1]; with the background's they sum to 1.
    present: class name -> the probability that the class is in the photo, in [0, 1]; where it is not said, of its surest pixel.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    present: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not self.present:
            surest = {name: float(soft.max()) for name, soft in self.probabilities.items()}
            object.__setattr__(self, "present", surest)

    @property
    def masks(self) -> Mapping[str, np.ndarray]:
        """Class name -> (H, W) bool, made each time it is asked for; no pixel belongs to two classes."""
        return Made(self.classes, lambda name: self.labels == self.classes.index(name) + 1)

    @cached_property
    def areas(self) -> dict[str, float]:
        """Class name -> part of the photo that it covers, in [0, 1]."""
        return {name: float(count / math.prod(self.size)) for name, count in zip(self.classes, self._counts()[1:])}

    def _counts(self) -> np.ndarray:
        """(256,): how many pixels of the label map have each value."""
        counts = np.zeros(256, np.int64)
        for top in range(0, len(self.labels), COUNTED):
            counts += Image.fromarray(self.labels[top : top + COUNTED]).histogram()  # five times faster than bincount
        return counts

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The label map row after row, how many pixels in turn have one value: lengths (R,) int64, and values (R,) uint8."""
        return runs_of(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def preview(self) -> Result:
        """The same as small as it was decided: for lists and thumbnails."""
        return self

    @property
    def picture(self) -> np.ndarray:
        """(h, w, 3) uint8: the photo for a thumbnail, of which a decision without any class is far too coarse a preview."""
        return self.preview.image

    @cached_property
    def confidences(self) -> dict[str, float]:
        """Class name -> the IoU that the mask is expected to have, in [0, 1].

        Expected intersection over expected union if the probabilities hold, sum of p inside the mask / (mask's area + sum
        of p outside it), times the probability that the class is in the photo. For a class that was not found: how far its
        presence lies below even odds, 1 - 2 present, at least 0.
        """
        return {
            name: confidence.of_class(self.probabilities[name], mask, self.present[name])
            for name, mask in self.masks.items()
        }

    @property
    def confidence(self) -> float:
        """The mean of the confidences of the classes found, weighted by area; where none is found, the lowest of all. Sort by it
        to see the doubtful photos first."""
        return confidence.of_photo(list(self.areas.values()), list(self.confidences.values()))

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8: the photo with every class tinted and outlined in its palette colour."""
        return draw(self.image, self.labels)

    def __repr__(self) -> str:
        height, width = self.size
        found = ", ".join(f"{name} {area:.1%}" for name, area in self.areas.items() if area > 0)
        return f"<Result {width} x {height}: {found or 'nothing found'}; confidence {self.confidence:.2f}>"

    def _repr_png_(self) -> bytes:
        """The overlay, as Jupyter shows it, no larger than ``SHOWN``."""
        image = Image.fromarray(self.image).reduce(max(1, -(-max(self.size) // SHOWN)))
        labels = Image.fromarray(self.labels).resize(image.size, Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        Image.fromarray(draw(np.asarray(image), np.asarray(labels))).save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """What was found, each class beside its colour, and the overlay below it."""
        picture = base64.b64encode(self._repr_png_()).decode()
        classes = "".join(
            f'<span style="white-space: nowrap; margin-right: 1em"><span style="color: rgb{tuple(PALETTE[i].tolist())}">'
            f"&#9632;</span> {html.escape(name)} {self._said(name)}</span>"
            for i, name in enumerate(self.classes, 1)
        )
        said = html.escape(repr(self)[1:-1])
        return f'<p>{said}</p><p>{classes}</p><img alt="{said}" src="data:image/png;base64,{picture}">'

    def _said(self, name: str) -> str:
        if not self.areas[name]:
            return f"not found ({self.present[name]:.0%} present)"
        return f"{self.areas[name]:.1%}, expected IoU {self.confidences[name]:.2f}"

    def instances(self) -> Instances:
        """Every object with a number of its own; objects of a class that touch are cut apart at their necks.

        The rule is in :mod:`shotseg.data.annotations.touching`: it looks at the shape of the mask alone.
        """
        from shotseg.data.annotations.labelled import Labelled, numbered

        found = Labelled("", self.labels).apart
        return Instances(numbered(self.size, found), tuple(self.classes[part.label - 1] for part in found))

    def to_supervision(self, apart: bool = False) -> Any:
        """``supervision.Detections`` with boxes, masks (N, H, W) bool, confidences, class ids from 0 and ``class_name``.

        apart: one for each connected part, in place of one a class. Raises UsageError where supervision is not installed.
        """
        from shotseg.data.annotations import objects

        return objects.supervision_detections(self._objects(apart), self.classes, self.size)

    def to_fiftyone(self, apart: bool = False) -> Any:
        """``fiftyone.Detections``, for a field of a sample: boxes, masks within them, labels and confidences.

        apart: one for each connected part, in place of one a class. Raises UsageError where FiftyOne is not installed.
        """
        from shotseg.data.annotations import objects

        return objects.fiftyone_detections(self._objects(apart), self.size)

    def to_fiftyone_segmentation(self) -> Any:
        """``fiftyone.Segmentation`` of ``labels``; its ``mask_targets`` are ``dict(enumerate(classes, 1))``."""
        from shotseg.data.annotations import objects

        return objects.fiftyone_segmentation(self.labels)

    def _objects(self, apart: bool) -> objects.Found:
        from shotseg.data.annotations import objects

        return objects.found(self.labels, {name: float(self.confidences[name]) for name in self.classes}, apart)

    @checked
    def save(self, folder: str | Path, name: str = "photo") -> None:
        """Write ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette) under ``folder``."""
        for i, class_name in enumerate(self.classes, 1):
            files.write_bytes(Path(folder, "masks", class_name, f"{name}.png"), self._mask_png(i))
        files.write_bytes(Path(folder, "labels", f"{name}.png"), self._labels_png())

    def _mask_png(self, value: int) -> bytes:
        return files.flat_png((self.labels == value) * np.uint8(255))

    def _labels_png(self) -> bytes:
        return files.flat_png(self.labels, PALETTE)

    @checked
    def save_soft(self, folder: str | Path, name: str) -> None:
        """Write ``soft/<class>/<name>.png`` under ``folder``: each class's probability times 255."""
        for class_name, probability in self.probabilities.items():
            soft = (probability * 255).round().astype(np.uint8)
            files.write_png(Path(folder, "soft", class_name, f"{name}.png"), soft)

    def plot(self) -> Any:
        """A matplotlib figure: photo, overlay and one probability map a class."""
        import matplotlib.pyplot as plt

        panels = [("photo", self.image), ("result", self.overlay()), *self.probabilities.items()]
        figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4), squeeze=False)
        for axis, (title, picture) in zip(axes[0], panels):
            axis.imshow(picture, **({} if picture.ndim == 3 else {"vmin": 0, "vmax": 1, "cmap": "magma"}))
            axis.set_title(title)
            axis.axis("off")
        figure.tight_layout()
        return figure


class Decided(Result):
    """A result that is kept as it was decided, far smaller than a large photo; what has the photo's size is made when it is asked
    for, and probabilities are made anew each time.

    photo: as it was opened.    scores: (N + 1, h, w) float32 log odds, the background's first, from the photo's corners to its
    corners.    present: as for :class:`Result`.     strokes: class name -> strokes at the photo's size, which bind.
    """

    _photo: Opened
    _scores: np.ndarray  # (N + 1, h, w) float32 log odds, the background's first
    _strokes: Mapping[str, Strokes]

    def __init__(
        self,
        photo: Opened,
        classes: tuple[str, ...],
        scores: np.ndarray,
        present: Mapping[str, float],
        strokes: Mapping[str, Strokes] | None = None,
    ):
        self.__dict__.update(classes=classes, present=present)  # a Result is frozen
        photo = replace(photo, small=_shown(photo.small))  # results are kept, and so is what they hold
        self.__dict__.update(_photo=photo, _scores=np.asarray(scores, np.float32), _strokes=dict(strokes or {}))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        return self._photo.size

    @cached_property
    def image(self) -> np.ndarray:  # type: ignore[override]
        return self._photo.whole()

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """Whose log odds against the background, drawn at the photo's size, are the highest."""
        labels, done = np.empty(self.size, np.uint8), 0
        for band in self._strips.drawn(np.empty((BAND, self.size[1]), np.uint8)):
            labels[done : done + len(band)] = band
            done += len(band)
        self._bind(labels.reshape(-1))
        return labels

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        return self._runs

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        return super().runs() if self._is_whole else self._strips.runs()

    def _bind(self, flat: np.ndarray) -> None:
        """Change the label map, row after row, where strokes say otherwise: few pixels of many, so by their places."""
        marks = {self.classes.index(name) + 1: drawn for name, drawn in self._strokes.items()}
        for i, drawn in marks.items():
            outside = drawn.places(0)
            wrong = outside[flat[outside] == i]
            values = values_at(self._levels, self.size, *np.divmod(wrong, self.size[1]))
            for other, others in marks.items():
                values[other, others.labels.reshape(-1)[wrong] == 0] = -np.inf
            flat[wrong] = values.argmax(0)
        for i, drawn in marks.items():
            flat[drawn.places(1)] = i

    @property
    def _levels(self) -> np.ndarray:
        return ahead(self._scores)

    @cached_property
    def _strips(self) -> Strips:
        """The label map without strokes."""
        return best_strips(self._levels, self.size)

    @property
    def _is_whole(self) -> bool:
        """Whether the label map is at hand, or must be."""
        return bool(self._strokes) or "labels" in self.__dict__

    def _counts(self) -> np.ndarray:
        if not self._is_whole:
            return self._strips.counts()
        lengths, values = self._runs
        return np.bincount(values, lengths, 256).astype(np.int64)

    def _mask_png(self, value: int) -> bytes:
        return super()._mask_png(value) if self._is_whole else files.strips_png(self._strips.only(value))

    def _labels_png(self) -> bytes:
        return super()._labels_png() if self._is_whole else files.strips_png(self._strips, PALETTE)

    @property
    def probabilities(self) -> Mapping[str, np.ndarray]:  # type: ignore[override]
        small = self.preview.probabilities
        return Made(self.classes, lambda name: larger(small[name], self._photo.size))

    @cached_property
    def preview(self) -> Result:  # type: ignore[override]
        odds = np.exp(self._scores - self._scores.max(0))
        shares = dict(zip(self.classes, (odds / odds.sum(0))[1:]))
        return _Preview(self.picture, self.classes, best(self._scores), probabilities=shares, present=self.present)

    @property
    def picture(self) -> np.ndarray:
        return self._photo.small

    @cached_property
    def confidences(self) -> dict[str, float]:  # type: ignore[override]
        """As of :class:`Result`, at the size of the decision."""
        return self.preview.confidences


class _Preview(Result):
    """What was decided, at the size at which it was. Few ask for the photo as small: it is made then."""

    _photo: np.ndarray

    def __init__(self, photo: np.ndarray, classes: tuple[str, ...], labels: np.ndarray, **found: Any):
        self.__dict__.update(_photo=photo, classes=classes, labels=labels, **found)

    @cached_property
    def image(self) -> np.ndarray:  # type: ignore[override]
        return np.array(Image.fromarray(self._photo).resize(self.size[::-1], Image.Resampling.BOX))


class Made(Mapping[str, np.ndarray]):
    """Class name -> an array that is made each time it is asked for; pickled, a dict of them all."""

    def __init__(self, names: tuple[str, ...], make: Callable[[str], np.ndarray]):
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, np.ndarray]]]:
        return dict, (dict(self),)

    def __repr__(self) -> str:
        return f"<an array for each of {', '.join(self._names)}>"


def _shown(image: np.ndarray) -> np.ndarray:
    """Pixels of an image (H, W, 3), evenly spread, SHOWN or a little more of its longer side."""
    step = max(image.shape) // SHOWN
    return image if step < 2 else np.stack([image[::step, ::step, colour] for colour in range(3)], 2)


def ahead(scores: np.ndarray) -> np.ndarray:
    """(N, h, w) log odds, the background's first -> those against the background, so far that nobody is surer than SURE."""
    odds = scores - scores[0]
    odds = odds - (odds.max(0) - SURE).clip(0)  # classes that are all sure stay as far from each other
    return odds.clip(-SURE, SURE)
