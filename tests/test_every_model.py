"""One contract for every name of ``list_models()``. What a test leaves out stands in ``LEFT_OUT``, with the reason."""

import copy
import dataclasses
import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file

import golden
import pretend_device
from goldens import cases
from shotseg import encoders, models
from shotseg.data.samples import Episode, Support
from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError
from shotseg.models.few_shot_model import FewShot, Model
from shotseg.training import checkpoint
from training_miniature import TINY

FEW_SHOT = [name for name in models.list_models() if name not in models.SEMANTIC]
SEMANTIC = list(models.SEMANTIC)  # they take no support and give scores of all classes: their tests are at the end
LEFT_OUT = {
    "masks": {"pi-clip-zero-shot": "it learns a class from its name alone and reads no mask"},
    "batches": {
        "matching": "many classes at once may be more than the queries: it multiplies the batches that it is given"
    },
    "shots": {"pi-clip-zero-shot": "it reads no photo of the class, so one name is all that there is"},
}
OPTIONS = {
    "hdmnet": {"width": 16, "tokens": 16},
    "pi-clip": {"width": 16, "tokens": 16},
    "tlg": {"grid": 8, "widths": (8, 8, 16)},
    "hsnet": {"widths": (8, 8, 16)},
    "cst": {"width": 64},
    "corenet": {"width": 64},
    **{name: {"width": 16} for name in ("pfenet", "bam", "qgnet", "guided")},
}
FORMER = {"width": 32, "mask_width": 32, "queries": 6, "layers": 2, "heads": 2, "ffn": 32}
OPTIONS["maskformer"] = {"classes": 4, "train_encoder": False, **FORMER}
OPTIONS["simformer"] = OPTIONS["maskformer"] | {"novel": (2, 3), "simnet_width": 8, "points": 10}
# Real encoders where a method reads more of them than maps; what the others ask of one encoder they ask of all.
REAL = dict.fromkeys(("hsnet", "tlg"), cases.BLOCKS) | dict.fromkeys(("matching", "corenet"), cases.LITE)
WAITS = 2  # times that the processor may wait for a GPU, beside the matching of proposals
SIZES = [(64, 64), (64, 96), (80, 48), (33, 95)]
NAMES = ("cat", "dog")
near = functools.partial(torch.testing.assert_close, atol=2e-4, rtol=1e-3)


@pytest.fixture(autouse=True)
def no_text_encoder():
    with cases.words_cost_nothing(), torch.no_grad():
        yield


def encoder_of(name: str) -> Encoder:
    if models.encoder_for(name).startswith("clip"):
        return cases.clip()
    return cases.encoder(REAL[name]) if name in REAL else tiny()


@functools.cache
def tiny() -> Encoder:
    return cases.shared(cases.seeded(encoders.load(TINY, "random")))


def built(name: str) -> Model:
    """A small model of that name, its weights told by their names; encoders are shared."""
    options = OPTIONS.get(name, {}) | {"size": 64}
    if name == "pi-clip":
        options["clip"] = cases.clip()
    with TemporaryDirectory() as folder:
        if name == "tlg":  # rows of text that are ready
            options["text"] = str(Path(folder, "rows.safetensors"))
            save_file({said: golden.uniform(said, (3, 8), 1) for said in NAMES}, options["text"])
        return cases.seeded(models.load(name, encoder_of(name), **options))


small = functools.cache(built)


def copied(name: str) -> Model:
    """A small model of its own; a tokenizer, which is large and never changes, is that of all."""
    model = small(name)
    tokenizers = [module.tokenize for module in model.modules() if hasattr(module, "tokenize")]
    return copy.deepcopy(model, {id(tokenizer): tokenizer for tokenizer in tokenizers})


def photos(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    """(count, 3, height, width): noise, a disc of another colour in it."""
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"))
    disc = (grid.square().sum(0) < 0.3).float()
    noise = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))
    return (0.5 * noise + 0.5 * disc * torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(1))).clamp(
        0, 1
    )


