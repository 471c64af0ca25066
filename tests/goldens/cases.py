"""What the own golden values are made of: every system once, small, on the demo's photos, with weights told by their names.

They are outputs of our own code on the day they were stored, no one else's: they show a change that nobody meant.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import golden
import shotseg
import tiny_clip
from shotseg import encoders, models
from shotseg.cli.demo import DATA as PHOTOS
from shotseg.data.episodes import list_hash
from shotseg.data.images import read_image, read_mask
from shotseg.data.samples import Episode
from shotseg.encoders.features import Encoder
from shotseg.evaluation import draws, episode_rules, protocols
from shotseg.evaluation.pool import Pool
from shotseg.models.blocks import imagenet_guide
from shotseg.models.blocks.set_criterion import Targets
from shotseg.priors import pixel_adaptive, refinement, superpixels, text
from shotseg.priors.guided_filter import guided_filter
from shotseg.priors.objectness import border_contrast

FOLDER = Path(__file__).parent
VALUES, DRAWS = FOLDER / "own_values.safetensors", FOLDER / "own_draws.json"
LITE, BLOCKS = "efficientnet-lite0", "efficientnet-lite0-blocks"
SIDE = 96  # pixels at which the small models work
Values = dict[str, Tensor]


# --- what goes in ---------------------------------------------------------------------------------------------------


KEPT: set[int] = set()  # ids of the weights that several cases share: they are set once


@functools.cache
def encoder(name: str) -> Encoder:
    """An encoder with the weights that come with the installation."""
    return shared(encoders.load(name))


@functools.cache
def clip() -> Encoder:
    return shared(seeded(tiny_clip.random()))


def shared(model: nn.Module) -> nn.Module:
    KEPT.update(map(id, model.parameters()))
    return model


def seeded(model: nn.Module) -> nn.Module:
    """A model whose weights are a function of their names and shapes, but for those that are shared."""
    drawn = [(name, x) for name, x in model.named_parameters() if id(x) not in KEPT]
    drawn += [(name, x) for name, x in model.named_buffers() if name.endswith("bank")]
    with torch.no_grad():
        for name, x in drawn:
            x.copy_(golden.weight(name, tuple(x.shape), 1))
    return model.eval()


@functools.cache
def small(name: str, longest: int = 256, square: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A photo of the demo, (H, W, 3) uint8, and its mask, at a size that nothing resizes again.

    By Pillow, whose whole numbers are the same everywhere: torchvision's differ by one step from processor to processor.
    """
    image, mask = read_image(PHOTOS / "images" / f"{name}.jpg"), read_mask(PHOTOS / "masks" / f"{name}.png")
    size = (longest, longest) if square else tuple(round(x * longest / max(mask.shape)) for x in mask.shape[::-1])
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    return np.array(resized), np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def photo(name: str) -> tuple[Tensor, Tensor]:
    """(3, SIDE, SIDE) in [0, 1] and (SIDE, SIDE) in {0, 1} of a photo of the demo."""
    image, mask = small(name, SIDE, square=True)
    return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(mask).long()


def episode() -> Episode:
    """One query and two shots of a dress."""
    (query, target), *shots = (photo(name) for name in ("dress/0052", "dress/example", "dress/0074"))
    images, masks = (torch.stack(parts)[None] for parts in zip(*shots))
    return Episode(query[None], images, torch.tensor([3]), target[None], masks, ("dress",))


@contextmanager
def words_cost_nothing() -> Iterator[None]:
    """A name is a fixed weighting of the ImageNet labels, so that no text encoder is needed."""
    weights = golden.uniform("imagenet labels", (1, 1000), 1).clamp(min=0.98) - 0.98
    with mock.patch.object(imagenet_guide, "imagenet_weights", lambda name: weights):
        yield


# --- the systems ----------------------------------------------------------------------------------------------------


def few_shot(name: str, on: Encoder | None = None, **options) -> Values:
    """The logits of an episode, and the losses of those that learn, of a model of that name."""
    with words_cost_nothing(), torch.no_grad():
        model, task = seeded(models.load(name, on or encoder(LITE), **options)), episode()
        query = model.encode(task.query)
        masks = None if model.needs == "name" else task.support_mask
        support = model.encode_support(task.support, masks, class_names=task.class_name)
        found = {"logits": model(query, support, task.query).logits}
        losses = model.loss(task) if models.must_learn(name) else {}
        return found | {f"loss {term}": value for term, value in losses.items()}


def tlg() -> Values:
    with TemporaryDirectory() as folder:
        rows = Path(folder, "rows.safetensors")
        save_file({"dress": golden.uniform("dress", (3, 8), 1)}, rows)
        return few_shot("tlg", encoder(BLOCKS), text=str(rows), grid=8, widths=(8, 8, 16))


def weak_shot(name: str) -> Values:
    """Scores of a photo, and the losses of a pair of photos with one class known by name alone."""
    options = {"width": 32, "mask_width": 32, "queries": 6, "layers": 2, "heads": 2, "ffn": 32, "finest": 8}
    options |= {"novel": (2, 3), "simnet_width": 8, "points": 10, "distil_loss": "b0.5"} if name == "simformer" else {}
    model = seeded(models.load(name, encoder(LITE), classes=4, train_encoder=False, **options))
    pairs = [photo("dress/0052"), photo("dress/0074")]
    images, maps = (torch.stack(parts) for parts in zip(*pairs))
    with torch.no_grad():
        layers = model(images)
        found = {"scores": model.scores(images), "masks": layers.proposals[-1].masks}
        if name == "maskformer":
            losses = model.loss(images, maps)
        else:
            targets = Targets.of(maps, [(2,), (2,)])
            losses = model.criterion(layers.proposals, targets)
            last, grid = layers.proposals[-1], layers.pixels.shape[-2:]
            noise = [golden.uniform(f"noise {i}", (2, *grid), 1).abs() for i in range(3)]
            drawn = (layers.pixels, last.classes, last.masks, maps, targets.padding)
            pair, distilled, _ = model.pairs(*drawn, [True], [1], noise)
            losses |= {"similarity": pair, "distillation": distilled}
    return found | {f"loss {term}": value for term, value in losses.items()}


