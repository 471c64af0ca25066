"""Recipes: every choice of a training in one frozen dataclass, read from YAML; each field is also a flag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from shotseg.arguments import checked
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import UsageError, note
from shotseg.training.recipe_values import MOST, built, check_ranges

Value = bool | int | float | str | tuple[int | float | str, ...]


@dataclass(frozen=True)
class ModelChoice:
    """Which network learns, and on what."""

    name: str = "pfenet"
    """See: shotseg list models; "base-learner" is the PSPNet of BAM and HDMNet."""
    encoder: str = "efficientnet-lite0"
    """See: shotseg list encoders."""
    weights: str = "default"
    """Of the encoder: "default", "random" or a file."""
    size: int = 473
    """Side of the square that training works on, and the longer working side afterwards."""
    geometry: Literal["fit", "squash", "short", ""] = ""
    """How photos come to that size after training; empty = as the model was made. "short": by their shorter side."""
    options: dict[str, Value] = field(default_factory=dict)
    """Further keywords of the model's class."""


@dataclass(frozen=True)
class DataChoice:
    """Which photos it learns from. Photos of test classes are never seen in training or validation."""

    name: str = "folder"
    """See: shotseg list datasets."""
    fold: str = "0"
    """Test fold, as the data set names it; empty = the data set has no folds and every class is trained on."""
    test_classes: tuple[str, ...] = ()
    """Of a folder: test classes by name, in place of a fold."""
    family: str = ""
    """Published image lists, where a data set has several."""
    folds: str = ""
    """Fold definition, where a data set has several."""
    novel: Literal["drop", "keep"] = "drop"
    """Training photos that also show a test class: left out, or kept with it as background."""
    every_photo: bool = False
    """Of a base learner on a prepared data set: as in BAM's release, every photo of the training list teaches, be it that it
    shows no base class, or a test class, which is then background."""
    draw: Literal["class", "pair", "photo"] = "class"
    """Of episodes: a class, then one of its photos; or, as released, the list of (photo, class) pairs, or of photos, each once
    an epoch."""
    held_out: float = 0.1
    """Share of the training photos that is kept for validation, told by their content."""
    supervision: Literal["mask", "pseudo"] = "mask"
    """Train and validate on drawn masks, or on masks made from class names; drawn ones are then never read."""
    pseudo: str = ""
    """Folder of those masks, masks/<class>/<name>.png; what is not there yet is made. Empty = pseudo/ in the results."""
    reading: Reading = AS_SEEN


@dataclass(frozen=True)
class Augment:
    """Random changes of a training photo."""

    geometry: Literal["crop", "squash", "short"] = "crop"
    """Random crop of the size, or the whole photo squashed to it. "short": MaskFormer's, the shorter side scaled, a
    crop of the size at most, padded to it."""
    scale: tuple[float, float] = (0.9, 1.1)
    degrees: float = 10.0
    rotate: float = 0.5
    """Chance of a rotation."""
    blur: float = 0.5
    flip: float = 0.5
    jitter: float = 0.0
    keep: float = 0.0
    """Of crop: share of the foreground that must be in it (the releases of PFENet's family: 0.85); 0 = some of it."""


@dataclass(frozen=True)
class Optimiser:
    """How weights move."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 2.5e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    """Of SGD."""
    factors: dict[str, float] = field(default_factory=dict)
    """Learning rate factors by the beginning of a parameter's name; the longest that fits counts, "" fits all."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 = not clipped."""
    decay_norms: bool = True
    """Weight decay also on norm layers and embeddings."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps."""

    name: Literal["poly", "cosine", "constant"] = "poly"
    power: float = 0.9
    """Of poly."""
    warmup: int = 0
    """Steps over which the rate rises from a tenth to the whole."""


@dataclass(frozen=True)
class Validation:
    """Which weights are the best: measured on photos that training leaves out, of classes that are no test classes."""

    every: int = 1000
    """Steps between two validations; 0 = only at the end."""
    episodes: int = 200
    """Of a base learner: photos."""
    seed: int = 321
    patience: int = 0
    """Stop after so many validations without a better one; 0 = never."""
    on_test_fold: bool = False
    """Choose on the test classes, as the papers' releases do. The number reported is then too high."""


@dataclass(frozen=True)
class WeakShotChoice:
    """Of SimFormer and MaskFormer: what is known of which class. Novel classes are those of data.test_classes or fold."""

    supervision: Literal["weak", "base", "full"] = "weak"
    """Base masks and tags of novel classes; base masks alone; or every mask, the ceiling."""
    label_scope: Literal["image", "crop"] = "image"
    """Tags are of the whole photo; or, as released, of what the crop shows, read from the novel classes' pixels."""
    background: Literal["unknown", "base"] = "unknown"
    """Of class folders: what no mask covers in a photo with a novel class is unknown, or outlined as a base class."""
    labels: tuple[str, ...] = ()
    """Of a folder of label maps without classes.csv: the names of its values 0, 1, ..."""
    pairing: Literal["deconfounded", "novel", "base", "random"] = "deconfounded"
    """How a photo's partner is chosen."""
    rarest: float = 0.01
    """Of deconfounded: the chance to take the rarest of the photo's novel classes."""
    retrain: bool = True
    """Train a MaskFormer again on base masks and pseudo labels."""
    anew: bool = True
    """The second training begins anew, as in the paper; or with what the first has learnt."""
    scales: tuple[int, ...] = ()
    """Shorter sides that pseudo labels are averaged over; empty = the working size."""
    flip: bool = False
    """Pseudo labels are averaged with those of the mirrored photo."""
    reference: bool = False
    """Partner lists as released."""


