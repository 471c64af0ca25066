"""The evaluation loop and ``shotseg evaluate``, on small drawn photos and a small stand-in model."""

import json
import os
import re
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import golden
import tiny_clip
import warm
from shotseg import models
from shotseg.cli.evaluate import Evaluate
from shotseg.data import transforms
from shotseg.data.folder import FolderDataset
from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import InputError, UsageError
from shotseg.evaluation import controls, subject
from shotseg.evaluation.cache import Cache
from shotseg.evaluation.episode_loop import count_episodes, partial_files
from shotseg.evaluation.episode_rules import draw_episodes
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import PRESETS, preset
from shotseg.models.few_shot_model import FewShot

COLOURS = {"blue": (40, 60, 220), "green": (40, 190, 70), "red": (210, 50, 40)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Discs of three colours on grey noise, ten photos a colour, of several sizes; fold 0 is blue and green."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    rows = ["image,mask,class,fold"]
    for fold, (name, colour) in enumerate(COLOURS.items()):
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for i in range(10):
            height, width = 40 + 8 * (i % 3), 64 - 8 * (i % 2)
            y, x = np.mgrid[:height, :width]
            disc = (y - rng.integers(12, height - 12)) ** 2 + (x - rng.integers(12, width - 12)) ** 2 < rng.integers(
                7, 12
            ) ** 2
            image = np.clip(
                rng.normal(128, 20, (height, width, 3)) * ~disc[..., None] + disc[..., None] * colour, 0, 255
            )
            Image.fromarray(image.astype(np.uint8)).save(root / f"images/{name}/{i}.png")
            Image.fromarray(disc.astype(np.uint8) * 255).save(root / f"masks/{name}/{i}.png")
            rows.append(f"images/{name}/{i}.png,masks/{name}/{i}.png,{name},{fold // 2}")
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    return root


class Colours(Encoder):
    name, strides, channels, patch = "colours", (2, 4), (8, 8), 8

    def __init__(self):
        super().__init__((0.5,) * 3, (0.25,) * 3)
        self.mix = nn.Conv2d(3, 8, 3, 2, 1)

    def extract(self, normalised):
        fine = self.mix(normalised).relu()
        return Features((fine, F.avg_pool2d(fine, 2)), self.strides)


class Prototype(FewShot):
    """Cosine to the mean foreground token of each shot, the best shot of all."""

    size, geometry = 64, "fit"

    def __init__(self):
        super().__init__()
        self.encoder, self.encoded = Colours().freeze(), []

    def encode(self, images):
        self.encoded.append(images.shape[0])
        return self.encoder(images)

    def encode_support(self, images, masks, features=None, class_names=()):
        share = F.adaptive_avg_pool2d((masks[0] == 1).float()[:, None], features.maps[0].shape[-2:])
        token = (features.maps[0] * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1e-6)
        return Support({"token": token[None]})

    def forward(self, query, support, images):
        cosine = torch.einsum(
            "bchw,kc->bkhw", F.normalize(query.maps[0], dim=1), F.normalize(support["token"][0], dim=1)
        )
        score = 20 * (cosine.amax(1) - 0.95)
        return Prediction(torch.stack([-score, score], 1))


def setting(root, protocol="shotseg", shots=1, episodes=40, seed=0, **kept):
    torch.manual_seed(0)
    dataset, model = FolderDataset(root), Prototype().eval()
    changed = {k: v for k, v in kept.items() if k != "cache_mb"}
    rule = preset(protocol).override(episodes=episodes, **changed)
    areas = [5000] * len(dataset.items)
    pool = Pool(dataset, dataset.classes, shots, rule.min_pixels, areas)
    picks = draw_episodes(rule, pool, shots, seed)
    return Evaluator(model, dataset, pool, rule, cache_mb=kept.get("cache_mb", 100)), picks


def miou(rows):
    inter, union = (np.sum([row[name] for row in rows], 0) for name in ("intersection", "union"))
    return 100 * inter[1] / union[1]


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 3])
def test_counts_are_the_same_for_any_number_of_workers_batch_and_cache(root, shots):
    evaluator, picks = setting(root, shots=shots)
    first = count_episodes(evaluator, picks, workers=1, batch=1)
    assert miou(first) > 60
    for workers, batch, cache in ((4, 8, 100), (4, 1, 0), (1, 8, 1)):
        other, picks = setting(root, shots=shots, cache_mb=cache)
        assert count_episodes(other, picks, workers=workers, batch=batch) == first