def priors() -> Values:
    """Each training-free map on one photo, or a photo and its two examples."""
    task = episode()
    with torch.no_grad():
        query, coarse = encoder(LITE)(task.query), task.query_mask[:, None, ::4, ::4].float()
        attention = golden.uniform("attention", (2, 1, 37, 37), 1).abs() + 0.1
        cam = golden.uniform("cam", (1, 1, 6, 6), 1).abs()
        image = (task.query[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        return {
            "VTP": text.VTP(clip(), task.query, ("dress",)),
            "CLIP-ES": text.CLIP_ES_MAPS(clip(), task.query, ("dress",)),
            "PIR": refinement.PIR(cam, attention),
            "PAR": pixel_adaptive.par(task.query, coarse),
            "PAMR": pixel_adaptive.pamr(task.query, coarse),
            "guided filter": guided_filter(coarse, task.query[..., ::4, ::4]),
            "border contrast": border_contrast(query.maps[-2]),
            "superpixels": torch.from_numpy(superpixels.slic(image, 12)).float(),
        }


def matching() -> Values:
    """The main job: two classes, an example of each, and a photo that shows both and one that is said to show one."""
    segmenter = shotseg.Segmenter(device="cpu", size=256)
    for name in ("dress", "hair"):
        image, mask = small(f"{name}/example")
        segmenter.add(name, [image], [mask])
    found = {}
    for shown in ("dress/0092", "hair/0002"):
        result = segmenter.predict(small(shown)[0])
        for name in segmenter.classes:
            found[f"{shown} {name} probability"] = torch.from_numpy(result.probabilities[name])
            found[f"{shown} {name} numbers"] = torch.tensor(
                [result.present[name], result.areas[name], result.confidences[name]]
            )
    return found


PFENET, BASE = {"size": SIDE, "width": 16}, {"base_classes": (3, 7, 9)}
CASES: dict[str, Callable[[], Values]] = {
    "matching": matching,
    "priors": priors,
    "pfenet": lambda: few_shot("pfenet", **PFENET),
    "bam": lambda: few_shot("bam", **PFENET, **BASE),
    "hdmnet": lambda: few_shot("hdmnet", **PFENET, **BASE, tokens=16),
    "guided": lambda: few_shot("guided", **PFENET),
    "pi-clip": lambda: few_shot("pi-clip", **PFENET, **BASE, tokens=16, clip=clip()),
    "pi-clip-priors": lambda: few_shot("pi-clip-priors", clip()),
    "pi-clip-zero-shot": lambda: few_shot("pi-clip-zero-shot", clip()),
    "qgnet": lambda: few_shot("qgnet", **PFENET, segments=8, extractor="same"),
    "qgnet with a bank": lambda: few_shot("qgnet", **PFENET, prior_source="bank", centres=4, extractor="same"),
    "hsnet": lambda: few_shot("hsnet", encoder(BLOCKS), widths=(8, 8, 16)),
    "tlg": tlg,
    "cst": lambda: few_shot("cst", size=SIDE, supervision="pixel"),
    "corenet": lambda: few_shot("corenet", size=SIDE),
    "corenet with CLIP": lambda: few_shot("corenet", size=SIDE, guide="clip", clip=clip()),
    "maskformer": lambda: weak_shot("maskformer"),
    "simformer": lambda: weak_shot("simformer"),
}


# --- the draws ------------------------------------------------------------------------------------------------------


def pool(shots: int) -> Pool:
    """Thirty photos, each of two of three classes."""
    pairs = [(f"photo{i:02d}", c) for i in range(30) for c in range(3) if (i + c) % 3]
    items = [
        SimpleNamespace(id=f"{photo}/{c}", content=photo, class_id=c, class_name=str(c), mask_path=photo)
        for photo, c in pairs
    ]
    return Pool(SimpleNamespace(items=items), ["0", "1", "2"], shots)


def drawn() -> dict[str, str]:
    """The hashes of what each protocol's rule draws, and of a draw of several classes at once."""
    found = {}
    for rule in sorted(episode_rules.RULES):
        for shots in (1, 3):
            own = pool(shots)
            protocol = protocols.preset("shotseg").override(rule=rule, episodes=50)
            listed = episode_rules.draw_episodes(protocol, own, shots, 5)
            found[f"{rule}, {shots} shots"] = list_hash(episode_rules.named(own, listed))
    for ways in (2, 3):
        own = pool(2)
        found[f"{ways} ways"] = list_hash(draws.named(own, draws.draw(own, ways, shots=2, queries=3, seed=5)))
    return found


def kept(x: Tensor) -> Tensor:
    """What is stored of a value: of a map about 24 places a side, in half precision, which is finer than the test's tolerance."""
    if x.dim() < 2:
        return x.detach().contiguous()
    step = max(1, max(x.shape[-2:]) // 24)
    return x.detach()[..., ::step, ::step].contiguous().half()
