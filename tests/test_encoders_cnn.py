import json

import numpy as np
import pytest
import torch

import golden
from shotseg import encoders
from shotseg.encoders import contract
from shotseg.errors import InputError

BACKBONES = ("resnet50", "resnet101", "vgg16")
RANDOM = (
    "efficientnet-lite0",
    "efficientnet-lite0-blocks",
    "resnet50",
    "vgg16",
    "resnet50-v2",
    "resnet101-v2",
    "vgg16-bn",
    "timm:resnet18",
    "timm:convnext_atto",
)


@pytest.mark.parametrize("path", golden.files("tlg", "g_backbone_taps*.safetensors"))
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_block_taps_are_the_released_ones(path, backbone):
    known, metadata = golden.tensors(path)
    encoder = encoders.load(backbone, "random")
    state = encoder.state_dict() if backbone == "vgg16" else encoder.net.state_dict()
    for name, tensor in state.items():
        tensor.copy_(golden.weight(name, tensor.shape, salt=8))
    with torch.no_grad():
        maps = encoder.extract(golden.uniform("img", (1, 3, 80, 72), 8)).maps
    if f"{backbone}.shapes" in metadata:
        assert [list(m.shape) for m in maps] == json.loads(metadata[f"{backbone}.shapes"])
    for name, tensor in known.items():
        if name.startswith(backbone + "."):
            ours = maps[int(name.split(".")[1])][:, ::16]
            golden.assert_close(name, ours, tensor, atol=1e-5 * max(1.0, float(tensor.abs().max())))


@pytest.mark.parametrize("name", RANDOM)
def test_the_last_stage_turns_the_map_before_it_into_the_last_map(name):
    encoder = encoders.load(name, "random")
    features = encoder(torch.rand(1, 3, 64, 96))
    assert tuple(m.shape[1] for m in features.maps) == encoder.channels
    torch.testing.assert_close(encoder.last_stage(features.maps[encoder.before_last]), features.maps[-1])
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.train().training


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
@pytest.mark.parametrize("size", [contract.ODD, contract.WHOLE])
def test_what_other_networks_are_tried_for_holds_for_the_offline_ones(name, size):
    encoder = encoders.load(name, "random")
    assert encoder.proven and not contract.fault(encoder, size) and encoder._last_stage_fits()


def test_bams_backbones_have_the_published_map_sizes():
    for name, sides in (("resnet50-v2", [119, 119, 60, 60, 60]), ("vgg16-bn", [237, 119, 60, 30, 30])):
        with torch.device("meta"):  # sizes without numbers
            maps = encoders.load(name, "random", device="meta")(torch.empty(1, 3, 473, 473)).maps
        assert [m.shape[-1] for m in maps] == sides


@pytest.mark.parametrize("path", golden.files("pi_clip", "reference_state_dict_shapes*.json"))
def test_published_backbone_names_and_shapes_are_ours(path):
    for checkpoint, entries in golden.load_json(path).items():
        theirs = {name: tuple(shape) for name, shape, *_ in entries if name.startswith("layer")}
        ours = encoders.load("vgg16-bn" if "vgg" in checkpoint else "resnet50-v2", "random").state_dict()
        assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == theirs, checkpoint


def test_an_imagenet_file_of_the_deep_stem_resnet_loads_under_its_own_names(tmp_path):
    own = encoders.load("resnet50-v2", "random")
    stem = {"layer0.0": "conv1", "layer0.1": "bn1", "layer0.3": "conv2", "layer0.4": "bn2", "layer0.6": "conv3"}
    stem["layer0.7"] = "bn3"
    state = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    for name, tensor in own.state_dict().items():
        module, _, leaf = name.rpartition(".")
        state[f"{stem.get(module, module)}.{leaf}"] = tensor
    torch.save(state, tmp_path / "resnet50_v2.pth")
    loaded = encoders.load("resnet50-v2", str(tmp_path / "resnet50_v2.pth"))
    images = torch.rand(1, 3, 48, 48)
    torch.testing.assert_close(loaded(images).maps[-1], own(images).maps[-1])


def test_the_file_of_another_network_is_refused_by_name(tmp_path):
    path = tmp_path / "wrong.pth"
    torch.save(encoders.load("timm:resnet18", "random").net.state_dict(), path)
    for name in ("resnet50", "vgg16-bn", "efficientnet-lite0", "timm:convnext_atto"):
        with pytest.raises(InputError, match=r"wrong\.pth: .*missing .*another network"):
            encoders.load(name, str(path))


def test_the_offline_default_recognises_a_real_photo():
    from PIL import Image

    photo = sorted((golden.data("pascal_coseg15") / "images" / "aeroplane").iterdir())[0]
    pixels = np.asarray(Image.open(photo).convert("RGB").resize((256, 256))).copy()
    encoder = encoders.load()
    maps = encoder(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255).maps
    logits = encoder.classifier(maps[-1]).mean((2, 3))
    assert int(logits.argmax()) in (404, 895)  # airliner, warplane
