"""A folder in, masks out: what is written, resuming, shards, engines and bounded queues."""

import json
import os
import runpy
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotseg import runs
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.data.annotations import read
from shotseg.data.images import read_mask
from shotseg.errors import UsageError
from shotseg.runs import engines

NAMES = ["a.jpg", "sub/a.jpg", "sub/deep er/ä ö.jpg", "same.jpg", "same.png", "SAME.webp"]


@pytest.fixture(scope="module")
def support(tmp_path_factory):
    """One small example of each class."""
    root = tmp_path_factory.mktemp("support")
    for name in ("dress", "hair"):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            target = root / kind / name / f"example.{suffix}"
            target.parent.mkdir(parents=True)
            with Image.open(DATA / kind / name / f"example.{suffix}") as picture:
                picture.convert("RGB" if suffix == "jpg" else "L").resize((138, 206), Image.Resampling.NEAREST).save(
                    target
                )
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    sources = sorted(path for path in (DATA / "images").rglob("*.jpg") if path.stem != "example")
    for name, source in zip(NAMES, sources, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as picture:
            picture.resize((110, 165)).save(root / name)
    return root


def segment(support, query, out, *options):
    return main(["segment", *map(str, ("--support", support, "--query", query, "--out", out, "--size", 96, *options))])


@pytest.fixture(scope="module")
def done(support, photos, tmp_path_factory):
    """One uninterrupted run."""
    out = tmp_path_factory.mktemp("done")
    assert segment(support, photos, out) == 0
    return out


def records(out, name="results.jsonl"):
    return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]


def content(out):
    """Every file that a user sees, without what is a time."""
    found = {}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.is_file() and path.name == "results.jsonl":
            found[name] = [{key: value for key, value in record.items() if key != "seconds"} for record in records(out)]
        elif path.is_file() and not name.startswith(".shotseg/") and ".shard-" not in name:
            found[name] = path.read_bytes()
    return found


def test_every_photo_gets_its_masks_and_its_line(done, photos):
    lines = records(done)
    assert [line["file"] for line in lines] == sorted(NAMES)
    assert {"file", "class", "area", "confidence", "seconds", "error"} <= set(lines[0])
    for line in lines:
        labels = Image.open(done / "labels" / f"{line['name']}.png")
        assert labels.mode == "P" and labels.size == (110, 165)
        values = np.asarray(labels)
        for index, name in enumerate(("dress", "hair"), start=1):
            mask = np.asarray(Image.open(done / "masks" / name / f"{line['name']}.png"))
            assert set(np.unique(mask)) <= {0, 255}
            assert ((mask == 255) == (values == index)).all()
            assert (name in line["classes"]) == (mask == 255).any()
            if name in line["classes"]:
                assert line["classes"][name]["area"] == pytest.approx((mask == 255).mean(), abs=1e-6)
        assert line["error"] is None and 0 <= line["confidence"] <= 1 and line["seconds"] > 0
    assert not (done / "errors.csv").exists()


def test_photos_of_one_name_do_not_overwrite_each_other(done):
    names = [line["name"] for line in records(done)]
    assert len({name.casefold() for name in names}) == len(NAMES)
    assert {"a", "sub/a", "sub/deep er/ä ö", "same_jpg", "same_png", "SAME_webp"} == set(names)


def test_a_name_made_for_one_photo_is_not_taken_from_another(tmp_path):
    for name in ("x.jpg", "x.png", "x_jpg.png"):
        (tmp_path / name).touch()
    names = {photo.file: photo.name for photo in runs.find_photos(tmp_path)}
    assert names == {"x.jpg": "x_jpg_", "x.png": "x_png", "x_jpg.png": "x_jpg"}


def test_results_that_lie_among_the_photos_are_not_segmented(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "p")
    for inside in ("p", "p/out"):
        Path(tmp_path, inside, "masks", "c").mkdir(parents=True)
        shutil.copy(photos / "same.png", Path(tmp_path, inside, "masks", "c", "a.png"))
        assert [photo.file for photo in runs.find_photos(tmp_path / "p", tmp_path / inside)] == sorted(NAMES)
        shutil.rmtree(Path(tmp_path, inside, "masks"))


def test_results_of_other_runs_among_the_photos_are_not_segmented(support, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "p")
    for out in ("p", "p/sub", "p/old/er"):
        assert segment(support, photos / "same.png", tmp_path / out, "--format", "yolo", "--copy-images") == 0
    for query in (tmp_path / "p", f"{tmp_path}/p/**/*.*"):
        assert [photo.file for photo in runs.find_photos(query, tmp_path / "new")] == sorted(NAMES)
    copied = tmp_path / "p/old/er/yolo/images"
    assert [photo.file for photo in runs.find_photos(copied, tmp_path / "new")] == ["same.png"], "asked for outright"


def test_the_tables_of_a_run_among_its_photos_are_not_called_unreadable_photos(support, photos, tmp_path):
    shutil.copytree(photos / "sub", tmp_path / "p")
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert segment(support, tmp_path / "p", tmp_path / "p") == 0


