"""The masks of the demo photos in headless Chromium against those of Python: IoU 0.999 and more, or it fails."""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import shotseg

HERE = Path(__file__).parent
DEMO = Path(shotseg.__file__).parent / "demo_data"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path, help="folder that `shotseg export` wrote")
    parser.add_argument("--modules", type=Path, default=HERE / "node_modules", help="where npm installed them")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="a browser, where playwright has none")
    parser.add_argument("--photos", type=int, default=4, help="of the demo")
    parser.add_argument("--screenshot", type=Path)
    given = parser.parse_args()
    segmenter = shotseg.OnnxSegmenter(given.export)
    for name in ("hair", "dress"):
        segmenter.add(name, DEMO / "images" / name / "example.jpg", DEMO / "masks" / name / "example.png")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("index.html", "segment.js"):
            Path(folder, name).symlink_to((HERE / name).resolve())
        for name, place in (("exported", given.export), ("node_modules", given.modules), ("demo", DEMO)):
            Path(folder, name).symlink_to(place.resolve())
        segmenter.save(Path(folder, "classes.safetensors"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            worst = compared(segmenter, f"http://127.0.0.1:{server.server_port}/", given)
        finally:
            server.shutdown()
    assert worst >= 0.999, worst


def compared(segmenter: shotseg.OnnxSegmenter, address: str, given: argparse.Namespace) -> float:
    photos = sorted((DEMO / "images").rglob("0*.jpg"))[: given.photos]
    worst = 1.0
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("() => 'show' in window")
        for photo in photos:
            url = f"demo/{photo.relative_to(DEMO).as_posix()}"
            found = page.evaluate("url => window.show(url).then(f => [Array.from(f.labels), f.present])", url)
            ours = segmenter.predict(photo)
            theirs = np.array(found[0], np.uint8).reshape(ours.labels.shape)
            for i, name in enumerate(ours.classes, 1):
                a, b = ours.labels == i, theirs == i
                iou = (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0
                worst = min(worst, float(iou))
                there = f"present {found[1][i - 1]:.4f}, in Python {ours.present[name]:.4f}"
                print(f"{url}: {name} {a.mean():.1%} of the photo, IoU {iou:.5f}, {there}")
        if given.screenshot:
            page.screenshot(path=given.screenshot)
        browser.close()
    return worst


if __name__ == "__main__":
    main()
