"""What a JSON file holds, told from its beginning."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

HEAD = 1 << 20
COCO = {"images", "annotations", "categories", "licenses"}


def json_kind(path: Path) -> str:
    """ "coco", "labelme", "labelstudio", or "" for any other file."""
    try:
        state = path.stat()
        return _kind(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=4096)
def _kind(path: Path, changed: int, length: int) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD).decode("utf-8-sig", "replace")
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
