"""The report of a folder: an HTML file that opens from disk with its pictures inside it, and further pages for many photos."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files as package_files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from shotseg import __version__
from shotseg.data import images as files
from shotseg.overlay import PALETTE, draw

if TYPE_CHECKING:
    from shotseg.result import Result

STATE = ".shotseg"  # the folder of what a run keeps beside its results
SHOWN = 200  # photos on a page, the doubtful ones first: more would make it slow to open
EXAMPLES = 8  # pictures of examples that the page shows of a class
PANEL = (300, 195)  # largest width and height of one picture


def thumbnail(name: str) -> str:
    """Where the picture of the photo ``name`` lies in the folder of a run."""
    return f"{STATE}/thumbnails/{name}.jpg"


def write_thumbnail(out: Path, name: str, result: Result) -> None:
    """Keep the picture of one result: photo, overlay and probability side by side."""
    height, width = result.size
    scale = min(PANEL[0] / width, PANEL[1] / height, 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = result.preview
    photo = np.asarray(Image.fromarray(result.picture).resize(size, Image.Resampling.BOX))
    labels = np.asarray(Image.fromarray(small.labels).resize(size, Image.Resampling.NEAREST))
    highest = np.max(list(small.probabilities.values()), axis=0)
    heat = _heat(np.asarray(Image.fromarray(highest).resize(size, Image.Resampling.BOX)))
    gap = np.full((size[1], 4, 3), 255, np.uint8)
    strip = np.concatenate([photo, gap, draw(photo, labels), gap, heat], axis=1)
    files.write_bytes(out / thumbnail(name), _jpeg(strip))


class Counts(NamedTuple):
    """How many photos there were to do, how many were segmented, and how many failed."""

    total: int
    done: int
    failed: int


class Shown(NamedTuple):
    """The records of results.jsonl that a report shows, each taken once.

    done: of photos that were segmented, the doubtful ones first.     failed: (file, reason) of the others.
    """

    done: Iterator[Mapping[str, Any]]
    failed: Iterator[tuple[str, str]]
    counts: Counts


def write(
    out: Path, tag: str, shown: Shown, supports: Mapping[str, list[np.ndarray]], settings: Mapping[str, Any]
) -> Path:
    """Write ``out/report<tag>.html`` and give its path; photos that it has no room for get further pages.

    supports: class name -> pictures (H, W, 3) uint8 of its examples.    settings: shown as they are.
    The first page has its pictures inside, the others link to them; all link to the masks and label maps. One page is held in
    memory at a time. A run that did not come to its end gets the first page alone.
    """
    counts, classes = shown.counts, settings["classes"]
    last = -(-counts.done // SHOWN) if counts.done + counts.failed == counts.total else 1
    first = list(islice(shown.done, SHOWN))
    same = {
        "title": _title(counts),
        "facts": " · ".join(
            html.escape(_fact(key, value)) for key, value in settings.items() if isinstance(value, str | int)
        ),
        "version": __version__,
        "colours": "".join(f".c{i}{{--colour:rgb{tuple(map(int, PALETTE[i + 1]))}}}" for i in range(len(classes))),
        "column": f":root{{--column:{_column(out, first)}px}}",
    }
    only_first = {
        "supports": _supports(supports, classes),
        "failed": _failures(shown.failed, counts.failed),
    }
    for number in range(1, max(last, 1) + 1):
        page = _Page(out, tag, number, last)
        records = list(islice(shown.done, SHOWN)) if number > 1 else first
        parts = {
            "note": _note(counts.done, len(records), last),
            "pager": page.pager(),
            "cards": "".join(page.card(record, classes) for record in records),
        }
        _write(page.path, {**same, **parts, **(only_first if number == 1 else {})})
    return out / f"report{tag}.html"


def _write(path: Path, parts: Mapping[str, str]) -> None:
    template = package_files("shotseg").joinpath("report.html").read_text(encoding="utf-8")
    page = re.sub(r"<!--(\w+)-->|/\*(\w+)\*/", lambda place: parts.get(place[1] or place[2], ""), template)
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))


class _Page:
    """One page: the first lies in the run's folder, the others in its state folder."""

    def __init__(self, out: Path, tag: str, number: int, last: int):
        self._out, self._number, self._last = out, number, last
        self._home, self._others = f"report{tag}.html", f"{STATE}/pages{tag}/"
        self._up = "" if number == 1 else "../../"

    @property
    def path(self) -> Path:
        return self._out / self._file(self._number)

    def _file(self, number: int) -> str:
        return self._home if number == 1 else f"{self._others}{number}.html"

    def pager(self) -> str:
        """Links to the first, the last and the nearest pages, and a field for any other; nothing where there is one page."""
        if self._last < 2:
            return ""
        near = range(self._number - 2, self._number + 3)
        shown = sorted({1, self._last, *(number for number in near if 1 <= number <= self._last)})
        links = []
        for before, number in zip([0, *shown], shown):
            links.append("<span>…</span>" if number > before + 1 else "")
            here = ' aria-current="page"' if number == self._number else ""
            links.append(f'<a href="{self._up}{self._file(number)}"{here}>{number}</a>')
        others = f"{self._up}{self._others}"
        field = f'<input type="number" min="1" max="{self._last}" placeholder="page" aria-label="go to page"'
        field += f' data-first="{self._up}{self._home}" data-others="{others}">'
        return f'<nav class="pager" aria-label="pages">{"".join(links)} {field}</nav>'

    def card(self, record: Mapping[str, Any], classes: Sequence[str]) -> str:
        chips = "".join(
            f'<li class="c{i}"><a href="{self._link("masks", name, record["name"])}">{html.escape(name)}</a> '
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
            f'<article data-confidence="{confidence}" data-area="{area:.6f}" data-file="{file}">'
            f'<a href="{self._link("labels", record["name"])}">{self._picture(record["name"])}</a>'
            f'<div class="line"><span class="file" title="{file}">{file}</span>'
            f'<meter min="0" max="1" low=".35" high=".5" optimum="1" value="{confidence}"></meter>'
            f"<b>{confidence:.2f}</b></div><ul>{chips}</ul></article>"
        )

    def _link(self, *parts: str, ending: str | None = None) -> str:
        """Where a picture lies, from the page; escaped for HTML too. Masks of large images are TIFF."""
        stem = "/".join(parts)
        if ending is None:
            ending = ".tif" if (self._out / f"{stem}.tif").is_file() else ".png"
        return self._up + quote(stem, errors="surrogateescape") + ending

    def _picture(self, name: str) -> str:
        path = self._out / thumbnail(name)
        if self._number > 1:
            source = self._link(thumbnail(name), ending="")
        elif path.is_file():
            source = _embedded(path.read_bytes())
        else:
            return ""
        return f'<img loading="lazy" src="{source}" alt="">'


