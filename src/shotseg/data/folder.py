"""The one folder convention, as a data set: ``images/<class>/<name>.*`` and ``masks/<class>/<name>.png``.

Folders of one class may be simpler, see :mod:`shotseg.data.layout`. What a folder holds and the data set leaves out is named.

A folder with ``classes.csv`` (columns ``class_id``, ``class``) holds label maps instead: ``images/**/<name>.*`` and
``masks/**/<name>.png`` with one class id a pixel; each class of a photo is then one item.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shotseg.data.class_table import read_class_table
from shotseg.data.images import (
    joined,
    one_class,
    page_name,
    pages_with_masks,
    read_bytes,
    read_image,
    read_mask,
    read_pair,
    scaled_to,
    sha256,
    upright_size,
)
from shotseg.data.layout import by_class
from shotseg.data.listing import find_images, some
from shotseg.data.pairing import photos_and_masks
from shotseg.data.samples import IGNORE, Sample
from shotseg.data.several_classes import warn_of_classes, warn_of_tables
from shotseg.data.tables import plain, rows_of
from shotseg.errors import UsageError, note

__all__ = ["FolderDataset", "Item", "find_images"]


INDEXED = ("image", "class", "classid", "fold", "areafraction")  # columns of index.csv and tags.csv


@dataclass(frozen=True)
class Item:
    """One class in one photo.

    id: ``<class>/<name>``, unique in the data set.     class_id: position in the data set's ``classes``.
    mask_path: None where only the class is known.      class_value: the class's id in a label map, or None.
    more: further masks, where each object of the class has its own.
    page, pages: of the photo's file, from 1, and how many it has where each is a photo of its own.
    """

    id: str
    class_name: str
    class_id: int
    image_path: Path
    mask_path: Path | None = None
    class_value: int | None = None
    more: tuple[Path, ...] = ()
    page: int = 1
    pages: int = 1

    @property
    def mask_paths(self) -> tuple[Path, ...]:
        """The files of its mask; together they are the class."""
        return () if self.mask_path is None else (self.mask_path, *self.more)

    @cached_property
    def content(self) -> str:
        """sha256 of the photo's file: two names of one photo have the same; of a stack with the page behind it.

        Raises InputError if it cannot be read.
        """
        if self.pages == 1:
            return hashlib.sha256(read_bytes(self.image_path)).hexdigest()
        return f"{_of_stack(self.image_path, self.image_path.stat().st_mtime_ns)}#{self.page}"


@lru_cache(maxsize=64)
def _of_stack(path: Path, changed: int) -> str:
    """The digest of a file; once for all of its pages."""
    return sha256(path)


class FolderDataset:
    """A folder of photos by class, with masks where there are any.

    root:     the folder.                     classes: keep these (names); default all.
    subset:   of label maps, only the photos below ``images/<subset>``.
    kind:     of label maps, only the classes with this ``kind`` in classes.csv, for example "thing".
    min_area: of label maps, leave out a class that covers less than this fraction of its photo.
    masks:    leave out photos without a mask.
    name:     of the class, where the folder holds one; default the folder's own name.
    bands, page: of the photos, as for :func:`shotseg.data.images.read_image`. Where photo and mask are stacks of the same number
              of pages, and none is chosen, each page is an item.

    ``classes``: names, sorted (label maps: in the order of classes.csv).       ``items``: list of :class:`Item`.
    ``by_class``: its items stand class by class.
    ``folds``: class names by fold number, from the columns ``class`` and ``fold`` of index.csv; empty without them.
    Raises UsageError (one line) where the folder is missing, empty, or laid out in another way.
    """

    by_class = True

    def __init__(
        self,
        root: str | Path,
        classes: Collection[str] | None = None,
        subset: str | None = None,
        kind: str | None = None,
        min_area: float = 0.0,
        masks: bool = False,
        name: str | None = None,
        bands: Sequence[int] | None = None,
        page: int = 1,
    ):
        self.root, self.bands, self.page = Path(root), bands, page
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder; lay it out as images/<class>/<name>.jpg")
        if (self.root / "classes.csv").is_file():
            found = _label_maps(self.root, subset or "", kind, min_area, self._pages)
        else:
            for option, given in (("kind", kind), ("min_area", min_area), ("subset", subset)):
                if given:
                    raise UsageError(f"{self.root}: {option} is of label maps, with classes.csv; leave it out")
            found = {
                label: [
                    Row(page_name(f"{label}/{stem}", page, pages), photo, drawn, None, page, pages)
                    for stem, photo, drawn in pairs
                    for page, pages in self._pages(photo, drawn)
                ]
                for label, pairs in by_class(self.root, name).items()
            }
            if len(found) == 1:
                [(label, rows)] = found.items()
                warn_of_classes(self.root, label, [row.masks[0] for row in rows if row.masks and row.page == 1])
                warn_of_tables(self.root, label)
        unknown = sorted(set(classes or ()) - set(found))
        if unknown:
            raise UsageError(f"{self.root}: no class {unknown[0]!r}; it has {some(list(found))}")
        self.classes = [name for name in found if classes is None or name in classes]
        self.items = [
            Item(
                row.id,
                name,
                class_id,
                row.image,
                next(iter(row.masks), None),
                row.value,
                row.masks[1:],
                row.page,
                row.pages,
            )
            for class_id, name in enumerate(self.classes)
            for row in found[name]
            if row.masks or not masks
        ]
        say_stacks(self.root, self.items)
        if not self.items:
            bare = masks and any(found.values())
            none = (
                "no photo of it has a mask; draw some" if bare else "no photo of any class is left; add photos or masks"
            )
            raise UsageError(f"{self.root}: {none}, or loosen the selection")

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """The photo of an item and its mask in {0, 1, 255}, or None; ``tags`` are the classes listed for that file.

        Raises InputError where a file cannot be read or photo and mask differ in size.
        """
        item = self.items[index]
        which: dict[str, Any] = {"bands": self.bands, "page": item.page, "pages": item.pages}
        if item.mask_path is None:
            image, mask = read_image(item.image_path, **which), None
        else:
            image, mask = read_pair(item.image_path, item.mask_paths, item.class_value, empty=True, **which)
        return Sample(image, mask, self._tags[item.image_path, item.page], item.id, item.image_path)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 in {0, 1, 255}: the mask of an item that has one, at its photo's size, which is not decoded.

        Raises InputError as :meth:`sample`.
        """
        item = self.items[index]
        size = upright_size(item.image_path, item.page)
        labels = item.class_value is not None
        masks = ((path, read_mask(path, None, labels, item.page, item.pages)) for path in item.mask_paths)
        return joined(one_class(scaled_to(mask, size, path, item.image_path), item.class_value) for path, mask in masks)

    def label_map(self, index: int) -> Path | None:
        """The file of the label map that an item stands in, None where its mask is of its class alone."""
        return self.items[index].mask_path if self.items[index].class_value is not None else None

    @cached_property
    def folds(self) -> dict[int, list[str]]:
        fold_of: dict[str, int] = {}
        for row in csv_rows(self.root / "index.csv"):
            if row.get("class") not in self.classes or not (row.get("fold") or "").strip():
                continue
            name, fold = row["class"], row["fold"]
            if not fold.strip().isdecimal() or fold_of.setdefault(name, int(fold)) != int(fold):
                raise UsageError(f"{self.root / 'index.csv'}: fold {fold!r} of class {name!r}; give one number a class")
        return {fold: [c for c in self.classes if fold_of.get(c) == fold] for fold in sorted(set(fold_of.values()))}

    @cached_property
    def _tags(self) -> dict[tuple[Path, int], frozenset[int]]:
        tags: dict[tuple[Path, int], set[int]] = defaultdict(set)
        for item in self.items:
            tags[item.image_path, item.page].add(item.class_id)
        return {photo: frozenset(ids) for photo, ids in tags.items()}

    def _pages(self, photo: Path, masks: Sequence[Path]) -> list[tuple[int, int]]:
        return pages_of(photo, masks, self.bands, self.page)


