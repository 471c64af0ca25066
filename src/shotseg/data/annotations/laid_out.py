"""Data sets as their publishers pack them, told by their folders and read by the rows of ``known_layouts``."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from shotseg.data.annotations import value_tables
from shotseg.data.annotations.drawn import Annotated, Annotations, Shape, check_map, numbered
from shotseg.data.annotations.known_layouts import LAYOUTS, Layout
from shotseg.data.annotations.labelled import note as left_out
from shotseg.data.annotations.labelled import some
from shotseg.data.annotations.value_tables import Groups, Values
from shotseg.data.annotations.voc import VOID
from shotseg.data.images import IMAGE_TYPES, MASK_TYPES, read_bytes, read_image, read_mask
from shotseg.data.pixels import decode
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, note

DEEP = 3  # folders below the one that is given, in which a data set is looked for
TABLES = (".csv", ".json", ".txt")
STRANGE = 0.01  # share of a mask's pixels that may have values without a meaning
Key = tuple[str | int | None, ...]


class Drawn(NamedTuple):
    """A mask of a photo, and the groups of its path."""

    path: Path
    groups: Groups


def known(root: Path) -> Layout | None:
    """The data set in a folder, told by its folders and tables, and by one mask at least; None where it is none of the table."""
    if not root.is_dir():
        return None
    there = [PurePosixPath(path) for path in _places(root, "", DEEP)]
    fit = [row for row in LAYOUTS if all(_is_there(place, row, there) for place in row.places)]
    return next((row for row in fit if _has_files(row, root)), None)


def _is_there(place: str, row: Layout, there: Sequence[PurePosixPath]) -> bool:
    near = [path for path in there if len(path.parts) == 1] if row.here else there
    return any(path.match(glob) for path in near for glob in place.split("|"))


def _has_files(row: Layout, root: Path) -> bool:
    masked = next(_matching(root, row.masks, MASK_TYPES), None) is not None
    return masked and (not row.here or next(_matching(root, (row.photos,), IMAGE_TYPES), None) is not None)


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: the folder of the data set, or one up to three above.   images: where its photos lie, if not there.

    Raises InputError where it is no data set of the table, or one that is not read.
    """
    row = known(path)
    if row is None:
        raise InputError(f"{path}: laid out as no data set that is known; give --from mask, or the format of its masks")
    if row.refused:
        raise InputError(f"{path}: {row.title}: {row.refused}")
    value_tables.forget()
    if row.said:
        note(f"{path}: read as {row.title}: {row.said}")
    root = images or path
    nothing = [file for _, file, _ in _matching(root, (row.nothing,), IMAGE_TYPES)] if row.nothing else []
    shared = [name for name in re.compile(row.photos).groupindex if f"?P<{name}>" in row.masks[0]]
    masks: dict[Key, dict[int, list[Drawn]]] = defaultdict(lambda: defaultdict(list))
    for which, file, groups in _matching(path, row.masks, MASK_TYPES):
        masks[_key(groups, shared)][which].append(Drawn(file, groups))
    drawn = {mask.path for of in masks.values() for alike in of.values() for mask in alike}
    photos: dict[Key, list[tuple[str, Path]]] = defaultdict(list)
    for _, file, groups in _matching(root, (row.photos,), IMAGE_TYPES):
        if file not in drawn:
            photos[_key(groups, shared)].append((groups["top"], file))
    bare = [file.name for key, found in photos.items() if key not in masks for _, file in found if file not in nothing]
    if bare:
        note(f"{path}: left out, photos without a mask: {some(bare)}")
    return _joined(row, path, root, [(_photo(photos[k], v), v[min(v)]) for k, v in masks.items()], nothing)


def _joined(
    row: Layout, path: Path, root: Path, pairs: Sequence[tuple[Path | None, list[Drawn]]], nothing: list[Path]
) -> Annotations:
    """The photos with their masks, and those that show nothing."""
    means = {drawn.path: row.means(path, drawn.groups) for _, masks in pairs for drawn in masks}
    if not row.objects and {} in means.values():
        raise InputError(f"{path}: {row.title}: the table of its classes is empty; write a row for each")
    distinct = {id(meant): meant for meant in means.values()}  # most data sets have one for all masks
    names = (name for meant in distinct.values() for name in ([meant] if isinstance(meant, str) else meant.values()))
    classes = numbered(name for name in names if name not in ("", VOID))
    label_of = {"": 0, VOID: IGNORE, **{name: i for i, name in enumerate(classes, start=1)}}
    tables = {
        key: {value: label_of[name] for value, name in meant.items()}
        for key, meant in distinct.items()
        if not isinstance(meant, str)
    }
    height = {name: i for i, name in enumerate(row.order.split())}
    found = []
    for photo, unordered in pairs:
        masks = sorted(unordered, key=lambda drawn: height.get(str(means[drawn.path]), len(height)))
        first = masks[0].path
        file = first.relative_to(path) if photo is None else photo.relative_to(root)
        meant = means[first]
        if row.objects or isinstance(meant, str):
            try:
                shapes = [
                    shape for mask in masks for shape in _shapes(mask.path, means[mask.path], label_of, row.objects)
                ]
            except InputError as error:
                left_out(str(error))
                continue
            found.append(Annotated(file.as_posix(), first, shapes=shapes, photo=photo))
        else:
            check_map(classes, path)
            found.append(Annotated(file.as_posix(), first, photo=photo, map=partial(_labels, first, tables[id(meant)])))
    found += [Annotated(photo.relative_to(root).as_posix(), photo, photo=photo) for photo in nothing]
    found.sort(key=lambda photo: photo.file)
    return Annotations(classes, found, len(pairs) + len(nothing) - len(found))


