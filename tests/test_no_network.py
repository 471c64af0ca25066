"""Weights without a network: one line, in seconds, and what is on this machine is still read."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from shotseg import encoders
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.encoders import network
from shotseg.errors import UsageError

NAMES = [
    "clip-vit-b16",
    "dino-vits16",
    "resnet50",
    "timm:resnet18",
    "open_clip:ViT-B-32/laion400m_e32",
    "transformers:microsoft/resnet-18",
]


def test_no_library_reports_to_its_maker_unless_the_user_says_so():
    code = "import os, shotseg; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "RAY_"))}
    for own, said in (({}, "1 0"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "1 1")):
        found = subprocess.run(
            [sys.executable, "-c", code], env=clean | own, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == said


@pytest.fixture
def silence(monkeypatch, tmp_path):
    """Every request goes to a server that takes it and never answers; no cache holds anything."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "HF_HOME", "TORCH_HOME", "SHOTSEG_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(network, "SECONDS", 0.5)
    yield
    server.close()


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_nowhere_are_one_line_at_once(name, silence, capfd):
    start = time.perf_counter()
    with pytest.raises(UsageError, match="no answer from") as error:
        encoders.load(name)
    assert time.perf_counter() - start < 40  # most of it the building of the network
    assert "\n" not in str(error.value) and "connect once" in str(error.value)
    assert "Retrying" not in capfd.readouterr().err and not constants.HF_HUB_OFFLINE


def test_zero_shot_without_a_network_is_one_line_in_seconds(silence, monkeypatch, tmp_path, capfd):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the port where nobody listens
    flags = ["--name", "cat", "--method", "pi-clip-zero-shot", "--query", str(DATA), "--out", str(tmp_path / "out")]
    start = time.perf_counter()
    assert main(["segment", *flags]) == 2 and time.perf_counter() - start < 40
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "no answer from huggingface.co" in lines[0] and "weights=" not in lines[0]


def test_what_the_hub_brought_before_is_read_without_it(silence, tmp_path):
    from huggingface_hub import hf_hub_download

    folder = Path(constants.HF_HUB_CACHE) / "models--timm--x"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    (folder / "snapshots/abc/model.safetensors").write_bytes(b"here")
    with network.hub():
        found = hf_hub_download("timm/x", "model.safetensors", cache_dir=constants.HF_HUB_CACHE)
    assert Path(found).read_bytes() == b"here"


def test_any_answer_is_an_answer():
    server = socket.create_server(("127.0.0.1", 0))

    def refuse():
        connection, _ = server.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    assert network.answers(f"http://127.0.0.1:{server.getsockname()[1]}/")
    assert not network.answers("http://127.0.0.1:9/")
