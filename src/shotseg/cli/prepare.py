"""``shotseg prepare``: official archives to a checked manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shotseg.data.reading import check_source
from shotseg.errors import UsageError

SHOWN = 20  # of what is left out; the manifest names all


@dataclass(frozen=True)
class Prepare:
    """Check and convert a benchmark data set, once; evaluate and train then read what this writes.

    Put the official archives (or their unpacked folders) into one folder and name it:

        shotseg prepare pascal5i --root data/pascal
        shotseg prepare coco20i --root data/coco --download

    A missing archive is named with its address. Photos and masks that cannot be used are left out and named.
    Run it again after an interruption: it goes on where it stopped.
    `shotseg list datasets` names the data sets.
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """pascal5i, coco20i, fss1000, lvis92i, coco_stuff10k, ade20k150, isic, chest_xray, deepglobe, suim or folder."""
    root: Path
    """The folder with the archives; of folder your own: class folders, or a folder or file of annotations with their photos."""
    out: Path | None = None
    """Where the manifest and masks go (default: ROOT/shotseg/DATASET)."""
    download: bool = False
    """Fetch missing archives from hosts that allow it."""
    workers: int = 2
    """Threads that convert masks."""

    source: Annotated[str, tyro.conf.arg(name="from")] = "auto"
    """Of folder: how its masks are stored, where two formats fit; "auto" looks."""

    def run(self) -> int:
        """Prepare and print what was found; the exit code is 0."""
        from rich.console import Console

        from shotseg.data.preparation import place_of, prepare
        from shotseg.data.writable import check_out

        check_source(self.source)
        if self.source != "auto" and self.dataset != "folder":
            raise UsageError("--from changes nothing with an official data set; leave it out")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: give at least 1")
        if self.out is not None:
            check_out(self.out, folder=True)
        elif self.download or self.root.exists():
            check_out(place_of(self.root), folder=True, flag="--root")
        manifest = prepare(self.dataset, self.root, self.out, self.download, self.workers, format=self.source)
        console = Console(soft_wrap=True, highlight=False)
        lists = ", ".join(f"{name} {count}" for name, count in manifest.facts["photos_by_list"].items())
        console.print(
            f"{manifest.facts['title']}: {len(manifest.classes)} classes; photos by list: {lists}", markup=False
        )
        for warning in manifest.facts["warnings"]:
            console.print(f"warning: {warning}", markup=False)
        left_out = manifest.facts["left_out"]
        for each in left_out[:SHOWN]:
            console.print(f"left out: {each['id']}: {each['reason']}", markup=False)
        if len(left_out) > SHOWN:
            console.print(f"left out: {len(left_out) - SHOWN} more", markup=False)
        console.print(f"{manifest.folder / 'manifest.json'}", markup=False)
        return 0