# --- pixels -----------------------------------------------------------------------------------------------------------


def _shapes(mask: Path, meant: str | Values, label_of: Mapping[str, int], objects: bool) -> list[Shape]:
    """One of the class, or one for each object. Raises InputError where the ids of objects cannot be read."""
    if not objects:
        return [Shape(label_of[str(meant)], partial(_of_class, mask))]
    ids = [int(number) for number in np.unique(_ids(mask)) if number > 0]
    named = {number: meant if isinstance(meant, str) else meant.get(number) for number in ids}
    if unknown := [number for number, name in named.items() if name is None]:
        left_out(f"{mask}: left out, objects without a class: {some(unknown)}")
    return [Shape(label_of[name], partial(_of_object, mask, number)) for number, name in named.items() if name]


def _of_class(mask: Path, height: int, width: int) -> np.ndarray:
    return read_mask(mask) == 1


def _of_object(mask: Path, number: int, height: int, width: int) -> np.ndarray:
    return _ids(mask) == number


@lru_cache(maxsize=2)
def _ids(mask: Path) -> np.ndarray:
    """(H, W) numbers of objects as they are stored, in any depth."""
    values = decode(read_bytes(mask), mask).values
    if values.ndim != 2:
        raise InputError(f"{mask}: a mask in colours, where numbers of objects are stored; copy it again")
    return values


def _labels(mask: Path, label_of: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8 label map of stored values or colours."""
    if max(label_of) > IGNORE:
        values = read_image(mask).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    else:
        values = read_mask(mask, labels=True)
    stored = np.unique(values) if values.dtype != np.uint8 else np.arange(IGNORE + 1)  # which takes no sorting
    labels = np.array([label_of.get(value, IGNORE) for value in stored.tolist()], np.uint8)
    strange = np.array([value not in label_of for value in stored.tolist()])
    places = values if values.dtype == np.uint8 else np.searchsorted(stored, values)
    if (share := strange[places].mean()) > STRANGE:
        raise InputError(f"{mask}: {100 * share:.0f} % of it has values without a class; copy it again")
    return labels[places]


# --- files ------------------------------------------------------------------------------------------------------------


def _places(folder: Path, above: str, deep: int) -> Iterator[str]:
    """Paths of the folders below, and of the tables."""
    entries = []
    with suppress(OSError), os.scandir(folder) as found:  # what cannot be looked into holds nothing
        entries = [entry for entry in found if not entry.name.startswith(".")]
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.is_dir():
            yield f"{above}{entry.name}"
            if deep > 1:
                yield from _places(folder / entry.name, f"{above}{entry.name}/", deep - 1)
        elif entry.name.endswith(TABLES):
            yield f"{above}{entry.name}"


def _matching(root: Path, patterns: Sequence[str], types: Collection[str]) -> Iterator[tuple[int, Path, Groups]]:
    """(which pattern, file, groups) of the files that one describes."""
    compiled = [re.compile(rf"(?P<top>(?:.+?/)??){pattern}") for pattern in patterns]
    seen = set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)  # noqa: PTH122 (fast)
            if name[0] == "." or ending.lower() not in types:
                continue
            path = stem if below == "." else f"{below}/{stem}"
            found = ((which, match) for which, pattern in enumerate(compiled) if (match := pattern.fullmatch(path)))
            if first := next(found, None):
                yield first[0], Path(folder, name), first[1].groupdict()


def _key(groups: Groups, shared: Sequence[str]) -> Key:
    """What a photo and its masks share; the group "n" is a number, in any number of digits."""
    return tuple(int(groups[name]) if name == "n" else groups[name] for name in shared)


def _photo(found: Sequence[tuple[str, Path]], masks: Mapping[int, Sequence[Drawn]]) -> Path | None:
    """The photo of the masks: of several, the one in the same copy of the data set."""
    top = masks[min(masks)][0].groups["top"]
    own = [file for above, file in found if above == top]
    return own[0] if len(own) == 1 else found[0][1] if len(found) == 1 else None
