"""Label Studio: ``tasks.json`` with brush predictions to correct, and ``config.xml``, the project's labelling set-up.

Import ``tasks.json`` into a project whose local storage serves the photos' folder: a task's photo is
``/data/local-files/?d=<file>``. What people corrected is read back from the project's JSON export.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import numpy as np

from shotseg.data.annotations.labelled import Labelled, malformed, read_json, write_json
from shotseg.data.images import write_bytes
from shotseg.data.sets.coco_masks import polygon
from shotseg.errors import InputError

LOCAL = "/data/local-files/?d="
WORD = 8  # bits of a value
LENGTHS = (3, 4, 8, 16)  # bits of a run's length, by size class


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str], prefix: str = LOCAL) -> None:
    """``prefix``: what the photos' addresses begin with."""
    tasks = []
    for result in results:
        regions = [_region(result.labels == label, classes[label - 1]) for label in result.present(len(classes))]
        prediction: dict = {"model_version": "shotseg", "result": regions}
        if result.scores:
            prediction["score"] = round(float(min(result.scores.values())), 6)
        tasks.append({"data": {"image": prefix + quote(result.file)}, "predictions": [prediction]})
    write_json(out / "tasks.json", tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    brushes = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for name in classes:
        ElementTree.SubElement(brushes, "Label", value=name)
    ElementTree.indent(view)
    write_bytes(out / "config.xml", ElementTree.tostring(view, encoding="utf-8") + b"\n")


def read(path: Path) -> tuple[list[str], Iterator[Labelled]]:
    """``path``: a JSON export, or the folder that :func:`write` wrote. People's annotations count before predictions.

    Classes: in the order of config.xml beside it, else sorted. A photo without regions is left out: its size is not known.
    """
    folder, path = (path, path / "tasks.json") if path.is_dir() else (path.parent, path)
    tasks = read_json(path)
    try:
        regions = [(_file(task["data"]["image"]), _latest(task)) for task in tasks]
        used = {name for _, of_task in regions for region in of_task for name in _names(region)}
        classes = _configured(folder / "config.xml", used)
        return classes, _label_maps(path, regions, classes)
    except (KeyError, TypeError, IndexError) as error:
        raise malformed(path, error, "an export of Label Studio") from error


def _label_maps(path: Path, tasks: list[tuple[str, list[dict]]], classes: list[str]) -> Iterator[Labelled]:
    for file, regions in tasks:
        if not regions:
            continue
        try:
            labels = np.zeros((regions[0]["original_height"], regions[0]["original_width"]), np.uint8)
            for region in regions:
                labels[_mask(region, *labels.shape)] = classes.index(_names(region)[0]) + 1
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise malformed(path, error, f"regions of {file}") from error
        yield Labelled(file, labels)


def _region(mask: np.ndarray, name: str) -> dict:
    height, width = mask.shape
    return {
        "id": f"shotseg-{name}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask), "brushlabels": [name]},
    }


def _latest(task: dict) -> list[dict]:
    """The labelled regions of a task's last annotation that was not cancelled, or of its last prediction."""
    given = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")] or task.get("predictions") or []
    return [region for region in given[-1]["result"] if _names(region)] if given else []


def _names(region: dict) -> list[str]:
    return region.get("value", {}).get("brushlabels") or region.get("value", {}).get("polygonlabels") or []


def _mask(region: dict, height: int, width: int) -> np.ndarray:
    value = region["value"]
    if "rle" in value:
        return decode(value["rle"], height, width)
    return polygon(np.array(value["points"]) / 100 * (width, height), height, width)


def _file(address: str) -> str:
    if LOCAL in address:
        return unquote(address.split(LOCAL)[1])
    return unquote(posixpath.basename(address))


def _configured(path: Path, used: set[str]) -> list[str]:
    known: list[str] = []
    if path.is_file():
        try:
            known = [label.attrib["value"] for label in ElementTree.parse(path).iter("Label")]
        except (ElementTree.ParseError, KeyError) as error:
            raise InputError(f"{path}: not a labelling set-up ({error}); copy it from the project again") from error
    return known + sorted(used - set(known))


def encode(mask: np.ndarray) -> list[int]:
    """(H, W) bool as the bytes of Label Studio's brush: runs of the RGBA picture that is 255 in the mask, else 0.

    A bit stream: 32 bits the number of values, 5 bits the word size - 1, four times 4 bits the length sizes - 1; then
    for each run a 1, two bits the size class, the length - 1 in so many bits, and the value (thi.ng/rle-pack).
    """
    flat = mask.ravel()
    ends = np.r_[np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size]
    bits = [f"{4 * flat.size:032b}{WORD - 1:05b}", *(f"{size - 1:04b}" for size in LENGTHS)]
    for length, end in zip((4 * np.diff(ends, prepend=0)).tolist(), ends.tolist()):
        value = "1" * WORD if flat[end - 1] else "0" * WORD
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