def test_a_query_is_a_file_a_folder_or_a_glob(photos):
    assert [photo.file for photo in runs.find_photos(photos / "sub/a.jpg")] == ["a.jpg"]
    assert [photo.file for photo in runs.find_photos(f"{photos}/**/a.jpg")] == ["a.jpg", "sub/a.jpg"]
    assert len(runs.find_photos(DATA)) == 12, "of a data set, the images and not the masks"


def test_the_report_needs_no_other_file_and_shows_the_doubtful_first(done):
    page = (done / "report.html").read_text(encoding="utf-8")
    sources = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(sources) == 2 + len(NAMES) and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in page and "<!--" not in page
    shown = [float(part.split('"')[0]) for part in page.split('data-confidence="')[1:]]
    assert shown == sorted(shown) and len(shown) == len(NAMES)


def test_the_report_says_how_likely_each_class_is_there_or_that_all_are_known_to_be(support, photos, tmp_path):
    segment(support, photos / "same.png", tmp_path / "out", "--known")
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    (line,) = records(tmp_path / "out")
    assert "every class known to be there" in page and "present None" not in page
    assert line["classes"] and all(f"there: {line['present'][name]:.2f}" in page for name in line["classes"])


def test_a_file_name_cannot_write_into_the_report(support, photos, tmp_path):
    query = tmp_path / "<script>alert(1)<script>.jpg"
    shutil.copy(photos / "a.jpg", query)
    assert segment(support, query, tmp_path / "out") == 0
    assert "<script>alert" not in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_shards_together_are_one_run(support, photos, done, tmp_path):
    for shard in ("2/3", "1/3", "3/3"):
        assert not (tmp_path / "results.jsonl").exists()
        assert segment(support, photos, tmp_path, "--shard", shard) == 0
    ours, whole = content(tmp_path), content(done)
    assert ours == whole


def test_shards_may_be_counted_from_0_or_from_1():
    assert {runs.parse_shard(f"{i}/3") for i in (0, 1, 2)} == {runs.parse_shard(f"{i}/3") for i in (1, 2, 3)}
    for wrong in ("1/99999999999999999999", "4/3", "-1/3", "1", "a/b", "0/0"):
        with pytest.raises(UsageError, match="--shard"):
            runs.parse_shard(wrong)