def test_a_photo_is_read_and_encoded_once_for_all_its_episodes(root, monkeypatch):
    evaluator, picks = setting(root, shots=2, episodes=100)
    reads = Counter()
    read = evaluator.dataset.sample
    monkeypatch.setattr(evaluator.dataset, "sample", lambda i: reads.update([i]) or read(i))
    count_episodes(evaluator, picks, workers=1)
    photos = {i for pick in picks for i in (pick.query, *pick.supports)}
    assert len(evaluator.model.encoded) == len(photos)
    assert set(reads.values()) == {1}


def test_a_mask_comes_to_the_working_size_without_its_photo(root, monkeypatch):
    evaluator, picks = setting(root)
    resizes, resized = [], transforms.resized
    monkeypatch.setattr(transforms, "resized", lambda image, size: resizes.append(size) or resized(image, size))
    for pick in picks:
        evaluator.photo(pick.query)
        for i in pick.supports:
            evaluator.support(i)
    assert len(resizes) == len({i for pick in picks for i in (pick.query, *pick.supports)})


def test_an_interrupted_run_goes_on_to_the_same_counts(root, tmp_path):
    evaluator, picks = setting(root)
    whole = count_episodes(evaluator, picks)
    partial = tmp_path / "x.partial.jsonl"

    class Stop(Exception):
        pass

    def stop(count, seen=[0]):  # noqa: B006
        seen[0] += count
        if seen[0] >= 15:
            raise Stop

    with pytest.raises(Stop):
        count_episodes(evaluator, picks, partial, "run 1", batch=5, on_rows=stop)
    torn = partial.read_text()[:-9]  # as if killed while writing
    partial.write_text(torn)
    kept = torn.count("\n") - 1
    assert 0 < kept < len(picks)
    with pytest.raises(UsageError, match="go on with --resume"):
        count_episodes(evaluator, picks, partial, "run 1", resume=False)
    with pytest.raises(UsageError, match="counts of another run"):
        count_episodes(evaluator, picks, partial, "run 2")
    counted = []
    assert count_episodes(evaluator, picks, partial, "run 1", on_rows=counted.append) == whole
    assert sum(counted) == len(picks) - kept
    assert partial_files(partial) == [partial]
    partial.write_text('{"fingerprint": "run 2"}\n')  # of a run that ended before it counted anything
    assert count_episodes(evaluator, picks, partial, "run 1", resume=False) == whole
    assert partial.read_text().startswith('{"fingerprint": "run 1"}')


def test_a_broken_photo_stops_the_run_with_its_name(root, tmp_path):
    evaluator, picks = setting(root)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")

    def sample(i):
        raise InputError(f"{broken}: cannot be read")

    evaluator.dataset.sample = sample
    with pytest.raises(InputError, match=re.escape(str(broken))):
        count_episodes(evaluator, picks, workers=2)


@pytest.mark.parametrize("protocol", sorted(PRESETS))
@pytest.mark.parametrize("shots", [1, 2])
def test_every_preset_measures_a_method_that_works(root, protocol, shots):
    evaluator, picks = setting(root, protocol, shots, episodes=12, size=PRESETS[protocol].size and 64)
    rows = count_episodes(evaluator, picks)
    assert miou(rows) > (30 if protocol == "cst" else 60)
    for row in rows:
        assert all(i <= u for i, u in zip(row["intersection"], row["union"]))
        everything = row["controls"]["all_foreground"]
        assert everything["intersection"] == [0, row["target"][1]]
        assert everything["union"] == [row["target"][0], sum(row["target"])]


def test_a_query_without_the_class_has_an_empty_truth(root):
    evaluator, picks = setting(root, "cst", episodes=30)
    other = next(p for p in picks if evaluator.pool.items[p.query].class_id != p.class_id)
    assert evaluator.predict(other)[1].sum() == 0


