"""What contrastive learning sees of a photo: two global views, two patches around superpixels, regions in both views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from scipy import ndimage
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as moves

from shotseg.data.folder import Item
from shotseg.data.images import write_bytes
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.data.transforms import MEAN
from shotseg.priors.superpixels import felzenszwalb, slic
from shotseg.training.recipe import ContrastiveChoice

LONGEST = 320  # side of the photo that superpixels are computed on
REGIONS = 16  # of a photo, at most
CELLS = 5  # of the control "grid", a side
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True, eq=False)
class Views:
    """B photos, images in [0, 1]; ``query``, ``key``: (B, 3, S, S) global views; local ones (B, 3, s, s) or None.

    Of the region objective: ``query_regions``, ``key_regions`` (B, L, L) int64, the number 1..16 of the region or 0;
    ``apart`` (B, 16, 16) bool, which pairs of a photo's regions are told apart.
    """

    query: Tensor
    key: Tensor
    local_query: Tensor | None = None
    local_key: Tensor | None = None
    query_regions: Tensor | None = None
    key_regions: Tensor | None = None
    apart: Tensor | None = None

    def to(self, device: torch.device | str) -> Views:
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})

    @staticmethod
    def cat(parts: Sequence[Views]) -> Views:
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return Views(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Superpixels:
    """Label maps of photos, (H', W') int64 with the longer side at most 320; computed once, one file a photo."""

    def __init__(self, folder: Path, choice: ContrastiveChoice, reading: Reading = AS_SEEN):
        self.reading = reading
        self.folder, self.kind, self.count = folder, choice.segments, choice.superpixels

    def path(self, photo: Item) -> Path:
        name = json.dumps(
            [photo.content, self.kind, self.count if self.kind == "slic" else 0, *self.reading.said.values()]
        )
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def prepare(self, photo: Item) -> None:
        """Make the file of a photo, if it is not there."""
        path = self.path(photo)
        if not path.is_file():
            labels = segment(self.reading.page_of(photo), self.kind, self.count)
            write_bytes(path, save({"labels": torch.from_numpy(labels.astype(np.int16))}))

    def read(self, photo: Item) -> Tensor:
        self.prepare(photo)
        return load(self.path(photo).read_bytes())["labels"].long()


def segment(image: np.ndarray, kind: str = "slic", count: int = 50) -> np.ndarray:
    """(H, W, 3) uint8 -> (H', W') int64 labels from 0, the longer side at most 320."""
    small = Image.fromarray(image)
    small.thumbnail((LONGEST, LONGEST))
    pixels = np.asarray(small)
    if kind == "slic":
        return slic(pixels, count)
    if kind == "felzenszwalb":
        return felzenszwalb(pixels)
    rows, columns = (np.arange(n) * CELLS // n for n in pixels.shape[:2])
    return rows[:, None] * CELLS + columns[None]


def views(image: np.ndarray, labels: Tensor | None, choice: ContrastiveChoice, size: int, stream: Generator) -> Views:
    """A photo (H, W, 3) uint8 and its superpixels -> a batch of one, every random number drawn from ``stream``."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    sides = (pixels.shape[-2], pixels.shape[-1])
    boxes = [random_box(sides, (0.2, 1.0), stream) for _ in range(2)]
    flips = [_uniform(stream) < 0.5 for _ in range(2)]
    made = [coloured(cut(pixels, box, size, flip), stream)[None] for box, flip in zip(boxes, flips)]
    if choice.objective == "region":
        assert labels is not None
        return Views(*made, **_regions(labels, sides, boxes, flips, size // 2, stream))
    if choice.ll == 0 and choice.gl == 0:
        return Views(*made)
    patches = _patches(pixels, labels, choice, stream)
    local = []
    for patch in patches:
        box = random_box((patch.shape[-2], patch.shape[-1]), (0.5, 1.0), stream)
        view = cut(patch, box, choice.local_size or size, _uniform(stream) < 0.5)
        local.append(coloured(view, stream)[None])
    return Views(*made, *local)


def random_box(sides: tuple[int, int], area: tuple[float, float], stream: Generator) -> Box:
    """A window of a share of the area and an aspect from 3:4 to 4:3, as torchvision's RandomResizedCrop draws it."""
    height, width = sides
    for _ in range(10):
        wanted = _uniform(stream, *area) * height * width
        aspect = float(np.exp(_uniform(stream, np.log(3 / 4), np.log(4 / 3))))
        w, h = round((wanted * aspect) ** 0.5), round((wanted / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return _whole(stream, height - h), _whole(stream, width - w), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def cut(pixels: Tensor, box: Box, size: int, flip: bool) -> Tensor:
    """A window of (3, H, W) uint8 as (3, size, size) float32 in [0, 1]."""
    view = moves.resized_crop(pixels, *box, size=[size, size], antialias=True)
    return (view.flip(-1) if flip else view).float().div_(255)


def coloured(view: Tensor, stream: Generator) -> Tensor:
    """MoCo v2's changes of colour: jitter (.4, .4, .4, .1) with 0.8, grey with 0.2, Gaussian blur with 0.5."""
    if _uniform(stream) < 0.8:
        for change in torch.randperm(4, generator=stream).tolist():
            if change == 3:
                view = moves.adjust_hue(view, _uniform(stream, -0.1, 0.1))
            else:
                adjust = (moves.adjust_brightness, moves.adjust_contrast, moves.adjust_saturation)[change]
                view = adjust(view, _uniform(stream, 0.6, 1.4))
    if _uniform(stream) < 0.2:
        view = moves.rgb_to_grayscale(view, num_output_channels=3)
    if _uniform(stream) < 0.5:
        sigma = _uniform(stream, 0.1, 2.0)
        kernel = 2 * max(1, round(3 * sigma)) + 1
        if kernel // 2 < min(view.shape[-2:]):
            view = moves.gaussian_blur(view, [kernel, kernel], [sigma, sigma])
    return view


def candidates(labels: Tensor, sides: tuple[int, int]) -> dict[int, Box]:
    """Superpixels worth a patch, with their boxes in the photo: 1 to 60 % of the area, both sides 24 pixels or more."""
    down, across = sides[0] / labels.shape[0], sides[1] / labels.shape[1]
    boxes, shares = {}, (labels.flatten().bincount() / labels.numel()).tolist()
    for label, (top, left, height, width) in _boxes(labels).items():
        box = (round(top * down), round(left * across), round(height * down), round(width * across))
        if 0.01 <= shares[label] <= 0.6 and min(box[2:]) >= 24:
            boxes[label] = box
    return boxes


def enlarged(box: Box, sides: tuple[int, int], share: float = 0.15) -> Box:
    """A box with so much of its sides more on each side, inside the photo."""
    ends = []
    for start, length, side in zip(box[:2], box[2:], sides):
        more = round(share * length)
        ends.append((max(0, start - more), min(side, start + length + more)))
    (top, bottom), (left, right) = ends
    return top, left, bottom - top, right - left


def _patches(pixels: Tensor, labels: Tensor | None, choice: ContrastiveChoice, stream: Generator) -> list[Tensor]:
    """Two windows of the photo (3, h, w) uint8."""
    sides = (pixels.shape[-2], pixels.shape[-1])
    box_of = {} if labels is None else candidates(labels, sides)
    if not box_of:
        boxes = [random_box(sides, (0.05, 0.2), stream) for _ in range(2)]
        boxes = boxes if choice.pairing == "image" else boxes[:1] * 2
        return [pixels[:, top : top + h, left : left + w] for top, left, h, w in boxes]
    drawn = [list(box_of)[_whole(stream, len(box_of) - 1)] for _ in range(2)]
    made = []
    for label in drawn if choice.pairing == "image" else drawn[:1] * 2:
        top, left, height, width = enlarged(box_of[label], sides)
        patch = pixels[:, top : top + height, left : left + width]
        if choice.mask_outside:
            assert labels is not None
            inside = F.interpolate((labels == label)[None, None].float(), sides, mode="nearest-exact")[0]
            grey = (torch.tensor(MEAN) * 255).round().byte()[:, None, None]
            patch = torch.where(inside[:, top : top + height, left : left + width] > 0, patch, grey)
        made.append(patch)
    return made


def _regions(
    labels: Tensor, sides: tuple[int, int], boxes: list[Box], flips: list[bool], size: int, stream: Generator
) -> dict[str, Tensor]:
    """The regions of both views, numbered alike, and which of them are told apart."""
    label_views = []
    for (top, left, height, width), flip in zip(boxes, flips):
        rows = _places(top, height, sides[0], labels.shape[0], size)
        columns = _places(left, width, sides[1], labels.shape[1], size)
        view = labels[rows][:, columns]
        label_views.append(view.flip(-1) if flip else view)
    least = 0.02 * size * size
    common = set.intersection(
        *({int(n) for n, c in zip(*v.unique(return_counts=True)) if c >= least} for v in label_views)
    )
    order = torch.randperm(len(common), generator=stream).tolist()[:REGIONS]
    regions = [sorted(common)[i] for i in order]
    number = torch.zeros(int(labels.max()) + 1, dtype=torch.long)
    number[regions] = torch.arange(1, len(regions) + 1)
    box_of = _boxes(labels)
    apart = torch.ones(REGIONS, REGIONS, dtype=torch.bool)
    for i, one in enumerate(regions):
        for j, other in enumerate(regions):
            apart[i, j] = i == j or _overlap(box_of[one], box_of[other]) <= 0.5
    query, key = (number[view][None] for view in label_views)
    return {"query_regions": query, "key_regions": key, "apart": apart[None]}


def _places(start: int, length: int, side: int, cells: int, size: int) -> Tensor:
    """Which of ``cells`` along a side the ``size`` points of a window meet."""
    at = (start + (torch.arange(size) + 0.5) * length / size) / side * cells
    return at.long().clamp(max=cells - 1)


def _boxes(labels: Tensor) -> dict[int, Box]:
    windows = ndimage.find_objects(labels.numpy() + 1)
    return {
        label: (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        for label, (rows, columns) in ((i, window) for i, window in enumerate(windows) if window is not None)
    }


def _overlap(one: Box, other: Box) -> float:
    height, width = (min(one[d] + one[d + 2], other[d] + other[d + 2]) - max(one[d], other[d]) for d in (0, 1))
    both = max(0, height) * max(0, width)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def _uniform(stream: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=stream))


def _whole(stream: Generator, most: int) -> int:
    """From 0 to ``most``."""
    return int(torch.randint(most + 1, (), generator=stream))
