"""What each ingredient of the offline pseudo masks (``imagenet-text``) gains, beside the controls, as a Markdown table.

python scripts/ablate_pseudo_masks.py --root photos [--every 4] [--only naive control]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from shotseg.data.folder import FolderDataset
from shotseg.encoders.imagenet_text import ImageNetText
from shotseg.evaluation.controls import all_foreground, centre_disc
from shotseg.evaluation.pseudo_quality import judge, quality
from shotseg.priors.generators import Generator, ImageNetMaps, Objectness

Maker = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class Ablate:
    """Folder in our convention, with masks."""

    root: Path
    every: int = 1
    """Only every n-th photo."""
    kind: str | None = None
    """Of a folder with label maps: only classes of this kind, as "thing"."""
    min_area: float = 0.0
    """Of a folder with label maps: leave out what covers less of its photo."""
    only: tuple[str, ...] = ()
    """Only the rows whose title has one of these in it; default all."""


def by(generator: Generator) -> Maker:
    return lambda image, name: generator(image, [name]).masks[0]


def nearest_label(vision: ImageNetText) -> Maker:
    """The naive use: the activation map of the one ImageNet label nearest to the name, at the classifier's own size, cut at
    a half."""
    generator = ImageNetMaps(vision, objectness=False, self_support=0, edges=False)
    generator.size = 224
    generator.cut = replace(generator.cut, high=0.5, low=0.5)

    def mask(image: np.ndarray, name: str) -> np.ndarray:
        labels, vision.labels = vision.labels, 1
        try:
            return generator(image, [name]).masks[0]
        finally:
            vision.labels = labels

    return mask


def rows(vision: ImageNetText) -> dict[str, Maker]:
    return {
        "complete": by(ImageNetMaps(vision)),
        "without border contrast": by(ImageNetMaps(vision, objectness=False)),
        "without self-support": by(ImageNetMaps(vision, self_support=0)),
        "without edges": by(ImageNetMaps(vision, edges=False)),
        "naive: nearest label's activation, cut at 0.5": nearest_label(vision),
        "control: border contrast alone, no name": by(Objectness(vision.encoder)),
        "control: all foreground": lambda image, name: all_foreground(image.shape[:2]).numpy().astype(np.uint8),
        "control: centre disc": lambda image, name: centre_disc(image.shape[:2]).numpy().astype(np.uint8),
    }


def main() -> None:
    args = tyro.cli(Ablate)
    data = FolderDataset(args.root, kind=args.kind, min_area=args.min_area, masks=True)
    print("| | mean of class IoUs | precision | recall |\n|---|---|---|---|")
    for title, make in rows(ImageNetText()).items():
        if args.only and not any(word in title for word in args.only):
            continue
        judged = []
        for i in range(0, len(data.items), args.every):
            item, sample = data.items[i], data.sample(i)
            assert sample.mask is not None
            judged.append(judge(make(sample.image, item.class_name), sample.mask, item.class_id, 1.0))
        content = quality(judged, data.classes)
        print(f"| {title} | {content['miou']:.1f} | {content['precision']:.1f} | {content['recall']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
