"""mIoU of weakly-supervised methods against the noise of the pseudo masks that they learn from: a plot and its numbers.

python scripts/noise.py --root photos --out noise --steps 100 --seeds 321 --episodes 500

Masks are corrupted in training; at test every method makes its own of the photo and the name, as it would in use. What lies in
``out`` already is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from experiment import Run, result_of
from scipy import ndimage

from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_image, read_mask, write_bytes, write_png
from shotseg.priors.pseudo_masks import from_name


@dataclass(frozen=True)
class Noise:
    """steps, batch, size: in place of the tiny recipes' own."""

    root: Path
    out: Path
    fold: str = "0"
    seeds: tuple[int, ...] = (321, 322)
    episodes: int = 1000
    steps: int | None = None
    batch: int | None = None
    size: int | None = None
    levels: tuple[float, ...] = (0.1, 0.3, 0.5)
    kinds: tuple[str, ...] = ("erode", "dilate", "drop", "box")
    methods: tuple[str, ...] = ("cst", "tlg", "corenet")
    device: str = "cpu"


def main(args: Noise) -> None:
    clean = masks(args)
    own = {name: getattr(args, name) for name in ("fold", "seeds", "episodes", "steps", "batch", "size", "device")}
    run = Run(Path(), args.root, args.out, **own)

    def scores(method: str, kind: str, level: float) -> list[float]:
        folder = corrupted(args, clean, kind, level) if level else clean
        data = {"data": {"supervision": "pseudo", "pseudo": str(folder)}}
        name = f"{method} {kind} {level:g}" if level else f"{method} clean"
        row = {"recipe": f"{method}/tiny"}
        return [result_of(run, name, row, seed, data).content["miou"] for seed in args.seeds]

    levels = [0.0, *args.levels]
    table = {kind: {m: [scores(m, kind, level) for level in levels] for m in args.methods} for kind in args.kinds}
    write_bytes(args.out / "noise.json", json.dumps({"levels": levels, "miou": table}).encode())
    figure, axes = plt.subplots(1, len(args.kinds), figsize=(4 * len(args.kinds), 3.5), sharey=True, squeeze=False)
    for (kind, found), axis in zip(table.items(), axes[0]):
        for method, values in found.items():
            axis.errorbar([100 * x for x in levels], np.mean(values, 1), np.std(values, 1), marker="o", label=method)
        axis.set_title(kind)
        axis.set_xlabel("noise, %")
    axes[0, 0].set_ylabel("mIoU")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(args.out / "noise.png", dpi=120)
    print(args.out / "noise.png")


def masks(args: Noise) -> Path:
    """The folder of clean pseudo masks, one for each photo."""
    folder = args.out / "pseudo"
    for item in FolderDataset(args.root).items:
        path = folder / "masks" / f"{item.id}.png"
        if not path.is_file():
            write_png(path, from_name(read_image(item.image_path), item.class_name) * 255)
    return folder


def corrupted(args: Noise, clean: Path, kind: str, level: float) -> Path:
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


if __name__ == "__main__":
    main(tyro.cli(Noise))
