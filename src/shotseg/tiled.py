"""Images larger than the network: seen in overlapping windows, judged as one, written in bands.

What is relative to a photo is taken once, of the whole image, and holds in every window: which classes are there, the range
of each cue, the classifier of the image's own tokens. Two looks give it: the image reduced to the working size, and a survey
of up to 4 megapixels of parts at the scale of the windows, since features of another scale have other ranges. Then the
windows go by, row after row; where they overlap, their log odds are averaged, those near a window's edge counting less. Rows
that no further window reaches become labels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from shotseg import predictor
from shotseg.data import geo, large_labels, transforms
from shotseg.data import images as files
from shotseg.data.samples import Support
from shotseg.data.windows import Windows
from shotseg.device import one_thread_each
from shotseg.encoders.features import Features
from shotseg.errors import UsageError
from shotseg.heap import give_back
from shotseg.models import presence
from shotseg.overlay import PALETTE
from shotseg.photo import Opened
from shotseg.result import SURE, Decided, ahead

AT_ONCE = 4  # windows in work, on a CPU with as many cores
AUTO = 2  # windows of so many times the working size, where nobody says another side
SURVEYED = 2048**2  # pixels at working size that the survey sees, at most
STRIDE = (
    8  # cells of a window that the coarsest common stride, 32 pixels, is; a cell is 4 pixels as the network sees them
)
EVEN = 127.5  # of log odds in bytes: between two, so that rounding favours neither side
SHOWN = 640  # cells of the longer side of the preview, at most
_one_at_a_time = threading.Lock()  # an image in windows takes all cores, and memory for its rows
_encoding = threading.Lock()  # maps of a window within the encoder take 300 MB: others decide meanwhile


@dataclass(frozen=True)
class Grid:
    """Where windows lie. size: (H, W) of the image.   cell: pixels of the image.   across: cells of a window's side."""

    size: tuple[int, int]
    cell: int
    across: int

    @classmethod
    def of(cls, size: tuple[int, int], side: int, seen: int) -> Grid:
        """Windows of about ``side`` pixels, which the network sees at about ``seen`` pixels."""
        across = max(STRIDE, seen // 32 * STRIDE)
        return cls(size, max(1, round(side / across)), across)

    @property
    def side(self) -> int:
        """Pixels of a window's side."""
        return self.cell * self.across

    @property
    def step(self) -> int:
        """Cells from one window to the next: half of a window, whole strides."""
        return max(STRIDE, self.across // 2 // STRIDE * STRIDE)

    def starts(self, axis: int) -> list[int]:
        """Cells at which windows start; the last one may reach over the end of the image, by less than a stride."""
        cells = math.ceil(self.size[axis] / self.cell)
        last = max(0, math.ceil((cells - self.across) / STRIDE) * STRIDE)
        return [*range(0, last, self.step), last]

    @cached_property
    def weights(self) -> Tensor:
        """(across, across): a pyramid; next to nothing in the outer eighth, where the network sees the edge of the window."""
        at = torch.arange(self.across) + 0.5
        ramp = (torch.minimum(at, self.across - at) - self.across / 8).clamp(min=1e-3)
        return ramp[:, None] * ramp


class Tiled(Decided):
    """The result of an image seen in windows. Its label map is kept packed: ``image``, ``labels``, ``masks``, ``probabilities``
    take memory for all pixels when they are asked for; ``preview``, ``areas``, ``confidences``, ``overlay`` and ``save`` do not.

    ``save`` writes TIFF, tiled and compressed, for more than 100 megapixels, and for a map, which then keeps its place.
    """

    _packed: bytes
    _geo: Any
    _pixels: np.ndarray  # of each label

    def __init__(
        self, photo: Opened, classes: tuple[str, ...], found: Found, present: Mapping[str, float], place: Any = None
    ):
        super().__init__(photo, classes, found.preview.numpy(), present)
        self.__dict__.update(_packed=found.packed, _pixels=found.counts, _geo=place)

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return np.concatenate(list(self.bands()))

    @property
    def _is_whole(self) -> bool:
        return True  # strips would be of the preview

    def bands(self) -> Iterator[np.ndarray]:
        return large_labels.bands_of(self._packed)

    @cached_property
    def areas(self) -> dict[str, float]:  # type: ignore[override]
        pixels = self.size[0] * self.size[1]
        return {name: float(self._pixels[i] / pixels) for i, name in enumerate(self.classes, 1)}

    def overlay(self) -> np.ndarray:
        """(h, w, 3) uint8 of the preview."""
        return self.preview.overlay()

    @property
    def is_tiff(self) -> bool:
        """Whether ``save`` writes TIFF in place of PNG."""
        return self._geo is not None or self.size[0] * self.size[1] > large_labels.LARGE

    def save(self, folder: str | Path, name: str = "photo") -> None:
        if not self.is_tiff:
            return super().save(folder, name)
        for i, class_name in enumerate(self.classes, 1):
            path = Path(folder, "masks", class_name, f"{name}.tif")
            large_labels.save(path, self.size, self._only(i), geo=self._geo)
            if self._geo is not None:
                geo.save_geojson(path.with_suffix(".geojson"), path, class_name)
        large_labels.save(Path(folder, "labels", f"{name}.tif"), self.size, self.bands(), PALETTE, self._geo)

    def _only(self, value: int) -> Iterator[np.ndarray]:
        """The mask of one class, in bands."""
        return ((band == value) * np.uint8(255) for band in self.bands())

    def _mask_png(self, value: int) -> bytes:
        return files.banded_png(self.size, self._only(value))

    def _labels_png(self) -> bytes:
        return files.banded_png(self.size, self.bands(), PALETTE)


@dataclass(frozen=True, eq=False)
class Found:
    """packed: the label map, of :func:`shotseg.data.large_labels.packed`.   counts: (256,) pixels of each label.
    preview: (N + 1, h, w) log odds, few of them."""

    packed: bytes
    counts: np.ndarray
    preview: Tensor


@dataclass(frozen=True, eq=False)
class Tiling:
    """One image in windows, for a few-shot model.

    models: one, and as many more over the same weights as windows are seen at once.
    supports, told: one for each class, as :func:`shotseg.models.presence.decide` takes them.
    side: pixels of a window's side, about, as long as the working size of a photo.    device: of the models.
    on_windows: is told of each image how many windows are done, and of how many.
    """

    models: Sequence[Any]
    windows: Windows
    classes: tuple[str, ...]
    supports: Sequence[Support]
    told: Sequence[Mapping[str, Any]]
    threshold: float | None
    untrained: bool
    side: int
    device: torch.device
    on_windows: Callable[[int, int], None] = lambda done, total: None

    @property
    def model(self) -> Any:
        return self.models[0]

    @property
    def many(self) -> int:
        """How many times as large as a photo a window may be. Convolutions do not mind, and fewer pixels lie near an edge."""
        return 2 if self.model.encoder.convolutional else 1

    def result(self) -> Tiled:
        """Raises InputError where the file is damaged, wherever that is."""
        with _one_at_a_time, one_thread_each(), torch.no_grad():
            return self._result()

    def _result(self) -> Tiled:
        small = self.windows.reduced(2 * self.model.size)
        grid = Grid.of(self.windows.size, self.side * self.many, self.model.size * self.many)
        present, survey = self._surveyed(grid, small)
        there = presence.taking_part(present, self.threshold)
        loudness = presence.loudness_of(present, self.threshold)
        found = _Labels(grid, there, len(self.classes))
        packed = large_labels.packed(grid.size, found.bands(self._scores(grid, there, loudness, survey)))
        said = [1.0] * len(self.classes) if self.threshold is None else present.tolist()
        opened = Opened(small, grid.size, self.windows.again)
        return Tiled(opened, self.classes, found.told(packed), dict(zip(self.classes, said)), self.windows.geo)

    def _surveyed(self, grid: Grid, small: np.ndarray) -> tuple[Tensor, Any]:
        """(N,) presence of each class, and what the model takes of the whole image for the classes that take part."""
        image = self._fit(small, self.model.size, grid.size)
        ask = partial(presence.decide, self.model, supports=self.supports, told=self.told, untrained=self.untrained)
        everyone = None if self.threshold is None else 0.0
        found = ask(self.model.encode(image), image=image, threshold=everyone)
        if not self.model.at_once:
            return found.present, None
        places = _places(grid, found.scores[1:].amax(0), self.many, self.model.size)
        looks, features = zip(*(self._surveyed_at(grid, *place) for place in places))
        # The windows of a survey lie below each other as one tall photo.
        maps = tuple(torch.cat(level, 2) for level in zip(*(f.maps for f in features)))
        tall = Features(maps, features[0].strides)
        image = torch.cat(looks, 2)
        del looks, features  # which are as large
        # Nothing is above infinity: presence alone is asked, and no region drawn.
        seen = ask(tall, image=image, threshold=math.inf)
        present = torch.maximum(found.present, seen.present)
        there = presence.taking_part(present, self.threshold)
        return present, self.model.survey(tall, [self.supports[i] for i in there]) if there else None

    def _surveyed_at(self, grid: Grid, y: int, x: int) -> tuple[Tensor, Features]:
        """A part of the size of a photo, and its features, which know what is around it as those of a window will."""
        part = grid.across // self.many
        start = [min(max(0, at - (grid.across - part) // 2), grid.starts(axis)[-1]) for axis, at in enumerate((y, x))]
        image = self._seen(grid, next(self._read(grid, start[0], [start[1]])))
        inside = [4 * (at - first) for at, first in zip((y, x), start)]

        def cut(level: Tensor, stride: int) -> Tensor:
            top, left = (at // stride for at in inside)
            side = 4 * part // stride
            return level[:, :, top : top + side, left : left + side].clone()  # a view would keep all of it

        seen = self.model.encode(image)
        if self.many == 1:
            return image, seen
        return cut(image, 1), Features(tuple(map(cut, seen.maps, seen.strides)), seen.strides)

    def _read(self, grid: Grid, y: int, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """(h, w, 3) uint8 each: the windows that begin at a row of cells and at columns of them."""
        rows = slice(y * grid.cell, y * grid.cell + grid.side)
        return self.windows.from_left(rows, [x * grid.cell for x in columns], grid.side)

    def _seen(self, grid: Grid, image: np.ndarray) -> Tensor:
        """(1, 3, h, w): a window at working size."""
        missing = [(0, grid.side - length) for length in image.shape[:2]]
        if any(after for _, after in missing):
            image = np.pad(image, (*missing, (0, 0)), mode="symmetric")
        return self._fit(image, grid.across * 4)

    def _fit(self, image: np.ndarray, size: int, sides: tuple[int, int] | None = None) -> Tensor:
        x, _ = transforms.to_size(image, self.model.geometry, size, self.model.encoder.patch, sides=sides)
        return x[None].to(self.device)

    def _scores(self, grid: Grid, there: Sequence[int], loudness: Tensor, survey: Any) -> Iterator[Tensor]:
        """(C + 1, h, width in cells) log odds of the background and the C classes that are there: rows of cells, in order."""
        rows, columns = grid.starts(0), grid.starts(1)
        supports, told = [self.supports[i] for i in there], [self.told[i] for i in there]
        total = torch.zeros(len(there) + 1, grid.across, columns[-1] + grid.across)
        weight = torch.zeros(total.shape[1:])
        idle: SimpleQueue[Any] = SimpleQueue()
        for model in self.models:
            idle.put(model)

        @torch.no_grad()
        def drawn(window: np.ndarray) -> Tensor:
            model = idle.get()
            try:
                image = self._seen(grid, window)
                with _encoding:
                    features = model.encode(image)
                found, _ = presence.evidence_of(model, features, supports, image, told, self.untrained, survey)
                edged = model.along_the_edges(found, image) * loudness[list(there), None, None]
                return F.interpolate(edged[None].float().cpu(), grid.weights.shape, mode="bilinear")[0] * grid.weights
            finally:
                idle.put(model)

        with ThreadPoolExecutor(len(self.models)) as pool:
            for row, (y, after) in enumerate(zip(rows, [*rows[1:], rows[-1] + grid.across]), 1):
                for x in columns:
                    weight[:, x : x + grid.across] += grid.weights
                if there:
                    seen = predictor.ahead(pool, drawn, self._read(grid, y, columns), len(self.models) + 1)
                    for x, part in zip(columns, seen, strict=True):
                        total[1:, :, x : x + grid.across] += part
                done = after - y
                yield total[:, :done] / weight[:done]
                total, weight = _moved(total, done), _moved(weight, done)
                self.on_windows(row * len(columns), len(rows) * len(columns))
                give_back()


def _moved(x: Tensor, rows: int) -> Tensor:
    """The same with its first rows (next to last axis) gone, and as many zeros at the end."""
    return F.pad(x[..., rows:, :], (0, 0, 0, rows))


def _places(grid: Grid, evidence: Tensor, many: int, seen: int) -> list[tuple[int, int]]:
    """Cells at which the parts of a survey start: all parts of a small image; else half of those there is room for around the
    highest evidence (h, w) of the reduced image, and half spread evenly."""
    part = grid.across // many
    cells = [math.ceil(length / grid.cell) for length in grid.size]
    lasts = [grid.starts(axis)[-1] + grid.across - part for axis in (0, 1)]
    every = [(min(y, lasts[0]), min(x, lasts[1])) for y in range(0, cells[0], part) for x in range(0, cells[1], part)]
    room = max(2, SURVEYED // seen**2)
    if len(every) <= room:
        return every
    left, around = evidence.float().cpu().clone(), []
    scale = [n / length for n, length in zip(left.shape, cells)]  # of the evidence, a cell
    for _ in range(room // 2):
        middle = [(i + 0.5) / s for i, s in zip(divmod(int(left.argmax()), left.shape[1]), scale)]
        start = [min(max(0, round((m - part / 2) / STRIDE) * STRIDE), last) for m, last in zip(middle, lasts)]
        around.append((start[0], start[1]))
        rows, columns = (slice(max(0, int((m - part) * s)), math.ceil((m + part) * s)) for m, s in zip(middle, scale))
        left[rows, columns] = -torch.inf
    spread = np.linspace(0, len(every) - 1, room - len(around)).round().astype(int).tolist()
    return sorted({*around, *(every[i] for i in spread)})


def checked_tile(tile: int | str | None, seen: int) -> int | str | None:
    """The tile as it is. Raises UsageError where it is no choice for a model of the working size ``seen``."""
    least = Grid.of((1, 1), seen, seen).across
    if tile is None or tile == "auto" or (isinstance(tile, int) and tile >= least):
        return tile
    raise UsageError(f"tile {tile}: give pixels, {least} or more, or auto; off sees every image as a whole")


def side_of_windows(tile: int | str | None, size: tuple[int, int], seen: int) -> int | None:
    """Pixels of the sides of the windows in which an image (H, W) is seen; None: it is seen as a whole.

    tile: their number, for an image that is larger; "auto": twice the working size ``seen``, from 100 megapixels on; None: never.
    """
    if tile == "auto":
        return AUTO * seen if size[0] * size[1] > large_labels.LARGE else None
    return int(tile) if tile is not None and max(size) > int(tile) else None


class _Labels:
    """Rows of log odds become bands of labels, and are counted on the way."""

    def __init__(self, grid: Grid, there: Sequence[int], classes: int):
        self.grid, self.there, self.classes = grid, there, classes
        self.counts = np.zeros(256, np.int64)
        self.kept: list[Tensor] = []
        self.cells = [math.ceil(length / grid.cell) for length in grid.size]
        self.apart = max(1, -(-max(self.cells) // SHOWN))

    def bands(self, scores: Iterator[Tensor]) -> Iterator[np.ndarray]:
        """(h, W) uint8 each. A row of cells is drawn half when the next one is known, as bilinear interpolation asks."""
        before, first, top = None, 0, 0
        height, cell = self.grid.size[0], self.grid.cell
        for rows in scores:
            self._keep(rows, first + (before is not None))
            ready = rows if before is None else torch.cat([before, rows], 1)
            end = first + ready.shape[1]
            bottom = height if end >= self.cells[0] else int((end - 0.5) * cell)
            # Rounded, a half downwards: even odds are the background's.
            levels = np.ceil(ahead(ready.numpy()) * EVEN / SURE + EVEN - 0.5).astype(np.uint8)
            for start in range(top, bottom, large_labels.SIDE):
                band = self._drawn(levels, first, start, min(bottom, start + large_labels.SIDE))
                self.counts += Image.fromarray(band).histogram()
                yield band
            before, first, top = ready[:, -1:], end - 1, bottom

    def _drawn(self, levels: np.ndarray, first: int, top: int, bottom: int) -> np.ndarray:
        width, cell = self.grid.size[1], self.grid.cell
        labels = np.zeros((bottom - top, width), np.uint8)
        highest = np.full(labels.shape, int(EVEN), np.uint8)
        box = (0, top / cell - first, width / cell, bottom / cell - first)
        for i, level in zip(self.there, levels[1:]):
            if level.max() <= EVEN:
                continue
            drawn = np.asarray(Image.fromarray(level).resize((width, bottom - top), Image.Resampling.BILINEAR, box))
            better = drawn > highest
            np.copyto(labels, np.uint8(i + 1), where=better)
            np.copyto(highest, drawn, where=better)
        return labels

    def _keep(self, rows: Tensor, first: int) -> None:
        inside = rows[:, -first % self.apart : max(0, self.cells[0] - first) : self.apart, : self.cells[1] : self.apart]
        self.kept.append(inside)

    def told(self, packed: bytes) -> Found:
        few = torch.cat(self.kept, 1)
        preview = torch.full((self.classes + 1, *few.shape[1:]), presence.ABSENT)
        preview[0] = 0
        preview[[i + 1 for i in self.there]] = few[1:]
        return Found(packed, self.counts, preview)
