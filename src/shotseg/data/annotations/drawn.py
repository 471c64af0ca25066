"""Annotations as a file holds them: shapes that are drawn when their photo's turn comes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from shotseg.data.annotations.labelled import MOST, Labelled, Part, cropped, inside, label_map, note
from shotseg.data.images import IMAGE_TYPES, one_class, upright_size
from shotseg.data.pixels import MAX_PIXELS
from shotseg.data.samples import IGNORE
from shotseg.data.sets import coco_masks
from shotseg.errors import InputError

BROKEN = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    OverflowError,
    AttributeError,
)  # what odd content makes code raise
CLASS_KEYS = ("class", "classification", "class_name", "classname", "label", "category")  # attributes that name a class
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded photo
ALIKE = 0.01  # how far the scales of the two sides may differ in a resized photo


class Shape(NamedTuple):
    """One object that can be drawn: the number of its class (1 is the first); (height, width) -> (h, w) bool.

    group: shapes of one class and group are one object; None: of its own.
    mask:  a mask of the class in its photo, which may be empty; else what covers no pixel is a mistake.
    """

    label: int
    draw: Callable[[int, int], np.ndarray]
    group: Any = None
    mask: bool = False


@dataclass(frozen=True, eq=False)
class Annotated:
    """One photo's annotations.

    file:   the photo, relative to its folder, with "/".        photo: where it lies, None where it is not found.
    source: the file that says so.                              size: (height, width) that it says, if it does.
    shapes: its objects, the later on top.                      lost: how many more cannot be used.
    map:    in place of shapes: gives the label map, (H, W) uint8, 255 = ignore.
    number: its id in the file, where that has one.
    page, pages: of the photo's file, from 1, and how many it has where each is a photo of its own.
    """

    file: str
    source: Path
    size: tuple[int, int] | None = None
    shapes: Sequence[Shape] = ()
    photo: Path | None = None
    lost: int = 0
    map: Callable[[], np.ndarray] | None = None
    number: int | None = None
    page: int = 1
    pages: int = 1

    def shows(self) -> list[int]:
        """The numbers of its classes. Raises InputError where the label map cannot be read."""
        if self.map is None:
            return sorted({shape.label for shape in self.shapes})
        return [int(value) for value in np.unique(self.map()) if value not in (0, IGNORE)]

    def mask(self, label: int) -> np.ndarray:
        """(H, W) uint8 in {0, 1, 255} of one class, at the photo's size. Raises InputError where it cannot be drawn."""
        if self.map is not None:
            return self._fitted(one_class(_map_of(self), label))
        found = np.zeros(self._target, bool)
        for _, mask in self._drawn([shape for shape in self.shapes if shape.label == label]):
            found |= mask
        return found.astype(np.uint8)

    def labelled(self, classes: int) -> Labelled:
        """Its label map and objects. Raises InputError where nothing that it holds can be drawn."""
        if self.map is not None:
            return Labelled(self.file, self._fitted(self.map()), photo=self.photo, page=self.page, pages=self.pages)
        pieces = [(shape.group, cropped(shape.label, mask)) for shape, mask in self._drawn(self.shapes)]
        labels = label_map(self._target, [piece for _, piece in pieces], classes)
        objects = _grouped(pieces, labels.shape)
        found = Labelled(self.file, labels, parts=objects, photo=self.photo, number=self.number)
        return replace(found, page=self.page, pages=self.pages)

    def _drawn(self, shapes: Sequence[Shape]) -> Iterator[tuple[Shape, np.ndarray]]:
        drawn = empty = 0
        height, width = self.size or self._target
        for shape in shapes:
            try:
                mask = shape.draw(height, width)
            except BROKEN as error:
                note(f"{self._where}: an object left out ({_reason(error)}); draw it again")
                continue
            if not mask.any():
                empty += not shape.mask
                continue
            drawn += 1
            yield shape, self._fitted(mask)
        if empty:
            note(f"{self._where}: {empty} objects that cover no pixel of it are left out; look at their coordinates")
        if not drawn and (self.lost or not all(shape.mask for shape in shapes)):
            raise InputError(
                f"{self._where}: none of its {len(shapes) + self.lost} objects has a mask; draw them again"
            )

    @cached_property  # of a PNG all of it is decoded, which is not to be done for each of a thousand cells
    def _target(self) -> tuple[int, int]:
        size = self.size if self.photo is None else upright_size(self.photo, self.page)
        if size is None:
            raise InputError(f"{self._where}: its size is not known; put the photo beside the file")
        return size

    def _fitted(self, mask: np.ndarray) -> np.ndarray:
        if self.photo is None and self.size is None:
            return mask
        height, width = self._target
        if mask.shape == (height, width):
            return mask
        scales = height / mask.shape[0], width / mask.shape[1]
        if abs(scales[0] / scales[1] - 1) > ALIKE:
            said = f"{mask.shape[1]} x {mask.shape[0]}"
            raise InputError(f"{self._where}: drawn on {said}, but the photo is {width} x {height}; export it again")
        note(f"{self.source}: masks of another size than their photos; they are resized")
        rows, columns = (((np.arange(n) + 0.5) / s).astype(int) for n, s in zip((height, width), scales))
        return mask[np.ix_(rows, columns)]

    @property
    def _where(self) -> str:
        return (
            f"{self.source}: photo {self.file}"
            if self.source.stem != PurePosixPath(self.file).stem
            else str(self.source)
        )


