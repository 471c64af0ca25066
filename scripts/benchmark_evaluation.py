"""What `shotseg.evaluate` takes beside encoding and head, for every few-shot method.

    python scripts/benchmark_evaluation.py --root ../shared/data/pascal_coseg15 --episodes 60 --size 256

Each photo is encoded once, so few episodes cost more a piece than many; the ratio is of the same run. Weights of what must be
trained are random: they do not change the time. Seconds of the processor, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import shotseg
from shotseg import encoders, models
from shotseg.device import one_thread_each
from shotseg.errors import ShotsegError

PARTS = {"encoding": ("encode", "encode_masked"), "head": ("encode_support", "merge", "forward")}


@dataclass
class Options:
    root: Path
    episodes: int = 60
    size: int = 256
    methods: tuple[str, ...] = tuple(name for name in models.list_models() if name not in models.SEMANTIC)


class Clock:
    """Seconds of each part; those of a part that another calls are its own."""

    def __init__(self) -> None:
        self.taken = dict.fromkeys(PARTS, 0.0)
        self.inner = [0.0]

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self.inner.append(0.0)
            start = time.thread_time()
            try:
                return work(*args, **options)
            finally:
                took = time.thread_time() - start
                self.taken[part] += took - self.inner.pop()
                self.inner[-1] += took

        return run


def network(name: str) -> Any:
    """The method on its own encoder; CLIP's weights are random, as they would have to be downloaded."""
    kind = models.encoder_for(name)
    encoder = encoders.load(kind, "random" if kind.startswith("clip") else "default")
    options = {"clip": encoders.load("clip-vit-b16", "random")} if name == "pi-clip" else {}
    return models.load(name, encoder, **options)


def main(options: Options) -> None:
    print(f"{'method':18} encoding   head   rest  whole / (encoding + head)")
    for name in options.methods:
        clock = Clock()
        try:
            model = network(name).eval()
            for part, calls in PARTS.items():
                for call in calls:
                    if hasattr(model, call):
                        setattr(model, call, clock.timed(part, getattr(model, call)))
            start = time.process_time()
            with one_thread_each():
                shotseg.evaluate(
                    options.root,
                    model,
                    episodes=options.episodes,
                    seeds=(0,),
                    size=options.size,
                    workers=1,
                    device="cpu",
                )
        except ShotsegError as error:
            print(f"{name:18} {error}", flush=True)
            continue
        whole = time.process_time() - start
        own = sum(clock.taken.values())
        each = "".join(f"{seconds:8.1f}" for seconds in (*clock.taken.values(), whole - own))
        print(f"{name:18}{each}  {whole / own:.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
