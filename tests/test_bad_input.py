"""Broken and odd files through ``segment``: one line each, the rest done, never a traceback."""

import csv
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.data import images as files

PHOTO = DATA / "images/dress/0102.jpg"
EXAMPLE = DATA / "images/dress/example.jpg"
EXAMPLE_MASK = DATA / "masks/dress/example.png"


def small(mode="RGB", size=(96, 144)):
    with Image.open(PHOTO) as picture:
        return picture.resize(size).convert(mode)


def truncated(path):
    small().save(path)
    path.write_bytes(path.read_bytes()[:900])


def sixteen_bit(path):
    Image.fromarray(np.asarray(small("L")).astype(np.uint16) * 257).save(path)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    small().save(path, exif=exif)


BROKEN = {
    "text.jpg": lambda path: path.write_text("this is no photo"),
    "truncated.jpg": truncated,
    "empty.png": lambda path: path.write_bytes(b""),
}
ODD = {  # name -> (how it is made, its upright size)
    "cmyk.jpg": (lambda path: small("CMYK").save(path), (96, 144)),
    "16 bit.png": (sixteen_bit, (96, 144)),
    "palette.png": (lambda path: small("P").save(path), (96, 144)),
    "alpha.png": (lambda path: small("RGBA").save(path), (96, 144)),
    "grey.tif": (lambda path: small("L").save(path), (96, 144)),
    "photo.webp": (lambda path: small().save(path), (96, 144)),
    "turned.jpg": (turned, (144, 96)),
    "one pixel.png": (lambda path: small(size=(1, 1)).save(path), (1, 1)),
    "wide.png": (lambda path: small(size=(20_000, 30)).save(path), (20_000, 30)),
    "tall.png": (lambda path: small(size=(3, 900)).save(path), (3, 900)),
    "Grüße 写真 😀.jpg": (lambda path: small().save(path), (96, 144)),
    " spaces  and 'quotes' & % #.jpg": (lambda path: small().save(path), (96, 144)),
}


def make_support(root, image=EXAMPLE, mask=EXAMPLE_MASK, name="dress"):
    for kind, source in (("images", image), ("masks", mask)):
        (root / kind / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / kind / name / f"one{Path(source).suffix}")
    return root


@pytest.fixture(scope="module")
def support(tmp_path_factory):
    return make_support(tmp_path_factory.mktemp("support"))


@pytest.fixture
def query(tmp_path):
    (tmp_path / "query").mkdir()
    small().save(tmp_path / "query/good.jpg")
    return tmp_path / "query"


def segment(support, query, out, *options):
    return main(["segment", *map(str, ("--support", support, "--query", query, "--out", out, "--size", 96, *options))])


def results(out):
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["file"]: record for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def mixed(support, tmp_path_factory):
    """All broken and odd photos in one run: exit code, output folder, what was said."""
    query, out = tmp_path_factory.mktemp("query"), tmp_path_factory.mktemp("out")
    for name, make in BROKEN.items():
        make(query / name)
    for name, (make, _) in ODD.items():
        make(query / name)
    capture = pytest.MonkeyPatch()
    said: list[str] = []
    capture.setattr("shotseg.cli.segment.say", said.append)
    code = segment(support, query, out)
    capture.undo()
    return code, out, said


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photo_is_one_line_and_a_row_of_errors_csv(mixed, name):
    code, out, said = mixed
    assert code == 1
    with (out / "errors.csv").open(encoding="utf-8", newline="") as table:
        reasons = {row["file"]: row["error"] for row in csv.DictReader(table)}
    assert set(reasons) == set(BROKEN)
    assert name in reasons[name] and "\n" not in reasons[name] and ";" in reasons[name], "the file, and the mend"
    assert [line for line in said if name in line] == [reasons[name]]
    assert results(out)[name]["error"] == reasons[name]
    assert not (out / "labels" / name).with_suffix(".png").exists()


@pytest.mark.parametrize("name", ODD)
def test_an_odd_photo_gets_a_mask_of_its_own_upright_size(mixed, name):
    _, out, _ = mixed
    record = results(out)[name]
    assert record["error"] is None
    with Image.open(out / "masks/dress" / f"{record['name']}.png") as mask:
        assert mask.size == ODD[name][1] and set(np.unique(np.asarray(mask))) <= {0, 255}


