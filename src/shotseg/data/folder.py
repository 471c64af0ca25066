"""The one folder convention, as a data set: ``images/<class>/<name>.*`` and ``masks/<class>/<name>.png``.

Folders of one class may be simpler, see :func:`_layout`. What a folder holds and the data set leaves out is named.

A folder with ``classes.csv`` (columns ``class_id``, ``class``) holds label maps instead: ``images/**/<name>.*`` and
``masks/**/<name>.png`` with one class id a pixel; each class of a photo is then one item.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shotseg.data.class_table import read_class_table
from shotseg.data.images import MASK_TYPES, read_bytes, read_image, read_mask, read_pair
from shotseg.data.listing import files_in, find_images, has_photos, normal, some, subfolders
from shotseg.data.pairing import Pair, lie_beside, objects_by_photo, one_photo_each, photos_and_masks
from shotseg.data.samples import IGNORE, Sample
from shotseg.data.tables import plain, rows_of
from shotseg.errors import UsageError, note

__all__ = ["FolderDataset", "Item", "find_images"]


# What people call the folders of photos and of masks, in small letters without blanks and marks.
PHOTO_FOLDERS = ("images", "image", "imgs", "img", "photos", "photo", "jpegimages", "original", "originals")
OBJECTS = "segmentationobject"  # of VOC: objects by number, without their classes
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "segmentations", "segmentation", "gt", "groundtruth"),
    *("groundtruths", OBJECTS),
)
INDEXED = ("image", "class", "classid", "fold", "areafraction")  # columns of index.csv and tags.csv


@dataclass(frozen=True)
class Item:
    """One class in one photo.

    id: ``<class>/<name>``, unique in the data set.     class_id: position in the data set's ``classes``.
    mask_path: None where only the class is known.      class_value: the class's id in a label map, or None.
    more: further masks, where each object of the class has its own.
    """

    id: str
    class_name: str
    class_id: int
    image_path: Path
    mask_path: Path | None = None
    class_value: int | None = None
    more: tuple[Path, ...] = ()

    @property
    def mask_paths(self) -> tuple[Path, ...]:
        """The files of its mask; together they are the class."""
        return () if self.mask_path is None else (self.mask_path, *self.more)

    @cached_property
    def content(self) -> str:
        """sha256 of the photo's file: two names of one photo have the same. Raises InputError if it cannot be read."""
        return hashlib.sha256(read_bytes(self.image_path)).hexdigest()


