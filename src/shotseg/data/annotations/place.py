"""Photos beside the annotations that were made for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from shotseg.data.annotations.labelled import Labelled, note
from shotseg.data.images import PAGE_TYPE, read_image, unwritable, write_png
from shotseg.errors import InputError


def placed(
    results: Iterable[Labelled], folder: Path, how: str, by_stem: bool, stacks: bool = False
) -> Iterator[Labelled]:
    """The same results; each photo that is known is first put into ``folder``.

    how: "copy", "link" (copied where links cannot be made), or "none". A file that is there already stays.
    by_stem: the photo is called as the files made for it; else by its own name.
    stacks: pages stay in their stack. Else a page, which no tool finds there, becomes a PNG of its own in any case.
    """
    for result in results:
        if result.pages > 1 and not stacks:
            result = replace(result, file=f"{result.stem}{PAGE_TYPE}")
            _write_page(result, folder / result.file)
        elif result.photo is not None and how != "none":
            stem, ending = result.stem, PurePosixPath(result.file).suffix
            if result.pages > 1:
                stem, ending = result.stack, result.photo.suffix
            place(result.photo, folder / (f"{stem}{ending}" if by_stem else result.file), how)
        yield result


def _write_page(result: Labelled, path: Path) -> None:
    if result.photo is None or path.exists():
        return
    try:
        page = read_image(result.photo, result.bands, result.page, result.pages)
    except InputError as error:
        note(f"{error}; its annotations are there without it")
    else:
        write_png(path, page)


def place(photo: Path, path: Path, how: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return
        path.unlink(missing_ok=True)  # a link that leads nowhere
        if how == "link":
            try:
                path.symlink_to(os.path.relpath(photo.resolve(), path.parent.resolve()))
                return
            except OSError:  # a system or disk without links
                pass
        shutil.copyfile(photo, path)
    except OSError as error:
        raise unwritable(path, error) from error
