"""The switches of matching that follow INSID3: what each does to tokens, on a tiny random ViT and in closed cases."""

import functools

import pytest
import timm
import torch
from torch.nn import functional as F

from shotseg import Segmenter, encoders, exporting
from shotseg.cli.segment import Segment
from shotseg.data.samples import Support
from shotseg.encoders.vit import ViT
from shotseg.errors import UsageError
from shotseg.models import in_context
from shotseg.models.matching import Matching

SWITCHES = ("positions", "backward", "clusters")


@functools.cache
def vit():
    torch.manual_seed(0)
    net = timm.create_model("test_vit", dynamic_img_size=True, num_classes=0)
    torch.nn.init.normal_(
        net.pos_embed, std=0.5
    )  # so that where a token is tells in its features, as it does when learnt
    return ViT(net, "tiny", (0.5,) * 3, (0.5,) * 3).freeze()


def scene(seed, height=96, width=128):
    """(1, 3, H, W) noise with a bright box, and its mask (1, 1, H, W)."""
    image = 0.3 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(1, 1, height, width, dtype=torch.long)
    mask[..., 24:72, 32:96] = 1
    return torch.where(mask == 1, image + 0.6, image), mask


@torch.no_grad()
def answer(*shots, **switches):
    model = Matching(vit(), 96, **switches).eval()
    supports = [model.encode_support(image[None], mask) for image, mask in map(scene, shots or (1,))]
    query = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(9))  # nothing like the shots
    return model(model.encode(query), model.merge(supports), query).logits


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_matters_alone_and_gives_finite_answers_of_one_and_of_three_shots(switch):
    for shots in ((1,), (1, 2, 3)):
        plain, switched = answer(*shots), answer(*shots, **{switch: True})
        assert switched.shape == plain.shape and switched.isfinite().all() and not torch.allclose(plain, switched)


def test_all_are_off_unless_asked_for():
    assert torch.equal(answer(), answer(**dict.fromkeys(SWITCHES, False)))


def test_several_classes_in_one_photo_are_those_alone():
    model = Matching(vit(), 96, **dict.fromkeys(SWITCHES, True)).eval()
    with torch.no_grad():
        supports = [model.encode_support(image[None], mask) for image, mask in map(scene, (1, 2))]
        query = model.encode(scene(9)[0])
        both, alone = model.evidence(query, supports), [model.evidence(query, [support])[0] for support in supports]
    torch.testing.assert_close(both, torch.stack(alone), atol=1e-3, rtol=1e-3)


def test_a_photo_without_content_has_no_feature_left_that_tells_position():
    bases = in_context.position_bases(vit(), (len(vit().strides) - 1,), 96)
    (basis,) = bases
    torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]), atol=1e-4, rtol=0)
    with torch.no_grad():
        tokens = F.normalize(vit()(torch.zeros(1, 3, 96, 96)).maps[-1], dim=1)

    def spread(x):
        return (x - x.mean((2, 3), keepdim=True)).square().sum(1).mean()

    left = tokens - (basis @ (basis.mT @ tokens.flatten(2))).view_as(tokens)
    assert basis.shape[1] <= in_context.SHARE * tokens.shape[1] and spread(left) < 0.05 * spread(tokens)
    cleaned = in_context.without(basis, tokens)
    torch.testing.assert_close(cleaned.norm(dim=1), torch.ones_like(cleaned[:, 0]), atol=1e-4, rtol=0)
    assert (basis.mT @ cleaned.flatten(2)).abs().max() < 1e-4


def support_of(*shots):
    """Shots of (tokens, whether each is the object)."""
    tokens = torch.stack([torch.tensor(t, dtype=torch.float) for t, _ in shots])[None]
    inside = torch.stack([torch.tensor(i, dtype=torch.float) for _, i in shots])[None]
    there = (tokens.abs().sum(-1) > 0).float()
    return Support({"deep": tokens, "deep_foreground": inside, "deep_background": there - inside})


def test_a_match_leads_back_only_where_both_directions_agree():
    query = F.normalize(torch.tensor([[[1.0, 0.1, 0], [0.4, 1, 0], [-1, 0.1, 0], [0, 0, 1]]]), dim=-1)
    shot = ([[1, 0, 0], [0, 1, 0], [-1, 0, 0]], [1, 0, 0])
    assert in_context.leads_back(query, support_of(shot))[0].tolist() == [True, False, False, False]
    padded = ([[1, 0, 0], [0, 0, 0], [0, 0, 0]], [1, 0, 0])  # of a smaller photo: filled up with nothing
    assert in_context.leads_back(query, support_of(padded))[0].tolist() == [True, True, False, False]
    found = in_context.leads_back(query, support_of(shot, shot, padded))
    assert found[0].tolist() == [True, False, False, False]  # two of three shots say no to the second


def test_tokens_are_grouped_by_mean_likeness_and_decided_with_the_surest_group():
    one, other, far = [1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0]
    tokens = torch.tensor([one, one, other, far, far, far])
    groups = in_context.grouped(tokens)
    assert len(groups.unique()) == 2 and groups[0] == groups[2] != groups[3]
    maps = tokens.T.reshape(1, 3, 2, 3)
    evidence = torch.tensor([[[3.0, 3.0, -0.5], [1.0, -3.0, -3.0]]])
    found = in_context.by_group(evidence, maps)
    assert (found[0, 0] > 0).all()  # the third goes with its group
    assert (found[0, 1] < evidence[0, 1].clamp(max=0) + 0.1).all()  # unlike the surest group
    assert in_context.by_group(torch.zeros(1, 1, 1), torch.ones(1, 3, 1, 1)).isfinite().all()


def test_a_grid_too_fine_to_group_is_grouped_by_its_means():
    tokens = F.normalize(torch.randn(1, 8, 90, 70, generator=torch.Generator().manual_seed(0)), dim=1)
    assert in_context.by_group(torch.zeros(1, 90, 70), tokens).shape == (1, 90, 70)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_cnn_is_refused_in_one_line(switch):
    with pytest.raises(UsageError, match="efficientnet-lite0 is none"):
        Matching(encoders.load("efficientnet-lite0", "random"), 64, **{switch: True})


def test_a_saved_segmenter_keeps_its_switches_and_other_methods_refuse_them(tmp_path):
    torch.manual_seed(0)
    image, mask = scene(1)
    made = Segmenter("matching", "timm:test_vit", "cpu", weights="random", size=64, positions=True, backward=True)
    assert made.options == {"size": 64, "positions": True, "backward": True} and made.model.bases is not None
    made.add("box", [image[0].numpy()], [mask[0, 0].numpy()])
    assert made.predict(scene(2)[0][0].numpy()).labels.shape == (96, 128)
    with pytest.raises(UsageError, match="have no ONNX form"):
        exporting.export(made, tmp_path)
    with pytest.raises(UsageError, match="--insid3 is of --method matching"):
        Segment(query="x", out=tmp_path, name=("cat",), method="pfenet", insid3=("positions",)).run()
