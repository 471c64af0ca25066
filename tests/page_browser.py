"""Fixtures of the page's tests in a browser: photos, a server, and Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from page_hand import WAIT, ask, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_CHROMIUM = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system"),
    pytest.mark.skipif(
        "PYTEST_XDIST_WORKER" in os.environ, reason="a browser wants the machine for itself: make test-page"
    ),
    pytest.mark.timeout(180),
]
DEMO = Path(__file__).parents[1] / "src" / "shotseg" / "demo_data" / "images"
SIDE = 160  # pixels: small photos keep the model quick
LARGE = (6000, 5000)  # of the 30 megapixels
MANY = 24


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(sorted(DEMO.rglob("*.jpg"))[:6]):
        with Image.open(path) as photo:
            photo.thumbnail((SIDE, SIDE))
            photo.save(folder / f"photo-{number}.jpg", quality=95)
    turned = Image.new("RGB", (80, 50), (200, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: shown, it is 50 wide and 80 high
    turned.save(folder / "turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[str]:
    """A project of a few photos and two classes; each test clears the photo that it draws on."""
    with serving(tmp_path_factory.mktemp("project") / "dresses", photos) as found:
        for name in ("dress", "hair"):
            ask(found, "POST", "classes", {"name": name})
        yield found


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A project of many photos in which nothing is drawn, one of 30 megapixels; nothing is encoded until it is asked for."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        image = np.full((60, 80, 3), (40, 60 + 5 * number, 130), np.uint8)
        image[10 + number : 30 + number, 10:40] = (220, 40, 40)
        Image.fromarray(image).save(folder / f"many-{number:02d}.png")
    Image.new("RGB", LARGE, (30, 90, 60)).save(folder / "large.jpg", quality=60)
    with serving(tmp_path_factory.mktemp("project") / "many", folder, ready=False) as found:
        ask(found, "POST", "encoding", {"running": False})
        ask(found, "POST", "classes", {"name": "square"})
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """opened(address, ratio=1, shows="#queue button") -> a page that shows that, and on which nothing went wrong by the end."""
    contexts, wrong = [], []

    def open_page(address: str, ratio: float = 1, shows: str = "#queue button", **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": 1200, "height": 800}, device_scale_factor=ratio, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.wait_for_selector(shows)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
