"""HSNet and its blocks: golden replays, any encoder, any size, any number of shots."""

import json
from functools import partial

import pytest
import torch

import golden
from shotseg import encoders, models
from shotseg.data.samples import Episode, Support
from shotseg.errors import UsageError
from shotseg.models.blocks import channels_last
from shotseg.models.blocks.channels_last import NormReLU
from shotseg.models.blocks.conv4d import Conv4d
from shotseg.models.blocks.correlation import Level, correlate, levels, swapped, unit
from shotseg.models.blocks.pyramid import Pyramid, strides
from shotseg.models.blocks.token_model import agreed, mean_of
from shotseg.models.hsnet import HSNet
from test_hosts import answer, task

STAGES = {"squeeze.0": "encoder_layer4", "squeeze.1": "encoder_layer3", "squeeze.2": "encoder_layer2"}
STAGES |= {"mix.0": "encoder_layer4to3", "mix.1": "encoder_layer3to2"}
LAYERS = {"query": "{i}.conv1", "support": "{i}.conv2", "norm": "{n}"}


def official(name: str) -> str:
    """HSNet's name of a tensor of our pyramid."""
    stage, index, layer, leaf = name.split(".", 2)[0:2], *name.split(".")[2:]
    place = LAYERS[layer].format(i=3 * int(index), n=3 * int(index) + 1)
    return f"hpn_learner.{STAGES['.'.join(stage)]}.{place}.{leaf}"


def conv4d(weights: dict, stride: int = 1, collapse: int | None = None) -> Conv4d:
    outputs, inputs, kernel = weights["conv1.weight"].shape[:3]
    conv = Conv4d(inputs, outputs, kernel, stride, collapse)
    conv.load_state_dict({k.replace("conv1", "query").replace("conv2", "support"): w for k, w in weights.items()})
    return conv


@pytest.mark.parametrize("path", golden.files("tlg", "a_conv4d*.safetensors"))
def test_the_4d_convolution_is_the_released_one(path):
    known, metadata = golden.tensors(path)
    for case, text in metadata.items():
        about = json.loads(text)
        weights = {k.removeprefix(case + "."): w for k, w in known.items() if k.startswith(case + ".conv")}
        collapse = about["kernel"][-1] if isinstance(about["kernel"], list) and about["pad"][-1] == 0 else None
        conv = conv4d(weights, about.get("stride_support", 1), collapse)
        golden.assert_close(case, conv(known[f"{case}.x"]), known[f"{case}.y"], atol=1e-5)


@pytest.mark.parametrize("path", golden.files("corenet", "hsnet_parts*.npz"))
def test_the_parts_of_hsnet_are_the_released_ones(path):
    known = {name: torch.from_numpy(value) for name, value in golden.npz(path).items()}
    for case in sorted({name.split("_")[0] for name in known if name.endswith("_cfg")}):
        weights = {k.removeprefix(f"{case}_w."): w for k, w in known.items() if k.startswith(f"{case}_w.")}
        stride = int(known[f"{case}_cfg"][3])
        golden.assert_close(case, conv4d(weights, stride)(known[f"{case}_x"]), known[f"{case}_y"], atol=1e-4)
    taps = sum(name.startswith("corr_q") for name in known)
    query, support = ([unit(known[f"corr_{side}{i}"]) for i in range(taps)] for side in "qs")
    for level in range(3):
        expected = known[f"corr_out{level}"]
        own = [i for i in range(taps) if query[i].shape[-2:] == expected.shape[2:4]]
        found = correlate([query[i] for i in own], [support[i] for i in own])
        golden.assert_close(f"level {level}", found, expected, atol=1e-4)


def pyramid_of(inputs: list[int], prefix: str = "") -> Pyramid:
    """HSNet's pyramid with golden weights: ``inputs`` maps a level, deep to shallow."""
    pyramid = Pyramid([Level(tuple(range(n)), stride, 0) for n, stride in zip(inputs, (32, 16, 8))])
    shapes = {name: tensor.shape for name, tensor in pyramid.state_dict().items()}
    pyramid.load_state_dict({k: golden.weight(prefix + official(k), shape, 3) for k, shape in shapes.items()})
    return pyramid


def keep(seen: dict, name: str, module, inputs, output) -> None:
    seen[name] = output


