import hashlib
import shutil

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from shotseg import encoders
from shotseg.encoders import network, weights
from shotseg.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def no_network_and_no_cache(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setenv("SHOTSEG_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(network, "answers", lambda url: True)


def test_every_encoder_of_the_list_has_a_row_with_a_source_and_a_licence():
    assert [row.name for row in encoders.list_weights()] == encoders.list_encoders()
    assert encoders.list_encoders()[0] == "efficientnet-lite0"
    for row in encoders.list_weights():
        assert row.licence and row.location and row.file and len(row.mean) == len(row.std) == 3


@pytest.mark.parametrize("name", ["resnet50", "resnet50-v2", "dino-vits16", "clip-vit-b32", "timm:resnet18"])
def test_without_a_network_one_line_names_the_file_its_origin_and_where_to_put_it(name, tmp_path):
    row = encoders._row(name)
    with pytest.raises(UsageError) as error:
        weights.fetch(row)
    line = str(error.value)
    assert "\n" not in line
    assert row.file in line and row.location in line and str(tmp_path / "own") in line


def test_a_hub_file_is_downloaded_by_the_hubs_own_code(monkeypatch, tmp_path):
    net = encoders.load("timm:resnet18", "random").net
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = encoders.load("timm:resnet18")
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    torch.testing.assert_close(loaded.net.conv1.weight, net.conv1.weight)


def test_a_url_is_downloaded_by_torch_hub_and_checked(monkeypatch, tmp_path):
    content = b"other bytes"

    def download(url, target, hash_prefix, progress):
        assert progress and hash_prefix == "0676ba61" and url.endswith("/resnet50-0676ba61.pth")
        with open(target, "wb") as file:  # noqa: PTH123
            file.write(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match="damaged"):
        weights.fetch(weights.TABLE["resnet50"])


def test_a_file_put_into_the_named_folder_is_found(tmp_path):
    (tmp_path / "own").mkdir()
    net = encoders.load("dino-vits16", "random").net
    save_file(net.state_dict(), tmp_path / "own" / "dino-vits16.safetensors")
    torch.testing.assert_close(encoders.load("dino-vits16").net.pos_embed, net.pos_embed)


def test_a_damaged_copy_of_the_offline_default_is_refused(tmp_path):
    row = weights.TABLE["efficientnet-lite0"]
    path = weights.fetch(row)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
    (tmp_path / "own").mkdir()
    shutil.copy(path, tmp_path / "own" / "efficientnet-lite0.pth")
    with (tmp_path / "own" / "efficientnet-lite0.pth").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InputError, match="sha256"):
        encoders.load("efficientnet-lite0")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04}."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_unreadable_weights_file_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        encoders.load("timm:resnet18", str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_pickled_object_is_never_run(tmp_path):
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, tmp_path / "object.pth")
    with pytest.raises(InputError, match="convert it to safetensors"):
        encoders.load("timm:resnet18", str(tmp_path / "object.pth"))


def test_missing_unexpected_and_reshaped_keys_are_named(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    state = net.state_dict()
    state["extra"] = state.pop("0.weight")
    state["1.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"missing \(0\.weight\).*unexpected \(extra\).*another shape \(1\.bias\)"):
        weights.load_strictly(net, state, "file.pth")


@pytest.mark.parametrize(
    "name", ["resnet5", "timm:no_such_model", "open_clip:none", "open_clip:ViT-B-32/none", "timm:"]
)
def test_an_unknown_encoder_is_a_usage_error(name):
    with pytest.raises(UsageError):
        encoders.load(name)


def test_a_path_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="nowhere"):
        encoders.load("resnet50", "/nowhere/file.pth")
