"""Episodes are a pure function of (seed, i), and no photo meets itself."""

import json
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import golden
from shotseg.data.episodes import EpisodeIndex, EpisodeSampler, StoredEpisodes, batch, load_episode
from shotseg.data.folder import FolderDataset
from shotseg.data.transforms import fit, squash
from shotseg.errors import InputError, UsageError


@dataclass(frozen=True)
class Thing:
    id: str
    class_name: str
    class_id: int
    content: str


def things(*counts, copies=1):
    """Items of len(counts) classes with so many photos each, every photo there under ``copies`` names."""
    return [
        Thing(f"{n}.{copy}", f"class{c}", c, f"{c}/{n}")
        for c, count in enumerate(counts)
        for n in range(count)
        for copy in range(copies)
    ]


def drawn(seed, i):
    return EpisodeSampler(things(7, 30, 12), shots=3, seed=seed)[i]


def test_an_episode_depends_on_seed_and_number_alone():
    sampler = EpisodeSampler(things(7, 30, 12), shots=3, seed=5)
    in_order = sampler.first(60)
    order = list(range(60))
    random.shuffle(order)
    np.random.seed(1), torch.rand(9)
    assert {i: sampler[i] for i in order} == dict(enumerate(in_order))
    assert sampler[10**12] == sampler[10**12]
    assert in_order != EpisodeSampler(things(7, 30, 12), shots=3, seed=6).first(60)


def test_other_processes_draw_the_same_episodes():
    with ProcessPoolExecutor(2) as workers:
        assert list(workers.map(partial(drawn, 5), range(20))) == [drawn(5, i) for i in range(20)]


def test_the_stream_is_the_same_in_every_version():
    sampler = EpisodeSampler(things(7, 30, 12), shots=2, seed=0)
    assert [(e.class_id, e.query, e.supports) for e in sampler.first(3)] == [
        (2, 39, (46, 37)),
        (0, 1, (4, 2)),
        (1, 15, (17, 14)),
    ]


@pytest.mark.parametrize("shots", [1, 5])
def test_a_photo_is_never_both_support_and_query(shots):
    items = things(6, 9, copies=4)
    for episode in EpisodeSampler(items, shots=shots, seed=1).first(500):
        members = [items[i] for i in (episode.query, *episode.supports)]
        assert len({item.content for item in members}) == shots + 1
        assert {item.class_id for item in members} == {episode.class_id}


def test_classes_are_drawn_uniformly_and_then_queries():
    episodes = EpisodeSampler(things(5, 50), seed=3).first(4000)
    of_class = Counter(e.class_id for e in episodes)
    assert abs(of_class[0] - 2000) < 150
    queries = Counter(e.query for e in episodes if e.class_id == 0)
    assert len(queries) == 5 and max(queries.values()) < 1.3 * min(queries.values())


def test_only_the_chosen_classes_are_drawn():
    assert {e.class_id for e in EpisodeSampler(things(3, 3, 3), [2, 0], seed=0).first(100)} == {0, 2}


def test_a_class_with_too_few_photos_is_named_with_its_count():
    with pytest.raises(UsageError, match="'class1': 3 different photos, but 5-shot episodes need 6"):
        EpisodeSampler(things(9, 3, copies=4), shots=5)
    with pytest.raises(UsageError, match="class 7: 0 different photos"):
        EpisodeSampler(things(9), [7])
    for wrong in ({"shots": 0}, {"seed": -1}):
        with pytest.raises(UsageError):
            EpisodeSampler(things(9), **wrong)
    with pytest.raises(UsageError, match="no class"):
        EpisodeSampler([])


def test_a_stored_list_comes_back_and_knows_its_hash(tmp_path):
    items = things(7, 30)
    stored = StoredEpisodes(items, EpisodeSampler(items, shots=2, seed=1).first(20))
    stored.save(tmp_path / "list.json")
    shuffled = items[::-1]
    loaded = StoredEpisodes.load(tmp_path / "list.json", shuffled)
    assert loaded.sha256 == stored.sha256 and len(loaded) == 20
    assert [items[e.query] for e in stored] == [shuffled[e.query] for e in loaded]
    assert stored.sha256 != StoredEpisodes(items, stored.episodes[::-1]).sha256


