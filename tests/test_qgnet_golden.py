"""QGNet, the FEM, MoCo's step and the contrastive losses replay the authors' own code."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

import golden
from shotseg import encoders
from shotseg.data.samples import Episode
from shotseg.data.transforms import keeping_crop
from shotseg.encoders.features import Encoder, Features
from shotseg.models.blocks.prior_guided import cross_entropy, resize
from shotseg.models.pfenet import FEM
from shotseg.models.qgnet import QGNet
from shotseg.reference import qgnet as reference
from shotseg.training.loop import learning_rate
from shotseg.training.recipe import Schedule


def filled(order: list, seed: int) -> dict[str, torch.Tensor]:
    """The weights that the README of the golden folder describes, under the authors' names."""
    rng, state = np.random.default_rng(seed), {}
    for name, shape in order:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        u = rng.random(shape)
        if name.endswith("running_var"):
            u = 0.5 + u
        elif name.endswith(("running_mean", "bias")):
            u = 0.2 * (u - 0.5)
        elif len(shape) == 1:
            u = 0.5 + 0.5 * u
        else:
            u = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(u.astype(np.float32))
    return state


def trainable() -> dict[str, torch.Tensor]:
    manifest = golden.load_json(golden.folder("qgnet") / "trainable_manifest.json")
    return filled([(name, manifest["tensors"][name]["shape"]) for name in manifest["order"]], manifest["seed"])


class Feeder(Encoder):
    """The golden files' features in place of a network: no weights, layer 4 without any."""

    strides, channels, patch, name = (4, 8, 8, 8), (256, 512, 1024, 2048), 8, "feeder"

    def __init__(self):
        super().__init__((0.0,) * 3, (1.0,) * 3)

    def last_stage(self, tap: torch.Tensor) -> torch.Tensor:
        return torch.cat([(tap - 0.1).relu(), (0.3 - tap).relu()], 1)

    def features(self, f2: torch.Tensor, f3: torch.Tensor) -> Features:
        low = torch.zeros(len(f2), 256, 1, 1)  # no model reads it
        return Features((low, f2, f3, self.last_stage(f3)), self.strides)


class PriorFeeder(Encoder):
    strides, channels, name = (8,), (2048,), "prior feeder"

    def __init__(self):
        super().__init__((0.0,) * 3, (1.0,) * 3)


def features(rng, shape) -> torch.Tensor:
    batch, channels, height, width = shape
    proto, noise = rng.random((batch, channels, 3, 3)), rng.random(shape)
    y, x = np.arange(height) * 3 // height, np.arange(width) * 3 // width
    return torch.from_numpy(np.maximum(0, proto[:, :, y[:, None], x[None, :]] + 0.5 * noise - 0.75).astype(np.float32))


def whole(path):
    """Stored values, model, query features, support features, support masks and target of a whole-model file."""
    stored = golden.npz(path)
    meta = json.loads(str(stored["meta"]))
    prior = not path.stem.startswith("pfenet")
    crop, batch, shots = meta.get("crop", 65), meta.get("batch", 2), meta["shot"]
    side = (crop - 1) // 8 + 1
    feeder = Feeder()
    source = {"prior_source": "dense", "extractor": PriorFeeder()} if prior else {"prior_source": "none"}
    scales = meta.get("ppm_scales", [9, 5, 3, 2])
    model = QGNet(feeder, flat=0.0, keep_small=False, grid="layer3", scales=as_released(scales), **source)
    if prior:
        state = trainable()
    else:
        state = filled(meta["order"], meta["weight_seed"])
        golden.assert_close(
            "weights", [state[name].double().sum() for name, _ in meta["order"]], meta["sums"], atol=1e-3
        )
    reference.load(model, state)
    rng = np.random.default_rng(meta["feat_seed"])
    query = feeder.features(features(rng, (batch, 512, side, side)), features(rng, (batch, 1024, side, side)))
    if prior:
        query = Features((*query.maps, features(rng, (batch, 2048, side, side))), (*query.strides, 8))
    shot = [[features(rng, (batch, channels, side, side)) for channels in (512, 1024)] for _ in range(shots)]
    f2, f3 = (torch.stack(level, 1).flatten(0, 1) for level in zip(*shot))
    masks = torch.from_numpy(stored["s_mask"]).long()
    return stored, meta, model.eval(), query, feeder.features(f2, f3), masks, torch.from_numpy(stored["y"]).long()


