"""What each ingredient of ``matching`` gains: mIoU with one switched off, as a Markdown table.

python scripts/ablate_matching.py --root photos --folds 0 1 2 --episodes 1000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from shotseg.evaluation.run import Evaluator, evaluate

from shotseg import encoders, models
from shotseg.data.folder import FolderDataset
from shotseg.evaluation.protocols import Pool, draw_episodes, preset
from shotseg.evaluation.results import result

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


def miou(model: torch.nn.Module, dataset: FolderDataset, classes: list[str], shot: int, args: Ablate) -> float:
    protocol = preset("shotseg", "folder").override(episodes=args.episodes, seeds=(args.seed,))
    pool = Pool(dataset, classes, shot)
    evaluator = Evaluator(model, dataset, pool, protocol, torch.device("cpu"))
    episodes = draw_episodes(protocol, pool, shot, args.seed)
    rows = evaluate(evaluator, episodes, workers=torch.get_num_threads())
    return result({}, protocol, pool, {args.seed: episodes}, rows)["miou"]


def main(args: Ablate) -> None:
    dataset = FolderDataset(args.root)
    folds = {str(fold): names for fold, names in dataset.folds.items()}
    encoder = encoders.load(args.encoder)
    print("| without |", " | ".join(f"{shot}-shot" for shot in args.shots), "|")
    print("|---|", "---|" * len(args.shots), sep="")
    for ingredient in INGREDIENTS:
        model = models.load("matching", encoder, **({ingredient: False} if ingredient else {})).eval()
        cells = [np.mean([miou(model, dataset, folds[f], shot, args) for f in args.folds]) for shot in args.shots]
        print(f"| {ingredient or '(nothing)'} |", " | ".join(f"{cell:.1f}" for cell in cells), "|", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Ablate))
