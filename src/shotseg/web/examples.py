"""The masks that a person reviewed, laid out as the command line reads and writes them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shotseg.data.images import write_bytes, write_png
from shotseg.overlay import PALETTE

if TYPE_CHECKING:
    from shotseg.web.project import Project
    from shotseg.web.said import PagePhoto

KINDS = ("images", "masks")


class Shot(NamedTuple):
    """A photo and its mask, a file or 0/255; written: when, or what, so that another mask is another shot.

    photo: of the project, where ``image`` is that photo.
    """

    image: Path
    mask: Path | np.ndarray
    written: int
    photo: PagePhoto | None = None


def shots(project: Project) -> dict[str, list[Shot]]:
    """Class name -> its examples, the oldest first."""
    found = {}
    for own in project.classes:
        kept = [
            Shot(image, mask, mask.stat().st_mtime_ns, _photo_of(project, image))
            for image, mask in pairs(project, own.name)
        ]
        if kept:
            found[own.name] = sorted(kept, key=lambda shot: (shot.written, shot.image.name))
    return found


def pairs(project: Project, name: str) -> list[tuple[Path, Path]]:
    """Photo and mask of each example of a class."""
    folders = [project.folder / "examples" / kind / name for kind in KINDS]
    images, masks = (
        {path.stem: path for path in folder.glob("*") if not path.name.startswith(".")} for folder in folders
    )
    return [(images[stem], mask) for stem, mask in masks.items() if stem in images and mask.suffix == ".png"]


def _photo_of(project: Project, image: Path) -> PagePhoto | None:
    """The photo that was linked, or copied, as an example; another may lie in its place by now."""
    photo = project.said.photos.get(image.stem)
    try:
        return photo if photo is not None and _same(photo.path, image) else None
    except OSError:
        return None


def _same(photo: Path, image: Path) -> bool:
    mine, other = photo.stat(), image.stat()
    return os.path.samestat(mine, other) or (mine.st_size, mine.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def publish(project: Project, photo: PagePhoto) -> None:
    """Make examples/ and results/ say of a photo what its reviewed mask does; without one, nothing."""
    labels = project.drawn_mask(photo) if photo.reviewed and photo.drawn is not None else None
    name, results = project.album.names.get(photo.id, photo.id), project.folder / "results"
    taught = labels is not None and project.said.settings["examples_from_reviewed"]
    for own in project.classes:
        mask = None if labels is None else (labels == own.number).astype(np.uint8) * 255
        _put(results / "masks" / own.name / f"{name}.png", mask)
        shown = mask is not None and bool(mask.any())
        example = project.folder / "examples" / "masks" / own.name / f"{photo.id}.png"
        image = project.folder / "examples" / "images" / own.name / f"{photo.id}{photo.path.suffix.lower()}"
        if taught and shown:
            _link(photo.path, image)
            _put(example, mask)
        else:
            for path in (example, image):
                path.unlink(missing_ok=True)
                with contextlib.suppress(
                    OSError
                ):  # others are in it; a class of none is no folder, as in `segment --support`
                    path.parent.rmdir()
    whole = results / "labels" / f"{name}.png"
    if labels is None:
        whole.unlink(missing_ok=True)
    else:
        write_png(whole, project.in_order(labels), PALETTE)


def list_results(project: Project) -> None:
    """``results/results.jsonl``: a line for each reviewed photo, as ``shotseg segment`` writes it."""
    lines = []
    for photo in sorted(project.said.photos.values(), key=lambda photo: photo.file):
        if not photo.reviewed or photo.drawn is None:
            continue
        areas = {own.name: round(photo.areas.get(own.number, 0.0), 6) for own in project.classes}
        shown = {name: {"area": area, "confidence": 1.0} for name, area in areas.items() if area}
        main = max(shown, key=areas.__getitem__, default=None)
        found = {"class": main, "area": areas[main] if main else 0.0, "confidence": 1.0, "classes": shown}
        present = {name: float(name in shown) for name in areas}
        about = {"file": photo.file, "name": project.album.names[photo.id]}
        lines.append({**about, **found, "present": present, "seconds": 0.0, "error": None, "state": photo.state})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_bytes(project.folder / "results" / "results.jsonl", text.encode("utf-8", "backslashreplace"))


def rename(folder: Path, old: str, new: str) -> None:
    """The folders of a class take its new name."""
    for place in _places(folder, old):
        if place.is_dir():
            place.rename(place.with_name(new))


def retire(folder: Path, name: str) -> None:
    """A class was removed: its folders are moved aside, for the masks in them are a person's work."""
    for place in _places(folder, name):
        if place.is_dir():
            aside = folder / "removed" / place.relative_to(folder)
            number = 1
            while aside.exists():
                number += 1
                aside = aside.with_name(f"{name} ({number})")
            aside.parent.mkdir(parents=True, exist_ok=True)
            place.rename(aside)


def join(folder: Path, old: str, new: str) -> None:
    """What lies in the folders of a class goes to those of another; what has its like there is moved aside with them."""
    for place in _places(folder, old):
        for path in place.glob("*"):
            other = place.with_name(new) / path.name
            if not other.exists():
                other.parent.mkdir(parents=True, exist_ok=True)
                path.rename(other)
    retire(folder, old)


def _places(folder: Path, name: str) -> list[Path]:
    return [folder / "examples" / kind / name for kind in KINDS] + [folder / "results" / "masks" / name]


def _put(path: Path, mask: np.ndarray | None) -> None:
    if mask is None:
        path.unlink(missing_ok=True)
    else:
        write_png(path, mask)


def _link(photo: Path, path: Path) -> None:
    """The photo itself, not a copy of its pixels, where the disk has such links."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(photo.resolve(), path)
    except OSError:
        shutil.copy2(photo, path)
