"""What earlier frames give: the same made sequences with `track` and frame by frame.

Each sequence is made of photos with masks: a camera that pans and zooms under changing light; the same behind a passing
picture; an object that leaves the view and comes back; cuts to a photo without the class and to another one with it.

    python scripts/measure_tracking.py --roots pascal_coseg15 coco_panoptic100 --seeds 100 120
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from shotseg import Segmenter
from shotseg.data.folder import FolderDataset, Item
from shotseg.models.memory import Memory

FRAMES, LEAST = 12, 0.02  # frames of a sequence; least part of a photo that the object covers
Frame = tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8, (H, W) bool


def view(photo: Frame, centre: tuple[float, float], part: float, size: tuple[int, int], gain: float, rng) -> Frame:
    """A window of a photo around a point (x, y), ``part`` of its sides, at (width, height), brighter by ``gain``."""
    height, width = photo[1].shape
    half = width * part / 2, height * part / 2
    x, y = (min(max(c, h), side - h) for c, h, side in zip(centre, half, (width, height)))
    box = (x - half[0], y - half[1], x + half[0], y + half[1])
    image = Image.fromarray(photo[0]).transform(size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    mask = Image.fromarray(photo[1]).transform(size, Image.Transform.EXTENT, box, Image.Resampling.NEAREST)
    noisy = np.asarray(image, np.float32) * gain + rng.normal(0, 3, (size[1], size[0], 3))
    return noisy.clip(0, 255).astype(np.uint8), np.asarray(mask)


def camera(photo: Frame, rng, count: int = FRAMES) -> Iterator[Frame]:
    height, width = photo[1].shape
    rows, columns = np.nonzero(photo[1]) if photo[1].any() else ([height / 2], [width / 2])
    start, size = rng.uniform(0, 2 * np.pi, 4), tuple(int(side * 512 / max(width, height)) for side in (width, height))
    for t in np.linspace(0, 2 * np.pi, count, endpoint=False):
        zoom, across, down, light = np.sin(t * np.array([1, 1.3, 1, 0.7]) + start)
        centre = np.mean(columns) + 0.25 * width * across, np.mean(rows) + 0.2 * height * down
        yield view(photo, centre, 0.72 + 0.24 * zoom, size, 1 + 0.35 * light, rng)


def occluded(photo: Frame, other: Frame, rng) -> Iterator[Frame]:
    for number, (image, mask) in enumerate(camera(photo, rng)):
        height, width = mask.shape
        wide = int(0.35 * width)
        left = int(-wide + (width + wide) * number / (FRAMES - 1))
        picture = np.asarray(Image.fromarray(other[0]).resize((wide, height)))
        hidden = slice(max(left, 0), max(0, min(left + wide, width)))
        image, mask = image.copy(), mask.copy()
        image[:, hidden] = picture[:, hidden.start - left : hidden.stop - left]
        mask[:, hidden] = False
        yield image, mask


def leaves(photo: Frame, other: Frame, rng) -> Iterator[Frame]:
    height, width = photo[1].shape
    beside = np.asarray(Image.fromarray(other[0]).resize((width, height)))
    wide = np.concatenate([photo[0], beside], 1), np.pad(photo[1], ((0, 0), (0, width)))
    size = tuple(int(side * 512 / max(width, height)) for side in (width, height))
    for t in np.linspace(0, np.pi, FRAMES):
        x = int(width * np.sin(t) ** 2)
        part = tuple(layer[:, x : x + width] for layer in wide)
        yield view(part, (width / 2, height / 2), 1, size, 1, rng)


def cuts(photo: Frame, other: Frame, second: Frame, rng) -> Iterator[Frame]:
    for shown in (photo, other, second):
        yield from camera(shown, rng, FRAMES // 3)


def episode(data: FolderDataset, seed: int) -> tuple[str, Frame, dict[str, list[Frame]]]:
    """The class, its example, and a sequence of each kind."""
    draw, rng = random.Random(f"{data.root.name} {seed}"), np.random.default_rng(seed)

    def frame(item: Item) -> Frame:
        sample = data.sample(data.items.index(item))
        return sample.image, sample.mask == 1

    names = list(data.classes)
    while True:
        name = draw.choice(names)
        mine = [item for item in data.items if item.class_name == name]
        photos = {item.image_path for item in mine}
        chosen = draw.sample(mine, min(3, len(mine)))
        other = draw.choice([item for item in data.items if item.image_path not in photos])
        if len(chosen) == 3 and all(frame(item)[1].mean() >= LEAST for item in chosen):
            break
    example, photo, second = map(frame, chosen)
    without = frame(other)[0], np.zeros(frame(other)[1].shape, bool)
    made = {
        "camera": camera(photo, rng),
        "occluded": occluded(photo, without, rng),
        "leaves": leaves(photo, without, rng),
        "cuts": cuts(photo, without, second, rng),
    }
    return name, example, {kind: list(frames) for kind, frames in made.items()}


def scores(found: list[np.ndarray], truth: list[np.ndarray]) -> list[float]:
    """Mean IoU where the object is seen, part of the picture marked where it is not, part of the frames in which it is missed."""
    seen = [(mask, known) for mask, known in zip(found, truth) if known.mean() > 0.002]
    ious = [(mask & known).sum() / (mask | known).sum() for mask, known in seen]
    false = [mask.mean() for mask, known in zip(found, truth) if not known.any()]
    return [float(np.mean(x)) if x else np.nan for x in (ious, false, [not mask.any() for mask, _ in seen])]


@dataclass(frozen=True)
class Measure:
    """Folders in our convention, and the seeds of the sequences: from, to."""

    roots: tuple[Path, ...]
    seeds: tuple[int, int] = (0, 20)
    out: Path | None = None
    """Also every sequence, as JSON lines."""
    device: str = "auto"


def main(args: Measure) -> None:
    torch.set_num_threads(1)
    segmenter = Segmenter(device=args.device)
    for root in args.roots:
        data, rows = FolderDataset(root), []
        for seed in range(*args.seeds):
            called, example, sequences = episode(data, seed)
            segmenter.add(called, [example[0]], [example[1]])
            for kind, frames in sequences.items():
                encoded, memory = [segmenter.encode(image) for image, _ in frames], Memory()
                apart = [segmenter.decide(frame).masks[called] for frame in encoded]
                tracked = [segmenter.follow(frame, memory).masks[called] for frame in encoded]
                truth = [mask for _, mask in frames]
                rows.append((kind, scores(apart, truth), scores(tracked, truth)))
                if args.out:
                    row = {"set": root.name, "seed": seed, "class": called, "kind": kind}
                    with args.out.open("a") as lines:
                        lines.write(json.dumps({**row, "apart": rows[-1][1], "tracked": rows[-1][2]}) + "\n")
            segmenter.remove(called)
        report(root.name, rows)


def report(name: str, rows: list) -> None:
    """mIoU frame by frame, tracked, the paired gain with its 95 % interval, and the other two scores of both; in percent."""
    for kind in (*dict.fromkeys(kind for kind, _, _ in rows), "all"):
        apart, tracked = (np.array([row[i] for row in rows if kind in (row[0], "all")]) for i in (1, 2))
        gain = 100 * (tracked - apart)[:, 0]
        draws = np.random.default_rng(0).choice(gain, (2000, len(gain))).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        with np.errstate(invalid="ignore"):
            means = [
                f"{100 * np.nanmean(x[:, i]):.2f}" if not np.isnan(x[:, i]).all() else "-"
                for i in (1, 2)
                for x in (apart, tracked)
            ]
        print(
            f"| {name} | {kind} | {len(gain)} | {100 * apart[:, 0].mean():.1f} | {100 * tracked[:, 0].mean():.1f} "
            f"| {gain.mean():+.1f} [{low:+.1f}, {high:+.1f}] | {means[0]} -> {means[1]} | {means[2]} -> {means[3]} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Measure))
