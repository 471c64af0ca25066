"""Does QGNet's prior region map help? Four networks alike but for that map, on the same episodes of unseen classes.

pfenet (no map), control (as many weights, no priors), supervised (the map from the encoder itself), qgnet (the map from the
contrastive extractor). Each is trained with every seed; the frozen features of all are computed once.

    python scripts/compare_qgnet.py --root photos --out comparison --extractor run/extractor/best.safetensors

Writes table.md and comparison.json into --out. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg import data
from shotseg.cli import main as shotseg
from shotseg.data import transforms
from shotseg.evaluation import controls, results
from shotseg.training import checkpoint, loop, qgnet_training
from shotseg.training import recipe as recipes
from shotseg.training.contrastive import prior_map
from shotseg.training.data import views
from shotseg.training.few_shot import FewShot

VARIANTS: dict[str, dict[str, str]] = {
    "qgnet": {"prior_source": "dense"},  # first: its features hold what the others read
    "supervised": {"prior_source": "dense", "extractor": "same"},
    "control": {"prior_source": "control"},
    "pfenet": {"prior_source": "none"},
}
MAP = 128  # side at which a map is compared with a mask
THRESHOLDS = torch.linspace(0, 0.99, 100)


def trained(variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The best checkpoint of one variant and seed."""
    base = recipes.load(arguments.recipe)
    options = base.model.options | VARIANTS[variant]
    recipe = replace(base, model=replace(base.model, options=options), seed=seed, steps=arguments.steps)
    recipe = replace(recipe, data=replace(recipe.data, fold=arguments.fold))
    if variant != "qgnet":
        recipe = replace(recipe, extractor="")
    out = arguments.out / f"{variant}-{seed}"
    if checkpoint.finished(out / "last.safetensors", recipe):
        return out / "best.safetensors"
    choice = views(recipe.data, arguments.root)
    torch.manual_seed(seed)  # the parts that the variants share begin alike
    model = checkpoint.make_model(recipe, len(choice.train.classes))
    if variant == "qgnet":
        qgnet_training.load_extractor(model.extractor, arguments.extractor)
    task = FewShot(recipe, choice, model, arguments.out / "features", f"compare {arguments.extractor}")
    return loop.train(task, recipe, out, resume=True, device=arguments.device).best


def scored(variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The result file of one variant and seed, over the same episodes."""
    out = arguments.out / f"{variant}-{seed}.json"
    if not out.is_file():
        best = trained(variant, seed, arguments)
        flags = ["--fold", arguments.fold, "--episodes", str(arguments.episodes), "--seeds", "0", "--resume"]
        flags += ["--checkpoint", str(best), "--device", arguments.device, "--out", str(out)]
        if shotseg(["evaluate", "folder", "--root", str(arguments.root), *flags]):
            raise SystemExit(f"{out}: the evaluation failed")
    return out


def maps_alone(arguments: argparse.Namespace) -> dict[str, float]:
    """mIoU of maps as masks on the test photos, each class cut at the threshold that is best on the others."""
    every = data.load("folder", arguments.root)
    tested = set(every.folds[int(arguments.fold)])
    at = [i for i, item in enumerate(every.items) if item.class_name in tested and item.mask_path is not None]
    found: dict[str, dict[int, Tensor]] = {}

    def count(name: str, class_id: int, score: Tensor, target: Tensor) -> None:
        known, true = target != 255, target == 1
        said = (score[None] > THRESHOLDS[:, None, None]) & known
        pair = torch.stack([(said & true).sum((1, 2)), (said | (true & known)).sum((1, 2))], 1)
        table = found.setdefault(name, {})
        table[class_id] = table.get(class_id, torch.zeros_like(pair)) + pair

    models = {
        variant: checkpoint.load_model(trained(variant, arguments.seeds[0], arguments))
        for variant in ("qgnet", "supervised", "control")
    }
    for i in at:
        sample, class_id = every.sample(i), every.items[i].class_id
        target = transforms.squash(sample.image, MAP, mask=sample.mask)[1]
        assert target is not None
        made: dict[str, Tensor] = {
            "all foreground": controls.all_foreground((MAP, MAP)).float(),
            "centre disc": controls.centre_disc((MAP, MAP)).float(),
        }
        for variant, model in models.items():
            image, _ = transforms.squash(sample.image, model.size)
            with torch.no_grad():
                features = model.encode(image[None])
                own, learnt = model.split(features)
                last = own.maps[-1]
                made[f"{variant}, learnt"] = _sized(model.region(last, learnt[0] if learnt else last))
                if variant != "control":
                    made[f"{variant}, without training"] = _sized(prior_map(learnt[0] if learnt else last))
        for name, score in made.items():
            count(name, class_id, score, target)
    return {name: 100 * _left_out(table) for name, table in found.items()}


def _sized(score: Tensor) -> Tensor:
    return F.interpolate(score, (MAP, MAP), mode="bilinear", align_corners=False)[0, 0]


def _left_out(table: dict[int, Tensor]) -> float:
    """Mean over the classes of the IoU at the threshold that is best for the others."""
    iou = torch.stack([pair[:, 0] / pair[:, 1].clamp(min=1) for pair in table.values()])  # (classes, thresholds)
    others = iou.sum(0, keepdim=True) - iou
    return float(iou.gather(1, others.argmax(1, keepdim=True)).mean())


def _shown(pair: dict) -> str:
    return f"{pair['difference']:+.2f} ({pair['low']:+.2f} .. {pair['high']:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extractor", type=Path, required=True, help="best.safetensors of a contrastive run")
    parser.add_argument("--recipe", default="qgnet/tiny")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    files = {(v, s): scored(v, s, arguments) for s in arguments.seeds for v in VARIANTS}
    miou = {v: [results.read_result(files[v, s])["miou"] for s in arguments.seeds] for v in VARIANTS}
    pairs = {v: [results.compare(files["qgnet", s], files[v, s]) for s in arguments.seeds] for v in VARIANTS}
    lines = ["| network | mIoU by seed | mean | qgnet minus it, 95 % interval by seed |", "|---|---|---|---|"]
    for variant, scores in miou.items():
        compared = ", ".join(map(_shown, pairs[variant])) if variant != "qgnet" else ""
        lines.append(f"| {variant} | {', '.join(f'{x:.2f}' for x in scores)} | {mean(scores):.2f} | {compared} |")
    alone = maps_alone(arguments)
    lines += ["", "| map alone, as a mask | mIoU |", "|---|---|", *(f"| {n} | {x:.1f} |" for n, x in alone.items())]
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n")
    (arguments.out / "comparison.json").write_text(json.dumps({"miou": miou, "pairs": pairs, "maps": alone}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
