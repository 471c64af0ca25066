"""Tables that say the photo and the class of each mask, one object a file: Open Images, and the instance masks of V7."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from shotseg.data.annotations.drawn import Annotations
from shotseg.data.annotations.entries import Draw, Entry, collected
from shotseg.data.annotations.labelled import note, some, usable
from shotseg.data.annotations.sniff import listed
from shotseg.data.images import MASK_TYPES, read_mask
from shotseg.data.tables import column, plain, rows_of, text_of
from shotseg.errors import InputError, UsageError

HEADS = (("imageid",), ("maskpath", "maskid"), ("labelname", "classname"))  # of the photo, its mask and the class
NAMES = "class-descriptions*.csv"  # of Open Images: the code of a class, and its name
Rows = list[tuple[str, str, str]]


def files(path: Path) -> list[Path]:
    """The tables that ``path`` is, or holds, in the folder or in ``annotations/``."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".csv" and _is_table(path) else []
    return [table for folder in (path, path / "annotations") for table in listed(folder, ".csv") if _is_table(table)]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a table, or the folder with ``masks/`` and photos. A mask is found by its name, anywhere below.

    A row whose mask is not there is named and left out. Raises InputError where no row can be used.
    """
    found, broken = usable(files(path), _rows)
    if not found:
        raise InputError(f"{path}: no table of masks in it; give one with the columns image_id, mask_id and class_name")
    root = path if path.is_dir() else path.parent
    root = root.parent if root.name == "annotations" else root
    every = sorted(file for file in {*_below(root), *_below(images or root)})
    masks = {key: file for file in every if _is_mask(file, root) for key in (file.name, file.stem)}
    photos = defaultdict(list)
    for file in every:
        if not _is_mask(file, root) and file.is_relative_to(images or root):
            for key in {file.stem, file.name}:
                photos[key].append(file)
    names = dict(row for table in root.rglob(NAMES) for row in _descriptions(table))
    entries, lost, used = [], [], set[Path]()
    for table, rows in found:
        objects: dict[str, list[tuple[str, Draw]]] = {}
        for photo, mask, name in rows:
            if drawn := masks.get(Path(mask).name):
                objects.setdefault(photo, []).append((names.get(name, name), partial(_drawn, drawn)))
            else:
                lost.append(mask)
        for photo, own in objects.items():
            same = photos[photo.rpartition("/")[2]]
            used.update(same)
            named = same[0].relative_to(images or root).as_posix() if len(same) == 1 else photo
            entries.append(Entry(table, images or root, named, None, None, own))
    if lost:
        note(f"{path}: left out, masks of its table that are not there: {some(lost)}; put them into {root / 'masks'}")
    if bare := sorted({file.name for same in photos.values() for file in same if file not in used}):
        note(f"{path}: left out, photos without a mask: {some(bare)}")
    if not entries:
        raise InputError(f"{path}: none of the masks of its table is there; put them into {root / 'masks'}")
    return collected(entries, images or root, None, broken)


def _is_table(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = [plain(cell) for cell in file.readline(1 << 12).decode("utf-8-sig", "replace").split(",")]
    return all(column(head, names) is not None for names in HEADS)


def _rows(path: Path) -> tuple[Path, Rows]:
    try:
        head, *rows = [row for _, row in rows_of(path, lambda cells: len(cells) > 2)]
    except UsageError as error:
        raise InputError(str(error)) from None
    at = [column([plain(cell) for cell in head], names) for names in HEADS]
    cells = [tuple(row[i].strip() if i is not None and i < len(row) else "" for i in at) for row in rows]
    if short := [line for line, row in enumerate(cells, start=2) if not all(row)]:
        note(f"{path}: {len(short)} rows without a photo, a mask or a class left out (lines {some(short)})")
    return path, [(photo, mask, name) for photo, mask, name in cells if photo and mask and name]


def _descriptions(path: Path) -> list[tuple[str, str]]:
    return [(code, name) for code, _, name in (line.partition(",") for line in text_of(path).splitlines()) if name]


def _below(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in MASK_TYPES and file.name[0] != ".")


def _is_mask(file: Path, root: Path) -> bool:
    return file.is_relative_to(root) and any("mask" in part.casefold() for part in file.relative_to(root).parts[:-1])


def _drawn(mask: Path, height: int, width: int) -> np.ndarray:
    return read_mask(mask) == 1
