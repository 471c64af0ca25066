"""Runs of many photos: memory, names, pages of the report, results that grow, and what a power cut leaves."""

import runpy
import tracemalloc
from pathlib import Path

import pytest

from shotseg import report, runs
from shotseg.runs import engines, segment_folder
from test_runs_again import Finder, days, found, mask_of, photo, run

__all__ = ["days"]  # a fixture


def test_many_photos_get_further_pages_which_link_to_their_pictures(days, monkeypatch):
    from urllib.parse import unquote

    day1, day2, out = days
    monkeypatch.setattr(report, "SHOWN", 3)
    for i in range(7):
        photo(day2 / f"sub/IMG #{i}.jpg", 4 * i)
    (day2 / "broken.jpg").write_text("no photo")
    run(day2, out)
    pages = [out / "report.html", *(out / f".shotseg/pages/{number}.html" for number in (2, 3, 4))]
    assert sorted(out.rglob("*.html")) == sorted(pages)
    sure, linked = [], set()
    for number, path in enumerate(pages, 1):
        page = path.read_text(encoding="utf-8")
        sure += [float(part.split('"')[0]) for part in page.split('data-confidence="')[1:]]
        links = [part.split('"')[0] for part in page.split('href="')[1:]]
        links += [part.split('"')[0] for part in page.split('src="')[1:] if not part.startswith("data:")]
        places = {path.parent.joinpath(unquote(link)).resolve() for link in links}
        assert all(place.is_file() for place in places) and set(pages) <= places
        linked |= {place.relative_to(out).as_posix() for place in places}
        assert "11 photos on 4 pages" in page and f'aria-current="page">{number}</a>' in page
        assert ("1 failed" in page) == (number == 1)
    assert sure == sorted(sure) and len(sure) == 11
    assert {file for file in linked if file.endswith(".png")} == found(out)
    run(day1, out)
    assert sorted(out.rglob("*.html")) == sorted(pages[:2]), "pages of the run before are gone"


def test_a_folder_called_as_a_part_of_the_page_is_a_name_like_any_other(tmp_path):
    photo(tmp_path / "in/a/*failed*/b.jpg")
    (tmp_path / "in/broken.jpg").write_text("no photo")
    run(tmp_path / "in", tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert 'title="a/*failed*/b.jpg"' in page and page.count("<h2>1 failed</h2>") == 1


def test_a_file_that_a_power_cut_emptied_is_made_again(days):
    day1, _, out = days
    run(day1, out)
    (out / "masks/dress/IMG_1.png").write_bytes(b"")
    assert run(day1, out, resume=True) == ["IMG_1.jpg"]
    assert mask_of(out, "IMG_1").any()


def test_what_a_killed_shard_began_is_gone_once_all_are_joined(days):
    day1, _, out = days
    run(day1, out, shard="1/2")
    half = out / "masks/dress/.shotseg-0123.tmp"
    half.write_bytes(b"half a mask")
    run(day1, out, shard="2/2")
    assert not half.exists() and (out / "results.jsonl").exists()


def test_lines_of_a_journal_that_tell_of_no_photo_are_passed_over(days):
    day1, _, out = days
    run(day1, out)
    journal = out / ".shotseg/journal.jsonl"
    head, *lines = journal.read_bytes().splitlines(keepends=True)
    strange = (
        b'3\nnull\n[]\n{"record": 3}\n{"record": {}, "photo": {}}\n\x00\xff\n{"record": {"error": null}, "photo": {}}\n'
    )
    journal.write_bytes(head + strange + lines[0] + b"\n" + lines[1][:50])
    assert run(day1, out, resume=True) == ["IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg"]


def test_results_grow_while_the_run_goes(days):
    day1, _, out = days
    seen = []

    class Watching(Finder):
        def predict(self, photo):
            seen.append(len((out / "results.jsonl").read_text().splitlines()))
            return super().predict(photo)

    segment_folder(Watching("dress"), runs.find_photos(day1), out)
    assert seen[0] == 0 and 0 < seen[-1] < 4 and seen == sorted(seen)


def test_a_thousand_photos_more_take_no_more_memory(tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts/simulate_records.py"))

    def peak(count):
        photos = runs.named((f"{i // 100}/IMG_{i}.jpg", f"/photos/{i // 100}/IMG_{i}.jpg") for i in range(count))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        segment_folder(Finder("bracket"), photos, tmp_path / str(count))
        return tracemalloc.get_traced_memory()[1] - before

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, "local", script["made_up"])
        patch.setattr(report, "SHOWN", 20)  # what one page takes is not asked here
        peak(10)  # what is loaded once
        tracemalloc.start()
        try:
            few, many = peak(200), peak(1200)
        finally:
            tracemalloc.stop()
    assert many - few < 100_000, "less than a hundred bytes a photo"


def test_photos_that_differ_in_their_suffix_are_named_as_ever(tmp_path):
    files = ["x.jpg", "x.png", "X.bmp", "x_jpg.png", "x_png.jpg", "x_png.gif", "a.b.jpg", "a.", "n", "s/x.jpg"]
    names = {photo.file: photo.name for photo in runs.named((file, file) for file in files)}
    assert names == {
        "X.bmp": "X_bmp",
        "a.": "a.",
        "a.b.jpg": "a.b",
        "n": "n",
        "s/x.jpg": "s/x",
        "x.jpg": "x_jpg_",
        "x.png": "x_png",
        "x_jpg.png": "x_jpg",
        "x_png.gif": "x_png_gif",
        "x_png.jpg": "x_png_jpg",
    }
