"""The report of a folder: one HTML file that opens from disk, with every picture inside it."""

from __future__ import annotations

import base64
import contextlib
import heapq
import html
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from shotseg import __version__
from shotseg.data import images as files
from shotseg.overlay import PALETTE, draw

if TYPE_CHECKING:
    from shotseg.result import Result

SHOWN = 400  # photos in the page, the doubtful ones first: more would make it slow to open
EXAMPLES = 8  # pictures of examples that the page shows of a class
PANEL = (300, 195)  # largest width and height of one picture


def thumbnail_path(state: Path, name: str) -> Path:
    """Where the picture of the photo ``name`` lies in the state folder of a run."""
    return state / "thumbnails" / f"{name}.jpg"


def write_thumbnail(state: Path, name: str, result: Result) -> None:
    """Keep the picture of one result: photo, overlay and probability side by side."""
    height, width = result.size
    scale = min(PANEL[0] / width, PANEL[1] / height, 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = result.preview
    photo = np.asarray(Image.fromarray(small.image).resize(size, Image.Resampling.BOX))
    labels = np.asarray(Image.fromarray(small.labels).resize(size, Image.Resampling.NEAREST))
    maps = [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in small.probabilities.values()]
    gap = np.full((size[1], 4, 3), 255, np.uint8)
    strip = np.concatenate([photo, gap, draw(photo, labels), gap, _heat(np.max(maps, axis=0))], axis=1)
    files.write_bytes(thumbnail_path(state, name), _jpeg(strip))


def write(
    path: Path,
    lines: Sequence[str],
    state: Path,
    supports: Mapping[str, list[np.ndarray]],
    settings: Mapping[str, Any],
    total: int,
) -> Path:
    """Write the page of the photos in ``lines`` (JSON, as in results.jsonl) and give its path.

    supports: class name -> pictures (H, W, 3) uint8 of its examples.    settings: shown as they are.
    total: photos that there were to do.     The page links to the masks and label maps in its folder.
    """
    records = [json.loads(line) for line in lines]
    failed = [record for record in records if record["error"]]
    done = [record for record in records if not record["error"]]
    shown = heapq.nsmallest(SHOWN, done, key=lambda record: record["confidence"])
    classes = settings["classes"]
    parts = {
        "title": _title(len(done), total),
        "facts": " · ".join(
            html.escape(_fact(key, value)) for key, value in settings.items() if isinstance(value, str | int)
        ),
        "version": __version__,
        "colours": "".join(f".c{i}{{--colour:rgb{tuple(map(int, PALETTE[i + 1]))}}}" for i in range(len(classes))),
        "supports": "".join(_support(i, name, supports.get(name, [])) for i, name in enumerate(classes)),
        "note": _note(len(done), len(shown)),
        "column": f":root{{--column:{_column(state, shown)}px}}",
        "cards": "".join(_card(record, state, classes) for record in shown),
        "failed": _failures(failed),
    }
    page = package_files("shotseg").joinpath("report.html").read_text(encoding="utf-8")
    for key, text in parts.items():
        page = page.replace(f"<!--{key}-->", text).replace(f"/*{key}*/", text)
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def _fact(key: str, value: str | int) -> str:
    return "every class known to be there" if (key, value) == ("present", "None") else f"{key} {value}"


def _title(done: int, total: int) -> str:
    of = "" if done == total else f" of {total}"
    return f"{done}{of} photo{'s' if total != 1 else ''} segmented"


def _column(state: Path, shown: Sequence[Mapping[str, Any]]) -> int:
    """The least width of a card, in pixels: most pictures are then shown at 0.7 of their own width or more."""
    widths = []
    for record in shown[:20]:
        with contextlib.suppress(OSError), Image.open(thumbnail_path(state, record["name"])) as picture:
            widths.append(picture.width)
    return int(np.clip(0.7 * np.median(widths or [PANEL[0]]), 300, 640))


def _support(index: int, name: str, pictures: Sequence[np.ndarray]) -> str:
    shots = "".join(
        f'<img src="{_embedded(_jpeg(picture))}" alt="example of {html.escape(name)}">'
        for picture in pictures[:EXAMPLES]
    )
    more = f"<p>and {len(pictures) - EXAMPLES} more</p>" if len(pictures) > EXAMPLES else ""
    return f'<figure class="c{index}"><figcaption>{html.escape(name)}</figcaption><div>{shots}</div>{more}</figure>'


def _card(record: Mapping[str, Any], state: Path, classes: Sequence[str]) -> str:
    picture = thumbnail_path(state, record["name"])
    image = f'<img loading="lazy" src="{_embedded(picture.read_bytes())}" alt="">' if picture.is_file() else ""
    out = state.parent
    labels = _link(out, "labels", record["name"])
    chips = "".join(
        f'<li class="c{i}"><a href="{_link(out, "masks", name, record["name"])}">{html.escape(name)}</a> '
        f"<b>{_percent(record['classes'][name]['area'])}</b> <span>there: {record['present'][name]:.2f}</span></li>"
        for i, name in enumerate(classes)
        if name in record["classes"]
    )
    likeliest = max(record["present"].items(), key=lambda item: item[1], default=None)
    guess = f", likeliest {html.escape(likeliest[0])} ({likeliest[1]:.2f})" if likeliest else ""
    chips = chips or f'<li class="none">none of the classes found{guess}</li>'
    confidence, area = record["confidence"], sum(found["area"] for found in record["classes"].values())
    file = html.escape(record["file"])
    return (
        f'<article data-confidence="{confidence}" data-area="{area:.6f}" data-file="{file}"><a href="{labels}">{image}</a>'
        f'<div class="line"><span class="file" title="{file}">{file}</span>'
        f'<meter min="0" max="1" low=".35" high=".5" optimum="1" value="{confidence}"></meter>'
        f"<b>{confidence:.2f}</b></div><ul>{chips}</ul></article>"
    )


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(r['file'])}</td><td>{html.escape(r['error'])}</td></tr>" for r in failed[:SHOWN]
    )
    return f"<h2>{len(failed)} failed</h2><table><tr><th>file</th><th>reason</th></tr>{rows}</table>"


def _note(done: int, shown: int) -> str:
    return "" if shown == done else f"The {shown} least confident of {done} photos; all are in results.jsonl."


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %" if part >= 0.001 else "< 0.1 %"


def _link(out: Path, *parts: str) -> str:
    """Where a picture lies, from the page in ``out``; escaped for HTML too."""
    stem = "/".join(parts)
    suffix = ".tif" if (out / f"{stem}.tif").is_file() else ".png"
    return quote(stem, errors="surrogateescape") + suffix


def _embedded(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def _heat(probability: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] as (H, W, 3) uint8 colours."""
    return _magma()[(np.clip(probability, 0, 1) * 255).astype(np.uint8)]


@cache
def _magma() -> np.ndarray:
    from matplotlib import colormaps

    return (colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)
