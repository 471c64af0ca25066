"""Contrastive learning of the prior extractor: MoCo's step and the terms replayed, views, queues, probes, its layout."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import golden
from shotseg import encoders
from shotseg.data.reading import Reading
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import InputError
from shotseg.models.qgnet import PriorExtractor
from shotseg.priors import bank
from shotseg.reference import qgnet as reference
from shotseg.training import contrastive, momentum
from shotseg.training import recipe as recipes
from shotseg.training.contrastive import average_precision, collect, prior_map
from shotseg.training.contrastive_loss import global_local, region_terms, terms
from shotseg.training.contrastive_views import Superpixels, Views, candidates, enlarged, segment, views
from shotseg.training.data import generator
from shotseg.training.momentum import Contrastive, logits, nce
from shotseg.training.progress import FIGURE
from shotseg.training.recipe import ContrastiveChoice


class Tiny(Encoder):
    """Two convolutions on images as they are; with one, the encoder of the golden step."""

    patch, name = 4, "tiny"

    def __init__(self, widths=(6,)):
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.strides, self.channels = tuple(2 ** (i + 1) for i in range(len(widths))), tuple(widths)
        self.before_last = max(-2, -len(widths))
        ends = zip((3, *widths), widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in ends)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths)

    def extract(self, x):
        maps = []
        for conv, norm in zip(self.convs, self.norms):
            x = norm(conv(x)).relu()
            maps.append(x)
        return Features(tuple(maps), self.strides)


def network(queue=16, widths=(6, 8), **choice) -> Contrastive:
    return Contrastive(Tiny(widths), ContrastiveChoice(dim=8, bn_groups=1, **choice), queue)


def batch(count=4, side=16) -> Views:
    x = torch.rand(4, count, 3, side, side)
    return Views(*x)


@pytest.mark.parametrize("path", golden.files("qgnet", "moco_step*.npz"))
def test_two_steps_are_those_of_moco(path):
    stored = {name: torch.from_numpy(v) for name, v in golden.npz(path).items() if v.dtype.kind in "fi"}
    meta = json.loads(str(golden.npz(path)["meta"]))
    choice = ContrastiveChoice(
        dim=meta["dim"], mlp=meta["mlp"], momentum=meta["m"], temperature=meta["T"], ll=0, gl=0, bn_groups=1
    )
    model = Contrastive(Tiny(), choice, meta["K"]).train()
    for side, branch in (("q", model.online), ("k", model.target)):
        prefix = f"init/encoder_{side}."
        own = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        names = {"conv.": "encoder.convs.0.", "bn.": "encoder.norms.0.", "fc.": "head."}
        renamed = {}
        for name, value in own.items():
            start = next(start for start in names if name.startswith(start))
            renamed[name.replace(start, names[start], 1)] = value
        branch.load_state_dict(renamed)
    model.queue_global.copy_(stored["init/queue"])
    steps = sorted({name.split("/")[0] for name in stored} - {"init"})
    assert len(steps) >= 2
    for step in steps:
        images, keys = stored[f"{step}/im_q"], stored[f"{step}/im_k"]
        before = model.queue("global")
        losses = terms(model, Views(images, keys))
        parameters = [p for p in model.online.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(losses["gg"], parameters)
        golden.assert_close("gradient", gradients[0], stored[f"{step}/grad_q_conv"], atol=1e-5)
        golden.assert_close("loss", losses["gg"], stored[f"{step}/loss"], atol=1e-5)
        golden.assert_close("queue", model.queue_global, stored[f"{step}/queue"])
        assert int(model.pointer[0]) == int(stored[f"{step}/ptr"][0])
        golden.assert_close("key head", model.target.head[2].weight, stored[f"{step}/k_fc2_weight"])
        golden.assert_close("key statistics", model.target.encoder.norms[0].running_mean, stored[f"{step}/k_bn_rm"])
        golden.assert_close("statistics", model.online.encoder.norms[0].running_mean, stored[f"{step}/q_bn_rm"])
        newest = model.queue_global.T[int(stored[f"{step}/ptr"][0]) - len(images) :][: len(images)]  # the step's keys
        found = logits(with_batch_statistics(model.online, images), newest, before, meta["T"])
        golden.assert_close("logits", found, stored[f"{step}/logits"])
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter -= meta["sgd_lr_between_steps"] * gradient


def with_batch_statistics(branch, images):
    """The embeddings of a training step, the running statistics untouched."""
    with torch.no_grad():
        return copy.deepcopy(branch)(images)[0]


@pytest.mark.parametrize("path", golden.files("qgnet", "glcl_worked_example*.npz"))
def test_the_global_local_terms_are_those_of_the_worked_example(path):
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in golden.npz(path).items()}
    g1, g2, l1, l2 = (stored[name] for name in ("zq_g1", "zk_g2", "zq_l1", "zk_l2"))
    apart = {"": (stored["queue_g"].T, stored["queue_l"].T)}
    both = torch.cat([stored["queue_g"], stored["queue_l"]]).T
    apart["shared_"] = (both, both)
    found = sorted(name for name in stored if name.startswith(("gg_", "shared_gg_")))
    assert found
    for name in found:
        prefix, tau = name.split("gg_")
        t, (queue_g, queue_l) = float(tau), apart[prefix]
        ours = {
            "gg": nce(g1, g2, queue_g, t),
            "ll": nce(l1, l2, queue_l, t),
            "gl": nce(g1, l2, queue_l, t),
            "lg": nce(l1, g2, queue_g, t),
        }
        cross = global_local(g1, l1, g2, l2, queue_g, queue_l, t)
        ours["total"] = ours["gg"] + ours["ll"] + cross
        golden.assert_close("half of both", cross, (ours["gl"] + ours["lg"]) / 2, atol=1e-12)
        for term, value in ours.items():
            if f"{prefix}{term}_{tau}" in stored:
                golden.assert_close(f"{prefix}{term}_{tau}", value, stored[f"{prefix}{term}_{tau}"], atol=1e-9)


@pytest.mark.parametrize("path", golden.files("qgnet", "moco_loader*.json"))
def test_the_backbone_of_a_moco_file_is_read_with_and_without_its_prefix(path):
    listed = golden.load_json(path)
    net = encoders.load("resnet50", weights="random").net
    own = net.state_dict()
    assert set(listed["loaded"]) | set(listed["left_at_init"]) == set(own)
    head = {f"encoder_k.fc.{i}.weight": torch.zeros(2) for i in (0, 2)} | {
        "queue": torch.zeros(2),
        "queue_ptr": torch.zeros(1),
    }
    query = {f"encoder_q.{name}": torch.zeros(1) for name in listed["loaded"]}
    state = query | {f"encoder_k.{name}": own[name] for name in listed["loaded"]} | head
    for prefix in ("module.", ""):  # the release reads nothing from the second, and does not say so
        found = reference.moco_backbone({prefix + name: tensor for name, tensor in state.items()})
        assert set(found) == set(listed["loaded"])
        assert all(torch.equal(found[name], own[name]) for name in found)


def test_what_moco_is_written_as_is_read_back(tmp_path):
    model = Contrastive(encoders.load("timm:resnet18", weights="random"), ContrastiveChoice(dim=8), 16)
    nn.init.normal_(model.target.encoder.net.conv1.weight)
    reference.write_moco(model, tmp_path / "checkpoint_0003.pth.tar", epoch=3)
    stored = torch.load(tmp_path / "checkpoint_0003.pth.tar", weights_only=True)["state_dict"]
    assert list(stored)[-2:] == ["module.queue", "module.queue_ptr"]
    keys = [name for name in stored if name.startswith("module.encoder_k.")]
    assert keys[-1].startswith("module.encoder_k.fc.") and len(keys) == len(model.target.state_dict()) - 2
    fresh = encoders.load("timm:resnet18", weights="random")
    reference.load_moco(fresh, tmp_path / "checkpoint_0003.pth.tar")
    for name, tensor in fresh.net.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, model.target.encoder.net.state_dict()[name]), name
    with pytest.raises(InputError, match="conv1"):
        reference.load_moco(fresh, {name: t for name, t in stored.items() if "conv1" not in name})
    with pytest.raises(InputError, match="no backbone"):
        reference.load_moco(fresh, {"module.queue": torch.zeros(1)})


def test_random_pairs_cost_the_logarithm_of_all_at_high_temperature():
    q, k, queue = (F.normalize(torch.randn(shape), dim=1) for shape in ((64, 16), (64, 16), (255, 16)))
    assert nce(q, k, queue.T, 1e4) == pytest.approx(math.log(256), abs=1e-2)


def test_the_queue_is_a_ring():
    model = network(queue=6)
    keys = F.normalize(torch.randn(3, 4, 8), dim=2)
    for part in keys:
        model.enqueue(part, "global")
    assert int(model.pointer[0]) == 0
    golden.assert_close("newest", model.queue_global.T[2:], keys[2])
    golden.assert_close("before", model.queue_global.T[:2], keys[1][2:])


def test_the_target_follows_in_its_weights_and_not_in_its_statistics():
    model = network(momentum=0.75).train()
    statistics = model.target.encoder.norms[0].running_mean.clone()
    with torch.no_grad():
        model.online.encoder.norms[0].running_mean += 5
        model.online.head[2].bias += 1
    before = model.target.head[2].bias.clone()
    model.follow()
    golden.assert_close("bias", model.target.head[2].bias, before + 0.25)
    assert torch.equal(model.target.encoder.norms[0].running_mean, statistics)


@pytest.mark.parametrize("left", ["gg", "ll", "gl"])
def test_each_term_can_be_left_out(left):
    model = network(**{left: 0.0}).train()
    found = {name for name in terms(model, batch()) if not name.startswith(FIGURE)}
    assert found == {"gg", "ll", "gl"} - {left}


def test_gradients_reach_the_online_branch_alone_and_figures_have_none():
    model = network(local_head="separate").train()
    losses = contrastive.ContrastiveTraining.loss(model, batch())
    learnt = [value for name, value in losses.items() if not name.startswith(FIGURE)]
    assert not any(value.requires_grad for name, value in losses.items() if name.startswith(FIGURE))
    sum(learnt).backward()
    assert all(p.grad is not None for p in model.online.parameters())
    assert all(p.grad is None for p in model.target.parameters())


def test_batch_statistics_move_in_training_and_in_groups_of_their_own():
    model = network(ll=0.0, gl=0.0).train()
    x = torch.cat([torch.rand(2, 3, 16, 16), 5 + torch.rand(2, 3, 16, 16)])
    whole = momentum.in_groups(model.online, x, 1, False)[0]
    apart = momentum.in_groups(model.online, x, 2, False)[0]
    assert not torch.allclose(whole, apart, atol=1e-3)
    assert int(model.online.encoder.norms[0].num_batches_tracked) == 3
    model.eval()
    assert not model.online.encoder.norms[0].training


def test_shuffled_keys_come_back_in_order():
    model = network().eval()
    x = torch.rand(6, 3, 16, 16)
    golden.assert_close("keys", model.key(x)[0], model.target(x)[0])


def photo(height=120, width=160) -> np.ndarray:
    image = np.full((height, width, 3), 40, np.uint8)
    image[20:80, 30:90] = (220, 60, 60)
    image[60:110, 100:150] = (60, 220, 60)
    return image


@pytest.mark.parametrize("kind", ["slic", "felzenszwalb", "grid", "none"])
@pytest.mark.parametrize("pairing", ["image", "segment"])
def test_views_depend_on_the_stream_alone(kind, pairing):
    choice = ContrastiveChoice(segments=kind, pairing=pairing, superpixels=8, local_size=32)
    labels = None if kind == "none" else torch.from_numpy(segment(photo(), kind, 8))
    one, two, other = (views(photo(), labels, choice, 64, generator(seed)) for seed in (0, 0, 1))
    assert one.query.shape == (1, 3, 64, 64) and one.local_key.shape == (1, 3, 32, 32)
    for name in ("query", "key", "local_query", "local_key"):
        x = getattr(one, name)
        assert torch.equal(x, getattr(two, name)) and not torch.equal(x, getattr(other, name))
        assert x.min() >= 0 and x.max() <= 1 + 1e-5


def test_patches_come_from_superpixels_of_middle_size():
    labels = torch.zeros(120, 160, dtype=torch.long)
    labels[20:80, 30:90], labels[5:10, 5:10] = 1, 2
    assert candidates(labels, (240, 320)) == {1: (40, 60, 120, 120)}  # 0 has 80 % of the area, 2 is tiny
    assert enlarged((40, 60, 120, 120), (240, 320)) == (22, 42, 156, 156)
    assert enlarged((0, 0, 100, 200), (110, 210)) == (0, 0, 110, 210)


def test_regions_are_the_same_places_in_both_views():
    choice = ContrastiveChoice(objective="region")
    image = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 40, 0), 40, 1)
    labels = torch.from_numpy(image)
    seen = views(np.repeat(image[..., None].astype(np.uint8) * 16, 3, 2), labels, choice, 64, generator(3))
    numbers = set(seen.query_regions.unique().tolist()) & set(seen.key_regions.unique().tolist()) - {0}
    assert numbers == set(range(1, len(numbers) + 1)) and numbers
    assert seen.apart.shape == (1, 16, 16) and seen.apart[0].all()  # cells of a grid do not overlap


def test_regions_of_the_same_photo_are_told_apart_unless_they_overlap():
    model = network(objective="region").train()
    regions = torch.zeros(2, 8, 8, dtype=torch.long)
    regions[:, :4], regions[:, 4:] = 1, 2
    apart = torch.ones(2, 16, 16, dtype=torch.bool)
    images = torch.rand(2, 3, 16, 16)
    data = Views(images, images, query_regions=regions, key_regions=regions, apart=apart)
    (q, q_map), (k, k_map) = model.query(images), model.key(images)
    strict = region_terms(model, data, q, k, q_map, k_map)[0]
    eased = Views(**vars(data) | {"apart": torch.eye(16, dtype=torch.bool).expand(2, 16, 16)})
    assert region_terms(model, eased, q, k, q_map, k_map)[0] < strict
    found = terms(model, data)
    assert {name for name in found if not name.startswith(FIGURE)} == {"gg", "ll", "gl"}
    empty = Views(**vars(data) | {"query_regions": torch.zeros_like(regions)})
    assert float(terms(model, empty)["ll"].detach()) == 0


def test_a_prior_map_shows_what_is_unlike_the_border():
    x = torch.zeros(1, 4, 8, 8)
    x[:, 0], x[:, 0, 3:5, 3:5], x[:, 1, 3:5, 3:5] = 1, 0, 1
    target = torch.zeros(64, 64, dtype=torch.long)
    target[24:40, 24:40] = 1
    assert prior_map(x)[0, 0, 3, 3] == pytest.approx(1) and prior_map(x)[0, 0, 0, 0] == 0
    assert average_precision(prior_map(x)[0], target) > 0.9
    assert average_precision(torch.rand(1, 64, 64), target) < 0.2


def test_a_bank_finds_the_directions_and_which_are_of_the_border():
    directions = torch.eye(3).repeat_interleave(20, 0) + 0.05 * torch.randn(60, 3)
    touches = torch.arange(60) < 20
    centres, objectness = bank.build(F.normalize(directions, dim=1), touches, 3, generator(0))
    first = centres.argmax(1).tolist()
    assert sorted(first) == [0, 1, 2]
    golden.assert_close("objectness", objectness, [0.0 if i == 0 else 1.0 for i in first])
    labels = torch.zeros(6, 6, dtype=torch.long)
    labels[2:4, 2:4] = 7
    vectors, marks = bank.region_vectors(torch.rand(5, 6, 6), labels)
    assert vectors.shape == (2, 5) and marks.tolist() == [True, False]
    kept = bank.sampled(((torch.full((10, 2), float(i)), torch.zeros(10)) for i in range(10)), generator(0), most=30)
    assert kept[0].shape == (30, 2)


def test_a_resnet_keeps_its_grid_as_an_extractor():
    x = torch.rand(1, 3, 64, 64)
    for name in ("resnet50", "timm:test_resnet"):
        assert PriorExtractor(encoders.load(name, weights="random"))(x).shape[-2:] == (8, 8)
        assert PriorExtractor(encoders.load(name, weights="random"), dilate=False)(x).shape[-2:] == (2, 2)


def test_each_page_of_a_stack_is_a_photo_to_learn_from_or_the_one_that_is_chosen(tmp_path):
    pages = [Image.fromarray(np.full((40, 40, 3), 20 * n, np.uint8)) for n in range(1, 9)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "moving.gif", save_all=True, append_images=pages[1:3])
    pages[0].save(tmp_path / "one.png")
    flags = {"data": {"name": "images", "held_out": 0.4}}
    with pytest.warns(match="each page of a stack is a photo to learn from: moving.gif, stack.tif"):
        found = collect(recipes.load("contrastive/tiny", **flags), tmp_path)
    photos = [*found.train, *found.held_out]
    assert len(photos) == 8 + 3 + 1 and len({photo.content for photo in photos}) == 12
    seen = {int(Reading().page_of(photo).max()) for photo in photos if photo.image_path.suffix == ".tif"}
    assert seen == {20 * n for n in range(1, 9)}
    superpixels = Superpixels(tmp_path / "kept", ContrastiveChoice())
    assert len({superpixels.path(photo) for photo in photos}) == 12
    for n in range(6):
        pages[n].save(tmp_path / f"{n}.tif", save_all=True, append_images=pages[6:])
    (tmp_path / "one.png").unlink()
    found = collect(recipes.load("contrastive/tiny", data={**flags["data"], "reading": {"page": 2}}), tmp_path)
    assert {(photo.page, photo.pages) for photo in (*found.train, *found.held_out)} == {(2, 1)}


def test_a_photo_that_cannot_be_read_is_left_out_and_the_others_are_learnt_from(tmp_path):
    for n in range(8):
        Image.fromarray(np.full((40, 40, 3), 20 * n, np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0torn")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.warns() as said:
        found = collect(recipes.load("contrastive/tiny", data={"name": "images", "held_out": 0.4}), tmp_path)
    assert len(found.train) + len(found.held_out) == 8
    assert all(any(name in str(line.message) for line in said) for name in ("torn.jpg", "empty.png"))