def test_a_pseudo_mask_that_the_method_was_given_is_scored_alone(root):
    evaluator, picks = setting(root, episodes=5)
    forward = evaluator.model.forward

    def with_pseudo_mask(query, support, images):
        corner = torch.zeros(1, 8, 8)
        corner[:, :4, :4] = 1
        return Prediction(forward(query, support, images).logits, {"pseudo_mask": corner})

    evaluator.model.forward = with_pseudo_mask
    for row in count_episodes(evaluator, picks):
        given = row["controls"]["pseudo_mask"]
        area = given["union"][1] + given["intersection"][1] - row["target"][1]
        assert area == pytest.approx(sum(row["target"]) / 4, rel=0.15)


def test_a_method_is_told_of_a_query_what_it_asks_and_nothing_else(root):
    evaluator, picks = setting(root, episodes=3)
    forward, heard = evaluator.model.forward, []

    def listening(query, support, images, **told):
        heard.append(told)
        return forward(query, support, images)

    evaluator.model.forward = listening
    evaluator.model.asks = ("class_name", "present", "sizes")
    list(count_episodes(evaluator, picks))
    del evaluator.model.asks
    list(count_episodes(evaluator, picks))
    expected = [
        ((name := evaluator.pool.items[pick.query].class_name), name, evaluator.sample(pick.query)[1].shape)
        for pick in picks
    ]
    said = [(told["class_name"][0], *told["present"][0], told["sizes"][0]) for told in heard[:3]]
    assert Counter(said) == Counter(expected)
    assert heard[3:] == [{}, {}, {}]


@pytest.mark.parametrize("options", [{"text_context": "oracle"}, {"vtp_input": "photo"}])
def test_clip_that_competes_with_a_photos_true_classes_can_be_evaluated(root, options):
    evaluator, picks = setting(root, episodes=2)
    model = models.load("pi-clip-zero-shot", tiny_clip.random(), size=64, **options).eval()
    found = Evaluator(model, evaluator.dataset, evaluator.pool, evaluator.protocol)
    assert len(list(count_episodes(found, picks))) == 2


def test_padding_is_cut_off_before_a_photo_is_scored_at_its_own_size(root):
    padded, picks = setting(root, geometry="pad", size=64)
    assert miou(count_episodes(padded, picks)) > 60


def test_the_cache_keeps_to_its_bound_and_makes_nothing_twice_at_once():
    cache, made = Cache(1000), []
    for i in range(20):
        value = cache.get(i, lambda i=i: made.append(i) or torch.zeros(50))
        assert cache.get(i, lambda: pytest.fail("made twice")) is value
        assert cache.bytes <= 1000
    assert cache.get(0, lambda: made.append(0) or torch.zeros(50)).shape == (50,)
    assert made == [*range(20), 0]
    with pytest.raises(ZeroDivisionError):
        cache.get("broken", lambda: 1 / 0)
    assert cache.get("broken", lambda: torch.ones(1)) == 1


def test_what_the_cache_holds_is_not_walked_through_while_there_is_room(monkeypatch):
    cache = Cache(1000)

    class Unread(OrderedDict):
        def __iter__(self):
            pytest.fail("every value was looked at")

    monkeypatch.setattr(cache, "_values", Unread())
    for i in range(3):
        cache.get(i, lambda: torch.zeros(50))


def test_controls_are_simple_shapes_and_know_where_the_object_is():
    assert controls.all_foreground((3, 4)).sum() == 12
    disc = controls.centre_disc((101, 201))
    assert disc[50, 100] == 1 and disc[0].sum() == 0
    assert disc.float().mean() == pytest.approx(np.pi * 0.3**2, rel=0.01)
    maps = torch.zeros(1, 4, 10, 12)
    maps[:, 0], maps[:, 1, 3:7, 4:8] = 1, 5
    shown = controls.salient(Features((maps, maps), (8, 8)), (40, 48))
    assert shown[20, 24] == 1 and shown[0].sum() == 0 and 100 < shown.sum() < 400
    assert controls.saliency(Features((torch.ones(1, 2, 1, 1),) * 2, (8, 8))).isfinite().all()


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch):
    """``shotseg evaluate`` with the stand-in model."""

    def model(*_):
        torch.manual_seed(0)
        return Prototype().eval(), torch.device("cpu")

    monkeypatch.setattr(subject, "model", model)