def pages_of(photo: Path, masks: Sequence[Path], bands: Sequence[int] | None, page: int) -> list[tuple[int, int]]:
    """(page, pages) of each photo in a file: the one that is chosen, or all that are masked."""
    pages = pages_with_masks(photo, masks, bands) if page == 1 else 1
    return [(number, pages) for number in range(1, pages + 1)] if pages > 1 else [(page, 1)]


def say_stacks(root: Path, items: Iterable[Any]) -> None:
    """One line where pages are items. items: with ``image_path`` and ``pages``."""
    if stacks := dict.fromkeys(item.image_path.name for item in items if item.pages > 1):
        note(f"{root}: each page of a stack is a photo, with that of its mask: {some(list(stacks))}")


class Row(NamedTuple):
    """What an item is made of.   value: of the class, in a label map."""

    id: str
    image: Path
    masks: tuple[Path, ...]
    value: int | None
    page: int
    pages: int


Pages = Callable[[Path, Sequence[Path]], list[tuple[int, int]]]


def _label_maps(root: Path, subset: str, kind: str | None, min_area: float, pages_of: Pages) -> dict[str, list[Row]]:
    if not (root / "images" / subset).is_dir():
        raise UsageError(f"{root / 'images' / subset}: no such folder; choose another subset")
    names = {
        row.value: row.name
        for row in read_class_table(root / "classes.csv")
        if row.value not in (0, IGNORE) and row.kind != "background" and kind in (None, row.kind)
    }
    areas = _listed_areas(root)
    found: dict[str, list[Row]] = {name: [] for name in names.values()}
    photos = ((*pair, *which) for pair in label_map_pairs(root, subset) for which in pages_of(pair[0], pair[1:]))
    for image, mask, page, pages in photos:
        stem = page_name(image.relative_to(root / "images").with_suffix("").as_posix(), page, pages)
        listed = image in areas and pages == 1
        of_image = areas[image] if listed else _measured_areas(mask, page, pages)
        for value, area in sorted(of_image.items()):
            if value in names and area >= min_area:
                found[names[value]].append(Row(f"{names[value]}/{stem}", image, (mask,), value, page, pages))
    return {name: items for name, items in found.items() if items}


