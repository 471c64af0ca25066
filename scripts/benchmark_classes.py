"""What each class costs after the encoder: CPU milliseconds of one thread for one photo of the demo, medians.

python scripts/benchmark_classes.py --encoder efficientnet-lite2 --size 512
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import tyro

from shotseg import encoders, models
from shotseg.cli.demo import demo_items
from shotseg.data import transforms
from shotseg.data.images import read_pair
from shotseg.models import presence


@dataclass(frozen=True)
class Benchmark:
    """``matching`` on one photo and one example, which stands for as many classes as are asked for."""

    encoder: str = "efficientnet-lite2"
    size: int = 512
    classes: tuple[int, ...] = (1, 2, 5, 20, 50)
    repeats: int = 9


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return median(times)


@torch.no_grad()
def main(args: Benchmark) -> None:
    torch.set_num_threads(1)
    model = models.load("matching", encoders.load(args.encoder), size=args.size).eval()
    item = demo_items()[0][0]
    assert item.mask_path is not None
    pixels, drawn = read_pair(item.image_path, item.mask_path)
    image, mask = transforms.fit(pixels, args.size, model.encoder.patch, drawn)
    assert mask is not None
    photo, features = image[None], model.encode(image[None])
    support = presence.encode_shot(model, photo, mask[None], features, (item.class_name,))
    passes = milliseconds(lambda: model.encode(photo), args.repeats)
    print(f"encoder {passes:.1f} ms; one class known to be there", end=" ")
    print(f"{milliseconds(lambda: model(features, support, photo), args.repeats) / passes:.3f} of it")
    alone = None
    for count in args.classes:
        rest = milliseconds(lambda n=count: presence.decide(model, features, [support] * n, photo), args.repeats)
        alone = alone or passes + rest
        print(f"{count} classes: {rest / passes:.3f} of the encoder, {(passes + rest) / alone:.2f} of the first row")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
