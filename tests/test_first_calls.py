"""The first calls in Python: what is made up is said, several photos find their call, names fit every system's folders."""

import importlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import shotseg
from shotseg import segmenter as module
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.data.images import read_image, read_mask
from shotseg.errors import InputError, InputWarning, NoMaskWarning, UsageError
from shotseg.photo import check_classes, read_photo

PHOTO, MASK = DATA / "images/hair/example.jpg", DATA / "masks/hair/example.png"


def test_a_module_of_the_package_is_there_whatever_was_used_before(monkeypatch):
    for name in ("errors", "models", "encoders", "data", "runs", "reference"):
        found = importlib.import_module(f"shotseg.{name}")
        monkeypatch.delattr(shotseg, name)  # as after `import shotseg` alone
        assert getattr(shotseg, name) is found
    for name in ("nosuch", "_private", "__path", "evaluation.door"):
        with pytest.raises(AttributeError, match="module 'shotseg' has no attribute"):
            getattr(shotseg, name)


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(module.pseudo_masks, "from_name", lambda image, *_: read_mask(MASK))
    return shotseg.Segmenter(size=96, device="cpu")


def test_a_mask_that_is_made_from_the_class_name_is_said_in_python(made):
    with pytest.warns(
        NoMaskWarning, match=r"hair: .*example\.jpg has no mask, it is made from the class name; give masks"
    ):
        made.add("hair", PHOTO)
    with pytest.warns(NoMaskWarning):
        made.add("fringe", [PHOTO, PHOTO], [MASK, None])
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        made.add("beard", PHOTO, MASK)


def test_the_command_line_says_it_once_for_all(made, tmp_path, capsys, recwarn):
    (tmp_path / "images/hair").mkdir(parents=True)
    (tmp_path / "query").mkdir()
    for name in ("a", "b"):
        Image.open(PHOTO).save(tmp_path / f"images/hair/{name}.png")
    Image.open(PHOTO).save(tmp_path / "query/q.png")
    command = ("--support", tmp_path, "--query", tmp_path / "query", "--out", tmp_path / "out", "--size", "96")
    assert main(["segment", *map(str, command)]) == 0
    assert capsys.readouterr().err.count("made from the class name") == 1
    assert not [warning for warning in recwarn if issubclass(warning.category, NoMaskWarning)]


def test_several_photos_find_predict_batch_and_one_finds_predict(made):
    made.add("beard", PHOTO, MASK)
    image = read_image(PHOTO)
    several = ([PHOTO, PHOTO], (str(PHOTO),), [image, image], [Image.open(PHOTO)], np.stack([image, image]), [b"x"])
    for photos in several:
        with pytest.raises(UsageError, match="give them to predict_batch"):
            made.predict(photos)
    for photo in (str(PHOTO), PHOTO, PHOTO.read_bytes(), Image.open(PHOTO)):
        with pytest.raises(UsageError, match="one photo: give it to predict"):
            made.predict_batch(photo)
    assert len(made.predict_batch(np.stack([image, image]))) == 2
    assert made.predict(image.tolist()).masks["beard"].shape == image.shape[:2]


@pytest.mark.parametrize(
    "name", ["con", "NUL", "aux.", "Com1", "lpt9.txt", "prn ", "dog.", "dog ", " dog", "a|b", "a\tb"]
)
def test_a_class_name_that_windows_cannot_hold_is_refused_before_the_run(name, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"cannot be a folder's name"):
        check_classes([name], "add")
    if "|" in name or "\t" in name:
        return
    for kind, file in (("images", PHOTO), ("masks", MASK)):
        (tmp_path / kind / name).mkdir(parents=True)
        Image.open(file).save(tmp_path / kind / name / "a.png")
    command = ("--support", tmp_path, "--query", PHOTO, "--out", tmp_path / "out", "--size", "96")
    assert main(["segment", *map(str, command)]) == 2
    assert "rename the class" in capsys.readouterr().err and not list((tmp_path / "out").glob("masks/*"))


@pytest.mark.parametrize("name", ["console", "con man", "comb", "com10", "null", "auxiliary", "dog.v2", "ä ö", "it's"])
def test_names_that_only_look_like_those_stay(name):
    check_classes([name], "add")


STREAM = np.random.default_rng(0)
KINDS = {
    "grey": (STREAM.integers(0, 255, (20, 30)).astype("u1"), "minisblack", None),
    "colour": (STREAM.integers(0, 255, (20, 30, 3)).astype("u1"), "rgb", None),
    "12 bits": (STREAM.integers(0, 4095, (20, 30)).astype("u2"), "minisblack", None),
    "16 bits": (STREAM.integers(0, 65535, (20, 30, 3)).astype("u2"), "rgb", None),
    "infrared": (STREAM.integers(1, 255, (20, 30, 4)).astype("u1"), "rgb", ["unassalpha"]),
    "fractions": (STREAM.random((20, 30)).astype("f4"), "minisblack", None),
    "white is 0": (STREAM.integers(0, 255, (20, 30)).astype("u1"), "miniswhite", None),
}


@pytest.mark.filterwarnings("ignore:photos of 4 bands")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_an_opened_tiff_is_read_as_its_file_in_each_orientation(kind, orientation, tmp_path):
    values, photometric, extra = KINDS[kind]
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, extratags=tag, extrasamples=extra)
    known = read_image(tmp_path / "a.tif")
    image = Image.open(tmp_path / "a.tif")
    for _ in range(2):  # reading leaves it as it was
        np.testing.assert_array_equal(read_photo(image), known)
    assert known.shape[:2] == ((30, 20) if orientation > 4 else (20, 30))


@pytest.mark.parametrize("path", ["a\0b.jpg", "a" * 5000, Path("b" * 300 + ".jpg")])
def test_a_path_that_no_system_takes_is_one_line(path):
    with pytest.raises(InputError, match=r"cannot be read \(.+\); give a file that can be read$") as said:
        read_photo(path)
    assert len(str(said.value)) < 400


def test_a_closed_file_is_one_line(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert read_photo(file).shape == (6, 8, 3)
    for closed in (file, io.BytesIO()):
        closed.close()
        with pytest.raises(InputError, match=r"closed file.*; open it again"):
            read_photo(closed)


@pytest.mark.parametrize("size", [0, -3, "big", 2.5])
def test_a_size_that_is_none_is_refused_before_anything_is_loaded(size):
    with pytest.raises(UsageError, match=r"size .+: give the longer side in pixels, 1 or more"):
        shotseg.Segmenter(size=size)
