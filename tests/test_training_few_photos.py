"""A training on a folder of few photos: what is missing is said before any work, with the flag that mends it."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from shotseg.errors import InputWarning, UsageError
from shotseg.training import recipe, run
from shotseg.training.data import views
from shotseg.training.few_shot import check_enough


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("few"), np.random.default_rng(1)
    for name in ("cat", "dog"):
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(root / f"images/{name}/{number}.png")
            Image.fromarray(np.eye(8, dtype=bool)).save(root / f"masks/{name}/{number}.png")
    return root


def refused(call, *given) -> str:
    with pytest.raises(UsageError) as raised:
        call(*given)
    return str(raised.value)


@pytest.mark.parametrize("shots", [1, 2])
def test_the_share_that_is_proposed_is_enough(folder, shots):
    few = {"data": {"fold": "", "held_out": 0.01}, "shots": shots}
    chosen = recipe.load("guided/tiny", **few)
    line = refused(check_enough, chosen, views(chosen.data, folder))
    share = re.search(r"--data\.held-out (0\.\d\d)", line)
    assert share, line
    assert "no class has the" in line
    few["data"]["held_out"] = float(share[1])
    chosen = recipe.load("guided/tiny", **few)
    check_enough(chosen, views(chosen.data, folder))


def test_a_class_that_is_never_asked_for_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for kind in ("images", "masks"):
        (tmp_path / kind / "lone").mkdir()
        (tmp_path / kind / "dog/0.png").rename(tmp_path / kind / "lone/0.png")
    chosen = recipe.load("guided/tiny", data={"held_out": 0.5})
    with pytest.warns(InputWarning, match="never asked for, fewer than 2 photos: lone"):
        check_enough(chosen, views(chosen.data, tmp_path))


def test_too_few_photos_are_said_before_a_base_learner_is_trained(folder, tmp_path):
    for change in ({"shots": 9}, {"data": {"held_out": 0.01}}):
        line = refused(run.train, recipe.load("bam/tiny", **change), folder, tmp_path / "out")
        assert "no class has the" in line
    assert not (tmp_path / "out/base").exists()