def label_map_pairs(root: Path, subset: str) -> Iterator[tuple[Path, Path]]:
    """(photo, label map) of everything below ``images/<subset>``; photos without one are named in one line."""
    for folder, folders, _ in os.walk(root / "images" / subset):
        folders.sort()
        masks = root / "masks" / Path(folder).relative_to(root / "images")
        pairs = photos_and_masks(Path(folder), masks)
        if bare := [photo.name for _, photo, drawn in pairs if not drawn]:
            note(f"{folder}: left out, no label map in {masks}: {some(bare)}")
        yield from ((photo, drawn[0]) for _, photo, drawn in pairs if drawn)


def _listed_areas(root: Path) -> dict[Path, dict[int, float]]:
    """image -> class id -> fraction of the image, from index.csv where it says so: saves reading every mask."""
    areas: dict[Path, dict[int, float]] = defaultdict(dict)
    for row in csv_rows(root / "index.csv"):
        try:
            areas[root / row["image"].replace("\\", "/")][int(row["class_id"])] = float(row["area_fraction"])
        except (KeyError, TypeError, ValueError):
            return {}
    return areas


def _measured_areas(mask: Path, page: int, pages: int) -> dict[int, float]:
    values, counts = np.unique(read_mask(mask, None, True, page, pages), return_counts=True)
    return {int(value): float(count / counts.sum()) for value, count in zip(values, counts)}


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns, none where there is no file. Raises UsageError where it cannot be read."""
    if not path.is_file() or not path.stat().st_size:
        return []
    table = rows_of(path, lambda cells: not {plain(cell) for cell in cells}.isdisjoint(INDEXED))
    heads = [re.sub(r"\W+", "_", cell.strip()).casefold() for _, row in table[:1] for cell in row]
    return [dict(zip(heads, (cell.strip() for cell in row))) for _, row in table[1:]]