def as_released(scales) -> list:
    return [float(scale) if scale <= 1 else int(scale) for scale in scales]


def predicted(model, query, support, masks, crop):
    images = torch.zeros(*masks.shape[:2], 3, crop, crop)
    return model(query, model.encode_support(images, masks, support), images[:, 0])


def close(name, ours, theirs) -> None:
    """Logits: relative to their largest; maps and categories: 1e-5."""
    largest = max(1.0, float(np.abs(theirs).max()))
    logits = "logits" in name or "inner" in name
    golden.assert_close(name, ours, theirs, atol=1e-4 * largest if logits else 1e-5)


WHOLE = golden.files("qgnet", "qgnet_*_eval.npz") + golden.files("qgnet", "pfenet_*_eval.npz")


@pytest.mark.parametrize("path", WHOLE)
def test_the_whole_model_gives_the_authors_values(path):
    stored, meta, model, query, support, masks, target = whole(path)
    with torch.no_grad():
        prediction = predicted(model, query, support, masks, target.shape[-1])
    extra = prediction.extra
    last = extra["low_logits"] if meta.get("zoom") == 1 else prediction.logits
    ours = {"logits": last, "category": extra["prototype"], "guided_map": extra["prior"][:, :1]}
    ours |= {"prior_map": extra["prior"][:, 1:], "cls_logits": extra["low_logits"]}
    ours |= {f"inner_{i}": extra[f"inner{i}"] for i in range(len(model.host.decoder.scales))}
    for name, value in ours.items():
        if name in stored:
            close(name, value, stored[name])
    if "val_loss" in stored:
        golden.assert_close("val_loss", cross_entropy(last, target), stored["val_loss"], atol=1e-5)


@pytest.mark.parametrize("path", golden.files("qgnet", "qgnet_*shot_train.npz"))
def test_losses_and_gradients_are_the_authors(path):
    stored, _, model, query, support, masks, target = whole(path)
    for module in model.train().modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    prediction = predicted(model, query, support, masks, target.shape[-1])
    losses = model.losses(prediction, target)
    golden.assert_close("main", losses["main"], stored["main_loss"], atol=1e-5)
    golden.assert_close("aux", losses["aux"], stored["aux_loss"], atol=1e-5)
    assert (prediction.logits.argmax(1).numpy() == stored["pred"]).mean() > 0.999
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    ours = {theirs: parameters[own] for own, theirs in reference.published_names(model).items()}
    assert set(ours) == set(stored["grad_names"].tolist())
    for i, name in enumerate(stored["grad_names"]):
        gradient, norm = ours[name].grad.double(), stored["grad_norm"][i]
        golden.assert_close(f"norm of {name}", gradient.norm(), norm, atol=0, rtol=1e-3)
        size = max(norm, 1e-6)
        golden.assert_close(f"sum of {name}", gradient.sum() / size, stored["grad_sum"][i] / size, atol=2e-2)
        head = gradient.flatten()[:4]
        golden.assert_close(f"head of {name}", head / size, stored["grad_head4"][i][: len(head)] / size, atol=1e-4)