def _fact(key: str, value: str | int) -> str:
    return "every class known to be there" if (key, value) == ("present", "None") else f"{key} {value}"


def _title(counts: Counts) -> str:
    of = "" if counts.done == counts.total else f" of {counts.total}"
    return f"{counts.done}{of} photo{'s' if counts.total != 1 else ''} segmented"


def _column(out: Path, shown: Sequence[Mapping[str, Any]]) -> int:
    """The least width of a card, in pixels: most pictures are then shown at 0.7 of their own width or more."""
    widths = []
    for record in shown[:20]:
        with contextlib.suppress(OSError), Image.open(out / thumbnail(record["name"])) as picture:
            widths.append(picture.width)
    return int(np.clip(0.7 * np.median(widths or [PANEL[0]]), 300, 640))


def _supports(supports: Mapping[str, list[np.ndarray]], classes: Sequence[str]) -> str:
    figures = "".join(_support(i, name, supports.get(name, [])) for i, name in enumerate(classes))
    return f'<h2>Classes</h2><div class="supports">{figures}</div>'


def _support(index: int, name: str, pictures: Sequence[np.ndarray]) -> str:
    shots = "".join(
        f'<img src="{_embedded(_jpeg(picture))}" alt="example of {html.escape(name)}">'
        for picture in pictures[:EXAMPLES]
    )
    more = f"<p>and {len(pictures) - EXAMPLES} more</p>" if len(pictures) > EXAMPLES else ""
    return f'<figure class="c{index}"><figcaption>{html.escape(name)}</figcaption><div>{shots}</div>{more}</figure>'


def _failures(failed: Iterator[tuple[str, str]], count: int) -> str:
    if not count:
        return ""
    cells = (map(html.escape, row) for row in islice(failed, SHOWN))
    rows = "".join(f"<tr><td>{file}</td><td>{reason}</td></tr>" for file, reason in cells)
    more = f"<p>The first {SHOWN}; all are in errors.csv.</p>" if count > SHOWN else ""
    return f"<h2>{count} failed</h2>{more}<table><tr><th>file</th><th>reason</th></tr>{rows}</table>"


def _note(done: int, shown: int, last: int) -> str:
    if last > 1:
        return f"{done} photos on {last} pages, the least confident first; sorting and finding are within a page."
    return "" if shown == done else f"The {shown} least confident of {done} photos; all are in results.jsonl."


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %" if part >= 0.001 else "< 0.1 %"


def _embedded(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def _heat(probability: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] as (H, W, 3) uint8 colours."""
    return HEAT[(np.clip(probability, 0, 1) * 255).astype(np.uint8)]


def _between(colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """(256, 3) uint8: from the first colour to the last, in equal parts."""
    places = np.linspace(0, 255, len(colours))
    return np.stack([np.interp(np.arange(256), places, side) for side in zip(*colours)], 1).round().astype(np.uint8)


# From black to pale yellow, each lighter than the one before, so that it is read without its colours too.
HEAT = _between([(0, 0, 4), (60, 15, 110), (140, 40, 130), (220, 70, 105), (252, 150, 105), (252, 250, 190)])
