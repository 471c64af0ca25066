"""What ``shotseg prepare`` wrote about a data set, and the few-shot view of it that evaluation and training read.

``manifest.json`` holds the classes, folds, list families, checks and hashes; ``items.jsonl`` one photo a line; the
masks are PNG files beside them, label maps or one binary mask a class (``Manifest.binary``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shotseg.data.folder import Item
from shotseg.data.images import read_image, read_mask, read_pair
from shotseg.data.samples import Sample
from shotseg.errors import InputError, UsageError

VERSION = 1


@dataclass(frozen=True)
class PreparedPhoto:
    """One photo with a mask. ``image`` is relative to the root of the data set, ``mask`` to the manifest's folder.

    ``pixels``: class id -> number of mask pixels, at original size, of every class in the photo.
    ``lists``: the image lists of the data set that name this photo, such as ``train`` and ``val``.
    ``change``: what was done to the official mask to make it fit; empty for most.
    """

    id: str
    image: str
    mask: str
    height: int
    width: int
    pixels: dict[int, int]
    lists: tuple[str, ...]
    change: str = ""

    def line(self) -> str:
        """This photo as one line of ``items.jsonl``."""
        row = asdict(self)
        return json.dumps(row if self.change else {k: v for k, v in row.items() if k != "change"}, ensure_ascii=False)

    @staticmethod
    def parse(line: str) -> PreparedPhoto:
        """The photo of one line; ValueError, KeyError or TypeError where the line is torn."""
        row = json.loads(line)
        row["pixels"] = {int(class_id): count for class_id, count in row["pixels"].items()}
        row["lists"] = tuple(row["lists"])
        return PreparedPhoto(**row)


@dataclass(frozen=True)
class Manifest:
    """A prepared data set.

    classes:  id -> name. An id is the value in the mask; 0 is background except where it is in ``classes``.
    folds:    definition -> fold -> ids of its test (novel) classes. FSS-1000's are ``train``, ``val`` and ``test``.
    families: family -> {"train": list, "test": list, "min_pixels": least mask pixels for a photo to count for a class}.
    binary:   each photo's mask is of its one class, {0, 1, 255}; else masks are label maps.
    photos:   in the order of the data set (lists together, sorted by id).
    facts:    choices, archives, counts, hashes of the lists, what was checked (see ``docs/datasets.md``).
    """

    name: str
    root: Path
    folder: Path
    classes: dict[int, str]
    folds: dict[str, dict[str, list[int]]]
    families: dict[str, dict[str, Any]]
    binary: bool
    photos: list[PreparedPhoto] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def read(folder: str | Path) -> Manifest:
        """Read ``manifest.json`` and ``items.jsonl`` of a folder. Raises InputError where they are absent or broken."""
        folder = Path(folder)
        try:
            head = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            photos = list(read_photos(folder / "items.jsonl"))
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: no such file; run `shotseg prepare` first") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: the manifest is broken ({error}); run `shotseg prepare` again") from error
        if head["version"] != VERSION or len(photos) != head["photos"]:
            raise InputError(f"{folder}: the manifest is of another version or cut off; run `shotseg prepare` again")
        return Manifest(
            name=head["name"],
            root=(folder / head["root"]).resolve(),
            folder=folder.resolve(),
            classes={int(class_id): name for class_id, name in head["classes"].items()},
            folds=head["folds"],
            families=head["families"],
            binary=head["binary"],
            photos=photos,
            facts=head["facts"],
        )

    def definition(self, folds: str | None = None) -> str | None:
        """The name of a fold definition (default: the first), None where the data set has no folds."""
        if folds is None:
            return next(iter(self.folds), None)
        if folds not in self.folds:
            known = f"choose from: {', '.join(self.folds)}" if self.folds else "it has none, leave folds out"
            raise UsageError(f"{self.name} has no folds {folds!r} (--folds); {known}")
        return folds

    def novel_ids(self, fold: int | str | None, folds: str | None = None) -> tuple[int, ...]:
        """The test classes of a fold; of ``fold=None`` every class."""
        definition = self.definition(folds)
        if fold is None:
            return tuple(self.classes)
        known = self.folds.get(definition or "", {})
        if str(fold) not in known:
            mend = f"choose from: {', '.join(known)}" if known else "it has none, leave fold out"
            raise UsageError(f"{self.name} has no fold {fold!r} (--fold); {mend}")
        return tuple(known[str(fold)])

    def family(self, family: str | None = None) -> tuple[str, dict[str, Any]]:
        """A family and its lists (default: the first). A data set with a single family answers to any name."""
        if family in self.families or (family is not None and len(self.families) > 1):
            if family not in self.families:
                raise UsageError(f"{self.name} has no lists {family!r}; choose from: {', '.join(self.families)}")
            return str(family), self.families[str(family)]
        return next(iter(self.families.items()))


@dataclass(frozen=True)
class PreparedItem(Item):
    """An item of a prepared data set: photos are told apart by their path, so none is read for it."""

    photo: str = ""

    @cached_property
    def content(self) -> str:
        return self.photo


class ManifestDataset:
    """The (photo, class) pairs of one split of a prepared data set, with the interface of ``FolderDataset``.

    split:  "test" = photos of the family's test list, classes of the fold; "train" = its train list, all other classes.
            A data set whose folds are named splits (FSS-1000) takes "train", "val" or "test" and no fold.
    fold:   number or name (``"s1"``); None = every class, in training and test alike.
    family: which published lists ("hsnet", "pfenet"); folds: which definition (COCO: "interleaved", "contiguous").
    novel:  "keep" = training photos with a novel class stay, with it as background; "drop" = they are left out.
    min_pixels: least pixels for a photo to count for a class; None = the family's own.

    ``items`` are in list order, then by class; an item's ``class_id`` is the position in ``classes``, its
    ``class_value`` the id in the mask, its ``content`` the same for all the classes of one photo. ``class_ids``: the
    manifest's ids of ``classes``. ``areas``: pixels of the class by position in ``items``.
    Raises UsageError for an unknown choice or a view without a photo.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str = "test",
        fold: int | str | None = None,
        family: str | None = None,
        folds: str | None = None,
        novel: str = "keep",
        min_pixels: int | None = None,
    ) -> None:
        self.manifest, self.split, self.fold = manifest, split, fold
        self.definition = manifest.definition(folds)
        self.family, rule = manifest.family(family)
        if novel not in ("keep", "drop"):
            raise UsageError(f"novel={novel!r}; choose 'keep' or 'drop'")
        by_split = "train" in manifest.folds.get(self.definition or "", {})
        if split not in (("train", "val", "test") if by_split else ("train", "test")):
            raise UsageError(f"{manifest.name} has no split {split!r}; choose 'train' or 'test'")
        self.novel_ids = manifest.novel_ids("test" if by_split else fold, folds)
        if by_split:
            if fold is not None:
                raise UsageError(f"{manifest.name} has class splits, not folds; leave fold (--fold) out")
            self.class_ids = manifest.novel_ids(split, folds)
        elif split == "train" and fold is not None:
            self.class_ids = tuple(i for i in manifest.classes if i not in set(self.novel_ids))
        else:
            self.class_ids = self.novel_ids
        self.classes = [manifest.classes[class_id] for class_id in self.class_ids]
        self.novel = novel
        self.min_pixels = rule["min_pixels"] if min_pixels is None else min_pixels
        self.list = rule["test" if split == "test" else "train"]
        unwanted = set(self.novel_ids) if novel == "drop" and split == "train" and fold is not None else set()
        self.photos = [p for p in manifest.photos if self.list in p.lists and not unwanted & p.pixels.keys()]
        position = {class_id: i for i, class_id in enumerate(self.class_ids)}
        self.items = [self._item(photo, class_id, position[class_id]) for photo, class_id in self.pairs()]
        self.areas = [photo.pixels[class_id] for photo, class_id in self.pairs()]
        if not self.items:
            raise UsageError(f"{manifest.name}: no photo in this view ({self.choices}); loosen the selection")

    def pairs(self) -> Iterator[tuple[PreparedPhoto, int]]:
        """Every (photo, class id) of this view, in the order of ``items``."""
        return pairs(self.photos, set(self.class_ids), self.min_pixels)

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """Item ``index`` with its mask in {0, 1, 255} of the item's class; ``tags``: positions of its classes here."""
        item = self.items[index]
        assert item.mask_path is not None  # every photo of a manifest has one
        image, mask = read_pair(item.image_path, item.mask_path, item.class_value)
        return Sample(image, mask, self._tags[item.content], item.id, item.image_path)

    def label_sample(self, index: int) -> Sample:
        """Photo ``index`` of ``photos`` and its label map (the manifest's ids, 255 = ignore); ``tags``: its ids."""
        photo = self.photos[index]
        if self.manifest.binary:
            raise UsageError(f"{self.manifest.name} has one binary mask a class and no label maps; use sample()")
        path = self.manifest.root / photo.image
        image = read_image(path)
        mask = read_mask(self.manifest.folder / photo.mask, like=image.shape[:2], labels=True)
        return Sample(image, mask, frozenset(photo.pixels), photo.id, path)

    @property
    def choices(self) -> dict[str, Any]:
        """What a result must say about this view: folds, family, lists, filters, counts and the hash of its pairs."""
        return {
            "dataset": self.manifest.name,
            "split": self.split,
            "fold": self.fold,
            "folds": self.definition,
            "family": self.family,
            "list": self.list,
            "novel": self.novel,
            "min_pixels": self.min_pixels,
            "year": self.manifest.facts.get("choices", {}).get("year"),
            "left_out": len(self.manifest.facts.get("left_out", ())),
            "photos": len(self.photos),
            "pairs": len(self.items),
            "pairs_sha256": pairs_hash(self.pairs()),
        }

    @cached_property
    def _tags(self) -> dict[str, frozenset[int]]:
        tags: dict[str, set[int]] = {}
        for item in self.items:
            tags.setdefault(item.photo, set()).add(item.class_id)
        return {photo: frozenset(ids) for photo, ids in tags.items()}

    def _item(self, photo: PreparedPhoto, value: int, position: int) -> PreparedItem:
        name = self.manifest.classes[value]
        return PreparedItem(
            id=f"{name}/{Path(photo.id).name}",
            class_name=name,
            class_id=position,
            image_path=self.manifest.root / photo.image,
            mask_path=self.manifest.folder / photo.mask,
            class_value=1 if self.manifest.binary else value,
            photo=photo.image,
        )


def pairs(
    photos: Iterable[PreparedPhoto], class_ids: Collection[int], min_pixels: int
) -> Iterator[tuple[PreparedPhoto, int]]:
    """Every photo with each of ``class_ids`` that covers at least ``min_pixels`` of it."""
    for photo in photos:
        for class_id, count in sorted(photo.pixels.items()):
            if class_id in class_ids and count >= min_pixels:
                yield photo, class_id


def pairs_hash(found: Iterable[tuple[PreparedPhoto, int]]) -> str:
    """sha256 of the lines ``id class_id``, joined by newline."""
    return hashlib.sha256("\n".join(f"{photo.id} {class_id}" for photo, class_id in found).encode()).hexdigest()


def read_photos(path: Path) -> Iterator[PreparedPhoto]:
    """The photos of an ``items.jsonl``, one at a time."""
    with path.open(encoding="utf-8") as lines:
        yield from map(PreparedPhoto.parse, lines)
