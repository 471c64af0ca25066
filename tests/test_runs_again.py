"""A second run into the same folder: what is kept, what is done again, what goes, and what is refused."""

import gc
import json
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from shotseg import runs
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.errors import UsageError
from shotseg.photo import check_classes
from shotseg.predictor import Predictor
from shotseg.result import Result
from shotseg.runs import PhotoFile, segment_folder
from shotseg.runs import _old_left_alone as old_left_alone


class Finder(Predictor):
    """A worker that finds ``classes[0]`` where a photo is bright, and no other class; what it did is kept in ``asked``."""

    classes = ()

    def __init__(self, *classes):
        super().__init__("cpu")
        self.classes, self.asked = classes, []

    def save(self, path):
        raise NotImplementedError

    @classmethod
    def load(cls, path, *, device="auto"):
        raise NotImplementedError

    def predict_batch(self, photos):
        return [self.predict(photo) for photo in photos]

    def predict(self, photo):
        self.asked.append(photo.id)
        bright = photo.image[..., 0] > 127
        nothing = np.zeros(bright.shape, np.float32)
        probabilities = {name: nothing if i else bright * np.float32(0.9) for i, name in enumerate(self.classes)}
        return Result(photo.image, self.classes, bright.astype(np.uint8), probabilities)


def photo(path, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, : value % 29 + 1] = 200
    Image.fromarray(picture).save(path)
    return path


def run(folder, out, *classes, **how):
    finder = Finder(*(classes or ("dress",)))
    photos = runs.find_photos(folder, out)
    segment_folder(finder, photos, out, **how)
    return finder.asked


