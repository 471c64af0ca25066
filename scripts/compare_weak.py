"""Weakly-supervised methods on one folder with folds, from class names alone: CST, CORENet part by part, TLG, the pseudo masks.

python scripts/compare_weak.py parts --root photos --out weak          # a table with paired intervals
python scripts/compare_weak.py noise --root photos --out weak          # mIoU against the noise of the masks, and a plot

Every training and every evaluation is kept in ``out`` and not done again. No drawn mask is read but by the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from scipy import ndimage
from shotseg.evaluation.run import Evaluator, evaluate

from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_image, read_mask, write_bytes, write_png
from shotseg.evaluation.protocols import Pool, draw_episodes, preset
from shotseg.evaluation.results import compare, environment, result
from shotseg.priors.pseudo_masks import from_name
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from shotseg.training.run import train

# What CST lacks, then one part after the other; the last is CORENet as it is.
START = {
    "kernels": "4x3",
    "plane": False,
    "soft_mask": False,
    "cgm": "none",
    "egm": False,
    "aux": 0.0,
    "swap": False,
    "edges": False,
    "prior_weight": 0.0,
    "recentre": 0.0,
}
STEPS: dict[str, tuple[str, ...]] = {
    "global tokens": (),
    "+ soft mask": ("soft_mask",),
    "+ kernels": ("kernels", "plane"),
    "+ class filter (CGM)": ("cgm",),
    "+ appearance (EGM)": ("egm",),
    "+ both directions, early loss": ("aux", "swap"),
    "+ edges": ("edges",),
    "+ name's mask of the query": ("prior_weight",),
    "+ recentred: CORENet": ("recentre",),
}
LAST = list(STEPS)[-1]
AT_TEST = ("edges", "prior_weight", "recentre")  # they change nothing of the training
NOISE = ("erode", "dilate", "drop", "box")


@dataclass(frozen=True)
class Compare:
    """root: folder of our convention with folds in index.csv.  steps, batch, size: in place of the tiny recipes' own.

    rows: of ``parts``, the names of those that are wanted beside the last; () = all."""

    what: tyro.conf.Positional[Literal["parts", "noise"]]
    root: Path
    out: Path
    fold: str = "0"
    seeds: tuple[int, ...] = (321, 322)
    episodes: int = 1000
    steps: int | None = None
    batch: int | None = None
    size: int | None = None
    levels: tuple[float, ...] = (0.1, 0.3, 0.5)
    kinds: tuple[str, ...] = NOISE
    methods: tuple[str, ...] = ("cst", "tlg", "corenet")
    rows: tuple[str, ...] = ()
    device: str = "cpu"


def variants() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, name of the training, recipe, options of the model."""
    yield "CST", "CST", "cst/tiny", {}
    yield "TLG, weak", "TLG, weak", "tlg/tiny", {"supervision": "pseudo"}
    options, training = dict(START), ""
    for name, parts in STEPS.items():
        options = {key: value for key, value in options.items() if key not in parts}
        training = training if set(parts) & set(AT_TEST) else name
        yield name, training, "corenet/tiny", dict(options)


def masks(args: Compare) -> Path:
    """The folder of clean pseudo masks, one for each photo."""
    folder = args.out / "pseudo"
    for item in FolderDataset(args.root).items:
        path = folder / "masks" / f"{item.id}.png"
        if not path.is_file():
            write_png(path, from_name(read_image(item.image_path), item.class_name) * 255)
    return folder


def trained(args: Compare, name: str, recipe: str, options: dict[str, Any], pseudo: Path, seed: int) -> Path:
    learnt = {key: value for key, value in options.items() if key not in AT_TEST}
    changes: dict[str, Any] = {
        "model": {"options": learnt},
        "data": {"fold": args.fold, "supervision": "pseudo", "pseudo": str(pseudo)},
        "seed": seed,
        "workers": 0,
    }
    changes |= {key: value for key in ("steps", "batch") if (value := getattr(args, key))}
    if args.size:
        changes["model"]["size"] = args.size
    own = recipes.load(recipe, **changes)
    out = args.out / "runs" / _slug(name) / str(seed)
    if not (out / "best.safetensors").is_file():
        train(own, args.root, out, resume=True, device=args.device)
    return out / "best.safetensors"


def measured(args: Compare, name: str, path: Path, seed: int, options: dict[str, Any]) -> Path:
    """The result file of a checkpoint on the test fold, its answer as ``options`` say: the same episodes for all."""
    out = args.out / "results" / f"{_slug(name)}-{seed}.json"
    if not out.is_file():
        dataset = FolderDataset(args.root)
        classes = {str(fold): names for fold, names in dataset.folds.items()}[args.fold]
        protocol = preset("shotseg", "folder").override(episodes=args.episodes, seeds=(0,))
        pool = Pool(dataset, classes, 1)
        episodes = draw_episodes(protocol, pool, 1, 0)
        model = checkpoint.load_model(path, args.device)
        for part in set(options) & set(AT_TEST):
            setattr(model, part, options[part])
        evaluator = Evaluator(model, dataset, pool, protocol, args.device)
        rows = evaluate(evaluator, episodes, workers=torch.get_num_threads())
        about = {"method": name, "environment": environment(torch.device(args.device))}
        _write(out, result(about, evaluator.protocol, pool, {0: episodes}, rows))
    return out


