"""Any annotated data set as (photo, class) items, with the interface of ``FolderDataset``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shotseg.data.annotations import detect, index
from shotseg.data.annotations.drawn import Annotated
from shotseg.data.annotations.labelled import note, some
from shotseg.data.folder import FolderDataset, Item
from shotseg.data.images import read_image
from shotseg.data.samples import Sample
from shotseg.errors import InputError, UsageError


class AnnotatedDataset:
    """The photos of an annotation file, or of a folder with some.

    path:     the file or folder.               format:  see ``shotseg.data.annotations.READERS``.
    classes:  keep these (names); default all.  min_area: leave out a class that covers less of its photo.
    images:   where the photos lie, if not beside the annotations.
    bands, page: of the photos, as for :func:`shotseg.data.images.read_image`.

    ``classes``: names in the file's order, those without a photo left out.  ``items``: list of :class:`Item`, whose
    ``mask_path`` is the file that the annotation stands in.  ``by_class``: they stand class by class.  ``folds``: empty.
    A photo that is not found is left out with a warning. Raises UsageError where none is left.
    """

    by_class = True
    folds: dict[int, list[str]] = {}  # noqa: RUF012 (never filled)

    def __init__(
        self,
        path: str | Path,
        format: str,
        classes: Collection[str] | None = None,
        min_area: float = 0.0,
        images: str | Path | None = None,
        bands: Sequence[int] | None = None,
        page: int = 1,
    ):
        self.root, self.bands, self.page = Path(path), bands, page
        known, photos = index(format, path, images, page)[:2]
        if missing := [photo.file for photo in photos if photo.photo is None]:
            note(f"{path}: {len(missing)} photos not found, left out ({some(missing)}); put them beside the file")
        photos = self._every = [photo for photo in photos if photo.photo is not None]
        self._labels = {name: label for label, name in enumerate(known, start=1)}
        shown = [(photo, label) for photo in photos for label in _shown(photo, min_area)]
        occurring = {label for _, label in shown}
        names = [name for label, name in enumerate(known, start=1) if label in occurring]
        if unknown := sorted(set(classes or ()) - set(names)):
            raise UsageError(f"{path}: no class {unknown[0]!r} in a photo of it; it has {some(names) or 'none'}")
        self.classes = [name for name in names if classes is None or name in classes]
        self._photos: list[tuple[Annotated, int]] = []
        self.items: list[Item] = []
        stems = Counter(PurePosixPath(photo.file).with_suffix("") for photo in photos)
        class_ids = {name: class_id for class_id, name in enumerate(self.classes)}
        for photo, label in sorted(shown, key=lambda pair: pair[1]):
            name = known[label - 1]
            if name in class_ids and photo.photo is not None:
                stem = PurePosixPath(photo.file).with_suffix("")
                id = f"{name}/{stem if stems[stem] == 1 else photo.file}"
                item = Item(id, name, class_ids[name], photo.photo, photo.source, label)
                self.items.append(replace(item, page=photo.page, pages=photo.pages))
                self._photos.append((photo, label))
        if not self.items:
            what = f"no object that can be used in its {len(photos)} photos; draw some with a class"
            lost = "none of its photos is found; put them beside the annotations, or join both by: shotseg convert"
            join = f"{path} --images PHOTOS --copy-images --to coco --out JOINED"
            raise UsageError(f"{path}: {what}" if photos else f"{path}: {lost} {join}")

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """The photo of an item and its mask in {0, 1, 255}; ``tags`` are the classes annotated in that photo.

        Raises InputError where the photo cannot be read or nothing can be drawn.
        """
        item, (photo, label) = self.items[index], self._photos[index]
        image = read_image(item.image_path, self.bands, item.page, item.pages)
        mask = photo.mask(label)
        if mask.shape != image.shape[:2]:
            raise InputError(f"{item.mask_path}: {item.id} has another size than {item.image_path}; export it again")
        return Sample(image, mask, self._tags[item.image_path, item.page], item.id, item.image_path)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 in {0, 1, 255}: the mask of an item, at its photo's size. Raises InputError as :meth:`sample`."""
        photo, label = self._photos[index]
        return photo.mask(label)

    def label_map(self, index: int) -> Path | None:
        """The file of the label map that an item stands in, None where its mask is drawn."""
        photo = self._photos[index][0]
        return photo.source if photo.map is not None else None

    def truth(self, file: str, class_name: str) -> np.ndarray | None:
        """(H, W) uint8 in {0, 1, 255} of a class in the photo of that name, its ending aside, or of its name's last part.

        None where the annotations do not know that photo, or the class at all. Raises InputError as :meth:`sample`.
        """
        stem = PurePosixPath(file).with_suffix("")
        photo = self._by_name.get(stem.as_posix()) or self._by_name.get(stem.name)
        label = self._labels.get(class_name)
        return None if photo is None or label is None else photo.mask(label)

    @cached_property
    def _by_name(self) -> dict[str, Annotated]:
        """Photos by their name without its ending; by its last part where no other has that."""
        named = [(PurePosixPath(photo.file).with_suffix(""), photo) for photo in self._every]
        same = Counter(stem.name for stem, _ in named)
        alone = {stem.name: photo for stem, photo in named if same[stem.name] == 1}
        return alone | {stem.as_posix(): photo for stem, photo in named}

    @cached_property
    def _tags(self) -> dict[tuple[Path, int], frozenset[int]]:
        tags: dict[tuple[Path, int], set[int]] = {}
        for item in self.items:
            tags.setdefault((item.image_path, item.page), set()).add(item.class_id)
        return {photo: frozenset(ids) for photo, ids in tags.items()}


def open_folder(
    root: str | Path, format: str = "auto", classes: Collection[str] | None = None, **view: Any
) -> FolderDataset | AnnotatedDataset:
    """Photos with masks, however they are stored: a folder of photos by class, or annotations of another tool.

    root:   the folder, or the annotation file.     format: one of ``shotseg.data.annotations.READERS``; "auto" looks.
    view:   further keywords of :class:`FolderDataset`; of annotations, min_area, bands and page have a meaning.
    Raises UsageError where nothing fits, or two formats do.
    """
    format = detect(root) if format == "auto" else format
    if format == "mask":
        return FolderDataset(root, classes, **view)
    view.pop("masks", None)  # every item has one
    known = {name: view.pop(name) for name in ("min_area", "bands", "page") if name in view}
    if given := [name for name, value in view.items() if value]:
        raise UsageError(f"{root}: {given[0]} is not of annotations, which say it themselves; leave it out")
    return AnnotatedDataset(root, format, classes, **known)


def _shown(photo: Annotated, min_area: float) -> list[int]:
    """The classes of a photo; none, with a warning, where its label map cannot be read."""
    try:
        found = photo.shows()
        return [label for label in found if not min_area or (photo.mask(label) == 1).mean() >= min_area]
    except InputError as error:
        note(str(error))
        return []
