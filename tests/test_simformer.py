"""SimFormer: what its loader sees, what its losses teach, teacher to student in one command, and full label maps."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import golden
from released_scores import confusion, released_scores
from shotseg import cli, data, encoders
from shotseg.data import weak_shot
from shotseg.data.images import read_mask, write_png
from shotseg.data.weak_shot import WeakShotData
from shotseg.errors import InputError, UsageError
from shotseg.evaluation import semantic_scores
from shotseg.models.blocks import set_criterion as criterion
from shotseg.models.blocks.set_criterion import Proposals, Targets
from shotseg.models.maskformer import Inference, MaskFormer, bands, starts
from shotseg.models.simformer import SimFormer, pseudo_label
from shotseg.models.simformer.pixel_similarity import Balance
from shotseg.overlay import PALETTE
from shotseg.semantic import SemanticSegmenter
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from shotseg.training import weak_shot_training as task
from shotseg.training.pairs import PairSampler
from shotseg.training.run import train
from training_miniature import TINY

CLASSES = ["background", "sky", "tree", "car", "dog"]
NOVEL = ("car", "dog")
SMALL = {
    "width": 32, "mask_width": 32, "queries": 6, "layers": 2, "heads": 2, "ffn": 32, "dropout": 0.0, "finest": 8,
    "train_encoder": False, "simnet_width": 8, "points": 10,
}  # fmt: skip


def photo(i):
    """A random photo and its label map: two base classes, one novel class, an unknown corner."""
    rng = np.random.default_rng(i)
    labels = np.zeros((48, 64), np.uint8)
    labels[:16], labels[16:32, :32], labels[30:44, 40:60], labels[:3, :3] = 1, 2, 3 + i % 2, 255
    colours = rng.integers(0, 255, (256, 3))
    return (colours[labels] * 0.7 + rng.integers(0, 70, (48, 64, 3))).astype(np.uint8), labels


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory):
    """Eight photos with label maps, every class painted."""
    root = tmp_path_factory.mktemp("maps")
    (root / "classes.csv").write_text("class_id,class\n" + "".join(f"{i},{c}\n" for i, c in enumerate(CLASSES)))
    for i in range(8):
        image, labels = photo(i)
        write_png(root / "images" / f"{i}.png", image)
        write_png(root / "masks" / f"{i}.png", labels)
    return root


@pytest.fixture(scope="module")
def half_annotated(label_maps, tmp_path_factory):
    """The same photos as a user has them who never painted a novel class: 255 there, and tags."""
    root = tmp_path_factory.mktemp("half")
    (root / "classes.csv").write_text((label_maps / "classes.csv").read_text())
    with (root / "tags.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "class"))
        for i in range(8):
            image, labels = photo(i)
            rows.writerow((f"images/{i}.png", CLASSES[3 + i % 2]))
            write_png(root / "images" / f"{i}.png", image)
            write_png(root / "masks" / f"{i}.png", np.where(labels > 2, 255, labels).astype(np.uint8))
    return root


def recipe(**changes):
    content = {
        "model": {
            "name": "simformer",
            "encoder": TINY,
            "weights": "random",
            "size": 64,
            "geometry": "squash",
            "options": SMALL,
        },
        "data": {"fold": "", "test_classes": list(NOVEL), "held_out": 0.3},
        "augment": {"geometry": "short", "scale": [0.8, 1.2], "jitter": 1.0},
        "optimiser": {"name": "adamw", "lr": 1e-3, "decay_norms": False, "clip": 1.0},
        "validation": {"every": 0, "episodes": 2},
        "batch": 2,
        "steps": 2,
        "workers": 0,
    }
    return recipes.build(recipes._merged(content, changes))


def loader(root, **changes):
    own = recipe(**changes)
    photos, held_out = task.views(own, root)
    torch.manual_seed(0)
    model = checkpoint.make_model(own, len(photos.classes), novel=photos.novel)
    return task.WeakShot(own, photos, held_out, model)


# --- what the loader sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["short", "crop", "squash"])
def test_the_loader_gives_the_same_where_no_novel_pixel_was_ever_painted(label_maps, half_annotated, geometry):
    changes = {"augment": {"geometry": geometry}}
    whole, half = loader(label_maps, **changes), loader(half_annotated, **changes)
    for i in range(24):
        a, b = whole.draw(i), half.draw(i)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.maps, b.maps)
        assert a.tags == b.tags
        assert not torch.isin(a.maps, torch.tensor([3, 4])).any()
        assert a.tags[0] <= {3, 4}


def test_every_stage_one_loss_is_the_same_where_no_novel_pixel_was_ever_painted(label_maps, half_annotated):
    found = []
    for root in (label_maps, half_annotated):
        own = loader(root)
        batch = own.collate([own.draw(i) for i in range(4)])
        torch.manual_seed(1)
        found.append(own.loss(own.model.train(), batch))
    assert found[0].keys() == {"class", "focal", "dice", "complement", "similarity", "distillation"}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_mask_of_a_novel_class_is_never_opened(tmp_path):
    for c, name in enumerate(("bus", "cow", "dog")):
        for i in range(3):
            image, _ = photo(10 * c + i)
            write_png(tmp_path / "images" / name / f"{i}.png", image)
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 10:40] = 255
            write_png(tmp_path / "masks" / name / f"{i}.png", mask)
    for path in (tmp_path / "masks" / "dog").iterdir():
        path.write_bytes(b"no image")
    photos = weak_shot.load("folder", tmp_path, novel=["dog"])
    for i, item in enumerate(photos.items):
        known = photos.known(i)
        if "dog" in item.id:
            assert item.tags == {0, photos.classes.index("dog")}  # where the background is, nobody said
            assert (known == 255).all()
        else:
            assert set(np.unique(known)) == {0, photos.classes.index(item.id.split("/")[0])}
    with pytest.raises(InputError):
        photos.truth(next(i for i, item in enumerate(photos.items) if "dog" in item.id))


def test_classes_without_masks_are_novel_in_a_folder_of_classes(tmp_path):
    image, labels = photo(0)
    write_png(tmp_path / "images" / "sky" / "a.png", image)
    write_png(tmp_path / "masks" / "sky" / "a.png", (labels == 1).astype(np.uint8) * 255)
    write_png(tmp_path / "images" / "car" / "a.png", image)  # the same photo again
    write_png(tmp_path / "images" / "car" / "b.png", photo(2)[0])
    photos = weak_shot.load("folder", tmp_path)
    assert [photos.classes[i] for i in photos.novel] == ["car"]
    both = next(i for i, item in enumerate(photos.items) if len(item.shown) == 3)
    assert len(photos) == 2
    known = photos.known(both)
    assert ((known == photos.classes.index("sky")) == (labels == 1)).all()
    assert (known[labels != 1] == 255).all()


def test_outlining_the_background_is_a_choice(tmp_path):
    for name in ("bus", "dog"):
        image, labels = photo(0 if name == "bus" else 2)
        write_png(tmp_path / "images" / name / "a.png", image)
        write_png(tmp_path / "masks" / name / "a.png", (labels == 3).astype(np.uint8) * 255)
    photos = weak_shot.load("folder", tmp_path, novel=["dog"], background="base")
    dog = next(i for i, item in enumerate(photos.items) if "dog" in item.id)
    assert photos.items[dog].tags == {photos.classes.index("dog")}
    assert np.array_equal(photos.known(dog) == 255, labels == 3)


def test_tags_of_the_crop_are_those_that_it_shows(label_maps):
    own = loader(label_maps, weak_shot={"label_scope": "crop"}, augment={"scale": [2.0, 2.0]})
    drawn = [own.draw(i) for i in range(24)]
    assert not any(torch.isin(b.maps, torch.tensor([3, 4])).any() for b in drawn)
    sizes = {len(b.tags[0]) for b in drawn}
    assert sizes == {0, 1}


def test_a_novel_pixel_stays_hidden_after_crops_that_showed_nothing(tmp_path):
    (tmp_path / "classes.csv").write_text("class_id,class\n" + "".join(f"{i},{c}\n" for i, c in enumerate(CLASSES)))
    for i in range(6):  # nothing is known but a novel object in one corner: most crops are empty
        image, labels = photo(i)[0], np.full((48, 64), 255, np.uint8)
        labels[:18, :24] = 3 + i % 2
        labels[0, 0] = 1
        write_png(tmp_path / "images" / f"{i}.png", image)
        write_png(tmp_path / "masks" / f"{i}.png", labels)
    own = loader(tmp_path, weak_shot={"label_scope": "crop"}, augment={"scale": [2.0, 2.0]})
    novel = torch.tensor([own.classes.index(name) for name in NOVEL])
    drawn = [own.draw(i) for i in range(200)]
    assert sum(bool(torch.isin(b.maps, novel).any()) for b in drawn) == 0
    assert any(b.tags[0] for b in drawn)


def test_small_label_maps_are_kept_up_to_a_bound(label_maps, monkeypatch):
    own = loader(label_maps)
    monkeypatch.setattr(task, "KEPT", 2 * own.recipe.model.size**2)
    first = [own._map("train", i) for i in range(len(own.data["train"]))]
    assert len(own._small) == 2 < len(first)
    assert all(torch.equal(own._map("train", i), kept) for i, kept in enumerate(first))


def test_a_draw_is_a_function_of_its_place_alone(label_maps):
    first, second = loader(label_maps), loader(label_maps)
    [first.draw(i) for i in range(5)]
    assert torch.equal(first.draw(7).images, second.draw(7).images)


def test_full_supervision_reads_every_mask_and_base_only_no_tag(label_maps):
    photos = weak_shot.load("folder", label_maps, novel=NOVEL)
    assert np.array_equal(photos.supervised().known(0), photos.truth(0))
    assert photos.supervised().novel == ()
    assert np.array_equal(photos.base_only().known(0), photos.known(0))
    own = loader(label_maps, weak_shot={"supervision": "base"})
    assert not any(own.draw(i).tags[0] for i in range(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"novel": ["cat"]}, "no class 'cat'"),
        ({"novel": CLASSES}, "every class is novel"),
        ({"split": "test"}, "images/train"),
    ],
)
def test_a_wrong_choice_of_classes_is_named(label_maps, changes, message):
    with pytest.raises(UsageError, match=message):
        weak_shot.load("folder", label_maps, **changes)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_partners_share_the_drawn_novel_class_alone_and_are_never_the_photo_itself():
    novel = [frozenset(x) for x in ({1, 2}, {1}, {2, 3}, {1, 2}, set(), {4})]
    base = [frozenset({9})] * 5 + [frozenset()]
    sampler, stream = PairSampler(novel, base), torch.Generator().manual_seed(0)
    drawn = {sampler.partner(0, stream) for _ in range(50)}
    assert drawn == {1, 2}
    assert {sampler.partner(4, stream) for _ in range(50)} == {0, 1, 2, 3}  # no novel class: any base class in common
    assert sampler.partner(5, stream) == 5  # nobody shares anything


def test_partners_are_the_same_for_the_same_stream():
    novel = [frozenset({i % 3, 3 + i % 2}) for i in range(30)]
    sampler = PairSampler(novel, [frozenset()] * 30, rarest=0.5)
    draws = [[sampler.partner(i, torch.Generator().manual_seed(i)) for i in range(30)] for _ in range(2)]
    assert draws[0] == draws[1]


# --- losses -----------------------------------------------------------------------------------------------------------


def proposals(photos=2, queries=6, classes=5, size=(8, 8)):
    return Proposals(
        torch.randn(photos, queries, classes + 1, requires_grad=True),
        torch.randn(photos, queries, *size, requires_grad=True),
    )


def targets(tags=((3,), (4,))):
    maps = torch.full((len(tags), 32, 32), 255)
    maps[:, :10], maps[:, 12:20] = 1, 2
    return Targets.of(maps, tags)


def test_a_class_without_a_mask_gets_no_mask_loss():
    said, wanted = proposals(), targets()
    matched = criterion.match([said], wanted)[0]
    (grad,) = torch.autograd.grad(sum(criterion.mask_losses(said.masks, wanted, matched, 1.0)), said.masks)
    for image in range(2):
        assert not grad[image, matched[image, 2]].any()
        assert grad[image, matched[image, :2]].flatten(1).any(1).all()


def test_nothing_is_asked_of_the_complement_where_every_class_has_a_mask():
    said, wanted = proposals(), targets(tags=((), ()))
    loss = criterion.complementary(said.masks, wanted, criterion.match([said], wanted)[0])
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, said.masks)[0].any()


def test_the_complement_is_not_asked_for_where_a_base_class_has_no_mask():
    model, said = network(SimFormer, novel=(3, 4)), proposals(photos=1)
    assert model.criterion([said], targets(tags=((3,),)))["complement"] > 0
    assert model.criterion([said], targets(tags=((0, 3),)))["complement"] == 0


def test_padding_can_be_left_out_of_the_complement():
    said, wanted = proposals(), targets()
    padding = wanted.padding.clone()
    padding[:, :, 24:] = True
    wanted = replace(wanted, padding=padding)
    matched = criterion.match([said], wanted)[0]
    loss = criterion.complementary(said.masks, wanted, matched, ignore_padding=True)
    (grad,) = torch.autograd.grad(loss, said.masks)
    assert not grad[..., 7:].any()
    assert grad[..., :6].any()


def test_of_two_classes_without_a_mask_the_union_learns_where_either_is():
    said = Proposals(torch.zeros(2, 4, 6), torch.randn(2, 4, 5, 7, requires_grad=True))
    wanted = Targets.of(torch.full((2, 20, 28), 255), ((0, 1), (2,)))
    matched = torch.tensor([[3, 1], [2, -1]])
    loss = criterion.complementary(said.masks, wanted, matched, floor=-100)
    for photo, union in ((0, said.masks[0, [3, 1]]), (1, said.masks[1, [2]])):
        large = F.interpolate(union[None], (20, 28), mode="bilinear", align_corners=False)[0].amax(0)
        own = Targets.of(torch.full((1, 20, 28), 255), (((0, 1), (2,))[photo],))
        alone = criterion.complementary(said.masks[[photo]], own, matched[[photo]], floor=-100)
        there = torch.ones_like(large)
        expected = 20 * criterion.focal(large, there) + criterion.dice(large, there)
        torch.testing.assert_close(alone, expected / (1 + 1e-5))
    (gradient,) = torch.autograd.grad(loss, said.masks)
    assert gradient[0, [1, 3]].abs().sum() > 0 and gradient[1, 2].abs().sum() > 0
    assert not gradient[0, [0, 2]].any() and not gradient[1, [0, 1, 3]].any()


@pytest.mark.parametrize("size", [(20, 28), (5, 9), (3, 2)])
def test_masks_are_enlarged_as_torch_does_with_its_gradient_and_in_full_precision(size):
    masks = torch.randn(1, 4, 5, 7, requires_grad=True)
    matched, which = torch.tensor([[2, 0]]), torch.tensor([[True, True]])
    with torch.autocast("cpu", torch.bfloat16):
        found = criterion.enlarged(masks, matched, which, size)[2]
    expected = F.interpolate(masks[:, [2, 0]], size, mode="bilinear", align_corners=False)[0]
    weight = torch.randn(2, *size)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad((x * weight).sum(), masks) for x in (found, expected)))


def test_the_order_of_the_classes_does_not_change_the_matching():
    said, wanted = proposals(), targets(tags=((3, 4), (0, 4)))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Targets(*(x[:, order] if x.shape[1] == 4 else x for x in vars(wanted).values()))
    a, b = criterion.match([said], wanted)[0], criterion.match([said], shuffled)[0]
    assert torch.equal(a[:, order], b)


def test_a_photo_with_more_classes_than_proposals_is_matched_as_far_as_they_go():
    said, wanted = proposals(queries=2), targets(tags=((3, 4), (0, 4)))
    matched = criterion.match([said], wanted)[0]
    assert ((matched >= 0).sum(1) == 2).all()
    assert torch.isfinite(criterion.classification(said.classes, wanted, matched))


def test_the_balance_counts_no_pair_without_a_base_point():
    same, valid = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    same[0, :, 5:], valid[0, :5] = 1, 1  # a stride of 5 looks at 4 pairs: 2 valid, 1 of them of the same class
    assert Balance().update(same, valid).tolist() == [0.5, 0.5]
    same[0, :5, 5:] = 0
    assert Balance().update(same, valid).tolist() == [1 / 4, 3 / 4]
    assert not torch.equal(Balance().update(same), Balance().update(same, valid))


def test_pseudo_labels_hold_known_pixels_and_tagged_classes_alone():
    known = np.array([[1, 255, 255, 255]], np.uint8)
    assert pseudo_label(np.array([[3, 3, 4, 2]]), known, [3]).tolist() == [[1, 3, 255, 255]]


# --- the network ------------------------------------------------------------------------------------------------------


def network(cls=MaskFormer, **options):
    torch.manual_seed(0)
    encoder = encoders.load(TINY, weights="random")
    small = {k: v for k, v in SMALL.items() if cls is SimFormer or k not in ("simnet_width", "points")}
    return cls(encoder, 5, **{**small, **options})


def test_a_step_moves_the_encoder_but_none_of_its_batch_norms():
    model = network(train_encoder=True).train()
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    image = torch.rand(2, 3, 64, 64)
    sum(model.loss(image, torch.randint(0, 3, (2, 64, 64))).values()).backward()
    optimiser.step()
    moved = {name for name, tensor in model.encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("conv" in name for name in moved)


def test_the_real_size_has_the_released_number_of_parameters():
    from transformers import AutoBackbone, ResNetConfig

    from shotseg.encoders.hf import TransformersBackbone

    with torch.device("meta"):
        config = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
        model = MaskFormer(TransformersBackbone(AutoBackbone.from_config(config)), 150)
    counted = [p.numel() for p in model.parameters()]
    assert sum(counted) == 41_307_863
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_254_743


def test_a_model_of_transformers_is_taken_over_as_it_is(tmp_path):
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig

    from shotseg.reference import simformer as reference

    back = ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], layer_type="bottleneck",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = DetrConfig(
        backbone_config=back, d_model=32, encoder_layers=0, decoder_layers=2, decoder_attention_heads=8,
        decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    config = MaskFormerConfig(
        backbone_config=back, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, num_labels=4
    )
    theirs = MaskFormerForInstanceSegmentation(config).eval()
    theirs.save_pretrained(tmp_path)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs((x - 0.45) / 0.225)
        for ours in (MaskFormer.from_transformers(theirs), reference.load(tmp_path / "model.safetensors")):
            found = ours(None, ours.encoder.extract((x - 0.45) / 0.225)).proposals[-1]
            golden.assert_close("masks", found.masks, wanted.masks_queries_logits, atol=1e-4)
            golden.assert_close("classes", found.classes, wanted.class_queries_logits, atol=1e-4)


def test_without_pairs_the_batch_may_be_odd_and_with_them_it_may_not(label_maps):
    with pytest.raises(UsageError, match="even"):
        loader(label_maps, batch=3)
    off = {"model": {"options": {"similarity": 0.0, "distil": 0.0}}}
    own = loader(label_maps, batch=3, **off)
    assert own.model.pairs is None
    assert "similarity" not in own.loss(own.model, own.collate([own.draw(i) for i in range(3)]))


def test_reference_flips_every_quirk_of_the_losses():
    model = network(SimFormer, novel=(3, 4), reference=True)
    assert model.reordered
    assert (model.pairs.within, model.pairs.on_padding, model.pairs.teacher_trains, model.pairs.count_invalid) == (
        True,
    ) * 4
    model = network(SimFormer, novel=(3, 4))
    assert not any((model.pairs.within, model.pairs.on_padding, model.pairs.teacher_trains, model.pairs.count_invalid))


PLAIN = Inference()


def scored(model, image, how=PLAIN):
    """(C, H, W) class scores of a photo (H, W, 3)."""
    return torch.cat(list(bands(model.look(model.fit(image), how), image.shape[:2])), 1)


@pytest.mark.parametrize("size", [(48, 64), (33, 71), (200, 40)])
def test_a_photo_of_any_size_gets_scores_at_its_own_size(size):
    model = network(size=64, geometry="short").eval()
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    for how in (Inference(), Inference(window=48), Inference(scales=(32, 64), flip=True)):
        scores = scored(model, image, how)
        assert scores.shape == (5, *size)
        assert torch.isfinite(scores).all()
        assert np.array_equal(model.label(image, how), scores.argmax(0))


def test_flipping_averages_a_photo_with_its_mirror_image():
    model = network(size=64, geometry="squash").eval()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    both = scored(model, image, Inference(flip=True))
    plain, mirrored = scored(model, image), scored(model, image[:, ::-1].copy()).flip(-1)
    golden.assert_close("flip", both, (plain + mirrored) / 2, atol=1e-5)


def test_windows_cover_everything():
    for length, window in ((10, 10), (11, 10), (100, 30), (31, 30)):
        covered = set().union(*(range(s, s + window) for s in starts(length, window)))
        assert set(range(length)) <= covered
        assert max(covered) < length


# --- one command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(half_annotated, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(
        recipe(cache_features=True, augment={"geometry": "squash"}),
        half_annotated,
        out,
        device="cpu",
        say=lambda _: None,
    )
    return out


def test_one_command_trains_teacher_and_student_on_pseudo_labels(run, half_annotated):
    assert checkpoint.names(run / "teacher" / "best.safetensors")[0] == "simformer"
    model, classes = checkpoint.load_semantic(run / "best.safetensors")
    assert type(model) is MaskFormer
    assert classes == CLASSES
    photos, _ = task.views(recipe(), half_annotated)
    for i, item in enumerate(photos.items):
        label = read_mask(task.pseudo_path(run / "pseudo", photos, i), labels=True)
        known = photos.known(i)
        assert np.array_equal(label[known != 255], known[known != 255])
        assert set(np.unique(label[known == 255])) <= {*item.tags, 255}


def test_pseudo_labels_that_an_interrupted_run_wrote_are_kept_and_those_of_another_teacher_are_not(
    run, half_annotated, tmp_path
):
    own, teacher = recipe(), run / "teacher" / "best.safetensors"
    photos, _ = task.views(own, half_annotated)
    with mock.patch.object(task, "write_png", side_effect=[None, KeyboardInterrupt]), pytest.raises(KeyboardInterrupt):
        task.write_pseudo_labels(teacher, photos, tmp_path, own, device="cpu")
    first = task.pseudo_path(tmp_path, photos, next(i for i, item in enumerate(photos.items) if item.tags))
    first.parent.mkdir(parents=True, exist_ok=True)
    first.write_bytes(b"kept")
    task.write_pseudo_labels(teacher, photos, tmp_path, own, device="cpu")
    assert first.read_bytes() == b"kept"
    task.write_pseudo_labels(run / "best.safetensors", photos, tmp_path, own, device="cpu")
    assert read_mask(first, labels=True).size


def test_photos_whose_names_differ_after_a_dot_have_pseudo_labels_of_their_own():
    photos = SimpleNamespace(items=[SimpleNamespace(id="dress/IMG.1"), SimpleNamespace(id="dress/IMG.2")])
    assert task.pseudo_path(Path("x"), photos, 0) != task.pseudo_path(Path("x"), photos, 1)


def test_a_teacher_that_was_interrupted_ends_with_the_same_weights(half_annotated, tmp_path):
    own = recipe(steps=4, save_every=2, weak_shot={"retrain": False}, validation={"every": 0, "episodes": 2})
    quiet = {"device": "cpu", "say": lambda _: None}
    train(own, half_annotated, tmp_path / "whole", **quiet)
    loss, seen = task.WeakShot.loss, []

    def interrupted(model, batch):
        seen.append(1)
        if len(seen) > 3:
            raise KeyboardInterrupt
        return loss(model, batch)

    with mock.patch.object(task.WeakShot, "loss", staticmethod(interrupted)), pytest.raises(KeyboardInterrupt):
        train(own, half_annotated, tmp_path / "parts", **quiet)
    train(own, half_annotated, tmp_path / "parts", resume=True, **quiet)
    whole, parts = (checkpoint.read(tmp_path / name / "best.safetensors")[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_the_ceiling_is_trained_by_its_own_recipe(label_maps, tmp_path):
    model = {"weights": "random", "size": 64, "options": SMALL}
    photos = {"fold": "", "test_classes": list(NOVEL), "held_out": 0.3}
    own = recipes.load("maskformer/tiny", model=model, data=photos, steps=1, batch=2, workers=0)
    train(own, label_maps, tmp_path, device="cpu", say=lambda _: None)
    assert checkpoint.names(tmp_path / "best.safetensors")[0] == "maskformer"


@pytest.mark.parametrize("finest", [4, 8])
def test_features_are_kept_down_to_the_stride_that_the_network_reads(half_annotated, tmp_path, finest):
    model = {"options": {"finest": finest}}
    own = recipe(
        steps=1, cache_features=True, augment={"geometry": "squash"}, model=model, weak_shot={"retrain": False}
    )
    assert train(own, half_annotated, tmp_path, device="cpu", say=lambda _: None).best.is_file()


def test_a_pair_is_never_parted_between_processes(half_annotated, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a process gets 1"):
        loader(half_annotated, batch=2)


def test_probabilities_are_compared_in_full_precision_whatever_autocast_says():
    p, wanted = torch.rand(3, 4), torch.ones(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        states = []
        real = torch.nn.functional.binary_cross_entropy
        with mock.patch.object(
            criterion.F,
            "binary_cross_entropy",
            side_effect=lambda *a, **k: (states.append(torch.is_autocast_enabled("cpu")), real(*a, **k))[1],
        ):
            found = criterion.cross_entropy_of(p.bfloat16(), wanted)
    assert states == [False] and found.dtype == torch.float32


def test_the_student_may_begin_with_what_the_teacher_learnt(half_annotated, tmp_path):
    own = recipe(steps=1, optimiser={"name": "adamw", "lr": 0.0, "weight_decay": 0.0}, weak_shot={"anew": False})
    train(own, half_annotated, tmp_path, device="cpu", say=lambda _: None)
    teacher, student = (checkpoint.read(tmp_path / x / "best.safetensors")[0] for x in ("teacher", "."))
    same = [torch.equal(teacher[name], tensor) for name, tensor in student.items() if name in teacher]
    assert len(same) > 20 and all(same)


def test_a_finished_teacher_is_kept_when_the_student_is_resumed(run, half_annotated):
    own = recipe(cache_features=True, augment={"geometry": "squash"})
    teacher = (run / "teacher" / "best.safetensors").read_bytes()
    student = checkpoint.read(run / "best.safetensors")[0]
    (run / "best.safetensors").unlink()
    (run / "last.safetensors").unlink()
    train(own, half_annotated, run, resume=True, device="cpu", say=lambda _: None)
    assert (run / "teacher" / "best.safetensors").read_bytes() == teacher
    again = checkpoint.read(run / "best.safetensors")[0]
    assert all(torch.equal(student[name], again[name]) for name in student)
    with pytest.raises(UsageError, match="--resume"):
        train(own, half_annotated, run, device="cpu", say=lambda _: None)


def test_a_missing_pseudo_label_stops_the_student(run, half_annotated, tmp_path):
    own = recipe()
    photos, held_out = task.views(own, half_annotated)
    model, _ = checkpoint.load_semantic(run / "best.safetensors")
    student = task.WeakShot(task.student_of(own), photos, held_out, model, tmp_path)
    with pytest.raises(InputError, match="no pseudo label"):
        student.draw(0)


def test_the_command_line_writes_palette_label_maps_of_all_classes(run, half_annotated, tmp_path, capsys):
    out = tmp_path / "found"
    query = str(half_annotated / "images")
    code = cli.main(
        ["segment", "--checkpoint", str(run / "best.safetensors"), "--query", query, "--out", str(out), "--flip",
         "--window", "48", "--soft", "--device", "cpu"]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    with Image.open(out / "labels" / "0.png") as picture:
        assert picture.mode == "P"
        assert picture.size == (64, 48)
        assert picture.getpalette()[:24] == PALETTE[:8].flatten().tolist()
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert set(lines[0]["present"]) == set(CLASSES) - {"background"} >= set(lines[0]["classes"])
    names = (out / "classes.txt").read_text().splitlines()
    soft = np.stack([read_mask(out / "soft" / name / "0.png", labels=True) for name in names]).astype(int)
    labels = read_mask(out / "labels" / "0.png", labels=True)
    assert soft.sum(0).max() <= 255 + len(names)  # each is rounded
    own = soft[labels.clip(1) - 1, np.arange(48)[:, None], np.arange(64)]
    assert (own >= soft.max(0))[labels > 0].all()


def test_probabilities_of_all_classes_and_the_background_sum_to_one(run, tmp_path):
    torch.manual_seed(0)  # the encoder is a random one
    seg = SemanticSegmenter(run / "best.safetensors", device="cpu")
    result = seg.predict(photo(0)[0])
    total = sum(result.probabilities.values())
    assert result.labels.shape == (48, 64)
    assert (total <= 1 + 1e-5).all()
    seg.save(tmp_path / "kept")
    torch.manual_seed(0)
    assert np.array_equal(
        SemanticSegmenter.load(tmp_path / "kept", device="cpu").predict(photo(0)[0]).labels, result.labels
    )


def test_the_command_line_scores_base_and_novel_classes(run, label_maps, tmp_path, capsys):
    out = tmp_path / "scores.json"
    arguments = ["evaluate", "folder", "--root", str(label_maps), "--checkpoint", str(run / "best.safetensors")]
    assert cli.main([*arguments, "--out", str(out), "--device", "cpu"]) == 0, capsys.readouterr().err
    found = json.loads(out.read_text())
    assert {"base", "novel", "harmonic", "miou", "interval", "per_class"} <= found.keys()
    assert found["novel_classes"] == list(NOVEL)


def test_a_semantic_model_refuses_the_options_of_episodes(run, label_maps, tmp_path, capsys):
    arguments = ["evaluate", "folder", "--root", str(label_maps), "--checkpoint", str(run / "best.safetensors")]
    for option in ("--episodes 5", "--way 2", "--classes cat", "--protocol hsnet", "--resume"):
        assert cli.main([*arguments, "--out", str(tmp_path / "scores.json"), *option.split()]) == 2
        assert option.split()[0] in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()


def test_a_class_of_a_checkpoint_that_would_be_written_outside_its_folder_is_refused(run, tmp_path):
    tensors, about = checkpoint.read(run / "best.safetensors")
    about["classes"][-1] = "../../evil"
    checkpoint.write(tmp_path / "evil.safetensors", tensors, about)
    with pytest.raises(InputError, match=r"evil\.safetensors: class name"):
        SemanticSegmenter(tmp_path / "evil.safetensors", device="cpu")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"checkpoint": "x", "inference": 3}'])
def test_a_broken_file_of_a_semantic_segmenter_is_named(tmp_path, content):
    (tmp_path / "kept").write_text(content)
    with pytest.raises(InputError, match="not what SemanticSegmenter"):
        SemanticSegmenter.load(tmp_path / "kept")


def test_a_semantic_model_refuses_examples_and_a_few_shot_call(run, tmp_path, capsys):
    arguments = [
        "segment",
        "--checkpoint",
        str(run / "best.safetensors"),
        "--query",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    assert cli.main([*arguments, "--support", str(tmp_path)]) == 2
    assert "knows its classes" in capsys.readouterr().err
    with pytest.raises(InputError, match="semantic"):
        checkpoint.load_model(run / "best.safetensors")


# --- scores -----------------------------------------------------------------------------------------------------------


def test_a_right_prediction_scores_a_hundred_and_the_interval_holds_it(label_maps):
    photos = weak_shot.load("folder", label_maps, novel=NOVEL)
    truths = iter([np.where(photos.truth(i) == 255, 0, photos.truth(i)) for i in range(len(photos))])
    counts = semantic_scores.measure(lambda image: next(truths), photos)
    found = semantic_scores.result(counts, photos, times=20)
    assert (found["base"], found["novel"], found["harmonic"]) == (100, 100, 100)
    assert semantic_scores.paired(counts, counts, photos, times=20)["novel"] == {"difference": 0, "low": 0, "high": 0}


def test_the_released_scores_agree_with_ours():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 5, (3, 20, 20)).astype(np.uint8), rng.integers(0, 5, (3, 20, 20)).astype(np.uint8)
    truth[:, :4] = 255
    photos = Stored(truth)
    pictures = iter(said)
    ours = semantic_scores.result(semantic_scores.measure(lambda image: next(pictures), photos), photos, times=5)
    theirs = released_scores(confusion(said, truth, 5), np.array([0, 1, 2]), np.array([3, 4]))
    pairs = {"miou": "mIoU", "base": "BaseIoU", "novel": "NovelIoU", "pixel_accuracy": "pACC"}
    for name, released in pairs.items():
        assert ours[name] == pytest.approx(theirs[released], abs=1e-3)


class Stored(WeakShotData):
    """Label maps in memory."""

    def __init__(self, truth):
        super().__init__(CLASSES, (3, 4), list(truth))

    def image(self, index):
        return np.zeros((20, 20, 3), np.uint8)

    def truth(self, index):
        return self.items[index]


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_every_published_split_has_its_recipe():
    from shotseg.data.sets import spec

    wanted = {"coco": ("coco_stuff10k", 9), "ade": ("ade20k150", 4)}
    for short, (name, count) in wanted.items():
        splits = next(iter(spec(name)["folds"].values()))
        assert len(splits) == count
        for split in splits:
            own = recipes.load(f"simformer/{short}-{split}")
            assert (own.data.name, own.data.fold, own.weak_shot.label_scope) == (name, split, "crop")
            assert own.weak_shot.retrain
        assert recipes.load(f"maskformer/{short}").weak_shot.supervision == "full"
    assert recipes.load("simformer/ade-s4").weak_shot.scales[-1] == 1120
    assert name in data.list_datasets()


@pytest.mark.parametrize("name", [name for name in recipes.list_recipes() if name.startswith("maskformer/")])
def test_the_network_of_every_ceiling_is_made(name):
    own = task.student_of(recipes.load(name))
    assert type(checkpoint.make_model(replace(own, model=replace(own.model, weights="random")), 4)) is MaskFormer


@pytest.mark.parametrize("name", ["tiny", "tiny-clothing", "tiny-camvid", "folder"])
def test_the_network_of_every_small_recipe_is_made(name):
    own = recipes.load(f"simformer/{name}")
    own = replace(own, model=replace(own.model, weights="random"))
    model = checkpoint.make_model(own, 4, novel=(3,))
    student = checkpoint.make_model(task.student_of(own), 4)
    assert model.paired
    assert {n for n, _ in student.named_parameters()} < {n for n, _ in model.named_parameters()}


def test_any_backbone_of_transformers_carries_a_maskformer(tmp_path):
    from transformers import ResNetConfig, SwinConfig

    sizes = {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1] * 4, "layer_type": "basic"}
    swin = SwinConfig(image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2)
    for name, config in (("resnet", ResNetConfig(**sizes)), ("swin", swin)):
        config.save_pretrained(tmp_path / name)
        encoder = encoders.load(f"transformers:{tmp_path / name}", weights="random")
        assert encoder.strides == (4, 8, 16, 32)
        model = MaskFormer(encoder, 3, width=32, mask_width=32, queries=4, layers=1, heads=2, ffn=32)
        with torch.no_grad():
            assert model(torch.rand(1, 3, 64, 96)).pixels.shape == (1, 32, 16, 24)
    with pytest.raises(UsageError, match="no backbone"):
        encoders.load(f"transformers:{tmp_path / 'nothing'}", weights="random")
