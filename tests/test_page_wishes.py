"""What annotators ask for, one test a wish: a person does it in a real browser."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from page_browser import IN_CHROMIUM, LARGE, MANY
from page_hand import WAIT, ask, brush_of, choose, cleared, hand_on, mask, record, row, saved, serving, shows

expect = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-page installs it").expect
pytest.importorskip("fastapi", reason="needs the extra web")
pytestmark = IN_CHROMIUM


def files(page: Any) -> list[str]:
    return page.locator("#queue .file").all_inner_texts()


def colours(page: Any, canvas: str = "mask-canvas") -> list[int]:
    """Opacities (0 to 255) that the layer has anywhere."""
    return page.evaluate(
        """(id) => {
          const canvas = document.getElementById(id);
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return [...new Set(pixels.filter((_, i) => i % 4 === 3))].sort((a, b) => a - b);
        }""",
        canvas,
    )


def looks(page: Any) -> int:
    """A number for what the mask's layer shows."""
    page.wait_for_timeout(50)
    return page.evaluate(
        """() => {
          const canvas = document.getElementById("mask-canvas");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return pixels.reduce((sum, value) => (sum * 31 + value) % 1000000007, 7);
        }"""
    )


def predicted(page: Any, address: str) -> None:
    """Every photo but the large one follows an example."""
    if not any(item["state"] == "corrected" for item in ask(address, "GET", "photos")["items"]):
        hand = hand_on(page, address, "many-00.png")
        page.keyboard.press("1")
        page.keyboard.press("r")
        hand.stroke((10, 10), (39, 29))
    ask(address, "POST", "encoding", {"running": True})
    expect(page.locator("#counts .state-open")).to_have_count(0, timeout=6 * WAIT)
    expect(page.locator("#encoding")).to_be_hidden(timeout=6 * WAIT)


def test_the_folder_is_encoded_behind_the_work_is_stopped_and_goes_on(many: str, opened: Callable) -> None:
    page = opened(many)
    expect(page.locator("#encoding-label")).to_have_text("Loading the model…")
    page.locator("#encoding-switch", has_text="Go on").click(timeout=6 * WAIT)
    expect(page.locator("#encoding")).to_be_hidden(timeout=6 * WAIT)
    assert ask(many, "GET", "project")["encoding"]["done"] == MANY + 1


def test_the_most_doubtful_come_first_with_their_score_and_a_threshold(many: str, opened: Callable) -> None:
    page = opened(many)
    predicted(page, many)
    page.reload()
    page.wait_for_selector("#queue button")
    known = {item["file"]: item["confidence"] for item in ask(many, "GET", "photos")["items"]}
    shown = [known[file] for file in files(page) if known[file] is not None]
    assert shown == sorted(shown) and len(shown) > 1
    sure = max(shown)
    assert row(page, next(file for file in files(page) if known[file] == sure)).inner_text().count("%") == 1
    assert "%" not in row(page, "many-00.png").inner_text()  # a person drew it: no model is sure of it
    page.select_option("#filter-doubt", "0.9")
    under = [file for file, score in known.items() if score is not None and score < 0.9]
    expect(page.locator("#queue button")).to_have_count(len(under), timeout=WAIT)


def test_photos_are_filtered_by_state_class_and_name_and_n_goes_to_the_next_open(many: str, opened: Callable) -> None:
    page = opened(many)
    predicted(page, many)
    page.select_option("#sort", "name")
    page.select_option("#filter-state", "corrected")
    expect(page.locator("#queue button")).to_have_count(1, timeout=WAIT)
    page.select_option("#filter-state", "")
    page.locator("#search").fill("many-0")
    expect(page.locator("#queue button")).to_have_count(10, timeout=WAIT)
    choose(page, "many-00.png")
    page.keyboard.press("n")
    shows(page).to_have_attribute("title", "many-01.png", timeout=WAIT)
    page.locator("#search").fill("")
    page.select_option("#filter-class", label="square")
    shown = [item["file"] for item in ask(many, "GET", "photos?class=c1")["items"]]
    expect(page.locator("#queue button")).to_have_count(len(shown), timeout=WAIT)


