"""Weak-shot data: base classes with masks, novel classes known by name alone.

A photo's ``known`` label map holds base classes; whatever else it shows is 255, and the classes among it that are known
to be there are its ``tags``. Nothing that training reads opens a mask of a novel class or lets a pixel of one pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shotseg import data
from shotseg.data.annotations.opened import open_folder
from shotseg.data.class_table import read_class_table
from shotseg.data.folder import csv_rows, label_map_pairs, pages_of, say_stacks
from shotseg.data.images import page_name, read_image, read_mask
from shotseg.data.manifest import ManifestDataset
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.data.samples import IGNORE, Sample
from shotseg.errors import InputError, UsageError

BACKGROUND = "background"


@dataclass(frozen=True)
class TaggedPhoto:
    """One photo, which may be one ``page`` of ``pages``. ``content`` tells photos apart; ``tags``: ids of the classes that are in
    it without a mask to learn from.

    read: (class ids) -> (H, W) uint8 label map of those classes, 255 everywhere else; opens no mask of another class
          where each class has a file of its own.
    """

    id: str
    image_path: Path
    content: str
    tags: frozenset[int]
    shown: frozenset[int]
    read: Callable[[Collection[int]], np.ndarray]
    class_name: str = "weak-shot"  # all that a feature cache wants to know
    page: int = 1
    pages: int = 1


@dataclass(frozen=True)
class WeakShotData:
    """Photos with the base classes' masks. ``items``, ``sample``, ``mask_files`` are what :class:`FeatureCache` asks for."""

    classes: list[str]
    novel: tuple[int, ...]
    items: list[TaggedPhoto]
    reading: Reading = AS_SEEN

    def __len__(self) -> int:
        return len(self.items)

    @property
    def base(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.classes)) if i not in self.novel)

    def part(self, positions: Sequence[int]) -> WeakShotData:
        return replace(self, items=[self.items[i] for i in positions])

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self.reading.page_of(self.items[index])

    def known(self, index: int) -> np.ndarray:
        """(H, W) uint8 base classes, 255 = everything else: all that may be learned from pixels."""
        return self.items[index].read(frozenset(self.base) - self.items[index].tags)

    def truth(self, index: int) -> np.ndarray:
        """(H, W) uint8 of every class, for evaluation and for full supervision."""
        return self.items[index].read(range(len(self.classes)))

    def supervised(self) -> WeakShotData:
        """The same with every mask to learn from: no class is novel, nothing is known by tag alone."""
        return replace(self, novel=(), items=[replace(p, tags=frozenset()) for p in self.items])

    def base_only(self) -> WeakShotData:
        """The photos in which something has a mask."""
        return replace(self, items=[p for p in self.items if p.shown & frozenset(self.base) - p.tags])

    def mask_files(self, index: int) -> Sequence[Path]:
        """None: a photo is kept without its masks."""
        return []

    def sample(self, index: int) -> Sample:
        """The photo alone, with an empty mask."""
        image = self.image(index)
        return Sample(
            image, np.zeros(image.shape[:2], np.uint8), id=self.items[index].id, path=self.items[index].image_path
        )


