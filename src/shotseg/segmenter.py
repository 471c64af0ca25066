"""The Segmenter: show it a class once, then ask it for that class in any number of photos."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from shotseg import encoders, models
from shotseg.data import image_labels, transforms
from shotseg.data import images as files
from shotseg.data.samples import IGNORE, Sample, Support
from shotseg.encoders.features import Features
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.overlay import PALETTE, draw
from shotseg.priors import pseudo_masks
from shotseg.training import checkpoint as trained

Photo = str | Path | np.ndarray | Image.Image | Sample
FORMAT = "shotseg-support-1"
MOST_CLASSES = 254  # a label map holds 0 = background and 255 = ignore beside them


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in one photo.

    image: (H, W, 3) uint8 RGB.                  labels: (H, W) uint8, 0 = background, i + 1 = ``classes[i]``.
    probabilities: class name -> (H, W) float32 in [0, 1]; with the background's they sum to 1.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: Mapping[str, np.ndarray]

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Class name -> (H, W) bool; no pixel belongs to two classes."""
        return {name: self.labels == i + 1 for i, name in enumerate(self.classes)}

    @cached_property
    def areas(self) -> dict[str, float]:
        """Class name -> part of the photo that it covers, in [0, 1]."""
        return {name: float(mask.mean()) for name, mask in self.masks.items()}

    @cached_property
    def confidences(self) -> dict[str, float]:
        """Class name -> the IoU that the mask is expected to have if the probabilities hold, in [0, 1].

        Expected intersection over expected union: sum of p inside the mask / (mask's area + sum of p outside it). For a
        class that was not found: the probability that it is not there, 1 - max p.
        """
        return {name: _expected_iou(self.probabilities[name], self.masks[name]) for name in self.classes}

    @property
    def confidence(self) -> float:
        """The lowest confidence of any class: sort by it to see the doubtful photos first."""
        return min(self.confidences.values())

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8: the photo with every class tinted and outlined in its palette colour."""
        return draw(self.image, self.labels)

    def save(self, folder: str | Path, name: str) -> None:
        """Write ``masks/<class>/<name>.png`` (0/255) and ``labels/<name>.png`` (palette) under ``folder``."""
        for class_name, mask in self.masks.items():
            files.write_png(Path(folder, "masks", class_name, f"{name}.png"), mask.astype(np.uint8) * 255)
        files.write_png(Path(folder, "labels", f"{name}.png"), self.labels, palette=PALETTE)

    def save_soft(self, folder: str | Path, name: str) -> None:
        """Write ``soft/<class>/<name>.png`` under ``folder``: each class's probability times 255."""
        for class_name, probability in self.probabilities.items():
            soft = (probability * 255).round().astype(np.uint8)
            files.write_png(Path(folder, "soft", class_name, f"{name}.png"), soft)

    def plot(self) -> Any:
        """A matplotlib figure: photo, overlay and one probability map a class."""
        import matplotlib.pyplot as plt

        panels = [("photo", self.image), ("result", self.overlay()), *self.probabilities.items()]
        figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4), squeeze=False)
        for axis, (title, picture) in zip(axes[0], panels):
            axis.imshow(picture, **({} if picture.ndim == 3 else {"vmin": 0, "vmax": 1, "cmap": "magma"}))
            axis.set_title(title)
            axis.axis("off")
        figure.tight_layout()
        return figure


def _expected_iou(probability: np.ndarray, mask: np.ndarray) -> float:
    if not mask.any():
        return float(1 - probability.max())
    inside = float(probability[mask].sum(dtype=np.float64))
    everywhere = float(probability.sum(dtype=np.float64))
    return inside / (float(mask.sum()) + everywhere - inside)