def test_a_list_that_was_changed_or_belongs_elsewhere_is_refused(tmp_path):
    items, path = things(7, 30), tmp_path / "list.json"
    StoredEpisodes(items, EpisodeSampler(items).first(5)).save(path)
    with pytest.raises(InputError, match="not in the data set"):
        StoredEpisodes.load(path, items[:3])
    content = json.loads(path.read_text())
    content["episodes"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="sha256"):
        StoredEpisodes.load(path, items)
    path.write_text('{"episodes": 3}')
    with pytest.raises(InputError, match="no list of episodes"):
        StoredEpisodes.load(path, items)
    with pytest.raises(InputError, match="no such file"):
        StoredEpisodes.load(tmp_path / "absent.json", items)


def test_repeats_in_a_stored_list_are_kept():
    episodes = [EpisodeIndex(0, (0, 0), 0)] * 3
    assert list(StoredEpisodes(things(2), episodes)) == episodes


@pytest.fixture
def cats(tmp_path):
    for n in range(3):
        for kind in ("images", "masks"):
            (tmp_path / kind / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + n, 20), (n * 60, 0, 0)).save(tmp_path / f"images/cat/{n}.png")
        mask = np.zeros((20, 30 + n), np.uint8)
        mask[:10] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/cat/{n}.png")
    return tmp_path


def to_square(image, mask):
    return squash(image, 16, mask)


def test_an_episode_is_read_into_tensors_and_batched(cats):
    dataset = FolderDataset(cats)
    one = load_episode(dataset, EpisodeIndex(2, (0, 1), 0), to_square)
    assert one.query.shape == (1, 3, 16, 16) and one.support.shape == (1, 2, 3, 16, 16)
    assert one.query_mask.shape == (1, 16, 16) and one.support_mask.shape == (1, 2, 16, 16)
    assert one.class_name == ("cat",) and one.ids == (("cat/2", "cat/0", "cat/1"),) and one.sizes == ((20, 32),)
    two = batch([one, load_episode(dataset, EpisodeIndex(0, (1, 2), 0), to_square)])
    assert two.query.shape[0] == two.support.shape[0] == 2 and two.sizes == ((20, 32), (20, 30))
    torch.testing.assert_close(two.support[:1], one.support)


def test_an_episode_without_masks_has_none(cats):
    (cats / "masks/cat/1.png").unlink()
    dataset = FolderDataset(cats)
    assert load_episode(dataset, EpisodeIndex(0, (1,), 0), to_square).support_mask is None
    assert load_episode(dataset, EpisodeIndex(1, (0,), 0), to_square).query_mask is None


def test_a_support_without_foreground_and_mixed_sizes_are_refused(cats):
    dataset = FolderDataset(cats)
    with pytest.raises(UsageError, match="one size"):
        load_episode(dataset, EpisodeIndex(0, (1, 2), 0), lambda image, mask: fit(image, 32, 1, mask))
    Image.new("L", (30, 20)).save(cats / "masks/cat/0.png")
    with pytest.raises(InputError, match="no foreground"):
        load_episode(dataset, EpisodeIndex(1, (0,), 0), to_square)
    assert load_episode(dataset, EpisodeIndex(0, (1,), 0), to_square).query_mask.sum() == 0


def test_real_photos_that_occur_under_several_classes_never_meet_themselves():
    dataset = FolderDataset(golden.data("pascal_coseg15"))
    assert len({item.content for item in dataset.items}) < len(dataset)
    for episode in EpisodeSampler(dataset.items, shots=5, seed=0).first(300):
        photos = [dataset.items[i].content for i in (episode.query, *episode.supports)]
        assert len(set(photos)) == 6