def load(
    name: str,
    root: str | Path,
    split: str = "train",
    novel: Sequence[str] = (),
    fold: str = "",
    labels: Sequence[str] = (),
    background: str = "unknown",
    reading: Reading = AS_SEEN,
) -> WeakShotData:
    """The training or test photos of a data set.

    name:   "folder", or a prepared data set with label maps.       split: "train" or "test"; a folder has test photos
            only where its label maps lie in images/train and images/test.
    novel:  names of the novel classes; else those of the ``fold``; else, of a folder, the classes without any mask.
    labels: of a folder of label maps without classes.csv, the names of the values 0, 1, ...; other values are unknown.
    background: of class folders, what no mask covers in a photo with a class that has none: "unknown", or a class with a
            mask ("base", as VOC's weak-shot split has it; it then outlines the novel object).
    reading: how a folder's photos and masks are stored, where a look at them does not tell.

    A folder is laid out as images/<class>/ with masks/<class>/ for the classes (or photos) that have them; or as
    images/**, masks/** with classes.csv, where tags.csv (columns image, class) may name what a label map does not paint.
    Raises UsageError for an unknown class, fold or layout, and where no class or every class is novel.
    """
    root = Path(root)
    if name != "folder":
        reading.refuse("a prepared data set")
        found = _prepared(name, root, split)
    elif labels or (root / "classes.csv").is_file():
        found = _label_maps(root, split, labels, reading)
    else:
        if split == "test":
            raise UsageError(f"{root}: class folders have no test photos of their own; hold some out")
        found = _class_folders(root, novel, fold, background, reading)
    classes, photos, by_fold = found
    chosen = list(novel) or by_fold.get(fold, [])
    if fold and not novel and by_fold and fold not in by_fold:
        raise UsageError(
            f"{root}: no fold {fold!r}; choose from {', '.join(filter(None, by_fold)) or 'none, leave it out'}"
        )
    if not chosen:
        chosen = by_fold.get("", [])
    if unknown := sorted(set(chosen) - set(classes)):
        raise UsageError(f"{root}: no class {unknown[0]!r}; it has {', '.join(classes[:12])}")
    ids = tuple(i for i, c in enumerate(classes) if c in chosen)
    if len(ids) == len(classes):
        raise UsageError(f"{root}: every class is novel; some must have masks to learn from")
    own = frozenset(ids)
    photos = [replace(p, tags=p.tags | (p.shown & own)) for p in photos]
    return WeakShotData(classes, ids, photos, reading)


# classes, photos, novel classes by fold ("" = by the files)
Found = tuple[list[str], list[TaggedPhoto], dict[str, list[str]]]


def _class_folders(root: Path, novel: Sequence[str], fold: str, background: str, reading: Reading) -> Found:
    """One binary mask a class; a photo of several classes is told by its content."""
    dataset = open_folder(root, **reading.view)
    classes = [BACKGROUND, *(c for c in dataset.classes if c != BACKGROUND)]
    without = [c for c in dataset.classes if not any(i.mask_path for i in dataset.items if i.class_name == c)]
    folds = {str(k): names for k, names in dataset.folds.items()}
    hidden = set(novel or folds.get(fold) or without)
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in dataset.items:
        groups[item.content].append(item)
    photos = []
    places = {item.id: index for index, item in enumerate(dataset.items)}
    for content, items in groups.items():
        masks: dict[int, Callable[[], np.ndarray]] = {
            classes.index(i.class_name): partial(_own_mask, dataset, places[i.id])
            for i in items
            if i.mask_path is not None
        }
        shown = frozenset(classes.index(i.class_name) for i in items)
        tags = frozenset(shown - masks.keys()) | {classes.index(i.class_name) for i in items if i.class_name in hidden}
        outlined = background == "base"
        if tags and not outlined:
            tags |= {0}
        image = partial(read_image, items[0].image_path, **reading.of_item(items[0]))
        read = _BinaryMasks(image, masks, complete=shown == masks.keys())
        one, which = items[0], {"page": items[0].page, "pages": items[0].pages}
        photos.append(TaggedPhoto(one.id, one.image_path, content, tags, shown | {0}, read, **which))
    return classes, photos, {**folds, "": without}


def _own_mask(dataset: Any, index: int) -> np.ndarray:
    return dataset.sample(index).mask


@dataclass(frozen=True)
class _BinaryMasks:
    """The label map of a photo with one mask a class."""

    image: Callable[[], np.ndarray]
    masks: dict[int, Callable[[], np.ndarray]]
    complete: bool

    def __call__(self, wanted: Collection[int]) -> np.ndarray:
        wanted = set(wanted)
        own = {c: read for c, read in sorted(self.masks.items()) if c in wanted}
        needed = self.masks if 0 in wanted and self.complete else own  # the background is what no mask covers
        found = {c: read() for c, read in needed.items()}
        if found:
            shape = next(iter(found.values())).shape
        else:
            shape = self.image().shape[:2]
        labels = np.full(shape, 0 if 0 in wanted and self.complete else IGNORE, np.uint8)
        for c, mask in found.items():
            labels[mask == IGNORE] = IGNORE
            labels[mask == 1] = c if c in own else IGNORE
        return labels