@pytest.mark.parametrize("path", golden.files("qgnet", "utils*.npz"))
def test_rates_and_crops_are_those_of_the_release(path):
    stored = golden.npz(path)
    for base, it, steps, warmup, warmup_steps, rate in stored["poly_lr"].tolist():
        schedule = Schedule("poly", 0.9, int(warmup_steps) if warmup else 0)
        ours = 10 * base * learning_rate(int(it) - 1, int(steps), schedule)  # the release's hidden factor
        assert ours == pytest.approx(rate, rel=1e-6), (it, steps, warmup)
    cases = [name.removesuffix("_out_img") for name in stored if name.startswith("crop_") and name.endswith("_out_img")]
    assert cases
    for case in cases:
        random.seed(3)
        pixels = torch.from_numpy(stored[f"{case}_in"]).permute(2, 0, 1) / 255
        mask = torch.from_numpy(stored[f"{case}_lab"])
        size = stored[f"{case}_out_lab"].shape[0]
        image, label = keeping_crop(pixels, mask, lambda most: random.randint(0, most), size)
        golden.assert_close(f"{case} label", label, stored[f"{case}_out_lab"], atol=0)
        golden.assert_close(case, image.permute(1, 2, 0) * 255, stored[f"{case}_out_img"], atol=1e-3)
        golden.assert_close(f"{case} sum", image.double().sum() * 255, stored[f"{case}_out_sum"], rtol=1e-6)


@pytest.mark.parametrize("path", golden.files("qgnet", "fem_decoder*.npz"))
def test_the_decoder_gives_the_authors_values(path):
    stored, state = golden.npz(path), trainable()
    query, category = (torch.from_numpy(stored[name]) for name in ("query_feat", "category"))
    maps = torch.from_numpy(np.concatenate([stored["guided_map"], stored["prior_map"]], 1))
    variants = [name.removesuffix("_scales") for name in stored if name.endswith("_scales")]
    assert variants
    for variant in variants:
        decoder = FEM(maps=2, scales=as_released(stored[f"{variant}_scales"].tolist())).eval()
        decoder.load_state_dict({name: state[name] for name in decoder.state_dict()})
        with torch.no_grad():
            out = decoder(query, category, maps)
        for i, inner in enumerate(out.inner):
            close(f"{variant}_inner_{i}", inner, stored[f"{variant}_inner_{i}"])
            for channel, name in enumerate(("guided", "prior")):
                small = resize(maps[:, channel : channel + 1], inner.shape[-2:])
                close(f"{variant} {name} {i}", small, stored[f"{variant}_{name}_bin_{i}"])
        golden.assert_close("fused", out.fused[:, ::8], stored[f"{variant}_cls_in"], atol=1e-4)
        close(f"{variant}_cls_logits", out.logits, stored[f"{variant}_cls_logits"])
        close(
            f"{variant}_logits", resize(out.logits, stored[f"{variant}_logits"].shape[-2:]), stored[f"{variant}_logits"]
        )


@pytest.mark.parametrize("path", golden.files("qgnet", "trainable_manifest*.json"))
def test_the_weights_of_the_recipe_are_those_of_the_manifest(path):
    manifest, state = golden.load_json(path), trainable()
    for name, about in manifest["tensors"].items():
        tensor = state[name].double()
        golden.assert_close(name, tensor.sum(), about["sum"], atol=1e-3)
        golden.assert_close(name, tensor.abs().sum(), about["abs_sum"], atol=1e-3)
        head = tensor.flatten()[:4]
        golden.assert_close(name, head, about["head"][: len(head)], atol=1e-7)


def published_model(**options) -> QGNet:
    """The authors' networks, input not normalised."""
    made = [encoders.load(name, weights="random") for name in ("resnet50-v2", "resnet50")]
    for encoder in made:
        encoder.mean.zero_()
        encoder.std.fill_(1)
    return QGNet(made[0], extractor=made[1], reference=True, **options)


@pytest.mark.parametrize("path", golden.files("qgnet", "full_manifest*.json"))
def test_our_names_and_shapes_are_the_authors(path):
    model = published_model()
    own, names = model.state_dict(), reference.published_names(model)
    ours = {theirs: list(own[mine].shape) for mine, theirs in names.items()}
    assert ours == dict(golden.load_json(path)["order"])


