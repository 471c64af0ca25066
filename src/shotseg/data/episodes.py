"""Few-shot episodes as a pure function of (seed, i), the same for any batch size, worker count, device or order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shotseg.data.folder import Item
from shotseg.data.images import read_bytes, write_bytes
from shotseg.data.samples import Episode, Sample
from shotseg.errors import InputError, UsageError


class Drawable(Protocol):
    """What the sampler reads of an item: ``content`` is the same for the same photo under any name."""

    @property
    def class_id(self) -> int: ...
    @property
    def class_name(self) -> str: ...
    @property
    def content(self) -> str: ...


class Dataset(Protocol):
    """What episodes are read from: :class:`shotseg.data.folder.FolderDataset` or anything with its two members."""

    items: list[Item]

    def sample(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class EpisodeIndex:
    """One episode as positions in the list of items, and the class id that they share."""

    query: int
    supports: tuple[int, ...]
    class_id: int


class EpisodeSampler:
    """``sampler[i]`` for any i >= 0: a class uniformly, a query uniformly among its items, then the supports uniformly.

    A photo, told by the content of its file and not by its name, is never both support and query, nor twice a support.

    items: of a data set.     classes: class ids to draw from; default all.     shots: K.     seed: from 0 to 2^128 - 1.
    Raises UsageError for a class with fewer than K + 1 different photos.
    """

    def __init__(self, items: Sequence[Drawable], classes: Iterable[int] | None = None, shots: int = 1, seed: int = 0):
        if shots < 1 or not 0 <= seed < 2**128:
            raise UsageError(f"shots={shots}, seed={seed}: give at least 1 shot and a seed from 0 to 2^128 - 1")
        self.items, self.shots, self.seed = items, shots, seed
        self._of_class: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            self._of_class.setdefault(item.class_id, []).append(index)
        self.classes = sorted(set(self._of_class if classes is None else classes))
        if not self.classes:
            raise UsageError("no class to draw episodes from; give a data set with photos")
        for class_id in self.classes:
            own = self._of_class.get(class_id, [])
            photos = len({items[index].content for index in own})
            if photos <= shots:
                name = repr(items[own[0]].class_name) if own else class_id
                raise UsageError(
                    f"class {name}: {photos} different photos, but {shots}-shot episodes need {shots + 1};"
                    " add photos or leave the class out"
                )

    def __getitem__(self, i: int) -> EpisodeIndex:
        if i < 0:
            raise IndexError(f"episode {i}: episodes count from 0")
        # Philox (Salmon et al., 2011) turns (key, counter) into numbers directly. The raw stream and a plain remainder
        # do not change between versions of numpy.
        stream = np.random.Philox(key=self.seed, counter=[0, 0, i, 0])

        def draw(choices: list[int]) -> int:
            return choices[int(stream.random_raw()) % len(choices)]

        class_id = draw(self.classes)
        query = draw(self._of_class[class_id])
        supports: list[int] = []
        seen = {self.items[query].content}
        while len(supports) < self.shots:
            support = draw(self._of_class[class_id])
            if self.items[support].content not in seen:
                seen.add(self.items[support].content)
                supports.append(support)
        return EpisodeIndex(query, tuple(supports), class_id)

    def first(self, count: int) -> list[EpisodeIndex]:
        """Episodes 0 to count - 1."""
        return [self[i] for i in range(count)]


class StoredEpisodes(Sequence[EpisodeIndex]):
    """A fixed list of episodes, taken as it is: saved once, and the same wherever it is loaded."""

    def __init__(self, items: Sequence[Item], episodes: Iterable[EpisodeIndex]):
        self.items, self.episodes = items, list(episodes)

    def __getitem__(self, i):
        return self.episodes[i]

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def sha256(self) -> str:
        """Of the list, written with names instead of positions: the same wherever the data set lies."""
        return list_hash(self._named())

    def save(self, path: str | Path) -> None:
        """Write the list as JSON: ``sha256`` and ``episodes`` of [class, query id, support ids]."""
        content = {"sha256": self.sha256, "episodes": self._named()}
        write_bytes(path, json.dumps(content, ensure_ascii=False, indent=0).encode())

    @classmethod
    def load(cls, path: str | Path, items: Sequence[Item]) -> StoredEpisodes:
        """Raises InputError where the file is no such list, was changed, or names a photo that ``items`` has not."""
        position = {(item.class_name, item.id): index for index, item in enumerate(items)}
        try:
            content = json.loads(read_bytes(path))
            named = content["episodes"]
            changed = list_hash(named) != content["sha256"]
            keys = [[(name, photo) for photo in (query, *supports)] for name, query, supports in named]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: no list of episodes ({error}); give a file that .save() wrote") from error
        if changed:
            raise InputError(f"{path}: the list is not the one of its sha256; take the file as it was saved")
        absent = [" ".join(key) for episode in keys for key in episode if key not in position]
        if absent:
            raise InputError(f"{path}: {absent[0]} is not in the data set; choose the data set of this list")
        found = [[position[key] for key in episode] for episode in keys]
        return cls(items, [EpisodeIndex(query, tuple(rest), items[query].class_id) for query, *rest in found])

    def _named(self) -> list:
        items = self.items
        return [
            [items[e.query].class_name, items[e.query].id, [items[s].id for s in e.supports]] for e in self.episodes
        ]


def list_hash(named: Sequence[Any]) -> str:
    """sha256 of a list of episodes by its names: two of one hash ask for the same photos, wherever the data set lies."""
    return hashlib.sha256(json.dumps(named, ensure_ascii=False).encode()).hexdigest()


def load_episode(
    dataset: Dataset,
    index: EpisodeIndex,
    transform: Callable[[np.ndarray, np.ndarray | None], tuple[Tensor, Tensor | None]],
) -> Episode:
    """Read one episode, batch size 1; ``transform(image, mask)`` brings photos to the working size.

    Masks are None where an item has none. Raises InputError for a file that cannot be used or a support mask without
    foreground, UsageError where the transform leaves supports of different sizes (then encode them one by one).
    """
    query = dataset.sample(index.query)
    supports = [dataset.sample(i) for i in index.supports]
    for support in supports:
        if support.mask is not None and not (support.mask == 1).any():
            raise InputError(f"{support.path}: no foreground pixel in its mask; an example needs some")
    image, mask = transform(query.image, query.mask)
    pairs = [transform(support.image, support.mask) for support in supports]
    shapes = {tuple(pixels.shape) for pixels, _ in pairs}
    if len(shapes) > 1:
        raise UsageError(f"supports of sizes {sorted(shapes)}: use a transform to one size, as squash or pad")
    masks = [classes for _, classes in pairs if classes is not None]
    return Episode(
        query=image[None],
        support=torch.stack([pixels for pixels, _ in pairs])[None],
        class_id=torch.tensor([index.class_id]),
        query_mask=None if mask is None else mask[None],
        support_mask=torch.stack(masks)[None] if len(masks) == len(pairs) else None,
        class_name=(dataset.items[index.supports[0]].class_name,),
        ids=((query.id, *(support.id for support in supports)),),
        sizes=((query.image.shape[0], query.image.shape[1]),),
    )


def batch(episodes: Sequence[Episode]) -> Episode:
    """Several episodes of the same sizes as one; a mask that one of them lacks is None."""

    def joined(values: list):
        if any(value is None for value in values):
            return None
        return torch.cat(values) if isinstance(values[0], Tensor) else sum(values, ())

    return Episode(**{f.name: joined([getattr(e, f.name) for e in episodes]) for f in fields(Episode)})
