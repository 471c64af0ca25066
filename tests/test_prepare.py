"""``prepare`` on miniatures of the official archives, and the data sets that come of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import golden
import miniatures
from shotseg.data import list_datasets, load
from shotseg.data.episodes import EpisodeSampler
from shotseg.data.images import read_mask
from shotseg.data.manifest import Manifest
from shotseg.data.preparation import prepare
from shotseg.data.sets import coco_masks, spec
from shotseg.data.sets.files import label_map
from shotseg.errors import InputError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (root, manifest) of a prepared miniature, made once."""
    done = {}

    def make(name):
        if name not in done:
            root = miniatures.BUILD[name](tmp_path_factory.mktemp(name))
            done[name] = root, prepare(name, root, quiet=True)
        return done[name]

    return make


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_voc_alone_says_what_pascal_5i_needs_beside_it_and_that_it_is_read_without(tmp_path):
    voc = miniatures.BUILD["pascal5i"](tmp_path) / "VOCdevkit/VOC2012"
    for name in ("benchmark_RELEASE", "SBD", "benchmark.tgz"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    assert voc.is_dir()
    with pytest.raises(UsageError, match=r"benchmark\.tgz from .*Aug in VOC2012 does too; VOC2012 alone is read"):
        prepare("pascal5i", tmp_path, quiet=True)
    assert load("folder", voc).classes


# --- every data set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_datasets())
def test_every_data_set_prepares_from_a_miniature_and_gives_binary_masks_and_episodes(made, name):
    root, manifest = made(name)
    assert Manifest.read(manifest.folder) == manifest
    view = {"fold": 0} if "0" in manifest.folds.get(manifest.definition() or "", {}) else {}
    data = load(name, root, **view)
    masked = [i for i, item in enumerate(data.items) if item.mask_path]
    assert masked
    for index in masked[:: max(1, len(masked) // 20)]:
        sample, item = data.sample(index), data.items[index]
        assert sample.image.shape[:2] == sample.mask.shape
        assert set(np.unique(sample.mask)) <= {0, 1, 255} and (sample.mask == 1).any()
        assert item.class_id in sample.tags and data.classes[item.class_id] == item.class_name
    assert len({item.id for item in data.items}) == len(data.items)
    shared = [c for c in range(len(data.classes)) if len({i.content for i in data.items if i.class_id == c}) > 1]
    episode = EpisodeSampler(data.items, classes=shared)[0]
    assert data.items[episode.query].content != data.items[episode.supports[0]].content


@pytest.mark.parametrize("name", list_datasets())
def test_the_pixels_in_the_manifest_are_those_of_the_masks(made, name):
    _, manifest = made(name)
    for photo in manifest.photos[::5]:
        mask = read_mask(manifest.folder / photo.mask, labels=True)
        assert mask.shape == (photo.height, photo.width) and (manifest.root / photo.image).is_file()
        for class_id, count in photo.pixels.items():
            assert (mask == (1 if manifest.binary else class_id)).sum() == count


# --- facts of the package -------------------------------------------------------------------------------------------

FOLD_0_OF_COCO = (
    "person, aeroplane, boat, parking meter, dog, elephant, backpack, suitcase, sports ball, skateboard, wine glass, "
    "spoon, sandwich, hot dog, chair, diningtable, mouse, microwave, refrigerator, scissors"
)
FOLD_3_OF_COCO = (
    "motorbike, truck, stop sign, cat, cow, giraffe, tie, snowboard, baseball glove, bottle, knife, apple, carrot, "
    "cake, bed, laptop, cell phone, sink, vase, toothbrush"
)


def test_coco_folds_are_the_published_ones_in_voc_spelling():
    facts = spec("coco20i")
    name = dict(enumerate(facts["classes"], start=1))
    interleaved, contiguous = facts["folds"]["interleaved"], facts["folds"]["contiguous"]
    assert next(iter(facts["folds"])) == "interleaved"
    assert [name[i] for i in interleaved["0"]] == FOLD_0_OF_COCO.split(", ")
    assert [name[i] for i in interleaved["3"]] == FOLD_3_OF_COCO.split(", ")
    assert contiguous["1"] == list(range(21, 41))
    for definition in (interleaved, contiguous):
        assert sorted(i for ids in definition.values() for i in ids) == list(range(1, 81))
    assert len(set(facts["classes"])) == 80
    assert facts["category_ids"] == miniatures.CATEGORIES


def test_pascal_folds_are_blocks_of_five_and_agree_with_coco_in_spelling():
    facts = spec("pascal5i")
    assert facts["folds"]["official"] == {str(f): [5 * f + i for i in range(1, 6)] for f in range(4)}
    assert len(facts["classes"]) == 20 and set(facts["classes"]) <= set(spec("coco20i")["classes"])
    assert facts["expected"]["pairs"]["hsnet/trainaug"] == [2286, 3425, 5883, 2086]
    assert facts["expected"]["pairs"]["hsnet/val"] == [346, 451, 725, 346]


def test_the_expected_counts_are_those_of_the_released_lists():
    stats = golden.load_json(golden.folder("tlg") / "j_episodes.json")["stats"]
    pascal, coco = (spec(name)["expected"]["pairs"] for name in ("pascal5i", "coco20i"))
    for fold in range(4):
        own = stats[f"pascal{fold}"]
        assert pascal["hsnet/val"][fold] == own["n_meta"]
        assert sum(pascal["hsnet/trainaug"]) - pascal["hsnet/trainaug"][fold] == own["n_trn"]
        assert [5 * fold + i for i in range(5)] == own["classes"]
        assert coco["hsnet/val"][fold] == stats[f"coco{fold}"]["n_pairs"]
        assert [i - 1 for i in spec("coco20i")["folds"]["interleaved"][str(fold)]] == stats[f"coco{fold}"]["classes"]


def test_weak_shot_splits_are_nested_and_sized_as_published():
    coco, ade = spec("coco_stuff10k"), spec("ade20k150")
    novel = coco["folds"]["weak-shot"]
    assert [len(novel[f"s{i}"]) for i in range(1, 10)] == [43, 43, 43, 43, 51, 59, 68, 76, 85]
    assert all(set(novel[f"s{i}"]) < set(novel[f"s{i + 1}"]) for i in range(4, 9))
    assert [len(ids) for ids in ade["folds"]["weak-shot"].values()] == [38] * 4
    assert (len(coco["classes"]), len(ade["classes"])) == (171, 150)
    assert (len(coco["excluded"]), len(ade["excluded"])) == (7, 16)


def test_archive_hashes_and_addresses_are_those_of_torchvision():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    parts = spec("pascal5i")["archives"]["official"]
    voc = DATASET_YEAR_DICT["2012"]
    assert (parts["voc"]["file"], parts["voc"]["md5"]) == (voc["filename"], voc["md5"])
    assert (parts["sbd"]["file"], parts["sbd"]["md5"]) == (SBDataset.filename, SBDataset.md5)


# --- PASCAL ---------------------------------------------------------------------------------------------------------


def test_pascal_lists_follow_their_rules(made):
    _, manifest = made("pascal5i")
    of = {name: {p.id for p in manifest.photos if name in p.lists} for name in ("trainaug", "train5953", "val")}
    assert {name: len(ids) for name, ids in of.items()} == {"trainaug": 80, "train5953": 60, "val": 40}
    assert not of["trainaug"] & of["val"]
    assert of["trainaug"] - of["train5953"] == {f"2009_{c:03d}001" for c in range(1, 21)}
    assert "list trainaug: 80 instead of 10582" in " ".join(manifest.facts["warnings"])


def test_masks_of_sbd_beside_those_of_voc_make_the_same_lists_and_pixels(made, tmp_path):
    _, of_official = made("pascal5i")
    voc = miniatures.pascal(tmp_path / "root") / "VOCdevkit/VOC2012"
    sbd = tmp_path / "root/benchmark_RELEASE/dataset"
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    for photo in (sbd / "img").iterdir():
        mask = voc / "SegmentationClassAug" / f"{photo.stem}.png"
        if not mask.is_file():
            shutil.copy(photo, voc / "JPEGImages" / photo.name)
            miniatures.picture(mask, label_map(sbd / f"cls/{photo.stem}.mat", "GTcls.Segmentation", 255))
    shutil.rmtree(sbd.parent)
    augmented = prepare("pascal5i", tmp_path / "root", quiet=True)
    assert [(p.id, p.lists, p.pixels) for p in augmented.photos] == [
        (p.id, p.lists, p.pixels) for p in of_official.photos
    ]


def test_a_photo_that_voc_and_sbd_annotate_has_the_mask_of_voc(made):
    root, _ = made("pascal5i")
    sample = load("pascal5i", root, fold=0).sample(0)
    assert (sample.mask[:5] == 255).all() and (sample.mask[5:, :40] == 1).all() and not sample.mask[5:, 40:].any()


def test_train_classes_and_test_classes_of_a_fold_never_meet(made):
    root, manifest = made("pascal5i")
    test, train = load("pascal5i", root, fold=2), load("pascal5i", root, split="train", fold=2)
    assert test.class_ids == (11, 12, 13, 14, 15) and test.list == "val"
    assert set(test.class_ids) | set(train.class_ids) == set(manifest.classes) and train.list == "trainaug"
    assert not set(test.class_ids) & set(train.class_ids)
    assert test.classes == ["diningtable", "dog", "horse", "motorbike", "person"]
    assert load("pascal5i", root, split="train", fold=2, family="pfenet").list == "train5953"


def test_photos_with_a_novel_class_can_be_dropped_from_training(made):
    root, _ = made("pascal5i")
    keep = load("pascal5i", root, split="train", fold=0)
    drop = load("pascal5i", root, split="train", fold=0, novel="drop")
    gone = {p.id for p in keep.photos} - {p.id for p in drop.photos}
    assert gone == {p.id for p in keep.photos if set(p.pixels) & {1, 2, 3, 4, 5}} and gone
    assert any(set(p.pixels) & {5} and set(p.pixels) & {6} for p in keep.photos)


def test_the_least_area_decides_which_photos_count_for_a_class(made):
    root, _ = made("coco20i")
    published, every = load("coco20i", root, fold=0), load("coco20i", root, fold=0, min_pixels=1)
    assert min(published.areas) >= 2048 > min(every.areas)
    assert published.choices["min_pixels"] == 2048 and every.choices["min_pixels"] == 1


# --- COCO and LVIS --------------------------------------------------------------------------------------------------


def test_small_objects_lie_on_large_ones_and_crowds_below(made):
    _, manifest = made("coco20i")
    assert {n: sum(n in p.lists for p in manifest.photos) for n in ("train", "val")} == {"train": 160, "val": 160}
    photo = next(p for p in manifest.photos if p.image.endswith("COCO_val2014_000000001003.jpg"))
    mask = read_mask(manifest.folder / photo.mask, labels=True)
    assert set(photo.pixels) == {1, 2, 3}
    assert mask[15, 15] == 3 and mask[30, 30] == 2 and (mask[:, 75:] == 1).all() and not mask[:, 51:75].any()


def test_the_fold_definition_is_named_in_what_a_result_must_say(made):
    root, _ = made("coco20i")
    ours, theirs = load("coco20i", root, fold=1), load("coco20i", root, fold=1, folds="contiguous")
    assert ours.choices["folds"] == "interleaved" and theirs.choices["folds"] == "contiguous"
    assert ours.choices["pairs_sha256"] != theirs.choices["pairs_sha256"]
    view = ours.manifest.facts["pairs"]["hsnet/val/interleaved/1"]
    assert view == {"pairs": len(ours), "sha256": ours.choices["pairs_sha256"]}


def test_coco_2017_is_taken_where_2014_is_absent_and_says_so(tmp_path):
    manifest = prepare("coco20i", miniatures.coco(tmp_path, "2017"), quiet=True)
    assert manifest.facts["choices"]["year"] == "2017"
    assert any("2017" in warning for warning in manifest.facts["warnings"])


def test_overlapping_lvis_classes_keep_their_whole_masks(made):
    root, manifest = made("lvis92i")
    assert sorted(manifest.classes) == list(range(1, 21))  # category 21 has one photo, 22 none
    assert manifest.folds["interleaved"]["3"] == [4, 14]
    assert {tuple(p.pixels.values()) for p in manifest.photos} == {(200,)}
    data = load("lvis92i", root, fold=3)
    assert data.classes == ["thing 4", "thing 14"] and len(data) == 6
    assert len({item.content for item in data.items}) == 3


DRAWN_BY_COCO = (  # size, polygon (crosses itself and leaves the image), COCO's run lengths for it
    (
        (40, 50),
        [2.67, 10.91, 41.67, 29.73, 3.13, 21.61, 24.11, 6.71, 38.03, 4.2, 19.32, 26.16],
        r"S4190e00ZO0f01XO0i0OVO2j0OTO2m0NRO3m041HRO4n0LSO3m0MTO3j0NWO1i00WOOh02YOMf05YOKf06[OJd0751WOHa0:60WOFc0<ZOGd0?0"
        r"J]OGc08^OHa08@I?6CI=5EK;4GK94HL74KL43MM310N011OO03OL150JO80`00Y10R9",
    ),
    (
        (33, 20),
        [13.78, 19.51, 25.04, 33.05, 8.42, 21.77, 23.52, 8.73, -1.95, 33.68, 8.94, 9.51, 30.68, 19.45, 15.27, 26.34],
        r"l03l01O1O1O1N2O1O1O10O2O[OHd06]OKb04^OMc01]O1b0N^ON11a00]O23L?1^O52J`00^O80Ja0=NAA91I2",
    ),
)


@pytest.mark.parametrize("size, points, runs", DRAWN_BY_COCO)
def test_polygons_are_drawn_to_the_pixel_as_coco_draws_them(size, points, runs):
    ours, theirs = coco_masks.decode([points], *size), coco_masks.decode({"counts": runs}, *size)
    assert theirs.any() and (ours == theirs).all()


def test_compressed_and_plain_run_lengths_are_the_same_mask():
    plain = coco_masks.decode({"counts": [4, 8, 4], "size": [4, 4]}, 4, 4)
    assert plain[:, 1:3].all() and plain.sum() == 8
    assert (coco_masks.decode({"counts": "484", "size": [4, 4]}, 4, 4) == plain).all()
    with pytest.raises(ValueError, match="run lengths of 12 pixels"):
        coco_masks.decode({"counts": [4, 8]}, 4, 4)


# --- the others -----------------------------------------------------------------------------------------------------


def test_fss_takes_the_published_lists_or_says_that_it_does_not(made, tmp_path):
    root, _ = made("fss1000")
    assert load("fss1000", root, split="test").classes == ["thing_008", "thing_009"]
    assert load("fss1000", root, split="train").definition == "official"
    unlisted = prepare("fss1000", miniatures.fss(tmp_path, classes=50, lists=False), quiet=True)
    assert {part: len(ids) for part, ids in unlisted.folds["by-name"].items()} == {"train": 26, "val": 12, "test": 12}
    assert "not as published" in unlisted.facts["warnings"][0]


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_both_versions_of_coco_stuff_give_the_same_ids(tmp_path, version):
    manifest = prepare("coco_stuff10k", miniatures.coco_stuff(tmp_path, version), quiet=True)
    assert sorted(manifest.photos[0].pixels) == [0, 170]
    assert manifest.facts["photos_by_list"] == {"train": 4, "test": 2}
    mask = load("coco_stuff10k", tmp_path, split="train", fold="s1").label_sample(0).mask
    assert set(np.unique(mask)) == {0, 170, 255}


def test_a_weak_shot_split_has_base_classes_in_training_and_novel_ones_apart(made):
    root, manifest = made("ade20k150")
    data = load("ade20k150", root, split="train", fold="s2")
    assert len(data.class_ids) == 112 and len(data.novel_ids) == 38 and 0 in data.novel_ids
    sample = data.label_sample(0)
    assert set(np.unique(sample.mask)) == {0, 1, 149, 255} and sample.tags == {0, 1, 149}
    assert "ADE_train_00005149" not in {p.id for p in manifest.photos}


def test_isic_has_the_three_diagnoses_only_with_the_tables(made, tmp_path):
    _, manifest = made("isic")
    assert list(manifest.classes.values()) == ["nevus", "melanoma", "seborrheic keratosis"]
    alone = prepare("isic", miniatures.isic(tmp_path, diagnosis=False), quiet=True)
    assert list(alone.classes.values()) == ["skin lesion"] and "one class" in alone.facts["warnings"][0]


def test_colours_become_class_ids_and_black_is_background(made):
    for name, count in (("deepglobe", 6), ("suim", 7)):
        _, manifest = made(name)
        mask = read_mask(manifest.folder / manifest.photos[0].mask, labels=True)
        assert list(dict.fromkeys(mask[0].tolist())) == [*range(count + 1)]


def test_chest_photos_without_a_mask_are_left_out(made):
    _, manifest = made("chest_xray")
    assert [p.id for p in manifest.photos] == ["CHNCXR_0001_0", "CHNCXR_0002_0", "MCUCXR_0001_0"]


# --- archives, interruptions, mistakes ------------------------------------------------------------------------------


def test_packed_and_unpacked_archives_give_the_same_manifest(tmp_path, made):
    root = miniatures.coco(tmp_path / "packed")
    for part in ("train2014", "val2014", "annotations"):
        inside = tmp_path / "move" / part
        inside.parent.mkdir(exist_ok=True)
        shutil.move(root / part, inside)
        name = f"{part}.zip" if part != "annotations" else "annotations_trainval2014.zip"
        miniatures.zipped(inside.parent, root / name)
    manifest = prepare("coco20i", root, quiet=True)
    assert tree(manifest.folder) == tree(made("coco20i")[1].folder)


def test_an_archive_with_another_hash_is_named_and_a_truncated_one_refused(tmp_path):
    root = miniatures.pascal(tmp_path / "root")
    (tmp_path / "move").mkdir()
    shutil.move(root / "VOCdevkit", tmp_path / "move/VOCdevkit")
    archive = root / "VOCtrainval_11-May-2012.tar"
    miniatures.tarred(tmp_path / "move", archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"VOCtrainval_11-May-2012\.tar: cannot be unpacked .* download https://"):
        prepare("pascal5i", root, quiet=True)
    archive.write_bytes(whole)
    facts = prepare("pascal5i", root, quiet=True).facts
    assert "its md5" in facts["warnings"][0] and facts["archives"][0]["md5"] != facts["archives"][0]["official_md5"]


def test_half_unpacked_archives_are_unpacked_again(tmp_path):
    root = miniatures.deepglobe(tmp_path / "full")
    whole = tree(root)
    (tmp_path / "move").mkdir()
    shutil.move(root / "train", tmp_path / "move/train")
    miniatures.zipped(tmp_path / "move", root / "deepglobe-land-cover-classification-dataset.zip")
    (root / ".deepglobe-land-cover-classification-dataset.zip.part").mkdir()  # what a kill leaves
    (root / "train").mkdir()
    (root / "train/0_sat.jpg").write_bytes(b"half")
    prepare("deepglobe", root, quiet=True)
    assert {k: v for k, v in tree(root).items() if k.startswith("train/")} == whole


@pytest.mark.parametrize("name", [name for name in list_datasets() if name != "folder"])
def test_a_missing_archive_is_named_with_its_address_in_one_line(tmp_path, name):
    with pytest.raises(UsageError) as error:
        prepare(name, tmp_path, quiet=True)
    for part in next(iter(spec(name)["archives"].values())).values():
        assert part["file"] in str(error.value) and part["url"] in str(error.value)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_only_the_missing_archive_is_asked_for(tmp_path):
    shutil.rmtree(miniatures.pascal(tmp_path) / "benchmark_RELEASE")
    with pytest.raises(UsageError, match=r"benchmark\.tgz from https://.*--download") as error:
        prepare("pascal5i", tmp_path, quiet=True)
    assert "VOCtrainval" not in str(error.value)


def test_missing_archives_are_downloaded_where_the_host_allows_it(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    offered = miniatures.ade(tmp_path / "offered")
    miniatures.zipped(offered, tmp_path / "offered.zip")
    asked = []

    def download(url, root, filename, md5):
        asked.append(url)
        if len(asked) == 1:
            raise OSError("no network")
        shutil.copyfile(tmp_path / "offered.zip", root / filename)

    monkeypatch.setattr(utils, "download_url", download)
    with pytest.raises(UsageError, match=r"ADEChallengeData2016\.zip: cannot be downloaded \(no network\)"):
        prepare("ade20k150", tmp_path / "root", download=True, quiet=True)
    assert len(prepare("ade20k150", tmp_path / "root", download=True, quiet=True).photos) == 5
    with pytest.raises(UsageError, match=r"fewshot_data\.zip from https://.*by hand"):  # needs a click in a browser
        prepare("fss1000", tmp_path / "root", download=True, quiet=True)
    assert len(asked) == 2


def test_a_killed_conversion_goes_on_and_ends_in_the_same_files(tmp_path, made, monkeypatch):
    root, done = tmp_path / "again", made("pascal5i")[1]
    shutil.copytree(made("pascal5i")[0], root, ignore=shutil.ignore_patterns("shotseg"))
    from shotseg.data import preparation as module

    convert, calls = module._photo, []

    def dies(source, *rest):
        calls.append(source.id)
        if len(calls) == 100:
            raise KeyboardInterrupt
        return convert(source, *rest)

    monkeypatch.setattr(module, "_photo", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare("pascal5i", root, workers=1, quiet=True)
    left = root / "shotseg/pascal5i/items.jsonl.part"
    assert not (left.parent / "manifest.json").exists()
    left.write_bytes(left.read_bytes() + b'{"id": "torn')
    calls.clear()
    monkeypatch.setattr(module, "_photo", lambda source, *rest: (calls.append(source.id), convert(source, *rest))[1])
    prepare("pascal5i", root, workers=3, quiet=True)
    assert 0 < len(calls) < 60
    assert tree(root / "shotseg/pascal5i") == tree(done.folder)


def test_a_finished_data_set_is_not_converted_again(tmp_path, monkeypatch):
    root = miniatures.chest(tmp_path)
    first = prepare("chest_xray", root, quiet=True)
    from shotseg.data import preparation as module

    before = tree(first.folder)
    monkeypatch.setattr(module, "_photo", lambda *_: pytest.fail("converted again"))
    prepare("chest_xray", root, quiet=True)
    assert tree(first.folder) == before


def test_the_prepared_folder_can_be_moved_with_its_root(tmp_path):
    root = miniatures.suim(tmp_path / "a")
    prepare("suim", root, quiet=True)
    root.rename(tmp_path / "b")
    assert load("suim", tmp_path / "b").sample(0).mask.any()
    elsewhere = prepare("suim", tmp_path / "b", tmp_path / "out", quiet=True)
    assert load("suim", tmp_path / "out").sample(0).path.is_file() and elsewhere.folder == (tmp_path / "out").resolve()


def test_unknown_choices_are_refused_with_the_known_ones(made, tmp_path):
    root, manifest = made("pascal5i")
    for view, mend in (
        ({"fold": 4}, "choose from: 0, 1, 2, 3"),
        ({"folds": "contiguous"}, "choose from: official"),
        ({"family": "bam"}, "choose from: hsnet, pfenet"),
        ({"split": "val"}, "choose 'train' or 'test'"),
        ({"novel": "hide"}, "choose 'keep' or 'drop'"),
    ):
        with pytest.raises(UsageError, match=mend):
            load("pascal5i", root, **view)
    with pytest.raises(UsageError, match="run `shotseg prepare pascal5i"):
        load("pascal5i", tmp_path)
    with pytest.raises(UsageError, match="no data set 'voc'"):
        load("voc", root)
    with pytest.raises(UsageError, match="is of pascal5i, not suim"):
        load("suim", manifest.folder)
    cut = replace(manifest, folder=tmp_path)
    (cut.folder / "manifest.json").write_text((manifest.folder / "manifest.json").read_text())
    (cut.folder / "items.jsonl").write_text((manifest.folder / "items.jsonl").read_text()[:-500])
    with pytest.raises(InputError, match="run `shotseg prepare` again"):
        load("pascal5i", tmp_path)


# --- the published episodes -----------------------------------------------------------------------------------------


def test_the_lists_are_sorted_as_the_released_ones():
    """The released sampler's random numbers, replayed on list sizes alone, give places that rise with the names."""
    stored = golden.load_json(golden.folder("tlg") / "j_episodes.json")
    for fold, key in ((0, "fold0_shot5_seed6776"), (1, "fold1_shot5_seed0")):  # no query drawn, and redrawn, early on
        stream = np.random.RandomState(int(key.split("seed")[1]))
        placed = {}
        for line in stored["episodes"]["pascal"][key]["first"]:
            _, class_id, *supports = line.split()
            size = stored["stats"][f"pascal{fold}"]["per_class"][int(class_id) - 5 * fold]
            for support in supports:
                placed.setdefault(class_id, set()).add((int(stream.choice(size, 1, replace=False)[0]), support))
        for found in placed.values():
            assert [name for _, name in sorted(found)] == sorted(name for _, name in found)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_counts_warnings_and_where_the_manifest_is(tmp_path, capsys):
    import tyro

    from shotseg.cli.prepare import Prepare

    root = miniatures.isic(tmp_path)
    command = tyro.cli(Prepare, args=["isic", "--root", str(root)])
    assert command.run() == 0
    said = capsys.readouterr().out
    assert "3 classes; photos by list: all 6" in said and "6 instead of 2594" in said and "manifest.json" in said
    assert json.loads((root / "shotseg/isic/manifest.json").read_text())["facts"]["items_sha256"]
