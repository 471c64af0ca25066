"""A hand for the page's tests: it serves a project, draws at pixels of a photo, and asks the server what it kept."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import warm

WAIT = 20_000  # milliseconds that a page may take for one thing on a busy machine


def expect(found: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect

    return playwright_expect(found)


@contextmanager
def serving(project: Path, photos: Path, *options: str, ready: bool = True) -> Iterator[str]:
    """The address of `shotseg serve`, ended by a kill as a power cut would. ready: once the model is there."""
    flags = ["--photos", photos, "--port", "0", *options, "--no-browser", "--size", "192"]
    with warm.shotseg(project.with_name(f"{project.name} said"), "serve", project, *flags) as server:
        address = server.first_line()
        if ready:
            listening(address)
        yield address


def listening(address: str) -> None:
    """Wait until the server answers and its model is there."""
    for _ in range(600):
        try:
            ask(address, "GET", "photos?limit=1")  # after which the model loads
            if not ask(address, "GET", "project")["encoding"]["loading"]:
                return
        except urllib.error.URLError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{address} does not answer")


def ask(address: str, method: str, path: str, said: dict | None = None) -> Any:
    data = None if said is None else json.dumps(said).encode()
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/v1/{path}", data, {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = answer.read()
    return json.loads(body) if "json" in answer.headers.get("content-type", "") else body


def record(address: str, file: str) -> dict:
    return next(item for item in ask(address, "GET", "photos?sort=name")["items"] if item["file"] == file)


def mask(address: str, file: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(ask(address, "GET", f"photos/{record(address, file)['id']}/mask"))))


def shows(page: Any) -> Any:
    return expect(page.locator("#photo-info"))


def row(page: Any, file: str) -> Any:
    return page.locator("#queue button", has_text=file)


def choose(page: Any, file: str) -> None:
    row(page, file).click()
    shows(page).to_have_attribute("title", file, timeout=WAIT)
    page.keyboard.press("a")


def saved(page: Any) -> None:
    expect(page.locator("#saved")).to_have_text("All saved", timeout=WAIT)


class Hand:
    """Draws at pixels of the photo, which the page shows whole."""

    def __init__(self, page: Any, width: int, height: int):
        stage = page.locator("#stage").bounding_box()
        ratio = page.evaluate("devicePixelRatio")
        across, down = round(stage["width"] * ratio), round(stage["height"] * ratio)
        self.page, self.scale = page, min(64, 0.94 * across / width, 0.94 * down / height) / ratio
        self.left = stage["x"] + (across / ratio - width * self.scale) / 2
        self.top = stage["y"] + (down / ratio - height * self.scale) / 2

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The middle of pixel (x, y) on the screen."""
        return self.left + (x + 0.5) * self.scale, self.top + (y + 0.5) * self.scale

    def stroke(self, *points: tuple[float, float], button: str = "left") -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down(button=button)
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point))
        self.page.mouse.up(button=button)
        saved(self.page)


def hand_on(page: Any, address: str, file: str) -> Hand:
    choose(page, file)
    known = record(address, file)
    return Hand(page, known["width"], known["height"])


def brush_of(page: Any, size: int) -> None:
    page.locator("#brush").fill(str(size))
    page.locator("#brush").blur()


def cleared(page: Any, address: str, file: str) -> Hand:
    """A photo on which everything is background, drawn by hand."""
    hand = hand_on(page, address, file)
    height, width = mask(address, file).shape
    page.keyboard.press("1")
    page.keyboard.press("r")
    hand.stroke((-2, -2), (width + 1, height + 1))
    hand.stroke((-2, -2), (width + 1, height + 1), button="right")
    assert not mask(address, file).any()
    return hand
