"""The Segmenter without torch: an exported method, and classes of support files or of photos with masks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from shotseg import support_file
from shotseg.arguments import checked
from shotseg.data import sizes
from shotseg.errors import InputError, UsageError
from shotseg.light.classes import Class, joined, stacked
from shotseg.light.sessions import Exported
from shotseg.photo import (
    Opened,
    Photo,
    are_several,
    check_classes,
    enough,
    listed_photos,
    open_photo,
    photos_with_masks,
    read_shot,
    title,
    warn_if_large,
)
from shotseg.predictor import Predictor, in_turns, streams
from shotseg.result import Decided, Result

MADE_BY = ("method", "encoder", "options", "encoder_sha256")


def _made_by(about: dict[str, Any]) -> dict[str, Any]:
    """What encoded classes depend on, of an export or a support file."""
    trained = about.get("checkpoint") or {}
    return {key: about.get(key) for key in MADE_BY} | {"checkpoint": trained.get("sha256")}


@dataclass(frozen=True)
class Cpu:
    """The one device, as folder jobs ask for it."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


class OnnxSegmenter(Predictor):
    """Photos in, masks out, by what ``shotseg export`` wrote; torch is not needed.

    folder:  of the export.
    support: a file of ``Segmenter.save`` of the same method and encoder, whose classes are known from the start.
    present: the probability of being in the photo from which a class takes part; None: every class is known to be there.
    threads: of ONNX Runtime; 0: as many as there are cores.
    Raises InputError for a folder or file that cannot be used, UsageError for a wrong call.

    >>> seg = OnnxSegmenter("exported", support="brackets.safetensors")  # doctest: +SKIP
    >>> seg.predict("a.jpg").masks["bracket"]  # doctest: +SKIP
    """

    device: Any

    @checked
    def __init__(
        self,
        folder: str | Path,
        support: str | Path | None = None,
        present: float | None = 0.5,
        threads: int = 0,
    ):
        if present is not None and not 0 <= present <= 1:
            raise UsageError(f"present {present}: give a probability from 0 to 1, or None where every class is there")
        self.device, self._lock = Cpu(), threading.RLock()
        self.exported, self.present = Exported(folder, threads), present
        about = self.exported.about
        self.method, self.encoder, self.size = about["method"], about["encoder"], about["size"]
        self._classes: dict[str, Class] = {}
        self._stacked: Class | None = None
        if support is not None:
            self.add_file(support)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes added so far, in order."""
        return tuple(self._classes)

    @property
    def sees(self) -> int:
        return enough(self.size)

    def __repr__(self) -> str:
        known = ", ".join(self.classes) or "no class yet"
        return f"<OnnxSegmenter {self.method} on {self.encoder}, {self.exported.folder}: {known}>"

    @checked
    @in_turns
    def add_file(self, path: str | Path) -> None:
        """The classes of a file that ``save`` of this or of a Segmenter wrote. Raises UsageError where another method, encoder or
        size made it."""
        about, supports = support_file.read(path, "np")
        given = _made_by(about)
        for what, ours in _made_by(self.exported.about).items():
            theirs = given[what]
            if ours != theirs:
                raise UsageError(
                    f"{path}: made with {what} {theirs!r}, not {ours!r}; export or encode again with the same"
                )
        check_classes({*self._classes, *supports}, path)
        self._classes |= {name: cast(Class, support.tensors) for name, support in supports.items()}
        self._stacked = None

    @checked
    @in_turns
    def add(self, name: str, images: Sequence[Photo] = (), masks: Sequence[Any] | None = None) -> None:
        """Learn a class from photos and their masks; a second call adds shots to the class.

        images: one or several of what :func:`shotseg.photo.read_photo` takes.
        masks:  for each photo one of the same, read by the rule of :mod:`shotseg.data.masks`.
        Raises InputError for a photo or mask that cannot be used, UsageError for a wrong call.
        """
        check_classes({*self._classes, name}, "add")
        if not self.exported.teaches:
            raise UsageError(
                f"{self.method} learns with torch alone; add classes there, and give their file to add_file"
            )
        images, masks = photos_with_masks(images, masks, name)
        if masks is None:
            raise UsageError(f"class {name!r}: no masks; give one for each photo, names alone take torch")
        shots = [self._learnt(name, photo, mask) for photo, mask in zip(images, masks)]
        before = [self._classes[name]] if name in self._classes else []
        self._classes[name] = joined([*before, *shots], self.exported.about["middle"])
        self._stacked = None

    @checked
    @in_turns
    def remove(self, name: str) -> None:
        """Forget a class; those after it move up. Raises UsageError where there is none of the name."""
        if name not in self._classes:
            raise UsageError(f"no class {name!r}; there is {', '.join(self.classes) or 'none yet'}")
        del self._classes[name]
        self._stacked = None

    @streams
    def predict(self, photo: Photo) -> Result:
        """Segment one photo: the classes that are there, and the background, compete for each pixel. Of a source of photos an
        iterator of results comes back, as of :meth:`predict_stream`."""
        if are_several(photo):
            raise UsageError("several photos at once: give them to predict_batch, or one to predict")
        return self.predict_batch([photo])[0]

    def predict_batch(self, photos: Iterable[Photo]) -> list[Result]:
        """Segment several photos; those of the same working size go through the encoder together."""
        given = listed_photos(photos)
        if not self._classes:
            raise UsageError(
                "the OnnxSegmenter knows no class yet: call add(name, images, masks) or add_file(path) first"
            )
        opened = [open_photo(photo, self.sees) for photo in given]
        warn_if_large(opened, self.size, self.method, "an export with --size")
        inputs = [self._fitted(photo.small, photo.size) for photo in opened]
        results: dict[int, Result] = {}
        for shape in {x.shape for x in inputs}:
            same = [i for i, x in enumerate(inputs) if x.shape == shape]
            batch = np.concatenate([inputs[i] for i in same])
            features = self.exported.run("encoder", photo=batch)
            for row, i in enumerate(same):
                mine = {name: x[row : row + 1] for name, x in features.items()}
                results[i] = self._decided(opened[i], inputs[i], mine)
        return [results[i] for i in range(len(opened))]

    def _decided(self, opened: Opened, photo: np.ndarray, features: Class) -> Result:
        with self._lock:
            names = self.classes
            self._stacked = self._stacked or stacked(list(self._classes.values()))
            known = self._stacked
        threshold = np.array(-1 if self.present is None else self.present, np.float32)
        found = self.exported.run("decide", photo=photo, threshold=threshold, **features, **known)
        said = [1.0] * len(names) if self.present is None else found["present"][0].tolist()
        return Decided(opened, names, found["scores"][0], dict(zip(names, said)))

    def _learnt(self, name: str, photo: Photo, mask: Any) -> Class:
        """The support of one shot, without its classifiers."""
        image, known = read_shot(photo, mask, name)
        if known is None:
            raise InputError(f"{title(photo)}: no mask; give one, since names alone take the Segmenter with torch")
        x = self._fitted(image, image.shape[:2])
        target = sizes.nearest(known, x.shape[2:])[None].astype(np.int64)
        return self.exported.run("learn", photo=x, mask=target, **self.exported.run("encoder", photo=x))

    def _fitted(self, image: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
        """(1, 3, h, w) float32 in [0, 1] at the working size."""
        about = self.exported.about
        if about["geometry"] == "squash":
            size = (self.size, self.size)
        else:
            size = sizes.fitted_size((sides[0], sides[1]), self.size, about["multiple"])
        return sizes.resized(image, size).transpose(2, 0, 1)[None].astype(np.float32) / 255

    @checked
    @in_turns
    def save(self, path: str | Path) -> None:
        """Keep the encoded classes (safetensors), for :meth:`add_file` and for ``Segmenter.load``."""
        if not self._classes:
            raise UsageError("nothing to save: call add(name, images, masks) first")
        supports = {name: support_file.Support(cast(Any, tensors)) for name, tensors in self._classes.items()}
        about = {
            key: self.exported.about[key]
            for key in (*MADE_BY, "checkpoint")
            if self.exported.about.get(key) is not None
        }
        support_file.write(path, about | {"export": str(self.exported.folder.absolute())}, supports, {})

    @classmethod
    @checked
    def load(cls, path: str | Path, *, device: Any = "auto") -> OnnxSegmenter:
        """What :meth:`save` kept, on the export that it was made with. Raises InputError for another file."""
        about, _ = support_file.read(path, "np")
        if "export" not in about:
            raise InputError(f"{path}: says no export; give the folder, OnnxSegmenter(folder, {str(path)!r})")
        return cls(about["export"], path)
