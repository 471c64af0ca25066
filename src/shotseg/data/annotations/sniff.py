"""What a JSON file holds, told from its beginning."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path

HEAD = 1 << 20
OTHERS = {  # tool -> a word of its own
    "Supervisely": "geometryType",
    "VIA": "shape_attributes",
    "Labelbox": "data_row",
    "Datumaro": "dm_format_version",
    "COCO panoptic": "segments_info",
    "COCO results": "category_id",
    "CreateML": "coordinates",
    "Cityscapes": "imgHeight",
    "V7 Darwin": "paths",
    "SA-1B": "stability_score",
}
PLACES = ("*.json", "*.ndjson", "ann/*.json", "*/ann/*.json", "annotations/*.json")
PANOPTIC = '"segments_info"'
COCO = {"images", "annotations", "categories", "licenses"}


def json_kind(path: Path) -> str:
    """ "coco", "labelme", "labelstudio", or "" for any other file."""
    try:
        state = path.stat()
        return _kind(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return ""


def unread_tool(path: Path) -> str:
    """The tool that a file, or the first files of a folder, are from, where it is one whose files are not read; else ""."""
    files = [path] if path.is_file() else [file for p in PLACES for file in islice(path.glob(p), 5)]
    heads = [_head(file) for file in files if file.suffix.lower() in (".json", ".ndjson") and file.is_file()]
    return next((tool for tool, word in OTHERS.items() for head in heads if f'"{word}"' in head), "")


def _head(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


@lru_cache(maxsize=4096)
def _kind(path: Path, changed: int, length: int) -> str:
    head = _head(path)
    listed = head.lstrip().startswith("[")
    try:
        content = json.loads(head) if length <= HEAD else None
    except (ValueError, RecursionError):
        content = None
    if content is None:  # too long, or broken: the names that occur near its beginning
        keys = set(re.findall(r'"([A-Za-z_]+)"\s*:', head))
    else:
        first = content[0] if listed and content else content
        keys = set(first) if isinstance(first, dict) else set()
    if PANOPTIC in head or (listed and '"coordinates"' in head and '"data"' not in head):
        return ""
    if listed:
        known = keys & {"data", "annotations", "predictions", "completions"} or '"original_width"' in head
        return "labelstudio" if known else ""
    broken = content is None and length <= HEAD  # its reader says so
    if content is None and keys & COCO and (broken or keys & {"file_name", "segmentation"}):
        return "coco"
    if ("shapes" in keys and keys & {"imagePath", "imageData", "version"}) or (content is None and "imageData" in keys):
        return "labelme"
    if broken and {"version", "flags"} <= keys:
        return "labelme"
    if {"images", "categories"} <= keys:
        return "coco"
    return "labelstudio" if "data" in keys and keys & {"annotations", "predictions"} else ""
