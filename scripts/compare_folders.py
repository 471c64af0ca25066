"""A folder of photos of 12 megapixels through two checkouts, side by side: photos a second, CPU time and peak memory.

    python scripts/compare_folders.py --old ../before --new . --photos 40

Each run is a process of its own; the checkouts take turns. Starting up does not count, nor learning the classes. The new
checkout gets ``--flags`` beside (default: the setting that commit be00727 had, every class known to be there), the old one
``--old-flags``. On a busy machine CPU time alone says something; with ``taskset -c 0`` it is that of one thread.
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
    start, busy = time.perf_counter(), time.process_time()
    done = work(*words, **more)
    print("seconds", time.perf_counter() - start)
    print("cpu", time.process_time() - busy)
    return done
jobs.segment_folder = timed
code = shotseg.cli.main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def main(
    old: Path, new: Path, photos: int = 40, rounds: int = 3, flags: str = "--fast --known", old_flags: str = ""
) -> None:
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
            found: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
            for _ in range(rounds):
                for name, tree, more in (("old", old, old_flags.split()), ("new", new, flags.split())):
                    found[name].append(run(tree, support, folder, more))
            speed = {name: photos / median(each["seconds"] for each in runs) for name, runs in found.items()}
            for name, runs in found.items():
                cpu = 1000 * median(each["cpu"] for each in runs) / photos
                peak = max(each["peak"] for each in runs)
                print(
                    f"{classes} class(es), {name}: {speed[name]:.2f} photos/s, {cpu:.0f} ms of CPU each, {peak:.0f} MiB"
                )
            print(f"{classes} class(es): {speed['new'] / speed['old']:.2f} times as fast", flush=True)


def run(tree: Path, support: Path, photos: Path, more: list[str]) -> dict[str, float]:
    """Of one run "seconds", "cpu" (seconds) and "peak" (MiB)."""
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve() / "src")}
    with tempfile.TemporaryDirectory() as out:
        words = ["segment", "--support", str(support), "--query", str(photos), "--out", out, *more]
        command = [sys.executable, "-c", CHILD, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = (line.split() for line in done.stdout.splitlines() if line.startswith(("seconds ", "cpu ", "peak ")))
    return {name: float(value) for name, value in said}


if __name__ == "__main__":
    tyro.cli(main)
