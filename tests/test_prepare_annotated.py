"""``prepare folder`` takes what ``evaluate folder`` takes."""

import numpy as np
import pytest

from annotated import CLASSES, CLOSE, FORMATS, SQUARE, instances, photos, two, written
from shotseg.cli import main
from shotseg.data import load
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import write_png


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_each_format_is_prepared_with_the_masks_that_evaluate_reads(format, tmp_path):
    root = written(tmp_path, format)
    known = open_folder(root)
    before = {item.id: known.sample(index).mask == 1 for index, item in enumerate(known.items)}
    assert main(["prepare", "folder", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    dataset = load("folder", root, format="auto")
    assert dataset.classes == known.classes == CLASSES and len(before) == 4
    from shotseg.data.manifest import Manifest, ManifestDataset

    prepared = ManifestDataset(Manifest.read(tmp_path / "out"), split="test")
    assert len(prepared.items) == 4 and prepared.classes == CLASSES
    for index, item in enumerate(prepared.items):
        drawn = prepared.sample(index).mask == 1
        (same,) = [mask for id, mask in before.items() if id.startswith(item.class_name) and id[-1] == item.id[-1]]
        assert (drawn == same).all() or format in CLOSE


def test_two_formats_ask_which_and_from_says_it(tmp_path, capsys):
    root = written(tmp_path, "coco")
    write_png(root / "masks/a.png", np.uint8(two()))
    photos(root / "images", "a.jpg")
    command = ["prepare", "folder", "--root", str(root)]
    assert main(command) == 2 and "say which with --from" in capsys.readouterr().err
    assert main([*command, "--from", "coco"]) == 0
    assert main(["prepare", "isic", "--root", str(root), "--from", "coco"]) == 2
    assert "--from changes nothing" in capsys.readouterr().err


def test_a_single_annotation_file_is_prepared_with_photos_outside_its_folder_too(tmp_path, monkeypatch, capsys):
    from shotseg.data.manifest import Manifest, ManifestDataset

    root = instances(tmp_path / "set/annotations", [{"segmentation": SQUARE}])
    photos(tmp_path / "set/images", "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "folder", "--root", "set/annotations/instances.json"]) == 0
    folder = tmp_path / "set/annotations/shotseg/folder"
    prepared = ManifestDataset(Manifest.read(folder), split="test")
    assert prepared.classes == ["cat"] and prepared.items[0].image_path.is_file()
    assert (prepared.sample(0).mask == 1).sum() > 300
    assert main(["prepare", "isic", "--root", str(root / "instances.json")]) == 2
    assert "a file; give the folder" in capsys.readouterr().err


def test_photos_that_a_yolo_file_names_elsewhere_are_prepared(tmp_path, capsys):
    root = written(tmp_path, "yolo")
    (tmp_path / "far").mkdir()
    table = (root / "data.yaml").read_text().splitlines()
    rest = [line for line in table if not line.startswith("path:")]
    (tmp_path / "far/data.yaml").write_text("\n".join([f"path: {root}", *rest]))
    assert main(["prepare", "folder", "--root", str(tmp_path / "far"), "--out", str(tmp_path / "out")]) == 0, (
        capsys.readouterr().err
    )
