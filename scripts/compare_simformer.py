"""What each part of SimFormer gives: base-only, tags as class activation maps, each loss in turn, re-training, every mask.

Trains every row by the tiny recipes and scores it on photos that no training saw; novel classes' masks are read for
scoring alone (and by the last row). Example:

    python scripts/compare_simformer.py pascal --root photos/pascal_coseg15 --out runs/a --seed 321
    python scripts/compare_simformer.py pascal --root photos/pascal_coseg15 --out runs/b --seed 322
    python scripts/compare_simformer.py pool runs/a runs/b       # means over the runs, with paired intervals
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from shotseg.data import transforms, weak_shot
from shotseg.evaluation import semantic_scores
from shotseg.evaluation.counts import resamples
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from shotseg.training import run as training
from shotseg.training import weak_shot_training as task

RECIPES = {"pascal": "tiny", "clothing": "tiny-clothing", "camvid": "tiny-camvid"}
OFF = {"complement": 0.0, "similarity": 0.0, "distil": 0.0}
ROWS = {
    "base only": ("maskformer", {}, "base"),
    "tags": ("simformer", OFF, "weak"),
    "+ complementary": ("simformer", {**OFF, "complement": 0.15}, "weak"),
    "+ pixel similarity": ("simformer", {}, "weak"),
    "every mask": ("maskformer", {}, "full"),
}
ORDER = ["base only", "activation maps", "tags", "+ complementary", "+ pixel similarity", "re-trained", "every mask"]
THRESHOLDS = np.arange(0.15, 0.75, 0.1)


class Tagger(nn.Module):
    """A multi-label head on frozen features; its map before the mean are class activation maps (Zhou et al., CVPR 2016)."""

    def __init__(self, encoder: nn.Module, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(sum(encoder.channels[-2:]), classes, 1)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        middle, deep = self.encoder(images).maps[-2:]
        joined = torch.cat([middle, F.interpolate(deep, middle.shape[-2:], mode="bilinear")], 1)
        return F.normalize(joined, dim=1) * 10

    def maps(self, image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(C, H, W) maps in [0, 1], the largest of each class 1, and (C,) probabilities of being in the photo."""
        with torch.no_grad():
            logits = self.head(self.features(transforms.squash(image, size)[0][None]))
            shown = logits.mean((2, 3)).sigmoid()[0].numpy()
            positive = F.interpolate(logits, image.shape[:2], mode="bilinear")[0].relu()
            return (positive / positive.amax((1, 2), keepdim=True).clamp(min=1e-5)).numpy(), shown


