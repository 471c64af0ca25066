"""A folder of photos of 12 megapixels through two checkouts, side by side: photos a second and peak memory.

    python scripts/compare_folders.py --old ../before --new . --photos 40

Each run is a process of its own; the checkouts take turns. Starting up does not count, nor learning the classes. The new checkout
gets ``--flags`` beside (default: the setting that commit be00727 had, every class known to be there).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import tyro

from shotseg.cli.benchmark_big import write_photo
from shotseg.cli.demo import demo_items

CHILD = """
import resource, sys, time
from importlib.util import find_spec
import shotseg.cli
from importlib import import_module
jobs = import_module("shotseg.runs" if find_spec("shotseg.runs") else "shotseg.folder")  # folder: until commit be00727
work = jobs.segment_folder
def timed(*words, **more):
    start = time.perf_counter()
    done = work(*words, **more)
    print("seconds", time.perf_counter() - start)
    return done
jobs.segment_folder = timed
code = shotseg.cli.main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def main(old: Path, new: Path, photos: int = 40, rounds: int = 3, flags: str = "--fast --known") -> None:
    """old, new: checkouts.   photos: in the folder.   rounds: runs of each; medians are shown.   flags: for the new one."""
    examples, queries = demo_items()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for i in range(photos):
            write_photo(queries[i % len(queries)].image_path, folder / f"{i:04d}.jpg", seed=i)
        for classes in (1, 8):
            support = Path(place, f"support{classes}")
            for i in range(classes):
                item = examples[i % len(examples)]
                for kind, path in (("images", item.image_path), ("masks", item.mask_path)):
                    target = support / kind / f"class{i}" / f"example{path.suffix}"
                    target.parent.mkdir(parents=True)
                    shutil.copy(path, target)
            found: dict[str, list[tuple[float, float]]] = {"old": [], "new": []}
            for _ in range(rounds):
                for name, tree, more in (("old", old, []), ("new", new, flags.split())):
                    seconds, peak = run(tree, support, folder, more)
                    found[name].append((photos / seconds, peak))
            speed = {name: median(each[0] for each in runs) for name, runs in found.items()}
            peaks = {name: max(each[1] for each in runs) for name, runs in found.items()}
            print(f"{classes} class(es): old {speed['old']:.2f} photos/s, {peaks['old']} MiB; ", end="")
            print(f"new {speed['new']:.2f}, {peaks['new']} MiB; {speed['new'] / speed['old']:.1f} times", flush=True)


def run(tree: Path, support: Path, photos: Path, more: list[str]) -> tuple[float, int]:
    """Seconds and peak memory in MiB of one run."""
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve() / "src")}
    with tempfile.TemporaryDirectory() as out:
        words = ["segment", "--support", str(support), "--query", str(photos), "--out", out, *more]
        command = [sys.executable, "-c", CHILD, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("seconds ", "peak ")))
    return float(said["seconds"]), int(said["peak"])


if __name__ == "__main__":
    tyro.cli(main)
