"""What each ingredient of ``matching`` gains: mIoU with one switched off, as a Markdown table.

python scripts/ablate_matching.py --root photos --folds 0 1 2 --episodes 1000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import shotseg
from shotseg import encoders, models

INGREDIENTS = ("", "contrast", "ridge", "border", "self_support", "edges")


@dataclass(frozen=True)
class Ablate:
    """Folder in our convention, with folds in index.csv."""

    root: Path
    folds: tuple[str, ...] = ("0", "1", "2")
    shots: tuple[int, ...] = (1, 5)
    episodes: int = 1000
    seed: int = 0
    encoder: str = "efficientnet-lite0"


def main(args: Ablate) -> None:
    encoder = encoders.load(args.encoder)
    print("| without |", " | ".join(f"{shot}-shot" for shot in args.shots), "|")
    print("|---|", "---|" * len(args.shots), sep="")
    for ingredient in INGREDIENTS:
        model = models.load("matching", encoder, **({ingredient: False} if ingredient else {}))
        how = {"episodes": args.episodes, "seeds": (args.seed,), "device": "cpu"}
        cells = [
            np.mean([shotseg.evaluate(args.root, model, fold=f, shot=k, **how).scores["miou"] for f in args.folds])
            for k in args.shots
        ]
        print(f"| {ingredient or '(nothing)'} |", " | ".join(f"{cell:.1f}" for cell in cells), "|", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Ablate))