def image(rng, shape) -> torch.Tensor:
    i, coarse = np.arange(shape[-1]) * 8 // shape[-1], rng.random((*shape[:-2], 8, 8))
    x = (coarse[..., i[:, None], i[None, :]] - 0.5) * 4 + (rng.random(shape) - 0.5)
    return torch.from_numpy(x.astype(np.float32))


def taps_of(model, images) -> dict[str, torch.Tensor]:
    """What the authors' stages give."""
    found = {f"layer{i}": m for i, m in enumerate(model.host.encoder(images).maps)}
    net = model.extractor.body.net
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    found["layer0_unsuper"] = x
    for i in range(1, 5):
        x = net.get_submodule(f"layer{i}")(x)
        found[f"layer{i}_unsuper"] = x
    return found


@pytest.mark.parametrize("path", golden.files("qgnet", "qgnet_full_*.npz"))
def test_both_resnets_give_the_authors_values_and_drifting_statistics(path):
    stored = golden.npz(path)
    meta = json.loads(str(stored["meta"]))
    manifest = golden.load_json(path.parent / "full_manifest.json")
    model = published_model(scales=meta["ppm_scales"])
    reference.load(model, filled(manifest["order"], meta["weight_seed"]))
    rng, n = np.random.default_rng(meta["input_seed"]), meta["crop"]
    query, support = (image(rng, (meta["batch"], *extra, 3, n, n)) for extra in ((), (meta["shot"],)))
    masks, target = torch.from_numpy(stored["s_mask"]).long(), torch.from_numpy(stored["y"]).long()
    episode = Episode(query, support, torch.zeros(len(query), dtype=torch.long), target, masks)
    with torch.no_grad():
        prediction = model.eval().predict(episode)
        close("logits", prediction.logits, stored["logits"])
        # guided and prior maps: 15 layers of float32 lie between them and the input
        golden.assert_close("guided_map", prediction.extra["prior"][:, :1], stored["guided_map"], atol=1e-4)
        golden.assert_close("prior_map", prediction.extra["prior"][:, 1:], stored["prior_map"], atol=1e-4)
        for call, images in enumerate((query, support[:, 0])):
            for name, x in taps_of(model, images).items():
                if f"eval_{name}_call{call}" in stored and not (name == "layer4" and call):  # there of masked features
                    ours = x[:, :: max(1, x.shape[1] // 16), ::2, ::2]
                    scale = float(stored[f"eval_{name}_call{call}_absmean"])
                    golden.assert_close(f"{name} {call}", ours, stored[f"eval_{name}_call{call}"], atol=1e-4 * scale)
                    golden.assert_close(f"mean of {name}", x.abs().mean(), scale, atol=1e-4 * scale)
    for module in model.train().modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    with torch.no_grad():
        prediction = model.predict(episode)
    losses = model.losses(prediction, target)
    golden.assert_close("main", losses["main"], stored["train_main"], atol=1e-3)
    golden.assert_close("aux", losses["aux"], stored["train_aux"], atol=1e-3)
    # Batch statistics as well: how convolutions round differs between processors, by up to 1.6e-4 of a map here (AVX2).
    golden.assert_close("guided", prediction.extra["prior"][:, :1], stored["train_guided_map"], atol=5e-4)
    golden.assert_close("prior", prediction.extra["prior"][:, 1:], stored["train_prior_map"], atol=5e-4)
    state = model.state_dict()
    ours = {theirs: state[own] for own, theirs in reference.published_names(model).items()}
    kinds = {"train_rm_": "running_mean", "train_rv_": "running_var", "train_nbt_": "num_batches_tracked"}
    for name, value in stored.items():
        for prefix, leaf in kinds.items():
            if name.startswith(prefix):
                golden.assert_close(name, ours[f"{name.removeprefix(prefix)}.{leaf}"], value, atol=1e-5, rtol=1e-4)