@lru_cache(maxsize=4)
def _map_of(photo: Annotated) -> np.ndarray:
    """The label map of a photo, which is asked for once for each class that it shows. It is not to be written into."""
    assert photo.map is not None
    return photo.map()


class Annotations(NamedTuple):
    """Class names, and the photos: label i + 1 means ``classes[i]``.

    left_out: photos that were named and cannot be used.        ids: the classes' ids in the file, where it has such.
    """

    classes: list[str]
    photos: list[Annotated]
    left_out: int = 0
    ids: tuple[int, ...] | None = None

    def each_once(self) -> Annotations:
        """Without photos of one name, since which objects are whose cannot be told. InputError where none is left."""
        times = Counter(photo.file for photo in self.photos)
        for file in (file for file, count in times.items() if count > 1):
            note(f"{self.photos[0].source}: {times[file]} photos are named {file}; they are left out, name each apart")
        photos = [photo for photo in self.photos if times[photo.file] == 1]
        if self.photos and not photos:
            raise InputError(f"{self.photos[0].source}: no photo in it that can be used; export it again")
        return self._replace(photos=photos, left_out=self.left_out + len(self.photos) - len(photos))

    def labelled(self) -> Iterator[Labelled]:
        """The photos one at a time; one that cannot be drawn is named and left out. InputError where none can be."""
        done, last = 0, None
        for photo in self.photos:
            try:
                result = photo.labelled(len(self.classes))
            except InputError as error:
                if last is not None:
                    note(str(last))
                last = error
                continue
            done += 1
            yield result
        if last is not None:  # said once: as the error, or as a line
            if not done:
                raise last
            note(str(last))


def uploaded(file: str) -> str:
    """The name that a photo had before it was uploaded to Label Studio."""
    return UPLOADED.sub("", PurePosixPath(file).name)


def ends_of(names: Iterable[Any]) -> Counter[str]:
    """How many photos of a file have each name, where only its last part counts, without what an upload put before it."""
    return Counter(uploaded(str(name or "").replace("\\", "/")) for name in names)


