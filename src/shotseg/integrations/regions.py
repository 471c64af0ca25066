"""Label Studio's regions: which control is answered, masks as its regions, and what people drew as masks and strokes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from shotseg.data.annotations.drawn import polygon
from shotseg.data.annotations.label_studio import corners, draw, encode
from shotseg.data.annotations.label_studio_exports import names_of
from shotseg.data.annotations.outlines import outline, parts
from shotseg.errors import InputError
from shotseg.models.strokes import Strokes
from shotseg.result import Result

DOT = 0.004  # radius of a key point, in longer sides of the photo
MASKS = ("BrushLabels", "BitmaskLabels", "PolygonLabels")  # controls that are answered, the exact ones first
SPECK = 0.01  # of a class's pixels; a person would delete so small a polygon
CORNERS = 3  # of a polygon, at least
BOX = (("x", 1), ("y", 0), ("width", 1), ("height", 0))  # of a rectangle, and the photo's side that each is a part of
MOST_SCHEMA = 1_000_000  # characters of a labelling set-up


class Tag(NamedTuple):
    """A control of the labelling set-up whose regions are masks: its names, the labels, and the task's key of the photo."""

    kind: str
    name: str
    to: str
    labels: tuple[str, ...]
    key: str


def tag_of(schema: str) -> Tag | None:
    """The first BrushLabels or BitmaskLabels of a labelling set-up, or else PolygonLabels; None where it is empty or has none.

    Raises InputError where it is no XML.
    """
    if not schema or not schema.strip():
        return None
    if len(schema) > MOST_SCHEMA or "<!" in re.sub(r"<!--.*?-->", "", schema, flags=re.DOTALL):
        raise InputError("the labelling set-up is too long or declares entities; leave them out")
    try:
        tree = ElementTree.fromstring(schema)
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling set-up is no XML ({error}); copy it from the project again") from error
    photos = {e.get("name"): str(e.get("value", "")).lstrip("$") for e in tree.iter("Image")}
    found = [element for element in tree.iter() if element.tag in MASKS]
    if not found:
        return None
    element = min(found, key=lambda e: e.tag == MASKS[-1])
    to = str(element.get("toName"))
    labels = tuple(e.get("value", "") for e in element.iter("Label"))
    return Tag(element.tag.lower(), str(element.get("name")), to, labels, photos.get(to) or "image")


def regions_of(result: Result, tag: Tag, names: Iterable[str]) -> list[dict]:
    height, width = result.size
    return [
        {
            "id": f"shotseg-{result.classes.index(name)}" + (f"-{number}" if number else ""),
            "type": tag.kind,
            "from_name": tag.name,
            "to_name": tag.to,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(float(result.confidences[name]), 6),
            "readonly": False,
            "value": {**value, tag.kind: [name]},
        }
        for name in names
        if name in result.masks and result.areas[name]
        for number, value in enumerate(_values(result.masks[name], tag))
    ]


def _values(mask: np.ndarray, tag: Tag) -> list[dict]:
    """A class's mask as its tag holds it: whole, or one polygon for each connected part that is more than a speck of it."""
    if tag.kind == "brushlabels":
        return [{"format": "rle", "rle": encode(mask)}]
    if tag.kind == "polygonlabels":
        percent = 100 / np.array([mask.shape[1], mask.shape[0]])
        least = SPECK * np.count_nonzero(mask)
        rings = [outline(part, top, left) for part, top, left in parts(mask) if np.count_nonzero(part) >= least]
        return [{"points": (ring * percent).tolist(), "closed": True} for ring in rings if len(ring) >= CORNERS]
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = mask * np.uint8(255)  # black on transparent
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return [{"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}]


def drawn(regions: Iterable[dict], size: tuple[int, ...]) -> Iterable[tuple[str, np.ndarray]]:
    """(class, (H, W) bool) of every mask among the regions. Raises as ``BROKEN`` says where one is of another size."""
    for region in regions:
        value = region.get("value") or {}
        if {"rle", "points", "imageDataURL"} & value.keys():
            mask = draw(value, *size)
            if mask.shape != tuple(size):
                raise ValueError(f"a mask of {mask.shape} in a photo of {tuple(size)}")
            for name in names_of(region):
                yield name, mask


def strokes_of(regions: Sequence[dict], size: tuple[int, int]) -> dict[str, Strokes]:
    """What a person marked, by class: brushes and polygons; key points as dots, ``is_positive`` 0 on something else; rectangles,
    out of which the class is not, and in the middle of which it is, unless other marks say so."""
    strokes: dict[str, Strokes] = {}
    boxes = [region for region in regions if _is_box(region.get("value") or {})]
    for region in (*boxes, *(region for region in regions if region not in boxes)):
        value = region.get("value") or {}
        for name in names_of(region):
            known = strokes.get(name)
            if region in boxes:
                strokes[name] = _boxed(value, known, size)
                continue
            known = known or Strokes.none(size)
            if {"x", "y"} <= value.keys() and "width" in value and "height" not in value:
                place = _place(float(value["x"]), float(value["y"]), size)
                known = known.disc(place, DOT * max(size), bool(int(region.get("is_positive", 1))))
            for _, mask in drawn([region], size):
                known = Strokes(np.where(mask, np.uint8(1), known.labels))
            strokes[name] = known
    return strokes


def _is_box(value: dict) -> bool:
    return {"x", "y", "width", "height"} <= value.keys()


def _boxed(value: dict, known: Strokes | None, size: tuple[int, int]) -> Strokes:
    """A rectangle beside the earlier ones; it is turned about its upper left corner by ``rotation`` degrees."""
    outline_ = corners(value, *size)
    inside = polygon(outline_, *size)
    outside = np.where(inside, Strokes.none(size).labels, np.uint8(0))
    labels = outside if known is None else np.where(inside & (known.labels == 0), outside, known.labels)
    across, upright = outline_.mean(0) / [size[1], size[0]] * 100
    return Strokes(labels).disc(_place(across, upright, size), DOT * max(size), True)


def _place(x: float, y: float, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel (row, column) at so many percent of the width and height."""
    height, width = size
    return min(max(int(y / 100 * height), 0), height - 1), min(max(int(x / 100 * width), 0), width - 1)
