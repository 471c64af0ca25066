"""Two checkouts side by side: is the new one slower than the old one?

    python scripts/compare_builds.py --old ../before --new . --rounds 7

Each checkout runs in a process of its own; they take turns, and who is first changes with every round. Processor time is
measured, so other work on the machine matters little. A ratio is the median over the rounds.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import tyro

CHILD = """
import contextlib, io, sys, tempfile, time
from pathlib import Path
import shotseg
from shotseg import cli
EPISODES, SHOTS = int(sys.argv[1]), int(sys.argv[2])
DATA = Path(shotseg.__file__).parent / "demo_data"
PHOTOS = sorted(DATA.glob("images/*/*.jpg"))
PAIRS = [(photo, DATA / "masks" / photo.parent.name / f"{photo.stem}.png") for photo in PHOTOS]
MANY = (PAIRS * SHOTS)[:SHOTS]
def predict(seg):
    for photo, mask in PAIRS:
        if photo.stem == "example":
            seg.add(photo.parent.name, [photo], [mask])
    for photo in PHOTOS:
        seg.predict(photo)
def evaluate(seg):
    with tempfile.TemporaryDirectory() as out:
        flags = ["--episodes", str(EPISODES), "--seeds", "0", "--device", "cpu", "--out", f"{out}/result.json"]
        assert cli.main(["evaluate", "folder", "--root", str(DATA), *flags]) == 0
def one_by_one(seg):
    for photo, mask in MANY:
        seg.add("thing", [photo], [mask])
    seg.predict(PHOTOS[0])
def one_call(seg):
    seg.add("thing", *map(list, zip(*MANY)))
    seg.predict(PHOTOS[0])
for line in sys.stdin:
    seg, start = shotseg.Segmenter(device="cpu"), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        globals()[line.strip()](seg)
    print(time.process_time() - start, flush=True)
"""
JOBS = ("predict", "evaluate", "one_by_one", "one_call")


def main(old: Path, new: Path = Path(), rounds: int = 7, episodes: int = 100, shots: int = 40) -> None:
    """Print the seconds of each job with both builds, and the ratio new / old."""
    builds = {"old": started(old, episodes, shots), "new": started(new, episodes, shots)}
    took: dict[tuple[str, str], list[float]] = {(job, build): [] for job in JOBS for build in builds}
    for turn in range(rounds + 1):
        for job in JOBS:
            for build in ("old", "new") if turn % 2 else ("new", "old"):
                seconds = seconds_of(job, builds[build])
                took[job, build] += [seconds] if turn else []  # the first round warms up
    for child in builds.values():
        child.communicate()
    for job in JOBS:
        a, b = took[job, "old"], took[job, "new"]
        print(f"{job:<11} old {median(a):7.2f} s   new {median(b):7.2f} s   new / old {ratio(b, a):.3f}")
    for build in builds:
        print(f"{build}: one by one / in one call {ratio(took['one_by_one', build], took['one_call', build]):.3f}")


def started(checkout: Path, episodes: int, shots: int) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHILD, str(episodes), str(shots)]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def seconds_of(job: str, child: subprocess.Popen) -> float:
    assert child.stdin is not None and child.stdout is not None
    print(job, file=child.stdin, flush=True)
    return float(child.stdout.readline())


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
