"""Does a small trained head on the cues of matching pay? Cross-validated by class, over three data sets at once.

python scripts/small_head.py --data folder-of-the-data-sets

Classes are divided in three; a name that two data sets share is in one part. A head is trained on the episodes of two parts and
tested on the third; of the sets whose photos show many classes it trains on one half of the photos and is tested on the other.
It sees maps of cues alone, no features, and corrects the log odds of matching; the same edges are drawn after both. What is
measured is the paired difference over the same episodes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg import data, encoders
from shotseg.data import transforms
from shotseg.encoders import runtime
from shotseg.models.guided import Guided, Residual

SETS: dict[str, dict[str, Any]] = {
    "pascal_coseg15": {},
    "clothing_ccp": {},
    "coco_panoptic100": {"kind": "thing", "min_area": 0.01},
}
PARTS = 3


@dataclass(frozen=True)
class Try:
    """episodes: of each data set.      epochs: over them.      width: channels of the head.      size: longer side in pixels."""

    data: Path
    episodes: tuple[int, int, int] = (900, 900, 400)
    epochs: int = 30
    width: int = 32
    size: int = 512
    encoder: str = "efficientnet-lite2"
    seed: int = 0


class Head(nn.Module):
    """Maps of cues (B, M, h, w) in, what is added to the log odds (B, h, w) out; at first nothing."""

    def __init__(self, maps: int, width: int):
        super().__init__()
        self.start = nn.Conv2d(maps, width, 3, padding=1)
        self.blocks = nn.ModuleList([Residual(width, dilation) for dilation in (1, 2, 4)])
        self.whole = nn.Linear(2 * maps, width)
        self.answer = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]

    def forward(self, cues: Tensor) -> Tensor:
        x = F.relu(self.start(cues) + self.whole(torch.cat([cues.mean((2, 3)), cues.amax((2, 3))], 1))[..., None, None])
        for block in self.blocks:
            x = block(x)
        return self.answer(x)[:, 0]


def part_of(name: str, folds: dict[str, int]) -> int:
    """The third that a class belongs to: its fold, else by its name."""
    return folds.get(name, int(hashlib.sha256(name.encode()).hexdigest(), 16) % PARTS)


def half_of(content: str) -> int:
    return int(content[:8], 16) % 2


def gather(args: Try) -> list[dict[str, Any]]:
    """The episodes: cues, evidence and truth of each, what they are of, and the photo to draw along."""
    encoder = encoders.load(args.encoder)
    runtime.use(encoder, "auto")
    model = Guided(encoder, size=args.size, width=8).eval()
    folds: dict[str, int] = {}
    found = []
    for (place, view), count in zip(SETS.items(), args.episodes):
        photos = data.load("folder", args.data / place, **view)
        folds |= {name: int(fold) for fold, names in getattr(photos, "folds", {}).items() for name in names}
        groups: dict[str, list[int]] = {}
        for i, item in enumerate(photos.items):
            groups.setdefault(item.class_name, []).append(i)
        groups = {name: own for name, own in groups.items() if len({photos.items[i].content for i in own}) > 1}
        random = np.random.default_rng(args.seed)
        seen: dict[str, tuple[Tensor, Any]] = {}
        for _ in range(count):
            name = list(groups)[random.integers(len(groups))]
            query, support = random.permutation(groups[name])[:2].tolist()
            if photos.items[query].content == photos.items[support].content:
                continue
            both = []
            for i in (support, query):
                sample = photos.sample(i)
                image, mask = transforms.fit(sample.image, args.size, encoder.patch, mask=sample.mask)
                key = photos.items[i].content
                if key not in seen:
                    with torch.no_grad():
                        seen[key] = (image, model._levels(model.encode(image[None])))
                both.append((image, mask, seen[key][1]))
            with torch.no_grad():
                known = model.matching.encode_support(both[0][0][None, None], both[0][1][None, None], both[0][2])
                cues, evidence = model.cues(both[1][2], known)
            found.append(
                {
                    "set": place,
                    "class": name,
                    "part": part_of(name, folds),
                    "halves": [half_of(photos.items[i].content) for i in (query, support)],
                    "cues": cues[0].half(),
                    "evidence": evidence[0].half(),
                    "mask": both[1][1].byte(),
                    "image": both[1][0].mul(255).byte(),
                }
            )
            if len(found) % 100 == 0:
                print(f"{len(found)} episodes", flush=True)
    return found


def share(mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Share of the object and of known pixels at each place of the grid."""
    known = F.adaptive_avg_pool2d((mask != 255).float()[None, None], grid)[0, 0]
    inside = F.adaptive_avg_pool2d((mask == 1).float()[None, None], grid)[0, 0]
    return inside / known.clamp(min=1e-6), known


