"""What a person meets who opens the page for the first time, on the machine and with the photos that they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from page_browser import IN_CHROMIUM
from page_hand import WAIT, ask, choose, cleared, hand_on, mask, record, row, serving, shows

expect = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-page installs it").expect
pytest.importorskip("fastapi", reason="needs the extra web")
pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The photos, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("mixed")
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, mixed: Path) -> Any:
    """A project that nobody has opened yet."""
    with serving(tmp_path_factory.mktemp("project") / "fresh", mixed, ready=False) as found:
        yield found


def test_the_line_on_what_to_do_next_covers_nothing_of_the_photo(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    expect(page.locator("#hint")).to_have_text("Press C and name a class.", timeout=WAIT)
    line, stage = (page.locator(place).bounding_box() for place in ("#hint", "#stage"))
    assert line["y"] + line["height"] <= stage["y"]


def test_enter_pressed_again_while_the_server_is_busy_makes_no_second_class(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    page.route("**/api/v1/classes", lambda route: (page.wait_for_timeout(400), route.continue_()))
    page.keyboard.press("c")
    page.keyboard.type("dress")
    page.keyboard.press("Enter")
    page.keyboard.type("es")
    page.keyboard.press("Enter")
    expect(page.locator("#classes .name")).to_have_text(["dress"], timeout=WAIT)
    assert [own["name"] for own in ask(fresh, "GET", "project")["classes"]] == ["dress"]


def test_a_photo_that_cannot_be_read_says_why_in_its_place(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    row(page, "broken.jpg").click()
    expect(page.locator("#stage-empty")).to_contain_text("broken.jpg: cannot be read as an image", timeout=WAIT)
    assert page.locator("#notes .note").count() == 0
    row(page, "photo-1.jpg").click()
    expect(page.locator("#stage-empty")).to_be_empty(timeout=WAIT)


def test_a_message_lies_beside_the_photo_and_not_upon_it(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    page.evaluate(
        """() => {
          const carried = new DataTransfer();
          carried.items.add(new File(["no photo"], "text.jpg", { type: "image/jpeg" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }"""
    )
    note = page.locator("#notes .note")
    expect(note).to_be_visible(timeout=WAIT)
    stage = page.locator("#stage").bounding_box()
    assert note.bounding_box()["x"] >= stage["x"] + stage["width"]


def test_a_page_that_is_loaded_again_shows_the_same_photo(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    row(page, "photo-3.jpg").click()
    shows(page).to_have_attribute("title", "photo-3.jpg", timeout=WAIT)
    page.reload()
    shows(page).to_have_attribute("title", "photo-3.jpg", timeout=WAIT)


def test_a_german_browser_gets_german_until_another_language_is_chosen(fresh: str, opened: Callable) -> None:
    page = opened(fresh, locale="de-AT")
    expect(page.locator("#language")).to_have_value("de", timeout=WAIT)
    page.select_option("#language", "en")
    page.reload()
    expect(page.locator("#language")).to_have_value("en", timeout=WAIT)


def test_an_export_names_formats_and_reasons_in_the_language_of_the_page_and_the_file_by_the_project(
    fresh: str, opened: Callable
) -> None:
    page = opened(fresh)
    hand = hand_on(page, fresh, "photo-1.jpg")
    page.keyboard.press("r")
    hand.stroke((10, 10), (40, 40))
    page.select_option("#language", "de")
    choose(page, "photo-5.jpg")
    page.keyboard.press("x")
    expect(row(page, "photo-5.jpg").locator(".state")).to_have_text("verworfen", timeout=WAIT)
    page.keyboard.press("s")
    expect(page.locator("dialog .list")).to_contain_text("photo-5.jpg: verworfen", timeout=WAIT)
    page.locator("dialog select").select_option(label="COCO, Polygone")
    with page.expect_download() as download:
        page.locator("dialog button.primary").click()
    assert download.value.suggested_filename == "fresh-coco-polygons.zip"


@pytest.mark.parametrize("language", ["en", "de"])
def test_each_bar_is_one_line_on_a_small_laptop(language: str, fresh: str, opened: Callable) -> None:
    page = opened(fresh, locale=language)
    expect(page.locator("#language")).to_have_value(language, timeout=WAIT)
    page.set_viewport_size({"width": 1280, "height": 650})
    assert [page.locator(bar).bounding_box()["height"] < 60 for bar in (".tools", ".bottom")] == [True, True]


def test_a_dark_photo_is_lit_up_and_its_mask_is_not(fresh: str, opened: Callable) -> None:
    page = opened(fresh)
    page.locator("#brightness").fill("400")
    lit = "id => getComputedStyle(document.getElementById(id)).filter"
    assert [page.evaluate(lit, id) for id in ("photo-canvas", "mask-canvas")] == ["brightness(4)", "none"]


def test_h_hides_scribbles_with_the_mask(address: str, opened: Callable) -> None:
    page = opened(address)
    cleared(page, address, "photo-4.jpg")
    hand = hand_on(page, address, "photo-4.jpg")
    page.keyboard.press("i")
    hand.stroke((20, 20), (60, 60))
    page.mouse.move(5, 5)  # the cursor is drawn too
    seen = """() => {
      const { width, height } = document.getElementById("stroke-canvas");
      const pixels = document.getElementById("stroke-canvas").getContext("2d").getImageData(0, 0, width, height).data;
      return pixels.some((value) => value > 0);
    }"""
    page.wait_for_timeout(50)
    assert page.evaluate(seen)
    page.keyboard.down("h")
    page.wait_for_timeout(50)
    assert not page.evaluate(seen)
    page.keyboard.up("h")
    page.wait_for_timeout(50)
    assert page.evaluate(seen)


def test_a_photo_that_is_put_into_the_folder_is_there_when_a_person_comes_back(
    fresh: str, mixed: Path, opened: Callable
) -> None:
    page = opened(fresh)
    (mixed / "later.jpg").write_bytes((mixed / "photo-1.jpg").read_bytes())
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(row(page, "later.jpg")).to_be_visible(timeout=WAIT)
    (mixed / "later.jpg").unlink()
    page.reload()
    expect(page.locator("#queue-total")).to_have_text("8 of 8 photos", timeout=WAIT)


def test_tab_stops_once_in_the_list_and_enter_opens_a_photo_there_then_accepts_it(
    address: str, opened: Callable
) -> None:
    page = opened(address)
    cleared(page, address, "photo-2.jpg")
    page.select_option("#sort", "name")
    in_order = sorted(item["file"] for item in ask(address, "GET", "photos")["items"])
    expect(page.locator("#queue .file")).to_have_text(in_order, timeout=WAIT)
    page.locator("#filter-doubt").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#tools') !== null")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowUp")
    shows(page).to_have_attribute("title", "photo-1.jpg", timeout=WAIT)
    assert "photo-1.jpg" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowDown")
    shows(page).to_have_attribute("title", "photo-2.jpg", timeout=WAIT)
    page.keyboard.press("Enter")  # it is open: this accepts it, and moves on
    expect(page.locator("#photo-info[title='photo-2.jpg']")).to_have_count(0, timeout=WAIT)


def test_a_look_through_decided_photos_goes_on_to_the_next_though_one_leaves_the_list(
    tmp_path: Path, photos: Path, opened: Callable
) -> None:
    with serving(tmp_path / "through", photos, ready=False) as address:
        ask(address, "POST", "classes", {"name": "dress"})
        for number in (1, 2, 3):
            item = record(address, f"photo-{number}.jpg")
            ask(address, "POST", f"photos/{item['id']}/state", {"version": item["version"], "state": "rejected"})
        page = opened(address)
        page.select_option("#sort", "name")
        page.select_option("#filter-state", "rejected")
        expect(page.locator("#queue button")).to_have_count(3, timeout=WAIT)
        choose(page, "photo-2.jpg")
        page.keyboard.press("r")
        hand_on(page, address, "photo-2.jpg").stroke((10, 10), (30, 30))
        expect(page.locator("#queue button")).to_have_count(2, timeout=WAIT)  # it is corrected by now
        page.keyboard.press("Enter")
        shows(page).to_have_attribute("title", "photo-3.jpg", timeout=WAIT)
        page.keyboard.press("x")
        expect(page.locator("#notes")).to_contain_text("No further photo in this list.", timeout=WAIT)


def test_a_class_that_is_chosen_by_keyboard_keeps_the_focus(address: str, opened: Callable) -> None:
    page = opened(address)
    page.locator("#classes .pick").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#classes .pick").nth(1)).to_have_attribute("aria-pressed", "true", timeout=WAIT)
    expect(page.locator("#classes .pick").nth(1)).to_be_focused(timeout=WAIT)


def test_a_class_that_gets_the_name_of_another_is_joined_to_it_in_every_window(
    tmp_path: Path, photos: Path, opened: Callable
) -> None:
    with serving(tmp_path / "two", photos, ready=False) as address:
        for name in ("dress", "gown", "hair"):
            ask(address, "POST", "classes", {"name": name})
        page = opened(address)
        hand = hand_on(page, address, "photo-0.jpg")
        for digit, top in (("2", 10), ("3", 40)):
            page.keyboard.press(digit)
            page.keyboard.press("r")
            hand.stroke((10, top), (20, top + 10))
        other = page.context.new_page()
        other.goto(address)
        choose(other, "photo-0.jpg")
        page.locator("#classes .edit").nth(1).click()
        page.locator("dialog input[type=text]").fill("dress")
        page.keyboard.press("Enter")
        page.locator("dialog button.reject", has_text="Join classes").click()
        expect(page.locator("#classes .name")).to_have_text(["dress", "hair"], timeout=WAIT)
        expect(other.locator("#classes .name")).to_have_text(["dress", "hair"], timeout=WAIT)
        assert page.locator("#classes .pick[aria-pressed=true] .name").inner_text() == "hair"
        other.keyboard.press("2")  # no key is left with it: hair stays at 3
        other.keyboard.press("3")
        other.keyboard.press("r")
        hand_on(other, address, "photo-0.jpg").stroke((30, 40), (40, 50))
        found = mask(address, "photo-0.jpg")
        places = {int(value): np.argwhere(found == value).min(0).tolist() for value in np.unique(found)}
        assert [found[15, 15], found[45, 15], found[45, 35]] == [1, 3, 3], places
