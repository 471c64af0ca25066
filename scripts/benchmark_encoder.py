"""What a forward pass of an encoder costs on a CPU in each of its forms, taking turns: medians, and images a second.

python scripts/benchmark_encoder.py --encoder efficientnet-lite0 --size 384 --before OTHER_CHECKOUT/src
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro


@dataclass(frozen=True)
class Benchmark:
    """One photo of noise of ``size`` by three quarters of it, one thread and two."""

    encoder: str = "efficientnet-lite2"
    size: int = 512
    repeats: int = 25
    before: Path | None = None
    """The src folder of another checkout, timed beside as "before"."""


def forms(asked: Benchmark) -> dict[str, Callable[[Any], object]]:
    found: dict[str, Callable[[Any], object]] = {}
    if asked.before is not None:
        sys.path.insert(0, str(asked.before))
        found["before"] = _load(asked.encoder)
        sys.path.remove(str(asked.before))
        for name in [name for name in sys.modules if name.partition(".")[0] == "shotseg"]:
            del sys.modules[name]
    found["torch as it is"] = _load(asked.encoder)
    from shotseg.encoders import runtime

    for name in ("torch", "onnxruntime", "onnxruntime-int8"):
        found[name] = _load(asked.encoder)
        runtime.use(found[name], name)  # type: ignore[arg-type]
        assert found[name].runtime == name  # type: ignore[attr-defined]
    return found


def _load(name: str) -> Any:
    from shotseg import encoders

    return encoders.load(name)


def main() -> None:
    asked = tyro.cli(Benchmark)
    ways = forms(asked)
    photo = torch.rand(1, 3, asked.size, asked.size * 3 // 4 // 32 * 32)
    print(f"{asked.encoder}, {photo.shape[3]} x {photo.shape[2]}, torch {torch.__version__}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(asked.repeats + 3):
            for name, encode in ways.items():
                start = (time.process_time(), time.perf_counter())
                encode(photo)
                passed = (time.process_time() - start[0], time.perf_counter() - start[1])
                spent[name] += [passed] if turn >= 3 else []  # the first ones warm up
        first = [median(column) for column in zip(*next(iter(spent.values())))]
        for name, times in spent.items():
            cpu, wall = (median(column) for column in zip(*times))
            print(
                f"{threads} thread{'s' * (threads > 1)}  {name:15} cpu {1000 * cpu:6.1f} ms ({first[0] / cpu:4.2f} x)   "
                f"wall {1000 * wall:6.1f} ms ({first[1] / wall:4.2f} x, {1 / wall:5.1f} images/s)"
            )


if __name__ == "__main__":
    main()
