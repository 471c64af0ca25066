"""A small project for the tests of the page."""

from pathlib import Path

import numpy as np
from PIL import Image

from shotseg.web.project import Project

SIZE = (60, 80)  # (height, width)


def photo(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blue, with a red square whose place depends on the seed."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = 120
    top, left = 5 + 7 * seed % (size[0] // 2), 5 + 11 * seed % (size[1] // 2)
    image[top : top + 25, left : left + 25] = (220, 30, 30)
    return image


def photos_folder(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(photo(i)).save(folder / f"photo{i}.png")
    return folder


def project_of(tmp_path: Path, count: int = 3) -> Project:
    return Project(tmp_path / "project", photos_folder(tmp_path / "photos", count))


def square(top: int, left: int, side: int = 10, size: tuple[int, int] = SIZE) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    labels[top : top + side, left : left + side] = 1
    return labels
