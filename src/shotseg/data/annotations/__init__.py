"""Masks written as, and read from, the files of other tools: one module a format, each with ``write`` and ``read``.

    write("coco", "out", results, ["cat", "dog"])      # results: an iterable of Labelled, taken one at a time
    classes, results = read("coco", "out")             # corrected in another tool, and back

``read`` gives the class names and an iterator of :class:`Labelled` whose label i + 1 means ``classes[i]``.
``detect`` tells the format of a folder or file by looking at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from shotseg import plugins
from shotseg.arguments import checked
from shotseg.data.annotations import (
    coco,
    cvat,
    darwin,
    geojson,
    imagej,
    label_studio,
    labelme,
    labelme_web,
    laid_out,
    mask_tables,
    masks,
    names,
    panoptic,
    run_lengths,
    sa1b,
    supervisely,
    via,
    voc,
    yolo,
)
from shotseg.data.annotations.drawn import Annotations
from shotseg.data.annotations.labelled import Labelled, arranged, inside, note, some
from shotseg.data.annotations.place import placed
from shotseg.data.annotations.sniff import ARCHIVES, listed, packed, unread_files, unread_tool
from shotseg.data.images import IMAGE_TYPES
from shotseg.data.listing import has_photos, subfolders
from shotseg.data.pairing import lie_beside
from shotseg.errors import InputError, UsageError, first_line, one_of
from shotseg.errors import note as said

__all__ = [
    "FORMATS",
    "READERS",
    "Annotations",
    "Labelled",
    "detect",
    "index",
    "list_formats",
    "list_sources",
    "read",
    "write",
]


class Source(NamedTuple):
    """Of a format that is not written. read(path, images); files(path): the files of the format there."""

    read: Callable[..., Annotations]
    files: Callable[[Path], list[Path]]


class Format(NamedTuple):
    """write(out, results, classes); read(path, images); files(path): the files of the format there."""

    write: Callable[..., None]
    read: Callable[..., Annotations]
    files: Callable[[Path], list[Path]]


FORMATS = {
    "mask": Format(masks.write, masks.read, masks.files),
    "coco": Format(coco.write, coco.read, coco.files),
    "coco-polygons": Format(coco.polygons, coco.read, lambda path: []),
    "voc": Format(voc.write, voc.read, voc.files),
    "yolo": Format(yolo.write, yolo.read, yolo.files),
    "labelstudio": Format(label_studio.write, label_studio.read, label_studio.files),
    "labelme": Format(labelme.write, labelme.read, labelme.files),
    "cvat": Format(cvat.write, cvat.read, cvat.files),
    "geojson": Format(geojson.write, geojson.read, geojson.files),
    "imagej": Format(imagej.write, imagej.read, imagej.files),
}
SOURCES = {
    "supervisely": Source(supervisely.read, supervisely.files),
    "via": Source(via.read, via.files),
    "darwin": Source(darwin.read, darwin.files),
    "sa1b": Source(sa1b.read, sa1b.files),
    "rle": Source(run_lengths.read, run_lengths.files),
    "panoptic": Source(panoptic.read, panoptic.files),
    "labelme-web": Source(labelme_web.read, labelme_web.files),
    "mask-table": Source(mask_tables.read, mask_tables.files),
}
WITH_IDS = ("coco", "coco-polygons")
READERS = {name: form.read for name, form in (FORMATS | SOURCES).items()} | {
    "pairs": masks.read_pairs,
    "dataset": laid_out.read,
}


def list_formats() -> list[str]:
    """The names that :func:`write` takes: ours, then those that other packages add."""
    return list(FORMATS | plugins.added("formats"))


def list_sources() -> list[str]:
    """The names that :func:`read` takes."""
    return list(dict.fromkeys([*READERS, *list_formats()]))


@checked
def write(
    format: str,
    out: str | Path,
    results: Iterable[Labelled],
    classes: Sequence[str],
    *,
    min_object: int = 0,
    one_a_class: bool = False,
    instances: bool = False,
    photos: str = "none",
    ids: Sequence[int] | None = None,
) -> None:
    """Write label maps under the folder ``out``.

    min_object:  leave out objects of fewer pixels.
    one_a_class: one annotation for each class of a photo, in place of one for each object.
    instances:   objects of a class that touch are apart, see :mod:`shotseg.data.annotations.touching`.
    photos:      of results that know theirs: "copy" or "link" them to where the format wants them (default ``out/images``).
                 Pages of stacks become PNG files there in any case, but for imagej, whose ROIs say their page.
    ids:         of the classes, for COCO; default 1, 2, ...
    A photo whose name leads out of ``out``, or holds control characters, is left out with a warning of one line.
    Raises UsageError for an unknown format or a class name that the format cannot hold, InputError on a full disk or where
    no photo can be written.
    """
    form = _chosen(format)
    names.check(format, classes)
    results = _with_names(results, out)
    if min_object or one_a_class or instances:
        results = arranged(results, min_object, one_a_class, instances)
    folder = Path(out) / names.PHOTOS.get(format, "images")
    results = placed(results, folder, photos, format in names.BY_STEM, format in names.STACKS)
    form.write(Path(out), results, classes, **({"ids": ids} if ids and format in WITH_IDS else {}))


def _with_names(results: Iterable[Labelled], out: str | Path) -> Iterator[Labelled]:
    """Those whose photos can be named in a file; the others are said. InputError where none can."""
    named, last = 0, None
    for result in results:
        try:
            inside(result.file, out)
        except InputError as error:
            note(str(error))
            last = error
            continue
        named += 1
        yield result
    if last is not None and not named:
        raise last


def read(format: str, path: str | Path, images: str | Path | None = None) -> tuple[list[str], Iterator[Labelled]]:
    """The class names and label maps of a folder or file in that format. ``images``: where the photos lie.

    What cannot be used is left out with a warning of one line. Raises InputError (one line) where nothing can be.
    """
    found = index(format, path, images)
    return found.classes, found.labelled()


@checked
def index(format: str, path: str | Path, images: str | Path | None = None, page: int = 1) -> Annotations:
    """The same, not drawn yet.   page: of photos in files of several, from 1."""
    reader = READERS[format] if format in READERS else _chosen(format).read
    found = reader(Path(path), None if images is None else Path(images)).each_once()
    if page == 1:
        return found
    chosen = [photo if photo.pages > 1 else replace(photo, page=page) for photo in found.photos]
    return found._replace(photos=[photo for photo in chosen if photo.page == page])


@checked
def detect(path: str | Path) -> str:
    """The format of a folder or file, told by looking: "mask" where it is none of the others.

    Raises UsageError where there is nothing, or where two formats fit.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; check the path")
    if (path / "images").is_dir() and (path / "classes.csv").is_file():
        return "mask"
    if path.is_file() and (what := packed(path)) and not imagej.files(path):
        raise UsageError(f"{path}: {what}, and give the folder")
    if laid_out.known(path):
        return "dataset"
    fits = [name for name in FORMATS if FORMATS[name].files(path)]
    fits += [name for name in plugins.added("formats") if name not in FORMATS and _fits_added(name, path)]
    fits += [name for name, source in SOURCES.items() if source.files(path)]
    if fits and fits != ["mask-table"] and masks.holds_masks(path):
        fits = ["mask", *(name for name in fits if name != "rle")]  # a table says the same as the masks beside it
    if len(fits) > 1:
        raise UsageError(f"{path}: {' and '.join(fits)} both fit; say which with --from, or give the file itself")
    if not fits and not (path.is_dir() and masks.value_tables(path)):
        _name_unread(path)
    if not fits and path.suffix.lower() in IMAGE_TYPES and path.is_file():
        raise UsageError(f"{path}: one image; give the folder of the examples, as images/<class>/ and masks/<class>/")
    if not fits and path.is_file():
        raise UsageError(f"{path}: no annotation file that is known; give one of {', '.join(READERS)}")
    return fits[0] if fits else _pair_or_folder(path)


