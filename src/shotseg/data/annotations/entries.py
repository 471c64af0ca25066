"""Photos with their objects by class names, as files of many tools hold them, made into annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from shotseg.data.annotations.drawn import Annotated, Annotations, Photos, Shape, ends_of, said_size
from shotseg.data.annotations.labelled import note
from shotseg.errors import InputError

Draw = Callable[[int, int], np.ndarray]


class Entry(NamedTuple):
    """A photo as a file says it.

    source: that file.      folder: from which its photo is looked for first.   file: the photo's name.
    height, width: as they are said, or None.   objects: (class, how it is drawn).   lost: objects that cannot be drawn.
    """

    source: Path
    folder: Path
    file: Any
    height: Any
    width: Any
    objects: Sequence[tuple[str, Draw]]
    lost: int = 0


def collected(entries: Iterable[Entry], root: Path, images: Path | None, broken: int) -> Annotations:
    """Classes sorted by name. Photos below ``root``, or ``images``; one whose name leads out of it, and whose
    last part is not found there, is named and left out."""
    entries = list(entries)
    classes = sorted({name for entry in entries for name, _ in entry.objects})
    number = {name: i for i, name in enumerate(classes, start=1)}
    finder = Photos(images or root, *([images] if images else [root / "images"]))
    ends = ends_of(entry.file for entry in entries)
    photos = []
    for entry in entries:
        try:
            named, found = finder.named(entry.file, entry.source, ends)
        except InputError as error:
            note(str(error))
            broken += 1
            continue
        beside = entry.folder / named
        photo = beside if images is None and beside.is_file() else found
        below = entry.folder.relative_to(root).as_posix() if entry.folder.is_relative_to(root) else ""
        file = PurePosixPath(below, named).as_posix() if beside.is_file() else named
        frame = said_size(entry.height, entry.width)
        shapes = [Shape(number[name], draw) for name, draw in entry.objects]
        photos.append(Annotated(file, entry.source, frame, shapes, photo, entry.lost))
    return Annotations(classes, photos, broken)
