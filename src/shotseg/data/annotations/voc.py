"""PASCAL VOC segmentation: ``SegmentationClass/<name>.png`` in VOC's palette, the list of names, ``labelmap.txt``.

VOC's own folders have no ``labelmap.txt`` (a custom of annotation tools: ``name:r,g,b::`` a line, in any order), nor
LabelMe's ``class_names.txt``; its 20 classes are then taken. 255, or the colour of a line ``ignored``, is void.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from shotseg.data.annotations.drawn import BROKEN, Annotated, Annotations, Photos, check_map
from shotseg.data.annotations.labelled import Labelled, malformed, read_json, some
from shotseg.data.images import read_bytes, write_bytes, write_png
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, note

# fmt: off
OWN_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
# Of older LabelMe, beside arrays in the first; and of VOC 2012 with the masks of SBD, as most code has it.
FOLDERS = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
# What says the classes; the second of LabelMe, the third, "name r g b" a line, of Supervisely, which calls void "neutral".
# The last of datumaro, which has it in place of others.
TABLES = MAP, LISTED, SPACED, META = "labelmap.txt", "class_names.txt", "colors.txt", "dataset_meta.json"
HEAD = "label:color_rgb"
JPEG = (".jpg", ".jpeg", ".png")
BACKGROUND, VOID = "background", "ignored"  # names that labelmap.txt keeps for itself
Colours = tuple[tuple[str, int], ...]  # (name, red << 16 | green << 8 | blue) of each line


@cache
def palette() -> np.ndarray:
    """(256, 3) uint8: the bits of the index, lowest three first, are the highest bits of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    check_map(classes, out)
    names, void = [], False
    for result in results:
        write_png(out / "SegmentationClass" / f"{result.stem}.png", result.labels, palette())
        names.append(result.stem)
        void |= bool((result.labels == IGNORE).any())
    write_bytes(out / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{name}\n" for name in names).encode())
    named = [*enumerate([BACKGROUND, *classes]), *([(IGNORE, VOID)] if void else [])]
    rows = [f"{name}:{','.join(map(str, palette()[i]))}::" for i, name in named]
    write_bytes(out / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows, ""]).encode())


def files(path: Path) -> list[Path]:
    return [path] if any((path / name).is_dir() for name in FOLDERS) else []


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: the folder. Masks are in the palette, in the colours of labelmap.txt, or grey with its line numbers."""
    if not files(path):
        raise InputError(f"{path}: no folder SegmentationClass in it; give the folder of a VOC data set")
    table = next((path / name for name in TABLES if (path / name).is_file()), None)
    colours = (
        _own()
        if table is None
        else {MAP: _colours, LISTED: _listed, SPACED: _spaced, META: described}[table.name](table)
    )
    ordered = table is None or table.name == LISTED
    said = f"{MAP}; add its line"
    if table is not None and table.name == SPACED:
        said = f"{SPACED}; Supervisely's SDK draws them at random, so give its project, or its export as COCO"
    drawn = {path / name: sorted((path / name).rglob("*.[pP][nN][gG]")) for name in FOLDERS}
    masks = next((folder for folder, found in drawn.items() if found), None)
    if masks is None:
        raise InputError(f"{path}: no PNG in its {' or '.join(FOLDERS)}; save the masks as PNG")
    if others := [folder.name for folder, found in drawn.items() if found and folder != masks]:
        note(f"{path}: the masks in {masks.name} count, those in {', '.join(others)} are passed over")
    if table is None and _is_of_others(drawn[masks][0]):
        note(
            f"{path}: no {MAP}, so values have the names of PASCAL VOC, 1 = {OWN_CLASSES[0]}; write one to name your own"
        )
    masked = {_stem(mask, masks).removesuffix("_class") for mask in drawn[masks]}
    if bare := sorted(_listed_photos(path) - masked):
        note(f"{path}: left out, photos of its ImageSets without a mask: {some(bare)}")
    finder = Photos(path, *([images] if images else [path / "JPEGImages", path / "images"]))
    photos = []
    for mask in drawn[masks]:
        stem = _stem(mask, masks)
        photo = finder.stem(stem) or (
            finder.stem(stem := stem.removesuffix("_class")) if stem.endswith("_class") else None
        )
        file = f"{stem}{photo.suffix if photo else '.jpg'}"
        photos.append(Annotated(file, mask, photo=photo, map=partial(_labels, mask, colours, ordered, said)))
    return Annotations([name for name, _ in colours if name not in (BACKGROUND, VOID)], photos)


def _stem(mask: Path, masks: Path) -> str:
    return mask.relative_to(masks).with_suffix("").as_posix()


def _listed_photos(path: Path) -> set[str]:
    """The photos that its lists of segmentation name, some tools with their ending."""
    texts = (read_bytes(file).decode("utf-8", "replace") for file in path.glob("ImageSets/Segmentation/*.txt"))
    names = {line.strip("\r") for text in texts for line in text.split("\n")} - {""}
    return {name.removesuffix(PurePosixPath(name).suffix) if name.lower().endswith(JPEG) else name for name in names}


def _is_of_others(mask: Path) -> bool:
    """Whether the colours of a mask are not VOC's."""
    with suppress(OSError, ValueError, SyntaxError), Image.open(mask) as image:
        own = (image.getpalette("RGB") if image.mode == "P" else None) or []
        ours = palette()[: 1 + len(OWN_CLASSES)].ravel().tolist()
        return any(theirs != known for theirs, known in zip(own, ours))
    return False


