"""Label Studio: ``tasks.json`` with brush predictions to correct, and ``config.xml``, the project's labelling set-up.

Import ``tasks.json`` into a project whose local storage serves the photos' folder: a task's photo is
``/data/local-files/?d=<file>``. What people corrected is read back from the project's JSON export.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from shotseg.data.annotations.drawn import (
    BROKEN,
    Annotated,
    Annotations,
    Photos,
    Shape,
    ellipse,
    in_photo,
    numbered,
    polygon,
    size,
    turned,
    uploaded,
)
from shotseg.data.annotations.label_studio_exports import LOCAL, Task, file_names, files, names_of, tasks_of
from shotseg.data.annotations.labelled import Labelled, Part, note, some, whole_classes
from shotseg.data.annotations.streams import JsonItems, whole
from shotseg.data.enlarging import runs_of
from shotseg.data.images import write_bytes
from shotseg.errors import InputError

DRAWN = {"rle", "points", "imageDataURL"}  # what a region has whose shape is free
BOX, ROUND = {"x", "y", "width", "height"}, {"x", "y", "radiusX", "radiusY"}
WORD = 8  # bits of a value
LENGTHS = (3, 4, 8, 16)  # bits of a run's length, by size class


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str], prefix: str = LOCAL) -> None:
    """One brush region for each class of a photo. ``prefix``: what the photos' addresses begin with."""
    with whole(out / "tasks.json") as file:
        file.write(b"[")
        tasks = JsonItems(file)
        for result in results:
            regions = [_region(part, result.labels.shape, classes[part.label - 1]) for part in whole_classes(result)]
            prediction: dict = {"model_version": "shotseg", "result": regions}
            if result.scores:
                prediction["score"] = round(float(min(result.scores.values())), 6)
            tasks.add({"data": {"image": prefix + quote(result.file)}, "predictions": [prediction]})
        file.write(b"]\n")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    brushes = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for name in classes:
        ElementTree.SubElement(brushes, "Label", value=name)
    ElementTree.indent(view)
    write_bytes(out / "config.xml", ElementTree.tostring(view, encoding="utf-8") + b"\n")


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: an export as JSON, JSON-MIN, CSV or TSV, or the folder that holds it. See :func:`tasks_of` for what counts.

    Classes: in the order of config.xml beside it, else sorted. A photo without regions is known only where it is found:
    the export does not say its size.
    """
    found = ([path] if path.is_file() else files(path)) or [path / "tasks.json"]
    folder = path if path.is_dir() else path.parent
    tasks, left_out = tasks_of(found, path)
    classes = _configured(folder / "config.xml", {name for task in tasks for r in task.regions for name in names_of(r)})
    finder = Photos(images or folder, *(() if images else (folder / "images",)))
    files_ = list(file_names(tasks))
    own = Counter(uploaded(file) for file in files_ if isinstance(file, str))
    photos = []
    for task, named in zip(tasks, files_):
        try:
            if isinstance(named, InputError):
                raise named
            photo = finder.find(named)
            if photo is None and (photo := finder.find(uploaded(named))) and own[uploaded(named)] == 1:
                named = uploaded(named)
            photos.append(_photo(task.source, named, task.regions, classes, photo))
        except InputError as error:
            note(str(error))
        except BROKEN as error:
            note(f"{task.source}: {task.address[:80]!r} left out ({error})")
    if unknown := photos.count(None):
        note(
            f"{path}: {unknown} tasks without a region, whose photos are not found, left out; put them beside the file"
        )
    _name_boxes(path, tasks)
    return Annotations(classes, [photo for photo in photos if photo is not None], left_out + len(tasks) - len(photos))


def _name_boxes(path: Path, tasks: Iterable[Task]) -> None:
    """Say that rectangles are areas, where the same class has masks too: people draw one around the other."""
    kinds: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for task in tasks:
        for region in task.regions:
            if _is_area(value := region.get("value") or {}):
                kinds[value.keys() >= BOX] |= {(task.address, name) for name in names_of(region)}
    if both := kinds[True] & kinds[False]:
        names = some(sorted({name for _, name in both}))
        note(
            f"{path}: rectangles beside other masks of their class are areas of it too ({names}); delete those that are not"
        )


def _photo(path: Path, file: str, regions: list[dict], classes: list[str], photo: Path | None) -> Annotated | None:
    shapes, lost, frame = [], 0, None
    for region in regions:
        names = names_of(region)
        value = region.get("value") or {}
        if not names or not _is_area(value):
            lost += 1
            what = _what(region) if names else f"{_what(region)} without a class"
            note(f"{path}: {what} of {file} is left out; draw a brush, a polygon or another area with a class")
            continue
        frame = frame or size(region.get("original_height"), region.get("original_width"))
        shapes += [Shape(classes.index(name) + 1, partial(draw, value)) for name in names]
    if photo is None and frame is None:
        if regions:
            raise InputError(f"{path}: photo {file} has no size and is not found; put it beside the file")
        return None  # nothing was drawn, nothing says how large it is
    return Annotated(file, path, frame, shapes, photo, lost)


def draw(value: dict, height: int, width: int) -> np.ndarray:
    """(h, w) bool of a region's value. Raises as ``BROKEN`` says."""
    if "rle" in value:
        return decode(value["rle"], height, width)
    if "points" in value:
        return polygon(np.asarray(value["points"], np.float64) / 100 * (width, height), height, width)
    if "imageDataURL" in value:
        return _picture(value["imageDataURL"])
    return polygon(corners(value, height, width), height, width)


