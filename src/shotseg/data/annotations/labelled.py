"""What every annotation format writes and reads, and the little that they share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np

from shotseg import errors
from shotseg.data.annotations import touching
from shotseg.data.annotations.outlines import parts
from shotseg.data.images import read_bytes
from shotseg.data.listing import has_controls
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, LeftOutWarning

LONGEST = 255  # bytes of a file's name, on all systems
MOST = 254  # classes that fit into a label map of bytes, beside the background and what is ignored
Content = TypeVar("Content")
WIDE_IGNORE = 65535  # what is ignored, in a label map of more classes


class Part(NamedTuple):
    """One object: the number of its class (1 is the first), its (h, w) bool mask, and where that lies in the photo."""

    label: int
    mask: np.ndarray
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Labelled:
    """One photo's label map.

    file:   the photo, relative to its folder, with "/".
    labels: (H, W) uint8, 0 = background, i + 1 = the i-th class, 255 = ignore. Of more than 254 classes: uint16, where
            65535 = ignore.
    name:   what the files made for it are called, without an ending; default ``file`` without its ending.
    scores: class name -> confidence in [0, 1], where there is one.
    parts:  its objects, which may overlap; None: the connected parts of each class.
    photo:  where the photo lies, where that is known.
    number: its id in the file that it was read from, where that has one.
    page, pages: of the photo's file, from 1, and how many it has where each is a photo of its own; bands: of it.
    """

    file: str
    labels: np.ndarray
    name: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[Part, ...] | None = None
    photo: Path | None = None
    number: int | None = None
    page: int = 1
    pages: int = 1
    bands: tuple[int, ...] | None = None

    @property
    def stem(self) -> str:
        return self.name or PurePosixPath(self.file).with_suffix("").as_posix()

    @property
    def stack(self) -> str:
        """What it is a page of, without an ending."""
        return self.stem.rpartition("_p")[0]

    @property
    def objects(self) -> tuple[Part, ...]:
        """``parts``, or the connected parts of each class."""
        if self.parts is not None:
            return self.parts
        return tuple(Part(label, *part) for label in self.present() for part in parts(self.labels == label))

    @property
    def apart(self) -> tuple[Part, ...]:
        """The objects of each class, those that touch apart, see :mod:`shotseg.data.annotations.touching`."""
        return tuple(Part(label, *part) for label in self.present() for part in touching.objects(self.labels == label))

    def present(self) -> list[int]:
        """The numbers of the classes that occur."""
        return [int(label) for label in np.unique(self.labels) if 0 < label < _ignored(self.labels)]


def arranged(
    results: Iterable[Labelled], min_object: int, one_a_class: bool, instances: bool = False
) -> Iterator[Labelled]:
    """The same without objects of fewer than ``min_object`` pixels, with all objects of a class as one, or with those that
    touch apart."""
    for result in results:
        if instances and result.parts is None:
            result = replace(result, parts=result.apart)
        objects, labels = result.objects, result.labels
        if small := [part for part in objects if part.mask.sum() < min_object]:
            objects = tuple(part for part in objects if part.mask.sum() >= min_object)
            labels = _without(labels, small, objects)
        result = replace(result, labels=labels, parts=objects)
        yield replace(result, parts=whole_classes(result)) if one_a_class else result


def whole_classes(result: Labelled) -> tuple[Part, ...]:
    """All objects of each class as one."""
    if result.parts is None:
        return tuple(cropped(label, result.labels == label) for label in result.present())
    masks: dict[int, np.ndarray] = {}
    for part in result.parts:
        mask = masks.setdefault(part.label, np.zeros(result.labels.shape, bool))
        _window(mask, part)[part.mask] = True
    return tuple(cropped(label, mask) for label, mask in sorted(masks.items()))


def cropped(label: int, mask: np.ndarray) -> Part:
    """The (H, W) bool mask of an object, which has pixels, cut to its box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    own = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    return Part(label, own.copy(), top, left)  # a view would keep the whole mask: thousands of cells are gigabytes


def label_map(shape: tuple[int, ...], objects: Iterable[Part], classes: int) -> np.ndarray:
    """The label map of objects, the later on top."""
    labels = np.zeros(shape, np.uint8 if classes <= MOST else np.uint16)
    for part in objects:
        _window(labels, part)[part.mask] = part.label
    return labels


def numbered(shape: tuple[int, ...], objects: Iterable[Part]) -> np.ndarray:
    """(H, W) int32: the pixels of the i-th object are i + 1, the later on top; 0 = background."""
    image = np.zeros(shape, np.int32)
    for number, part in enumerate(objects, start=1):
        _window(image, part)[part.mask] = number
    return image


def _without(labels: np.ndarray, small: Sequence[Part], kept: Sequence[Part]) -> np.ndarray:
    labels = labels.copy()
    for part in small:
        window = _window(labels, part)
        window[part.mask & (window == part.label)] = 0
    below = label_map(labels.shape, kept, int(labels.max()))
    return np.where((labels == 0) & (below > 0), below.astype(labels.dtype), labels)


def _window(array: np.ndarray, part: Part) -> np.ndarray:
    height, width = part.mask.shape
    return array[part.top : part.top + height, part.left : part.left + width]


def _ignored(labels: np.ndarray) -> int:
    return IGNORE if labels.dtype == np.uint8 else WIDE_IGNORE


def note(line: str) -> None:
    """One line about what cannot be used; what is left goes on."""
    errors.note(line, LeftOutWarning)


def some(values: Iterable[Any]) -> str:
    """The first few of many, in words."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def inside(name: Any, source: object) -> str:
    """A photo's name as a path below a folder, with "/"; of an absolute path or an address, its last part.

    Raises InputError where it leads out of the folder, or is none.
    """
    text = str(name).replace("\\", "/") if name else ""
    if re.match(r"https?://", text):
        text = unquote(urlsplit(text).path)
    path = PurePosixPath(text)
    if path.is_absolute() or re.match(r"[A-Za-z]:|[a-z][a-z0-9+.-]+://", text):
        path = PurePosixPath(path.name)
    if has_controls(text):
        raise InputError(
            f"{source}: photo {text[:80]!r} left out, its name holds control characters or is no text; rename it"
        )
    if any(len(os.fsencode(part)) > LONGEST for part in path.parts):
        raise InputError(f"{source}: photo {text[:80]!r} left out, no file has so long a name; look at what it is")
    if ".." in path.parts or not path.name:
        raise InputError(f"{source}: photo {text[:80]!r} lies outside its folder; give names below it")
    return path.as_posix()


def usable(files: Iterable[Path], read: Callable[[Path], Content]) -> tuple[list[Content], int]:
    """What the files hold, and how many are broken: those are named. Raises InputError where all are."""
    found, broken = [], []
    for file in files:
        try:
            found.append(read(file))
        except InputError as error:
            broken.append(error)
    if broken and not found:
        raise broken[0]
    for reason in broken:
        note(str(reason))
    return found, len(broken)


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); export it again") from error


def malformed(path: object, error: Exception, what: str) -> InputError:
    """One line for content that is not as the format has it."""
    reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return InputError(f"{path}: not {what} ({reason}); export it again")
