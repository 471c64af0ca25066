"""What a run costs a photo beside reading, model and writing: made-up records through the bookkeeping of `shotseg segment`.

    python scripts/simulate_records.py --photos 100000
    python scripts/simulate_records.py --photos 1000000

No photo is read and no mask written. Every photo is listed, named, journaled, resumed, put into the results and the report.
"""

import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import tyro

from shotseg import runs
from shotseg.cli.benchmark import peak_memory
from shotseg.predictor import Predictor
from shotseg.runs import engines, journal, named


class Nothing(Predictor):
    """A worker that is never asked."""

    classes = ("bracket",)

    def save(self, path):
        raise NotImplementedError

    @classmethod
    def load(cls, path, *, device="auto"):
        raise NotImplementedError

    def predict_batch(self, photos):
        raise NotImplementedError


def main(photos: int = 100_000) -> None:
    engines.ENGINES["local"] = made_up
    with tempfile.TemporaryDirectory() as place:
        out, began = Path(place), peak_memory()
        for label in ("segment", "resume half", "resume whole"):
            wall, work = time.perf_counter(), time.process_time()
            found = named(
                (f"{i // 1000:05d}/IMG_{i:08d}.jpg", f"/photos/{i // 1000:05d}/IMG_{i:08d}.jpg") for i in range(photos)
            )
            runs.segment_folder(Nothing("cpu"), found, out, resume=label != "segment")
            work, wall = time.process_time() - work, time.perf_counter() - wall
            print(
                f"{label}: {1e6 * work / photos:.0f} us of the processor a photo, {1e6 * wall / photos:.0f} us in all; ",
                end="",
            )
            print(f"memory {began:.0f} MiB at the start, at most {peak_memory():.0f}", flush=True)
            if label == "segment":
                show_sizes(out, photos)
                halve(out / ".shotseg/journal.jsonl", photos)


def made_up(segmenter: Predictor, photos: Iterable[runs.PhotoFile], out: Path, batch: int) -> Iterator[journal.Entry]:
    chance = random.Random(0)
    for photo in photos:
        area, sure = round(chance.random(), 6), round(chance.random(), 6)
        found = {"class": "bracket", "area": area, "confidence": sure}
        found |= {"classes": {"bracket": {"area": area, "confidence": sure}}, "present": {"bracket": 0.9123}}
        record = {"file": photo.file, "name": photo.name, **found, "seconds": 0.123, "error": None}
        seen = {"path": photo.absolute, "stat": [123456, 1700000000000000000, 1700000000000000000]}
        yield {"photo": {**seen, "sha256": f"{chance.getrandbits(256):064x}", "tags": []}, "record": record}


def show_sizes(out: Path, photos: int) -> None:
    pages = list((out / ".shotseg/pages").glob("*.html"))
    tables = [out / "results.jsonl", out / ".shotseg/journal.jsonl", out / ".shotseg/names.jsonl", out / "report.html"]
    for path in tables:
        print(f"  {path.name}: {path.stat().st_size / photos:.0f} bytes a photo")
    print(f"  {len(pages)} further pages: {sum(page.stat().st_size for page in pages) / photos:.0f} bytes a photo")


def halve(path: Path, photos: int) -> None:
    """Keep what a run that was killed in its middle has in its journal."""
    with path.open("rb") as whole, path.with_suffix(".half").open("wb") as half:
        half.writelines(line for line, _ in zip(whole, range(1 + photos // 2)))
    path.with_suffix(".half").replace(path)


if __name__ == "__main__":
    journal._is_done = lambda *asked: True  # there are no photos to look at
    tyro.cli(main)
