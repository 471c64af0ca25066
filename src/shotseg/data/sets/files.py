"""What the official archives are made of: lists, folders of images, label images, MATLAB files."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.images import IMAGE_TYPES, read_bytes, read_mask
from shotseg.data.sets import LeftOut
from shotseg.errors import InputError


def lines(path: Path) -> list[str]:
    """The first word of every line of an official list."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a list of names; unpack the official archive again") from error
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def indices(path: Path) -> np.ndarray:
    """(H, W) uint8 of a grey or palette PNG, as stored."""
    return read_mask(path, labels=True)


def by_stem(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """stem -> file of the images in a folder, sorted. Raises InputError where there is none."""
    found = stems(folder.glob(pattern), IMAGE_TYPES)
    if not found:
        raise InputError(f"{folder}: no image named {pattern}; unpack the official archive again")
    return found


def stems(paths: Iterable[Path], endings: Collection[str]) -> dict[str, Path]:
    """stem -> file, sorted, of those with one of the endings; a second file of a stem stands under its whole name."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.suffix.lower() in endings and not path.name.startswith("."):
            found[path.name if path.stem in found else path.stem] = path
    return found


def matched(path: Path, stem: str, files: dict[str, Path]) -> Path:
    """The file of a stem; where there is none a name that no file has, so that reading it says which is absent."""
    return files.get(stem, path / f"{stem}.*")


def without_photo(masks: dict[str, Path], images: Collection[str], ending: str = "") -> list[LeftOut]:
    """The masks that are of none of the images; ``ending``: of a mask's stem, after that of its photo."""
    lone = (path for stem, path in masks.items() if stem.removesuffix(ending) not in images)
    return [LeftOut(path.stem, f"{path}: a mask without a photo") for path in lone]


def matlab(path: Path, name: str) -> np.ndarray | None:
    """A variable of a MATLAB file, or a field of one ("GTcls.Segmentation"), of any version up to 7.3; None if absent.

    Raises InputError where the file cannot be read.
    """
    import h5py

    try:
        if not h5py.is_hdf5(path):
            return _level_5(path, *name.split("."))
        with h5py.File(path) as file:
            return file[name.replace(".", "/")][()].T  # MATLAB 7.3 stores columns first
    except KeyError:
        return None
    except Exception as error:  # a broken file can make a reader fail in any way; to the user it is one thing
        what = "no such file" if not path.exists() else f"not a MATLAB file ({type(error).__name__})"
        raise InputError(f"{path}: {what}; unpack the official archive again") from error


def _level_5(path: Path, variable: str, *fields: str) -> np.ndarray:
    from scipy.io import loadmat

    value: Any = loadmat(path, variable_names=[variable])[variable]
    for field in fields:
        if field not in value.dtype.names:
            raise KeyError(field)
        value = value[field][0, 0]
    return np.asarray(value)


def label_map(path: Path, name: str, highest: int) -> np.ndarray:
    """(H, W) int64 of a variable with ids from 0 to ``highest``. Raises InputError where the file has no such map."""
    labels = matlab(path, name)
    if labels is None or labels.ndim != 2 or labels.dtype.kind not in "uifb" or not labels.size:
        raise InputError(f"{path}: no label map {name} in it; unpack the official archive again")
    if not (labels.min() >= 0 and labels.max() <= highest):
        raise InputError(f"{path}: {name} has ids outside 0 to {highest}; unpack the official archive again")
    return labels.astype(np.int64)
