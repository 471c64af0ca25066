"""Label maps as palette PNG: ``masks/<name>.png`` and ``classes.csv``, as :mod:`shotseg.data.folder` reads them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from shotseg.data.annotations.drawn import Annotated, Annotations, Photos, Shape, check_map
from shotseg.data.annotations.labelled import Labelled, note, some
from shotseg.data.annotations.voc import palette
from shotseg.data.class_table import read_class_table
from shotseg.data.folder import FolderDataset, Item
from shotseg.data.images import (
    IMAGE_TYPES,
    MASK_TYPES,
    PAGE_TYPE,
    one_class,
    page_file,
    pages_with_masks,
    read_bytes,
    read_mask,
    write_bytes,
    write_png,
)
from shotseg.data.listing import images_below, only_images
from shotseg.data.pairing import photos_and_masks
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, UsageError

ENDINGS = ("", "_mask", "-mask")  # of a mask's name behind that of its photo
VALUES = "_classes.csv"
NAMES = ("classes.txt", "labels.txt")  # one class a line, where a pair of folders has it
Values = Callable[[Path, int, int], np.ndarray]  # of a mask, the number of its page, and of how many


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    check_map(classes, out)
    for result in results:
        write_png(out / "masks" / f"{result.stem}.png", result.labels, palette())
    table = io.StringIO()
    rows = [(0, "background"), *enumerate(classes, start=1)]
    csv.writer(table, lineterminator="\n").writerows([("class_id", "class"), *rows])
    write_bytes(out / "classes.csv", table.getvalue().encode())


def files(path: Path) -> list[Path]:
    return []  # what no other format claims is read as a folder


def holds_masks(path: Path) -> bool:
    """Whether ``images/`` has masks beside it, of any layout."""
    pair = (path / "images").is_dir() and (path / "masks").is_dir()
    return pair and any(file.suffix.lower() in IMAGE_TYPES for file in (path / "masks").rglob("*"))


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: the folder that :func:`write` wrote, or any that :class:`FolderDataset` reads."""
    if not (path / "classes.csv").is_file():
        return _class_folders(path)
    table = path / "classes.csv"
    try:
        names = {row.value: row.name for row in read_class_table(table) if row.value not in (0, IGNORE)}
    except UsageError as error:
        raise InputError(str(error)) from None
    if max(names, default=0) > IGNORE:
        raise InputError(f"{table}: class_id {max(names)}, a label map of bytes has values up to 254; leave it out")
    label_of = np.zeros(256, np.uint8)
    label_of[list(names)] = np.arange(1, len(names) + 1)
    label_of[IGNORE] = IGNORE
    return Annotations(list(names.values()), _label_maps(path, images, label_of, _ids))


def read_pairs(path: Path, images: Path | None = None) -> Annotations:
    """``images/`` and ``masks/`` with one class id a pixel, of equal stems, or with _mask or -mask behind the mask's.

    Names are the lines of classes.txt or labels.txt, of which a first "background" is the value 0; else the ids themselves.
    Or masks beside their photos, with Roboflow's table ``_classes.csv``.
    """
    masks = path / "masks"
    if tables := value_tables(path):
        return _beside(path, tables)
    if not masks.is_dir():
        raise InputError(f"{path}: no folder masks in it; lay it out as images/ and masks/")
    listed = next((path / name for name in NAMES if (path / name).is_file()), None)
    if listed is not None:
        lines = read_bytes(listed).decode("utf-8-sig", "replace").splitlines()
        names = dict(enumerate([line.strip() for line in lines if line.strip()]))
        if names.get(0, "").casefold() not in ("background", "_background_"):
            names = {value + 1: name for value, name in names.items()}
        names.pop(0, None)
    else:
        found = sorted({int(value) for mask in _drawn(masks) for value in np.unique(_pair_values(mask))})
        names = {value: str(value) for value in found if value not in (0, IGNORE)}
    if not names or max(names) > 254:
        raise InputError(f"{masks}: no class in it, or more than 254; name them in {path / NAMES[0]}, one a line")
    label_of = np.full(256, IGNORE, np.uint8)
    label_of[[0, *names]] = np.arange(len(names) + 1)
    return Annotations(list(names.values()), _label_maps(path, images, label_of, _pair_values))


def value_tables(path: Path) -> list[Path]:
    """The tables ``_classes.csv`` of a folder and of those in it that say the values of masks, as Roboflow writes them.

    Its tables of whole photos have the same name, and columns of photos.
    """
    found = sorted([*path.glob(VALUES), *path.glob(f"*/{VALUES}")])
    return [table for table in found if _says_values(table)]


def _says_values(table: Path) -> bool:
    with table.open("rb") as file:
        return file.read(99).lower().removeprefix(b"\xef\xbb\xbf").startswith(b"pixel")


