"""What a training shows: a bar, metrics.jsonl, TensorBoard, and a page at the end."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from shotseg.data.images import write_bytes
from shotseg.overlay import draw

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
img{height:170px;margin:0 4px 8px 0}figcaption{font-size:13px;color:#555}pre{font-size:13px;background:#f6f6f6;padding:1em}"""
FIGURE = "figure."  # how the name of a term begins that is shown beside the loss and is no part of it
SECONDS, SHARE = 30.0, 0.1  # a line, where no bar is shown, after so long or so much of the work
SMOOTH = 50  # steps that a curve of the loss averages
MARGINS = {
    "left": 0.07,
    "right": 0.98,
    "bottom": 0.17,
    "top": 0.95,
    "wspace": 0.2,
}  # to find them takes a second drawing


class Log:
    """Writes to ``out``; lines of a killed run after step ``start`` are dropped, so nothing is there twice.

    quiet: write and show nothing (every process but the first).
    """

    def __init__(self, out: Path, start: int, steps: int, quiet: bool = False):
        self.out, self.start, self.steps, self.quiet = out, start, steps, quiet
        self.path = out / "metrics.jsonl"
        self.pictures: list[tuple[str, list[np.ndarray]]] = []

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        shown = console.is_terminal and not self.quiet
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console, disable=not shown)
        self.bar.start()
        self.task = self.bar.add_task("training", total=self.steps, completed=self.start, said="")
        self.score = ""
        self.lines_on_stderr = not shown and not self.quiet
        self.said_at, self.said = -math.inf, ("", 0)
        if not self.quiet:
            from torch.utils.tensorboard import SummaryWriter

            kept = [line for line in _lines(self.path) if line["step"] <= self.start]
            write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self.board = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.start + 1)
            self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if not self.quiet:
            self.board.close()
            self.file.close()

    def prepared(self, what: str, done: int, total: int) -> None:
        """Progress of what comes before the training."""
        self.bar.update(self.task, description=what, completed=done, total=total)
        self._now_and_then(what, done, total)

    def step(
        self, step: int, terms: Mapping[str, float], rate: float, pace: str, per_second: float, waited: float = 0.0
    ) -> None:
        """pace: ``per_second`` in words.     waited: share of the step's time that went by until its photos were there."""
        if self.quiet:
            return
        loss = sum(value for name, value in terms.items() if not name.startswith(FIGURE))
        said = f"loss {loss:.3f}{self.score}  {pace}"
        self.bar.update(self.task, description="training", completed=step, total=self.steps, said=said)
        line = {"step": step, "loss": loss, **terms, "lr": rate, "per_second": round(per_second, 2)}
        line["waited"] = round(waited, 3)
        self._write(line)
        for name in ("loss", *terms):
            self.board.add_scalar(f"train/{name}", line[name], step)
        self.board.add_scalar("train/lr", rate, step)
        self._now_and_then("step", step, self.steps, said)

    def _now_and_then(self, what: str, done: int, total: int, more: str = "") -> None:
        """A line where no person watches a bar: the first, the last, and some between."""
        now, (before, count) = time.monotonic(), self.said
        due = what != before or done - count >= SHARE * total or now - self.said_at >= SECONDS or done == total
        if self.lines_on_stderr and due:
            print(f"{what} {done} of {total}{': ' + more if more else ''}", file=sys.stderr, flush=True)
            self.said_at, self.said = now, (what, done)

    def validation(
        self,
        step: int,
        name: str,
        score: float,
        per_class: Sequence[float],
        pictures: Sequence[tuple[str, list[tuple[np.ndarray, np.ndarray]]]],
    ) -> None:
        self.score = f"  {name} {score:.1f}"
        known = [None if math.isnan(iou) else round(iou, 3) for iou in per_class]
        self._write({"step": step, "validation": score, "per_class": known})
        self.board.add_scalar(f"validation/{name}", score, step)
        self.pictures = [(caption, [_drawn(*pair) for pair in pairs]) for caption, pairs in pictures]
        for i, (_, drawn) in enumerate(self.pictures):
            self.board.add_image(f"episode {i}", np.concatenate(drawn, 1), step, dataformats="HWC")
        if self.lines_on_stderr:
            print(f"step {step}: validation {name} {score:.2f}", file=sys.stderr)

    def report(self, name: str, recipe: Mapping[str, Any]) -> None:
        """Write report.html: the curves, the fixed episodes and the recipe."""
        self.file.flush()
        lines = list(_lines(self.path))
        figures = "".join(
            f"<figure><figcaption>{html.escape(caption)}</figcaption>{''.join(_inline(p) for p in drawn)}</figure>"
            for caption, drawn in self.pictures
        )
        best = max((line["validation"] for line in lines if "validation" in line), default=0.0)
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>training</title><style>{STYLE}</style>'
            f"<h1>{html.escape(recipe['model']['name'])}, {self.steps} steps</h1>"
            f"<p>Best validation {html.escape(name)}: {best:.1f}</p>"
            f'<img style="height:auto;max-width:100%" alt="loss and validation by step" src="{_curves(lines, name)}">'
            f"<h2>The same episodes, at the end</h2>{figures}"
            f"<h2>Recipe</h2><pre>{html.escape(json.dumps(recipe, indent=1))}</pre></html>\n"
        )
        write_bytes(self.out / "report.html", page.encode())

    def _write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def has_lines(out: Path) -> bool:
    """Whether a run in this folder has done a step."""
    return bool(_lines(out / "metrics.jsonl"))


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # without a line that a kill has torn
    return [json.loads(line) for line in whole]


def _curves(lines: Sequence[Mapping[str, Any]], name: str) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw=MARGINS)
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    smooth = [np.mean([loss for _, loss in losses[max(0, i - SMOOTH + 1) : i + 1]]) for i in range(len(losses))]
    left.plot([step for step, _ in losses], smooth)
    scores = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    right.plot([step for step, _ in scores], [score for _, score in scores], marker="o")
    left.set(xlabel="step", ylabel=f"loss, mean of {SMOOTH} steps")
    right.set(xlabel="step", ylabel=f"validation {name}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _drawn(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(draw(photo, np.where(mask == 255, 0, mask)))
    picture.thumbnail((240, 240))
    return np.asarray(picture)


def _inline(photo: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format="JPEG", quality=82)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
