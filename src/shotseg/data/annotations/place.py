"""Photos beside the annotations that were made for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from shotseg.data.annotations.labelled import Labelled
from shotseg.data.images import unwritable


def placed(results: Iterable[Labelled], folder: Path, how: str, by_stem: bool) -> Iterator[Labelled]:
    """The same results; each photo that is known is first put into ``folder``.

    how: "copy", or "link" (copied where links cannot be made). A file that is there already stays.
    by_stem: the photo is called as the files made for it; else by its own name.
    """
    for result in results:
        if result.photo is not None:
            name = f"{result.stem}{PurePosixPath(result.file).suffix}" if by_stem else result.file
            place(result.photo, folder / name, how)
        yield result


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