def _label_maps(root: Path, split: str, labels: Sequence[str], reading: Reading = AS_SEEN) -> Found:
    """One label map a photo, of a folder; of stacks one a page."""
    if labels:
        values = dict(enumerate(labels))
    else:
        values = {row.value: row.name for row in read_class_table(root / "classes.csv")}
        values.pop(IGNORE, None)
    named: dict[str, set[str]] = defaultdict(set)
    for row in csv_rows(root / "tags.csv"):
        if row.get("class") not in values.values():
            raise UsageError(f"{root / 'tags.csv'}: class {row.get('class')!r} is not in classes.csv; add it there")
        named[(row.get("image") or "").removeprefix("images/")].add(str(row["class"]))
    divided = (root / "images" / "test").is_dir() and (root / "images" / "train").is_dir()
    if split == "test" and not divided:
        raise UsageError(f"{root}: no images/train and images/test; hold some photos out")
    pairs = [
        (image, partial(read_mask, mask, labels=True, page=page, pages=pages), page, pages)
        for image, mask in label_map_pairs(root, split if divided else "")
        for page, pages in pages_of(image, [mask], **reading.which)
    ]
    areas = [set(np.unique(stored()).tolist()) & values.keys() for _, stored, _, _ in pairs]
    occurring = set().union(*areas, (v for v, c in values.items() if any(c in t for t in named.values())))
    kept = [v for v in sorted(values) if v in occurring or labels]
    classes = [values[v] for v in kept]
    table = np.full(256, IGNORE, np.uint8)
    table[kept] = np.arange(len(kept))
    photos = []
    for (image, stored, page, pages), present in zip(pairs, areas):
        file = image.relative_to(root / "images").as_posix()
        painted = frozenset(int(table[v]) for v in present)
        extra = frozenset(classes.index(c) for c in named.get(file, ())) - painted
        id, read = page_name(file, page, pages), _LabelMap(stored, table)
        photos.append(TaggedPhoto(id, image, id, extra, painted | extra, read, page=page, pages=pages))
    say_stacks(root, photos)
    return classes, photos, {}


@dataclass(frozen=True)
class _LabelMap:
    """A label map; ``table`` takes the values of its file, which ``stored`` gives, to class ids."""

    stored: Callable[[], np.ndarray]
    table: np.ndarray

    def __call__(self, wanted: Collection[int]) -> np.ndarray:
        table = np.where(np.isin(self.table, list(wanted)), self.table, np.uint8(IGNORE))
        return table[self.stored()]


def _prepared(name: str, root: Path, split: str) -> Found:
    dataset = data.load(name, root, split=split, fold=None)
    assert isinstance(dataset, ManifestDataset)
    manifest = dataset.manifest
    if manifest.binary:
        raise UsageError(f"{name} has one binary mask a class; weak-shot training needs label maps")
    table = np.full(256, IGNORE, np.uint8)
    table[list(manifest.classes)] = np.arange(len(manifest.classes))
    photos = []
    for photo in dataset.photos:
        painted = frozenset(int(table[v]) for v in photo.pixels if v in manifest.classes)
        reader = _LabelMap(partial(read_mask, manifest.folder / photo.mask, labels=True), table)
        photos.append(TaggedPhoto(photo.id, manifest.root / photo.image, photo.image, frozenset(), painted, reader))
    definition = manifest.definition()
    folds = manifest.folds.get(definition or "", {})
    named = {str(k): [manifest.classes[i] for i in ids] for k, ids in folds.items()}
    return list(manifest.classes.values()), photos, named


def read_label(path: Path, like: tuple[int, int]) -> np.ndarray:
    """A pseudo label (H, W) uint8. Raises InputError where it is missing or of another size."""
    if not path.is_file():
        raise InputError(f"{path}: no pseudo label of this photo; run the training again with --resume to make it")
    return read_mask(path, like=like, labels=True)