class Photos:
    """Finds the photos that a file names: below one of ``bases``, else anywhere below ``root`` by their own name."""

    def __init__(self, root: Path, *bases: Path):
        self.root, self.bases = root, list(dict.fromkeys((*bases, root)))
        self._known: dict[tuple[bool, str], list[Path]] | None = None

    def find(self, file: str) -> Path | None:
        """The photo of that name; without an ending, of that name with any ending. None where there is none, or several."""
        direct = (base / file for base in self.bases)
        found = next((path for path in direct if path.is_file()), None) or self._search(PurePosixPath(file))
        if found is None and PurePosixPath(file).suffix.lower() not in IMAGE_TYPES:
            found = self.stem(file)
        return self.find(unquote(file)) if found is None and "%" in file and unquote(file) != file else found

    def named(self, said: Any, source: object, ends: Counter[str]) -> tuple[str, Path | None]:
        """The name below a folder of what a file calls a photo, and the photo. Of a name that leads out, and of one that Label
        Studio put digits before, a photo with the last part alone is taken, where no other photo of the file is called so.

        ends: of :func:`ends_of` all photos of the file. No path of a file is opened. Raises InputError as :func:`inside`.
        """
        try:
            named = inside(said, source)
            photo = self.find(named)
        except InputError:
            named, photo = PurePosixPath(str(said or "").replace("\\", "/")).name, None
            if not self._by_end(inside(named, source), ends):
                raise
        return (named, photo) if photo else self._by_end(named, ends) or (named, None)

    def _by_end(self, named: str, ends: Counter[str]) -> tuple[str, Path] | None:
        for name in (PurePosixPath(named).name, uploaded(named)):
            if ends[uploaded(named)] == 1 and name and (photo := self.find(name)):
                return name, photo
        return None

    def stem(self, stem: str) -> Path | None:
        """The photo below one of the bases that has this name without its ending."""
        for base in self.bases:
            folder = (base / stem).parent
            name = PurePosixPath(stem).name
            if folder.is_dir():
                found = sorted(p for p in folder.glob(f"{_literal(name)}.*") if p.stem == name and _is_photo(p))
                if found:
                    return found[0]
        return None

    def _search(self, file: PurePosixPath) -> Path | None:
        if self._known is None:
            self._known = {}
            for folder, folders, names in os.walk(self.root):
                folders[:] = sorted(name for name in folders if name[0] != ".")
                for path in (Path(folder, name) for name in sorted(names)):
                    if _is_photo(path):
                        for key in _spellings(path.name):
                            self._known.setdefault(key, []).append(path)
        found = next((self._known[key] for key in _spellings(file.name) if key in self._known), [])
        alike = [sum(a == b for a, b in zip(path.parts[::-1], file.parts[::-1])) for path in found]
        best = [path for path, same in zip(found, alike) if same == max(alike)]
        return best[0] if len(best) == 1 else None


def polygon(values: Any, height: int, width: int, fill: Callable = coco_masks.polygon) -> np.ndarray:
    """(H, W) bool of one outline, [x, y, ...] or (N, 2). Raises ValueError where it is none."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"an outline of {len(numbers)} numbers")
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 10 * max(height, width) + 1000:
        raise ValueError("coordinates that are no numbers, or far outside the photo")
    return fill(numbers.reshape(-1, 2), height, width)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> np.ndarray:
    """(180, 2) outline (x, y) of an ellipse, turned clockwise about its centre."""
    turn = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    return turned(np.stack([np.cos(turn), np.sin(turn)], 1) * radii, degrees) + centre


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Points (N, 2) as (x, y), turned clockwise as seen in a photo, whose y goes down, about (0, 0)."""
    angle = np.deg2rad(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width as a file says them; None where it does not. Raises ValueError for what can be none."""
    try:
        found = round(float(height)), round(float(width))
    except (TypeError, ValueError, OverflowError):  # no numbers, or none that are finite
        return None
    if min(found) < 1:
        return None
    if found[0] * found[1] > MAX_PIXELS:
        raise ValueError(f"a photo of {found[1]} x {found[0]}")
    return found


def said_size(height: Any, width: Any) -> tuple[int, int] | None:
    """The same; None also for what can be none, since the photo itself says it."""
    try:
        return size(height, width)
    except ValueError:
        return None


def numbered(names: Iterable[str]) -> list[str]:
    """Each name once, in order."""
    return list(dict.fromkeys(names))


def check_map(classes: Sequence[str], source: object) -> None:
    """Raise InputError for more classes than a label map holds."""
    if len(classes) > MOST:
        raise InputError(
            f"{source}: {len(classes)} classes, a label map of bytes holds {MOST}; use a format of objects"
        )


def _grouped(pieces: Sequence[tuple[Any, Part]], shape: tuple[int, ...]) -> tuple[Part, ...]:
    """The objects that (group, part) make, each where its first part stands."""
    objects: dict[Any, list[Part]] = {}
    for number, (group, part) in enumerate(pieces):
        objects.setdefault((number,) if group is None else (part.label, str(group)), []).append(part)
    return tuple(
        parts[0] if len(parts) == 1 else cropped(parts[0].label, np.any([in_photo(p, shape) for p in parts], axis=0))
        for parts in objects.values()
    )


def in_photo(part: Part, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool of an object in its photo."""
    mask = np.zeros(shape, bool)
    mask[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] = part.mask
    return mask


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200] or type(error).__name__


def _spellings(name: str) -> tuple[tuple[bool, str], tuple[bool, str]]:
    """A name as it is, and as systems keep it that know neither letter case nor how accents are stored."""
    name = name.rpartition("\\")[2]  # what was packed on Windows may hold its folders in its name
    return (True, name), (False, unicodedata.normalize("NFC", name).casefold())


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_TYPES and not path.name.startswith(".") and path.is_file()


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
