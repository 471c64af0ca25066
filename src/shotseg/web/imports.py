"""Masks that there are already, of another tool or of a run of ``segment``: the first word on photos of a project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from shotseg.data.annotations import Annotations, detect, index
from shotseg.data.annotations.drawn import Annotated
from shotseg.data.annotations.labelled import inside, some
from shotseg.data.images import read_mask
from shotseg.data.listing import subfolders
from shotseg.errors import InputError, ShotsegError, UsageError, note
from shotseg.web.project import Project
from shotseg.web.remembered import rows_of
from shotseg.web.said import PagePhoto

RESULTS = "results.jsonl"


def take(project: Project, source: Path, format: str = "auto", step: Callable[[], None] = lambda: None) -> str:
    """Give photos that nobody has decided on the masks of a file or folder, and return a line that says how many.

    source: what ``segment --support`` reads, whose masks are accepted; or the folder that ``segment`` wrote, whose masks are
            guesses with their confidence, to be reviewed.   step: is called after each photo.
    What cannot be used is noted; photos without a mask stay open. Raises ShotsegError where nothing can be used.
    """
    guesses = _confidences(source) if format == "auto" and _is_of_a_run(source) else None
    found = _found(source, format, project.album.folder)
    theirs = _matched(project, found)
    if not theirs:
        named = some(photo.file for photo in found.photos)
        raise UsageError(f"{source}: none of its photos is in the project ({named}); give their folder with --photos")
    open_ = {file: photo for file, photo in theirs.items() if _is_open(photo)}
    chosen = [photo for photo in found.photos if photo.page == 1 and photo.file in open_]
    numbers = _numbers(project, found.classes, _shown(chosen))
    taken = 0
    for result in found._replace(photos=chosen).labelled():
        step()
        table = np.zeros(np.iinfo(result.labels.dtype).max + 1, np.uint8)
        table[1 : len(numbers) + 1] = numbers
        photo, labels = open_[result.file], table[result.labels]
        if not _fits(photo, labels):
            continue
        taken += 1
        if guesses is None:
            project.set_state(photo.id, photo.version, "accepted", labels)
        else:
            project.suggest(photo, labels, guesses.get(result.file, 0.0))
    said = [f"{source}: {taken} photos have their masks from it" + (", to be reviewed" if guesses is not None else "")]
    if decided := len(theirs) - len(open_):
        said.append(f"{decided} were decided before and stay")
    if empty := len(open_) - taken:
        said.append(f"{empty} without a mask stay open")
    if absent := [photo.file for photo in found.photos if photo.file not in theirs]:
        said.append(f"{len(absent)} are not in the project ({some(absent)})")
    return "; ".join(said)


def _found(source: Path, format: str, photos: Path | None) -> Annotations:
    if format == "auto" and _is_of_a_run(source):
        return Annotations(list(subfolders(source / "masks")), list(_of_a_run(source)))
    return index(detect(source) if format == "auto" else format, source, photos)


def _is_of_a_run(source: Path) -> bool:
    return (source / RESULTS).is_file() and (source / "masks").is_dir()


def _confidences(folder: Path) -> dict[str, float]:
    """Photo's file -> how sure the run was of its masks; what a line does not say is passed over."""
    found = {}
    for row in rows_of(folder / RESULTS):
        with suppress(ValueError, KeyError, TypeError):
            found[str(row["file"])] = min(1.0, max(0.0, float(row["confidence"])))
    return found


def _of_a_run(folder: Path) -> Iterator[Annotated]:
    """The photos of a folder that ``segment`` wrote."""
    classes = [folder / "masks" / name for name in subfolders(folder / "masks")]
    for number, row in enumerate(rows_of(folder / RESULTS), start=1):
        try:
            file, name = str(row["file"]), inside(row["name"], folder / RESULTS)
        except (KeyError, TypeError):
            note(f"{folder / RESULTS}: line {number} is damaged and left out; run segment again")
            continue
        except InputError as error:  # it leads out of the folder
            note(str(error))
            continue
        masks = [own / f"{name}.png" for own in classes]
        if any(mask.is_file() for mask in masks):
            yield Annotated(file, folder / RESULTS, map=partial(_joined, masks))


def _joined(masks: list[Path]) -> np.ndarray:
    """(H, W) uint8: i + 1 where the i-th mask is. Raises InputError for one that cannot be read, or is of another size."""
    labels = np.zeros(0, np.uint8)
    for label, path in enumerate(masks, start=1):
        if path.is_file():
            mask = read_mask(path)
            labels = labels if labels.size else np.zeros(mask.shape, np.uint8)
            if mask.shape != labels.shape:
                raise InputError(f"{path}: of another size than the photo's other masks; run segment again")
            labels[mask == 1] = label
    return labels


def _matched(project: Project, found: Annotations) -> dict[str, PagePhoto]:
    """The annotations' name of a photo -> the project's photo: the same file, else of the same path, else alone of its name."""
    photos = list(project.said.photos.values())
    by_path = {photo.path.resolve(): photo for photo in photos}
    by_file = {photo.file: photo for photo in photos}
    by_name: dict[str, list[PagePhoto]] = {}
    for photo in photos:
        by_name.setdefault(Path(photo.file).name, []).append(photo)
    matched = {}
    for theirs in found.photos:
        alike = by_name.get(Path(theirs.file).name, [])
        mine = by_path.get(theirs.photo.resolve()) if theirs.photo else None
        mine = mine or by_file.get(theirs.file) or (alike[0] if len(alike) == 1 else None)
        if mine is not None:
            matched[theirs.file] = mine
    return matched


def _is_open(photo: PagePhoto) -> bool:
    return photo.state in ("open", "predicted") and photo.drawn is None and not photo.strokes


def _shown(photos: list[Annotated]) -> set[int]:
    shown: set[int] = set()
    for photo in photos:
        try:
            shown.update(photo.shows())
        except InputError:  # it is said when its turn comes
            continue
    return shown


def _numbers(project: Project, classes: list[str], shown: set[int]) -> list[int]:
    """The project's numbers of their classes, made where they are new and shown; 0 of one that cannot be, which is noted."""
    numbers = {own.name: own.number for own in project.classes}
    for label, name in enumerate(classes, start=1):
        if label in shown and name not in numbers:
            try:
                numbers[name] = project.add_class(name).number
            except ShotsegError as error:
                note(f"{error}; its masks are left out")
    return [numbers.get(name, 0) for name in classes]


def _fits(photo: PagePhoto, labels: np.ndarray) -> bool:
    """Whether a mask has something, and the size of its photo, which is noted."""
    if not labels.any():
        return False
    if labels.shape != photo.size:
        theirs, mine = (f"{width} x {height}" for height, width in (labels.shape, photo.size))
        note(f"{photo.file}: left out, its mask is {theirs}, but the photo is {mine}; export it again")
        return False
    return True
