"""Label Studio: ``tasks.json`` with brush predictions to correct, and ``config.xml``, the project's labelling set-up.

Import ``tasks.json`` into a project whose local storage serves the photos' folder: a task's photo is
``/data/local-files/?d=<file>``. What people corrected is read back from the project's JSON export.
"""

from __future__ import annotations

import base64
import io
import posixpath
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from shotseg.data.annotations.drawn import (
    BROKEN,
    Annotated,
    Annotations,
    Photos,
    Shape,
    in_photo,
    numbered,
    polygon,
    size,
)
from shotseg.data.annotations.labelled import Labelled, Part, inside, malformed, note, read_json, whole_classes
from shotseg.data.annotations.sniff import json_kind
from shotseg.data.annotations.streams import JsonItems, whole
from shotseg.data.enlarging import runs_of
from shotseg.data.images import IMAGE_TYPES, write_bytes
from shotseg.errors import InputError

LOCAL = "/data/local-files/?d="
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded photo
KINDS = (
    "brushlabels",
    "polygonlabels",
    "bitmasklabels",
    "labels",
    "rectanglelabels",
    "ellipselabels",
    "keypointlabels",
)
DRAWN = {"rle", "points", "imageDataURL"}  # shapes that have an area of their own
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


def files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.glob("*.json"))
    return [file for file in found if json_kind(file) == "labelstudio"]


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a JSON or JSON-MIN export, or the folder that holds it. People's annotations count before predictions.

    Classes: in the order of config.xml beside it, else sorted. A photo without regions is known only where it is found:
    the export does not say its size.
    """
    found = ([path] if path.is_file() else files(path)) or [path / "tasks.json"]
    folder = path if path.is_dir() else path.parent
    tasks: list[tuple[Path, str, list[dict]]] = []
    bare = several = 0
    broken: list[InputError] = []
    for file in found:
        content = read_json(file)
        for number, task in enumerate(content if isinstance(content, list) else [content], start=1):
            try:
                address, given = _address(task), _given(task)
                if given:
                    tasks.append((file, address, _regions(given[-1])))
                bare, several = bare + (not given), several + (len(given) > 1)
            except BROKEN as error:
                broken.append(malformed(file, error, f"an export of Label Studio, task {number}"))
    if not tasks and (broken or bare):
        raise next(iter(broken), None) or InputError(f"{path}: nobody has annotated its {bare} tasks; annotate some")
    for reason in broken:
        note(str(reason))
    for count, what in (
        (bare, "left out, nobody has annotated them"),
        (several, "have several annotations, the last counts"),
    ):
        if count:
            note(f"{path}: {count} tasks {what}")
    classes = _configured(folder / "config.xml", {name for _, _, of in tasks for r in of for name in _names(r)})
    finder = Photos(images or folder, *(() if images else (folder / "images",)))
    photos = []
    for file, address, regions in tasks:
        try:
            named = _file(address, file)
            photo = finder.find(named) or finder.find(UPLOADED.sub("", PurePosixPath(named).name))
            photos.append(_photo(file, named, regions, classes, photo))
        except (InputError, *BROKEN) as error:
            note(str(error) if isinstance(error, InputError) else f"{file}: {address[:80]!r} left out ({error})")
    if unknown := photos.count(None):
        note(
            f"{path}: {unknown} tasks without a region, whose photos are not found, left out; put them beside the file"
        )
    return Annotations(
        classes, [photo for photo in photos if photo is not None], bare + len(broken) + len(tasks) - len(photos)
    )


def _photo(path: Path, file: str, regions: list[dict], classes: list[str], photo: Path | None) -> Annotated | None:
    shapes, lost, frame = [], 0, None
    for region in regions:
        names = _names(region)
        value = region.get("value") or {}
        if not names or not (DRAWN & value.keys()):
            lost += 1
            what = _what(region) if names else f"{_what(region)} without a class"
            note(f"{path}: {what} of {file} is left out; draw a brush, a polygon or a bitmask with a class")
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
    return _picture(value["imageDataURL"])


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


def _given(task: dict) -> list[dict]:
    """A task's annotations that were not cancelled, or its predictions, each with its regions as ``result``."""
    if "data" not in task:  # JSON-MIN: the regions' values by the name of their tag
        rows = (row for value in task.values() if isinstance(value, list) for row in value if isinstance(row, dict))
        return [{"result": [{**row, "value": row} for row in rows]}]
    drawn = task.get("annotations") or task.get("completions") or []
    predicted = [p for p in task.get("predictions") or [] if isinstance(p, dict)]  # a full export holds their ids alone
    return [a for a in drawn if not a.get("was_cancelled")] or predicted


def _regions(annotation: dict) -> list[dict]:
    return [region for region in annotation["result"] if "value" in region]


def _names(region: dict) -> list[str]:
    value = region.get("value") or {}
    return [str(name) for kind in KINDS for name in value.get(kind) or ()]


def _what(region: dict) -> str:
    """A region in words, as "rectangle": by its type, or, in JSON-MIN, by the list of its classes."""
    kinds = [region.get("type"), *(key for key in region.get("value") or {} if key.endswith("labels"))]
    return next((word for kind in kinds if (word := str(kind or "").removesuffix("labels"))), "region")


def _address(task: dict) -> str:
    """What the task says of its photo: under "image", else the first value that names one."""
    data = task.get("data", task)
    texts = [data.get("image"), *data.values()]
    named = [t for t in texts if isinstance(t, str) and PurePosixPath(unquote(t)).suffix.lower() in IMAGE_TYPES]
    return named[0] if named else data["image"]


def _file(address: str, source: Path) -> str:
    if LOCAL in address:
        return inside(unquote(address.split(LOCAL)[1]), source)
    return inside(unquote(posixpath.basename(urlsplit(address).path)), source)


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
