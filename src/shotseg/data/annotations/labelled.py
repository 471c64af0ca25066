"""What every annotation format writes and reads, and the little that they share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shotseg.data.images import read_bytes, write_bytes
from shotseg.errors import InputError


@dataclass(frozen=True, eq=False)
class Labelled:
    """One photo's label map.

    file:   the photo, relative to its folder, with "/".
    labels: (H, W) uint8, 0 = background, i + 1 = the i-th class, 255 = ignore.
    name:   what the files made for it are called, without an ending; default ``file`` without its ending.
    scores: class name -> confidence in [0, 1], where there is one.
    """

    file: str
    labels: np.ndarray
    name: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.name or PurePosixPath(self.file).with_suffix("").as_posix()

    def present(self, classes: int) -> list[int]:
        """Which of the first ``classes`` labels occur."""
        counts = np.bincount(np.unique(self.labels), minlength=256)
        return [label for label in range(1, classes + 1) if counts[label]]


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); export it again") from error


def malformed(path: Path, error: Exception, what: str) -> InputError:
    """One line for content that is not as the format has it."""
    reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return InputError(f"{path}: not {what} ({reason}); export it again")
