"""Which photos train, which validate, and what is kept of them on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Generator, Tensor

from shotseg import data
from shotseg.data import transforms
from shotseg.data.annotations.opened import open_folder
from shotseg.data.folder import Item
from shotseg.data.images import read_image, read_pair, write_bytes, write_png
from shotseg.data.manifest import ManifestDataset, PreparedPhoto
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.data.samples import IGNORE, Sample
from shotseg.data.usable import usable
from shotseg.encoders.features import Features
from shotseg.errors import InputError, UsageError
from shotseg.priors.pseudo_masks import from_name
from shotseg.training.recipe import Augment, DataChoice


class Part:
    """The items of a data set whose photos are among ``contents``: ``items``, ``sample(i)`` and ``classes`` (names).

    listed: positions in ``items`` of what shows enough of its class to be in the data set's lists. Of the others, on a
            prepared data set, a photo's query may be, where a protocol asks for any class that a photo shows.
    photos: of a prepared data set, positions in ``dataset.photos``, those that show no class of ``classes`` too.
    """

    def __init__(self, dataset: Any, contents: Container[str]):
        self.dataset = dataset
        self.positions = [i for i, item in enumerate(dataset.items) if item.content in contents]
        self.items: list[Item] = [dataset.items[i] for i in self.positions]
        self.classes: list[str] = dataset.classes
        large = _large(dataset)
        self.listed = [n for n, at in enumerate(self.positions) if at in large]
        self.photos = [n for n, photo in enumerate(_photos(dataset)) if photo.image in contents]

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        return self.dataset.sample(self.positions[index])

    def prepare(self, index: int) -> None:
        """Make what an item needs on the disk, if it is not there."""

    def mask_files(self, index: int) -> Sequence[Path]:
        """The files that an item's mask is read from."""
        return self.items[index].mask_paths

    @cached_property
    def images(self) -> list[Item]:
        """The photos, each once; their classes mean nothing."""
        prepared = [photo_alone(self.dataset.manifest.root / self.dataset.photos[i].image) for i in self.photos]
        return prepared or list({item.content: item for item in self.items}.values())

    @cached_property
    def of_photo(self) -> dict[str, list[int]]:
        """Positions of the items of each photo, by its content."""
        return _grouped((item.content, i) for i, item in enumerate(self.items))

    @cached_property
    def of_class(self) -> dict[int, list[int]]:
        """Positions of the listed items of each class."""
        return _grouped((self.items[i].class_id, i) for i in self.listed)

    def showing(self, content: str, class_id: int) -> int | None:
        """The item of a photo that shows a class, be it a few pixels; None where nothing of it is known to be there."""
        return next((i for i in self.of_photo[content] if self.items[i].class_id == class_id), None)

    def classes_with(self, photos: int) -> list[int]:
        """Ids of the classes that have at least so many different photos in their lists."""
        return sorted(
            class_id
            for class_id, listed in self.of_class.items()
            if len({self.items[i].content for i in listed}) >= photos
        )


def photo_alone(path: Path, page: int = 1, pages: int = 1) -> Item:
    """A photo of which no class is known."""
    return Item(path.name, "", 0, path, page=page, pages=pages)


def _photos(dataset: Any) -> Sequence[PreparedPhoto]:
    return dataset.photos if isinstance(dataset, ManifestDataset) else ()


def _large(dataset: Any) -> Container[int]:
    """Positions of the items that show enough of their class for the lists of the data set's family."""
    if not isinstance(dataset, ManifestDataset):
        return range(len(dataset.items))
    least = dataset.manifest.family(dataset.family)[1]["min_pixels"]
    return {i for i, area in enumerate(dataset.areas) if area >= least}


