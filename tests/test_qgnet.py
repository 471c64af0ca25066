"""QGNet on ordinary encoders: every source of priors, every host, one switch at a time, and its three stages."""

import functools
import inspect
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch.overrides import TorchFunctionMode

import golden
import tiny_clip
import warm
from shotseg import encoders
from shotseg.cli import _parsed, main
from shotseg.data.images import write_png
from shotseg.data.samples import Episode
from shotseg.errors import InputError, UsageError
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet
from shotseg.models.pi_clip import PICLIP
from shotseg.models.qgnet import QGNet
from shotseg.priors.visual import max_cosine
from shotseg.reference import qgnet as reference
from shotseg.training import checkpoint
from shotseg.training.run import train
from training_miniature import TINY

TINY_RESNET = "timm:test_resnet"
SOURCES = ("dense", "region", "bank", "control", "none")


@functools.cache
def encoder(name=TINY):
    return encoders.load(name, weights="random")


def small(source="dense", **options) -> QGNet:
    options.setdefault("extractor", encoder(TINY_RESNET))
    return QGNet(encoder(), prior_source=source, width=16, segments=8, centres=4, size=64, **options)


def task(batch=2, shots=2, height=64, width=96) -> Episode:
    masks = torch.zeros(batch, shots + 1, height, width, dtype=torch.long)
    masks[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    images = torch.rand(batch, shots + 1, 3, height, width)
    return Episode(images[:, 0], images[:, 1:], torch.arange(batch), masks[:, 0], masks[:, 1:], ("dog", "cat")[:batch])


def answer(model, episode):
    with torch.no_grad():
        return model.eval().predict(episode)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_its_maps_and_reads_them_from_kept_features(source):
    model, episode = small(source), task()
    fresh = answer(model, episode)
    assert fresh.logits.shape == (2, 2, 64, 96) and fresh.logits.isfinite().all()
    assert fresh.extra["prior"].shape[1] == 1 + (source != "none")
    assert fresh.extra["prior"].min() >= 0 and fresh.extra["prior"].max() <= 1
    with torch.no_grad():
        kept = model.predict(episode, model.encode(episode.query), model.encode(episode.support.flatten(0, 1)))
    golden.assert_close("kept", kept.logits, fresh.logits, atol=1e-5)
    one = Episode(*(x[:1] for x in (episode.query, episode.support, episode.class_id)), None, episode.support_mask[:1])
    golden.assert_close("alone", answer(model, one).logits, fresh.logits[:1], atol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_training_reaches_both_projections_and_no_frozen_network(source):
    model, episode = small(source).train(), task()
    before = {n: b.clone() for n, b in model.named_buffers()}
    sum(model.loss(episode).values()).backward()
    for name, parameter in model.named_parameters():
        frozen = "encoder" in name.split(".") or "extractor" in name.split(".")
        assert parameter.requires_grad != frozen, name
        assert frozen == (parameter.grad is None), name
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())  # no batch statistic moves


def test_its_priors_come_from_a_network_of_their_own_unless_the_encoder_is_asked_for():
    model = QGNet(encoder(), width=16, size=64)
    assert model.untaught and model.extractor.body is not encoder() and model.extractor.body.name == encoder().name
    assert QGNet(encoder(), width=16, size=64, extractor="same").extractor is None


def test_a_training_without_an_extractor_is_refused_before_the_work(photos, tmp_path):
    flags = ("--extractor", "", "--model.options.extractor", "contrastive", "--model.options.width", "8")
    with pytest.raises(UsageError, match="learnt without labels"):
        train(settings("qgnet/tiny", *flags), photos / "labelled", tmp_path, device="cpu", say=lambda line: None)


def test_without_priors_it_is_pfenet():
    model, episode = small("none"), task()
    pfenet = PFENet(encoder(), width=16, size=64)
    pfenet.load_state_dict(model.host.state_dict())
    assert torch.equal(answer(model, episode).logits, answer(pfenet, episode).logits)


def test_a_pfenet_starts_a_qgnet_with_a_column_of_zeros():
    pfenet, model, episode = PFENet(encoder(), width=16, size=64), small(), task()
    state = pfenet.state_dict()
    for name in [name for name in state if "init_merge" in name]:
        state[name] = torch.cat([state[name], torch.zeros(16, 1, 1, 1)], 1)
    model.host.load_state_dict(state)
    golden.assert_close("logits", answer(model, episode).logits, answer(pfenet, episode).logits, atol=1e-5)


def test_the_same_shot_several_times_is_that_shot():
    model, once = small().eval(), task(1, 1)
    thrice = Episode(
        once.query, once.support.repeat(1, 3, 1, 1, 1), once.class_id, None, once.support_mask.repeat(1, 3, 1, 1)
    )
    golden.assert_close("logits", answer(model, thrice).logits, answer(model, once).logits, atol=1e-5)


@pytest.mark.parametrize("host", ["bam", "hdmnet"])
def test_other_hosts_take_the_prior_region_map_beside_their_own(host):
    own = 2 if host == "hdmnet" else 1
    options = {"base_classes": (3, 7, 9), "tokens": 16} if host == "hdmnet" else {}
    model, episode = small(host=host, **options), task()
    assert answer(model, episode).extra["prior"].shape[1] == own + 1
    sum(model.train().loss(episode).values()).backward()
    assert model.region.prior[0].weight.grad.abs().sum() > 0
    assert isinstance(model.host, HDMNet) == model.masks_input


def test_maps_of_pi_clip_take_the_place_of_the_guided_map():
    model, episode = small(prior_maps=3), task()
    with torch.no_grad():
        model.eval()
        given = torch.rand(2, 3, 9, 11)
        support = model.encode_support(episode.support, episode.support_mask)
        prediction = model(model.encode(episode.query), support, episode.query, priors=given)
    assert prediction.extra["prior"].shape[1] == 4
    clip = PICLIP(encoder(), clip=tiny_clip.pi_clip(), host="qgnet", width=16, extractor=encoder(TINY_RESNET))
    found = answer(clip, episode)
    assert found.extra["prior"].shape[1] == 3  # text, visual, prior region
    sum(clip.train().loss(episode).values()).backward()
    assert clip.host.region.query[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "names",
    [
        ("efficientnet-lite0", "timm:test_resnet"),
        ("vgg16-bn", "resnet50"),
        ("resnet50", "same"),
        ("timm:test_resnet", "timm:vit_tiny_patch16_224"),
    ],
)
def test_other_networks_carry_it(names):
    own, other = names
    extractor = other if other == "same" else encoder(other)
    model = QGNet(encoder(own), extractor=extractor, width=8, size=64)
    assert answer(model, task(1, 1, 64, 64)).logits.shape == (1, 2, 64, 64)


def test_a_map_without_range_is_no_noise_unless_asked_for():
    for flat, expected in ((2.0, True), (0.0, False)):
        region = small(flat=flat).region.eval()
        with torch.no_grad():
            found = region(torch.rand(1, 64, 4, 4), torch.rand(1, 96, 8, 8))
        assert bool((found == 0).all()) == expected


def test_nothing_left_to_be_guided_by_is_an_error():
    with pytest.raises(UsageError, match="choose one"):
        small("none", guided=False)
    assert answer(small(guided=False), task()).extra["prior"].shape[1] == 1


def test_the_similarities_never_take_more_than_their_memory():
    largest = [0]

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if torch.is_tensor(out) and out.dim() == 3:
                largest[0] = max(largest[0], out.numel() * out.element_size())
            return out

    assert inspect.signature(max_cosine).parameters["memory"].default == 256 * 2**20
    q, s = torch.randn(2, 8, 40, 40), torch.randn(2, 8, 40, 40)
    with Watch():
        chunked = max_cosine(q, s, memory=2**20)
    assert 0 < largest[0] <= 2**20  # one product is there at a time, and nothing else of its size
    assert torch.equal(chunked, max_cosine(q, s))


def test_published_keys_make_the_round_trip():
    model = QGNet(encoder("resnet50-v2"), extractor=encoder("resnet50"), width=8)
    named = model.state_dict()
    state = {theirs: named[own].clone() for own, theirs in reference.published_names(model).items()}
    state["down_learn_unsuper.0.weight"].fill_(0.5)
    reference.load(model, {f"module.{name}": tensor for name, tensor in state.items()})
    assert (model.region.prior[0].weight == 0.5).all()
    state.pop("layer4_unsuper.2.conv3.weight")
    with pytest.raises(InputError, match=r"layer4_unsuper\.2\.conv3\.weight"):
        reference.load(model, state)


# --- the three stages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four classes of shapes with masks, in two folds, and a folder of photos without labels."""
    root, stream = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = ["class,fold"]
    for number, name in enumerate(("disc", "square", "stripe", "cross")):
        rows.append(f"{name},{number // 2}")
        for i in range(8):
            dy, dx = abs(y - stream.integers(20, 44)), abs(x - stream.integers(20, 44))
            inside = [dy**2 + dx**2 < 100, (dy < 10) & (dx < 10), dy < 6, (dy < 4) | (dx < 4)][number]
            image = stream.integers(0, 90, (64, 64, 3)).astype(np.uint8)
            image[inside] = stream.integers(120, 255, 3)
            for kind, array in (("images", image), ("masks", inside.astype(np.uint8))):
                write_png(root / "labelled" / kind / name / f"{i}.png", array)
            write_png(root / "plain" / f"{name}{i}.png", image)
    (root / "labelled" / "index.csv").write_text("\n".join(rows) + "\n")
    return root


SHORT = ["--device", "cpu", "--model.encoder", TINY, "--model.weights", "random", "--data.held-out", "0.3"]
SHORT += ["--workers", "0", "--save-every", "2"]


def settings(name, *flags):
    return _parsed(["train", name, "--root", ".", "--out", ".", *SHORT, *flags]).settings


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """A contrastive recipe that takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(
        f"extends: contrastive/tiny\nmodel: {{encoder: {TINY}, size: 64, weights: random}}\ndata: {{held_out: 0.3}}\n"
        "batch: 4\nsteps: 2\nschedule: {warmup: 0}\n"
        "validation: {every: 2, episodes: 4}\ncontrastive: {dim: 16, bn_groups: 2}\n"
    )
    return str(path)


@pytest.mark.parametrize("source", ["dense", "bank"])
def test_one_command_trains_extractor_priors_and_model(photos, first_stage, tmp_path, source):
    said: list[str] = []
    flags = ["--model.size", "64", "--model.options.width", "8", "--steps", "2", "--validation.episodes", "2"]
    flags += ["--extractor", first_stage, "--unlabelled", str(photos / "plain"), "--batch", "2"]
    flags += ["--model.options.prior-source", source, "--model.options.centres", "4"]
    flags += ["--model.options.extractor", TINY, "--model.options.extractor-weights", "random"]
    recipe = settings("qgnet/tiny", *flags)
    run = {"device": "cpu", "say": said.append}
    stage = train(recipe, photos / "labelled", tmp_path, until="extractor", **run)
    assert stage.best.parent.name == "extractor" and not (tmp_path / "last.safetensors").exists()
    train(recipe, photos / "labelled", tmp_path, until="priors", **run)
    assert list((tmp_path / "features").iterdir()) and not (tmp_path / "last.safetensors").exists()
    assert (tmp_path / "priors" / "bank.safetensors").exists() == (source == "bank")
    outcome = train(recipe, photos / "labelled", tmp_path, **run)
    assert sum("trained first" in line for line in said) == 1 and any("is finished" in line for line in said)

    assert sum(line.startswith("priors: a bank") for line in said) == (source == "bank")
    if source == "bank":  # one of another extractor is made again
        bank = tmp_path / "priors" / "bank.safetensors"
        bank.write_bytes(save(load_file(bank), {"of": "another"}))
        train(recipe, photos / "labelled", tmp_path, until="priors", **run)
        assert sum(line.startswith("priors: a bank") for line in said) == 2

    model = checkpoint.load_model(outcome.best)
    learnt = checkpoint.read(tmp_path / "extractor" / "best.safetensors")[0]
    own = model.extractor.body.state_dict()
    for name, tensor in own.items():  # the momentum encoder is what the model carries, in its own file
        assert torch.equal(tensor, learnt[f"model.target.encoder.{name}"]), name
    assert answer(model, task(1, 1, 64, 64)).logits.shape == (1, 2, 64, 64)
    lines = [json.loads(line) for line in (tmp_path / "extractor" / "metrics.jsonl").read_text().splitlines()]
    figures = {name for line in lines for name in line}
    assert {"figure.alignment", "figure.uniformity", "figure.top1", "waited", "gg", "ll", "gl"} <= figures
    first = next(line for line in lines if "gg" in line)
    assert first["loss"] == pytest.approx(first["gg"] + first["ll"] + first["gl"], abs=1e-4)
    assert len(next(line for line in lines if "per_class" in line)["per_class"]) == 2  # neighbours, prior map


def test_photos_of_test_classes_are_not_learnt_from(photos, first_stage):
    from shotseg.training.contrastive import collect

    flags = ("--unlabelled", str(photos / "plain"))
    strict = {item.image_path.stem[:-1] for item in collect(settings(first_stage, *flags), photos / "labelled").train}
    assert strict == {"stripe", "cross"}
    loose = collect(settings(first_stage, *flags, "--data.novel", "keep"), photos / "labelled").train
    assert {item.image_path.stem[:-1] for item in loose} == {"disc", "square", "stripe", "cross"}


def test_the_extractor_trains_on_photos_alone_and_resumes_to_the_same_weights(photos, first_stage, tmp_path):
    flags = ("--data.name", "images", "--contrastive.objective", "patches", "--steps", "3", "--validation.every", "3")
    run = {"device": "cpu", "say": lambda line: None}
    train(settings(first_stage, *flags), photos / "plain", tmp_path / "whole", **run)

    from shotseg.training import loop

    class Killed(Exception):
        pass

    def kill(*arguments):
        raise Killed

    recipe = settings(first_stage, *flags)
    with pytest.MonkeyPatch.context() as patch:
        validate = loop._validate
        patch.setattr(loop, "_validate", kill)  # at the end of step 3; the last checkpoint is of step 2
        with pytest.raises(Killed):
            train(recipe, photos / "plain", tmp_path / "killed", **run)
        patch.setattr(loop, "_validate", validate)
        outcome = train(recipe, photos / "plain", tmp_path / "killed", resume=True, **run)
    assert outcome.steps == 3
    ours, theirs = (checkpoint.read(tmp_path / name / "last.safetensors")[0] for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(list((tmp_path / "whole" / "superpixels").iterdir())) > 10


def test_two_processes_put_the_keys_of_both_into_the_queue(photos, first_stage, tmp_path):
    verb = ["train", first_stage, "--root", str(photos / "plain"), "--out", str(tmp_path), "--device", "cpu"]
    flags = ["--data.name", "images", "--batch", "4", "--contrastive.queue", "16", "--contrastive.bn-groups", "1"]
    warm.group(tmp_path, 2, main, [*verb, *flags])
    tensors, about = checkpoint.read(tmp_path / "last.safetensors")
    assert about["step"] == 2 and tensors["model.pointer"].tolist() == [8, 8]  # 2 steps of 4 keys, 2 a process
    keys = tensors["model.queue_global"][:, :8].T
    assert torch.allclose(keys.norm(dim=1), torch.ones(8), atol=1e-4)
    assert len({tuple(key.tolist()) for key in keys}) == 8


def test_an_extractor_of_another_network_names_its_tensor(photos, first_stage, tmp_path):
    run = {"device": "cpu", "say": lambda line: None}
    file = train(settings(first_stage, "--data.name", "images"), photos / "plain", tmp_path / "a", **run).best
    recipe = settings("qgnet/tiny", "--extractor", str(file), "--model.options.extractor", "timm:resnet18")
    with pytest.raises(InputError, match="conv1"):
        train(recipe, photos / "labelled", tmp_path / "b", **run)
