"""``shotseg demo``: the main job on the photos that come with the package."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from shotseg.cli.console import progress, table

if TYPE_CHECKING:
    from shotseg.data.folder import Item

DATA = Path(str(files("shotseg").joinpath("demo_data")))
# A cat and a cup of coffee, photos in the public domain that scikit-image brings along.
OTHERS = [Path(str(files("skimage").joinpath("data", name))) for name in ("chelsea.png", "coffee.png")]


@dataclass(frozen=True)
class Demo:
    """Show one photo of each class, find the classes in photos never seen, and compare with masks drawn by people. Two photos
    show something else: that none of the classes is there is an answer too.

    Nothing is downloaded; it takes about a minute on two cores.

    example: shotseg demo --out demo-out
    """

    out: Path = Path("demo-out")
    """Folder of the results."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" needs no download."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""

    def run(self) -> int:
        start = time.perf_counter()
        from shotseg.runs import PhotoFile, check_output, segment_folder
        from shotseg.segmenter import Segmenter

        check_output(self.out)
        examples, queries = demo_items()
        segmenter = Segmenter(self.method, self.encoder, self.device)
        for item in examples:
            segmenter.add(item.class_name, [item.image_path], [item.mask_path])
        photos = [PhotoFile(str(item.image_path), item.id + item.image_path.suffix, item.id) for item in queries]
        photos += [PhotoFile(str(path), f"others/{path.name}", f"others/{path.stem}") for path in OTHERS]
        settings = {"method": self.method, "encoder": segmenter.encoder}
        with progress("segmenting", len(photos)) as advance:
            records = {}

            def on_record(record: dict) -> None:
                records[record["name"]] = record
                advance()

            summary = segment_folder(segmenter, photos, self.out, settings=settings, on_record=on_record)

        scores = [_iou(self.out / "masks" / item.class_name / f"{item.id}.png", item) for item in queries]
        rows = [
            (item.id, item.class_name, *(f"{100 * score:.0f}" for score in row)) for item, row in zip(queries, scores)
        ]
        means = [sum(column) / len(column) for column in zip(*scores)]
        rows.append(("mean", "", *(f"{100 * mean:.0f}" for mean in means)))
        columns = ("IoU %", "whole photo", "centre disc")
        table("found after one example of each class", ("photo", "class", *columns), rows, numbers=columns)
        for path in OTHERS:
            found = records[f"others/{path.stem}"]["classes"]
            areas = ", ".join(f"{name} on {found[name]['area']:.0%}" for name in found)
            print(f"{path.name}, which shows none of the classes: {areas or 'none found'}")
        print(f"{len(photos)} photos in {time.perf_counter() - start:.0f} s; open {Path(summary.report).resolve()}")
        return 1 if summary.failed else 0


def demo_items() -> tuple[list[Item], list[Item]]:
    """The example of each class, and the other photos."""
    from shotseg.data.folder import FolderDataset

    items = FolderDataset(DATA).items
    examples = [item for item in items if item.image_path.stem == "example"]
    return examples, [item for item in items if item not in examples]


def _iou(found: Path, item: Item) -> tuple[float, float, float]:
    """IoU with the drawn mask: of what was found, of the whole photo, and of a disc in its centre."""
    from shotseg.data.images import read_mask
    from shotseg.evaluation.controls import centre_disc

    assert item.mask_path is not None
    truth = read_mask(item.mask_path) == 1
    guesses = read_mask(found) == 1, truth | True, centre_disc(truth.shape).numpy().astype(bool)
    ours, whole, disc = (float((guess & truth).sum() / (guess | truth).sum()) for guess in guesses)
    return ours, whole, disc