def _own() -> Colours:
    named = [*enumerate([BACKGROUND, *OWN_CLASSES]), (IGNORE, VOID)]
    return tuple((name, _code(palette()[i])) for i, name in named)


def _listed(path: Path) -> Colours:
    """Of names a line in the order of their values, in VOC's palette; the first is the background."""
    lines = [line.strip() for line in read_bytes(path).decode("utf-8-sig", "replace").splitlines()]
    found = [name for name in lines if name and name != "__ignore__"]
    if len(found) < 2 or found[0].strip("_").casefold() != BACKGROUND or len(set(found)) < len(found):
        raise InputError(f"{path}: not _background_ and then one class a line, each once; write {MAP} in place of it")
    check_map(found[1:], path)
    named = [*enumerate([BACKGROUND, *found[1:]]), (IGNORE, VOID)]
    return tuple((name, _code(palette()[i])) for i, name in named)


def _colours(path: Path) -> Colours:
    """Of ``name:r,g,b::`` lines; where none says a colour, as datumaro writes them, in VOC's palette."""
    rows = read_bytes(path).decode("utf-8-sig", "replace").splitlines()
    rows = [row for row in rows if row.strip() and not row.startswith(("#", HEAD))]
    if rows and all(row.endswith(":::") for row in rows):
        check_map(rows[1:], path)
        return tuple((row[:-3], _code(palette()[i])) for i, row in enumerate(rows))
    found = []
    for row in rows:
        name, *rest = row.rsplit(":", 3)
        try:
            red, green, blue = (int(part) for part in rest[0].split(","))
        except (IndexError, ValueError):
            raise InputError(f"{path}: {row[:60]!r} is not name:r,g,b::; export it again") from None
        found.append((name, red << 16 | green << 8 | blue))
    for i, (name, colour) in enumerate(found):
        if other := next((known for known, same in found[:i] if same == colour), None):
            raise InputError(f"{path}: {other!r} and {name!r} have one colour; give each its own")
    if not found:
        raise InputError(f"{path}: not name:r,g,b:: on each line; export it again")
    return tuple(found)


def _spaced(path: Path) -> Colours:
    found: dict[str, int] = {}
    for row in filter(str.strip, read_bytes(path).decode("utf-8-sig", "replace").splitlines()):
        name, *parts = row.rsplit(None, 3)
        if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
            raise InputError(f"{path}: {row[:60]!r} is not name r g b; export it again")
        found[VOID if name == "neutral" else name] = _code([int(part) for part in parts])
    return tuple(found.items())


def described(path: Path) -> Colours:
    """Of ``dataset_meta.json``: its labels and their colours; where it has none, in VOC's palette."""
    try:
        content = read_json(path)
        names = [str(name) for name in content["labels"]]
        codes = [_code(colour) for colour in content.get("segmentation_colors") or palette()[: len(names)]]
    except BROKEN as error:
        raise malformed(path, error, "labels with their segmentation_colors") from error
    return tuple(zip(names, codes))


def _labels(path: Path, colours: Colours, ordered: bool, said: str) -> np.ndarray:
    """(H, W) uint8: 0 = background, i + 1 = the i-th class of the lines, 255 = ignore.

    ordered: no table says the colours, so that in a palette of others the indices count.
    said:    the table that a colour is missing in, with the mend.
    """
    classes = [name for name, _ in colours if name not in (BACKGROUND, VOID)]
    label_of = {BACKGROUND: 0, VOID: IGNORE, **{name: i for i, name in enumerate(classes, start=1)}}
    check_map(classes, path)
    by_line = {i: label_of[name] for i, (name, _) in enumerate(c for c in colours if c[0] != VOID)} | {IGNORE: IGNORE}
    by_colour = {_code(palette()[IGNORE]): IGNORE, 0: 0} | {code: label_of[name] for name, code in colours}
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as image:
            grey = image.mode in ("L", "1") or image.mode.startswith("I")
            values = np.array(image if grey or image.mode == "P" else image.convert("RGB"))
            shown = np.array(image.getpalette("RGB") if image.mode == "P" else []).reshape(-1, 3) @ (1 << 16, 1 << 8, 1)
    except InputError:
        raise
    except Exception as error:  # a broken file can make a decoder fail in any way
        raise InputError(f"{path}: cannot be read as an image ({error}); export it again") from error
    table = by_line if grey else by_colour
    if values.ndim == 3:
        values = values.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    elif not grey:
        used = np.unique(values).tolist()
        table = {index: by_colour[shown[index]] for index in used if shown[index] in by_colour}
        if ordered and len(table) < len(used) and by_line.keys() >= set(used):
            table = by_line
    found = np.unique(values)
    if unknown := [value for value in found.tolist() if value not in table]:
        what = f"value {unknown[0]}" if grey else f"colour #{shown[unknown[0]] if len(shown) else unknown[0]:06x}"
        raise InputError(f"{path}: {what} is not in {said}")
    return np.array([table[value] for value in found.tolist()], np.uint8)[np.searchsorted(found, values)]


def _code(colour: Iterable[int]) -> int:
    red, green, blue = (int(value) for value in colour)
    return red << 16 | green << 8 | blue
