"""Results that are written where something else lies already."""

import shutil

import numpy as np
import pytest
from PIL import Image

from annotated import SQUARE, instances, photos, two
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.data.folder import FolderDataset


def examples(folder):
    folder.mkdir()
    shutil.copy(DATA / "images/hair/0202.jpg", folder / "a.jpg")
    shutil.copy(DATA / "masks/hair/0202.png", folder / "a_mask.png")
    return folder


def test_results_are_not_written_into_the_folder_of_the_examples(tmp_path, capsys):
    folder = examples(tmp_path / "hair")
    for out in (folder, tmp_path / "x" / ".." / "hair"):
        assert main(["segment", "--support", str(folder), "--query", str(folder / "a.jpg"), "--out", str(out)]) == 2
        assert "is the folder of the examples" in capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == ["a.jpg", "a_mask.png"]


@pytest.mark.parametrize("of_a_class", [False, True])
def test_masks_beside_photos_stay_theirs_where_results_lie_below(tmp_path, of_a_class):
    root = tmp_path / "hair"
    folder = photos(root / "long" if of_a_class else root, "a.jpg")
    Image.fromarray(np.uint8(two() == 1)).save(folder / "a_mask.png")
    (folder / "masks/hair").mkdir(parents=True)
    Image.fromarray(np.uint8(two() == 2)).save(folder / "masks/hair/a.png")
    (item,) = FolderDataset(root).items
    assert item.mask_path == folder / "a_mask.png"


def test_photos_that_are_not_found_are_said_where_a_format_wants_them(tmp_path):
    folder = instances(tmp_path / "in", [{"segmentation": SQUARE}])
    command = ["convert", str(folder), "--out", str(tmp_path / "out"), "--to"]
    with pytest.warns(
        UserWarning, match=r"1 photos not found \(a\.jpg\), so not put beside their annotations; give --images"
    ):
        assert main([*command, "yolo"]) == 0
    with pytest.warns(UserWarning, match="1 photos not found"):
        assert main([*command, "coco", "--copy-images"]) == 0
