"""Episodes a second of a training by one process and by several, in turn; each has a device or a core of its own.

    python scripts/benchmark_processes.py --root ../shared/data/pascal_coseg15 --recipe hsnet/tiny --batch 8

The batch is the same: each of P processes takes a P-th of it. The first half of the steps, in which features are made and kept,
is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Options:
    root: Path
    recipe: str = "hsnet/tiny"
    batch: int = 8
    steps: int = 40
    processes: int = 2
    repeats: int = 3
    device: Literal["auto", "cpu"] = "auto"


def per_second(asked: Options, processes: int, out: Path) -> float:
    """The median over the second half of the steps."""
    launched = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "-m",
        "shotseg",
        "train",
    ]
    flags = {"root": asked.root, "out": out, "steps": asked.steps, "batch": asked.batch, "device": asked.device}
    told = [f"--{name}={value}" for name, value in (flags | {"validation.every": 0, "workers": 0}).items()]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launched, asked.recipe, *told], check=True, capture_output=True, env=one_thread)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([row["per_second"] for row in rows if "per_second" in row][asked.steps // 2 :])


def main(asked: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(asked.repeats):
            one, more = (per_second(asked, count, Path(folder, f"{turn}-{count}")) for count in (1, asked.processes))
            print(f"1 process {one:.2f}, {asked.processes} processes {more:.2f} a second: {more / one:.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