def _grouped(pairs: Iterable[tuple[Any, int]]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for key, position in pairs:
        groups.setdefault(key, []).append(position)
    return groups


class PseudoPart(Part):
    """A part whose masks come from class names alone: a drawn mask, if there is one, is never opened.

    folder: of masks/<class>/<name>.png, (H, W) in {0, 255 = the class}, or of {0, 1, 255 = not known} labels, or what
            `shotseg pseudo-label` wrote for a folder that these photos lie in; what is not there is made on first use
            and written whole or not at all, so several processes may share the folder.
    make:   photo (H, W, 3) uint8 and class name -> (H, W) uint8 in {0, 1, 255}.
    """

    def __init__(
        self,
        part: Part,
        folder: Path,
        make: Callable[[np.ndarray, str], np.ndarray] = from_name,
        reading: Reading = AS_SEEN,
    ):
        super().__init__(part.dataset, part.of_photo)
        self.folder, self.make, self.reading = folder, make, reading

    def path(self, index: int) -> Path:
        item = self.items[index]
        own = self.folder / "masks" / f"{item.id}.png"
        if own.is_file():
            return own
        parts = item.image_path.with_suffix("").parts  # pseudo-label names a mask by the photo's path below its folder
        below = (self.folder / "masks" / item.class_name / Path(*parts[at:]) for at in range(1, len(parts)))
        labelled = (path.with_name(f"{path.name}.png") for path in below)
        return next((path for path in labelled if path.is_file()), own)

    def prepare(self, index: int) -> None:
        """Make the mask of an item, if it is not there. Raises InputError where `pseudo-label` should have made it."""
        if not self.path(index).is_file():
            item = self.items[index]
            if (self.folder / "results.jsonl").is_file():
                raise InputError(
                    f"{item.image_path}: {self.folder} has no mask of {item.class_name!r} for it; run pseudo-label on it too"
                )
            mask = self.make(read_image(item.image_path, **self.reading.of_item(item)), item.class_name)
            write_png(self.path(index), mask if (mask == IGNORE).any() else mask * 255)

    def mask_files(self, index: int) -> Sequence[Path]:
        self.prepare(index)
        return [self.path(index)]

    def sample(self, index: int) -> Sample:
        self.prepare(index)
        item = self.items[index]
        pair = read_pair(item.image_path, self.path(index), **self.reading.of_item(item))
        return Sample(*pair, id=item.id, path=item.image_path)


@dataclass(frozen=True)
class Views:
    """The photos of a training. ``test`` names the classes that none of ``train`` belongs to."""

    train: Part
    validation: Part
    test: tuple[str, ...]


def views(choice: DataChoice, root: Path, on_test_fold: bool = False, pseudo: Path | None = None) -> Views:
    """The photos to train and to validate on.

    A tenth (``held_out``) of the photos is set apart for validation by the hash of their content, so that a photo keeps its
    side whatever is added to the folder. ``on_test_fold``: validate on the test classes instead, as the releases do.
    ``pseudo``: the folder of pseudo masks (:class:`PseudoPart`), where that is the supervision.
    Raises UsageError for a fold or class that is not there.
    """
    training, testing = _folder(choice, root) if choice.name == "folder" else _prepared(choice, root)
    usable = _contents(training)
    if choice.novel == "drop" and testing is not None and choice.name == "folder":
        usable -= _contents(testing)
    if on_test_fold:
        if testing is None:
            raise UsageError("validation.on_test_fold needs test classes; give data.fold or data.test_classes")
        train, validation = Part(training, usable), Part(testing, _contents(testing))
    else:
        apart = {content for content in usable if share_of(content) < choice.held_out}
        train, validation = Part(training, usable - apart), Part(training, apart)
    if choice.supervision == "pseudo":
        if pseudo is None or pseudo.resolve() == root.resolve():
            raise UsageError(
                "data.pseudo: the folder of drawn masks; name another, where pseudo masks are or can be written"
            )
        train, validation = (PseudoPart(part, pseudo, reading=choice.reading) for part in (train, validation))
    return Views(train, validation, tuple(testing.classes) if testing is not None else ())


def _contents(dataset: Any) -> set[str]:
    """What tells the photos of a data set apart, those without an item too."""
    return {item.content for item in dataset.items} | {photo.image for photo in _photos(dataset)}


def _folder(choice: DataChoice, root: Path) -> tuple[Any, Any]:
    """The items to train on, and those of the test classes, None without such; what cannot be used is said and left out."""
    masks = choice.supervision == "mask"
    every = open_folder(root, masks=masks, **choice.reading.view)
    folds = {str(fold): names for fold, names in every.folds.items()}
    test = list(choice.test_classes)
    if not test and not folds and choice.fold not in ("", "0"):
        raise UsageError(
            f"{root}: no fold {choice.fold!r}, index.csv says none; name test classes, as --data.test-classes cat"
        )
    if not test and choice.fold and folds:
        if choice.fold not in folds:
            raise UsageError(f"{root}: no fold {choice.fold!r}; index.csv has {', '.join(folds)}")
        test = folds[choice.fold]
    if unknown := sorted(set(test) - set(every.classes)):
        raise UsageError(f"{root}: no class {unknown[0]!r} to leave out; it has {', '.join(every.classes[:10])}")
    rest = [name for name in every.classes if name not in test]
    if not rest:
        raise UsageError(f"{root}: every class is a test class; leave some to train on")

    def opened(classes: Sequence[str]) -> Any:
        dataset = open_folder(root, classes=classes, masks=masks, **choice.reading.view)
        return usable(dataset, classes)[0] if masks else dataset

    return opened(rest), opened(test) if test else None


def _prepared(choice: DataChoice, root: Path) -> tuple[ManifestDataset, ManifestDataset | None]:
    choice.reading.refuse("a prepared data set")
    view: dict[str, Any] = {"fold": choice.fold or None, "family": choice.family or None, "folds": choice.folds or None}
    view["min_pixels"] = 1  # what is too small for the lists may still be asked for, see Part.listed
    train = data.load(choice.name, root, split="train", novel="keep" if choice.every_photo else choice.novel, **view)
    test = data.load(choice.name, root, split="test", **view) if choice.fold else None
    assert isinstance(train, ManifestDataset) and (test is None or isinstance(test, ManifestDataset))
    return train, test


def share_of(content: str) -> float:
    """A number in [0, 1) from a photo's content."""
    return int(hashlib.sha256(content.encode()).hexdigest()[:13], 16) / 16**13


def digest_of(items: Iterable[Any]) -> str:
    """What tells lists of items apart: the photos and the classes that they show, whatever the files are called."""
    named = sorted((item.content, getattr(item, "class_name", "")) for item in items)
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def generator(*numbers: int) -> Generator:
    """A stream of random numbers that depends on ``numbers`` alone."""
    digest = hashlib.sha256(json.dumps(numbers).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def augmented(
    image: np.ndarray, mask: np.ndarray | None, choice: Augment, size: int, stream: Generator
) -> transforms.Pair:
    """A training photo (H, W, 3) uint8 and its mask as (3, size, size) in [0, 1] and (size, size) int64."""
    turned = choice.degrees if float(torch.rand((), generator=stream)) < choice.rotate else 0.0
    if choice.geometry == "crop":
        change = transforms.Augmentation(
            size, choice.scale, turned, choice.blur, choice.flip, choice.jitter, choice.keep
        )
        return change(*transforms.as_tensors(image, mask), stream)
    # Squashed last, as by HDMNet: it is the photo as it is that turns.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    classes = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask))
    pixels, classes = transforms.random_rotation(pixels, classes, stream, turned, transforms.MEAN_BYTES)
    pixels, classes = transforms.random_blur(pixels, classes, stream, choice.blur)
    pixels, classes = transforms.random_flip(pixels, classes, stream, choice.flip)
    squashed = transforms.squash(pixels.permute(1, 2, 0).numpy(), size, None if classes is None else classes.numpy())
    return transforms.random_jitter(*squashed, stream, choice.jitter) if choice.jitter else squashed


class Photos(Protocol):
    """What features on disk are made of. An item has ``content`` and ``class_name``: the photo, and what its mask means."""

    @property
    def items(self) -> Sequence[Any]: ...
    def sample(self, index: int) -> Sample: ...
    def mask_files(self, index: int) -> Sequence[Path]: ...


@dataclass(frozen=True)
class Stored:
    """A photo at training size, perhaps flipped, with its frozen features (batch of one, float32)."""

    image: Tensor  # (3, S, S) in [0, 1]
    mask: Tensor  # (S, S) int64, as of the part
    features: Features
    masked: Features | None  # of the photo with all but the object hidden, where the model wants that


class Reader:
    """What reads photos in processes of their own. These get a copy without ``model``, which may lie on a device."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "model"}


class FeatureCache(Reader):
    """Frozen features of a part's photos as they are and flipped, float16, one file an item.

    A file is named by all that it depends on: content and class of the photo, its mask's file (time and size), encoder,
    weights, working size. It is made on first use and written whole or not at all, so several processes may share the folder.
    """

    def __init__(self, part: Photos, model: Any, folder: Path, size: int, key: str):
        self.part, self.model, self.folder, self.size, self.key = part, model, folder, size, key
        self.masks_input: bool = model.masks_input
        self.finest: int = model.finest

    def path(self, index: int) -> Path:
        item = self.part.items[index]
        files = [mask.stat() for mask in self.part.mask_files(index)]
        state = [value for file in files for value in (file.st_mtime_ns, file.st_size)] or None
        name = json.dumps([item.content, item.class_name, state, self.size, self.key, self.masks_input])
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def prepare(self, index: int) -> None:
        """Make the file of an item, if it is not there."""
        path = self.path(index)
        if path.is_file():
            return
        sample = self.part.sample(index)
        image, mask = transforms.squash(sample.image, self.size, mask=sample.mask)
        assert mask is not None
        tensors = {"image": image.mul(255).round().byte().contiguous(), "mask": mask.byte().contiguous()}
        both = torch.stack([image, image.flip(-1)])
        masks = torch.stack([mask, mask.flip(-1)])
        device = next(self.model.parameters()).device
        with torch.no_grad():
            kinds = {"plain": self.model.encode(both.to(device))}
            if self.masks_input:
                kinds["masked"] = self.model.encode_masked(both[:, None].to(device), masks[:, None].to(device))
        strides = {kind: features.strides for kind, features in kinds.items()}
        for kind, features in kinds.items():
            for i, (tokens, stride) in enumerate(zip(features.maps, features.strides)):
                kept = tokens if stride >= self.finest else tokens[:, :0, :1, :1]
                tensors[f"{kind}.map{i}"] = kept.half().cpu().contiguous()
            for i, token in enumerate(features.classes):
                tensors[f"{kind}.class{i}"] = token.half().cpu().contiguous()
        write_bytes(path, save(tensors, metadata={"strides": json.dumps(strides)}))

    def read(self, index: int, flipped: bool) -> Stored:
        with safe_open(str(self.path(index)), "pt") as stored:
            names = list(stored.keys())
            strides = json.loads(stored.metadata()["strides"])

            def features(kind: str) -> Features | None:
                def numbered(what: str) -> tuple[Tensor, ...]:
                    count = sum(name.startswith(f"{kind}.{what}") for name in names)
                    slices = (stored.get_slice(f"{kind}.{what}{i}") for i in range(count))
                    return tuple(s[int(flipped) : int(flipped) + 1].float() for s in slices)

                maps = numbered("map")
                return Features(maps, tuple(strides[kind]), numbered("class")) if maps else None

            image, mask = stored.get_tensor("image").float() / 255, stored.get_tensor("mask").long()
            plain = features("plain")
            assert plain is not None
            masked = features("masked")
        return Stored(image.flip(-1) if flipped else image, mask.flip(-1) if flipped else mask, plain, masked)