def _fits_added(name: str, path: Path) -> bool:
    """Whether a format of another package is there; one that fails is said, since nobody may have asked for it."""
    try:
        return bool(_chosen(name).files(path))
    except Exception as error:  # whatever another package's code raises
        said(f"format {name!r} of another package is not looked for ({first_line(error)})")
        return False


def _name_unread(path: Path) -> None:
    """Say which annotations a folder holds that are not read. Raises UsageError where they are what it is about."""
    if not masks.holds_masks(path) and not lie_beside(path):
        if tool := unread_tool(path):
            raise UsageError(
                f"{path}: annotations of {tool}, which are not read; export them as COCO, or give --from mask"
            )
        if what := unread_files(path):
            raise UsageError(f"{path}: {what}, or give --from mask")
    if path.is_file():
        return
    if deeper := _deeper(path):
        where = "one folder deeper" if len(deeper) == 1 else f"in {len(deeper)} folders of their own"
        raise UsageError(f"{path}: its annotations are {where}; give {' or '.join(map(str, deeper[:3]))}")
    tables = [
        file for folder in (path, path / "annotations") for file in listed(folder, ".json", ".xml", ".yaml", ".yml")
    ]
    archives = [file.name for file in listed(path, *ARCHIVES)]
    empty = [file.name for file in tables if file.is_file() and not file.stat().st_size]
    unknown = [file.name for file in tables if file.is_file() and file.stat().st_size]
    for left_out, why in (
        (empty, "annotation files that are empty"),
        (unknown, "no annotations that are known"),
        (archives, "archives, unpack them"),
    ):
        if left_out:
            note(f"{path}: left out, {why}: {some(left_out)}")


def _deeper(path: Path) -> list[Path]:
    """The folders below, where each holds annotations: an archive is often unpacked so, and several data sets lie so."""
    own = [folder for folder in subfolders(path).values() if folder.name != "__MACOSX"]
    if has_photos(path):
        return []
    found = [folder for folder in own if any(form.files(folder) for form in (FORMATS | SOURCES).values())]
    if len(found) == len(own):
        return found
    return _deeper(own[0]) if len(own) == 1 else []


def _pair_or_folder(path: Path) -> str:
    """ "pairs" where images/ and masks/ are flat and a text file beside them names the classes, or a table the values."""
    if path.is_dir() and masks.value_tables(path):
        return "pairs"
    flat = all(
        (path / name).is_dir() and not any(p.is_dir() for p in (path / name).iterdir()) for name in ("images", "masks")
    )
    return "pairs" if flat and any((path / name).is_file() for name in masks.NAMES) else "mask"


def _chosen(format: str) -> Format:
    if format in FORMATS:
        return FORMATS[format]
    if format in plugins.added("formats"):
        return plugins.held("formats", format, Format, plugins.load("formats", format))
    raise UsageError(f"no annotation format {format!r}{one_of(format, list_sources())}")
