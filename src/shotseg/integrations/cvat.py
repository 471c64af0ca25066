"""CVAT: the function module of ``cvat-cli task auto-annotate`` and of its agents (extra ``cvat``).

``cvat-cli task auto-annotate 7 --function-module shotseg.integrations.cvat -p supports=str:bracket.safetensors``
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from shotseg.data.annotations.outlines import outline, parts
from shotseg.errors import UsageError
from shotseg.integrations.supports import segmenter_of
from shotseg.segmenter import Segmenter

try:
    from cvat_sdk import auto_annotation
    from cvat_sdk.masks import encode_mask
except ImportError as error:
    raise UsageError("CVAT's functions need its package; install it with: pip install 'shotseg[cvat]'") from error

CORNERS = 3  # of a polygon, at least


class Detector:
    """What CVAT calls a detection function: ``spec`` names the labels, ``detect`` finds them in a photo.

    one_a_class: one shape for each class of a photo, in place of one for each connected part.
    """

    def __init__(self, segmenter: Segmenter, one_a_class: bool = False):
        self.segmenter, self.one_a_class = segmenter, one_a_class

    @property
    def spec(self) -> auto_annotation.DetectionFunctionSpec:
        """The classes as labels; CVAT matches them with a task's by name. They fit labels of polygons too."""
        labels = [auto_annotation.label_spec(name, i) for i, name in enumerate(self.segmenter.classes)]
        return auto_annotation.DetectionFunctionSpec(labels=labels)

    def detect(self, context: auto_annotation.DetectionFunctionContext, image: Image.Image) -> list[Any]:
        """Masks, or polygons where ``context.conv_mask_to_poly``, of the classes found in ``image``.

        A class counts from an expected IoU of ``context.conf_threshold`` on; None: as the operating point says.
        """
        result = self.segmenter.predict(image)
        least = context.conf_threshold or 0.0
        return [
            shape
            for number, name in enumerate(result.classes)
            if result.confidences[name] >= least
            for shape in self._shapes(number, result.masks[name], context.conv_mask_to_poly)
        ]

    def _shapes(self, label: int, mask: np.ndarray, polygons: bool) -> list[Any]:
        found = list(parts(mask))
        if polygons:  # a polygon holds one part
            rings = [outline(part, top, left) for part, top, left in found]
            return [auto_annotation.polygon(label, ring.ravel().tolist()) for ring in rings if len(ring) >= CORNERS]
        if self.one_a_class:
            return [auto_annotation.mask(label, encode_mask(mask))] if found else []
        return [auto_annotation.mask(label, _encoded(*part)) for part in found]


def _encoded(part: np.ndarray, top: int, left: int) -> list[float]:
    """CVAT's run lengths of one part, and its box in the photo."""
    *runs, x1, y1, x2, y2 = encode_mask(part)
    return [*runs, x1 + left, y1 + top, x2 + left, y2 + top]


def create(supports: str, device: str = "auto", present: float = 0.5, one_a_class: bool = False) -> Detector:
    """What CVAT calls with each ``-p name=type:value``.

    supports: a .safetensors file that ``Segmenter.save`` wrote, or a folder of examples as ``shotseg segment --support`` takes.
    present:  the probability of being in the photo from which a class takes part.
    Raises UsageError or InputError (one line) where they cannot be used.
    """
    return Detector(segmenter_of(supports, device, present), one_a_class)