class FolderDataset:
    """A folder of photos by class, with masks where there are any.

    root:     the folder.                     classes: keep these (names); default all.
    subset:   of label maps, only the photos below ``images/<subset>``.
    kind:     of label maps, only the classes with this ``kind`` in classes.csv, for example "thing".
    min_area: of label maps, leave out a class that covers less than this fraction of its photo.
    masks:    leave out photos without a mask.
    name:     of the class, where the folder holds one; default the folder's own name.
    bands, page: of the photos, as for :func:`shotseg.data.images.read_image`.

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
            found = _label_maps(self.root, subset or "", kind, min_area)
        else:
            for option, given in (("kind", kind), ("min_area", min_area), ("subset", subset)):
                if given:
                    raise UsageError(f"{self.root}: {option} is of label maps, with classes.csv; leave it out")
            found = _class_folders(self.root, name)
        unknown = sorted(set(classes or ()) - set(found))
        if unknown:
            raise UsageError(f"{self.root}: no class {unknown[0]!r}; it has {some(list(found))}")
        self.classes = [name for name in found if classes is None or name in classes]
        self.items = [
            Item(id, name, class_id, image, next(iter(drawn), None), value, drawn[1:])
            for class_id, name in enumerate(self.classes)
            for id, image, drawn, value in found[name]
            if drawn or not masks
        ]
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
        if item.mask_path is None:
            image, mask = read_image(item.image_path, self.bands, self.page), None
        else:
            image, mask = read_pair(
                item.image_path, item.mask_paths, item.class_value, empty=True, bands=self.bands, page=self.page
            )
        return Sample(image, mask, self._tags[item.image_path], item.id, item.image_path)

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
    def _tags(self) -> dict[Path, frozenset[int]]:
        tags: dict[Path, set[int]] = defaultdict(set)
        for item in self.items:
            tags[item.image_path].add(item.class_id)
        return {path: frozenset(ids) for path, ids in tags.items()}


Listing = dict[
    str, list[tuple[str, Path, tuple[Path, ...], int | None]]
]  # class -> (id, image, masks, value in the mask)


class _Place(NamedTuple):
    """Where photos of a class lie, and their masks (None: beside them).

    shared: with other classes, so that a photo without a mask does not show this one.
    """

    photos: Path
    masks: Path | None
    shared: bool = False


def _class_folders(root: Path, name: str | None) -> Listing:
    found: Listing = {}
    empty: list[Path] = []
    for class_name, places in _layout(root, name).items():
        photos = places[0].photos
        pairs = _pairs(*places[0]) if len(places) == 1 else one_photo_each((place[:2] for place in places), root)
        deeper = [
            label
            for label, folder in subfolders(photos).items()
            if all(folder != place.masks for place in places) and has_photos(folder)
        ]
        if deeper and not pairs and plain(photos.name) in PHOTO_FOLDERS:
            raise UsageError(f"{photos}: holds class folders ({some(deeper)}); give {photos.parent}")
        if deeper:
            note(f"{photos}: left out, folders in the folder of a class: {some(deeper)}")
        if not pairs:
            empty.append(photos)
            continue
        found[class_name] = [(f"{class_name}/{stem}", photo, drawn, None) for stem, photo, drawn in pairs]
    if empty and not found:
        raise UsageError(f"{empty[0]}: no image in it; add photos of the class or remove the folder")
    if empty:
        note(f"{root}: left out, class folders without a photo: {some([folder.name for folder in empty])}")
    return found


def _pairs(photos: Path, masks: Path | None, shared: bool) -> list[Pair]:
    below = {} if masks is None or _flat(masks) else subfolders(masks)
    if _has_one_of(photos, below):
        return objects_by_photo(photos, below)
    pairs = photos_and_masks(photos, masks, several=True)
    return [pair for pair in pairs if pair[2]] if shared else pairs


def _has_one_of(photos: Path, names: Collection[str]) -> bool:
    return any(normal(file.stem) in names for file in files_in(photos))


def _layout(root: Path, name: str | None) -> dict[str, list[_Place]]:
    """Class -> folders of its photos, and of its masks (None: beside the photos), in the first layout that is there.

    images/<class>/ and masks/<class>/; images/ and masks/ of one class; images/ and masks/<class>/; <class>/images/ and
    <class>/masks/; <photo>/images/ and <photo>/masks/ of one class; photos of one class in the folder itself; a folder of
    photos for each class.   name: of the one class, default the folder's own name.
    """
    (images, masks), below = _parts(root), subfolders(root)
    if classes := subfolders(images):
        drawn = subfolders(masks)
        if strays := sorted(set(drawn) - set(classes)):
            raise UsageError(f"{drawn[strays[0]]}: masks of a class without photos; name it as in images/ or remove it")
        shared = masks if len(classes) == 1 and has_photos(masks) else None
        found = {label: [_Place(folder, drawn.get(label, shared))] for label, folder in classes.items()}
        for folder in (images, masks):
            if folder != shared and (loose := [file.name for file in files_in(folder)]):
                note(f"{folder}: left out, in no class folder: {some(loose)}")
    elif has_photos(images):
        drawn = {} if _flat(masks) else {label: folder for label, folder in subfolders(masks).items() if _flat(folder)}
        if drawn and not _has_one_of(images, drawn):
            found = {label: [_Place(images, folder, shared=True)] for label, folder in drawn.items()}
        else:
            found = {_own_name(root): [_Place(images, _if_there(masks))]}
            if plain(masks.name) == OBJECTS:
                said = f"objects without their classes, read as the class {name or _own_name(root)!r}"
                note(f"{masks}: {said}; for classes put SegmentationClass beside it")
    elif images.is_dir():
        raise UsageError(f"{images}: no class folder and no photo; put the photos of each class into images/<class>/")
    elif nested := {label: parts for label, folder in below.items() if (parts := _parts(folder))[0].is_dir()}:
        found = {label: [_Place(photos, _if_there(masks))] for label, (photos, masks) in nested.items()}
        if len(found) > 1 and all(_is_one_photo(label, place.photos) for label, [place] in found.items()):
            found = {_own_name(root): [place for [place] in found.values()]}
    elif has_photos(root):
        if plain(_own_name(root)) in (*MASK_FOLDERS, "segmentationclass") and not lie_beside(root):
            raise UsageError(f"{root}: a folder of masks by its name; give the folder that holds it and the photos")
        found = {_own_name(root): [_Place(root, _flat(masks))]}
    elif masks.is_dir():
        raise UsageError(f"{root}: masks/ but no images/ beside it; put the photos into images/, or images/<class>/")
    else:
        found = {
            label: [_Place(folder, _flat(folder / "masks"))] for label, folder in below.items() if has_photos(folder)
        }
    if not found:
        raise UsageError(
            f"{root}: no photos in it; lay it out as images/<class>/<name>.jpg and masks/<class>/<name>.png"
        )
    if name is not None and len(found) > 1:
        raise UsageError(f"{root}: has {len(found)} classes, named by their folders; leave --name {name} out")
    return found if name is None else {name: next(iter(found.values()))}


def _parts(folder: Path) -> tuple[Path, Path]:
    """The folders of photos and of masks in a folder, as they are called there; where it has not both, images and masks."""
    own = {plain(path.name): path for path in subfolders(folder).values()}
    images = next((own[name] for name in PHOTO_FOLDERS if name in own), folder / "images")
    masks = next((own[name] for name in MASK_FOLDERS if name in own and _holds_images(own[name])), folder / "masks")
    alone = images.name.casefold() == "images"
    return (images, masks) if alone or masks.is_dir() else (folder / "images", folder / "masks")


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in MASK_TYPES for file in folder.rglob("*"))


def _if_there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _flat(folder: Path) -> Path | None:
    """A folder of masks beside photos; None where the images of it lie deeper, as those of a run's results do."""
    return folder if any(file.suffix.lower() in MASK_TYPES for file in files_in(folder)) else None


