"""How quick the page is on a large folder: made photos, the real server, a real browser; one line a figure.

    make test-page                                       # installs what it needs
    python scripts/measure_page.py --photos 1000 --out page.json

Photos are a few of the demo, drawn up to --side pixels, and hard links to them. Beside each limit stand the figures of the same
run that it is measured in, so that a busy machine says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from page_hand import Hand, ask, choose, expect, saved  # noqa: E402

DEMO = ROOT / "src" / "shotseg" / "demo_data" / "images"
# Frames from now on: the longest gap, and what the mask's layer shows; `changed` resolves when that is something new.
WATCH = """() => {
  const mask = document.getElementById("mask-canvas");
  const small = new OffscreenCanvas(48, 48);
  const context = small.getContext("2d", { willReadFrequently: true });
  const seen = () => {
    context.clearRect(0, 0, 48, 48);
    context.drawImage(mask, 0, 0, 48, 48);
    return context.getImageData(0, 0, 48, 48).data.join();
  };
  window.measured = {
    frames() {
      const gaps = [];
      let last = performance.now(), on = true;
      const frame = (now) => { gaps.push(now - last); last = now; if (on) requestAnimationFrame(frame); };
      requestAnimationFrame(frame);
      return () => { on = false; return gaps.slice(1); };
    },
    arm() {
      const before = seen();
      let released = null;
      document.getElementById("stage").addEventListener("pointerup", () => (released = performance.now()), { once: true });
      this.answered = new Promise((resolve) => {
        const frame = () => {
          if (released !== null && seen() !== before) return resolve(performance.now() - released);
          requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
      });
    },
    next(key) {
      const title = () => document.getElementById("photo-info").title;
      const before = title(), started = performance.now();
      document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      return new Promise((resolve, reject) => {
        setTimeout(reject, 20000, new Error("no next photo"));
        const frame = () => (title() !== before ? resolve(performance.now() - started) : requestAnimationFrame(frame));
        requestAnimationFrame(frame);
      });
    },
  };
}"""


def say(found: dict[str, Any], **figures: Any) -> None:
    """Keep a figure, and print it at once: a run of a thousand photos takes its time."""
    found |= figures
    for name, value in figures.items():
        print(f"{name:24} {value}", flush=True)


def make_photos(folder: Path, count: int, side: int) -> None:
    folder.mkdir(parents=True)
    originals = sorted(DEMO.rglob("*.jpg"))[:8]
    for number in range(count):
        path = folder / f"photo-{number:04d}.jpg"
        if number >= len(originals):
            os.link(folder / f"photo-{number % len(originals):04d}.jpg", path)
            continue
        with Image.open(originals[number]) as photo:
            sides = (side, side * 3 // 4) if photo.width > photo.height else (side * 3 // 4, side)
            photo.convert("RGB").resize(sides, Image.Resampling.BICUBIC).save(path, quality=88)


@contextmanager
def serving(project: Path, photos: Path, size: int | None) -> Iterator[tuple[str, psutil.Process, float]]:
    """The address, the process, and the seconds until it answered; ended by a kill, as a power cut would."""
    command = [sys.executable, "-m", "shotseg", "serve", str(project), "--photos", str(photos), "--port", "0"]
    command += ["--no-browser", *([] if size is None else ["--size", str(size)])]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            while True:
                try:
                    ask(address, "GET", "photos?limit=1")
                    break
                except urllib.error.URLError:
                    time.sleep(0.02)
            yield address, psutil.Process(server.pid), time.monotonic() - started
        finally:
            server.kill()


def until(address: str, done: Any, most: float = 7200) -> float:
    """Seconds until ``done(encoding)``; the project says it."""
    started = time.monotonic()
    while not done(ask(address, "GET", "project")["encoding"]):
        if time.monotonic() - started > most:
            raise SystemExit(f"not done after {most:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - started


def cpu_of(server: psutil.Process) -> float:
    """Seconds of computing so far: what a busy machine hardly changes."""
    times = server.cpu_times()
    return times.user + times.system


def idle(encoding: dict) -> bool:
    return not encoding["loading"] and not encoding["waiting"] and encoding["done"] == encoding["total"]


def ended(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": round(ordered[len(ordered) // 2], 3), "worst": round(ordered[-1], 3)}


def stroke(hand: Hand, points: list[tuple[float, float]]) -> None:
    hand.page.mouse.move(*hand.at(*points[0]))
    hand.page.mouse.down()
    for point in points[1:]:
        hand.page.mouse.move(*hand.at(*point))
    hand.page.mouse.up()


def first_start(address: str, server: psutil.Process, page: Any, found: dict) -> None:
    page.wait_for_selector("#queue button")
    until(address, lambda e: not e["loading"])
    say(found, server_mb_loaded=server.memory_info().rss // 2**20)
    before = cpu_of(server)
    say(found, encoding_s=round(until(address, lambda e: not e["loading"] and e["done"] == e["total"]), 1))
    say(found, encoding_cpu_s=round(cpu_of(server) - before, 1))
    say(found, server_mb_encoded=server.memory_info().rss // 2**20)
    for name in ("dress", "hair"):
        ask(address, "POST", "classes", {"name": name})
    page.reload()
    page.wait_for_selector("#queue button")
    page.select_option("#sort", "name")
    page.evaluate(WATCH)


def hand_on(page: Any, address: str, number: int) -> Hand:
    file = f"photo-{number:04d}.jpg"
    choose(page, file)
    known = next(each for each in ask(address, "GET", f"photos?query={file}")["items"])
    return Hand(page, known["width"], known["height"])


def draw_examples(address: str, server: psutil.Process, page: Any, found: dict) -> None:
    hand = hand_on(page, address, 0)
    page.keyboard.press("1")
    page.keyboard.press("r")
    width, height = 0.35 * found["side"], 0.35 * found["side"]
    stroke(hand, [(width, height), (1.5 * width, 1.6 * height)])
    saved(page)
    until(address, idle)
    hand = hand_on(page, address, 1)
    page.keyboard.press("2")  # no guess can be the same already
    before = cpu_of(server)
    stroke(hand, [(width, height), (1.4 * width, 1.4 * height)])
    started = time.monotonic()
    saved(page)
    say(found, box_saved_s=round(time.monotonic() - started, 2))
    say(found, all_decided_again_s=round(until(address, idle), 1))
    say(found, all_decided_again_cpu_s=round(cpu_of(server) - before, 1))
    page.keyboard.press("1")


def brush(address: str, page: Any, found: dict) -> None:
    hand = hand_on(page, address, 2)
    page.keyboard.press("b")
    side = found["side"] * 3 / 4
    points = [(side * (0.2 + 0.6 * i / 500), side * (0.5 + 0.2 * (i % 40) / 40)) for i in range(500)]
    page.evaluate("() => { window.stop = measured.frames(); }")
    stroke(hand, points)
    gaps = page.evaluate("() => stop()")
    say(found, brush_frame_ms={"p95": round(sorted(gaps)[int(0.95 * len(gaps))], 1), "longest": round(max(gaps), 1)})
    started = time.monotonic()
    saved(page)
    say(found, brush_saved_s=round(time.monotonic() - started, 2))
    until(address, idle)


def scribbles(address: str, page: Any, found: dict) -> list[dict]:
    """The strokes that the server kept of the last one."""
    seconds = []
    for number in range(3, 8):
        hand = hand_on(page, address, number)
        page.keyboard.press("i" if number % 2 else "o")
        width = ask(address, "GET", f"photos?query=photo-{number:04d}.jpg")["items"][0]["width"]
        page.evaluate("() => measured.arm()")
        stroke(hand, [(width * 0.3, width * 0.4), (width * 0.5, width * 0.5)])
        seconds.append(
            page.evaluate("() => Promise.race([measured.answered, new Promise((r) => setTimeout(r, 9000, null))])")
        )
        saved(page)
        until(address, idle)
    say(found, scribble_to_mask_s=ended([ms / 1000 for ms in seconds if ms is not None]))
    last = ask(address, "GET", "photos?query=photo-0007.jpg")["items"][0]["id"]
    return ask(address, "GET", f"photos/{last}")["strokes"]


def accepting(page: Any, found: dict) -> None:
    page.locator("#stage").focus()
    seconds = []
    for _ in range(min(20, found["photos"] - 6)):
        seconds.append(page.evaluate("() => measured.next('Enter')") / 1000)
        page.wait_for_timeout(300)  # a person looks at it
    saved(page)
    say(found, accept_to_next_s=ended(seconds))


def head(photos: Path, size: int | None, strokes: list[dict]) -> dict[str, float]:
    """Seconds that the model itself takes for a photo with these strokes, encoded already, in a process of its own.

    With one thread, as the page computes, so that a mask is the same whenever it is decided; and with all.
    """
    import numpy as np

    import shotseg
    from shotseg.device import one_thread_each
    from shotseg.models.strokes import Strokes
    from shotseg.web.drawing import Stroke, marked

    segmenter = shotseg.Segmenter(**({} if size is None else {"size": size}))
    files = sorted(photos.glob("*.jpg"))
    encoded = segmenter.encode(files[7])
    mask = np.zeros(encoded.photo.size, np.uint8)
    mask[mask.shape[0] // 3 : mask.shape[0] // 2, mask.shape[1] // 3 : mask.shape[1] // 2] = 255
    for name in ("dress", "hair"):
        segmenter.add(name, encoded, mask)
    pen = [Stroke(1, each["side"] == "inside", each["radius"], tuple(map(tuple, each["points"]))) for each in strokes]
    drawn = Strokes(marked(pen, {1: "dress"}, encoded.photo.size)["dress"])

    def median() -> float:
        seconds = []
        for _ in range(5):
            started = time.monotonic()
            assert segmenter.decide(encoded, {"dress": drawn}).labels.any()
            seconds.append(time.monotonic() - started)
        return round(sorted(seconds)[2], 3)

    with one_thread_each():
        alone = median()
    return {"head_s": alone, "head_all_threads_s": median()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--side", type=int, default=4000, help="longer side of a photo, in pixels")
    parser.add_argument("--size", type=int, default=None, help="of shotseg serve")
    parser.add_argument("--out", type=Path, default=Path("page.json"))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="shotseg-page-"))
    found: dict[str, Any] = {"photos": asked.photos, "side": asked.side, "cores": os.cpu_count()}
    try:
        photos, project = folder / "photos", folder / "project"
        make_photos(photos, asked.photos, asked.side)
        with sync_playwright() as started:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            with serving(project, photos, asked.size) as (address, server, seconds):
                say(found, first_answer_s=round(seconds, 2))
                page.goto(address)
                first_start(address, server, page, found)
                draw_examples(address, server, page, found)
                brush(address, page, found)
                strokes = scribbles(address, page, found)
                accepting(page, found)
                until(address, idle)
                say(found, server_mb_end=server.memory_info().rss // 2**20)
                say(found, page_mb=page.evaluate("() => Math.round(performance.memory.usedJSHeapSize / 2 ** 20)"))
            began = time.monotonic()
            with serving(project, photos, asked.size) as (address, server, seconds):
                page.goto(address)
                expect(page.locator("#queue button").first).to_be_visible(timeout=60_000)
                say(found, restart_to_queue_s=round(time.monotonic() - began, 2))
            browser.close()
        say(found, **head(photos, asked.size, strokes))
        for name in ("head", "head_all_threads"):
            say(
                found, **{f"scribble_over_{name}": round(found["scribble_to_mask_s"]["median"] / found[f"{name}_s"], 1)}
            )
        for seconds in ("s", "cpu_s"):
            part = found[f"all_decided_again_{seconds}"] / max(found[f"encoding_{seconds}"], 0.1)
            say(found, **{f"decided_over_encoded_{seconds}": round(part, 3)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