class Segmenter:
    """Few-shot segmentation: ``add`` classes once, ``predict`` photos as often as you like.

    method:  a name of ``shotseg.list_models()``.
    encoder: a name of ``shotseg.list_encoders()``; "auto" is the method's own, for most the one that needs no download.
    device:  "auto" (CUDA, else MPS, else CPU) or any torch device.
    checkpoint: a trained model, as ``shotseg train`` writes it; it says method and encoder itself.
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
        **options: Any,
    ):
        self.device = pick_device(device)
        self.options = options
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is None:
            if method in models.SEMANTIC:
                raise UsageError(
                    f"method {method!r} knows only the classes of its training; give that of a run (segment --checkpoint)"
                )
            self.method, self.encoder = method, models.encoder_for(method) if encoder == "auto" else encoder
            self.model = models.load(method, encoders.load(self.encoder, device=str(self.device)), **options)
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
        self._supports: dict[str, Support] = {}
        self.thumbnails: dict[str, list[np.ndarray]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes added so far, in order."""
        return tuple(self._supports)

    @property
    def needs(self) -> str:
        """What the method needs of a class: "masks" with its photos, "photos" and the name, or the "name" alone."""
        return getattr(self.model, "needs", "masks")

    @torch.no_grad()
    def add(self, name: str, images: Sequence[Photo] = (), masks: Sequence[Any] | None = None) -> None:
        """Learn a class from its photos; each is encoded here, once. A second call adds shots to the class.

        images: paths, (H, W, 3) uint8 arrays, PIL images or Samples. A method that :attr:`needs` the name alone does not
                look at them.
        masks:  for each photo a path or an (H, W) array, non-zero = the class, 255 beside other values = ignore. Where there
                is none (for all, or for one), a method that needs masks gets one made from the class name.
        Raises InputError for a photo or mask that cannot be used, UsageError for a wrong call.
        """
        check_classes({*self.classes, name}, "add")
        if self.needs == "name":
            self._supports[name] = self.model.encode_support(None, None, class_names=(name,))
            self.thumbnails.setdefault(name, [])
            return
        if isinstance(images, (str, Path, np.ndarray, Image.Image, Sample)):
            images, masks = [images], None if masks is None else [masks]
        if not len(images):
            raise UsageError(f"class {name!r} has no photo: give at least one")
        if masks is not None and len(masks) != len(images):
            raise UsageError(f"class {name!r}: {len(images)} photos but {len(masks)} masks; give one for each photo")
        shots = [self._support_of(name, photo, mask) for photo, mask in zip(images, masks or [None] * len(images))]
        known = [self._supports[name]] if name in self._supports else []
        merge = getattr(self.model, "merge", Support.join)
        self._supports[name] = merge(known + [support for support, _ in shots])
        self.thumbnails.setdefault(name, []).extend(picture for _, picture in shots)

    def _support_of(self, name: str, photo: Photo, mask: Any) -> tuple[Support, np.ndarray]:
        """The support of one shot, and its picture for reports."""
        image, known = read_shot(photo, mask)
        if known is None and self.needs == "masks":
            known = pseudo_masks.from_name(image, name, self.device)
        resized, target = self._fit(image, known)
        if target is not None and not bool((target == 1).any()):
            raise InputError(
                f"{_title(photo)}: the mask of {name!r} has no foreground pixel; mark the object, or leave it out"
            )
        features = self.model.encode(resized[None])
        masks = None if target is None else target[None, None]
        support = self.model.encode_support(resized[None, None], masks, features, class_names=(name,))
        colour = self.classes.index(name) if name in self._supports else len(self._supports)
        shown = np.zeros(image.shape[:2], np.uint8) if known is None else known
        return support, draw(*_small(image, shown, label=colour + 1))

    def predict(self, photo: Photo) -> Result:
        """Segment one photo: every class added, and the background, compete for each pixel."""
        return self.predict_batch([photo])[0]

    @torch.no_grad()
    def predict_batch(self, photos: Iterable[Photo]) -> list[Result]:
        """Segment several photos; those of the same working size go through the encoder together."""
        if not self._supports:
            raise UsageError("the Segmenter knows no class yet: call add(name, images, masks) first")
        images = [read_photo(photo) for photo in photos]
        inputs = [self._fit(image)[0] for image in images]
        results: dict[int, Result] = {}
        for shape in {tuple(x.shape) for x in inputs}:
            same = [i for i, x in enumerate(inputs) if tuple(x.shape) == shape]
            features = self.model.encode(torch.stack([inputs[i] for i in same]))
            for row, i in enumerate(same):
                results[i] = self._result(images[i], inputs[i], features[row])
        return [results[i] for i in range(len(images))]

    def _result(self, image: np.ndarray, resized: Tensor, features: Features) -> Result:
        """Foreground-minus-background logits of all classes, beside a background at 0, at the photo's own size."""
        evidence = []
        for name, support in self._supports.items():
            told = {"class_name": [name], "sizes": [image.shape[:2]]}
            asked = {key: told[key] for key in getattr(self.model, "asks", ())}
            found = self.model(features, support, resized[None], **asked)
            known = found.extra.get("pseudo_mask") if self._untrained else None
            evidence.append(
                found.logits[:, 1] - found.logits[:, 0] if known is None else torch.logit(known.float(), eps=1e-3)
            )
        scores = torch.stack(evidence, 1)
        scores = transforms.resize_logits(torch.cat([torch.zeros_like(scores[:, :1]), scores], 1), image.shape[:2])[0]
        labels = winners(scores).cpu().numpy()
        probability = scores.float().softmax(0)[1:].cpu().numpy()
        return Result(image, self.classes, labels, dict(zip(self.classes, probability)))

    def _fit(self, image: np.ndarray, mask: np.ndarray | None = None) -> tuple[Tensor, Any]:
        if self.model.geometry == "squash":
            x, y = transforms.squash(image, self.model.size, mask)
        else:
            x, y = transforms.fit(image, self.model.size, self.model.encoder.patch, mask)
        return x.to(self.device), None if y is None else y.to(self.device)

    def save(self, path: str | Path) -> None:
        """Keep the encoded classes (safetensors): ``Segmenter.load`` needs no photo."""
        if not self._supports:
            raise UsageError("nothing to save: call add(name, images, masks) first")
        about = {"format": FORMAT, "method": self.method, "encoder": self.encoder, "options": self.options}
        if self.checkpoint is not None:
            about["checkpoint"] = {"file": str(self.checkpoint.absolute()), "sha256": sha256(self.checkpoint)}
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

        encoder: only to name a local path to the same weights; the supports mean nothing to another encoder.
        checkpoint: where the trained model lies now, if it has moved.
        """
        try:
            with safe_open(str(path), "pt") as stored:
                about = json.loads((stored.metadata() or {}).get("shotseg", "{}"))
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except Exception as error:
            raise InputError(
                f"{path}: not a readable support file ({_line(error)}); make one with Segmenter.save"
            ) from None
        if "recipe" in about:
            raise InputError(f"{path}: a trained model, no encoded classes; give it as --checkpoint, beside --support")
        if about.get("format") != FORMAT:
            raise InputError(f"{path}: not a support file of this version; make one with Segmenter.save")
        if encoder not in (None, "auto", about["encoder"]):
            raise UsageError(f"{path}: encoded with {about['encoder']!r}, not {encoder!r}; leave the encoder out")
        checkpoint = checkpoint or about.get("checkpoint", {}).get("file")
        if checkpoint is not None and about.get("checkpoint", {}).get("sha256") != sha256(checkpoint):
            raise UsageError(f"{path}: not encoded with {checkpoint}; give the checkpoint that it was made with")
        check_classes(about["classes"], path, InputError)
        segmenter = cls(about["method"], about["encoder"], device, checkpoint, **about["options"])
        for i, name in enumerate(about["classes"]):
            own = {key.split("/", 1)[1]: t for key, t in tensors.items() if key.startswith(f"{i}/")}
            segmenter._supports[name] = Support(own).to(segmenter.device)
            segmenter.thumbnails[name] = []
        return segmenter


def load(path: str | Path, device: str | torch.device = "auto") -> Segmenter:
    """``Segmenter.load``: the classes of a saved support file, ready to predict."""
    return Segmenter.load(path, device=device)


def pick_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA, else MPS, else CPU; anything else is taken by its word."""
    if device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {str(device)!r} does not work here ({_line(error)}); try --device cpu") from None