@pytest.mark.parametrize("path", golden.files("tlg", "b_hpn_small*.safetensors"))
def test_the_pyramid_is_the_released_one_stage_by_stage(path):
    known, metadata = golden.tensors(path)
    for tag in [key.removesuffix(".inch") for key in metadata if key.endswith(".inch")]:
        pyramid, seen = pyramid_of(json.loads(metadata[f"{tag}.inch"]), f"{tag}."), {}
        for ours, theirs in STAGES.items():
            pyramid.get_submodule(ours).register_forward_hook(partial(keep, seen, theirs))
        with torch.no_grad():
            out = pyramid([known[f"{tag}.{level}"] for level in ("l4", "l3", "l2")])
        for name, value in {**seen, "out": out}.items():
            scale = max(1.0, float(known[f"{tag}.{name}"].abs().max()))
            golden.assert_close(f"{tag}.{name}", value, known[f"{tag}.{name}"], atol=1e-5 * scale)


@pytest.mark.parametrize("stride, kernel, side", [(2, 3, 5), (4, 5, 7), (1, 3, 4)])
@pytest.mark.parametrize("turned", [False, True])
def test_in_parts_the_4d_convolution_is_two_plain_ones_with_their_gradients(stride, kernel, side, turned, monkeypatch):
    conv = Conv4d(2, 3, kernel, stride).double()
    x = torch.randn(2, 2, 4, side, side, 6, dtype=torch.double, requires_grad=True)
    x = swapped(x.transpose(3, 4)) if turned else x
    b, c, h, w, hs, ws = x.shape
    support = conv.support(x.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, hs, ws))
    support = support.unflatten(0, (b, h, w)).permute(0, 3, 1, 2, 4, 5)
    pivots = x[..., ::stride, ::stride]
    query = conv.query(pivots.permute(0, 4, 5, 1, 2, 3).reshape(-1, c, h, w))
    expected = support + query.unflatten(0, (b, *pivots.shape[4:])).permute(0, 3, 4, 5, 1, 2)
    wanted = [x, *conv.parameters()]
    above = torch.randn_like(expected)
    for cache in (1, 300, 2**20):
        monkeypatch.setattr(channels_last, "CACHE", cache)
        found = conv(x)
        golden.assert_close("value", found, expected, atol=1e-12)
        gradients = torch.autograd.grad(expected, wanted, above, retain_graph=True)
        for i, (ours, theirs) in enumerate(zip(torch.autograd.grad(found, wanted, above), gradients)):
            golden.assert_close(f"gradient {i}", ours, theirs, atol=1e-11)
        alone = torch.autograd.grad(conv(x.detach()), wanted[1:], above)
        golden.assert_close("gradient of a kernel alone", alone[0], gradients[1])


def test_the_norm_of_a_block_is_torchs_with_its_gradients(monkeypatch):
    monkeypatch.setattr(channels_last, "CACHE", 50)
    x = torch.randn(2, 30, 8, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.randn(8, dtype=torch.double, requires_grad=True) for _ in range(2))
    expected = torch.nn.functional.group_norm(x.mT, 4, weight, bias).relu().mT
    golden.assert_close("value", NormReLU.apply(x, weight, bias, 4, 1e-5), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *given: NormReLU.apply(*given, 4, 1e-5), (x, weight, bias))


@pytest.mark.parametrize("path", golden.files("tlg", "c_correlation*.safetensors"))
def test_the_correlation_is_the_released_one(path):
    known, metadata = golden.tensors(path)
    for tag in [key.removesuffix(".stack_ids") for key in metadata if key.endswith(".stack_ids")]:
        ids = json.loads(metadata[f"{tag}.stack_ids"])
        for level, after, upto in zip(("l4", "l3", "l2"), [0, *ids], ids):  # counted from the deepest
            own = range(ids[-1] - upto, ids[-1] - after)
            query, support = ([unit(known[f"{tag}.{side}.{i:02d}"]) for i in own] for side in "qs")
            golden.assert_close(f"{tag}.{level}", correlate(query, support), known[f"{tag}.{level}"], atol=1e-5)


@pytest.fixture(scope="module")
def blocks():
    return encoders.load("efficientnet-lite0-blocks", weights="random")


def small(encoder, **options) -> HSNet:
    return HSNet(encoder, widths=(8, 8, 16), **options)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (75, 50)])
def test_any_size_gives_logits_of_that_size(blocks, height, width):
    logits = answer(small(blocks), task(2, 1, height, width))
    assert logits.shape == (2, 2, height, width) and logits.isfinite().all()


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50-v2", "timm:test_resnet", "timm:vit_tiny_patch16_224"])
def test_any_encoder_carries_it(name):
    encoder = encoders.load(name, weights="random")
    assert answer(small(encoder), task(1, 1, 64, 96)).shape == (1, 2, 64, 96)


