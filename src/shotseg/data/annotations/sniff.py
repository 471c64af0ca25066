"""What annotation files hold, told from their beginning."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path

from shotseg.data.containers import stranger

HEAD = 1 << 20
OTHERS = {  # tool -> a word of its own
    "ISAT": "ISAT",
    "Ultralytics NDJSON": "class_names",
    "Labelbox": "data_row",
    "Datumaro": "dm_format_version",
    "COCO results": "category_id",
    "CreateML": "coordinates",
    "Cityscapes": "imgHeight",
    "SuperAnnotate": "className",
    "Encord": "objectHash",
}
BY_NAME = {  # what files are whose annotations are not read, with the mend
    "task-*-annotation-*": "masks of Label Studio that name their task and no photo; export JSON there",
    "*.datum": "binary files of Datumaro; export COCO there",
    "*.arrow": "tables of Arrow; save their photos and masks as files, as images/a.jpg and masks/a.png",
    "*.parquet": "tables of Parquet; save their photos and masks as files, as images/a.jpg and masks/a.png",
    "*.tfrecord*": "records of TensorFlow; export COCO where they are from",
}
TEXTS = (".json", ".ndjson", ".geojson")
TAGS = {b"<bndbox>": "VOC boxes", b"<robndbox>": "roLabelImg"}  # of XML files, one a photo
PLACES = (
    *("*.json", "*.ndjson", "*.geojson", "ann/*.json", "*/ann/*.json", "annotations/*.json"),
    *("*.xml", "[Aa]nnotations/*.xml", "train/*.xml", "*.csv", "*.txt", "obj_*_data/*.txt"),
)
NUMBERS = re.compile(rb"\d+(\s+[-\d.e]+){4,}\s")  # a line of YOLO's, where nothing names its classes
ARCHIVES = (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar")
PANOPTIC = '"segments_info"'
COCO = {"images", "annotations", "categories", "licenses"}


def json_kind(path: Path) -> str:
    """ "coco", "panoptic", "labelme", "labelstudio", "geojson", or "" for any other file."""
    try:
        state = path.stat()
        return _kind(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return ""


def unread_tool(path: Path) -> str:
    """The tool that a file, or the first files of a folder, are from, where it is one whose files are not read; else ""."""
    files = [path] if path.is_file() else [file for p in PLACES for file in islice(path.glob(p), 5)]
    return next((tool for file in files if file.is_file() and (tool := _unread(file))), "")


def unread_files(folder: Path) -> str:
    """What the files of a folder, or of those in it, are, where it is known by their names and not read; else ""."""
    found = (
        what for name, what in BY_NAME.items() if any(next(folder.glob(f"{deep}{name}"), None) for deep in ("", "*/"))
    )
    return next(found, "")


def _unread(file: Path) -> str:
    if file.suffix.lower() in TEXTS:
        head = _head(file)
        return next((tool for tool, word in OTHERS.items() if f'"{word}"' in head), "")
    words = TAGS if file.suffix.lower() == ".xml" else {}
    with file.open("rb") as opened:
        beginning = opened.read(1 << 16)
    if file.suffix.lower() == ".txt":
        return "YOLO without data.yaml" if NUMBERS.match(beginning) else ""
    return next((tool for word, tool in words.items() if word in beginning), "")


def begins_with(path: Path, *words: str) -> bool:
    """Whether the beginning of a file has all these words in it, each as a whole name."""
    head = _head(path)
    return all(re.search(rf"(?<![A-Za-z]){word}\b", head) for word in words)


def packed(path: Path) -> str:
    """What an archive is, with the mend; "" for any other file."""
    with path.open("rb") as file:
        what = stranger(file.read(2000))
    return what if "unpack" in what else ""


def listed(folder: Path, *endings: str) -> list[Path]:
    """The files of a folder with these endings, in any case, sorted; none where there is no such folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in found if file.suffix.lower() in endings and file.name[0] != ".")


def _head(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def _within(path: Path, length: int, word: str) -> bool:
    """Whether a long file has a word near a quarter, a half or three quarters of it: before these are lists of photos."""
    with path.open("rb") as file:
        for quarter in (1, 2, 3):
            file.seek(length * quarter // 4)
            if word.encode() in file.read(1 << 16):
                return True
    return False


@lru_cache(maxsize=4096)
def _kind(path: Path, changed: int, length: int) -> str:
    head = _head(path)
    if head.startswith(("PK\x03\x04", "\x1f")):  # packed, though some of its text may be plain
        return ""
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
    if re.search(r'"type"\s*:\s*"Feature(Collection)?"', head) or (path.suffix.lower() == ".geojson" and not listed):
        return "geojson"
    if PANOPTIC in head or (length > HEAD and _within(path, length, PANOPTIC)):
        return "panoptic"
    if listed and '"coordinates"' in head and '"data"' not in head:
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