def found(out):
    """Every picture below the folder, by its path."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*.png")}


def records(out):
    return {line["file"]: line for line in map(json.loads, (out / "results.jsonl").read_text().splitlines())}


def mask_of(out, name, kind="dress"):
    return np.asarray(Image.open(out / "masks" / kind / f"{name}.png")) == 255


@pytest.fixture
def days(tmp_path):
    for i, day in enumerate(("day1", "day2")):
        for j in range(4):
            photo(tmp_path / day / f"IMG_{j}.jpg", 5 * j + 2 * i)
    return tmp_path / "day1", tmp_path / "day2", tmp_path / "out"


def test_what_was_frozen_before_a_run_is_frozen_after_it():
    gc.freeze()
    before = gc.get_freeze_count()
    with old_left_alone():
        pass
    assert gc.get_freeze_count() >= before - 1000  # less what ended since


def test_what_a_run_froze_itself_it_thaws(monkeypatch):
    said = []
    calls = {"freeze": lambda: said.append("froze"), "unfreeze": lambda: said.append("thawed")}
    monkeypatch.setattr(runs, "gc", SimpleNamespace(get_freeze_count=lambda: 0, **calls))
    with old_left_alone():
        assert said == ["froze"]
    assert said == ["froze", "thawed"]


def test_photos_of_another_folder_are_not_taken_for_done(days):
    day1, day2, out = days
    run(day1, out)
    before = found(out)
    with pytest.raises(UsageError, match=r"holds the masks of .*day1/IMG_0\.jpg.*choose another --out"):
        run(day2, out, resume=True)
    assert found(out) == before
    assert len(run(day2, out)) == 4
    assert mask_of(out, "IMG_0").sum() == 20 * 3


def test_a_folder_that_was_moved_is_still_done(days):
    day1, _, out = days
    run(day1, out)
    moved = day1.rename(day1.with_name("moved"))
    assert run(moved, out, resume=True) == []
    assert len(records(out)) == 4


def test_a_touched_photo_is_still_done_and_a_replaced_one_is_done_again(days):
    day1, _, out = days
    run(day1, out)
    os.utime(day1 / "IMG_0.jpg", (1, 1))
    known = (day1 / "IMG_1.jpg").stat()
    photo(day1 / "IMG_1.jpg", 28)
    os.utime(day1 / "IMG_1.jpg", ns=(known.st_atime_ns, known.st_mtime_ns))
    assert run(day1, out, resume=True) == ["IMG_1.jpg"]
    assert mask_of(out, "IMG_1").sum() == 20 * 29


def test_a_replaced_photo_of_the_same_size_and_time_is_done_again(tmp_path):
    picture = tmp_path / "in" / "a.bmp"
    photo(picture, 3)
    run(tmp_path / "in", tmp_path / "out")
    known = picture.stat()
    photo(picture, 9)
    os.utime(picture, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert picture.stat().st_size == known.st_size
    assert run(tmp_path / "in", tmp_path / "out", resume=True) == ["a.bmp"]


def test_a_photo_that_broke_leaves_no_mask_of_what_it_was(days):
    day1, _, out = days
    run(day1, out)
    (day1 / "IMG_2.jpg").write_text("no photo")
    assert run(day1, out, resume=True) == []
    assert "masks/dress/IMG_2.png" not in found(out) and "labels/IMG_2.png" not in found(out)
    assert records(out)["IMG_2.jpg"]["error"]


def test_a_photo_that_was_deleted_leaves_no_mask(days):
    day1, _, out = days
    run(day1, out)
    (day1 / "IMG_2.jpg").unlink()
    assert run(day1, out, resume=True) == []
    assert found(out) == {f"{kind}/IMG_{i}.png" for kind in ("masks/dress", "labels") for i in (0, 1, 3)}


def test_a_photo_whose_masks_get_another_name_leaves_none_under_the_old(tmp_path):
    photo(tmp_path / "in/a.jpg")
    run(tmp_path / "in", tmp_path / "out")
    photo(tmp_path / "in/a.png")
    run(tmp_path / "in", tmp_path / "out", resume=True)
    assert found(tmp_path / "out") == {
        f"{kind}/a_{end}.png" for kind in ("masks/dress", "labels") for end in ("jpg", "png")
    }


def test_less_of_the_query_is_refused_and_not_thrown_away(days):
    day1, _, out = days
    run(day1, out)
    with pytest.raises(UsageError, match="which is not in the query"):
        run(day1 / "IMG_0.jpg", out, resume=True)
    assert len(found(out)) == 8


@pytest.mark.parametrize("settings", [{"checkpoint": "best abc"}, {"size": 5}, {"examples": ["a 1"]}])
def test_other_settings_are_not_resumed(days, settings):
    day1, _, out = days
    run(day1, out, settings={})
    with pytest.raises(UsageError, match=rf"other settings \({next(iter(settings))}"):
        run(day1, out, resume=True, settings=settings)


def test_a_plain_second_run_leaves_no_mask_of_the_first(days):
    day1, day2, out = days
    run(day1, out, "dress", "hair", annotations="yolo")
    mine = [
        out / name
        for name in ("masks/dress/mine.png", "masks/hair/notes.txt", "labels/other.png", "yolo/mine.txt", "a.txt")
    ]
    for path in mine:
        path.write_text("mine")
    (day2 / "IMG_0.jpg").unlink()
    run(day2, out, "hair")
    assert found(out) == {"masks/dress/mine.png", "labels/other.png"} | {
        f"{kind}/IMG_{i}.png" for kind in ("masks/hair", "labels") for i in (1, 2, 3)
    }
    assert all(path.read_text() == "mine" for path in mine)
    assert [path.name for path in (out / "yolo").rglob("*") if path.is_file()] == ["mine.txt"]
    assert not list((out / ".shotseg/thumbnails").glob("IMG_0*"))


def test_masks_of_a_killed_run_that_no_journal_line_names_go_too(days):
    day1, _, out = days
    run(day1, out)
    journal = out / ".shotseg/journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    for name in ("IMG_2.jpg", "IMG_3.jpg"):
        (day1 / name).unlink()
    run(day1, out, "hair")
    assert found(out) == {f"{kind}/IMG_{i}.png" for kind in ("masks/hair", "labels") for i in (0, 1)}


def test_a_journal_from_elsewhere_removes_nothing_outside_its_folder(days):
    day1, _, out = days
    precious = photo(out.parent / "precious/IMG_0.png")
    (out / ".shotseg").mkdir(parents=True)
    about = {"settings": {"classes": ["../../precious"]}, "folder": "", "photos": 1, "names": "", "part": 0, "count": 1}
    (out / ".shotseg/journal.jsonl").write_text(json.dumps(about) + "\n")
    (out / ".shotseg/names.jsonl").write_text('"IMG_0"\n"../../../precious/IMG_0"\n')
    (out / ".shotseg/annotations.json").write_text(json.dumps(["../precious/IMG_0.png", "/etc/hosts"]))
    (out / "masks").symlink_to(out.parent / "precious")
    run(day1, out.parent / "none")  # has nothing to do with it
    (out / "masks").unlink()
    run(day1, out)
    assert precious.is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"file": "a", "name": "a", "error": null, "classes": {}}\n'])
def test_a_journal_that_is_none_is_refused_by_resume_and_replaced_by_a_plain_run(days, content):
    day1, _, out = days
    (out / ".shotseg").mkdir(parents=True)
    (out / ".shotseg/journal.jsonl").write_text(content)
    with pytest.raises(UsageError, match="choose another --out"):
        run(day1, out, resume=True)
    assert len(run(day1, out)) == 4


def test_shards_join_only_with_shards_of_the_same_settings(days):
    day1, _, out = days
    for shard in ("1/2", "2/2"):
        run(day1, out, "dress", shard=shard)
    assert len(records(out)) == 4
    with pytest.warns(UserWarning, match="not joined; run --shard 2/2 again"):
        run(day1, out, "hair", shard="1/2")
    assert not (out / "results.jsonl").exists()
    run(day1, out, "hair", shard="2/2")
    assert len(records(out)) == 4
    assert found(out) == {f"{kind}/IMG_{i}.png" for kind in ("masks/hair", "labels") for i in range(4)}


def test_shards_of_two_folders_do_not_join(days):
    day1, day2, out = days
    run(day1, out, shard="1/2")
    with pytest.warns(UserWarning, match="not joined; run --shard 1/2 again"):
        run(day2, out, shard="2/2")
    assert not (out / "results.jsonl").exists()


def test_shards_go_on_from_a_whole_run_and_a_whole_run_from_shards(days):
    day1, _, out = days
    run(day1, out)
    for shard in ("1/3", "3/3", "2/3"):
        assert run(day1, out, resume=True, shard=shard) == []
    assert len(records(out)) == 4 and not (out / ".shotseg/journal.jsonl").exists()
    assert run(day1, out, resume=True) == []
    assert not list(out.glob("*shard*")) and len(records(out)) == 4


def test_results_may_lie_in_the_folder_of_the_photos_every_time(tmp_path):
    photo(tmp_path / "q/images/a.jpg")
    photo(tmp_path / "q/b.jpg")
    for resume in (False, False, True):
        run(tmp_path / "q", tmp_path / "q", annotations="voc", resume=resume)
        assert set(records(tmp_path / "q")) == {"images/a.jpg", "b.jpg"}
    run(tmp_path / "q/images", tmp_path / "q")
    assert set(records(tmp_path / "q")) == {"a.jpg"}


def test_photos_that_annotations_link_to_are_no_results(tmp_path):
    photo(tmp_path / "q/a.jpg")
    for _ in range(2):
        run(tmp_path / "q", tmp_path / "q", annotations="yolo", export={"photos": "link"})
        assert set(records(tmp_path / "q")) == {"a.jpg"} and len(list((tmp_path / "q/yolo").rglob("a.jpg"))) == 1


def test_masks_that_no_run_wrote_are_never_written_over(tmp_path, capsys):
    root = tmp_path / "mine"
    shutil.copytree(DATA, root)
    drawn = {path: path.read_bytes() for path in root.rglob("*.png")}
    for query in (root, root / "images"):
        assert main(["segment", "--support", str(DATA), "--query", str(query), "--out", str(root)]) == 2
        assert "masks/ in it is your own" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == drawn


def test_two_spellings_of_one_class_name_are_refused():
    for names in (("Käse", "Ka\u0308se"), ("Dog", "cat", "dog")):
        with pytest.raises(UsageError, match="are one folder on Windows and macOS"):
            check_classes(names, "add")
    check_classes(("dog", "dogs"), "add")


@pytest.mark.parametrize("names", [("Dog", "dog"), ("dog", "dog."), ("STRASSE", "straße")])
def test_class_folders_that_are_one_elsewhere_would_hold_are_refused(names, tmp_path, capsys):
    for name in names:
        for kind, end in (("images", "jpg"), ("masks", "png")):
            source = DATA / kind / "hair" / f"example.{end}"
            (tmp_path / "s" / kind / name).mkdir(parents=True)
            shutil.copy(source, tmp_path / "s" / kind / name / f"a.{end}")
    photo(tmp_path / "q/a.jpg")
    flags = ["segment", "--support", str(tmp_path / "s"), "--query", str(tmp_path / "q"), "--out", str(tmp_path / "o")]
    assert main(flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1


def test_a_batch_that_names_one_photo_twice_predicts_it_twice(tmp_path):
    path = str(photo(tmp_path / "a.jpg"))
    finder = Finder("dress")
    photos = [PhotoFile(path, f"{i}.jpg", str(i)) for i in range(3)]
    segment_folder(finder, photos, tmp_path / "out", batch=3)
    assert finder.asked == ["0.jpg", "1.jpg", "2.jpg"] and len(records(tmp_path / "out")) == 3


def test_photos_of_one_name_are_refused(tmp_path):
    path = str(photo(tmp_path / "a.jpg"))
    with pytest.raises(UsageError, match="2 photos with 1 names"):
        segment_folder(
            Finder("dress"), [PhotoFile(path, "a.jpg", "a"), PhotoFile(path, "A.jpg", "A")], tmp_path / "out"
        )


def test_where_nothing_is_found_no_class_is_named(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "dark.png")
    run(tmp_path / "dark.png", tmp_path / "out", "dress", "hair")
    (line,) = records(tmp_path / "out").values()
    assert line["class"] is None and line["area"] == 0 and line["classes"] == {} and line["error"] is None
    photo(tmp_path / "bright.png")
    run(tmp_path / "bright.png", tmp_path / "out", "dress", "hair")
    (line,) = records(tmp_path / "out").values()
    assert line["class"] == "dress" and set(line["classes"]) == {"dress"}


def test_254_classes_and_many_photos_of_one_stem_take_no_more_than_their_share(tmp_path):
    for i in range(6):
        for end in ("jpg", "png", "bmp"):
            photo(tmp_path / f"in/{i % 5}/s{i}.{end}", i)
    classes = [f"class {i}" for i in range(254)]
    start = time.perf_counter()
    asked = run(tmp_path / "in", tmp_path / "out", *classes)
    assert len(asked) == 18 and len(found(tmp_path / "out")) == 18 * 255
    assert time.perf_counter() - start < 60
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<li") == 18


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_file_name_that_is_no_text_is_segmented_too(tmp_path):
    good = photo(tmp_path / "in/a.jpg")
    strange = os.fsencode(tmp_path / "in") + b"/\xe9.jpg"
    shutil.copy(os.fsencode(good), strange)
    (tmp_path / "in/broken \n.jpg").write_text("no photo")
    assert len(run(tmp_path / "in", tmp_path / "out")) == 2
    assert set(records(tmp_path / "out")) == {"a.jpg", "broken \n.jpg", "\udce9.jpg"}
    assert run(tmp_path / "in", tmp_path / "out", resume=True) == []


def test_the_page_links_to_every_mask_and_fills_its_width(days):
    from urllib.parse import unquote

    day1, _, out = days
    shutil.copy(day1 / "IMG_0.jpg", day1 / "50% #1? 'ä'.jpg")
    run(day1, out)
    page = (out / "report.html").read_text(encoding="utf-8")
    links = {unquote(part.split('"')[0]) for part in page.split('href="')[1:]}
    assert links == found(out)
    assert "max-width: 1500px" not in page and "grid-template-columns" in page
