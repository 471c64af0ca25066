"""--from, --bands and --page: photos of five bands and pages, masks that two formats fit, in every verb."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from annotated import photos as flat_photos
from shotseg.cli import _parsed, main
from shotseg.data.annotations import read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import read_image, upright_size
from shotseg.errors import UsageError
from shotseg.training.data import views
from test_pseudo_label import bright, label  # noqa: F401 (a fixture)
from test_training import SMALL
from training_miniature import squares


def as_bands(plain: Path, page: bool = False) -> None:
    """Every photo below ``plain`` as a TIFF of five bands: 5, 3 and 1 are red, green and blue; or as the second page of one."""
    for path in (plain / "images").rglob("*.png"):
        colours = np.array(Image.open(path))
        if page:
            with tifffile.TiffWriter(path.with_suffix(".tif")) as pages:
                pages.write(np.zeros((9, 9, 3), np.uint8), photometric="rgb")
                pages.write(colours, photometric="rgb")
        else:
            five = np.zeros((*colours.shape[:2], 5), np.uint8)
            five[..., [4, 2, 0]] = colours
            tifffile.imwrite(path.with_suffix(".tif"), five, photometric="minisblack", planarconfig="contig")
        path.unlink()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("plain"), 6)


def stored(root: Path, format: str, page: bool) -> Path:
    """The photos of ``plain`` in bands or pages: the folder, or its masks in a file beside the photos."""
    squares(root, 6)
    as_bands(root, page)
    if format == "mask":
        return root
    assert (
        main(["convert", str(root), "--to", format, "--out", str(root / "file"), "--copy-images", *CHOSEN[page]]) == 0
    )
    return root / "file"


CHOSEN = {False: ["--bands", "5,3,1"], True: ["--page", "2"]}


EVALUATE = ["evaluate", "folder", "--size", "64", "--episodes", "12", "--seeds", "0", "--workers", "1"]
EVALUATE += ["--encoder", "efficientnet-lite0"]


@pytest.fixture(scope="module")
def result_of_plain(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain result") / "x.json"
    assert main([*EVALUATE, "--out", str(out), "--root", str(plain)]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("format", ["mask", "coco"])
def test_evaluate_gives_the_counts_of_the_plain_photos(format, page, result_of_plain, tmp_path, capsys):
    root = stored(tmp_path / "root", format, page)
    command = [*EVALUATE, "--out", str(tmp_path / "x.json"), "--root"]
    assert main([*command, str(root), *CHOSEN[page]]) == 0
    result = json.loads((tmp_path / "x.json").read_text())
    ours, plains = (content["counts"]["per_episode"] for content in (result, result_of_plain))
    assert all(ours[name] == plains[name] for name in ("class", "intersection", "union", "target", "ignored"))
    assert result["miou"] == result_of_plain["miou"]
    assert result["data"].get("bands" if not page else "page") in ("5,3,1", 2)
    assert main([*command, str(root), "--page", "7"]) != 0 and "--page" in capsys.readouterr().err
    assert main(["evaluate", "isic", "--root", str(root), "--out", str(tmp_path / "x.json"), *CHOSEN[page]]) == 2
    assert "changes nothing with a prepared data set" in capsys.readouterr().err


def flags(*more: str):
    return _parsed(["train", "guided/tiny", "--root", ".", "--out", ".", *SMALL, *more])


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("supervision", ["mask", "pseudo"])
def test_train_reads_the_bands_and_the_format_that_are_named(supervision, page, tmp_path, plain):
    root = stored(tmp_path / "root", "coco", page)
    own = ("--data.fold", "", "--data.supervision", supervision)
    choice = flags("--from", "coco", *CHOSEN[page], *own).settings.data
    found = views(choice, root, pseudo=tmp_path / "pseudo").train
    known = {Path(item.id).as_posix(): item.image_path for item in open_folder(plain).items}
    if supervision == "pseudo":
        found.make = lambda image, name: (image[..., 0] > 127).astype(np.uint8)
    for index, item in enumerate(found.items):
        (path,) = (path for id, path in known.items() if item.id.endswith(id))
        np.testing.assert_array_equal(found.sample(index).image, read_image(path))
    with pytest.raises(UsageError, match="--bands 1,2: give one or three"):
        flags("--bands", "1,2")


def test_a_recipe_file_may_name_them_and_an_old_one_reads_as_it_did(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: guided/tiny\ndata: {reading: {bands: '4,3,2', source: coco}}\n")
    reading = _parsed(["train", str(tmp_path / "own.yaml"), "--root", ".", "--out", "."]).settings.data.reading
    assert reading.which == {"bands": (4, 3, 2), "page": 1} and reading.view["format"] == "coco"
    assert flags().settings.data.reading.said == {}


@pytest.mark.parametrize("page", [False, True])
def test_pseudo_label_reads_them_and_the_truth_that_lies_beside_them(page, tmp_path, capsys):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :20, 0], picture[:, 40:, 1] = 255, 255
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images/a.png")
    as_bands(tmp_path, page)
    box = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 40, 0, 40]]}
    image = {"id": 1, "file_name": "a.tif", "height": 40, "width": 60}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/instances.json").write_text(json.dumps(content))
    (tmp_path / "truth/data.yaml").write_text("names: [red]\n")
    (tmp_path / "labels.csv").write_text("image,class\na.tif,red\n")
    given = ("--truth", tmp_path / "truth", "--from", "coco")
    assert label(tmp_path / "images", tmp_path / "labels.csv", tmp_path / "out", *given, *CHOSEN[page]) == 0
    quality = json.loads((tmp_path / "out/quality.json").read_text())
    assert quality["masks"] == 1 and "IoU" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out/masks/red/a.png"))[:, :20].all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [3, 5])
def test_the_size_of_a_turned_tiff_is_that_of_its_upright_pixels(orientation, bands, tmp_path):
    flat_photos(tmp_path, "a.png")
    tag = [(274, "H", 1, orientation, True)]
    kind = {"photometric": "rgb" if bands == 3 else "minisblack", "planarconfig": "contig", "extratags": tag}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30, bands), np.uint8), **kind)
    shown = read_image(tmp_path / "a.tif", None if bands == 3 else (1, 2, 3))
    assert upright_size(tmp_path / "a.tif") == shown.shape[:2]


def test_convert_needs_no_bands_to_know_the_size_of_a_photo(tmp_path):
    results = list(read("coco", stored(tmp_path / "root", "coco", page=False))[1])
    assert len(results) == 18 and all(result.labels.shape == (64, 64) and result.labels.any() for result in results)
