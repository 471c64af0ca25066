"""What the official archives are made of: lists, folders of images, label images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shotseg.data.images import IMAGE_TYPES, read_mask
from shotseg.errors import InputError


def lines(path: Path) -> list[str]:
    """The first word of every line of an official list."""
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def indices(path: Path) -> np.ndarray:
    """(H, W) uint8 of a grey or palette PNG, as stored."""
    return read_mask(path, labels=True)


def by_stem(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """stem -> file of the images in a folder, sorted. Raises InputError where there is none."""
    files = (path for path in sorted(folder.glob(pattern)) if not path.name.startswith("."))
    found = {path.stem: path for path in files if path.suffix.lower() in IMAGE_TYPES}
    if not found:
        raise InputError(f"{folder}: no image named {pattern}; unpack the official archive again")
    return found


def matched(path: Path, stem: str, files: dict[str, Path]) -> Path:
    """The file of a stem, or an InputError that names it."""
    if stem not in files:
        raise InputError(f"{path}: no file named {stem}.*; unpack the official archive again")
    return files[stem]
