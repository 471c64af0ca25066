"""Masks redrawn by SAM 2 (Ravi et al. 2024) of transformers: what was found is the prompt, object by object.

    segmenter.refine = sam2.load()                # or load("sam2:FOLDER"); the segmenter's masks are redrawn from then on

Each object is asked for twice: with its mask as prompt, then with SAM's answer, the object's box, and its innermost point. An
answer that overlaps the object by less than ``SAME`` is another object's: then what was found stays.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.annotations import touching
from shotseg.encoders import network
from shotseg.encoders.weights import IMAGENET_MEAN, IMAGENET_STD
from shotseg.errors import UsageError, first_line

DEFAULT = "facebook/sam2.1-hiera-tiny"
SAME = 0.5  # IoU of an answer with the object that was asked for
MOST = 20  # objects of a class that are redrawn, the largest first
LEAST = 4  # pixels of the prompt's grid that an object has
OUT = -1.0  # log odds of what SAM leaves out of an object
SURE = 10.0  # log odds in which a mask is told and taken


class Sam2:
    """SAM 2 as the last step of a segmenter.  net: a ``Sam2Model``; it is only read, and used by one thread at a time."""

    def __init__(self, net: Any, name: str = "sam2"):
        self.net, self.name, self._lock = net.eval().requires_grad_(False), name, threading.Lock()

    def to(self, device: torch.device | str) -> Sam2:
        self.net.to(device)
        return self

    @torch.no_grad()
    def redrawn(self, image: np.ndarray, scores: Tensor) -> Tensor:
        """Log odds (N + 1, h, w), the background's first, with the objects of each class redrawn on SAM's own grid.

        image: (H, W, 3) uint8 RGB.    scores: (N + 1, h', w'), from corner to corner of the image.
        """
        grid = self.net.prompt_encoder.mask_input_size
        scores = F.interpolate(scores[None], grid, mode="bilinear", align_corners=False)[0]
        labels = scores.argmax(0).cpu().numpy()
        if not labels.any():
            return scores
        with self._lock:
            seen = self._seen(image)
            for i in range(1, len(scores)):
                odds = scores[i] - scores[0]
                for found in _largest(labels == i):
                    if (answer := self._asked(seen, found)) is not None:
                        before = torch.from_numpy(found).to(odds.device)
                        odds = torch.maximum(torch.where(before, odds.clamp(max=OUT), odds), answer.to(odds))
                scores[i] = odds + scores[0]
        return scores

    def _seen(self, image: np.ndarray) -> list[Tensor]:
        """The embeddings of a photo, which SAM takes squeezed into a square."""
        weight = next(self.net.parameters())
        side = self.net.prompt_encoder.input_image_size
        x = torch.from_numpy(np.ascontiguousarray(image)).to(weight).permute(2, 0, 1)[None] / 255
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v).to(x)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self.net.get_image_embeddings((x - mean) / std)

    def _asked(self, seen: list[Tensor], found: np.ndarray) -> Tensor | None:
        """(h, w) log odds of one object; None where SAM answers with another."""
        told = seen[0].new_tensor(np.where(found, SURE, -SURE))[None, None]
        first = self.net(image_embeddings=seen, input_masks=told, multimask_output=True).pred_masks[0, 0]
        best = max(first, key=lambda mask: _iou(mask, found))
        box, point = self._prompts(found)
        second = self.net(
            image_embeddings=seen,
            input_masks=best[None, None].clamp(-SURE, SURE),
            input_boxes=told.new_tensor(box)[None, None],
            input_points=told.new_tensor(point)[None, None, None],
            input_labels=torch.ones(1, 1, 1, dtype=torch.int32, device=told.device),
            multimask_output=False,
        ).pred_masks[0, 0, 0]
        return second.float().clamp(-SURE, SURE) if _iou(second, found) >= SAME else None

    def _prompts(self, found: np.ndarray) -> tuple[list[float], list[float]]:
        """The box (left, top, right, bottom) of an object and its innermost point (x, y), in pixels of SAM's square."""
        scale = self.net.prompt_encoder.input_image_size / found.shape[0]
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        inside = ndimage.distance_transform_edt(np.pad(found, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        return [float(scale * side) for side in box], [float(scale * (x + 0.5)), float(scale * (y + 0.5))]


def _largest(mask: np.ndarray) -> list[np.ndarray]:
    """(h, w) bool of each object of a class, of those that are large enough to be asked for."""
    found = []
    for part, top, left in touching.objects(mask):
        whole = np.zeros_like(mask)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        found.append(whole)
    found.sort(key=np.count_nonzero, reverse=True)
    return [whole for whole in found[:MOST] if np.count_nonzero(whole) >= LEAST]


def _iou(odds: Tensor, found: np.ndarray) -> float:
    drawn = (odds > 0).cpu().numpy()
    return float((drawn & found).sum() / max((drawn | found).sum(), 1))


def load(name: str = "sam2", device: torch.device | str = "cpu") -> Sam2:
    """``sam2``, or ``sam2:<repository or folder>`` of a ``Sam2Model`` in safetensors.

    Raises UsageError (one line) where the weights cannot be had, or are another network's.
    """
    kind, _, where = name.partition(":")
    if kind != "sam2":
        raise UsageError(f"refine {name!r}: give sam2, or sam2:FOLDER")
    where = where or DEFAULT
    from transformers import AutoConfig, Sam2Model

    try:
        with nullcontext() if Path(where).exists() else network.hub():
            config = AutoConfig.from_pretrained(where)
            if config.model_type not in ("sam2", "sam2_video"):  # the video models hold the image model
                raise ValueError(f"a {config.model_type}")
            loaded: Any = Sam2Model.from_pretrained(where, use_safetensors=True, output_loading_info=True)
            net, about = loaded
    except Exception as error:  # no network, no such repository, a file of another network: the mend is the same
        raise UsageError(
            f"weights of SAM 2 are not here: {where} ({first_line(error)[:120]}); connect once, or give a folder, sam2:FOLDER"
        ) from error
    if about["missing_keys"]:
        raise UsageError(f"{where}: lacks {len(about['missing_keys'])} weights of SAM 2; give another folder")
    return Sam2(net, name).to(device)