SCORES = {"miou": float, "fb_iou": float, "episode_iou": float, "exact_ratio": float, "pixel_accuracy": float}
COUNTED = {"intersection": [[int]], "union": [[int]]}
INTERVALS = {"seeds": [float], "episodes": [float]}
CONTROL = {"miou": float, "fb_iou": float, "episode_iou": float, "pixel_accuracy": float, "ci95": [float]}
CONTROL |= {"intervals": INTERVALS}
SCHEMA = {
    **SCORES,
    "format": str,
    "method": str,
    "encoder": str,
    "checkpoint": None,
    "dataset": str,
    "fold": int,
    "shot": int,
    "data": {"root": str, "kind": None, "min_area": float},
    "classes": [str],
    "ci95": [float],
    "intervals": INTERVALS,
    "per_class": {"*": float},
    "per_seed": {"*": SCORES},
    "controls": dict.fromkeys(("all_foreground", "centre", "saliency"), CONTROL),
    "counts": {
        "per_class": {"*": {"episodes": int, "intersection": [int], "union": [int], "ignored": int}},
        "per_episode": {
            "seed": [int],
            "episode": [int],
            "class": [str],
            "query": [str],
            "support": [[str]],
            "target": [[int]],
            "ignored": [int],
            **COUNTED,
            "controls": dict.fromkeys(("all_foreground", "centre", "saliency"), COUNTED),
        },
    },
    "protocol": {
        "name": str,
        "rule": str,
        "episodes": int,
        "seeds": [int],
        "size": int,
        "geometry": str,
        "score_at": str,
        "align_corners": bool,
        "ignore_band": str,
        "fusion": str,
        "min_pixels": int,
        "absent": str,
        "training": str,
        "selection": str,
        "overridden": [str],
        "accumulate": str,
        "lists": {"*": str},
    },
    "seconds_per_episode": float,
    "runtime": str,
    "environment": {"*": (str, int)},
    "published": list,
}


