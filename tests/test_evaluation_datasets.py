"""Every data set of the table, from its official archives to a result file, through the command line."""

import json

import pytest

import miniatures
from shotseg.cli import main
from shotseg.data import list_datasets
from shotseg.evaluation.protocols import PRESETS

OPTIONS = dict.fromkeys(("pascal5i", "coco20i", "lvis92i"), ("--fold", "0"))
OPTIONS["ade20k150"] = ("--fold", "s1")


@pytest.mark.parametrize("name", list_datasets())
def test_every_data_set_prepares_and_evaluates(tmp_path, name):
    root = miniatures.BUILD[name](tmp_path / "root")
    if name != "folder":
        assert main(["prepare", name, "--root", str(root)]) == 0
    out = tmp_path / "result.json"
    common = ["evaluate", name, "--root", str(root), *OPTIONS.get(name, ()), "--out", str(out), "--size", "64"]
    assert main([*common, "--episodes", "3", "--seeds", "0"]) == 0
    result = json.loads(out.read_text())
    assert 0 <= result["miou"] <= 100
    assert {"all foreground", "centre"} <= {key.replace("_", " ").replace("-", " ") for key in result["controls"]}


@pytest.fixture(scope="module")
def pascal(tmp_path_factory):
    root = miniatures.pascal(tmp_path_factory.mktemp("pascal"))
    assert main(["prepare", "pascal5i", "--root", str(root)]) == 0
    return root


@pytest.mark.parametrize("protocol", sorted(PRESETS))
def test_every_protocol_evaluates_a_prepared_data_set(pascal, tmp_path, protocol):
    out = tmp_path / "result.json"
    choices = ["--fold", "0", "--protocol", protocol, "--episodes", "3", "--seeds", "0", "--size", "64"]
    assert main(["evaluate", "pascal5i", "--root", str(pascal), *choices, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["protocol"]["name"] == protocol
