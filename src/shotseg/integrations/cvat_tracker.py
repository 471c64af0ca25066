"""CVAT: the tracking function of its agents (extra ``cvat``). A shape drawn in one frame is found in those after it.

``cvat-cli function create-native shotseg --function-module shotseg.integrations.cvat_tracker``
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from shotseg.data.annotations import drawn
from shotseg.data.annotations.outlines import outline, parts
from shotseg.encoded import Encoded
from shotseg.errors import InputError, first_line
from shotseg.integrations.cvat import auto_annotation, encode_mask
from shotseg.models.memory import Memory
from shotseg.segmenter import Segmenter

from cvat_sdk.masks import decode_mask  # isort: skip (the line above says what to install where it is missing)

OBJECT = "object"  # the name of what is tracked
NEAR = 0.5  # of the sides of its last box: how far the object may go from one frame to the next


@dataclass
class State:
    """A shape that is tracked: what it was drawn on is its example for good; box: rows and columns where it was last seen."""

    segmenter: Segmenter
    box: tuple[slice, slice]
    memory: Memory = field(default_factory=Memory)


class Tracker:
    """What CVAT calls a tracking function, for masks and polygons: each shape is an example of its own."""

    def __init__(self, segmenter: Segmenter):
        self.segmenter = segmenter

    @property
    def spec(self) -> auto_annotation.TrackingFunctionSpec:
        return auto_annotation.TrackingFunctionSpec(supported_shape_types={"mask", "polygon"})

    def preprocess_image(self, context: Any, image: Image.Image) -> Encoded:
        """The frame encoded, once for all its shapes."""
        return self.segmenter.encode(image)

    def init_tracking_state(self, context: Any, pp_image: Encoded, shape: auto_annotation.TrackableShape) -> State:
        """Raises InputError for a shape that is none, or covers no pixel."""
        height, width = pp_image.photo.size
        try:
            if shape.type == "mask":
                mask = decode_mask(shape.points, image_width=width, image_height=height)
            else:
                mask = drawn.polygon(shape.points, height, width)
        except ValueError as error:
            raise InputError(
                f"a {shape.type} that cannot be drawn ({first_line(error)}); draw the object anew"
            ) from None
        if not mask.any():
            raise InputError(f"a {shape.type} that covers no pixel cannot be tracked; draw the object")
        segmenter = self.segmenter.twin()
        segmenter.add(OBJECT, [pp_image.photo.whole()], [mask])
        return State(segmenter, _box(mask))

    def track(self, context: Any, pp_image: Encoded, state: State) -> auto_annotation.TrackableShape | None:
        """The object in a new frame; None where it is not seen."""
        result = state.segmenter.decide(pp_image, memory=state.memory)
        mask = _near(result.masks[OBJECT], state.box)
        if not mask.any():
            return None
        state.box = _box(mask)
        kept = (mask.astype(np.uint8), (OBJECT,), result.confidences)
        state.memory.keep(state.segmenter.model, pp_image.resized, pp_image.features, *kept)
        if context.original_shape_type == "mask":
            return auto_annotation.TrackableShape(type="mask", points=encode_mask(mask))
        return auto_annotation.TrackableShape(type="polygon", points=outlined(mask))


def outlined(mask: np.ndarray) -> list[float]:
    """[x, y, ...] of the largest connected part of a mask."""
    part, top, left = max(parts(mask), key=lambda part: part[0].sum())
    return outline(part, top, left).ravel().tolist()


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _near(mask: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """The connected parts of a mask that reach into a box and NEAR of its sides around it."""
    window = tuple(
        slice(max(0, int(side.start - NEAR * length)), int(side.stop + NEAR * length) + 1)
        for side, length in ((side, side.stop - side.start) for side in box)
    )
    numbered, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return np.isin(numbered, np.setdiff1d(numbered[window], 0))


def create(encoder: str = "auto", size: int | None = None, device: str = "auto", present: float = 0.5) -> Tracker:
    """What CVAT calls with each ``-p name=type:value``.

    encoder: a name of ``shotseg.list_encoders()``.    size: longer side, in pixels, at which frames are looked at.
    present: the probability of being in a frame from which the object is there.
    Raises UsageError where one of them cannot be used.
    """
    options: dict[str, Any] = {} if size is None else {"size": size}
    return Tracker(Segmenter(encoder=encoder, device=device, present=present, **options))
