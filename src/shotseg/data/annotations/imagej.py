"""ROIs of ImageJ and Fiji: one a ``.roi``, many a ``RoiSet.zip``, read and written by roifile (extra: imagej).

:mod:`shotseg.data.annotations.imagej_rois` says which pixels they cover.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from shotseg import errors
from shotseg.data import tiff
from shotseg.data.annotations.drawn import Annotated, Annotations, Shape, numbered
from shotseg.data.annotations.imagej_rois import NEEDED, area, kind, library, stored
from shotseg.data.annotations.labelled import Labelled, note, some, usable
from shotseg.data.images import page_file, pages_in, read_bytes, write_bytes
from shotseg.data.layout import MASK_FOLDERS, PHOTO_FOLDERS, SPLITS
from shotseg.data.listing import images_below, normal
from shotseg.data.suffixes import owner
from shotseg.data.tables import plain
from shotseg.errors import InputError, UsageError

SIGNATURE = b"Iout"
CLASSES, ENDING = "classes.txt", "_RoiSet"  # of what is written here
MOST_BYTES = 1 << 27  # of the ROIs of an archive
UNPACKED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
WORD = re.compile(
    r"(^|[ ._-]+)(imagej|rois?|roi[ ._-]?(set|manager)s?)(?=$|[ ._-])", re.IGNORECASE
)  # no part of a name
COUNTER = re.compile(r"[ ._#-]+\(?\d+\)?$")
# Names that ImageJ, StarDist, Cellpose and roifile give where nobody does: places, numbers, and what is unique.
AUTOMATIC = re.compile(
    r"\d+|\d{3,}([-_]\d{3,})+(-\d+)?|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}|F\d+-C\w+", re.IGNORECASE
)
MARKS = " ._-"  # between the parts of a name
NO_CLASS = "object"  # where no folder has a name that could be one


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    """``<name>_RoiSet.zip`` for each photo, whose ROIs are named "class-number", and the classes, ``classes.txt``.

    The pages of a stack have one, whose ROIs know their positions.
    """
    write_bytes(out / CLASSES, "".join(f"{name}\n" for name in classes).encode())
    stacks: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for result in results:
        rois = stacks[result.stack] if result.pages > 1 else []
        plane = tiff.plane_of(result.photo, result.page) if result.photo and result.pages > 1 else 0
        for part in result.objects:
            name = f"{classes[part.label - 1]}-{len(rois) + 1}"
            rois.append((name, stored(part, name, plane)))
        if result.pages == 1:
            _write(out / f"{result.stem}{ENDING}.zip", rois)
    for stack, rois in stacks.items():
        _write(out / f"{stack}{ENDING}.zip", rois)


def _write(path: Path, rois: Iterable[tuple[str, bytes]]) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, roi in rois:
            entry = re.sub(r'[\\/:*?"<>|]', "_", name)
            archive.writestr(zipfile.ZipInfo(f"{entry}.roi"), roi, zipfile.ZIP_DEFLATED)
    write_bytes(path, content.getvalue())


def check(classes: Iterable[str]) -> None:
    """Raise UsageError where roifile is not installed, and for a class that the names of ROIs would not give back."""
    if find_spec("roifile") is None:
        raise UsageError(NEEDED)
    for name in classes:
        if _class_name(f"{name}-1") != name:
            raise UsageError(f"class name {name!r} would not be told from the counter in the name of a ROI; rename it")


def files(path: Path) -> list[Path]:
    """The ``.roi`` files and the archives of such that ``path`` is, or that lie below it."""
    listed = [path] if path.is_file() else sorted(path.rglob("*.[rRzZ][oOiI][iIpP]"))
    named = [
        file for file in listed if file.name[0] != "." and file.suffix.lower() in (".roi", ".zip") and file.is_file()
    ]
    found = [file for file in named if file.suffix.lower() == ".roi" or _holds_rois(file)]
    return found if any(map(_holds_rois, found)) else []


class Roi(NamedTuple):
    """One area: (height, width) -> (h, w) bool, its name, "" where it has none, and what it is stored as.

    group: 0 for none.      place: the numbers of its plane, z and t in a stack, from 1; 0: not said.
    """

    name: str
    entry: str
    group: int
    place: tuple[int, int, int]
    draw: Callable[[int, int], np.ndarray]


class Rois(NamedTuple):
    """What a file holds.   lost: how many more of its ROIs are broken, or no areas."""

    file: Path
    areas: list[Roi]
    lost: int


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or a folder with some. A file, and a ROI, that is broken is named. Classes: those of classes.txt first,
    the others by name.

    A file is of the photo that is named as it, with or without a word as in "a_RoiSet.zip", or as the folder that it lies in.
    Of a stack each page that has ROIs is a photo. The class is the name of a ROI without a number behind it; else its group,
    else the name of the folder. Raises InputError where there is none, and where roifile is not installed.
    """
    found, broken = usable(files(path), _content)
    if not found:
        raise InputError(f"{path}: no ROI of ImageJ in it; save them from its ROI Manager, as RoiSet.zip")
    root = path if path.is_dir() else path.parent
    photos = _Photos(images or root)
    of_photo: dict[Path | str, list[Rois]] = defaultdict(list)
    counted = set[str]()
    for each in found:
        photo = photos.of(each.file)
        stem = photo.stem if photo else _bare(each.file.stem) or each.file.stem
        folder = _folder_class(each.file, photo)
        names = [_class_name(roi.name or _behind(stem, roi.entry)) for roi in each.areas]
        counted |= {name for name, roi in zip(names, each.areas) if name and COUNTER.search(roi.name or roi.entry)}
        groups = [f"group {roi.group}" if roi.group else folder for roi in each.areas]
        areas = [roi._replace(name=name or group) for roi, name, group in zip(each.areas, names, groups)]
        of_photo[photo or each.file.relative_to(root).with_name(stem).as_posix()].append(each._replace(areas=areas))
    listed = _lines(root / CLASSES)
    if counted := counted - set(listed):
        errors.note(f"{path}: numbers behind the names of ROIs are counters, no classes: {some(sorted(counted))}")
    named = sorted({roi.name for of in of_photo.values() for each in of for roi in each.areas})
    classes = numbered([*listed, *named])
    annotated = [one for photo, of in of_photo.items() for one in _annotated(photo, photos.root, of, classes)]
    if bare := [photo.name for photo in photos.all if photo not in of_photo]:
        note(f"{photos.root}: left out, photos without ROIs: {some(bare)}")
    return Annotations(classes, annotated, broken)