def test_an_empty_query_folder_is_wrong_usage(support, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert segment(support, tmp_path / "empty", tmp_path / "out") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["", "images", "images/dress"])
def test_an_empty_support_folder_is_wrong_usage(layout, query, tmp_path, capsys):
    (tmp_path / "support" / layout).mkdir(parents=True)
    assert segment(tmp_path / "support", query, tmp_path / "out") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "images" in said[0]


def masks(tmp_path):
    with Image.open(EXAMPLE_MASK) as mask:
        mask.resize((50, 60)).save(tmp_path / "of another size.png")
        Image.new("L", mask.size).save(tmp_path / "all zero.png")
        Image.new("RGB", mask.size, (200, 10, 90)).save(tmp_path / "colours.png")
    (tmp_path / "text.png").write_text("no mask")


@pytest.mark.parametrize("bad", ["of another size", "all zero", "colours", "text"])
def test_a_bad_example_is_left_out_and_the_others_are_used(bad, query, tmp_path, capsys):
    masks(tmp_path)
    support = make_support(tmp_path / "support")
    shutil.copy(EXAMPLE, support / "images/dress/two.jpg")
    shutil.copy(tmp_path / f"{bad}.png", support / "masks/dress/two.png")
    assert segment(support, query, tmp_path / "out") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "two" in said[0]
    if bad == "of another size":
        assert "masks/dress/two.png" in said[0] and "images/dress/two.jpg" in said[0]
        assert "50 x 60" in said[0] and "550 x" in said[0], "both files and both sizes"
    assert results(tmp_path / "out")["good.jpg"]["error"] is None
    assert "two" in (tmp_path / "out/errors.csv").read_text(encoding="utf-8")


def test_without_a_usable_example_nothing_is_segmented(query, tmp_path, capsys):
    masks(tmp_path)
    support = make_support(tmp_path / "support", mask=tmp_path / "all zero.png")
    assert segment(support, query, tmp_path / "out") == 1
    assert "one.png" in (tmp_path / "out/errors.csv").read_text(encoding="utf-8")
    assert "no example" in capsys.readouterr().err


def test_unicode_and_spaces_in_a_class_name(query, tmp_path):
    support = make_support(tmp_path / "support", name="Kleid & 服 x")
    assert segment(support, query, tmp_path / "out") == 0
    assert (tmp_path / "out/masks/Kleid & 服 x/good.png").is_file()


def test_an_output_that_cannot_be_written_is_wrong_usage(support, query, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert segment(support, query, tmp_path / "file/out") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "choose another folder" in said[0]


def test_a_full_disk_stops_the_run_and_resume_ends_it(support, query, tmp_path, monkeypatch, capsys):
    for i in range(12):
        shutil.copy(query / "good.jpg", query / f"{i:02d}.jpg")
    out, whole = tmp_path / "out", tmp_path / "whole"
    replace, room = Path.replace, iter(range(20))

    def full(self, target):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert segment(support, query, out) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "No space left" in said[0] and "--resume" in said[0]
    assert not list(out.rglob("*.tmp"))
    assert segment(support, query, out, "--resume") == 0
    assert segment(support, query, whole) == 0
    ours, theirs = ({p.relative_to(o): p.read_bytes() for p in o.rglob("*.png")} for o in (out, whole))
    assert ours == theirs and len(ours) == 26


def test_a_photo_that_the_model_cannot_take_does_not_stop_the_others(support, query, tmp_path, monkeypatch):
    from shotseg.segmenter import Segmenter

    shutil.copy(query / "good.jpg", query / "bad.jpg")
    predict_batch, calls = Segmenter.predict_batch, iter(range(100))

    def out_of_memory(self, photos):
        if next(calls) in (0, 1):  # the batch, and then its first photo alone
            raise RuntimeError("out of memory")
        return predict_batch(self, photos)

    monkeypatch.setattr(Segmenter, "predict_batch", out_of_memory)
    assert segment(support, query, tmp_path / "out", "--batch", 2) == 1
    found = results(tmp_path / "out")
    assert found["bad.jpg"]["error"] == "bad.jpg: no memory is left for this; take a smaller --size"
    assert found["good.jpg"]["error"] is None


def test_a_half_written_file_never_has_a_real_name(tmp_path, monkeypatch):
    def killed(self, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "x.png", b"data")
    assert not list(tmp_path.iterdir())
