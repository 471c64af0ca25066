"""The Segmenter: show it a class once, then ask it for that class in any number of photos."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from shotseg import encoders, models
from shotseg.data import images as files
from shotseg.data import transforms
from shotseg.data.samples import Support
from shotseg.device import pick_device
from shotseg.encoders.features import Features
from shotseg.errors import InputError, NoMaskWarning, UsageError, first_line, note
from shotseg.models import presence
from shotseg.models.strokes import Strokes, competing, follow
from shotseg.overlay import draw
from shotseg.photo import Photo, are_several, check_classes, is_one, read_photo, read_shot, title
from shotseg.priors import pseudo_masks
from shotseg.result import Result, winners
from shotseg.training import checkpoint as trained

FORMAT = "shotseg-support-2"
COARSE = 4  # a photo so many times the working size gets contours that are off by several pixels
NEEDED = {"method", "encoder", "options", "classes"}  # of a support file's header


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """Threads take turns: a class is added between two predictions, never within one."""

    @functools.wraps(method)
    def held(self: Segmenter, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return held


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo that went through the encoder: the classes may change, it need not be encoded again.

    image: (H, W, 3) uint8 RGB.   resized: (3, h, w) float in [0, 1], as it was encoded.   features: of it, batch 1.
    """

    image: np.ndarray
    resized: Tensor
    features: Features


