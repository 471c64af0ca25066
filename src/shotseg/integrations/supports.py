"""The classes that a tool asks for, from whatever holds them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from shotseg.data.annotations.opened import AnnotatedDataset, open_folder
from shotseg.data.folder import FolderDataset, Item
from shotseg.errors import InputError, NoMaskWarning, UsageError, note
from shotseg.segmenter import Segmenter

MOST_PAGES = 64  # of a stack that are examples: each is compared with every photo

log = logging.getLogger("shotseg")


def add_examples(
    segmenter: Segmenter,
    examples: FolderDataset | AnnotatedDataset,
    skip: Container[str] = (),
) -> Iterator[tuple[Item, InputError | None]]:
    """Add every example; each with the reason where it cannot be used. The others are still added. Of a stack those pages are
    examples that show the class, up to ``MOST_PAGES``.

    skip: ids of those that are known already.
    """
    stacks = {
        (item.class_name, item.image_path): 0 for item in examples.items if item.pages > 1 and item.id not in skip
    }
    for index, item in enumerate(examples.items):
        if item.id in skip or stacks.get((item.class_name, item.image_path)) == MOST_PAGES:
            continue
        # By path where the mask is the class's own, so that an error names the file.
        own = item.class_value is None and examples.bands is None and item.page == item.pages == 1
        photo: Any
        try:
            photo, mask = (item.image_path, list(item.mask_paths) or None) if own else (examples.sample(index), None)
            if item.pages > 1:
                if not (photo.mask == 1).any():
                    continue
                stacks[item.class_name, item.image_path] += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoMaskWarning)  # whoever calls says it of all in one line
                segmenter.add(item.class_name, [photo], [mask])
        except InputError as error:
            yield item, error
        else:
            yield item, None
    for (name, stack), count in stacks.items():
        if count:
            note(f"{stack}: {count} of its pages are examples of {name}, each with the page of its mask")
        else:
            empty = next(item for item in examples.items if (item.class_name, item.image_path) == (name, stack))
            yield empty, InputError(f"{stack}: no page of it shows {name}; mark the object, or leave this pair out")


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