def train(args: Try, episodes: list[dict[str, Any]]) -> Head:
    torch.manual_seed(args.seed)
    head = Head(len(episodes[0]["cues"]), args.width)
    optimiser = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=0.05)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, e in enumerate(episodes):
        groups.setdefault(tuple(e["evidence"].shape), []).append(i)
    truths = [share(e["mask"], tuple(e["evidence"].shape)) for e in episodes]
    steps = args.epochs * sum(-(-len(own) // 16) for own in groups.values())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps + 1)
    random = np.random.default_rng(args.seed)
    for _ in range(args.epochs):
        batches = [b for own in groups.values() for b in np.array_split(random.permutation(own), -(-len(own) // 16))]
        for batch in (batches[i] for i in random.permutation(len(batches))):
            cues, evidence = (torch.stack([episodes[i][k] for i in batch]).float() for k in ("cues", "evidence"))
            inside, known = (torch.stack([truths[i][k] for i in batch]) for k in (0, 1))
            if random.random() < 0.5:
                cues, evidence, inside, known = (x.flip(-1) for x in (cues, evidence, inside, known))
            logits = evidence + head(cues)
            p = torch.sigmoid(logits) * known
            dice = 1 - (2 * (p * inside).sum((1, 2)) + 1) / ((p + inside * known).sum((1, 2)) + 1)
            wrong = F.binary_cross_entropy_with_logits(logits, inside, known, reduction="none").mean()
            loss = wrong + 0.5 * dice.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.eval()


def overlaps(matching: Any, episode: dict[str, Any], evidence: Tensor) -> tuple[int, int]:
    """Intersection and union of an answer, drawn along the photo's edges at the working size."""
    image = episode["image"].float()[None] / 255
    drawn = matching.along_the_edges(evidence[None], image)
    said = transforms.resize_logits(drawn[:, None], image.shape[-2:])[0, 0] > 0
    known, true = episode["mask"] != 255, episode["mask"] == 1
    return int((said & true & known).sum()), int(((said | true) & known).sum())


def miou(counts: np.ndarray, classes: np.ndarray) -> float:
    """Mean over classes of summed intersections over summed unions, in percent."""
    sums = np.stack([counts[classes == c].sum(0) for c in np.unique(classes)])
    return float(100 * (sums[:, 0] / np.maximum(sums[:, 1], 1)).mean())


def main(args: Try) -> None:
    episodes = gather(args)
    matching = Guided(encoders.load("efficientnet-lite0", "random"), width=8).matching
    rows = []
    for part in range(PARTS):
        crowded = [e["set"] != "pascal_coseg15" for e in episodes]
        own = [e for e, c in zip(episodes, crowded) if e["part"] != part and (not c or e["halves"] == [0, 0])]
        head = train(args, own)
        tested = [e for e, c in zip(episodes, crowded) if e["part"] == part and (not c or e["halves"][0] == 1)]
        print(f"part {part}: trained on {len(own)} episodes, tested on {len(tested)}", flush=True)
        with torch.no_grad():
            for e in tested:
                evidence = e["evidence"].float()
                ours = overlaps(matching, e, evidence + head(e["cues"].float()[None])[0])
                rows.append((e["set"], e["class"], *overlaps(matching, e, evidence), *ours))
    print(
        "| test set | episodes | matching | with the head | paired difference, 95 % |",
        "|---|---|---|---|---|",
        sep="\n",
    )
    for place in SETS:
        mine = [row for row in rows if row[0] == place]
        names, counts = np.array([row[1] for row in mine]), np.array([row[2:] for row in mine])
        before, after = miou(counts[:, :2], names), miou(counts[:, 2:], names)
        random = np.random.default_rng(0)
        draws = [random.integers(len(mine), size=len(mine)) for _ in range(1000)]
        spread = [miou(counts[d][:, 2:], names[d]) - miou(counts[d][:, :2], names[d]) for d in draws]
        low, high = np.percentile(spread, [2.5, 97.5])
        print(
            f"| {place} | {len(mine)} | {before:.1f} | {after:.1f} | {after - before:+.1f} [{low:+.1f}, {high:+.1f}] |"
        )


if __name__ == "__main__":
    main(tyro.cli(Try, description=__doc__))
