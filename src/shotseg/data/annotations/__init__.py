"""Masks written as, and read from, the files of other tools: one module a format, each with ``write`` and ``read``.

    write("coco", "out", results, ["cat", "dog"])      # results: an iterable of Labelled, taken one at a time
    classes, results = read("coco", "out")             # corrected in another tool, and back

``read`` gives the class names and an iterator of :class:`Labelled` whose label i + 1 means ``classes[i]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from shotseg.data.annotations import coco, label_studio, masks, voc, yolo
from shotseg.data.annotations.labelled import Labelled
from shotseg.errors import UsageError

__all__ = ["FORMATS", "Labelled", "read", "write"]

FORMATS = {"mask": masks, "coco": coco, "voc": voc, "yolo": yolo, "labelstudio": label_studio}


def write(format: str, out: str | Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    """Write label maps under the folder ``out``. Raises UsageError for an unknown format, InputError on a full disk."""
    _module(format).write(Path(out), results, classes)


def read(format: str, folder: str | Path) -> tuple[list[str], Iterator[Labelled]]:
    """The class names and label maps of a folder in that format. Raises InputError (one line) for a broken file."""
    return _module(format).read(Path(folder))


def _module(format: str):
    if format not in FORMATS:
        raise UsageError(f"no annotation format {format!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[format]
