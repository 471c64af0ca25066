"""How well QGNet's prior region maps mark unseen objects, each alone as a mask: a Markdown table.

python scripts/qgnet_maps.py --root photos --out comparison

``out``: that of ``scripts/experiment.py experiments/qgnet.yaml``. Each class is cut at the threshold best on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from shotseg import data
from shotseg.data import transforms
from shotseg.evaluation import controls
from shotseg.training import checkpoint
from shotseg.training.contrastive import prior_map

MAP = 128  # side at which a map is compared with a mask
THRESHOLDS = torch.linspace(0, 0.99, 100)


@dataclass(frozen=True)
class Maps:
    """seed: of the training whose networks are looked at."""

    root: Path
    out: Path
    fold: int = 0
    seed: int = 0


def main(args: Maps) -> None:
    every = data.load("folder", args.root)
    tested = set(every.folds[args.fold])
    variants = ("qgnet", "supervised", "control")
    models = {
        name: checkpoint.load_model(args.out / "runs" / name / f"{args.seed}" / "best.safetensors") for name in variants
    }
    found: dict[str, dict[int, Tensor]] = {}
    for i, item in enumerate(every.items):
        if item.class_name in tested and item.mask_path is not None:
            sample = every.sample(i)
            target = transforms.squash(sample.image, MAP, mask=sample.mask)[1]
            for name, score in maps(models, sample.image).items():
                table = found.setdefault(name, {})
                table[item.class_id] = table.get(item.class_id, torch.tensor(0)) + overlaps(score, target)
    print("| map alone, as a mask | mIoU |", "|---|---|", sep="\n")
    for name, table in found.items():
        print(f"| {name} | {100 * _left_out(table):.1f} |")


@torch.no_grad()
def maps(models, image) -> dict[str, Tensor]:
    """(MAP, MAP) in [0, 1] each: the maps of every network, before and after what they learnt, and the controls."""
    made = {
        "all foreground": controls.all_foreground((MAP, MAP)).float(),
        "centre disc": controls.centre_disc((MAP, MAP)).float(),
    }
    for variant, model in models.items():
        own, learnt = model.split(model.encode(transforms.squash(image, model.size)[0][None]))
        last = own.maps[-1]
        made[f"{variant}, learnt"] = _sized(model.region(last, learnt[0] if learnt else last))
        if variant != "control":
            made[f"{variant}, without training"] = _sized(prior_map(learnt[0] if learnt else last))
    return made


def overlaps(score: Tensor, target: Tensor) -> Tensor:
    """(thresholds, 2): intersection and union of the map cut at each threshold."""
    known, true = target != 255, target == 1
    said = (score[None] > THRESHOLDS[:, None, None]) & known
    return torch.stack([(said & true).sum((1, 2)), (said | (true & known)).sum((1, 2))], 1)


def _sized(score: Tensor) -> Tensor:
    return F.interpolate(score, (MAP, MAP), mode="bilinear", align_corners=False)[0, 0]


def _left_out(table: dict[int, Tensor]) -> float:
    """Mean over the classes of the IoU at the threshold that is best for the others."""
    iou = torch.stack([pair[:, 0] / pair[:, 1].clamp(min=1) for pair in table.values()])  # (classes, thresholds)
    others = iou.sum(0, keepdim=True) - iou
    return float(iou.gather(1, others.argmax(1, keepdim=True)).mean())


if __name__ == "__main__":
    main(tyro.cli(Maps))