def _beside(root: Path, tables: Sequence[Path]) -> Annotations:
    """Label maps beside their photos, each folder with its table."""
    try:
        rows = {table.parent: [r for r in read_class_table(table) if r.value not in (0, IGNORE)] for table in tables}
        pairs = {folder: photos_and_masks(folder, None) for folder in rows}
    except UsageError as error:
        raise InputError(str(error)) from None
    classes = list(dict.fromkeys(row.name for of in rows.values() for row in of))
    photos = []
    for folder, of in rows.items():
        label_of = np.full(256, IGNORE, np.uint8)
        label_of[0] = 0
        for row in of:
            if row.value > IGNORE:
                raise InputError(
                    f"{folder / VALUES}: value {row.value}, a label map of bytes has values up to 254; leave it out"
                )
            label_of[row.value] = classes.index(row.name) + 1
        for _, photo, drawn in pairs[folder]:
            for mask in drawn:
                draw = partial(_mapped, mask, label_of, _ids, 1, 1)
                photos.append(Annotated(photo.relative_to(root).as_posix(), mask, photo=photo, map=draw))
        if bare := [photo.name for _, photo, drawn in pairs[folder] if not drawn]:
            note(f"{folder}: left out, photos without a mask: {some(bare)}")
    return Annotations(classes, photos)


def _label_maps(
    root: Path,
    images: Path | None,
    label_of: np.ndarray,
    values: Values,
) -> list[Annotated]:
    folder = root / "masks"
    finder = Photos(root, images or root / "images")
    photos = []
    for path in _drawn(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        stems = [stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)]
        named = next(((name, found) for name in stems if (found := finder.stem(name))), None)
        file, photo = (f"{named[0]}{named[1].suffix}", named[1]) if named else (f"{stem}.png", None)
        pages = pages_with_masks(photo, [path]) if photo else 1
        for page in range(1, pages + 1):
            draw = partial(_mapped, path, label_of, values, page, pages)
            called = page_file(file, page, pages)
            photos.append(Annotated(called, path, photo=photo, map=draw, page=page, pages=pages))
    used = {photo.photo for photo in photos}
    if bare := [photo.name for photo in images_below(images or root / "images") if photo not in used]:
        note(f"{root}: left out, photos without a mask: {some(bare)}")
    return photos


def _drawn(folder: Path) -> list[Path]:
    return sorted(only_images(folder, folder.rglob("*"), MASK_TYPES))


def _mapped(path: Path, label_of: np.ndarray, values: Values, page: int, pages: int) -> np.ndarray:
    return label_of[values(path, page, pages)]


def _ids(path: Path, page: int = 1, pages: int = 1) -> np.ndarray:
    return read_mask(path, None, True, page, pages)


def _pair_values(path: Path, page: int = 1, pages: int = 1) -> np.ndarray:
    """(H, W) uint8 ids of a mask, 255 = ignore; of one with 0 and 255 alone, 255 is the class 1."""
    values = _ids(path, page, pages)
    return values // IGNORE if np.isin(values, (0, IGNORE)).all() else values


def _class_folders(root: Path) -> Annotations:
    """A folder of photos by class: the masks that a photo has in each of them.

    The same content is the same photo; twice in one class it is two.
    """
    dataset = FolderDataset(root, masks=True)
    times: Counter[tuple[str, int]] = Counter()
    shapes: dict[tuple[str, int], list[Shape]] = {}
    first: dict[tuple[str, int], Item] = {}
    for item in dataset.items:
        times[item.content, item.class_id] += 1
        photo = item.content, times[item.content, item.class_id]
        first.setdefault(photo, item)
        masks = item.mask_paths if item.pages == 1 or _shown(item) else ()
        drawn = [Shape(item.class_id + 1, partial(_own, path, item), mask=True) for path in masks]
        shapes.setdefault(photo, []).extend(drawn)
    photos = []
    for photo, item in first.items():
        file = f"{item.id}{item.image_path.suffix if item.pages == 1 else PAGE_TYPE}"
        one = Annotated(file, item.mask_path or root, None, shapes[photo], item.image_path)
        photos.append(replace(one, page=item.page, pages=item.pages))
    return Annotations(dataset.classes, photos)


def _shown(item: Item) -> bool:
    """Whether a page shows its class, as not every page of a stack does; also where its mask cannot be read."""
    try:
        return any(read_mask(path, page=item.page, pages=item.pages).any() for path in item.mask_paths)
    except InputError:
        return True


def _own(mask: Path, item: Item, height: int, width: int) -> np.ndarray:
    labels = item.class_value is not None
    found = read_mask(mask, (height, width), labels, item.page, item.pages)
    return one_class(found, item.class_value) == 1
