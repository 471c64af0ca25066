"""Masks that are read as one class and look like label maps of several: that is said, since no pixel tells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from shotseg.data.image_labels import CLASS, IMAGE
from shotseg.data.images import read_bytes
from shotseg.data.listing import some
from shotseg.data.masks import binary
from shotseg.data.pixels import decode
from shotseg.data.samples import IGNORE
from shotseg.data.tables import column, plain, rows_of
from shotseg.errors import InputError, UsageError, note

LOOKED_AT = 6  # masks of a folder
MOST = 64  # values or colours of classes; more are shades


def warn_of_classes(root: Path, name: str, masks: Sequence[Path]) -> None:
    """Say where masks that are read as one class hold class ids or class colours, by the first, the last and some between."""
    seen = [masks[i] for i in np.unique(np.linspace(0, len(masks) - 1, LOOKED_AT).astype(int))] if masks else []
    found: list[list[int]] = []
    for mask in seen:
        try:
            values = _plain_values(mask)
        except InputError:  # which is said when the mask is used
            continue
        if len(values) > MOST:
            return
        found.append(values)
    every = sorted({value for values in found for value in values})
    if len(every) < 2 or (max(every) <= IGNORE and _are_objects(found)):
        return
    colours = max(every) > IGNORE
    what = "colours" if colours else "values"
    said = [f"#{value:06x}" if colours else str(value) for value in every]
    table = "class_dict.csv (name,r,g,b)" if colours else "classes.csv (class_id,class)"
    note(
        f"{root}: masks with the {what} {some(said, 5)}, read as one class {name!r}; if these are classes, name them in {table}"
    )


def warn_of_tables(root: Path, name: str) -> None:
    """Say where a table beside photos that are read as one class says the class of each: a class is a folder."""
    for file in sorted(root.glob("*.csv")):
        with suppress(UsageError):  # no table
            head, *rows = [row for _, row in rows_of(file, bool)] or [[]]
            plain_head = [plain(cell) for cell in head]
            photo, at = column(plain_head, IMAGE), column(plain_head, CLASS)
            several = at is not None and len({row[at] for row in rows if len(row) > at}) > 1
            if file.name != "index.csv" and photo is not None and several:
                note(f"{file}: not read, every mask is of the class {name!r}; lay them out as masks/<class>/<name>.png")


def _plain_values(mask: Path) -> list[int]:
    """The values of a mask beside 0 and 255, or its colours beside black; none where they are the shades of one mask."""
    read_bytes(mask)  # which says what is wrong
    pixels = decode(mask, mask)  # by its path: of a stack the first page, without a word
    if pixels.lossy or pixels.alpha is not None:
        return []
    values = pixels.values
    if values.ndim == 3:
        if (values == values[..., :1]).all():
            values = values[..., 0]
        else:
            return [int(v) for v in np.unique(values.astype(np.int64) @ (1 << 16, 1 << 8, 1)) if v]
    if values.dtype.kind not in "ui" or not ((binary(pixels, mask) > 0) == (values > 0)).all():
        return []
    return [int(value) for value in np.unique(values) if value not in (0, IGNORE)]


def _are_objects(found: Sequence[list[int]]) -> bool:
    """Whether the values are 1, 2, 3 in each of three masks or more, and not the same in all, as numbers of objects are.

    Of fewer masks nothing tells them from classes.
    """
    counted = all(values == list(range(1, len(values) + 1)) for values in found)
    return len(found) > 2 and counted and any(values != found[0] for values in found)
