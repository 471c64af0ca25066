"""How people lay out photos and masks by class: which folders are a class's photos, and which are its masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from shotseg.data.images import MASK_TYPES, read_mask
from shotseg.data.listing import files_in, has_photos, normal, some, subfolders
from shotseg.data.pairing import (
    Pair,
    called_alike,
    lie_beside,
    objects_by_photo,
    one_photo_each,
    photos_and_masks,
    share_names,
)
from shotseg.data.tables import plain
from shotseg.errors import InputError, UsageError, note

# What people call the folders of photos and of masks, in small letters without blanks and marks.
PHOTO_FOLDERS = (
    "images",
    "image",
    "imgs",
    "img",
    "im",
    "photos",
    "photo",
    "jpegimages",
    "original",
    "originals",
    "data",
)
OBJECTS = "segmentationobject"  # of VOC: objects by number, without their classes
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "segmentations", "segmentation", "gt", "groundtruth"),
    *("groundtruths", OBJECTS),
)
# Words in such names, as in "train_img" and "train_lab", "PNGImages" and "PedMasks".
PHOTO_WORDS = frozenset({"images", "image", "imgs", "img", "photos", "photo", "input", "inputs"})
MASK_WORDS = frozenset(
    {"masks", "mask", "labels", "label", "lab", "gt", "ground", "truth", "groundtruth", "anno", "annotation"}
    | {"annotations", "ann", "seg", "segmentation", "segmentations"}
)
SPLITS = frozenset({"train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing"})


class Place(NamedTuple):
    """Where photos of a class lie, and their masks (None: beside them).

    shared: with other classes, so that a photo without a mask, or with an empty one, does not show this one.
    part:   of the data set, in front of the names of its photos.
    """

    photos: Path
    masks: Path | None
    shared: bool = False
    part: str = ""


def by_class(root: Path, name: str | None) -> dict[str, list[Pair]]:
    """Class -> its photos with their masks, of a folder.   name: of the one class, default the folder's own name.

    Raises UsageError (one line) where the folder is empty, or laid out in another way.
    """
    if alike := called_alike(subfolders(root)):
        return {name or root.resolve().name: alike}
    found: dict[str, list[Pair]] = {}
    empty: list[Path] = []
    for class_name, places in _layout(root, name).items():
        if pairs := _pairs(places, root):
            found[class_name] = pairs
        else:
            empty.append(places[0].photos)
    if empty and not found:
        raise UsageError(f"{empty[0]}: no image in it; add photos of the class or remove the folder")
    if empty:
        note(f"{root}: left out, class folders without a photo: {some([folder.name for folder in empty])}")
    return found


def _pairs(places: list[Place], root: Path) -> list[Pair]:
    if len(places) > 1 and not places[0].part:
        return one_photo_each((place[:2] for place in places), root)
    return [
        (f"{place.part}/{name}" if place.part else name, photo, drawn)
        for place in places
        for name, photo, drawn in _paired(place)
    ]


def _paired(place: Place) -> list[Pair]:
    photos, masks = place.photos, place.masks
    below = {} if masks is None or _flat(masks) else subfolders(masks)
    if _has_one_of(photos, below):
        return objects_by_photo(photos, below)
    pairs = photos_and_masks(photos, masks, several=True)
    deeper = [label for label, folder in subfolders(photos).items() if folder != masks and has_photos(folder)]
    if deeper and not pairs and plain(photos.name) in PHOTO_FOLDERS:
        raise UsageError(f"{photos}: holds class folders ({some(deeper)}); give {photos.parent}")
    if deeper:
        note(f"{photos}: left out, folders in the folder of a class: {some(deeper)}")
    return [pair for pair in pairs if _shows(pair[2])] if place.shared else pairs


def _shows(masks: Iterable[Path]) -> bool:
    """Whether one of the masks has a pixel of the class, or cannot be read, which is said when it is used."""
    try:
        return any((read_mask(mask) == 1).any() for mask in masks)
    except InputError:
        return True


def _layout(root: Path, name: str | None) -> dict[str, list[Place]]:
    """Class -> its places, in the first layout that is there.

    images/<class>/ and masks/<class>/; images/ and masks/ of one class; images/ and masks/<class>/; <class>/images/ and
    <class>/masks/; <photo>/images/ and <photo>/masks/ of one class; <class>_images/ and <class>_masks/; photos of one class in
    the folder itself; a folder of photos for each class.
    """
    (images, masks), below, own = _parts(root), subfolders(root), root.resolve().name
    if classes := subfolders(images):
        drawn = subfolders(masks)
        if strays := sorted(set(drawn) - set(classes)):
            raise UsageError(f"{drawn[strays[0]]}: masks of a class without photos; name it as in images/ or remove it")
        shared = masks if len(classes) == 1 and has_photos(masks) else None
        found = {label: [Place(folder, drawn.get(label, shared))] for label, folder in classes.items()}
        for folder in (images, masks):
            if folder != shared and (loose := [file.name for file in files_in(folder)]):
                note(f"{folder}: left out, in no class folder: {some(loose)}")
    elif has_photos(images):
        masks = _inner(masks)
        found = _of_shared_photos(images, masks) or {own: [Place(images, _if_there(masks))]}
        if plain(masks.name) == OBJECTS:
            said = f"objects without their classes, read as the class {name or own!r}"
            note(f"{masks}: {said}; for classes put SegmentationClass beside it")
    elif images.is_dir():
        raise UsageError(f"{images}: no class folder and no photo; put the photos of each class into images/<class>/")
    elif nested := {label: parts for label, folder in below.items() if (parts := _parts(folder))[0].is_dir()}:
        found = {label: [Place(photos, _if_there(drawn))] for label, (photos, drawn) in nested.items()}
        if len(found) > 1 and all(_is_one_photo(label, place.photos) for label, [place] in found.items()):
            found = {own: [place for [place] in found.values()]}
    elif worded := _by_words(root):
        found = {label or own: [Place(photos, drawn)] for label, (photos, drawn) in worded.items()}
    elif has_photos(root):
        if plain(own) in (*MASK_FOLDERS, "segmentationclass") and not lie_beside(root):
            raise UsageError(f"{root}: a folder of masks by its name; give the folder that holds it and the photos")
        found = {own: [Place(root, _flat(masks))]}
    elif masks.is_dir():
        raise UsageError(
            f"{root}: {masks.name}/ but no images/ beside it; put the photos into images/, or images/<class>/"
        )
    else:
        found = {
            label: [Place(folder, _flat(folder / "masks"))] for label, folder in below.items() if has_photos(folder)
        }
        if masked := [label for label in found if MASK_WORDS & set(_words(label)) and len(found) > 1]:
            said = f"read as classes of photos, and named as masks: {some(masked)}"
            note(f"{root}: {said}; put photos into images/, masks into masks/")
    if not found:
        raise UsageError(
            f"{root}: no photos in it; lay it out as images/<class>/<name>.jpg and masks/<class>/<name>.png"
        )
    names = {label.casefold() for label in found}
    if names <= SPLITS and names != {"train"}:  # which may be what runs on rails
        note(f"{root}: parts of a data set by their names, read as one class {name or own!r}: {some(list(found))}")
        found = {own: [place._replace(part=label) for label, [place] in found.items()]}
    if name is not None and len(found) > 1:
        raise UsageError(f"{root}: has {len(found)} classes, named by their folders; leave --name {name} out")
    return found if name is None else {name: next(iter(found.values()))}


def _of_shared_photos(images: Path, masks: Path) -> dict[str, list[Place]]:
    """The classes of masks/<class>/ where all photos lie in one folder; none where masks/ is laid out in another way."""
    below = {} if _flat(masks) else {label: folder for label, folder in subfolders(masks).items() if _flat(folder)}
    return {} if _has_one_of(images, below) else {label: [Place(images, below[label], shared=True)] for label in below}


def _inner(masks: Path) -> Path:
    """The folder in which the masks of a folder lie, where it holds nothing else, as Semantic_masks/images/."""
    below = list(subfolders(masks).values())
    alone = len(below) == 1 and not _flat(masks) and plain(below[0].name) in (*PHOTO_FOLDERS, *MASK_FOLDERS)
    return below[0] if alone else masks


def _parts(folder: Path) -> tuple[Path, Path]:
    """The folders of photos and of masks in a folder, as they are called there; where it has not both, images and masks."""
    own = {plain(path.name): path for path in subfolders(folder).values()}
    images = next((own[name] for name in PHOTO_FOLDERS if name in own), folder / "images")
    masks = next((own[name] for name in MASK_FOLDERS if name in own and _holds_images(own[name])), folder / "masks")
    if not (images.is_dir() and masks.is_dir()) and len(worded := _by_words(folder)) == 1:
        return next(iter(worded.values()))
    alone = images.name.casefold() == "images"
    return (images, masks) if alone or masks.is_dir() else (folder / "images", folder / "masks")


def _by_words(folder: Path) -> dict[str, tuple[Path, Path]]:
    """What is left of two names without their words for photos and masks -> those two folders, of files of the same names.

    Photos need no word: train/ with train_labels/. None unless every folder of images is one of two; where there are only two,
    what is left of their names may differ.
    """
    photos: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    wordless: dict[str, Path] = {}
    for name, path in subfolders(folder).items():
        words = _words(name)
        rest = " ".join(word for word in words if word not in PHOTO_WORDS | MASK_WORDS)
        if not MASK_WORDS.isdisjoint(words):
            masks |= {rest: path} if _holds_images(path) else {}
        elif not PHOTO_WORDS.isdisjoint(words):
            photos[rest] = path
        elif has_photos(path):
            wordless[rest] = path
    if len(photos) == len(masks) == 1 and not wordless:
        photos, masks = {"": photos.popitem()[1]}, {"": masks.popitem()[1]}
    photos |= wordless
    if not photos or photos.keys() != masks.keys():
        return {}
    pairs = {rest: (path, masks[rest]) for rest, path in photos.items()}
    return pairs if all(share_names(*pair) for pair in pairs.values()) else {}


def _words(name: str) -> list[str]:
    """The words of "trainMasks_2", in small letters."""
    return [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in MASK_TYPES for file in folder.rglob("*"))


def _if_there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _flat(folder: Path) -> Path | None:
    """A folder of masks beside photos; None where the images of it lie deeper, as those of a run's results do."""
    return folder if any(file.suffix.lower() in MASK_TYPES for file in files_in(folder)) else None


def _has_one_of(photos: Path, names: Collection[str]) -> bool:
    return any(normal(file.stem) in names for file in files_in(photos))


def _is_one_photo(name: str, folder: Path) -> bool:
    """Whether a folder holds one image alone, of that name."""
    return [normal(file.stem) for file in files_in(folder)] == [name]
