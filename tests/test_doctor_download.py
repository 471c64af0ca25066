"""Weights fetched and checked before the work starts: a pretended hub, the real loading."""

import hashlib
import re
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import save_file

from shotseg import encoders
from shotseg.cli.doctor import Doctor
from shotseg.encoders import network, weights

NAME = "timm:test_vit"  # of 0.4 M weights


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one file, kept as huggingface_hub keeps it: a snapshot that links to a blob with its sha256 as name."""
    monkeypatch.setenv("SHOTSEG_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr(network, "answers", lambda url: True)
    save_file(encoders.load(NAME, "random").net.state_dict(), tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()

    def download(repository, file):
        if repository != "timm/test_vit.r160_in1k":
            raise OSError("Name or service not known")
        if not blob.exists():
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(content)
        place = tmp_path / "snapshots" / file
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(blob)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return blob


def test_weights_are_fetched_checked_and_loaded(hub, capsys):
    assert Doctor(download=(NAME,)).run() == 0
    said = capsys.readouterr().out
    assert f"weights {NAME}" in said and "loads" in said and f"sha256 {hub.name[:16]} as published" in said


def test_the_file_that_a_package_brings_is_checked_too(capsys):
    assert Doctor(download=("efficientnet-lite0",)).run() == 0
    assert "sha256 579344248a93e230 as published" in capsys.readouterr().out


def test_what_cannot_be_had_is_one_line_each_and_the_others_are_done(hub, capsys):
    assert Doctor(download=("dino-vits16", "resnet50-v2", "nonsense", NAME)).run() == 1
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert len(lines) == 3 and f"weights {NAME}" in out
    assert "connect once, or put the file at" in lines[0] and "Name or service" in lines[0]
    assert "no public download" in lines[1] and "unknown encoder 'nonsense'" in lines[2]


def test_a_download_that_was_damaged_is_named_and_fetched_again_once_it_is_deleted(hub, capsys):
    assert Doctor(download=(NAME,)).run() == 0
    content = bytearray(hub.read_bytes())
    content[-1] ^= 1  # a weight: the file still loads
    hub.write_bytes(content)
    assert Doctor(download=(NAME,)).run() == 1
    line = capsys.readouterr().err.strip()
    assert "damaged" in line and "\n" not in line
    Path(line.split(": sha256")[0].split("shotseg: ")[-1]).unlink()
    assert Doctor(download=(NAME,)).run() == 0


def test_digests_of_the_table_have_a_form_that_can_be_checked():
    rows = encoders.list_weights()
    assert all(re.fullmatch("[0-9a-f]{64}|[0-9a-f]{8}", row.sha256) for row in rows if row.sha256)
    assert {row.name for row in rows if row.source in ("open_clip", "package", "url") and not row.sha256} == set()
    digests = [row.sha256 for row in rows if row.sha256 and row.name != "efficientnet-lite0-blocks"]
    assert len(set(digests)) == len(digests)
    assert weights.hub_digest(Path("model.safetensors")) is None
