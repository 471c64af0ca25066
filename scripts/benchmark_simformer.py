"""How long a training step and inference of SimFormer take beside plain MaskFormer of the same network and photos.

    python scripts/benchmark_simformer.py --encoder timm:resnet50 --size 640 --repeats 5

MaskFormer is given every mask, SimFormer those of eight base classes and two tags a photo. Weights and photos are random: they
do not change the time. Seconds of the processor, the optimiser's step included, the two in turn, the median of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from shotseg import encoders
from shotseg.models.maskformer import MaskFormer
from shotseg.models.simformer import SimFormer

BASE, NOVEL = 8, (8, 9)


@dataclass
class Options:
    encoder: str = "timm:resnet50"
    size: int = 640
    batch: int = 2
    classes: int = 171
    queries: int = 100
    repeats: int = 5
    threads: int = 1


def seconds(work: Callable[[str], object], name: str) -> float:
    start = time.process_time()
    work(name)
    return time.process_time() - start


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.rand(options.batch, 3, options.size, options.size)
    every = torch.arange(BASE + 2)[None, :, None].expand(options.batch, -1, options.size)  # stripes, one a class
    every = every.repeat_interleave(-(-options.size // (BASE + 2)), 1)[:, : options.size].contiguous()
    weak = every.masked_fill(every >= BASE, 255)
    tags = [list(NOVEL)] * options.batch

    def network(kind: Any, *novel: tuple[int, ...]) -> MaskFormer:
        encoder = encoders.load(options.encoder, weights="random")
        return kind(encoder, options.classes, *novel, queries=options.queries)

    models: dict[str, tuple[MaskFormer, tuple[Any, ...]]] = {
        "MaskFormer": (network(MaskFormer), (every,)),
        "SimFormer": (network(SimFormer, NOVEL), (weak, tags)),
    }
    optimisers = {name: torch.optim.AdamW(model.parameters(), 1e-5) for name, (model, _) in models.items()}

    def step(name: str) -> None:
        model, given = models[name]
        sum(model.train().loss(images, *given).values()).backward()  # type: ignore[union-attr]
        optimisers[name].step()
        optimisers[name].zero_grad()

    def answer(name: str) -> None:
        model = models[name][0].eval()
        with torch.no_grad():
            model(images)

    for what, work in (("training step", step), ("inference", answer)):
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(options.repeats + 1):
            for name, times in taken.items():
                times.append(seconds(work, name))
        plain, ours = (statistics.median(times[1:]) for times in taken.values())
        print(f"{what:14} MaskFormer {plain:7.3f} s   SimFormer {ours:7.3f} s   ratio {ours / plain:.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
