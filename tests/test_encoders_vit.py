import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

import golden
from shotseg import encoders
from shotseg.encoders.vit import ViT, dino_positions


def _tiny(**options) -> ViT:
    options = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0} | options
    return ViT(VisionTransformer(dynamic_img_size=True, **options), "tiny", (0.5,) * 3, (0.5,) * 3, "dino").freeze()


@pytest.mark.parametrize("path", golden.files("corenet", "dino_tiny*.npz"))
def test_a_dino_vit_gives_the_official_tokens_queries_keys_and_attention(path):
    known = {name: torch.from_numpy(value) for name, value in golden.npz(path).items()}
    encoder = _tiny()
    encoder.net.load_state_dict({name[2:]: value for name, value in known.items() if name.startswith("w.")})
    with torch.no_grad():
        seen = encoder.tokens(known["image"], normalised=True)
    golden.assert_close("positions", dino_positions(encoder.net.pos_embed, seen.grid), known["pos_embed"])
    golden.assert_close("qkv", torch.stack([seen.queries[-1], seen.keys[-1], seen.values[-1]]), known["qkv"])
    golden.assert_close("layers", torch.stack(seen.layers), known["layers"])
    golden.assert_close("class token", seen.layers[-1][:, 0], known["cls"])
    golden.assert_close("attention", seen.attention()[:, :, 0], known["last_attn_cls"])


@pytest.mark.parametrize(
    "name",
    ["dino-vits16", "dinov2-vits14", "dinov3-vits16", "timm:vit_tiny_patch16_224", "timm:eva02_tiny_patch14_224"],
)
def test_any_vit_takes_any_size(name):
    encoder = encoders.load(name, "random")
    features = encoder(torch.rand(1, 3, 3 * encoder.patch + 5, 5 * encoder.patch))
    assert features.maps[-1].shape == (1, encoder.channels[-1], 3, 5)
    assert len(features.maps) == len(features.classes) == len(encoder.strides)


@pytest.mark.parametrize("name", ["timm:deit_tiny_distilled_patch16_224", "dinov3-vits16"])
def test_the_last_layer_is_timms_own_output(name):
    encoder = encoders.load(name, "random")
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        own = encoder.net.forward_features(images)
        ours = encoder.tokens(images, normalised=True).layers[-1]
    torch.testing.assert_close(ours, own, atol=2e-5, rtol=1e-4)


def test_dinov2_positions_are_sampled_with_the_released_offset():
    table = torch.randn(1, 1 + 16, 8)
    ours = dino_positions(table, (6, 3))
    squares = table[:, 1:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    resized = F.interpolate(squares, scale_factor=(6.1 / 4, 3.1 / 4), mode="bicubic")
    torch.testing.assert_close(ours[:, 1:], resized.permute(0, 2, 3, 1).reshape(1, 18, 8))
    torch.testing.assert_close(dino_positions(table, (4, 4)), table)


def test_tokens_without_the_final_norm_are_the_residual_stream():
    encoder = _tiny()
    images = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        raw, normed = encoder.tokens(images, norm=False), encoder.tokens(images)
        torch.testing.assert_close(encoder.net.norm(raw.layers[1]), normed.layers[1])
    torch.testing.assert_close(normed.attention(0).sum(-1), torch.ones(2, 3, 36))
    assert normed.map(normed.layers[0]).shape == (2, 48, 5, 7)


def test_a_dino_file_loads_strictly_under_its_own_names(tmp_path):
    net = timm.create_model("vit_small_patch16_224.dino")
    torch.save(
        {"teacher": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, tmp_path / "dino.pth"
    )
    loaded = encoders.load("dino-vits16", str(tmp_path / "dino.pth"))
    torch.testing.assert_close(loaded.net.blocks[3].attn.qkv.weight, net.blocks[3].attn.qkv.weight)
