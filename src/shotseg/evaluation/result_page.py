"""The result as one HTML page: table, a bar a class, best and worst episodes as pictures; opens from disk, no server."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

from shotseg.data.episodes import EpisodeIndex
from shotseg.data.samples import IGNORE
from shotseg.device import one_thread_each
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.summary import Summary
from shotseg.overlay import draw

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em 1em .2em 0;text-align:right}td:first-child,th:first-child{text-align:left}
tr{border-bottom:1px solid #ddd}figure{display:inline-block;margin:.5em 1em .5em 0}figcaption{font-size:13px;color:#555}
img{height:170px;margin-right:4px}svg text{font-size:13px}dt{float:left;clear:left;width:10em;color:#555}dd{margin-left:10em}"""

FACTS = (
    "dataset",
    "fold",
    "way",
    "shot",
    "queries",
    "encoder",
    "checkpoint",
    "seconds_per_episode",
    "seconds_per_query",
)

Pictures = dict[str, list[tuple[str, list[np.ndarray]]]]  # heading -> (caption, photos (H, W, 3) uint8 side by side)


def page(content: dict[str, Any], said: Summary, pictures: Pictures | None = None) -> str:
    """A page with one table, notes below it, a bar a class, pictures, and how it was measured."""
    e = html.escape
    head = "".join(f"<th>{e(column)}</th>" for column in said.columns)
    body = "".join("<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in row) + "</tr>" for row in said.rows)
    below = "".join(f"<p>{e(note)}</p>" for note in (said.below, *said.notes) if note)
    facts = {k: content[k] for k in FACTS if k in content}
    facts |= {**content.get("protocol", {}), **content.get("person", {}), **content.get("environment", {})}
    of_class = {name: x["iou"] if isinstance(x, dict) else x for name, x in content.get("per_class", {}).items()}
    shown = "".join(
        f"<h2>{e(heading)}</h2>" + "".join(_figure(caption, photos) for caption, photos in entries)
        for heading, entries in (pictures or {}).items()
    )
    about = "".join(f"<dt>{e(str(k))}</dt><dd>{e(str(v))}</dd>" for k, v in facts.items())
    each = f"<h2>IoU of each class</h2>{bars(of_class)}" if of_class else ""
    title = f"{content['method']} on {content['dataset']}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{e(title)}</title><style>{STYLE}</style>'
        f"<h1>{e(title)}</h1><table><tr>{head}</tr>{body}</table>{below}{each}{shown}"
        f"<h2>How it was measured</h2><dl>{about}</dl></html>\n"
    )


def bars(per_class: dict[str, float | None]) -> str:
    """An SVG with one bar a class, the best first."""
    known = sorted(((v, name) for name, v in per_class.items() if v is not None), reverse=True)
    drawn = [
        f'<text x="150" y="{22 * i + 16}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="158" y="{22 * i + 3}" width="{4 * value:.1f}" height="17" fill="#00796b"/>'
        f'<text x="{164 + 4 * value:.1f}" y="{22 * i + 16}">{value:.1f}</text>'
        for i, (value, name) in enumerate(known)
    ]
    return f'<svg width="640" height="{22 * len(known) + 4}" role="img">{"".join(drawn)}</svg>'


def best_and_worst(
    evaluator: Evaluator, content: dict[str, Any], episodes: list[EpisodeIndex], count: int = 6
) -> Pictures:
    """Pictures of the episodes with the highest and the lowest IoU, no query twice: support, query with truth, prediction."""
    stored = content["counts"]["per_episode"]
    iou = [i[1] / u[1] if u[1] else 1.0 for i, u in zip(stored["intersection"], stored["union"])]
    order = sorted(range(len(iou)), key=lambda i: iou[i])
    with one_thread_each():
        return {
            heading: [_drawn(evaluator, episodes[i], iou[i]) for i in distinct(ranked, stored["query"], count)]
            for heading, ranked in (("Worst episodes", order), ("Best episodes", order[::-1]))
        }


def distinct(ranked: list[int], queries: list[str], count: int) -> list[int]:
    """The first ``count`` of the ranked whose queries differ."""
    first: dict[str, int] = {}
    for i in ranked:
        if len(first) == count:
            break
        first.setdefault(queries[i], i)
    return list(first.values())


def _drawn(evaluator: Evaluator, episode: EpisodeIndex, iou: float) -> tuple[str, list[np.ndarray]]:
    prediction, target = evaluator.predict(episode)
    items = evaluator.pool.items
    photo = evaluator.sample(episode.query)[0]
    support = draw(*without_ignored(evaluator.sample(episode.supports[0])))
    canvas = _on_canvas(photo, evaluator, (target.shape[0], target.shape[1]))
    overlays = [draw(*without_ignored((canvas, x.numpy().astype(np.uint8)))) for x in (target, prediction)]
    caption = f"{100 * iou:.1f} {evaluator.pool.classes[episode.class_id]}: {items[episode.query].id}"
    return f"{caption}; support, truth, prediction", [support, *overlays]


def _on_canvas(photo: np.ndarray, evaluator: Evaluator, size: tuple[int, int]) -> np.ndarray:
    """The photo as large as the scored mask (h, w): as it is, resized, or at the top left of a square."""
    if photo.shape[:2] == size:
        return photo
    if evaluator.geometry != "pad":
        return np.asarray(Image.fromarray(photo).resize(size[::-1]))
    scale = max(size) / max(photo.shape[:2])
    small = Image.fromarray(photo).resize((round(photo.shape[1] * scale), round(photo.shape[0] * scale)))
    square = Image.new("RGB", size[::-1])
    square.paste(small)
    return np.asarray(square)


def without_ignored(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Photo and labels, the ignored pixels as background."""
    return pair[0], np.where(pair[1] == IGNORE, 0, pair[1]).astype(np.uint8)


def _figure(caption: str, photos: list[np.ndarray]) -> str:
    return f"<figure>{''.join(map(_inline, photos))}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _inline(photo: np.ndarray) -> str:
    image = Image.fromarray(photo)
    image.thumbnail((360, 340))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
