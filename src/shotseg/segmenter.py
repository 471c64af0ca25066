"""The Segmenter: show it a class once, then ask it for that class in any number of photos."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotseg import encoders, models, support_file
from shotseg.arguments import checked
from shotseg.data import images as files
from shotseg.data import transforms
from shotseg.data.samples import Support
from shotseg.data.windows import Windows, extent, open_windows
from shotseg.device import cores, usual_tensors
from shotseg.encoded import Encoded
from shotseg.encoders import runtime as runtimes
from shotseg.encoders.copies import over_the_same_weights
from shotseg.encoders.weights import digest
from shotseg.errors import InputError, NoMaskWarning, UsageError, note
from shotseg.learnt import Learnt, made_small
from shotseg.light.exported import OnnxSegmenter
from shotseg.models import presence
from shotseg.models.memory import Memory
from shotseg.models.strokes import Strokes, carried, checked_strokes, competing
from shotseg.photo import (
    Photo,
    are_several,
    check_classes,
    enough,
    in_order,
    listed_photos,
    open_photo,
    photos_with_masks,
    read_shot,
    title,
    warn_if_large,
    windows_of,
)
from shotseg.predictor import in_turns, streams
from shotseg.priors import pseudo_masks
from shotseg.priors.sam2 import Sam2
from shotseg.result import Decided, Result
from shotseg.tiled import AT_ONCE, Tiling, checked_tile, side_of_windows
from shotseg.training import checkpoint as trained


class Segmenter(Learnt):
    """Few-shot segmentation: ``add`` classes once, ``predict`` photos as often as you like.

    method:  a name of ``shotseg.list_models()``.
    encoder: a name of ``shotseg.list_encoders()``; "auto" is the method's own, for most the one that needs no download.
    device:  "auto" (CUDA, else MPS, else CPU) or any torch device.
    checkpoint: a trained model, as ``shotseg train`` writes it; it says method and encoder itself.
    present: the probability of being in the photo from which a class takes part; None: every class is known to be there.
    weights: of the encoder: "default" (downloaded once where it must be) or the path of a local file.
    runtime: what computes the encoder on a CPU: "torch", "onnxruntime" (extra: onnx), "auto", the fastest of these that is
             installed, or "onnxruntime-int8", twice as fast and not exact; see :mod:`shotseg.encoders.runtime`.
    tile:    side, in pixels, of the windows for larger images; "auto": twice the working size, above 100 megapixels; None: never
    options: keywords of the method (``size``: longer side, in pixels, at which it works; the one that a checkpoint takes).
    refine:  attribute; None, or what redraws each object found, see :mod:`shotseg.priors.sam2`. It is not saved.

    Threads may share one: they take turns, and a prediction sees each class whole or not at all. :meth:`twin` gives a thread its
    own over the same weights.

    >>> seg = Segmenter()
    >>> seg.add("zebra", images=["a.jpg"], masks=["a.png"])  # doctest: +SKIP
    >>> seg.predict("herd.jpg").masks["zebra"]  # doctest: +SKIP
    """

    @checked
    @usual_tensors()
    def __init__(
        self,
        method: str = "matching",
        encoder: str = "auto",
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
        weights: str | Path = "default",
        present: float | None = 0.5,
        runtime: str = "auto",
        tile: int | str | None = "auto",
        **options: Any,
    ):
        size = options.get("size")
        if size is not None and not (isinstance(size, Integral) and int(size) >= 1):
            raise UsageError(f"size {size!r}: give the longer side in pixels, 1 or more")
        if present is not None and not 0 <= present <= 1:
            raise UsageError(f"present {present}: give a probability from 0 to 1, or None where every class is there")
        super().__init__(device)
        self.options = options
        self.checkpoint = None if checkpoint is None else Path(checkpoint).absolute()
        self._own_weights = weights != "default"
        if self.checkpoint is None:
            if method in models.SEMANTIC:
                raise UsageError(
                    f"method {method!r} knows only the classes of its training; give that of a run (segment --checkpoint)"
                )
            self.method, self.encoder = method, models.encoder_for(method) if encoder == "auto" else encoder
            self.model = models.load(method, encoders.load(self.encoder, weights, str(self.device)), **options)
            self._untrained = models.warn_untrained(self.method, self.model)
        else:
            self._untrained, self._trained_as = False, files.sha256(self.checkpoint)
            self.method, self.encoder = trained.names(self.checkpoint, method, encoder)
            if wrong := options.keys() - {"size"}:
                raise UsageError(f"{checkpoint}: {wrong.pop()!r} was fixed in training; only size can be chosen")
            self.model = trained.load_model(self.checkpoint, str(self.device), weights=weights, **options)
        if "present" in self.model.asks:
            raise UsageError(
                "text_context 'oracle' reads the true classes of a photo, which only `evaluate` knows; choose 'target' or 'known'"
            )
        self.model.to(self.device).eval()
        runtimes.use(self.model.encoder, runtime)
        self.runtime, self.present, self.tile = runtime, present, checked_tile(tile, self.model.size)
        self.refine: Sam2 | None = None

    @in_turns
    def __repr__(self) -> str:
        counts = {name: len(self._shown[name]) for name in self.classes}  # a support file holds no photos to count
        shots = ", ".join(f"{name} ({count})" if count else name for name, count in counts.items())
        return f"<Segmenter {self.method} on {self.encoder}, {self.device}: {shots or 'no class yet'}>"

    @checked
    @in_turns
    @torch.no_grad()
    @usual_tensors()
    def add(self, name: str, images: Sequence[Photo | Encoded] = (), masks: Sequence[Any] | None = None) -> None:
        """Learn a class from its photos; each is encoded here, once. A second call adds shots to the class.

        images: one or several of what :func:`shotseg.photo.read_photo` takes, or of :meth:`encode`, which are not encoded
                again. A method that :attr:`needs` the name alone does not look at them.
        masks:  for each photo one of the same, read by the rule of :mod:`shotseg.data.masks`. Where there is none (for all,
                or for one), a method that needs masks gets one made from the class name, with a ``NoMaskWarning``.
        Raises InputError for a photo or mask that cannot be used, UsageError for a wrong call.
        """
        check_classes({*self.classes, name}, "add")
        if self.needs == "name":
            self._known[name] = self.model.encode_support(None, None, class_names=(name,))
            self._shown.setdefault(name, [])
            return
        if isinstance(images, Encoded):
            images, masks = [images], None if masks is None else [masks]
        images, masks = photos_with_masks(images, masks, name)
        given = [None] * len(images) if masks is None else masks
        shots = [self._support_of(name, photo, mask) for photo, mask in zip(images, given)]
        supports = [support for support, _ in shots]
        if name not in self._known:
            self._known[name] = supports.pop(0)
        self._added.setdefault(name, []).extend(supports)
        self._shown.setdefault(name, []).extend(small for _, small in shots)

    def _support_of(self, name: str, photo: Photo, mask: Any) -> tuple[Support, tuple[np.ndarray, np.ndarray]]:
        """The support of one shot, a photo or an Encoded, and the shot itself made small."""
        encoded = photo if isinstance(photo, Encoded) else None
        if encoded is not None:
            self._check_encoded(encoded)
        image, known = read_shot(photo if encoded is None else encoded.photo, mask, name)
        if known is None and self.needs == "masks":
            known = pseudo_masks.from_name(image, name, self.device)
            note(f"{name}: {title(photo)} has no mask, it is made from the class name; give masks", NoMaskWarning)
        resized, target = self._fit(image, known)
        if target is not None and not bool((target == 1).any()):
            raise InputError(
                f"{title(photo)}: the mask of {name!r} has no foreground pixel; mark the object, or leave it out"
            )
        if encoded is None:
            features = self.model.encode(resized[None])
        else:
            encoded = encoded.to(self.device)
            resized, features = encoded.resized, encoded.features
        masks = None if target is None else target[None]
        support = presence.encode_shot(self.model, resized[None], masks, features, (name,))
        return support, made_small(image, known)

    def _check_encoded(self, encoded: Encoded) -> None:
        if encoded.by != self.encodes_as:
            raise UsageError(f"a photo encoded by {encoded.by}, not by {self.encodes_as}; encode it again")

    @streams
    def predict(self, photo: Photo, strokes: Mapping[str, Strokes] | None = None) -> Result:
        """Segment one photo: the classes that are there, and the background, compete for each pixel.

        photo:   what :func:`shotseg.photo.read_photo` takes. Of a generator, or another source of photos, an iterator of results
                 comes back, as of :meth:`predict_stream`.
        strokes: what a person marked in this photo, by class; the masks agree with every stroke.
        """
        windows = None if strokes else windows_of(photo, self._side)
        return self.decide(self.encode(photo), strokes) if windows is None else self._in_windows(windows)

    def predict_batch(self, photos: Iterable[Photo]) -> list[Result]:
        """Segment several photos; those of the same working size go through the encoder together."""
        given = listed_photos(photos)
        large = {i: found for i, photo in enumerate(given) if (found := windows_of(photo, self._side)) is not None}
        small = iter(self.encode_batch([photo for i, photo in enumerate(given) if i not in large]))
        return [self._in_windows(large[i]) if i in large else self.decide(next(small)) for i in range(len(given))]

    def _opened(self, photo: Photo) -> Photo:
        return windows_of(photo, self._side) or super()._opened(photo)

    def windows(self, path: str, bands: Sequence[int] | None = None, page: int = 1, data: Any = None) -> Windows | None:
        size = None if self.tile is None else extent(path if data is None else BytesIO(data), page)
        return None if size is None or self._side(size) is None else open_windows(path, bands, page, data)

    @in_turns
    @torch.no_grad()
    @usual_tensors()
    def _in_windows(self, windows: Windows) -> Result:
        if self.refine is not None:
            note("images seen in windows are not redrawn; leave --refine out, or give --tile off where memory allows")
        side = self._side(windows.size) or max(windows.size)
        how = (self._told((side, side)), self.present, self._untrained, side, self.device, self.on_windows)
        more = min(cores(), AT_ONCE) - 1 if self.device.type == "cpu" else 0
        models = [self.model, *(self._model_again() for _ in range(more))]
        return Tiling(models, windows, self.classes, list(self._supports.values()), *how).result()

    def _side(self, size: tuple[int, int]) -> int | None:
        return side_of_windows(self.tile, size, self.model.size)

    def _told(self, size: tuple[int, int]) -> list[dict[str, Any]]:
        """What the model asks beside a photo of this size, for each class. Raises UsageError where there is none."""
        if not self._known:
            raise UsageError("the Segmenter knows no class yet: call add(name, images, masks) first")
        return [{key: {"sizes": [size], "class_name": [name]}[key] for key in self.model.asks} for name in self.classes]

    def track(self, frames: Iterable[Photo]) -> Iterator[Result]:
        """Segment the frames of one sequence, one after the other; those that are sure serve the next ones as further examples.

        frames: what :func:`shotseg.photo.read_photo` takes, in their order; or the path of a stack, whose pages they are.

        What was added stays as it is, and alone says whether a class is there: :mod:`shotseg.models.memory`.
        Raises UsageError for a method that does not learn from masks, and for one frame in place of several; InputError at a
        frame that cannot be read.
        """
        memory = Memory()
        for frame in in_order(frames):
            yield self.follow(self.encode(frame), memory)

    @in_turns
    def follow(self, encoded: Encoded, memory: Memory) -> Result:
        """One step of :meth:`track`: the next frame of a sequence; ``memory`` then holds it where it is sure."""
        if self.needs != "masks":
            raise UsageError(
                f"method {self.method!r} learns from no mask, so no earlier frame can teach it; do not track"
            )
        result = self.decide(encoded, memory=memory)
        memory.keep(self.model, encoded.resized, encoded.features, result.labels, self.classes, result.confidences)
        return result

    def encode(self, photo: Photo) -> Encoded:
        """The first half of :meth:`predict`: all that takes long, and nothing that depends on the classes."""
        if are_several(photo):
            raise UsageError("several photos at once: give them to predict_batch, predict_stream, or one to predict")
        return self.encode_batch([photo])[0]

    @in_turns
    @torch.no_grad()
    @usual_tensors()
    def encode_batch(self, photos: Iterable[Photo]) -> list[Encoded]:
        """Several photos encoded, those of the same working size together."""
        opened = [open_photo(photo, self.sees) for photo in listed_photos(photos)]
        warn_if_large(opened, self.model.size, self.method)
        inputs = [self._fit(photo.small, sides=photo.size)[0] for photo in opened]
        encoded: dict[int, Encoded] = {}
        for shape in {tuple(x.shape) for x in inputs}:
            same = [i for i, x in enumerate(inputs) if tuple(x.shape) == shape]
            features = self.model.encode(torch.stack([inputs[i] for i in same]))
            for row, i in enumerate(same):
                encoded[i] = Encoded(opened[i], inputs[i], features[row], self.encodes_as)
        return [encoded[i] for i in range(len(opened))]

    @cached_property
    def encodes_as(self) -> str:
        """What the features of a photo depend on beside the photo."""
        own = "" if self.checkpoint is None else f", trained as {self._trained_as[:16]}"
        own += f", weights {digest(self.model.encoder)[:16]}" if self._own_weights else ""
        return f"{self.method} on {self.encoder} at {self.model.size} px{own}"

    @in_turns
    @torch.no_grad()
    @usual_tensors()
    def decide(
        self, encoded: Encoded, strokes: Mapping[str, Strokes] | None = None, memory: Memory | None = None
    ) -> Result:
        """The second half of :meth:`predict`: which classes are there, and whose is each pixel.

        memory: earlier frames of the sequence that the photo belongs to.

        Raises UsageError before a class was added, for a photo that another method or encoder encoded, and for strokes of an
        unknown class or of another size than the photo.
        """
        asked = self._told(encoded.photo.size)
        self._check_encoded(encoded)
        encoded = encoded.to(self.device)
        size = encoded.photo.size
        image, strokes = encoded.resized[None], checked_strokes(strokes or {}, self.classes, size)
        told_apart = competing(strokes)
        supports, marked = list(self._supports.values()), {name: self.classes.index(name) for name in told_apart}
        earlier = [] if memory is None else [memory[name] for name in self.classes]
        how = (asked, self.present, self._untrained, earlier, marked.values(), self.present is not None)
        found = presence.decide(self.model, encoded.features, supports, image, *how, encoded.answers)
        scores = found.scores.float()
        present = dict(zip(self.classes, found.present.tolist()))
        if marked:
            levels = {
                i: carried(scores[i + 1], told_apart[name], encoded.features, image) for name, i in marked.items()
            }
            height, width = next(iter(levels.values())).shape
            scores = transforms.resize_logits(scores, (height, width))
            for i, level in levels.items():
                scores[i + 1] = level
            present |= {name: 1.0 for name, drawn in told_apart.items() if len(drawn.places(1))}
        if self.refine is not None:
            scores = self.refine.redrawn(encoded.photo.small, scores)
        return Decided(encoded.photo, self.classes, scores.cpu().numpy(), present, told_apart)

    @property
    def sees(self) -> int:
        return enough(self.model.size)

    @in_turns
    def twin(self) -> Segmenter:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.model, twin._lock = self._model_again(), threading.RLock()
        shown = {name: list(shots) for name, shots in self._shown.items()}
        twin._known, twin._added, twin._shown = dict(self._supports), {}, shown
        return twin

    def _model_again(self) -> Any:
        """Another over the same weights, for a thread of its own."""
        return over_the_same_weights(self.model)

    def _fit(
        self, image: np.ndarray, mask: np.ndarray | None = None, sides: tuple[int, int] | None = None
    ) -> tuple[Tensor, Any]:
        x, y = transforms.to_size(image, self.model.geometry, self.model.size, self.model.encoder.patch, mask, sides)
        return x.to(self.device), None if y is None else y.to(self.device)

    @checked
    @in_turns
    def save(self, path: str | Path) -> None:
        """Keep the encoded classes, and a network that no checkpoint holds (safetensors): ``load`` needs no photo."""
        if not self._known:
            raise UsageError("nothing to save: call add(name, images, masks) first")
        about: dict[str, Any] = {"method": self.method, "encoder": self.encoder, "options": self.options}
        encoder = digest(self.model.encoder)
        about |= {"runtime": self.runtime, "present": self.present, "tile": self.tile, "encoder_sha256": encoder}
        if self.checkpoint is not None:
            about["checkpoint"] = {"file": str(self.checkpoint), "sha256": self._trained_as}
        support_file.write(path, about, self._supports, trained.weights(self.model) if self._untrained else {})

    @classmethod
    @checked
    def load(
        cls,
        path: str | Path,
        encoder: str | Path | None = None,
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
        runtime: str | None = None,
    ) -> Segmenter:
        """A Segmenter with the classes that ``save`` kept.

        encoder: a local file of the same weights, where they cannot be downloaded; the supports mean nothing to others.
        checkpoint: where the trained model lies now, if it is neither where it was nor beside this file.
        runtime: of the encoder, in place of the one that was asked for when it was saved; the supports serve every one.
        """
        about, supports = support_file.read(path)
        weights = "default" if encoder in (None, "auto", about["encoder"]) else str(encoder)
        if weights != "default" and not Path(weights).is_file():
            raise UsageError(f"{path}: encoded with {about['encoder']!r}, not {encoder!r}; leave the encoder out")
        kept = about.get("checkpoint", {})
        checkpoint = checkpoint or (trained.where(kept["file"], path) if kept else None)
        if checkpoint is not None and kept.get("sha256") != files.sha256(checkpoint):
            raise UsageError(f"{path}: not encoded with {checkpoint}; give the checkpoint that it was made with")
        options = {"runtime": runtime or about.get("runtime", "auto"), **about["options"]}
        options |= {name: about[name] for name in ("present", "tile") if name in about}
        segmenter = cls(about["method"], about["encoder"], device, checkpoint, weights, **options)
        if weights != "default" and about.get("encoder_sha256") not in (None, digest(segmenter.model.encoder)):
            raise UsageError(f"{path}: encoded with other weights than {weights}; give the file that it was made with")
        if network := support_file.network(path):
            trained.load_weights(segmenter.model, network, path)
        for name, support in supports.items():
            segmenter._known[name], segmenter._shown[name] = support.to(segmenter.device), []
        return segmenter

    from_onnx = OnnxSegmenter  # what `shotseg export` wrote, at work by ONNX Runtime


def load(path: str | Path, device: str | torch.device = "auto", checkpoint: str | Path | None = None) -> Segmenter:
    """``Segmenter.load``: the classes of a saved support file, ready to predict."""
    return Segmenter.load(path, device=device, checkpoint=checkpoint)
