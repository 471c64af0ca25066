"""Photos and masks of a person's own data set that can be read: one that cannot is named and left out, before any is drawn."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from shotseg.data.annotations.opened import AnnotatedDataset
from shotseg.data.folder import FolderDataset, Item
from shotseg.data.images import read_image
from shotseg.data.listing import some
from shotseg.data.preparation import MOST_LEFT_OUT
from shotseg.errors import InputError, note

EMPTY = "no pixel of the class in the mask"
SHOWN = 20  # of those left out, which are named one by one
MOST_SEEN = 20_000  # items of a data set; to look through more takes longer than what is done with it


class Usable:
    """A data set without some of its items, with the same interface.   kept: positions of the others, ascending."""

    def __init__(self, dataset: Any, kept: Sequence[int]):
        self._dataset, self._kept = dataset, kept
        self.items = [dataset.items[i] for i in kept]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Any:
        return self._dataset.sample(self._kept[index])


def usable(dataset: Any, classes: Collection[str], say: Callable[[str], None] = note) -> tuple[Any, int]:
    """The data set without items of those classes whose photo or mask cannot be used, and how many those are; they are said.

    A folder or annotations are looked through, up to ``MOST_SEEN`` items; what is prepared was, and others give what they give.
    An empty mask is no fault, yet no example either. Raises InputError where more than ``MOST_LEFT_OUT`` of the others cannot be
    used.
    """
    if not isinstance(dataset, FolderDataset | AnnotatedDataset) or len(dataset.items) > MOST_SEEN:
        return dataset, 0
    items = dataset.items
    of_photo: dict[tuple[Path, int], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        if item.class_name in classes and item.mask_path is not None:
            of_photo[item.image_path, item.page].append(i)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda listed: _faults(dataset, listed), of_photo.values())
        faults = {i: fault for of_one in found for i, fault in of_one.items()}
    left_out = [f"{items[i].id}: {fault}" for i, fault in sorted(faults.items()) if fault not in ("", EMPTY)]
    empty = [items[i].id for i, fault in sorted(faults.items()) if fault == EMPTY]
    _say_left_out(dataset.root, left_out, len(faults), say)
    if empty:
        say(f"left out, {EMPTY}: {some(empty)}")
    kept = [i for i in range(len(items)) if not faults.get(i)]
    return dataset if len(kept) == len(items) else Usable(dataset, kept), len(items) - len(kept)


def readable(folder: object, photos: Sequence[Item], bands: Sequence[int] | None) -> list[Item]:
    """Those that can be read, of photos without labels; the others are said as by :func:`usable`, which raises too."""
    if len(photos) > MOST_SEEN:
        return list(photos)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(pool.map(lambda photo: _photo_fault(photo, bands), photos))
    _say_left_out(folder, [fault for fault in faults if fault], len(photos), note)
    return [photo for photo, fault in zip(photos, faults) if not fault]


def _say_left_out(where: object, left_out: Sequence[str], count: int, say: Callable[[str], None]) -> None:
    """Name what is left out of so many. Raises InputError where it is too much."""
    if len(left_out) > MOST_LEFT_OUT * count:
        what = f"{len(left_out)} of {count} photos or masks cannot be used, more than {MOST_LEFT_OUT:.0%}"
        raise InputError(f"{where}: {what}; the first: {left_out[0]}")
    for each in left_out[:SHOWN]:
        say(f"left out: {each}")
    if len(left_out) > SHOWN:
        say(f"left out: {len(left_out) - SHOWN} more")


def _faults(dataset: Any, listed: Sequence[int]) -> dict[int, str]:
    """Why each item of a photo cannot be used; "" where it can."""
    fault, found = _photo_fault(dataset.items[listed[0]], dataset.bands), dict[object, str]()
    for i in listed:
        place = dataset.label_map(i) or i  # what one label map shows was seen when its classes were listed
        if place not in found:
            found[place] = fault or _fault(dataset, i)
    return {i: found[dataset.label_map(i) or i] for i in listed}


def _fault(dataset: Any, index: int) -> str:
    """Why the mask of an item cannot be used; "" where it can."""
    try:
        return "" if (dataset.mask(index) == 1).any() else EMPTY
    except InputError as error:
        return str(error)


def _photo_fault(item: Item, bands: Sequence[int] | None) -> str:
    """Why a photo cannot be read; "" where it can. A JPEG is decoded at an eighth of its size, which finds the same faults."""
    try:
        with Image.open(item.image_path) as image:
            image.seek(item.page - 1)
            image.draft("RGB", (1, 1))
            image.load()
    except Exception:  # another reader may know it
        try:
            read_image(item.image_path, bands, item.page, item.pages)
        except InputError as error:
            return str(error)
    return ""