@dataclass(frozen=True)
class ContrastiveChoice:
    """Of QGNet's prior extractor: what is told apart from what, without labels."""

    objective: Literal["patches", "region"] = "patches"
    """Local views are patches around superpixels; or superpixels seen in both global views, averaged on the map."""
    segments: Literal["slic", "felzenszwalb", "grid", "none"] = "slic"
    """Where patches come from; "grid" and "none" (random small crops) are controls."""
    superpixels: int = 50
    """Of SLIC, about."""
    pairing: Literal["image", "segment"] = "image"
    """The two patches of a photo: of any two superpixels, or two views of one."""
    mask_outside: bool = False
    """Paint a patch grey outside its superpixel."""
    local_size: int = 0
    """Side of a patch; 0 = model.size."""
    local_head: Literal["shared", "separate"] = "shared"
    gg: float = 1.0
    """Weight of the term global-global; of the others below. 0 = left out, as in the ablations."""
    ll: float = 1.0
    """Local-local; with objective=region the term of the regions."""
    gl: float = 1.0
    """Global-local, both ways."""
    symmetric: bool = False
    """Each view is query and key once; twice the cost."""
    temperature: float = 0.2
    region_temperature: float = 0.1
    dim: int = 128
    mlp: bool = True
    """Head of MoCo v2; False: v1."""
    momentum: float = 0.999
    queue: int = 0
    """Keys of earlier batches; 0 = half the photos, 65536 at most, in whole batches."""
    queues: Literal["separate", "shared"] = "separate"
    """Global and local keys apart, or in one queue."""
    bn_groups: int = 8
    """Parts of a process's batch that batch norms see apart, so that they do not tell which views belong together."""