def control(path: Path, name: str) -> Path:
    """The control of a result as a result of its own, so that it can be compared episode by episode."""
    content = json.loads(path.read_text())
    stored = content["counts"]["per_episode"]
    content["counts"]["per_episode"] = stored | stored["controls"][name]
    content |= {"method": name, "miou": content["controls"][name]["miou"]}
    out = path.with_name(f"{path.stem}-{name}.json")
    _write(out, content)
    return out


def parts(args: Compare) -> None:
    pseudo = masks(args)
    files: dict[str, list[Path]] = {}
    for name, training, recipe, options in variants():
        if args.rows and name not in (*args.rows, LAST):
            continue
        for seed in args.seeds:
            weights = trained(args, training, recipe, options, pseudo, seed)
            files.setdefault(name, []).append(measured(args, name, weights, seed, options))
    for row in ("pseudo_mask", "saliency", "all_foreground"):
        files[row] = [control(path, row) for path in files[LAST]]
    print(
        "| method | mIoU, each training seed | CORENet minus it, 95 % interval, each seed |", "|---|---|---|", sep="\n"
    )
    for name, paths in files.items():
        scores = " ".join(f"{json.loads(path.read_text())['miou']:.1f}" for path in paths)
        pairs = [compare(last, path) for path, last in zip(paths, files[LAST])]
        margins = " ".join(f"{p['difference']:+.1f} ({p['low']:+.1f} .. {p['high']:+.1f})" for p in pairs)
        print(f"| {name} | {scores} | {'' if name == LAST else margins} |", flush=True)


def noise(args: Compare) -> None:
    """Masks are corrupted in training; at test every method makes its own of the photo and the name, as it would in use."""
    import matplotlib.pyplot as plt

    clean = masks(args)
    figure, axes = plt.subplots(1, len(args.kinds), figsize=(4 * len(args.kinds), 3.5), sharey=True, squeeze=False)
    table: dict[str, dict[str, list[list[float]]]] = {}
    for kind, axis in zip(args.kinds, axes[0]):
        for method in args.methods:
            scores = []
            for level in (0.0, *args.levels):
                name = f"{method} {kind} {level:g}" if level else f"{method} clean"
                folder = corrupted(args, clean, kind, level) if level else clean
                paths = [trained(args, name, f"{method}/tiny", {}, folder, seed) for seed in args.seeds]
                found = [measured(args, name, path, seed, {}) for path, seed in zip(paths, args.seeds)]
                scores.append([json.loads(path.read_text())["miou"] for path in found])
            table.setdefault(kind, {})[method] = scores
            means, spread = np.mean(scores, 1), np.std(scores, 1)
            axis.errorbar([0, *(100 * x for x in args.levels)], means, spread, marker="o", label=method)
        axis.set_title(kind)
        axis.set_xlabel("noise, %")
    axes[0, 0].set_ylabel("mIoU")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(args.out / "noise.png", dpi=120)
    _write(args.out / "noise.json", {"levels": [0.0, *args.levels], "miou": table})
    print(args.out / "noise.png")


def corrupted(args: Compare, clean: Path, kind: str, level: float) -> Path:
    """The folder of masks with noise, each a function of its photo's name alone."""
    folder = args.out / f"pseudo-{kind}-{level:g}"
    for path in sorted((clean / "masks").rglob("*.png")):
        target = folder / path.relative_to(clean)
        if not target.is_file():
            stream = np.random.default_rng([*f"{kind}{path.relative_to(clean)}".encode()])
            write_png(target, CORRUPT[kind](read_mask(path) == 1, level, stream).astype(np.uint8) * 255)
    return folder


def _erode(mask: np.ndarray, level: float, stream: np.random.Generator) -> np.ndarray:
    """The outermost ``level`` of its pixels are lost."""
    depth = ndimage.distance_transform_edt(mask)
    return depth > min(np.quantile(depth[mask], level), depth.max() - 1e-6)


def _dilate(mask: np.ndarray, level: float, stream: np.random.Generator) -> np.ndarray:
    """It grows by ``level`` of its pixels."""
    near = ndimage.distance_transform_edt(~mask)
    count = min(int(mask.sum() * (1 + level)), mask.size) - 1
    return near <= np.partition(near.ravel(), count)[count]


def _drop(mask: np.ndarray, level: float, stream: np.random.Generator) -> np.ndarray:
    """One side of it, ``level`` of its pixels, is lost."""
    angle = stream.uniform(0, 2 * np.pi)
    y, x = np.indices(mask.shape)
    place = y * np.sin(angle) + x * np.cos(angle)
    return mask & (place >= np.quantile(place[mask], level))


def _box(mask: np.ndarray, level: float, stream: np.random.Generator) -> np.ndarray:
    """With chance ``level`` a box of the same area anywhere stands in its place."""
    if stream.random() >= level:
        return mask
    height, width = mask.shape
    shape = np.sqrt(mask.sum() / mask.size)
    h, w = max(1, round(height * shape)), max(1, round(width * shape))
    top, left = stream.integers(height - h + 1), stream.integers(width - w + 1)
    box = np.zeros_like(mask)
    box[top : top + h, left : left + w] = True
    return box


CORRUPT: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "erode": _erode,
    "dilate": _dilate,
    "drop": _drop,
    "box": _box,
}


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name).split())


def _write(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, json.dumps(content, ensure_ascii=False).encode())


if __name__ == "__main__":
    chosen = tyro.cli(Compare)
    {"parts": parts, "noise": noise}[chosen.what](chosen)
