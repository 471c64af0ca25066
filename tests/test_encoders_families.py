"""Every family of timm and of transformers: maps as the encoder says at any size, or refused by name."""

import pytest
import timm
import torch
from timm.layers import weight_init
from torch.nn import functional as F
from transformers import ConvNextConfig, Dinov2Config, HieraConfig, PvtV2Config, SwinConfig

from shotseg import encoders
from shotseg.encoders.cnn import TimmCNN
from shotseg.errors import UsageError

# the smallest model of each of timm's files
READ = [
    "test_byobnet",
    "convmixer_1024_20_ks9_p14",
    "convnext_atto_rms",
    "cpubone_nano",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla102x",
    "edgenext_xx_small",
    "mnasnet_small",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "eva02_tiny_patch14_224",
    "fasternet_s",
    "fastvit_s12",
    "focalnet_tiny_srf",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "sam2_hiera_tiny",
    "hrnet_w18_small",
    "iformer_s",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2_small",
    "lowformer_b0",
    "test_mambaout",
    "poolformerv2_s12",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nextvit_small",
    "test_nfnet",
    "pvt_v2_b0",
    "rdnet_tiny",
    "regnety_040_sgn",
    "repghostnet_050",
    "repvit_m1",
    "res2net101_26w_4s",
    "resnest101e",
    "resnet18",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "legacy_seresnet18",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256",
    "swinv2_cr_tiny_224",
    "tiny_vit_5m_224",
    "twins_svt_small",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "ese_vovnet19b_slim_dw",
    "legacy_xception",
    "xception41p",
    "xcit_nano_12_p8_224",
    "samvit_base_patch16_224",
]
REFUSED = [
    "eca_botnext26ts_256",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "crossvit_tiny_240",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "gcvit_xxtiny",
    "hiera_tiny_224",
    "levit_384_s8",
    "maxvit_pico_rw_256",
    "mixer_s16_224",
    "nest_tiny",
    "pit_xs_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "visformer_tiny",
    "test_vit_relpos",
    "volo_d1_224",
    "beit_base_patch16_224",
]


KEEP_THE_SHAPE = ["batch_norm", "layer_norm", "group_norm", "normalize", "softmax", "relu", "relu6", "leaky_relu"]
KEEP_THE_SHAPE += ["gelu", "silu", "mish", "hardtanh", "hardswish", "hardsigmoid"]


@pytest.fixture
def loaded(monkeypatch):
    """Loads an encoder without its numbers: shapes are computed, nothing else.

    What keeps the shape costs nothing, for working out that it does is most of the time here.
    """
    for name in KEEP_THE_SHAPE:
        monkeypatch.setattr(F, name, lambda x, *settings, **more: x)
    for name in (name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")):
        monkeypatch.setattr(torch.nn.init, name, lambda x, *settings, **more: x)
    monkeypatch.setattr(weight_init, "_trunc_normal_", lambda x, *settings: x)
    monkeypatch.setattr(torch.nn.LSTM, "forward", shape_of_lstm)
    monkeypatch.setattr(TimmCNN, "_last_stage_fits", lambda encoder: False)  # its numbers are needed for that

    def load(name):
        with torch.device("meta"):
            return encoders.load(name, "random", device="meta")

    return load


def shape_of_lstm(lstm, x):
    """(B, T, C) -> (B, T, width of its directions side by side)."""
    return x.new_empty(*x.shape[:2], lstm.hidden_size * (2 if lstm.bidirectional else 1)), None


@pytest.mark.parametrize("name", READ)
def test_the_maps_of_every_family_are_where_and_as_wide_as_said(name, loaded):
    encoder = loaded(f"timm:{name}")
    height, width = 122, 95  # loading tried other sizes already
    features = encoder(torch.empty(2, 3, height, width, device="meta"))
    assert len(features.maps) == len(encoder.channels) == len(encoder.strides)
    for found, channels, stride in zip(features.maps, encoder.channels, encoder.strides):
        assert found.shape[:2] == (2, channels)
        assert abs(found.shape[2] * stride - height) < encoder.patch + 4 * stride
        assert abs(found.shape[3] * stride - width) < encoder.patch + 4 * stride


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_takes_one_size_alone_is_refused_by_name(name, loaded):
    with pytest.raises(UsageError, match=f"encoder timm:{name}: no maps of a photo of 160 x 224 pixels .*; choose"):
        loaded(f"timm:{name}")


def test_every_file_of_timm_is_tried():
    tried = {*READ, *REFUSED}
    large = {
        "deepseek_vit",
        "sequencer",
        "dpn",
        "gemma4_vit",
        "mobilenetv5",
        "naflexvit",
        "nasnet",
        "pnasnet",
        "qwen3_vit",
        "vgg",
    }
    missing = [m for m in timm.list_modules() if m not in large and not tried.intersection(timm.list_models(module=m))]
    assert not missing


def test_swin_gives_its_maps_channels_first():
    encoder = encoders.load("timm:swin_tiny_patch4_window7_224", "random")
    photo = torch.rand(1, 3, 224, 224)
    last = encoder(photo).maps[-1]
    theirs = encoder.net.forward_features((photo - encoder.mean) / encoder.std)  # (1, 7, 7, 768), normalised
    torch.testing.assert_close(encoder.net.norm(last.permute(0, 2, 3, 1)), theirs)
    torch.testing.assert_close(encoder.last_stage(encoder(photo).maps[-2]), last)


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 56}


@pytest.mark.parametrize(
    "config, strides, channels",
    [
        (Dinov2Config(**SMALL, num_hidden_layers=12, patch_size=14), (14,) * 12, (16,) * 12),
        (Dinov2Config(**SMALL, num_hidden_layers=3, patch_size=8), (8,) * 3, (16,) * 3),
        (PvtV2Config(), (4, 8, 16, 32), (32, 64, 160, 256)),
        (ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4), (4, 8, 16, 32), (8, 8, 16, 16)),
        (SwinConfig(embed_dim=8, depths=[1] * 3, num_heads=[1, 1, 2], window_size=2), (4, 8, 16), (8, 16, 32)),
    ],
)
def test_a_backbone_of_transformers_has_the_strides_of_its_maps(tmp_path, config, strides, channels):
    config.save_pretrained(tmp_path)
    encoder = encoders.load(f"transformers:{tmp_path}", "random")
    assert (encoder.strides, encoder.channels, encoder.patch) == (strides, channels, max(strides))
    assert tuple(m.shape[1] for m in encoder(torch.rand(1, 3, 112, 168)).maps) == channels


def test_a_backbone_of_transformers_for_one_size_alone_is_refused_by_name(tmp_path):
    HieraConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no maps of a photo of 160 x 224 pixels"):
        encoders.load(f"transformers:{tmp_path}", "random")