def test_a_resumed_run_does_only_what_is_missing(support, photos, done, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    journal = out / ".shotseg/journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:4]) + lines[4][:40], encoding="utf-8")  # killed in the middle of a line
    finished = [json.loads(line)["record"]["name"] for line in lines[1:-1]]
    missing = finished[1]
    (out / "masks/hair" / f"{missing}.png").unlink()
    done_again = []
    write = engines.write
    monkeypatch.setattr(engines, "write", lambda out, step: done_again.append(step.photo.name) or write(out, step))
    assert segment(support, photos, out, "--resume") == 0
    assert sorted(done_again) == sorted([missing, *finished[3:]])
    assert content(out) == content(done)


def test_an_interrupted_run_goes_on_to_the_same_files(support, photos, tmp_path, capsys, monkeypatch):
    many, out, whole = tmp_path / "many", tmp_path / "out", tmp_path / "whole"
    many.mkdir()
    for i in range(30):
        os.link(photos / "a.jpg", many / f"{i:03d}.jpg")
    written, write = [], engines.write

    def pressed(out, step):
        record = write(out, step)
        written.append(step.photo.name)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    monkeypatch.setattr(engines, "write", pressed)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        assert segment(support, many, out) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and "--resume" in said and "Traceback" not in said
    assert not list(out.rglob("*.tmp"))
    assert [line["file"] for line in records(out)] == [f"{i:03d}.jpg" for i in range(len(records(out)))]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert " of 30 photos segmented</h1>" in page and "<article" in page
    assert segment(support, many, out, "--resume") == 0
    assert segment(support, many, whole) == 0
    assert content(out) == content(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked, so that each starts at once")
def test_a_run_killed_at_any_moment_goes_on_to_the_files_of_a_whole_one(tmp_path):
    script = Path(__file__).parents[1] / "scripts/kill_runs.py"
    said = runpy.run_path(str(script))["check"](tmp_path, photos=240, kills=8, seed=0)
    killed = int(said.split("killed ")[1].split()[0])
    assert killed >= 2, said  # a quick machine has finished before some


def test_a_run_with_other_settings_is_not_mixed_into_old_results(support, photos, done, tmp_path, capsys):
    shutil.copytree(done, tmp_path / "out")
    assert segment(support, photos, tmp_path / "out", "--resume", "--size", 128) == 2
    assert "size" in capsys.readouterr().err


def test_a_mask_drawn_anew_is_another_setting(support, photos, done, tmp_path, capsys):
    shutil.copytree(done, tmp_path / "out")
    shutil.copytree(support, tmp_path / "support")
    Image.new("L", (138, 206), 255).save(tmp_path / "support/masks/hair/example.png")
    assert segment(tmp_path / "support", photos, tmp_path / "out", "--resume") == 2
    assert "other settings (examples)" in capsys.readouterr().err


def test_a_file_of_classes_made_anew_is_another_setting(support, photos, tmp_path, capsys):
    import shotseg

    file, out = tmp_path / "hair.safetensors", tmp_path / "out"
    flags = ["segment", "--support", str(file), "--query", str(photos / "a.jpg"), "--out", str(out), "--resume"]
    for size, code in ((96, 0), (128, 2)):
        segmenter = shotseg.Segmenter(size=size)
        segmenter.add("hair", [support / "images/hair/example.jpg"], [support / "masks/hair/example.png"])
        segmenter.save(file)
        assert main(flags) == code
    assert "other settings (support)" in capsys.readouterr().err


def test_a_photo_that_was_mended_leaves_the_errors_of_a_sharded_run(support, photos, tmp_path):
    query, out = tmp_path / "query", tmp_path / "out"
    query.mkdir()
    shutil.copy(photos / "a.jpg", query / "a.jpg")
    (query / "b.jpg").write_text("no photo")
    assert [segment(support, query, out, "--shard", shard) for shard in ("1/2", "2/2")] == [0, 1]
    assert "b.jpg" in (out / "errors.csv").read_text()
    shutil.copy(photos / "a.jpg", query / "b.jpg")
    assert segment(support, query, out, "--shard", "2/2", "--resume") == 0
    assert not (out / "errors.csv").exists() and [line["error"] for line in records(out)] == [None, None]


def test_reading_and_writing_stay_close_to_the_model(support, photos, tmp_path, monkeypatch):
    under_way, most = set(), []
    seen, write = engines.seen, engines.write

    def reading(photo):
        under_way.add(photo.path)
        most.append(len(under_way))
        return seen(photo)

    def writing(out, step):
        time.sleep(0.02)
        record = write(out, step)
        under_way.discard(step.photo.path)
        return record

    monkeypatch.setattr(engines, "seen", reading)
    monkeypatch.setattr(engines, "write", writing)
    many = tmp_path / "many"
    many.mkdir()
    for i in range(40):
        os.link(photos / "a.jpg", many / f"{i:03d}.jpg")
    assert segment(support, many, tmp_path / "out") == 0
    cores = len(os.sched_getaffinity(0))
    assert max(most) <= cores * (engines.READ_AHEAD + 1 + engines.WRITE_BEHIND) + 2


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_annotations_say_the_same_as_the_masks(format, support, photos, done, tmp_path):
    assert segment(support, photos, tmp_path, "--format", format) == 0
    classes, results = read(format, tmp_path / format)
    assert [name for name in classes if name != "background"] == ["dress", "hair"]
    truth = {line["name"]: read_mask(done / "labels" / f"{line['name']}.png", labels=True) for line in records(done)}
    found = list(results)
    assert len(found) == len(NAMES)
    areas = sorted((int((r.labels == 1).sum()), int((r.labels == 2).sum())) for r in found)
    assert areas == sorted((int((t == 1).sum()), int((t == 2).sum())) for t in truth.values())


def test_a_saved_support_serves_as_support(support, photos, done, tmp_path):
    import shotseg

    segmenter = shotseg.Segmenter(size=96)
    for name in ("dress", "hair"):
        segmenter.add(name, [support / f"images/{name}/example.jpg"], [support / f"masks/{name}/example.png"])
    segmenter.save(tmp_path / "clothes.safetensors")
    assert (
        main(
            ["segment", "--support", f"{tmp_path}/clothes.safetensors", "--query", str(photos), "--out", str(tmp_path)]
        )
        == 0
    )
    assert {k: v for k, v in content(tmp_path).items() if k[0] in "ml"} == {
        k: v for k, v in content(done).items() if k[0] in "ml"
    }


def test_photos_of_several_sizes_share_a_batch(support, photos, done, tmp_path):
    assert segment(support, photos, tmp_path, "--batch", 4) == 0
    for line in records(done):
        ours, theirs = (np.asarray(Image.open(out / "labels" / f"{line['name']}.png")) for out in (tmp_path, done))
        assert (ours == theirs).mean() > 0.999


def test_ray_is_asked_for_where_it_is_missing(support, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert segment(support, photos, tmp_path, "--engine", "ray") == 2
    assert "pip install 'shotseg[ray]'" in capsys.readouterr().err


def test_ray_gives_the_same_masks(support, photos, done, tmp_path):
    pytest.importorskip("ray", reason="extra ray is not installed")
    assert segment(support, photos, tmp_path, "--engine", "ray") == 0
    assert [line["file"] for line in records(tmp_path)] == sorted(NAMES)
    for line in records(done):  # another number of threads may move a pixel on the edge
        ours, theirs = (np.asarray(Image.open(out / "labels" / f"{line['name']}.png")) for out in (tmp_path, done))
        assert (ours == theirs).mean() > 0.999