CHANCE = (0.0, 1.0)
POSITIVE = (1e-6, MOST)
COUNT = (1, MOST)
BATCH = (1, 2**14)
NONE_OR_MORE = (0, MOST)
SEED = (0, 2**63 - 1)
RANGES: dict[str, tuple[float, float]] = {  # of a number, and of each in a list
    "model.size": (32, MOST),
    "data.held_out": CHANCE,
    "augment.scale": (0.01, 100),
    "augment.degrees": (0, 180),
    "augment.rotate": CHANCE,
    "augment.blur": CHANCE,
    "augment.flip": CHANCE,
    "augment.jitter": CHANCE,
    "augment.keep": CHANCE,
    "optimiser.lr": NONE_OR_MORE,
    "optimiser.weight_decay": NONE_OR_MORE,
    "optimiser.momentum": CHANCE,
    "optimiser.factors": NONE_OR_MORE,
    "optimiser.clip": NONE_OR_MORE,
    "schedule.power": NONE_OR_MORE,
    "schedule.warmup": NONE_OR_MORE,
    "validation.every": NONE_OR_MORE,
    "validation.episodes": COUNT,
    "validation.seed": SEED,
    "validation.patience": NONE_OR_MORE,
    "weak_shot.rarest": CHANCE,
    "weak_shot.scales": COUNT,
    "contrastive.superpixels": COUNT,
    "contrastive.local_size": NONE_OR_MORE,
    "contrastive.gg": NONE_OR_MORE,
    "contrastive.ll": NONE_OR_MORE,
    "contrastive.gl": NONE_OR_MORE,
    "contrastive.temperature": POSITIVE,
    "contrastive.region_temperature": POSITIVE,
    "contrastive.dim": COUNT,
    "contrastive.momentum": CHANCE,
    "contrastive.queue": NONE_OR_MORE,
    "contrastive.bn_groups": COUNT,
    "shots": COUNT,
    "absent": CHANCE,
    "batch": BATCH,
    "accumulate": BATCH,
    "steps": NONE_OR_MORE,
    "epochs": NONE_OR_MORE,
    "ema": CHANCE,
    "seed": SEED,
    "workers": NONE_OR_MORE,
    "save_every": COUNT,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training."""

    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    augment: Augment = field(default_factory=Augment)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    validation: Validation = field(default_factory=Validation)
    weak_shot: WeakShotChoice = field(default_factory=WeakShotChoice)
    contrastive: ContrastiveChoice = field(default_factory=ContrastiveChoice)
    shots: int = 1
    """Support photos in an episode."""
    absent: float = 0.0
    """Chance that an episode asks for another class than its query was drawn for: the target is then background alone."""
    absent_by: Literal["query", "class"] = "query"
    """How: by a query that shows nothing of the class; or, as in CST's release, by any other class, which the query may show."""
    batch: int = 4
    """Episodes (or photos) a step: of all processes and accumulated parts together."""
    accumulate: int = 1
    """Parts that a step's batch is cut into, to need less memory."""
    steps: int = 0
    """Length of the training, or 0: ``epochs`` over the list of training photos."""
    epochs: float = 0.0
    sync_bn: bool = True
    """On several CUDA devices: batch norms that learn see the batch of all of them, not their own part."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    deterministic: bool = False
    """On CUDA: the same sums twice, so that a resumed run ends with the same weights bit for bit; slower."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is validated and kept; 0 = none."""
    seed: int = 321
    workers: int = 2
    """Processes that read photos, for each training process, one a core at most. Never changes the outcome."""
    save_every: int = 500
    """Steps between two checkpoints to resume from."""
    cache_features: bool = False
    """Keep the frozen features on disk: much faster, but the only augmentation is then the flip."""
    base: str = ""
    """The base learner that BAM and HDMNet need: a recipe to train it by, or the checkpoint of one; empty = none."""
    extractor: str = ""
    """QGNet's prior extractor: a contrastive recipe to train it by, the checkpoint of one, or MoCo's; empty = as loaded."""
    unlabelled: str = ""
    """Folder of photos to train the prior extractor on; empty = the training photos. Labels are never read of it."""

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if (self.steps > 0) == (self.epochs > 0):
            raise UsageError(f"recipe fields steps={self.steps}, epochs={self.epochs}: give one of them")
        if self.ema == 1 or self.data.held_out == 1:
            raise UsageError("recipe fields ema and data.held_out: from 0 to below 1")
        if not (self.contrastive.gg or self.contrastive.ll or self.contrastive.gl):
            raise UsageError("recipe fields contrastive.gg, ll and gl are all 0: nothing is left to learn")
        if self.augment.scale[0] > self.augment.scale[1]:
            raise UsageError(f"recipe field augment.scale={list(self.augment.scale)}: give the lower end first")


RENAMED = {
    "pfenet/tiny": "guided/tiny",
    "hdmnet/tiny": "guided/tiny-hdmnet",
}  # the old names go with the next minor version


def list_recipes() -> list[str]:
    """The names that :func:`load` takes, as ``bam/tiny``."""
    folder = files("shotseg.training") / "recipes"
    return sorted(
        f"{system.name}/{recipe.name.removesuffix('.yaml')}"
        for system in folder.iterdir()
        if system.is_dir()
        for recipe in system.iterdir()
        if recipe.name.endswith(".yaml")
    )


@checked
def load(name: str | Path, **changes: Any) -> Recipe:
    """A recipe by name, or from a YAML file of your own; ``changes``: fields of sections, as nested dicts.

    Raises UsageError for an unknown name, and for an unknown field or a value of the wrong kind, naming it.
    """
    return build(_merged(_read(str(name)), changes), str(name))


def build(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from nested dicts, as :func:`plain` gives."""
    return built(Recipe, content, where)


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back: nested dicts, lists for tuples."""
    return json.loads(json.dumps(asdict(recipe)))


def decisive(recipe: Recipe) -> dict[str, Any]:
    """:func:`plain` without what changes no step that is done: it may be another on ``--resume``.

    A longer training is the same so far only where the rate does not depend on its length.
    """
    free = ["workers", "save_every", *(("steps", "epochs") if recipe.schedule.name == "constant" else ())]
    return {name: value for name, value in plain(recipe).items() if name not in free}


def _read(name: str, under: tuple[str, ...] = ()) -> dict[str, Any]:
    """under: the files that extend it, the outermost first; a file is looked for beside the one that names it."""
    if under and (beside := Path(under[-1]).parent / name).is_file():
        name = str(beside)
    if name in under:
        raise UsageError(f"{under[-1]}: extends {name!r}, which extends it; take one of them out")
    path: Any = Path(name)
    if name in RENAMED:
        note(f"recipe {name} is now called {RENAMED[name]}, after the model that it trains; the old name goes soon")
        name = RENAMED[name]
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        if path.suffix in (".yaml", ".yml"):
            raise UsageError(f"{name}: no such recipe file; check the path")
        known = list_recipes()
        if name not in known:
            near = get_close_matches(name, [*known, *RENAMED], 1)
            hint = f", did you mean {RENAMED.get(near[0], near[0])!r}?" if near else ""
            raise UsageError(f"no recipe {name!r}{hint}; see `shotseg list recipes`, or give a .yaml file")
        path = files("shotseg.training") / "recipes" / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{name}: no YAML that can be read ({str(error).splitlines()[0]}); correct the file"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{name}: a recipe is a list of `field: value`; correct the file")
    parent = content.pop("extends", None)
    if not isinstance(parent, str | None):
        raise UsageError(f"{name}: extends {parent!r}; give the name of one recipe, or a .yaml file")
    return _merged(_read(parent, (*under, name)), content) if parent else content


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out