def _is_one_photo(name: str, folder: Path) -> bool:
    """Whether a folder holds one image alone, of that name."""
    return [normal(file.stem) for file in files_in(folder)] == [name]


def _own_name(root: Path) -> str:
    return root.resolve().name


def _label_maps(root: Path, subset: str, kind: str | None, min_area: float) -> Listing:
    if not (root / "images" / subset).is_dir():
        raise UsageError(f"{root / 'images' / subset}: no such folder; choose another subset")
    names = {
        row.value: row.name
        for row in read_class_table(root / "classes.csv")
        if row.value not in (0, IGNORE) and row.kind != "background" and kind in (None, row.kind)
    }
    areas = _listed_areas(root)
    found: Listing = {name: [] for name in names.values()}
    for image, mask in label_map_pairs(root, subset):
        stem = image.relative_to(root / "images").with_suffix("").as_posix()
        of_image = areas[image] if image in areas else _measured_areas(mask)
        for value, area in sorted(of_image.items()):
            if value in names and area >= min_area:
                found[names[value]].append((f"{names[value]}/{stem}", image, (mask,), value))
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


def _measured_areas(mask: Path) -> dict[int, float]:
    values, counts = np.unique(read_mask(mask, labels=True), return_counts=True)
    return {int(value): float(count / counts.sum()) for value, count in zip(values, counts)}


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns, none where there is no file. Raises UsageError where it cannot be read."""
    if not path.is_file() or not path.stat().st_size:
        return []
    table = rows_of(path, lambda cells: not {plain(cell) for cell in cells}.isdisjoint(INDEXED))
    heads = [re.sub(r"\W+", "_", cell.strip()).casefold() for _, row in table[:1] for cell in row]
    return [dict(zip(heads, (cell.strip() for cell in row))) for _, row in table[1:]]
