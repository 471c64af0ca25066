"""``shotseg convert``: annotations from one tool's files into another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from shotseg.cli.console import progress
from shotseg.cli.formats import check_format, photos_of
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import UsageError

if TYPE_CHECKING:
    from shotseg.data.annotations import Labelled


@dataclass(frozen=True)
class Convert:
    """Masks and annotations from one format into another, a photo at a time.

    Reads a folder of photos with masks, or a file or folder of a tool that `--from` names (`coco` is Roboflow's too). What
    cannot be used is named on stderr, and the rest is done.

    example: shotseg convert annotations.xml --to coco --out converted
    """

    source: tyro.conf.Positional[Path]
    """Folder, or annotation file."""
    to: str
    """Format to write: mask, coco, coco-polygons, voc, yolo, labelstudio, labelme, cvat, geojson, imagej, or one of another
    package."""
    out: Path
    """Folder to write it into."""
    images: Path | None = None
    """Folder of the photos, where they do not lie beside the annotations."""
    min_object: int = 0
    """Leave out objects of fewer pixels."""
    one_a_class: bool = False
    """One annotation for each class of a photo, in place of one for each object."""
    copy_images: bool = False
    """Copy the photos beside the annotations, in place of links where the format needs them."""
    reading: Reading = AS_SEEN

    def run(self) -> int:
        if self.min_object < 0:
            raise UsageError(f"--min-object {self.min_object}: must be 0 or more")
        if self.images is not None and not self.images.is_dir():
            raise UsageError(f"--images {self.images}: no such folder; give the folder of the photos")
        from shotseg.data.annotations import detect, index, names, write
        from shotseg.data.annotations.labelled import note, some
        from shotseg.data.listing import has_controls
        from shotseg.data.writable import check_out

        check_format(self.to)
        format = detect(self.source) if self.reading.source == "auto" else self.reading.source
        if self.out.resolve() == self.source.resolve():
            raise UsageError(f"--out {self.out}: is the folder that is read; choose another")
        found = index(format, self.source, self.images, self.reading.page)
        names.check(self.to, found.classes, [photo.file for photo in found.photos])
        check_out(self.out, folder=True)
        photos = "copy" if self.copy_images else photos_of(self.to)
        if photos != "none" and (missing := [photo.file for photo in found.photos if photo.photo is None]):
            note(
                f"{len(missing)} photos not found ({some(missing)}), so not put beside their annotations; give --images"
            )
        done = [0]

        def counted(results: Iterator[Labelled]) -> Iterator[Labelled]:
            for result in results:
                yield result
                done[0] += not has_controls(result.file)  # those are left out and named
                advance()

        with progress("converting", len(found.photos)) as advance:
            write(
                self.to,
                self.out,
                counted(found.labelled()),
                found.classes,
                min_object=self.min_object,
                one_a_class=self.one_a_class,
                ids=found.ids,
                photos=photos,
            )
        print(f"{done[0]} of {len(found.photos) + found.left_out} photos converted from {format}: {self.out}")
        print(names.next_step(self.to, self.out))
        return 0 if done[0] == len(found.photos) and not found.left_out else 1