def corners(value: dict, height: int, width: int) -> np.ndarray:
    """(N, 2) outline (x, y) in pixels of a rectangle, turned about its first corner, or of an ellipse, about its middle.

    ``rotation`` is in degrees, clockwise. Raises as ``BROKEN`` says.
    """
    x, y = float(value["x"]) / 100 * width, float(value["y"]) / 100 * height
    angle = float(value.get("rotation") or 0)
    if value.keys() >= ROUND:
        return ellipse((x, y), (float(value["radiusX"]) / 100 * width, float(value["radiusY"]) / 100 * height), angle)
    sides = float(value["width"]) / 100 * width, float(value["height"]) / 100 * height
    return np.add((x, y), turned(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides, angle))


def _picture(address: str) -> np.ndarray:
    """The bitmask of a data address: black on transparent; of a picture without transparency, what is not black."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            clear = image.has_transparency_data
            return np.array(image.convert("RGBA"))[..., 3] > 127 if clear else np.array(image.convert("L")) > 127
    except Exception as error:  # a broken picture can make a decoder fail in any way
        raise ValueError(f"its bitmask is no picture: {error}") from error


def _region(part: Part, shape: tuple[int, ...], name: str) -> dict:
    height, width = shape
    return {
        "id": f"shotseg-{name}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(in_photo(part, shape)), "brushlabels": [name]},
    }


def _is_area(value: dict) -> bool:
    return bool(DRAWN & value.keys()) or value.keys() >= BOX or value.keys() >= ROUND


def _what(region: dict) -> str:
    """A region in words, as "rectangle": by its type, or, in JSON-MIN, by the list of its classes."""
    kinds = [region.get("type"), *(key for key in region.get("value") or {} if key.endswith("labels"))]
    return next((word for kind in kinds if (word := str(kind or "").removesuffix("labels"))), "region")


def _configured(path: Path, used: set[str]) -> list[str]:
    known: list[str] = []
    if path.is_file():
        try:
            known = [label.attrib["value"] for label in ElementTree.parse(path).iter("Label")]
        except (ElementTree.ParseError, KeyError) as error:
            raise InputError(f"{path}: not a labelling set-up ({error}); copy it from the project again") from error
    return numbered([*known, *sorted(used - set(known))])


def encode(mask: np.ndarray) -> list[int]:
    """(H, W) bool as the bytes of Label Studio's brush: runs of the RGBA picture that is 255 in the mask, else 0.

    A bit stream: 32 bits the number of values, 5 bits the word size - 1, four times 4 bits the length sizes - 1; then
    for each run a 1, two bits the size class, the length - 1 in so many bits, and the value (thi.ng/rle-pack).
    """
    lengths, values = runs_of(mask)
    bits = [f"{4 * mask.size:032b}{WORD - 1:05b}", *(f"{size - 1:04b}" for size in LENGTHS)]
    for length, on in zip((4 * lengths).tolist(), values.tolist()):
        value = ("1" if on else "0") * WORD
        while length:
            run = min(length, 1 << LENGTHS[-1])
            kind = next(i for i, size in enumerate(LENGTHS) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{LENGTHS[kind]}b}{value}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def decode(stream: list[int], height: int, width: int) -> np.ndarray:
    """(H, W) bool of a brush's bytes: where its alpha is above one half. ValueError where it is of another size."""
    bits = np.unpackbits(np.array(stream, dtype=np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the brush ends too early")
        place += count
        value = int.from_bytes(np.packbits(bits[place - count : place]).tobytes(), "big")
        return value >> (-count % 8)

    total, word = take(32), take(5) + 1
    if total != 4 * height * width:
        raise ValueError(f"a brush of {total} values for a photo of {width} x {height}")
    lengths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = take(1)
        count = take(lengths[take(2)]) + 1
        if repeated:
            values[done : done + count] = take(word)
        else:
            values[done : done + count] = [take(word) for _ in range(count)]
        done += count
    return values.reshape(height, width, 4)[..., 3] > 127
