"""What golden values do not see of a training: which photos and classes it draws, for how long, what moves."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from released_rules import SIDE, part
from shotseg.data.episodes import load_episode
from shotseg.data.transforms import squash
from shotseg.errors import UsageError
from shotseg.models.base_learner import BaseLearner
from shotseg.training import base_training, checkpoint, sampling
from shotseg.training import recipe as recipes
from shotseg.training.data import PseudoPart, Views, augmented, generator
from shotseg.training.few_shot import FewShot
from training_miniature import settings

PERSON = 1


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """117 photos: 75 show a person alone, 9 a person and a class, 33 one of five other classes; 4 show none that counts."""
    alone = [{PERSON: 16}] * 75
    both = [{PERSON: 16, 2 + i % 5: 16} for i in range(9)]
    others = [{2 + i % 5: 16} for i in range(29)]
    return part(tmp_path_factory.mktemp("crowd"), alone + both + others + [{}] * 4, 6)


def shares(rule, crowd, batch=1):
    drawn = sampling.draws(rule, crowd, shots=1, seed=3, batch=batch)
    every = [drawn[i] for i in range(drawn.epoch)]
    return drawn.epoch, Counter(crowd.dataset.class_ids[e.class_id] for e in every), every


def test_by_class_every_class_is_asked_for_as_often_however_many_photos_it_has(crowd):
    drawn = sampling.draws("class", crowd, shots=1, seed=3, batch=1)
    asked = Counter(drawn[i].class_id for i in range(3000))
    assert drawn.epoch == 113  # photos, as HSNet's release counts on COCO
    assert all(abs(count / 3000 - 1 / 6) < 4 * math.sqrt(5 / 36 / 3000) for count in asked.values())


def test_by_pair_an_epoch_is_the_list_of_photos_and_classes(crowd):
    epoch, asked, every = shares("pair", crowd)
    assert epoch == 122 and asked[PERSON] == 84 and sum(asked.values()) == 122
    assert sorted(e.query for e in every) == crowd.listed


def test_by_photo_an_epoch_is_every_photo_once_with_one_of_its_classes(crowd):
    epoch, asked, every = shares("photo", crowd)
    assert epoch == 113 and 75 <= asked[PERSON] <= 84  # a photo of two classes is asked for either
    assert len({crowd.items[e.query].content for e in every}) == 113
    assert shares("photo", crowd, batch=8)[0] == 112  # whole batches, the rest of an epoch is left out
    assert shares("photo", crowd, batch=500)[0] == 113


@pytest.mark.parametrize("rule", ["class", "pair", "photo"])
def test_an_episode_is_the_same_whatever_was_drawn_before_and_never_holds_a_photo_twice(crowd, rule):
    first, second = (sampling.draws(rule, crowd, shots=2, seed=5, batch=4) for _ in range(2))
    assert [first[i] for i in (700, 0, 3)] == [second[i] for i in (700, 0, 3)]
    assert first[0] != first[first.epoch]  # the next epoch has an order of its own
    for i in range(200):
        e = first[i]
        assert len({crowd.items[at].content for at in (e.query, *e.supports)}) == 3
        assert {crowd.items[at].class_id for at in e.supports} == {e.class_id}


@pytest.mark.parametrize(
    ("name", "rule", "epoch"),
    [
        ("pfenet/pascal5i-resnet50", "photo", 112), ("bam/coco20i-vgg16", "photo", 112), ("hdmnet/pascal5i-vgg16", "photo", 112),
        ("qgnet/pascal5i-resnet101", "photo", 112), ("pi-clip/coco20i-resnet50", "photo", 112),
        ("hsnet/pascal5i-vgg16", "pair", 122), ("tlg/pascal5i-vgg16", "pair", 122), ("cst/pascal5i-dino", "pair", 122),
        ("hsnet/coco20i-resnet101", "class", 113), ("tlg/coco20i-vgg16", "class", 113), ("cst/coco20i-dino-pixel", "class", 113),
        ("hsnet/tiny", "class", 113),
    ],
)  # fmt: skip
def test_recipes_that_claim_a_release_draw_as_it_does(crowd, name, rule, epoch):
    recipe = recipes.load(name, batch=8)
    assert recipe.data.draw == rule
    assert sampling.draws(recipe.data.draw, crowd, 1, recipe.seed, recipe.batch).epoch == epoch


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """Six photos each of classes 1 and 2, and one of class 1 that shows a single row of class 2; on the disk."""
    photos = [{1: 20}] * 6 + [{2: 20}] * 6 + [{1: 20, 2: 1}] + [{3: 30}] * 3 + [{}]
    return part(tmp_path_factory.mktemp("bands"), photos, 3, novel=[3], write=True)


def few_shot(bands, **changes):
    recipe = settings("cst/tiny", **{"augment": {"geometry": "squash"}} | changes)
    return FewShot(recipe, Views(bands, bands, ()), checkpoint.make_model(recipe, 2))


def test_a_class_of_a_few_pixels_may_be_asked_for_but_never_shows_another(bands):
    drawn = sampling.draws("photo", bands, shots=1, seed=0, batch=1)
    every = [drawn[i] for i in range(40 * drawn.epoch)]
    small = bands.showing("12.png", 1)
    assert small not in bands.listed and small in {e.query for e in every}
    assert all(small not in e.supports for e in every)
    assert small not in {sampling.draws("pair", bands, 1, 0, 1)[i].query for i in range(60)}


def test_a_query_with_a_few_pixels_of_the_class_is_taught_as_one_that_shows_it(bands):
    task = few_shot(bands, absent=1.0, absent_by="class", data={"draw": "pair", "supervision": "mask"})
    seen = [task.draw(i).episode for i in range(60)]
    small = [e for e in seen if e.ids[0][0].endswith("12") and e.class_name == ("class2",)]
    assert small and all(e.present.item() and (e.query_mask == 1).sum() == SIDE for e in small)
    others = [e for e in seen if not e.ids[0][0].endswith("12")]
    assert others and all(not e.present.item() and not (e.query_mask == 1).any() for e in others)


def test_presence_is_that_of_the_photo_where_no_pixel_of_the_class_is_left(bands):
    task = few_shot(bands)
    batch = task.draw(0).to("cpu")
    gone = dataclasses.replace(batch.episode, query_mask=torch.zeros_like(batch.episode.query_mask))
    model = task.model.eval()
    there, absent = (
        model.loss(dataclasses.replace(gone, present=torch.tensor([x])))["presence"].item() for x in (True, False)
    )
    assert there == pytest.approx(model.loss(batch.episode)["presence"].item())
    assert there != pytest.approx(absent)


def test_the_band_of_255_is_background_for_cst_as_released_and_is_left_out_of_ours(bands):
    kept = recipes.load("cst/coco20i-dino-pixel").model.options
    assert kept["loss_ignore"] is False and kept["supervision"] == "pixel"
    batch = few_shot(bands).draw(0)
    mask = batch.episode.query_mask.clone()
    mask[:, :8] = 255
    losses = []
    for background, loss_ignore in ((False, True), (False, False), (True, True)):
        model = few_shot(bands, model={"options": {"supervision": "pixel", "loss_ignore": loss_ignore}}).model.eval()
        torch.manual_seed(0)
        for parameter in model.learner.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        target = mask.masked_fill(mask == 255, 0) if background else mask
        losses.append(model.loss(dataclasses.replace(batch.episode, query_mask=target))["mask"].item())
    assert losses[1] == pytest.approx(losses[2], rel=1e-5) and losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_a_query_drawn_for_not_showing_a_class_has_no_pixel_of_it(bands):
    task = few_shot(bands, absent=1.0)
    seen = [task.draw(i).episode for i in range(40)]
    assert not any(e.ids[0][0].endswith("12") and e.class_name == ("class2",) for e in seen)


def test_no_other_class_to_ask_for_is_one_line(tmp_path):
    alone = part(tmp_path, [{1: 20}] * 4, 1, write=True)
    with pytest.raises(UsageError, match="no other class"):
        few_shot(alone, absent=1.0, absent_by="class").draw(0)


def base(bands, **changes):
    recipe = settings("base-learner/tiny", **changes)
    return base_training.BaseTraining(recipe, Views(bands, bands, ()), checkpoint.make_model(recipe, 2))


def test_the_base_learner_of_the_release_learns_from_every_photo_of_the_list(bands):
    listed = base(bands)
    assert len(listed.photos["train"]) == 13
    every = base(bands, data={"every_photo": True})
    assert len(every.photos["train"]) == 17
    novel = every.photos["train"].sample(13).mask
    assert not novel.any()  # a test class is background
    assert set(every.photos["train"].sample(12).mask.flatten()) == {0, 1, 2}
    assert recipes.load("base-learner/coco20i-vgg16").data.every_photo


def test_features_on_disk_carry_every_base_class_of_a_photo(bands, tmp_path):
    recipe = settings("base-learner/tiny", cache_features=True)
    task = base_training.BaseTraining(recipe, Views(bands, bands, ()), checkpoint.make_model(recipe, 2), tmp_path)
    task.prepare(lambda items: items, lambda what, done, total: None)
    assert set(task._stored("train", 12, False).labels.flatten().tolist()) == {0, 1, 2}


def test_drawn_label_maps_do_not_reach_a_base_learner_that_has_pseudo_masks(bands, tmp_path):
    pseudo = PseudoPart(bands, tmp_path, make=lambda image, name: image[..., 0] // 255)
    assert isinstance(base_training._photos(pseudo, True), base_training.OwnMasks)


@pytest.mark.parametrize("encoder_bn", ["eval", "train"])
def test_batch_statistics_of_the_base_learners_encoder_move_as_released_or_stay(encoder_bn):
    from shotseg import encoders

    encoder = encoders.load("resnet50-v2", "random")
    model = BaseLearner(encoder, 2, train_encoder=True, encoder_bn=encoder_bn).train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    model(torch.rand(2, 3, 33, 33))
    assert len(norms) == 55 and all(m.training == (encoder_bn == "train") for m in norms)
    assert any(not torch.equal(m.running_mean, b) for m, b in zip(norms, before)) == (encoder_bn == "train")
    assert not any(m.training for m in model.eval().modules())


def test_the_base_learners_recipes_train_the_batch_norms_of_the_encoder():
    options = recipes.load("base-learner/pascal5i-vgg16").model.options
    assert options == {"train_encoder": True, "encoder_bn": "train"}
    with pytest.raises(UsageError, match="train_encoder"):
        BaseLearner(torch.nn.Module(), 2, encoder_bn="train")


def test_a_squashed_photo_is_turned_before_it_is_squashed():
    choice = recipes.load("hdmnet/pascal5i-resnet50", augment={"rotate": 1.0, "blur": 0.0, "flip": 0.0}).augment
    image = torch.zeros(40, 160, 3, dtype=torch.uint8)
    image[:, 78:82] = 255  # an upright line through the centre of a wide photo
    for seed in range(9):
        turned, _ = augmented(image.numpy(), None, choice, 64, generator(seed))
        slant = [row.argmax().item() for row in turned[0, [8, 56]]]
        if slant[0] != slant[1]:
            break
    # by at most 10 degrees: 48 of 64 rows are 30 pixels of the photo, at most 5.3 to the side, and 2.1 of 64 columns
    assert 1 <= abs(slant[0] - slant[1]) <= 4


def test_a_photo_that_is_not_turned_is_squashed_as_ever():
    choice = recipes.load("hsnet/pascal5i-resnet50").augment
    image = torch.randint(0, 256, (50, 70, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    mask = image[..., 0] // 128
    pixels, classes = augmented(image, mask, choice, 48, generator(1))
    expected = squash(image, 48, mask)
    assert torch.equal(pixels, expected[0]) and torch.equal(classes, expected[1])


def test_episodes_are_read_where_a_photo_shows_more_than_one_class(bands):
    index = sampling.draws("photo", bands, 1, 0, 1)[0]
    episode = load_episode(bands, index, lambda image, mask: squash(image, 32, mask))
    assert (episode.query_mask == 1).any() and (episode.support_mask == 1).any()