def _lines(path: Path) -> list[str]:
    lines = read_bytes(path).decode("utf-8-sig", "replace").splitlines() if path.is_file() else []
    return [line for line in lines if line.strip()]


def _annotated(photo: Path | str, root: Path, of: Sequence[Rois], classes: list[str]) -> Iterator[Annotated]:
    """The photo, or each page of it that has ROIs. Those without a position are of the first page."""
    pages: dict[int, list[Shape]] = defaultdict(list)
    areas, lost = [roi for each in of for roi in each.areas], sum(each.lost for each in of)
    source = of[0].file if len(of) == 1 else of[0].file.parent
    stack = photo if isinstance(photo, Path) and any(any(roi.place) for roi in areas) else None
    count, beyond = 1 if stack is None else pages_in(stack), 0
    for roi in areas:
        page = tiff.page_at(stack, *roi.place) if stack and count > 1 and any(roi.place) else 1
        if page is None or page > count:
            beyond += 1
        else:
            pages[page].append(Shape(classes.index(roi.name) + 1, roi.draw))
    if beyond:
        note(f"{source}: {beyond} ROIs of pages that {photo} does not have, left out; save them with that stack")
    if isinstance(photo, str):
        yield Annotated(photo, source, None, pages[1], None, lost)
        return
    below = root / "images"
    file = photo.relative_to(below if photo.is_relative_to(below) else root)
    for page, shapes in sorted(pages.items()) or [(1, [])]:
        called = page_file(file.as_posix(), page, count)
        yield Annotated(called, source, None, shapes, photo, lost + beyond, page=page, pages=count)


