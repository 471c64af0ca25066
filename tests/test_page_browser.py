"""The page in a real browser: what a person draws is what is kept, shown again and exported."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from page_browser import IN_CHROMIUM
from page_hand import WAIT, ask, brush_of, choose, cleared, hand_on, mask, record, row, saved, serving, shows

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-page installs it")
pytest.importorskip("fastapi", reason="needs the extra web")
pytestmark = IN_CHROMIUM


@pytest.mark.parametrize("ratio", [1, 1.5, 2])
def test_a_brush_of_one_pixel_paints_exactly_the_pixels_under_it(address: str, opened: Callable, ratio: float) -> None:
    page = opened(address, ratio)
    hand = cleared(page, address, "photo-5.jpg")
    page.keyboard.press("b")
    page.keyboard.press("2")
    brush_of(page, 1)
    hand.stroke((10, 20))
    hand.stroke((30, 40), (36, 40))
    hand.stroke((50, 50), (54, 54))
    expected = np.zeros_like(mask(address, "photo-5.jpg"))
    expected[20, 10] = 2
    expected[40, 30:37] = 2
    expected[range(50, 55), range(50, 55)] = 2
    assert np.array_equal(mask(address, "photo-5.jpg"), expected)


def test_a_turned_photo_is_drawn_on_as_it_is_seen(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "turned.jpg")
    page.keyboard.press("r")
    hand.stroke((5, 60), (19, 69))
    expected = np.zeros((80, 50), np.uint8)
    expected[60:70, 5:20] = 1
    assert np.array_equal(mask(address, "turned.jpg"), expected)


def test_thirty_strokes_are_undone_and_redone_one_at_a_time(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-4.jpg")
    page.keyboard.press("b")
    brush_of(page, 3)
    for number in range(30):
        hand.stroke((5 + 2 * number, 30), (5 + 2 * number, 60))
    drawn = mask(address, "photo-4.jpg")
    for _ in range(30):
        page.keyboard.press("u")
    saved(page)
    assert not mask(address, "photo-4.jpg").any()
    for _ in range(30):
        page.keyboard.press("Control+y")
    saved(page)
    assert np.array_equal(mask(address, "photo-4.jpg"), drawn)


def test_every_tool_draws_and_the_right_button_erases(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-3.jpg")
    for key, name in (("l", "lasso"), ("p", "polygon")):
        page.keyboard.press(key)
        corners = [(20, 20), (60, 20), (60, 60), (20, 60)]
        if name == "lasso":
            hand.stroke(*corners)
        else:
            for corner in corners:
                hand.stroke(corner)
            page.keyboard.press("Enter")
            saved(page)
        assert mask(address, "photo-3.jpg")[20:60, 20:60].mean() > 0.95, name
        page.keyboard.press("u")
    page.keyboard.press("b")
    brush_of(page, 2)
    hand.stroke((20, 20), (60, 20), (60, 60), (20, 60), (20, 20))
    page.keyboard.press("f")
    hand.stroke((40, 40))
    filled = mask(address, "photo-3.jpg")
    assert filled[20:60, 20:60].all() and not filled[70, 70]
    page.keyboard.press("b")
    hand.stroke((40, 40), button="right")
    assert not mask(address, "photo-3.jpg")[40, 40]


def test_a_scribble_binds_its_pixels_and_undo_takes_it_back(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-0.jpg")
    page.keyboard.press("r")
    hand.stroke((40, 80), (70, 120))
    page.keyboard.press("Enter")
    saved(page)
    page.wait_for_selector("#queue .state-predicted")
    file = "photo-1.jpg"
    hand = hand_on(page, address, file)
    page.keyboard.press("i")
    brush_of(page, 5)
    hand.stroke((20, 20), (40, 20))
    page.keyboard.press("o")
    hand.stroke((20, 60), (40, 60))
    assert (mask(address, file)[20, 20:41] == 1).all()
    assert not (mask(address, file)[60, 20:41] == 1).any()
    known = ask(address, "GET", f"photos/{record(address, file)['id']}")
    assert [stroke["side"] for stroke in known["strokes"]] == ["inside", "outside"]
    page.keyboard.press("u")
    saved(page)
    known = ask(address, "GET", f"photos/{record(address, file)['id']}")
    assert [stroke["side"] for stroke in known["strokes"]] == ["inside"]


def test_keys_alone_accept_and_reject_and_move_on(address: str, opened: Callable) -> None:
    page = opened(address)
    for item in ask(address, "GET", "photos")["items"]:
        ask(address, "POST", f"photos/{item['id']}/state", {"version": item["version"], "state": "open"})
    hand = cleared(page, address, "photo-1.jpg")  # an example, so that the others are predicted
    page.keyboard.press("r")
    hand.stroke((40, 80), (70, 120))
    playwright.expect(row(page, "photo-2.jpg").locator(".state-predicted")).to_be_visible(timeout=WAIT)
    choose(page, "photo-2.jpg")
    page.keyboard.press("Enter")
    shows(page).not_to_have_attribute("title", "photo-2.jpg", timeout=WAIT)
    saved(page)
    assert record(address, "photo-2.jpg")["state"] in ("accepted", "corrected")
    choose(page, "photo-2.jpg")
    page.keyboard.press("x")
    saved(page)
    assert record(address, "photo-2.jpg")["state"] == "rejected"
    choose(page, "photo-2.jpg")
    page.keyboard.press("w")
    saved(page)
    assert record(address, "photo-2.jpg")["state"] in ("open", "predicted")


def test_a_quick_hand_sees_each_photo_once_while_the_server_is_away(
    tmp_path: Path, photos: Path, opened: Callable
) -> None:
    with serving(tmp_path / "quick", photos) as address:
        ask(address, "POST", "classes", {"name": "dress"})
        page = opened(address)
        page.select_option("#sort", "name")
        hand = hand_on(page, address, "photo-3.jpg")
        page.keyboard.press("r")
        hand.stroke((40, 80), (70, 120))
        playwright.expect(page.locator("#queue .state-predicted")).to_have_count(6, timeout=WAIT)
        page.route("**/state", lambda route: route.abort())
        seen = ["photo-3.jpg"]
        for _ in range(6):
            page.keyboard.press("Enter")
            shows(page).not_to_have_attribute("title", seen[-1], timeout=WAIT)
            seen.append(page.locator("#photo-info").get_attribute("title"))
        assert len(set(seen)) == 7
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#notes")).to_contain_text("decided", timeout=WAIT)
        page.unroute("**/state")
        saved(page)
        assert {each["state"] for each in ask(address, "GET", "photos")["items"]} == {"accepted", "corrected"}


def test_counts_and_list_are_fetched_anew_though_news_never_pauses(address: str, opened: Callable) -> None:
    acted = opened(address).evaluate("""async () => {
        const { debounce } = await import("/static/js/dom.js");
        let acted = 0;
        const soon = debounce(200, () => acted++, 300);
        for (let i = 0; i < 30; i++) {
            soon();
            await new Promise((resolve) => setTimeout(resolve, 40));
        }
        return acted;
    }""")
    assert acted >= 2


def test_a_row_that_says_the_same_stays_when_the_list_is_fetched_anew(address: str, opened: Callable) -> None:
    page = opened(address)
    rows = "() => [...document.querySelectorAll('#queue li')].map((row) => row.before === true)"
    page.evaluate("() => document.querySelectorAll('#queue li').forEach((row) => (row.before = true))")
    page.select_option("#sort", "name")
    playwright.expect(page.locator("#queue .file").last).to_have_text("turned.jpg")
    assert len(page.evaluate(rows)) > 5 and all(page.evaluate(rows))
    page.select_option("#language", "de")
    playwright.expect(page.locator("#queue .state").first).not_to_have_text(
        re.compile("open|predicted|accepted|corrected")
    )
    assert not any(page.evaluate(rows))


def test_keys_do_nothing_while_one_types(address: str, opened: Callable) -> None:
    page = opened(address)
    page.keyboard.press("e")
    page.keyboard.press("/")
    page.keyboard.type("bx?")
    assert page.locator("#search").input_value() == "bx?"
    assert page.locator("[data-tool=eraser]").get_attribute("aria-pressed") == "true"
    assert page.locator("dialog[open]").count() == 0


SHOWN = """([x, y]) =>
  document.getElementById("mask-canvas").getContext("2d").getImageData(x, y, 1, 1).data[3]"""


@pytest.mark.parametrize("answer", ["Take the other", "Keep mine"])
def test_a_change_in_another_window_is_asked_about_and_never_lost_unsaid(
    address: str, opened: Callable, answer: str
) -> None:
    page, other = opened(address), opened(address)
    hand = cleared(page, address, "photo-5.jpg")
    other.route("**/api/v1/events", lambda route: route.abort())
    other.reload()
    other.wait_for_selector("#queue button")
    theirs = hand_on(other, address, "photo-5.jpg")
    page.keyboard.press("r")
    hand.stroke((10, 10), (20, 20))
    other.keyboard.press("r")
    other.mouse.move(*theirs.at(40, 40))
    other.mouse.down()
    other.mouse.move(*theirs.at(50, 50))
    refused: list[int] = []
    other.on("response", lambda response: response.status >= 400 and refused.append(response.status))
    other.mouse.up()
    playwright.expect(other.locator("dialog")).to_contain_text("photo-5.jpg was changed in another window")
    for key in ("Enter", "Escape", "Escape"):  # meant for the page: they answer nothing
        other.keyboard.press(key)
    other.get_by_role("button", name=answer).click()
    saved(other)
    kept, mine = mask(address, "photo-5.jpg"), answer == "Keep mine"
    assert (bool(kept[15, 15]), bool(kept[45, 45])) == (not mine, mine) and refused == [409]
    if mine:  # the first window hears of it, and goes on from there
        left, top = hand.at(45, 45)
        stage = page.locator("#stage").bounding_box()
        page.wait_for_function(SHOWN, arg=[left - stage["x"], top - stage["y"]])
    page.keyboard.press("b")
    brush_of(page, 1)
    hand.stroke((70, 70))
    kept[70, 70] = 1
    assert np.array_equal(mask(address, "photo-5.jpg"), kept)


def test_all_is_there_after_a_kill_and_a_reload(tmp_path: Path, photos: Path, opened: Callable) -> None:
    with serving(tmp_path / "kept", photos, ready=False) as address:
        page = opened(address)
        hint = playwright.expect(page.locator("#hint"))  # what a newcomer does next
        hint.to_have_text("Press C and name a class.", timeout=WAIT)
        page.keyboard.press("c")
        assert page.locator("dialog input[type=color]").input_value() == ask(address, "GET", "project")["next_colour"]
        page.locator("dialog input[type=text]").fill("dress &lt;i&gt;")
        page.keyboard.press("Enter")
        page.wait_for_selector("#classes .name")
        assert page.locator("#classes .name").inner_text() == "dress &lt;i&gt;"  # a name never becomes HTML
        hand = hand_on(page, address, "photo-0.jpg")
        hint.to_contain_text("Draw dress")
        page.keyboard.press("r")
        hand.stroke((40, 80), (70, 120))
        drawn = mask(address, "photo-0.jpg")
    with serving(tmp_path / "kept", photos, ready=False) as address:
        page = opened(address)
        choose(page, "photo-0.jpg")
        assert page.locator("#queue button[aria-current] .state").inner_text() == "corrected"
        assert np.array_equal(mask(address, "photo-0.jpg"), drawn)
        page.reload()
        page.wait_for_selector("#classes .name")
        assert page.locator("#classes li").count() == 1


def test_an_export_to_coco_holds_what_was_drawn(address: str, opened: Callable, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    page = opened(address)
    hand = cleared(page, address, "turned.jpg")
    page.keyboard.press("r")
    hand.stroke((5, 60), (19, 69))
    page.keyboard.press("2")
    hand.stroke((30, 10), (33, 13))
    page.keyboard.press("s")
    page.get_by_label("Only photos that were accepted or corrected").check()
    playwright.expect(page.locator("#export-photos")).to_have_text(re.compile("[1-9]"), timeout=WAIT)
    page.wait_for_selector("dialog button.primary:not([disabled])")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(waiting.value.path()) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".json"))
        packed.extract(name, tmp_path)
    found = coco.COCO(tmp_path / name)
    image = next(image for image in found.dataset["images"] if Path(image["file_name"]).name == "turned.jpg")
    exported = np.zeros((image["height"], image["width"]), np.uint8)
    order = {"dress": 1, "hair": 2}
    for annotation in found.loadAnns(found.getAnnIds(imgIds=image["id"])):
        exported[found.annToMask(annotation) > 0] = order[found.cats[annotation["category_id"]]["name"]]
    expected = np.zeros((80, 50), np.uint8)
    expected[60:70, 5:20], expected[10:14, 30:34] = 1, 2
    assert np.array_equal(exported, expected)


def test_the_zoom_stays_on_the_next_photo_and_goes_to_the_object(address: str, opened: Callable) -> None:
    page = opened(address)
    hand = cleared(page, address, "photo-4.jpg")
    page.keyboard.press("r")
    hand.stroke((50, 50), (59, 59))
    whole = page.locator("#zoom").inner_text()
    page.keyboard.press("z")
    playwright.expect(page.locator("#zoom")).not_to_have_text(whole)
    near = page.locator("#zoom").inner_text()
    page.locator("#queue button", has_text="photo-5.jpg").click()
    shows(page).to_have_attribute("title", "photo-5.jpg", timeout=WAIT)
    same = record(address, "photo-4.jpg")["width"] == record(address, "photo-5.jpg")["width"]
    assert not same or page.locator("#zoom").inner_text() == near


@pytest.mark.parametrize("size", [(360, 640), (640, 360)])
def test_a_phone_shows_all_of_the_page_in_its_width_and_draws(address: str, opened: Callable, size: tuple) -> None:
    page = opened(address)
    page.set_viewport_size(dict(zip(("width", "height"), size)))
    hand = cleared(page, address, "photo-3.jpg")
    page.keyboard.press("r")
    hand.stroke((5, 60), (19, 69))
    expected = np.zeros_like(mask(address, "photo-3.jpg"))
    expected[60:70, 5:20] = 1
    assert np.array_equal(mask(address, "photo-3.jpg"), expected)
    sides = page.evaluate(  # at once: the list may be shown anew meanwhile
        """() => [...document.querySelectorAll("button, select, input")]
          .filter((own) => own.checkVisibility() && !own.closest("#queue"))  // the list is a strip, which scrolls
          .map((own) => own.getBoundingClientRect()).map(({ left, right }) => [left, right])"""
    )
    assert len(sides) > 20
    assert all(left >= 0 and right <= size[0] for left, right in sides)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_axe_finds_nothing_serious_in_either_language(address: str, opened: Callable) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(address)
    for language, key in (("en", None), ("de", None), ("de", "?"), ("en", "c"), ("en", "s")):
        page.select_option("#language", language)
        if key:
            page.keyboard.press("Escape")
            page.locator("#stage").focus()
            page.keyboard.press(key)
            page.wait_for_selector("dialog[open]")
        found = axe.run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == [], (language, key)
        if key:
            page.keyboard.press("Escape")


def test_both_languages_have_the_same_keys_and_every_key_that_the_page_asks_for() -> None:
    static = Path(__file__).parents[1] / "src" / "shotseg" / "web" / "static"
    english, german = (json.loads((static / "i18n" / f"{name}.json").read_text("utf-8")) for name in ("en", "de"))
    assert english.keys() == german.keys()
    code = "".join(path.read_text("utf-8") for path in [*static.glob("js/*.js"), static / "index.html"])
    asked = set(re.findall(r'\bt\("([\w.]+)"', code)) | set(re.findall(r'data-i18n(?:-\w+)?="([\w.]+)"', code))
    assert asked - english.keys() == set()
    for path in static.rglob("*.js"):
        assert len(path.read_text("utf-8").splitlines()) < 300, path
        assert "innerHTML" not in path.read_text("utf-8"), path
