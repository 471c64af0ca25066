"""The one folder convention, as a data set: ``images/<class>/<name>.*`` and ``masks/<class>/<name>.png``.

A folder with ``classes.csv`` (columns ``class_id``, ``class``) holds label maps instead: ``images/**/<name>.*`` and
``masks/**/<name>.png`` with one class id a pixel; each class of a photo is then one item.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from shotseg.data.images import IMAGE_TYPES, read_bytes, read_image, read_mask, read_pair
from shotseg.data.samples import IGNORE, Sample
from shotseg.errors import UsageError


@dataclass(frozen=True)
class Item:
    """One class in one photo.

    id: ``<class>/<name>``, unique in the data set.     class_id: position in the data set's ``classes``.
    mask_path: None where only the class is known.      class_value: the class's id in a label map, or None.
    """

    id: str
    class_name: str
    class_id: int
    image_path: Path
    mask_path: Path | None = None
    class_value: int | None = None

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
    ):
        self.root = Path(root)
        if not (self.root / "images").is_dir():
            raise UsageError(f"{self.root}: no folder 'images' in it; lay it out as images/<class>/<name>.jpg")
        if (self.root / "classes.csv").is_file():
            found = _label_maps(self.root, subset or "", kind, min_area)
        else:
            found = _class_folders(self.root)
        unknown = sorted(set(classes or ()) - set(found))
        if unknown:
            raise UsageError(f"{self.root}: no class {unknown[0]!r}; it has {_some(list(found))}")
        self.classes = [name for name in found if classes is None or name in classes]
        self.items = [
            Item(id, name, class_id, image, mask, value)
            for class_id, name in enumerate(self.classes)
            for id, image, mask, value in found[name]
            if mask is not None or not masks
        ]
        if not self.items:
            raise UsageError(
                f"{self.root}: no photo of any class is left; add photos or masks, or loosen the selection"
            )

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """The photo of an item and its mask in {0, 1, 255}, or None; ``tags`` are the classes listed for that file.

        Raises InputError where a file cannot be read or photo and mask differ in size.
        """
        item = self.items[index]
        if item.mask_path is None:
            image, mask = read_image(item.image_path), None
        else:
            image, mask = read_pair(item.image_path, item.mask_path, item.class_value, empty=True)
        return Sample(image, mask, self._tags[item.image_path], item.id, item.image_path)

    @cached_property
    def folds(self) -> dict[int, list[str]]:
        fold_of: dict[str, int] = {}
        for row in _rows(self.root / "index.csv"):
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


def find_images(query: str | Path) -> list[Path]:
    """The image files that a file name, a folder (all below it) or a glob such as ``photos/**/*.jpg`` means, sorted.

    A file that is named outright is taken whatever its ending. Raises UsageError where nothing is found.
    """
    path = Path(query)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    elif glob.has_magic(str(query)):
        found = [Path(name) for name in glob.iglob(str(query), recursive=True)]  # noqa: PTH207 (absolute patterns)
    else:
        raise UsageError(f"{query}: no such file or folder; check the path")
    images = sorted(file for file in found if _is_image(file))
    if not images:
        raise UsageError(f"{query}: no image found; give a file, folder or glob of {', '.join(sorted(IMAGE_TYPES))}")
    return images


Listing = dict[str, list[tuple[str, Path, Path | None, int | None]]]  # class -> (id, image, mask, value in the mask)


def _class_folders(root: Path) -> Listing:
    images, masks = _subfolders(root / "images"), _subfolders(root / "masks")
    if not images:
        flat = any(_is_image(file) for file in (root / "images").iterdir())
        what = "photos without a class" if flat else "no class folder"
        raise UsageError(f"{root / 'images'}: {what}; put the photos of each class into images/<class>/")
    strays = sorted(set(masks) - set(images))
    if strays:
        raise UsageError(f"{masks[strays[0]]}: masks of a class without photos; name it as in images/ or remove it")
    found: Listing = {}
    for name, folder in sorted(images.items()):
        photos, own = _by_stem(folder), _by_stem(masks[name]) if name in masks else {}
        if not photos:
            raise UsageError(f"{folder}: no image in it; add photos of the class or remove the folder")
        if own and not set(own) & set(photos):
            raise UsageError(f"{masks[name]}: no mask is named as a photo of {folder}; give both the same name")
        found[name] = [(f"{name}/{stem}", photo, own.get(stem), None) for stem, photo in sorted(photos.items())]
    return found


def _label_maps(root: Path, subset: str, kind: str | None, min_area: float) -> Listing:
    if not (root / "images" / subset).is_dir():
        raise UsageError(f"{root / 'images' / subset}: no such folder; choose another subset")
    names: dict[int, str] = {}
    for row in _rows(root / "classes.csv"):
        if not (row.get("class_id") or "").isdecimal() or not row.get("class"):
            raise UsageError(f"{root / 'classes.csv'}: a row without class_id and class; give both")
        is_class = int(row["class_id"]) not in (0, IGNORE) and row.get("kind") != "background"
        if is_class and kind in (None, row.get("kind")):
            names[int(row["class_id"])] = row["class"]
    areas = _listed_areas(root)
    found: Listing = {name: [] for name in names.values()}
    for image, mask in _image_mask_pairs(root, subset):
        stem = image.relative_to(root / "images").with_suffix("").as_posix()
        of_image = areas.get(image) if areas else _measured_areas(mask)
        for value, area in sorted((of_image or {}).items()):
            if value in names and area >= min_area:
                found[names[value]].append((f"{names[value]}/{stem}", image, mask, value))
    return {name: items for name, items in found.items() if items}


def _image_mask_pairs(root: Path, subset: str) -> Iterator[tuple[Path, Path]]:
    for folder, folders, _ in os.walk(root / "images" / subset):
        folders.sort()
        masks = _by_stem(root / "masks" / Path(folder).relative_to(root / "images"))
        for stem, image in sorted(_by_stem(Path(folder)).items()):
            if stem in masks:
                yield image, masks[stem]


def _listed_areas(root: Path) -> dict[Path, dict[int, float]]:
    """image -> class id -> fraction of the image, from index.csv where it says so: saves reading every mask."""
    areas: dict[Path, dict[int, float]] = defaultdict(dict)
    for row in _rows(root / "index.csv"):
        try:
            areas[root / row["image"]][int(row["class_id"])] = float(row["area_fraction"])
        except (KeyError, TypeError, ValueError):
            return {}
    return areas


def _measured_areas(mask: Path) -> dict[int, float]:
    values, counts = np.unique(read_mask(mask, labels=True), return_counts=True)
    return {int(value): float(count / counts.sum()) for value, count in zip(values, counts)}


def _subfolders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {_normal(path.name): path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}


def _by_stem(folder: Path) -> dict[str, Path]:
    """The images of one folder by name without ending. Raises UsageError where two have the same."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if not _is_image(path):
            continue
        stem = _normal(path.stem)
        if stem in found:
            raise UsageError(f"{found[stem]} and {path.name}: two images of one name; rename one of them")
        found[stem] = path
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}); save it as comma-separated UTF-8") from error


def _is_image(path: Path) -> bool:
    # hidden files are no photos: macOS puts a "._photo.jpg" beside each one on foreign disks
    return path.suffix.lower() in IMAGE_TYPES and not path.name.startswith(".") and path.is_file()


def _normal(name: str) -> str:
    """One spelling of accented letters: macOS stores them in two parts, other systems in one."""
    return unicodedata.normalize("NFC", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
