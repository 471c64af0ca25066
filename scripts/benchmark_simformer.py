"""How long a training step and inference of SimFormer take beside plain MaskFormer of the same network and photos.

    python scripts/benchmark_simformer.py --encoder timm:resnet50 --size 640 --repeats 5
    python scripts/benchmark_simformer.py --recipe simformer/tiny --repeats 40

MaskFormer is given every mask, SimFormer those of the base classes and two tags a photo: stripes of eight base classes, with
``--recipe`` of one. A recipe says encoder, network, size and batch; features are then kept where it keeps them. Weights and
photos are random: they do not change the time. Seconds of the processor, the optimiser's step included, the two in turn, the
median of each and the ratio of the fastest.
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
from shotseg.training import recipe as recipes

ONLY_SIMFORMER = ("complement", "similarity", "distil", "simnet_width", "points")


@dataclass
class Options:
    encoder: str = "timm:resnet50"
    size: int = 640
    batch: int = 2
    classes: int = 171
    queries: int = 100
    repeats: int = 5
    threads: int = 1
    recipe: str | None = None
    """Of SimFormer; in place of encoder, size, batch and queries."""


def seconds(work: Callable[[str], object], name: str) -> float:
    start = time.process_time()
    work(name)
    return time.process_time() - start


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder, size, batch, base, keep = options.encoder, options.size, options.batch, 8, False
    network: dict[str, Any] = {"queries": options.queries}
    if options.recipe is not None:
        asked = recipes.load(options.recipe)
        encoder, size, batch, keep = asked.model.encoder, asked.model.size, asked.batch, asked.cache_features
        network, base = dict(asked.model.options), 1
    novel, own = (base, base + 1), {name: network.pop(name) for name in ONLY_SIMFORMER if name in network}
    images = torch.rand(batch, 3, size, size)
    every = (torch.arange(size) * (base + 2) // size)[None, :, None].expand(batch, -1, size)  # stripes, one a class
    weak = every.masked_fill(every >= base, 255)
    models: dict[str, tuple[MaskFormer, tuple[Any, ...]]] = {
        "MaskFormer": (MaskFormer(encoders.load(encoder, "random"), options.classes, **network), (every,)),
        "SimFormer": (
            SimFormer(encoders.load(encoder, "random"), options.classes, novel, **own, **network),
            (weak, [list(novel)] * batch),
        ),
    }
    kept = {name: model.encode(images) if keep else None for name, (model, _) in models.items()}
    optimisers = {
        name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5)
        for name, (model, _) in models.items()
    }

    def step(name: str) -> None:
        model, given = models[name]
        sum(model.train().loss(images, *given, features=kept[name]).values()).backward()  # type: ignore[union-attr]
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
        fastest = min(taken["SimFormer"][1:]) / min(taken["MaskFormer"][1:])
        print(
            f"{what:14} MaskFormer {plain:7.3f} s   SimFormer {ours:7.3f} s   ratio {ours / plain:.2f}"
            f"   of the fastest {fastest:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
