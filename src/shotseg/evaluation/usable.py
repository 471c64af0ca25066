"""Photos and masks of a person's own data set that can be read: one that cannot is named and left out, before any is drawn."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from shotseg.data.annotations.opened import AnnotatedDataset
from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_image
from shotseg.data.preparation import MOST_LEFT_OUT
from shotseg.errors import InputError

LeftOut = list[tuple[str, str]]  # (item, reason)


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


def usable(dataset: Any, classes: Collection[str]) -> tuple[Any, LeftOut]:
    """The data set without items of those classes whose photo or mask cannot be used, and these with the reasons.

    A folder or annotations are looked through; what is prepared was, and others give what they give. Raises InputError where
    more than ``MOST_LEFT_OUT`` cannot be used.
    """
    if not isinstance(dataset, FolderDataset | AnnotatedDataset):
        return dataset, []
    asked = [i for i, item in enumerate(dataset.items) if item.class_name in classes and item.mask_path is not None]
    photos = sorted({dataset.items[i].image_path for i in asked})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = dict(zip(photos, pool.map(lambda photo: _photo_fault(dataset, photo), photos)))
        faults = dict(zip(asked, pool.map(lambda i: broken[dataset.items[i].image_path] or _fault(dataset, i), asked)))
    left_out = [(dataset.items[i].id, fault) for i, fault in faults.items() if fault]
    if len(left_out) > MOST_LEFT_OUT * len(asked):
        what = f"{len(left_out)} of {len(asked)} photos or masks cannot be used, more than {MOST_LEFT_OUT:.0%}"
        raise InputError(f"{dataset.root}: {what}; the first: {left_out[0][1]}")
    if not left_out:
        return dataset, []
    return Usable(dataset, [i for i in range(len(dataset.items)) if not faults.get(i)]), left_out


def _fault(dataset: Any, index: int) -> str:
    """Why the mask of an item cannot be used; "" where it can."""
    try:
        mask = dataset.mask(index)
    except InputError as error:
        return str(error)
    return "" if (mask == 1).any() else f"{dataset.items[index].mask_path}: no pixel is the class; mark the object"


def _photo_fault(dataset: Any, photo: Path) -> str:
    """Why a photo cannot be read; "" where it can. A JPEG is decoded at an eighth of its size, which finds the same faults."""
    try:
        with Image.open(photo) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except Exception:  # another reader may know it
        try:
            read_image(photo, dataset.bands, dataset.page)
        except InputError as error:
            return str(error)
    return ""