def test_a_correction_keeps_the_rest_of_the_guess_and_no_guess_comes_back(many: str, opened: Callable) -> None:
    page = opened(many)
    predicted(page, many)
    hand = hand_on(page, many, "many-21.png")
    guess = mask(many, "many-21.png")
    page.keyboard.press("1")
    page.keyboard.press("r")
    hand.stroke((70, 2), (75, 6))
    expected = guess.copy()
    expected[2:7, 70:76] = 1
    other = hand_on(page, many, "many-20.png")  # another example: everything is predicted anew
    other.stroke((10, 30), (39, 49))
    expect(page.locator("#encoding")).to_be_hidden(timeout=WAIT)
    assert record(many, "many-21.png")["state"] == "corrected"
    assert np.array_equal(mask(many, "many-21.png"), expected)
    expect(row(page, "many-21.png").locator(".state")).to_have_text("corrected")


def test_the_next_mask_is_there_before_it_is_asked_for_though_another_tab_changed_it(
    many: str, opened: Callable
) -> None:
    page = opened(many)
    predicted(page, many)
    page.select_option("#sort", "name")
    todo = [item["file"] for item in ask(many, "GET", "photos?sort=name&query=many&state=predicted")["items"]]
    choose(page, todo[0])
    shows(page).to_have_attribute("title", todo[0], timeout=WAIT)
    before = record(many, todo[1])["version"]
    tab = page.context.new_page()
    tab.goto(page.url)
    tab.wait_for_selector("#queue button")
    hand = hand_on(tab, many, todo[-1])
    tab.keyboard.press("1")
    tab.keyboard.press("r")
    hand.stroke((2, 2), (77, 20))
    saved(tab)
    for _ in range(WAIT // 100):
        if record(many, todo[1])["version"] > before:  # the example changes what the next photo shows
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the next photo stays as it was")
    page.wait_for_timeout(1500)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#stage").focus()
    page.keyboard.press("Enter")
    shows(page).to_have_attribute("title", todo[1], timeout=WAIT)
    next_id = record(many, todo[1])["id"]
    assert not [url for url in asked if next_id in url]


def test_twenty_photos_are_accepted_by_keyboard_each_as_it_was_seen(many: str, opened: Callable) -> None:
    page = opened(many)
    predicted(page, many)
    page.route("**/api/v1/events", lambda route: route.abort())  # it hears nothing of guesses that change meanwhile
    page.reload()
    page.wait_for_selector("#queue button")
    page.select_option("#sort", "name")
    todo = [item["file"] for item in ask(many, "GET", "photos?sort=name&query=many&state=predicted")["items"]][:20]
    choose(page, todo[0])
    seen = {}
    for file in todo:
        shows(page).to_have_attribute("title", file, timeout=WAIT)
        seen[file] = looks(page)
        page.keyboard.press("Enter")
    saved(page)
    states = [record(many, file)["state"] for file in todo]
    assert len(states) > 17 and set(states) <= {"accepted", "corrected"}
    for file in (todo[1], todo[9], todo[-1]):
        choose(page, file)
        page.wait_for_timeout(100)
        assert looks(page) == seen[file]


def test_a_photo_of_30_megapixels_is_drawn_on_to_the_pixel_and_sends_no_more_than_it_must(
    many: str, opened: Callable
) -> None:
    page = opened(many)
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method in ("PUT", "PATCH") else None)
    hand = hand_on(page, many, "large.jpg")
    page.keyboard.press("1")
    page.keyboard.press("b")
    brush_of(page, 100)
    width, height = LARGE
    points = [(width * (0.2 + 0.6 * i / 500), height * (0.5 + 0.1 * (i % 50) / 50)) for i in range(500)]
    hand.stroke(*points)
    assert len(sent) == 1 and sent[0].sizes()["requestBodySize"] < 200_000
    found = mask(many, "large.jpg")
    assert found.shape == (height, width) and ndimage.label(found)[1] == 1
    page.keyboard.press("u")
    saved(page)
    assert not mask(many, "large.jpg").any()