def read_photo(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, array, PIL image or Sample."""
    if isinstance(photo, Sample):
        return photo.image
    if isinstance(photo, Image.Image):
        return np.array(photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise InputError(f"photo array {photo.shape} {photo.dtype}: give (H, W, 3) uint8 RGB")
        return photo
    return files.read_image(photo)


def read_shot(photo: Photo, mask: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """A support photo, (H, W, 3) uint8, and its mask, (H, W) uint8 in {0, 1, 255}, or None where there is none."""
    if isinstance(photo, (str, Path)) and isinstance(mask, (str, Path)):
        return files.read_pair(photo, mask)
    image = read_photo(photo)
    if mask is None and isinstance(photo, Sample):
        mask = photo.mask
    if mask is None:
        return image, None
    if isinstance(mask, (str, Path)):
        return image, files.one_class(files.read_mask(mask, like=image.shape[:2]))
    known = np.asarray(mask)
    if known.shape != image.shape[:2]:
        raise InputError(
            f"{_title(photo)}: the mask array is {known.shape} but the photo is {image.shape[:2]}; make them the same size"
        )
    binary = known.dtype == bool or not np.isin(known, (0, IGNORE), invert=True).any()
    return image, (known != 0).astype(np.uint8) if binary else files.one_class(known)


def winners(scores: Tensor) -> Tensor:
    """(H, W) uint8: the highest of (N, H, W) scores, the first on ties; ten times faster than ``argmax(0)`` on a CPU."""
    best, labels = scores[0], torch.zeros_like(scores[0], dtype=torch.uint8)
    for i in range(1, len(scores)):
        labels = labels.masked_fill(scores[i] > best, i)
        best = torch.maximum(best, scores[i])
    return labels


def check_classes(names: Collection[str], where: object, error: type[ShotsegError] = UsageError) -> None:
    """Raise ``error`` for more names than a label map holds, or for one that cannot be a folder's name."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise error(f"{where}: {len(names)} classes, but a label map holds 1 to {MOST_CLASSES}; take them in parts")
    for name in names:
        image_labels.check_name(name, where, error)


def sha256(path: str | Path) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


def _title(photo: Photo) -> str:
    if isinstance(photo, Sample):
        return photo.id or str(photo.path or "sample")
    return str(photo) if isinstance(photo, (str, Path)) else "photo"


def _small(image: np.ndarray, mask: np.ndarray, label: int, longest: int = 320) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, -(-max(image.shape[:2]) // longest))
    return image[::step, ::step], np.where(mask == 1, label, 0).astype(np.uint8)[::step, ::step]


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