class _Photos:
    """The photos below a folder, by their names with and without ending."""

    def __init__(self, root: Path):
        self.root, self.all = root, images_below(root)
        self._named: dict[str, list[Path]] = defaultdict(list)
        self._in: dict[Path, list[Path]] = defaultdict(list)
        for photo in self.all:
            self._in[photo.parent].append(photo)
            for name in {_spelled(photo.stem), _spelled(photo.name), _spelled(f"{photo.stem}{ENDING}")}:
                self._named[name].append(photo)

    def of(self, file: Path) -> Path | None:
        """The photo that a file of ROIs is of; None where there is none, or several.

        In this order: of its name, beside it; of its folder's name; of its name, anywhere; the one whose name its own begins
        with; the only one beside it. Of several the one in folders of the same names.
        """
        own = _spelled(_bare(file.stem))
        named = self._named.get(_spelled(file.stem)) or self._named.get(own, [])
        beside = self._in.get(file.parent, [])
        _, begun = owner(self._named, own) or ("", [])
        found = [photo for photo in named if photo.parent == file.parent]
        found = found or self._named.get(_spelled(_bare(file.parent.name)), []) or named or begun
        found = found or (beside if len(beside) == 1 else [])
        alike = [len({*photo.parent.parts} & {*file.parent.parts}) for photo in found]
        best = [photo for photo, same in zip(found, alike) if same == max(alike)]
        return best[0] if len(best) == 1 else None


def _bare(name: str) -> str:
    """A name without the word that says that it is ROIs."""
    return WORD.sub("", name).strip(MARKS)


def _spelled(name: str) -> str:
    return normal(name).casefold()


def _behind(stem: str, name: str) -> str:
    """What a file's name has behind that of its photo; else the name."""
    begins = name.casefold().startswith(stem.casefold()) and name[len(stem) : len(stem) + 1] in ("", *MARKS)
    return name[len(stem) :].strip(MARKS) if begins else name


def _class_name(name: str) -> str:
    """The class that the name of a ROI says, "" where it says none."""
    if not _bare(name) or AUTOMATIC.fullmatch(name.strip()):
        return ""
    name = COUNTER.sub("", name)
    return name if _bare(name) else ""


def _folder_class(file: Path, photo: Path | None) -> str:
    """The nearest folder whose name is neither the photo's nor a word for photos, masks, ROIs or parts of a data set."""
    words = {*PHOTO_FOLDERS, *MASK_FOLDERS, *SPLITS, "" if photo is None else plain(photo.stem)}
    folders = (folder.name for folder in file.resolve().parents)
    return next((name for name in folders if _bare(name) and plain(name) not in words), NO_CLASS)


def _content(file: Path) -> Rois:
    roifile = library()
    areas, others, broken = list[Roi](), Counter[str](), list[str]()
    for name, data in _stored(file):
        try:
            roi = roifile.ImagejRoi.frombytes(data)
            draw = area(roi)
        except Exception:  # what is broken can make a reader fail in any way
            broken.append(name)
            continue
        if draw is None:
            others[kind(roi)] += 1
        else:
            place = int(roi.position), int(roi.z_position), int(roi.t_position)
            areas.append(Roi(roi.name, name, int(roi.group), place, draw))
    if broken and not areas and not others:
        raise InputError(f"{file}: no ROI of ImageJ that can be read; save it again")
    if broken:
        note(f"{file}: left out, ROIs that are broken: {some(broken)}; save them again")
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.items())
        note(f"{file}: left out, ROIs that are no areas ({kinds}); draw polygons")
    return Rois(file, areas, len(broken) + others.total())


def _stored(file: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each ROI. Nothing is unpacked to the disk; what is too large, or no archive, is an InputError."""
    if file.suffix.lower() == ".roi":
        yield file.stem, read_bytes(file)
        return
    left = MOST_BYTES
    try:
        with zipfile.ZipFile(file) as archive:
            for name in _listed(archive):
                with archive.open(name) as opened:
                    data = opened.read(left + 1)
                left -= len(data)
                if left < 0:
                    raise InputError(f"{file}: ROIs of more than {MOST_BYTES >> 20} MB; save fewer in one file")
                yield PurePosixPath(name).stem, data
    except UNPACKED as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: no archive of ROIs that can be read ({reason}); save it again") from error


def _listed(archive: zipfile.ZipFile) -> list[str]:
    names = (PurePosixPath(name) for name in archive.namelist())
    return [str(name) for name in names if name.suffix.lower() == ".roi" and name.name[0] != "."]


def _holds_rois(file: Path) -> bool:
    if file.suffix.lower() == ".roi":
        with file.open("rb") as opened:
            return opened.read(4) == SIGNATURE
    if WORD.search(file.stem):
        return True  # which its reader looks into, also where it is broken or empty
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(_listed(archive))
    except UNPACKED:
        return False
