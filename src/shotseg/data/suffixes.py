"""Masks named as their photos with any end behind that they share: "a_1stHO.png" of "a.jpg", "a_L.png" of "a.png".

Words that are known to mark a mask are of :mod:`shotseg.data.pairing`; this is for all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from shotseg.data.images import read_image
from shotseg.errors import InputError

FEW, FLAT = 256, 0.9  # colours of a mask, at most; part of its pixels that equal the one to their left, at least
ASKED = 3  # pairs of each end whose pictures are looked at

Named = TypeVar("Named")
Ends = dict[str, dict[Path, Path]]  # end -> mask -> its photo


def by_end(photos: Mapping[str, Path], drawn: Iterable[tuple[str, Path]]) -> Ends:
    """The files that have the whole name of a photo, a mark, and an end; the end of most photos comes first.

    photos, drawn: by their names. Ends that are numbers alone mean objects, and are none.
    """
    found: Ends = {}
    for name, file in drawn:
        end, photo = owner(photos, name) or ("", file)
        if photo != file and not re.fullmatch(r"[ ._-]+\d+", end):
            found.setdefault(end, {})[file] = photo
    return dict(sorted(found.items(), key=lambda each: (-len(each[1]), each[0])))


def owner(photos: Mapping[str, Named], name: str) -> tuple[str, Named] | None:
    """What of the name stands behind that of a photo and begins with a mark, and the photo: the one with the longest name."""
    marks = (i for i in range(len(name) - 1, 0, -1) if name[i] in " ._-")
    return next(((name[i:], photos[name[:i]]) for i in marks if name[:i] in photos), None)


def look_as_masks(pairs: Mapping[Path, Path]) -> bool:
    """Whether files of one end are masks by their pictures, areas of few colours, and those of their photos are not."""
    return all(_is_drawn(mask) and not _is_drawn(photo) for mask, photo in islice(pairs.items(), ASKED))


def _is_drawn(path: Path) -> bool:
    try:
        image = read_image(path).astype(np.int64) @ (1 << np.array([16, 8, 0]))
    except InputError:  # it is said when it is used
        return False
    return (image[:, 1:] == image[:, :-1]).mean() >= FLAT and len(np.unique(image)) <= FEW