def masks(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    found = torch.zeros(count, height, width, dtype=torch.long)
    found[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    found[:, 0] = 255
    return found


def support_of(model: FewShot, images: torch.Tensor, drawn: torch.Tensor, names=NAMES[:1]) -> Support:
    """Of images (B, K, 3, H, W) and masks (B, K, H, W), as far as the model asks for them."""
    return model.encode_support(images, None if model.needs == "name" else drawn, class_names=names)


def asked(model: FewShot, images: torch.Tensor, support: Support, names=NAMES[:1]) -> torch.Tensor:
    known = {"class_name": [*names] * (len(images) // len(names)), "sizes": [tuple(images.shape[-2:])] * len(images)}
    return model(model.encode(images), support, images, **{key: known[key] for key in model.asks}).logits


def one_shot(model: FewShot) -> Support:
    return support_of(model, photos(1)[None], masks(1)[None])


@pytest.mark.parametrize("name", models.list_models())
def test_a_model_is_one_of_the_contract(name):
    model = small(name)
    assert isinstance(model, FewShot if name in FEW_SHOT else Model)
    assert model.geometry in ("fit", "squash", "short") and model.needs in ("masks", "photos", "name")
    assert set(model.asks) <= {"class_name", "present", "sizes"} and model.size == 64
    assert model.learns == models.must_learn(name) == hasattr(model, "loss")


@pytest.mark.parametrize("name", FEW_SHOT)
def test_a_photo_of_any_size_has_an_answer(name):
    model = small(name)
    support = one_shot(model)
    for size in SIZES:
        logits = asked(model, photos(1, *size), support)
        assert logits.shape[:2] == (1, 2) and logits.dtype == torch.float32 and logits.isfinite().all(), size
    odd = support_of(model, photos(1, 33, 95)[None], masks(1, 33, 95)[None])
    assert asked(model, photos(1), odd).isfinite().all()


@pytest.mark.parametrize("name", FEW_SHOT)
def test_a_batch_of_queries_and_classes_is_its_parts_one_by_one(name):
    model, images = small(name), photos(4)
    shots, drawn = images[2:, None], masks(2)[:, None]
    both = asked(model, images[:2], support_of(model, shots, drawn, NAMES), NAMES)
    for i, said in enumerate(NAMES):
        alone = support_of(model, shots[i : i + 1], drawn[i : i + 1], (said,))
        near(both[i : i + 1], asked(model, images[i : i + 1], alone, (said,)))


@pytest.mark.parametrize("name", FEW_SHOT)
def test_a_support_of_batch_one_serves_every_query(name):
    model, images = small(name), photos(3)
    support = support_of(model, images[2:, None], masks(1)[None])
    both = asked(model, images[:2], support)
    near(both, torch.cat([asked(model, image[None], support) for image in images[:2]]))


@pytest.mark.parametrize("name", [name for name in FEW_SHOT if name not in LEFT_OUT["batches"]])
def test_a_support_of_another_batch_than_the_queries_is_refused(name):
    model, images = small(name), photos(2)
    three = Support({key: x.expand(3, *x.shape[1:]) for key, x in one_shot(model).tensors.items()})
    with pytest.raises(UsageError, match="a support of batch 3 for 2 queries"):
        asked(model, images[:2], three)


@pytest.mark.parametrize("name", [name for name in FEW_SHOT if name not in LEFT_OUT["shots"]])
def test_shots_at_once_are_shots_that_are_merged(name):
    model, images = small(name), photos(4)
    shots, drawn = images[None, 1:], masks(3)[None]
    drawn[:, 1, :40] = 0
    at_once = support_of(model, shots, drawn)
    parts = [support_of(model, shots[:, i : i + 1], drawn[:, i : i + 1]) for i in range(3)]
    merged = model.merge(parts)
    assert at_once.shots == merged.shots == 3
    found = asked(model, images[:1], merged)
    near(found, asked(model, images[:1], at_once))
    assert not torch.allclose(found, asked(model, images[:1], parts[0]), atol=1e-5)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_a_support_comes_back_from_its_file(name, tmp_path):
    model, images = small(name), photos(1)
    support = one_shot(model)
    save_file({key: x.contiguous() for key, x in support.tensors.items()}, tmp_path / "cat.safetensors")
    again = Support(load_file(tmp_path / "cat.safetensors"))
    assert torch.equal(asked(model, images, again), asked(model, images, support))


@pytest.mark.parametrize("name", models.list_models())
def test_weights_come_back_from_their_checkpoint(name, tmp_path):
    model, other = small(name), built(name)
    for parameter in set(other.parameters()) - set(model.parameters()):
        parameter.data.zero_()
    save_file({key: x.contiguous() for key, x in checkpoint.weights(model).items()}, tmp_path / "best.safetensors")
    checkpoint.load_weights(other, load_file(tmp_path / "best.safetensors"), "best.safetensors")
    if name in SEMANTIC:
        assert torch.equal(other.scores(photos(1)), model.scores(photos(1)))
    else:
        assert torch.equal(asked(other, photos(1), one_shot(other)), asked(model, photos(1), one_shot(model)))


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", [name for name in FEW_SHOT if name not in LEFT_OUT["masks"]])
def test_a_mask_without_an_object_gives_a_finite_answer(name, value):
    model, images = small(name), photos(2)
    nothing = torch.full((1, 1, 64, 64), value)
    alone = support_of(model, images[None, 1:], nothing)
    assert asked(model, images[:1], alone).isfinite().all()
    assert asked(model, images[:1], model.merge([alone, one_shot(model)])).isfinite().all()


@pytest.mark.parametrize("name", FEW_SHOT)
def test_every_tensor_is_made_where_the_photos_are_and_a_gpu_is_hardly_waited_for(name):
    here = copied(name)
    expected = asked(here, photos(2), one_shot(here))
    with pretend_device.pretended() as waits:
        there = pretend_device.move(here)
        images, drawn = (pretend_device.Elsewhere(x) for x in (photos(2), masks(1)[None]))
        support = support_of(there, pretend_device.Elsewhere(photos(1)[None]), drawn)
        waits.clear()
        found = asked(there, images, there.merge([support]))
    assert len(waits) <= WAITS, waits
    assert {x.device for x in (*support.tensors.values(), found)} == {pretend_device.DEVICE}
    near(found.inner, expected)


@pytest.mark.parametrize("name", [name for name in FEW_SHOT if models.must_learn(name)])
def test_every_tensor_of_the_loss_is_made_where_the_photos_are_and_a_gpu_is_hardly_waited_for(name):
    there = pretend_device.move(copied(name)).train()
    with pretend_device.pretended() as waits:
        task = Episode(
            photos(2), photos(4).view(2, 2, 3, 64, 64), torch.tensor([0, 1]), masks(2), masks(4).view(2, 2, 64, 64)
        )
        moved = {key: pretend_device.Elsewhere(x) for key, x in vars(task).items() if isinstance(x, torch.Tensor)}
        task = Episode(**moved, class_name=NAMES, sizes=((64, 64), (64, 64)))
        there.encode_support(task.support, task.support_mask, class_names=NAMES)  # a class's words are read once
        waits.clear()
        terms = there.loss(task)
    assert len(waits) <= WAITS, waits
    assert all(term.device == pretend_device.DEVICE and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", [name for name in FEW_SHOT if models.must_learn(name)])
@torch.enable_grad()
def test_a_step_reaches_all_that_learns_unless_the_model_says_that_some_may_rest(name):
    model = copied(name).train()
    task = Episode(
        photos(2), photos(4).view(2, 2, 3, 64, 64), torch.tensor([0, 1]), masks(2), masks(4).view(2, 2, 64, 64)
    )
    sum(model.loss(dataclasses.replace(task, class_name=NAMES, sizes=((64, 64), (64, 64)))).values()).backward()
    idle = [said for said, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert model.rests or not idle
    assert model.rests == (name in ("bam", "hdmnet", "pi-clip"))


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_semantic_model_scores_photos_of_any_size_alone_as_in_a_batch(name):
    model = small(name)
    for size in SIZES:
        images = photos(2, *size)
        scores = model.scores(images)
        assert scores.shape == (2, 4, *size) and scores.isfinite().all()
        near(scores, torch.cat([model.scores(image[None]) for image in images]))


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_semantic_model_learns_from_maps_without_a_class(name):
    model, images = small(name), photos(2)
    for maps in (torch.zeros(2, 64, 64, dtype=torch.long), torch.full((2, 64, 64), 255)):
        assert all(term.isfinite() for term in model.loss(images, maps, [(), ()]).values())


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_semantic_model_makes_every_tensor_where_the_photos_are_and_hardly_waits_for_a_gpu(name):
    here = copied(name)
    expected = here.scores(photos(2))
    with pretend_device.pretended() as waits:
        there, images = pretend_device.move(here), pretend_device.Elsewhere(photos(4))
        found = there.scores(images[:2])
        assert not waits
        maps = masks(4)
        maps[2:, :20] = 2
        terms = there.train().loss(images, pretend_device.Elsewhere(maps), [(3,), (2, 3), (), ()])
    assert len(waits) <= 1 + WAITS, waits
    near(found.inner, expected)
    assert all(term.device == pretend_device.DEVICE and term.isfinite() for term in terms.values())


def test_a_tensor_on_the_wrong_device_is_found():
    with pretend_device.pretended():
        there = pretend_device.Elsewhere(torch.ones(3))
        assert (there + torch.arange(3, device=there.device)).device == pretend_device.DEVICE
        for wrong in (
            lambda: there + torch.arange(3),
            lambda: torch.cat([there, torch.ones(1)]),
            lambda: there @ torch.ones(3),
        ):
            with pytest.raises(RuntimeError, match="tensors on two devices"):
                wrong()
