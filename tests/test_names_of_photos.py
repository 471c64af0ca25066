"""Names that systems and people give to photos, through every format."""

import io
import json
import os
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from annotated import TARGETS, photos, two
from shotseg.cli import main
from shotseg.data.annotations import Labelled, coco, read, write
from shotseg.data.image_labels import check_name
from shotseg.errors import InputError, UsageError

NAMES = [
    "Screenshot 2026-01-02 at 3.45.10\u202fPM.png",  # as macOS writes it
    "a\u00a0b\u3000c.png",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "\u05e9\u05dc\u05d5\u05dd\u200f.png",
    '#1 100% [new]; it\'s "q" & <b>, $HOME.png',
    " -dash .png",
]


@pytest.mark.parametrize("target", TARGETS)
def test_photos_of_any_readable_name_come_through_every_format(tmp_path, target):
    photos(tmp_path / "p", *NAMES)
    found = [Labelled(name, two(), photo=tmp_path / "p" / name) for name in NAMES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(target, tmp_path / "out", found, ["cat", "dog"], photos="copy")
        again = list(read(target, tmp_path / "out")[1])
    assert sorted(result.stem for result in again) == sorted(name.removesuffix(".png") for name in NAMES)


def test_classes_may_have_blanks_of_any_width(tmp_path):
    write("coco", tmp_path, [Labelled("a.jpg", two())], ["red\u00a0fox", "dog"])
    assert read("coco", tmp_path)[0] == ["red\u00a0fox", "dog"]
    check_name("red\u202ffox", "here")
    for name in ("red\nfox", "red\tfox", "red\u2028fox", "red\udce4fox"):
        with pytest.raises(UsageError, match="characters that cannot be written"):
            write("coco", tmp_path, [Labelled("a.jpg", two())], [name, "dog"])


def odd_photos(tmp_path):
    """One that can be named, one with a line break, one whose name is bytes that are no text."""
    folder = photos(tmp_path, "images/a.png", "images/b\nc.png", "images/d.png")
    latin = os.fsdecode(b"H\xe4user.png")
    (folder / "images/d.png").rename(folder / "images" / latin)
    for name in ("a.png", "b\nc.png", latin):
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.uint8(two() == 1)).save(folder / "masks" / name)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "imagej"])  # it does not know a photo's size
def test_a_photo_that_no_file_can_name_is_left_out_and_said_and_the_others_are_written(tmp_path, target, capsys):
    root = odd_photos(tmp_path / "in")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="its name holds control characters or is no text; rename it") as caught:
        assert main(["convert", str(root), "--to", target, "--out", str(out)]) == 1
    assert len(caught) == 2 and "1 of 3 photos converted" in capsys.readouterr().out
    assert [result.stem for result in read(target, out)[1]] == ["in/a"]
    with pytest.raises(InputError, match="its name holds control characters"):
        write(target, tmp_path / "none", [Labelled("b\nc.png", two())], ["cat", "dog"])


def test_a_name_with_a_line_break_in_a_file_is_refused_alone(tmp_path):
    write("coco", tmp_path, [Labelled("a.jpg", two()), Labelled("bXc.jpg", two())], ["cat", "dog"])
    path = tmp_path / coco.FILE
    path.write_text(path.read_text().replace("bXc", "b\\nc"))
    with pytest.warns(UserWarning, match="its name holds control characters"):
        assert [result.file for result in read("coco", tmp_path)[1]] == ["a.jpg"]


def test_the_page_exports_what_it_can_name_and_lists_the_other_photo(tmp_path):
    pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    from page_client import API, client_of, ok, photos, put
    from page_project import photos_folder, square
    from shotseg import Segmenter
    from shotseg.web.project import Project

    folder = photos_folder(tmp_path / "photos", 2)
    (folder / "photo1.png").rename(folder / "b\nc.png")
    with client_of(Project(tmp_path / "project", folder), Segmenter(size=64, device="cpu")) as page:
        ok(page.post(f"{API}/classes", json={"name": "red"}))
        for item in photos(page):
            ok(put(page, item, square(5, 6)))
        counts = ok(page.get(f"{API}/export", params={"format": "coco", "reviewed_only": True}))
        assert counts["photos"] == 1 and "control characters" in counts["left_out"][0]["reason"]
        answer = ok(page.post(f"{API}/export", json={"format": "coco", "reviewed_only": True}))
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert [i["file_name"] for i in json.loads(archive.read(coco.FILE))["images"]] == ["photo0.png"]
        assert "control characters" in archive.read("left_out.csv").decode()
        assert ok(page.get(f"{API}/areas.csv")).text.count("red") == 2
