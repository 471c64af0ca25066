"""The classes that a tool asks for, from whatever holds them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from shotseg.data.annotations.opened import AnnotatedDataset, open_folder
from shotseg.data.folder import FolderDataset, Item
from shotseg.data.images import page_pairs, pages_in
from shotseg.errors import InputError, NoMaskWarning, UsageError, note
from shotseg.segmenter import Segmenter

MOST_PAGES = 64  # of a stack that are examples: each is compared with every photo

log = logging.getLogger("shotseg")


def add_examples(
    segmenter: Segmenter,
    examples: FolderDataset | AnnotatedDataset,
    skip: Container[tuple[str, Path]] = (),
) -> Iterator[tuple[Item, InputError | None]]:
    """Add every example; each with the reason where it cannot be used. The others are still added.

    skip: (class, photo) of those that are known already.
    """
    for index, item in enumerate(examples.items):
        if (item.class_name, item.image_path) in skip:
            continue
        # By path where the mask is the class's own, so that an error names the file.
        own = item.class_value is None and examples.bands is None and examples.page == 1
        try:
            if isinstance(examples, FolderDataset) and examples.page == 1 and _are_stacks(item, examples.bands):
                photos, masks = _pages(item, examples.bands)
            else:
                photo, mask = (
                    (item.image_path, list(item.mask_paths) or None) if own else (examples.sample(index), None)
                )
                photos, masks = [photo], [mask]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoMaskWarning)  # whoever calls says it of all in one line
                segmenter.add(item.class_name, photos, masks)
        except InputError as error:
            yield item, error
        else:
            yield item, None


def _are_stacks(item: Item, bands: Sequence[int] | None) -> bool:
    """Whether photo and mask have the same number of pages, above one."""
    if item.class_value is not None or len(item.mask_paths) != 1:
        return False
    count = pages_in(item.image_path, bands)
    return count > 1 and pages_in(item.mask_paths[0]) == count


def _pages(item: Item, bands: Sequence[int] | None) -> tuple[list[Any], list[Any]]:
    """The pages that show the class, up to ``MOST_PAGES``, with their masks. InputError where none does."""
    shown = (pair for pair in page_pairs(item.image_path, item.mask_paths[0], bands) if (pair[1] == 1).any())
    pairs = list(islice(shown, MOST_PAGES))
    if not pairs:
        raise InputError(
            f"{item.mask_paths[0]}: no foreground pixel on any page; mark the object, or leave this pair out"
        )
    note(f"{item.image_path}: {len(pairs)} of its pages are examples, each with the page of its mask")
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def segmenter_of(support: str | Path, device: str = "auto", present: float | None = 0.5) -> Segmenter:
    """A segmenter with the classes of a file that ``Segmenter.save`` wrote, or of a folder or file of examples.

    An example that cannot be used is logged. Raises UsageError where there is no such file, InputError where none can be used.
    """
    support = Path(support)
    if not support.exists():
        raise UsageError(f"{support}: no such file or folder; give a .safetensors file or a folder of examples")
    if present is not None and not 0 <= present <= 1:
        raise UsageError(f"present {present}: give a probability from 0 to 1")
    if support.suffix == ".safetensors":
        segmenter = Segmenter.load(support, device=device)
        segmenter.present = present
        return segmenter
    segmenter = Segmenter(device=device, present=present)
    for _, error in add_examples(segmenter, open_folder(support)):
        if error:
            log.warning("%s", error)
    if not segmenter.classes:
        raise InputError(f"{support}: no example can be used; mend one of them")
    return segmenter
