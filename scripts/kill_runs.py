"""A folder run that is killed again and again, and goes on each time, against one that is left alone.

    python scripts/kill_runs.py --photos 5000 --kills 100

Every photo must be there once, and every file must be that of the run that was left alone. The photos are small and the model is
a threshold, so that the time goes into what is tested; reading, journal, masks, report and resuming are as in `shotseg segment`.
"""

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from shotseg import runs
from shotseg.data.samples import Sample
from shotseg.predictor import Predictor
from shotseg.result import Result

CLASSES = ("bright", "green")


class Threshold(Predictor):
    """Finds what is bright in a photo, and of the rest what is green."""

    classes = CLASSES

    def save(self, path):
        raise NotImplementedError

    @classmethod
    def load(cls, path, *, device="auto"):
        return cls(device)

    def predict_batch(self, photos: list[Sample]) -> list[Result]:
        return [self._found(photo.image) for photo in photos]

    def _found(self, image: np.ndarray) -> Result:
        soft = {"bright": image.min(-1) / np.float32(255), "green": image[..., 1] / np.float32(400)}
        labels = np.select([soft["bright"] > 0.5, soft["green"] > 0.4], [1, 2], 0).astype(np.uint8)
        return Result(image, CLASSES, labels, soft)


def main(photos: int = 5000, kills: int = 100, seed: int = 0) -> None:
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        print(check(Path(place), photos, kills, seed), f"in {time.perf_counter() - start:.0f} s", flush=True)


def check(place: Path, photos: int, kills: int, seed: int) -> str:
    """What was compared. Raises AssertionError where a killed run left anything else than a whole one."""
    query, out, whole = place / "photos", place / "killed", place / "whole"
    chance = random.Random(seed)
    make_photos(query, photos, seed)
    segment(query, whole)
    killed = kill(query, out, photos, kills, chance)
    segment(query, out)
    ours, theirs = content(out), content(whole)
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:5]
    differing = [name for name in theirs if ours[name] != theirs[name]]
    assert not differing, differing[:5]
    files = [record["file"] for record in records(out)]
    assert files == sorted(path.relative_to(query).as_posix() for path in query.rglob("*.*"))
    assert not list(out.rglob("*.tmp"))
    return f"{photos} photos, killed {killed} times: every photo once, {len(theirs)} files as of a whole run"


def kill(query: Path, out: Path, photos: int, kills: int, chance: random.Random) -> int:
    """Start the run and kill it, mostly after some photos more, now and then while it starts; how often it was alive then."""
    killed = 0
    for _ in range(kills):
        more = chance.randint(0, max(1, 2 * photos // kills)) if chance.random() < 0.8 else None
        before = done(out)
        process = multiprocessing.get_context("fork").Process(target=segment, args=(query, out))
        process.start()
        time.sleep(chance.uniform(0, 0.3) if more is None else 0)
        while more is not None and process.is_alive() and done(out) < before + more:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.01))  # in the middle of a photo, a line or a file
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    return killed


def segment(query: Path, out: Path) -> None:
    runs.segment_folder(Threshold("cpu"), runs.find_photos(query, out), out, resume=True)


def done(out: Path) -> int:
    """Lines of the journal that tell of photos."""
    journal = out / ".shotseg/journal.jsonl"
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def make_photos(folder: Path, count: int, seed: int) -> None:
    """Small photos in folders of a hundred, of which some differ in their suffix alone, and one in a thousand is broken."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f"{i // 100:03d}" / f"{i // 2 if i % 10 < 2 else i:05d}.{'png' if i % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 1000 == 500 % count:
            path.write_bytes(b"no photo")
        else:
            Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8)).resize((24, 16)).save(path)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def content(out: Path) -> dict:
    """Every file but the journal, without what is a time."""
    found = {}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if name == "results.jsonl":
            found[name] = [record | {"seconds": 0} for record in records(out)]
        elif path.is_file() and name != ".shotseg/journal.jsonl":
            found[name] = path.read_bytes()
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tyro.cli(main)
