"""The photos that episodes are drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shotseg.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One photo under one class; ``class_id`` is the position among the tested classes, ``content`` tells photos
    apart."""

    id: str
    content: str
    class_id: int
    class_name: str


class Pool:
    """The items of a data set that a run draws from.

    dataset: anything with ``items`` (FolderDataset, a prepared data set).      classes: names to test, in this order.
    areas:   foreground pixels by position in ``dataset.items``, needed where the protocol has ``min_pixels``.

    ``items[i]`` is the data set's item ``positions[i]``; ``listed`` are those that are large enough, ``lists`` the same by
    class, ``walk`` the order in which queries are taken one after the other: as listed, but in turn of each class where
    the items stand class by class (``dataset.by_class``). Raises UsageError for a class without enough photos.
    """

    def __init__(self, dataset: Any, classes: Sequence[str], shots: int, min_pixels: int = 0, areas: Any = None):
        self.dataset, self.classes = dataset, list(classes)
        number = {name: i for i, name in enumerate(self.classes)}
        self.positions = [
            i for i, item in enumerate(dataset.items) if item.class_name in number and item.mask_path is not None
        ]
        own = [dataset.items[i] for i in self.positions]
        self.items = [Entry(x.id, x.content, number[x.class_name], x.class_name) for x in own]
        large = [not min_pixels or areas[i] >= min_pixels for i in self.positions]
        self.listed = [i for i in range(len(self.items)) if large[i]]
        self.lists: list[list[int]] = [[] for _ in self.classes]
        for i in self.listed:
            self.lists[self.items[i].class_id].append(i)
        turns = (i for turn in zip_longest(*self.lists) for i in turn if i is not None)
        self.walk = list(turns) if getattr(dataset, "by_class", False) else self.listed
        for name, listed in zip(self.classes, self.lists):
            photos = len({self.items[i].content for i in listed})
            if photos <= shots:
                raise UsageError(
                    f"class {name!r} has {photos} photos with a mask; "
                    f"{shots} shots and a query need {shots + 1}, leave it out"
                )

    def by_photo(self) -> list[list[int]]:
        """The photos in the order of the walk, each with all its test classes (also those too small to be listed)."""
        labels: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            labels.setdefault(item.content, []).append(i)
        return [labels[content] for content in dict.fromkeys(self.items[i].content for i in self.walk)]

    def state(self) -> str:
        """sha256 of the size and time of each file that the items are read from: others where a photo or a mask was changed."""
        digest, seen = hashlib.sha256(), dict[str, str]()
        for i in self.positions:
            item = self.dataset.items[i]
            for path in (getattr(item, "image_path", None), item.mask_path, *getattr(item, "more", ())):
                digest.update(f"{item.id} {seen.setdefault(str(path), _state_of(path))}\n".encode())
        return digest.hexdigest()

    def same_photo(self, a: int, b: int) -> bool:
        return self.items[a].content == self.items[b].content

    def labelled(self, query: int, class_id: int) -> int | None:
        """The item that shows ``class_id`` in the photo of ``query``, None where that photo has nothing of it."""
        if self.items[query].class_id == class_id:
            return query
        own = (i for i, x in enumerate(self.items) if x.content == self.items[query].content and x.class_id == class_id)
        return next(own, None)


def _state_of(path: Any) -> str:
    try:
        stat = Path(path).stat()
    except (OSError, TypeError, ValueError):  # no file of its own
        return str(path)
    return f"{stat.st_size} {stat.st_mtime_ns}"


def with_enough_photos(dataset: Any, names: Sequence[str], shots: int) -> list[str]:
    """The classes of which so many photos can be shots, and another one the query."""
    photos: dict[str, set[str]] = {name: set() for name in names}
    for item in dataset.items:
        if item.class_name in photos and item.mask_path is not None:
            photos[item.class_name].add(item.content)
    return [name for name in names if len(photos[name]) > shots]


def areas(dataset: Any, min_pixels: int) -> list[int] | None:
    """Foreground pixels of every item, where the protocol asks for a least number."""
    if not min_pixels:
        return None
    if hasattr(dataset, "areas"):
        return list(dataset.areas)
    return [int((dataset.sample(i).mask == 1).sum()) for i in range(len(dataset.items))]
