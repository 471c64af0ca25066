"""What a look at photos and masks does not tell of how they are stored: options that every verb has, and every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from shotseg.errors import UsageError, one_of


def check_source(name: str) -> None:
    """Raise UsageError for what is no way of storing masks."""
    if name == "auto":
        return
    from shotseg.data.annotations import list_sources  # which is slow to import

    if name not in (names := list_sources()):
        raise UsageError(f"--from {name}: no such format{one_of(name, ['auto', *names])}")


@dataclass(frozen=True)
class Reading:
    """Where a look at the files does not tell."""

    source: Annotated[str, arg(name="from", prefix_name=False)] = "auto"
    """How masks are stored, where two formats fit: mask, pairs, dataset, coco, voc, yolo, labelstudio, labelme, cvat,
    geojson, imagej, panoptic, supervisely, via, darwin, sa1b, rle, labelme-web, mask-table, or a format of another package;
    "auto" looks."""
    bands: Annotated[str, arg(prefix_name=False)] = ""
    """Of photos with more than three bands: those for red, green and blue, from 1, as 4,3,2."""
    page: Annotated[int, arg(prefix_name=False)] = 1
    """Of photos in files with several pages or frames: which, from 1."""

    def __post_init__(self) -> None:
        check_source(self.source)
        listed = self.bands.split(",") if self.bands else []
        if not all(band.strip().isdecimal() and int(band) for band in listed) or len(listed) not in (0, 1, 3):
            raise UsageError(f"--bands {self.bands}: give one or three numbers, from 1, as 4,3,2")
        if self.page < 1:
            raise UsageError(f"--page {self.page}: must be 1 or more")

    @property
    def which(self) -> dict[str, Any]:
        """``bands`` and ``page``, as :func:`shotseg.data.images.read_image` takes them."""
        return {"bands": tuple(int(band) for band in self.bands.split(",")) if self.bands else None, "page": self.page}

    @property
    def view(self) -> dict[str, Any]:
        """The same and ``format``, as :func:`shotseg.data.annotations.opened.open_folder` takes them."""
        return {"format": self.source, **self.which}

    @property
    def said(self) -> dict[str, Any]:
        """What decides the pixels and is not as it comes, for the settings of a run or a result."""
        bands = {"bands": self.bands} if self.bands else {}
        return bands | ({"page": self.page} if self.page > 1 else {})

    def photo(self, path: str | Path) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises InputError as :func:`shotseg.data.images.read_image`."""
        from shotseg.data.images import read_image

        return read_image(path, **self.which)

    def page_of(self, item: Any) -> np.ndarray:
        """The same of an item of a data set, whose photo may be one page of several."""
        from shotseg.data.images import read_image

        return read_image(item.image_path, **self.of_item(item))

    def of_item(self, item: Any) -> dict[str, Any]:
        """The same as ``which`` for an item of a data set, and ``pages``, of how many its page is one."""
        return {**self.which, "page": item.page, "pages": item.pages}

    def refuse(self, why: str) -> None:
        """Raise UsageError where anything was chosen; ``why``: what it changes nothing with."""
        for flag, value, default in (("from", self.source, "auto"), ("bands", self.bands, ""), ("page", self.page, 1)):
            if value != default:
                raise UsageError(f"--{flag} changes nothing with {why}; leave it out")


AS_SEEN = Reading()