def test_maps_are_grouped_by_stride_then_width_then_depth():
    def taps(strides, channels):
        return [level.taps for level in levels(type("E", (), {"strides": strides, "channels": channels, "name": "e"}))]

    assert taps((4, 8, 8, 16, 32), (1, 2, 2, 3, 4)) == [(4,), (3,), (1, 2)]
    assert taps((4, 4, 8, 8, 8), (1, 2, 3, 4, 5)) == [(4,), (3,), (2,)]
    assert taps((16,) * 12, (384,) * 12) == [(8, 9, 10, 11), (4, 5, 6, 7), (0, 1, 2, 3)]
    with pytest.raises(UsageError, match="three"):
        taps((8, 16), (1, 2))
    assert [strides(s) for s in (32, 16, 14, 8, 4)] == [(2, 2, 2), (4, 2, 2), (4, 2, 2), (4, 4, 2), (4, 4, 4)]


def test_a_batch_is_its_episodes_one_by_one(blocks):
    model, both = small(blocks), task(2, 2)
    logits = answer(model, both)
    for i in range(2):
        at = slice(i, i + 1)
        one = Episode(both.query[at], both.support[at], both.class_id[at], None, both.support_mask[at])
        golden.assert_close(f"episode {i}", answer(model, one), logits[at], atol=1e-4)


def test_shots_of_other_sizes_join_and_their_padding_is_background(blocks):
    model, episode = small(blocks).eval(), task(1, 1, 96, 96)
    with torch.no_grad():
        query = model.encode(episode.query)
        part = model.encode_support(episode.support[..., :64, :64], episode.support_mask[..., :64, :64])
        whole = model.encode_support(episode.support, episode.support_mask)
        joined = Support.join([whole, part])
        assert joined.shots == 2
        probability = model(query, joined, episode.query).probability
        own = [
            model(query, Support({k: t[:, i : i + 1] for k, t in joined.tensors.items()}), episode.query)
            for i in (0, 1)
        ]
    mean = (own[0].probability + own[1].probability) / 2
    expected = torch.sigmoid(torch.logit(mean) - torch.logit(mean.amax().clamp(min=0.5) / 2))
    golden.assert_close("agreed", probability, expected, atol=1e-2)


def test_training_reaches_every_part_of_the_head_alone(blocks):
    model, episode = small(blocks).train(), task()
    sum(model.loss(episode).values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder."), name
    assert not model.encoder.training


def test_kept_features_without_their_shallow_maps_give_the_same_loss(blocks):
    model, episode = small(encoders.load("efficientnet-lite0", weights="random")).eval(), task()
    with torch.no_grad():
        query, support = model.encode(episode.query), model.encode(episode.support.flatten(0, 1))
        assert min(query.strides) == 8
        golden.assert_close("loss", model.loss(episode, query, support)["main"], model.loss(episode)["main"], atol=1e-5)


def test_unlabelled_pixels_count_as_background_only_in_the_released_loss(blocks):
    episode = task(1, 1)
    losses = []
    for reference in (False, True):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(float(small(blocks, reference=reference).eval().loss(episode)["main"]))
    assert losses[0] != losses[1]


def test_it_is_found_by_its_name(blocks):
    assert isinstance(models.load("hsnet", blocks, size=64), HSNet)


def test_shots_that_each_find_a_part_find_all_of_it_together():
    def logits(*probabilities):
        return torch.logit(torch.tensor(probabilities)).view(1, 1, 1, -1) * torch.tensor([-0.5, 0.5]).view(1, 2, 1, 1)

    def probability(shots):
        return agreed(shots).softmax(1)[0, 1, 0]

    parts = [logits(0.9, 0.1, 0.1, 0.01), logits(0.1, 0.9, 0.1, 0.01), logits(0.1, 0.1, 0.9, 0.01)]
    assert (mean_of(parts).argmax(1) == 0).all()  # half of all shots find none of it
    assert (agreed(parts).argmax(1)[0, 0] == torch.tensor([1, 1, 1, 0])).all()
    assert probability(parts[:1]).tolist() == pytest.approx([0.9, 0.1, 0.1, 0.01])  # a shot alone is as it is
    sure = [logits(1 - 1e-7, 0.2, 0.7, 0.5), logits(1 - 1e-7, 0.4, 0.1, 0.5)]
    assert torch.allclose(probability(sure), mean_of(sure).softmax(1)[0, 1, 0], atol=1e-5)
    nothing = [logits(0.02, 0.05, 0.01, 0.01)] * 5  # that no shot finds is not made up
    assert (probability(nothing) < 0.5).all() and (probability(nothing) > 0.01).all()
    far = [torch.tensor([-300.0, 300.0]).view(1, 2, 1, 1), torch.tensor([300.0, -300.0]).view(1, 2, 1, 1)]
    assert agreed([x.requires_grad_() for x in far]).isfinite().all()