def test_the_brush_has_the_size_that_is_shown_and_the_class_stays_for_the_next_photo(
    address: str, opened: Callable
) -> None:
    page = opened(address)
    cleared(page, address, "photo-4.jpg")
    hand = cleared(page, address, "photo-5.jpg")
    page.keyboard.press("2")
    page.keyboard.press("b")
    brush_of(page, 3)
    for key in "]][":
        page.keyboard.press(key)
    assert page.locator("#brush-size").inner_text() == "4 px"
    page.mouse.move(*hand.at(60, 60))
    page.keyboard.down("Shift")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    expect(page.locator("#brush-size")).to_have_text("5 px")
    assert 255 in colours(page, "stroke-canvas")  # the cursor
    hand.stroke((60, 60))
    rows, columns = np.nonzero(mask(address, "photo-5.jpg") == 2)
    assert (np.ptp(rows), np.ptp(columns)) == (4, 4) and len(rows) == 21  # a disc of 5 pixels across
    other = hand_on(page, address, "photo-4.jpg")
    other.stroke((50, 50))
    assert set(np.unique(mask(address, "photo-4.jpg"))) == {0, 2}


def test_a_class_that_is_not_there_goes_by_one_key_and_undo_brings_it_back(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-2.jpg")
    page.keyboard.press("r")
    hand.stroke((10, 10), (30, 30))
    hand.stroke((50, 50), (60, 60))
    page.keyboard.press("2")
    hand.stroke((70, 20), (80, 40))
    drawn = mask(address, "photo-2.jpg")
    page.keyboard.press("1")
    page.keyboard.press("d")
    saved(page)
    assert np.array_equal(mask(address, "photo-2.jpg"), np.where(drawn == 1, 0, drawn))
    page.keyboard.press("u")
    saved(page)
    assert np.array_equal(mask(address, "photo-2.jpg"), drawn)


def test_a_fast_stroke_has_neither_gaps_nor_stairs(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-3.jpg")
    page.keyboard.press("b")
    brush_of(page, 3)
    hand.stroke((10, 20), (90, 70), (20, 110))
    found = mask(address, "photo-3.jpg")
    assert ndimage.label(found)[1] == 1
    for start, end in (((10, 20), (90, 70)), ((90, 70), (20, 110))):
        steps = np.linspace(start, end, 200)
        assert all(found[round(y), round(x)] for x, y in steps)


def test_the_mask_is_hidden_while_h_is_held_and_its_opacity_follows_keys_and_slider(
    address: str, opened: Callable
) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-5.jpg")
    page.keyboard.press("r")
    hand.stroke((20, 20), (60, 60))
    page.keyboard.press("h")
    page.keyboard.down("h")
    page.wait_for_timeout(100)
    assert colours(page) == [0]
    page.keyboard.up("h")
    page.locator("#opacity").fill("100")
    page.locator("#opacity").blur()
    page.wait_for_timeout(100)
    assert colours(page) == [0, 255]
    page.keyboard.press(",")
    page.wait_for_timeout(100)
    assert max(colours(page)) < 255


def test_from_two_screen_pixels_a_photo_pixel_on_pixels_are_shown_as_pixels(address: str, opened: Callable) -> None:
    page = opened(address)
    cleared(page, address, "photo-3.jpg")
    shown = """() => {
      const canvas = document.getElementById("photo-canvas");
      const { data } = canvas.getContext("2d").getImageData(canvas.width / 2 - 30, canvas.height / 2, 60, 1);
      return Array.from({ length: 60 }, (_, i) => data.slice(4 * i, 4 * i + 3).join());
    }"""
    for _ in range(12):
        page.keyboard.press("+")
    page.wait_for_timeout(200)
    assert len(set(page.evaluate(shown))) < 10  # few photo pixels, each many times
    page.keyboard.press("a")
    for _ in range(10):
        page.keyboard.press("-")
    page.wait_for_timeout(200)
    row = page.evaluate(shown)
    assert len(set(row)) > 15  # smaller than it is, it is drawn smoothly


def test_the_colour_of_a_class_is_changed_in_its_dialog_and_stays(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-5.jpg")
    page.keyboard.press("r")
    hand.stroke((20, 20), (60, 60))
    before = ask(address, "GET", "project")["classes"][0]["colour"]
    try:
        page.get_by_role("button", name="Change class dress").click()
        page.locator("dialog input[type=color]").fill("#0a64fa")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#classes .swatch").first).to_have_css("background-color", "rgb(10, 100, 250)")
        page.locator("#opacity").fill("100")
        page.wait_for_timeout(100)
        left, top = hand.at(40, 40)
        stage = page.locator("#stage").bounding_box()
        assert page.evaluate(
            """([x, y]) => [...document.getElementById("mask-canvas").getContext("2d").getImageData(x, y, 1, 1).data]""",
            [left - stage["x"], top - stage["y"]],
        ) == [10, 100, 250, 255]
        assert ask(address, "GET", "project")["classes"][0]["colour"] == "#0a64fa"
    finally:
        ask(address, "PATCH", "classes/c1", {"colour": before})


def test_a_pen_paints_while_fingers_pan(address: str, opened: Callable) -> None:
    page = opened(address, has_touch=True)
    hand = cleared(page, address, "photo-4.jpg")
    page.keyboard.press("b")
    brush_of(page, 3)
    hands = page.context.new_cdp_session(page)

    def pen(kind: str, x: float, y: float) -> None:
        left, top = hand.at(x, y)
        about = {"type": kind, "x": left, "y": top, "button": "left", "buttons": 1, "clickCount": 1}
        hands.send("Input.dispatchMouseEvent", {**about, "pointerType": "pen"})

    def touch(kind: str, *points: tuple[float, float]) -> None:
        hands.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    pen("mousePressed", 20, 30)
    pen("mouseMoved", 40, 30)
    pen("mouseReleased", 40, 30)
    saved(page)
    drawn = mask(address, "photo-4.jpg")
    assert drawn[30, 20:41].all()
    before = colours(page, "photo-canvas"), page.screenshot(clip=page.locator("#stage").bounding_box())
    start = hand.at(60, 60)
    touch("touchStart", start)
    touch("touchMove", (start[0] + 80, start[1] + 50))
    touch("touchEnd")
    page.wait_for_timeout(200)
    assert page.screenshot(clip=page.locator("#stage").bounding_box()) != before[1]  # the view has moved
    saved(page)
    assert np.array_equal(mask(address, "photo-4.jpg"), drawn)


def test_dropped_photos_are_added_and_what_is_no_photo_is_named(address: str, opened: Callable, photos: Path) -> None:
    page = opened(address)
    page.evaluate(
        """(bytes) => {
          const carried = new DataTransfer();
          carried.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
          carried.items.add(new File(["no photo"], "<b>text</b>.jpg", { type: "image/jpeg" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        list((photos / "photo-0.jpg").read_bytes()),
    )
    expect(row(page, "dropped.jpg")).to_be_visible(timeout=WAIT)
    expect(page.locator("#notes")).to_contain_text("<b>text</b>.jpg was not added", timeout=WAIT)
    assert not (photos / "dropped.jpg").exists()


def test_an_export_names_each_photo_that_is_left_out(address: str, opened: Callable) -> None:
    page = opened(address)
    cleared(page, address, "photo-2.jpg")
    page.keyboard.press("x")
    saved(page)
    page.keyboard.press("s")
    expect(page.locator("dialog .list")).to_contain_text("photo-2.jpg: rejected", timeout=WAIT)


def test_a_token_opens_the_page_and_leaves_the_address_bar(tmp_path: Path, photos: Path, opened: Callable) -> None:
    with serving(tmp_path / "secret", photos, "--token", ready=False) as address:
        place, _, token = address.partition("#token=")
        page = opened(place, shows="#notes .bad")  # first, for once a list was shown the model loads
        expect(page.locator("#notes")).to_contain_text("open the address with the token")
        assert page.locator("#queue button").count() == 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(place, "GET", "project")
        page = opened(address)
        assert page.url.partition("#")[0] == place and token not in page.url and len(token) > 20