def check(value, schema, at="result"):
    """Every key of the schema and no other, with the type it gives; "*" stands for any key."""
    if isinstance(schema, dict):
        names = dict.fromkeys(value, schema["*"]) if "*" in schema else schema
        assert set(value) == set(names), f"{at}: {sorted(set(value) ^ set(names))}"
        for name, inner in names.items():
            check(value[name], inner, f"{at}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), at
        for i, inner in enumerate(value):
            check(inner, schema[0], f"{at}[{i}]")
    else:
        assert value is None if schema is None else isinstance(value, schema), f"{at}: {value!r}"


def run(root, out, **flags):
    settings = {"episodes": 12, "seeds": (0, 1), "workers": 1} | flags
    assert Evaluate("folder", root=root, out=out, **settings).run() == 0
    return json.loads(out.read_text())


def test_the_result_file_has_every_promised_entry(root, tmp_path, stand_in, capsys):
    content = run(root, tmp_path / "x.json", fold="0")
    check(content, SCHEMA)
    assert content["classes"] == ["blue", "green"]
    assert content["protocol"]["overridden"] == ["episodes", "seeds"]
    assert content["ci95"][0] < content["miou"] < content["ci95"][1]
    assert content["miou"] == pytest.approx(np.mean([s["miou"] for s in content["per_seed"].values()]))
    assert len(content["counts"]["per_episode"]["seed"]) == 24
    assert sum(c["episodes"] for c in content["counts"]["per_class"].values()) == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.report.html"]
    printed = capsys.readouterr()
    assert "saliency" in printed.out and "changed episodes, seeds" in printed.err


def test_the_report_holds_its_pictures_and_needs_no_other_file(root, tmp_path, stand_in):
    run(root, tmp_path / "x.json")
    page = (tmp_path / "x.report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 12
    assert page.count("<rect") == 3
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page


def test_two_results_on_the_same_episodes_are_compared_in_pairs(root, tmp_path, stand_in, capsys):
    run(root, tmp_path / "a.json")
    run(root, tmp_path / "b.json", size=16)
    out = tmp_path / "c.json"
    assert Evaluate(compare=(tmp_path / "a.json", tmp_path / "b.json"), out=out).run() == 0
    found = json.loads(out.read_text())
    assert found["difference"] > 0 and found["low"] <= found["difference"] <= found["high"]
    assert "difference" in capsys.readouterr().out
    run(root, tmp_path / "d.json", seeds=(7,))
    with pytest.raises(UsageError, match=r"same episodes \(seeds: not the same\)"):
        Evaluate(compare=(tmp_path / "a.json", tmp_path / "d.json")).run()
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(InputError, match="no result of this version"):
        Evaluate(compare=(tmp_path / "a.json", tmp_path / "e.json")).run()


def test_chosen_classes_are_tested_alone(root, tmp_path, stand_in):
    content = run(root, tmp_path / "x.json", classes=("red",), shot=3)
    assert content["classes"] == ["red"] and set(content["per_class"]) == {"red"}
    assert {len(s) for s in content["counts"]["per_episode"]["support"]} == {3}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dataset": ""}, "give a data set"),
        ({"shot": 0}, "--shot 0"),
        ({"size": 0}, "--size 0"),
        ({"size": -5}, "--size -5"),
        ({"workers": -1}, "--workers -1"),
        ({"method": "maskformer"}, "give --checkpoint"),
        ({"out": Path("x.txt")}, "ends in .json"),
        ({"fold": "7"}, "--fold: no fold '7'"),
        ({"classes": ("purple",)}, "--classes: no class 'purple'"),
        ({"shot": 30}, "--shot 30: no class of"),
        ({"dataset": "pascal6i"}, "pascal6i"),
    ],
)
def test_wrong_usage_is_one_line_with_the_mend(root, tmp_path, stand_in, flags, said):
    settings = {"dataset": "folder", "root": root, "out": tmp_path / "x.json", **flags}
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        Evaluate(**settings).run()
    assert "\n" not in str(caught.value)


def test_a_folder_is_walked_in_turn_of_its_classes_and_unmet_ones_are_named(root, tmp_path, stand_in, capsys):
    content = run(root, tmp_path / "x.json", protocol="hsnet", episodes=3, seeds=(0,))
    assert sorted(content["counts"]["per_episode"]["class"]) == ["blue", "green", "red"]
    assert "no episode asks" not in capsys.readouterr().err
    run(root, tmp_path / "x.json", protocol="hsnet", episodes=2, seeds=(0,))
    assert "no episode asks for 1 of 3 classes, which count as zero: red" in capsys.readouterr().err
    assert "no episode asks for 1 of 3 classes" in (tmp_path / "x.report.html").read_text()


def one_of_two(root, folder):
    evaluator, picks = setting(root)
    rows = count_episodes(evaluator, picks, folder / "x.partial.jsonl", "same", workers=2, batch=4)
    if os.environ["RANK"] == "0":
        (folder / "rows.json").write_text(json.dumps(rows))


def test_two_processes_give_the_counts_of_one(root, tmp_path):
    warm.group(tmp_path, 2, one_of_two, root, tmp_path)
    evaluator, picks = setting(root)
    assert json.loads((tmp_path / "rows.json").read_text()) == count_episodes(evaluator, picks)
    assert len(partial_files(tmp_path / "x.partial.jsonl")) == 2


# --- real photos ------------------------------------------------------------------------------------------------------


def test_matching_beats_every_control_on_real_photos(tmp_path):
    root = golden.data("pascal_coseg15")
    content = run(root, tmp_path / "x.json", classes=("boat", "aeroplane"), episodes=16, seeds=(0,), workers=2)
    assert content["fold"] is None
    assert all(content["miou"] > scores["miou"] for scores in content["controls"].values())
    assert content["ci95"] == content["intervals"]["episodes"]