class Segmenter:
    """Few-shot segmentation: ``add`` classes once, ``predict`` photos as often as you like.

    method:  a name of ``shotseg.list_models()``.
    encoder: a name of ``shotseg.list_encoders()``; "auto" is the method's own, for most the one that needs no download.
    device:  "auto" (CUDA, else MPS, else CPU) or any torch device.
    checkpoint: a trained model, as ``shotseg train`` writes it; it says method and encoder itself.
    present: the probability of being in the photo from which a class takes part; None: every class is known to be there.
    weights: of the encoder: "default" (downloaded once where it must be) or the path of a local file.
    options: keywords of the method (``size``: longer side, in pixels, at which it works; the one that a checkpoint takes).

    >>> seg = Segmenter()
    >>> seg.add("zebra", images=["a.jpg"], masks=["a.png"])  # doctest: +SKIP
    >>> seg.predict("herd.jpg").masks["zebra"]  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str = "matching",
        encoder: str = "auto",
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
        weights: str = "default",
        present: float | None = 0.5,
        **options: Any,
    ):
        self._lock = threading.RLock()
        self.device = pick_device(device)
        self.options = options
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is None:
            if method in models.SEMANTIC:
                raise UsageError(
                    f"method {method!r} knows only the classes of its training; give that of a run (segment --checkpoint)"
                )
            self.method, self.encoder = method, models.encoder_for(method) if encoder == "auto" else encoder
            self.model = models.load(method, encoders.load(self.encoder, weights, str(self.device)), **options)
            self._untrained = models.warn_untrained(self.method, self.model)
        else:
            self._untrained = False
            self.method, self.encoder = trained.names(self.checkpoint)
            if wrong := options.keys() - {"size"}:
                raise UsageError(f"{checkpoint}: {wrong.pop()!r} was fixed in training; only size can be chosen")
            self.model = trained.load_model(self.checkpoint, str(self.device), **options)
        if "present" in getattr(self.model, "asks", ()):
            raise UsageError(
                "text_context 'oracle' reads the true classes of a photo, which only `evaluate` knows; choose 'target' or 'known'"
            )
        self.model.to(self.device).eval()
        if present is not None and not 0 <= present <= 1:
            raise UsageError(
                f"present {present}: give a probability from 0 to 1, or None where every class is in the photo"
            )
        self.present = present
        self._known: dict[str, Support] = {}
        self._added: dict[str, list[Support]] = {}  # shots since, not yet merged: classifiers are fitted once for all
        self.thumbnails: dict[str, list[np.ndarray]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes added so far, in order."""
        return tuple(self._known)

    @property
    def _supports(self) -> dict[str, Support]:
        """Class name -> its support, with every shot merged."""
        merge = getattr(self.model, "merge", Support.join)
        for name, shots in self._added.items():
            self._known[name] = merge([self._known[name], *shots])
        self._added.clear()
        return self._known

    @property
    def needs(self) -> str:
        """What the method needs of a class: "masks" with its photos, "photos" and the name, or the "name" alone."""
        return getattr(self.model, "needs", "masks")

    def __repr__(self) -> str:
        counts = {name: len(self.thumbnails[name]) for name in self.classes}  # a support file holds no photos to count
        shots = ", ".join(f"{name} ({count})" if count else name for name, count in counts.items())
        return f"<Segmenter {self.method} on {self.encoder}, {self.device}: {shots or 'no class yet'}>"

    @_alone
    @torch.no_grad()
    def add(self, name: str, images: Sequence[Photo] = (), masks: Sequence[Any] | None = None) -> None:
        """Learn a class from its photos; each is encoded here, once. A second call adds shots to the class.

        images: one or several of what :func:`shotseg.photo.read_photo` takes. A method that :attr:`needs` the name alone
                does not look at them.
        masks:  for each photo one of the same, read by the rule of :mod:`shotseg.data.masks`. Where there is none (for all,
                or for one), a method that needs masks gets one made from the class name, with a ``NoMaskWarning``.
        Raises InputError for a photo or mask that cannot be used, UsageError for a wrong call.
        """
        check_classes({*self.classes, name}, "add")
        if self.needs == "name":
            self._known[name] = self.model.encode_support(None, None, class_names=(name,))
            self.thumbnails.setdefault(name, [])
            return
        if is_one(images):
            images, masks = [images], None if masks is None else [masks]
        if not len(images):
            raise UsageError(f"class {name!r} has no photo: give at least one")
        if masks is not None and len(masks) != len(images):
            raise UsageError(f"class {name!r}: {len(images)} photos but {len(masks)} masks; give one for each photo")
        shots = [
            self._support_of(name, photo, mask)
            for photo, mask in zip(images, [None] * len(images) if masks is None else masks)
        ]
        supports = [support for support, _ in shots]
        if name not in self._known:
            self._known[name] = supports.pop(0)
        self._added.setdefault(name, []).extend(supports)
        self.thumbnails.setdefault(name, []).extend(picture for _, picture in shots)

    def _support_of(self, name: str, photo: Photo, mask: Any) -> tuple[Support, np.ndarray]:
        """The support of one shot, and its picture for reports."""
        image, known = read_shot(photo, mask)
        if known is None and self.needs == "masks":
            known = pseudo_masks.from_name(image, name, self.device)
            note(f"{name}: {title(photo)} has no mask, it is made from the class name; give masks", NoMaskWarning)
        resized, target = self._fit(image, known)
        if target is not None and not bool((target == 1).any()):
            raise InputError(
                f"{title(photo)}: the mask of {name!r} has no foreground pixel; mark the object, or leave it out"
            )
        features = self.model.encode(resized[None])
        masks = None if target is None else target[None]
        support = presence.encode_shot(self.model, resized[None], masks, features, (name,))
        colour = self.classes.index(name) if name in self._known else len(self._known)
        shown = np.zeros(image.shape[:2], np.uint8) if known is None else known
        return support, draw(*_small(image, shown, label=colour + 1))

    def predict(self, photo: Photo, strokes: Mapping[str, Strokes] | None = None) -> Result:
        """Segment one photo: the classes that are there, and the background, compete for each pixel.

        strokes: what a person marked in this photo, by class; the masks agree with every stroke.
        """
        return self.decide(self.encode(photo), strokes)

    def predict_batch(self, photos: Iterable[Photo]) -> list[Result]:
        """Segment several photos; those of the same working size go through the encoder together."""
        return [self.decide(encoded) for encoded in self.encode_batch(photos)]

    def encode(self, photo: Photo) -> Encoded:
        """The first half of :meth:`predict`: all that takes long, and nothing that depends on the classes."""
        if are_several(photo):
            raise UsageError("several photos at once: give them to predict_batch, or one to predict")
        return self.encode_batch([photo])[0]

    @_alone
    @torch.no_grad()
    def encode_batch(self, photos: Iterable[Photo]) -> list[Encoded]:
        """Several photos encoded, those of the same working size together."""
        if is_one(photos) and not hasattr(photos, "shape"):
            raise UsageError("one photo: give it to predict, or a list of photos to predict_batch")
        images = [read_photo(photo) for photo in photos]
        if any(max(image.shape[:2]) > COARSE * self.model.size for image in images):
            note(
                f"photos are more than {COARSE} times as large as the {self.model.size} pixels at which {self.method} works, so "
                f"edges are coarse; --size {2 * self.model.size} draws them finer"
            )
        inputs = [self._fit(image)[0] for image in images]
        encoded: dict[int, Encoded] = {}
        for shape in {tuple(x.shape) for x in inputs}:
            same = [i for i, x in enumerate(inputs) if tuple(x.shape) == shape]
            features = self.model.encode(torch.stack([inputs[i] for i in same]))
            for row, i in enumerate(same):
                encoded[i] = Encoded(images[i], inputs[i], features[row])
        return [encoded[i] for i in range(len(images))]

    @_alone
    @torch.no_grad()
    def decide(self, encoded: Encoded, strokes: Mapping[str, Strokes] | None = None) -> Result:
        """The second half of :meth:`predict`: which classes are there, and whose is each pixel.

        Raises UsageError before a class was added, and for strokes of an unknown class or of another size than the photo.
        """
        if not self._known:
            raise UsageError("the Segmenter knows no class yet: call add(name, images, masks) first")
        size, strokes = encoded.image.shape[:2], {name: drawn for name, drawn in (strokes or {}).items() if drawn}
        for name, drawn in strokes.items():
            if name not in self._known or drawn.labels.shape != size:
                raise UsageError(
                    f"strokes of {name!r}: give them for a class that was added, at the photo's size {size}"
                )
        image = encoded.resized[None]
        told = {"sizes": [size]}
        asked = [
            {key: {**told, "class_name": [name]}[key] for key in getattr(self.model, "asks", ())}
            for name in self.classes
        ]

        def decided(threshold: float | None) -> presence.Decision:
            supports = list(self._supports.values())
            return presence.decide(
                self.model, encoded.features, supports, image, asked, threshold, untrained=self._untrained
            )

        found = decided(self.present)
        scores = transforms.resize_logits(found.scores.float(), size)
        said = [1.0] * len(self.classes) if self.present is None else found.present.tolist()
        present = dict(zip(self.classes, said))
        if strokes:
            everywhere = decided(None).scores
            for name, drawn in competing(strokes).items():
                row = self.classes.index(name) + 1
                scores[row] = follow(everywhere[row], drawn, encoded.features, image)
                present[name] = max(present[name], float((drawn.labels == 1).any()))
        labels = winners(scores).cpu().numpy()
        probability = scores.softmax(0)[1:].cpu().numpy()
        return Result(encoded.image, self.classes, labels, dict(zip(self.classes, probability)), present=present)

    def _fit(self, image: np.ndarray, mask: np.ndarray | None = None) -> tuple[Tensor, Any]:
        if self.model.geometry == "squash":
            x, y = transforms.squash(image, self.model.size, mask)
        else:
            x, y = transforms.fit(image, self.model.size, self.model.encoder.patch, mask)
        return x.to(self.device), None if y is None else y.to(self.device)

    @_alone
    def save(self, path: str | Path) -> None:
        """Keep the encoded classes (safetensors): ``Segmenter.load`` needs no photo."""
        if not self._known:
            raise UsageError("nothing to save: call add(name, images, masks) first")
        about = {"format": FORMAT, "method": self.method, "encoder": self.encoder, "options": self.options}
        about["encoder_sha256"] = _digest(self.model.encoder)
        if self.checkpoint is not None:
            about["checkpoint"] = {"file": str(self.checkpoint.absolute()), "sha256": files.sha256(self.checkpoint)}
        tensors = {
            f"{i}/{key}": tensor.contiguous().cpu()
            for i, support in enumerate(self._supports.values())
            for key, tensor in support.tensors.items()
        }
        metadata = {"shotseg": json.dumps({**about, "classes": list(self.classes)})}
        files.write_bytes(path, serialise(tensors, metadata))

    @classmethod
    def load(
        cls,
        path: str | Path,
        encoder: str | None = None,
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
    ) -> Segmenter:
        """A Segmenter with the classes that ``save`` kept.

        encoder: a local file of the same weights, where they cannot be downloaded; the supports mean nothing to others.
        checkpoint: where the trained model lies now, if it has moved.
        """
        try:
            with safe_open(str(path), "pt") as stored:
                about = json.loads((stored.metadata() or {}).get("shotseg", "{}"))
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except Exception as error:
            raise InputError(
                f"{path}: not a readable support file ({first_line(error)}); make one with Segmenter.save"
            ) from None
        if "recipe" in about:
            raise InputError(f"{path}: a trained model, no encoded classes; give it as --checkpoint, beside --support")
        if about.get("format") != FORMAT:
            raise InputError(f"{path}: not a support file of this version; make one with Segmenter.save")
        if missing := sorted(NEEDED - about.keys()):
            raise InputError(f"{path}: its header says no {missing[0]}; make it again with Segmenter.save")
        weights = "default" if encoder in (None, "auto", about["encoder"]) else str(encoder)
        if weights != "default" and not Path(weights).is_file():
            raise UsageError(f"{path}: encoded with {about['encoder']!r}, not {encoder!r}; leave the encoder out")
        checkpoint = checkpoint or about.get("checkpoint", {}).get("file")
        if checkpoint is not None and about.get("checkpoint", {}).get("sha256") != files.sha256(checkpoint):
            raise UsageError(f"{path}: not encoded with {checkpoint}; give the checkpoint that it was made with")
        check_classes(about["classes"], path, InputError)
        segmenter = cls(about["method"], about["encoder"], device, checkpoint, weights, **about["options"])
        if weights != "default" and about.get("encoder_sha256") not in (None, _digest(segmenter.model.encoder)):
            raise UsageError(f"{path}: encoded with other weights than {weights}; give the file that it was made with")
        for i, name in enumerate(about["classes"]):
            own = {key.split("/", 1)[1]: t for key, t in tensors.items() if key.startswith(f"{i}/")}
            if not own:
                raise InputError(f"{path}: holds nothing of class {name!r}; make it again with Segmenter.save")
            segmenter._known[name] = Support(own).to(segmenter.device)
            segmenter.thumbnails[name] = []
        return segmenter


def load(path: str | Path, device: str | torch.device = "auto") -> Segmenter:
    """``Segmenter.load``: the classes of a saved support file, ready to predict."""
    return Segmenter.load(path, device=device)


def _digest(encoder: torch.nn.Module) -> str:
    """sha256 of an encoder's weights."""
    found = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _small(image: np.ndarray, mask: np.ndarray, label: int, longest: int = 320) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, -(-max(image.shape[:2]) // longest))
    return image[::step, ::step], np.where(mask == 1, label, 0).astype(np.uint8)[::step, ::step]