def train_tagger(data, encoder, size: int, epochs: int = 20) -> Tagger:
    model = Tagger(encoder, len(data.classes))
    with torch.no_grad():
        images = [transforms.squash(data.image(i), size)[0] for i in range(len(data))]
        pooled = torch.cat([model.features(x[None]).mean((2, 3)) for x in images])
    shown = torch.zeros(len(data), len(data.classes))
    for i, photo in enumerate(data.items):
        shown[i, sorted(photo.shown)] = 1
    optimiser = torch.optim.Adam(model.head.parameters(), 1e-2)
    for _ in range(epochs):
        for part in torch.randperm(len(data)).split(32):
            logits = model.head(pooled[part][:, :, None, None])[:, :, 0, 0]
            loss = F.binary_cross_entropy_with_logits(logits, shown[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def threshold(model: Tagger, data, size: int) -> float:
    """The cut of the maps that fits the masks of the base classes best, on training photos."""
    hits, unions = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    for i in range(0, len(data), 4):
        known = data.known(i)
        maps, _ = model.maps(data.image(i), size)
        for c in set(np.unique(known).tolist()) - {255} - {0 if data.classes[0] == weak_shot.BACKGROUND else 255}:
            for k, cut in enumerate(THRESHOLDS):
                hits[k] += ((maps[c] > cut) & (known == c)).sum()
                unions[k] += ((maps[c] > cut) | (known == c)).sum()
    return float(THRESHOLDS[(hits / unions).argmax()])


def by_tags(tagger: Tagger, base_model, data, size: int, cut: float):
    """Base-only prediction, with the tagger's maps of the novel classes that it says are there laid on top."""

    def predict(image: np.ndarray) -> np.ndarray:
        labels = base_model.segment(image).argmax(0).numpy()
        maps, shown = tagger.maps(image, size)
        novel = [c for c in data.novel if shown[c] > 0.5]
        if not novel:
            return labels
        best = maps[novel].argmax(0)
        return np.where(maps[novel].max(0) > cut, np.array(novel)[best], labels)

    return predict


def pool(runs: list[Path]) -> None:
    """Means over runs: the novel score of every row, and row minus row, with 95 % intervals over photos."""
    loaded = [dict(np.load(run / "counts.npz")) for run in runs]
    photos = sorted({name for run in loaded for name in run["photos"].tolist()})
    places = [np.searchsorted(photos, run["photos"]) for run in loaded]

    def novel(row: str, weights: np.ndarray) -> float:
        """Mean of the runs' novel mIoU in percent, each photo counted by its weight."""
        scores = []
        for run, place in zip(loaded, places):
            hit, union = (
                np.einsum("p,pc->c", weights[place], run[f"{row} {what}"][:, 1:]) for what in ("hit", "union")
            )
            own = [c for c in run["novel"] if union[c]]
            scores.append(100 * np.mean(hit[own] / union[own]))
        return float(np.mean(scores))

    whole = np.ones(len(photos))
    draws = list(resamples(len(photos), 1000))
    drawn = {row: np.array([novel(row, weights) for weights in draws]) for row in ORDER}
    for row in ORDER:
        low, high = np.percentile(drawn[row], (2.5, 97.5))
        print(f"{row:44} novel {novel(row, whole):5.1f} [{low:.1f}, {high:.1f}]")
    for i, row in enumerate(ORDER[2:6], 2):
        for other in ORDER[:i]:
            low, high = np.percentile(drawn[row] - drawn[other], (2.5, 97.5))
            print(f"{row} - {other:30} novel {novel(row, whole) - novel(other, whole):+5.1f} [{low:+.1f}, {high:+.1f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=[*RECIPES, "pool"])
    parser.add_argument("runs", type=Path, nargs="*", help="of pool: the folders of finished comparisons")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=321)
    parser.add_argument("--steps", type=int, help="of each training; default the recipe's")
    parser.add_argument("--background", choices=["unknown", "base"], default="unknown")
    parser.add_argument("--novel", nargs="+", default=(), help="novel classes; default the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.data == "pool":
        return pool(arguments.runs)
    if arguments.root is None or arguments.out is None:
        parser.error("--root and --out are needed")
    torch.set_num_threads(arguments.threads)
    recipe = recipes.load(f"simformer/{RECIPES[arguments.data]}")
    recipe = replace(
        recipe,
        seed=arguments.seed,
        steps=arguments.steps or recipe.steps,
        weak_shot=replace(recipe.weak_shot, background=arguments.background),
        data=replace(recipe.data, test_classes=tuple(arguments.novel) or recipe.data.test_classes),
    )
    train, test = task.views(recipe, arguments.root)[0], task.test_photos(recipe, "folder", arguments.root)
    shared = arguments.out / "features"
    shared.mkdir(parents=True, exist_ok=True)

    counts, models = {}, {}
    for name, (method, options, supervision) in ROWS.items():
        folder = arguments.out / name.strip("+ ").replace(" ", "-")
        own = replace(
            recipe,
            model=replace(recipe.model, name="simformer", options={**recipe.model.options, **options}),
            weak_shot=replace(recipe.weak_shot, supervision=supervision, retrain=name == "+ pixel similarity"),
        )
        own = task.student_of(own) if method == "maskformer" else own
        folder.mkdir(exist_ok=True)
        if not (folder / "features").exists():
            (folder / "features").symlink_to(shared.resolve())
        training.train(own, arguments.root, folder, resume=True)
        found = {name: folder / "best.safetensors"}
        if own.weak_shot.retrain and method == "simformer":
            found = {name: folder / "teacher" / "best.safetensors", "re-trained": folder / "best.safetensors"}
        for row, file in found.items():
            models[row] = checkpoint.load_semantic(file)[0]
            predict = lambda image, model=models[row]: model.segment(image).argmax(0).numpy()  # noqa: E731
            counts[row] = semantic_scores.measure(predict, test)
    torch.manual_seed(arguments.seed)
    tagger = train_tagger(train, models["base only"].encoder, recipe.model.size)
    cut = threshold(tagger, train, recipe.model.size)
    predict = by_tags(tagger, models["base only"], train, recipe.model.size, cut)
    counts["activation maps"] = semantic_scores.measure(predict, test)

    kept = {
        f"{row} {what}": x for row, c in counts.items() for what, x in (("hit", c.intersection), ("union", c.union))
    }
    photos = [item.id for item in test.items]
    np.savez_compressed(arguments.out / "counts.npz", photos=photos, novel=test.novel, **kept)  # for pool
    table = {name: semantic_scores.result(counts[name], test) for name in ORDER}
    against = {
        f"{name} - {other}": semantic_scores.paired(counts[name], counts[other], test)
        for name in ORDER[2:6]
        for other in ORDER[: ORDER.index(name)]
    }
    content = {"recipe": recipes.plain(recipe), "cut": cut, "scores": table, "differences": against}
    (arguments.out / "comparison.json").write_text(json.dumps(content, indent=1))
    print(f"{'':20}{'base':>8}{'novel':>8}{'harmonic':>10}")
    for name in ORDER:
        row = table[name]
        print(
            f"{name:20}{row['base']:8.1f}{row['novel']:8.1f}{row['harmonic']:10.1f}   novel {row['interval']['novel']}"
        )
    for name, found in against.items():
        novel = found["novel"]
        print(f"{name:40} novel {novel['difference']:+.1f} [{novel['low']:+.1f}, {novel['high']:+.1f}]")


if __name__ == "__main__":
    main()
