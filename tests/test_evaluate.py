"""``shotseg.evaluate``: the same numbers as the command line's, by every way into it, and a result that can be kept."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shotseg
import shotseg.cli as cli
from shotseg import encoders, models
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import write_png
from shotseg.encoders import runtime
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.evaluation import effort
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.protocols import preset
from shotseg.models.strokes import Strokes
from shotseg.training import checkpoint
from shotseg.training import recipe as recipes
from training_miniature import settings, squares

QUICK = {"episodes": 4, "seeds": (0, 1), "size": 64, "workers": 1, "device": "cpu"}
FLAGS = ["--episodes", "4", "--seeds", "0", "1", "--size", "64", "--workers", "1", "--device", "cpu"]


def add(root: Path, name: str, i: int, colour: tuple[int, int, int]) -> None:
    image, mask = np.full((48, 64, 3), 40 + 3 * i, np.uint8), np.zeros((48, 64), np.uint8)
    image[8:32, 8 + 4 * i : 32 + 4 * i] = colour
    mask[8:32, 8 + 4 * i : 32 + 4 * i] = 255
    write_png(root / "images" / name / f"{i}.png", image)
    write_png(root / "masks" / name / f"{i}.png", mask)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("blocks")
    for i in range(4):
        add(root, "blue", i, (30, 40, 220))
        add(root, "red", i, (220, 40, 30))
    return root


def measured(content: dict) -> dict:
    return {name: value for name, value in content.items() if not name.startswith("seconds")}


def of_command_line(photos: Path, out: Path, *flags: str) -> dict:
    assert cli.main(["evaluate", "folder", "--root", str(photos), "--out", str(out), *flags]) == 0
    return measured(json.loads(out.read_text()))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (QUICK, FLAGS),
        ({"way": 2, "queries": 2, "present": 0.4, "size": 64, "device": "cpu"}, "--way 2 --queries 2 --present 0.4"),
        ({"way": 2, "protocol": "cst", **QUICK}, "--way 2 --protocol cst"),
        ({"effort": True, **QUICK, "episodes": 2}, "--effort"),
    ],
)
def test_python_and_the_command_line_measure_the_same(photos, tmp_path, options, flags):
    if isinstance(flags, str):
        own = {"--effort": "--episodes 2 --seeds 0 1", "--way 2 --protocol cst": "--episodes 4 --seeds 0 1 --workers 1"}
        flags = f"{flags} {own.get(flags, '')} --size 64 --device cpu".split()
    options = {name: value for name, value in options.items() if name != "workers" or not options.get("effort")}
    ours = shotseg.evaluate(photos, **options)
    assert measured(ours.content) == of_command_line(photos, tmp_path / "x.json", *flags)
    assert ours.scores and ours.summary.rows and repr(ours).startswith("<EvaluationResult matching: folder, ")


def test_a_path_a_name_an_open_data_set_and_a_ready_model_are_all_the_same(photos):
    ours = shotseg.evaluate(str(photos), **QUICK)
    model = models.load("matching", encoders.load("efficientnet-lite2"))
    runtime.use(model.encoder)  # a model that is ready is measured as it is
    same = [
        shotseg.evaluate("folder", "matching", root=photos, **QUICK),
        shotseg.evaluate(open_folder(photos), **QUICK),
        shotseg.evaluate(photos, model, **QUICK),
    ]
    assert all(measured(other.content) == measured(ours.content) for other in same)


def test_a_result_is_kept_read_again_and_shown(photos, tmp_path):
    said, seen = [], []
    ours = shotseg.evaluate(
        photos, **QUICK, out=tmp_path / "a.json", say=said.append, on_progress=lambda *x: seen.append(x)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.report.html"] and not said
    assert seen[-1] == (8, 8)
    again = shotseg.EvaluationResult.load(tmp_path / "a.json")
    assert again.content == ours.content and again.scores == ours.scores
    assert set(again.scores) == {"miou", "fb_iou", "episode_iou", "exact_ratio", "pixel_accuracy"}
    assert again.intervals["miou"] == ours.content["ci95"] and set(again.controls) >= {"centre", "saliency"}
    assert again.protocol["seeds"] == [0, 1] and len(again.counts["per_episode"]["seed"]) == 8
    assert "mIoU of controls: all_foreground" in repr(again) and "changed episodes, seeds, size" in again.notes[0]
    again.save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    ours.report(tmp_path / "c.html")
    again.report(tmp_path / "d.html")
    with_pictures, without = ((tmp_path / name).read_text() for name in ("c.html", "d.html"))
    assert with_pictures == (tmp_path / "a.report.html").read_text() and "data:image" in with_pictures
    assert "data:image" not in without and "IoU of each class" in without


def test_two_results_are_compared_in_pairs_and_other_kinds_are_not(photos, tmp_path):
    ours, small = (shotseg.evaluate(photos, **QUICK | {"size": size}) for size in (64, 32))
    found = ours.compare(small)
    assert found["difference"] == pytest.approx(ours.scores["miou"] - small.scores["miou"])
    assert found["low"] <= found["difference"] <= found["high"] and found["episodes"] == 8
    assert ours.compare(ours)["difference"] == 0
    several = shotseg.evaluate(photos, way=2, queries=1, seeds=(0,), size=64)
    with pytest.raises(UsageError, match="only results of one class at a time"):
        ours.compare(several)
    several.report(tmp_path / "x.html")
    shotseg.evaluate(photos, effort=True, episodes=1, seeds=(0,), size=64).report(tmp_path / "y.html")
    assert "carried / alone" in (tmp_path / "y.html").read_text()


def test_a_control_is_compared_as_a_result_of_its_own(photos):
    ours = shotseg.evaluate(photos, **QUICK)
    centre = ours.control("centre")
    assert centre.scores["miou"] == pytest.approx(ours.controls["centre"]["miou"])
    assert centre.intervals["miou"] is not None and set(centre.content["per_class"]) == {"blue", "red"}
    assert ours.compare(centre)["miou"] == [ours.scores["miou"], centre.scores["miou"]]
    with pytest.raises(UsageError, match="no control 'moon'"):
        ours.control("moon")


def test_an_interrupted_run_goes_on_by_the_same_call(photos, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    out = tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt):
        shotseg.evaluate(photos, **QUICK, batch=1, out=out, on_progress=stop)
    assert list(tmp_path.glob("*.partial.jsonl"))
    with pytest.raises(UsageError, match="--resume"):
        shotseg.evaluate(photos, **QUICK, batch=1, out=out)
    resumed = shotseg.evaluate(photos, **QUICK, batch=1, out=out, resume=True)
    assert resumed.counts == shotseg.evaluate(photos, **QUICK).counts
    assert not list(tmp_path.glob("*.partial.jsonl"))


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("options", [QUICK, {"way": 2, "queries": 2, "size": 64, "device": "cpu"}], ids=["one", "two"])
def test_an_interrupted_run_does_not_go_on_with_a_photo_or_mask_that_was_changed(photos, tmp_path, kind, options):
    def stop(done, total):
        raise KeyboardInterrupt

    root, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt):
        shotseg.evaluate(root, **options, batch=1, out=out, on_progress=stop)
    changed = root / kind / "red" / "2.png"
    changed.write_bytes((root / kind / "red" / "1.png").read_bytes())
    with pytest.raises(UsageError, match="photos or masks that were changed since"):
        shotseg.evaluate(root, **options, out=out, resume=True)


def test_results_of_other_masks_under_the_same_names_are_not_compared(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    ours = shotseg.evaluate(root, **QUICK)
    for mask in (root / "masks").rglob("*.png"):
        write_png(mask, np.pad(np.full((10, 64), 255, np.uint8), ((38, 0), (0, 0))))
    theirs = shotseg.evaluate(root, **QUICK)
    assert theirs.protocol["lists"] == ours.protocol["lists"]
    with pytest.raises(UsageError, match="masks were changed between the two"):
        ours.compare(theirs)


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ("nowhere", {}, "nowhere: no folder of that name"),
        ("pascal5i", {}, "no --root where a data set of that name lies"),
        ("pascal5i", {"root": "nowhere"}, "--root nowhere: no such file or folder"),
        (None, {"checkpoint": "nowhere.safetensors"}, "--checkpoint nowhere.safetensors: no such file"),
        (None, {"shot": 0}, "--shot 0: must be 1 or more"),
        (None, {"shot": 9}, "--shot 9: no class of"),
        (None, {"way": 2, "episodes": 3}, "--episodes changes nothing with --way above 1"),
        (None, {"resume": True}, "--resume goes on from the counts beside --out"),
        (None, {"out": "x.txt"}, "ends in .json"),
        (None, {"classes": ("cat",)}, "--classes: no class 'cat'"),
        ("open", {"kind": "thing"}, "--kind changes nothing with a data set that is open"),
        ("open", {"fold": 3}, "--fold: no fold '3'"),
        (None, {"method": object(), "encoder": "dino-vits8"}, "--encoder changes nothing with a model that is ready"),
        (None, {"method": "maskformer"}, "give --checkpoint"),
        (None, {"folds": "contiguous"}, "--folds changes nothing with a folder"),
        (None, {"present": 0.2}, "--present changes nothing with --way 1"),
        (None, {"protocol": "voc"}, "no protocol 'voc'"),
    ],
)
def test_what_does_not_fit_is_one_line(photos, dataset, options, said):
    dataset = {None: photos, "open": open_folder(photos)}.get(dataset, dataset)
    with pytest.raises(UsageError) as caught:
        shotseg.evaluate(dataset, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_classes_that_a_checkpoint_was_trained_on_are_named_beside_the_number(tmp_path):
    recipe, root = settings("guided/tiny"), squares(tmp_path / "photos", 3)
    made = tmp_path / "best.safetensors"
    network = checkpoint.weights(checkpoint.make_model(recipe, 2))
    checkpoint.write(made, network, {"recipe": recipes.plain(recipe), "classes": ["disc", "stripe"]})
    told = "the checkpoint was trained on 2 of the classes that are tested, which are no new ones to it: disc, stripe"
    few = {"checkpoint": made, "device": "cpu", "seeds": (0,)}
    assert told in shotseg.evaluate(root, episodes=2, **few).notes
    assert told in shotseg.evaluate(root, way=2, queries=1, **few).notes
    assert not any("trained on" in note for note in shotseg.evaluate(root, episodes=2, classes=["cross"], **few).notes)


def test_a_file_that_is_no_result_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    for path in (tmp_path / "x.json", tmp_path / "missing.json"):
        with pytest.raises(InputError, match="give a file that evaluate wrote"):
            shotseg.EvaluationResult.load(path)


# --- classes with too few photos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [(), ("blue", "green", "red")])
@pytest.mark.parametrize("ways", [2, 3])
def test_a_class_with_too_few_photos_is_left_out_of_several_and_named(photos, tmp_path, ways, chosen):
    for i in range(4):
        add(tmp_path, "blue", i, (30, 40, 220))
        add(tmp_path, "red", i, (220, 40, 30))
    add(tmp_path, "green", 0, (30, 200, 30))
    said = []
    ours = shotseg.evaluate(tmp_path, way=ways, classes=chosen, queries=1, seeds=(0,), size=64, say=said.append)
    assert said == ["left out, fewer than 2 photos: green"] and ours.content["left_out"] == ["green"]
    assert ours.content["way"] == 2 and ours.content["classes"] == ["blue", "red"]
    assert "green" in ours.notes[-1]
    whole = shotseg.evaluate(photos, way=2, queries=1, seeds=(0,), size=64)
    assert whole.content["left_out"] == [] and whole.notes == []


def test_a_class_whose_photos_serve_as_examples_of_another_is_left_out_of_that_draw(tmp_path):
    for i in range(4):
        add(tmp_path, "blue", i, (30, 40, 220))
        add(tmp_path, "red", i, (220, 40, 30))
    for name in ("cap", "hat"):  # the same two photos: examples of both they cannot be with two shots
        for i in range(3):
            add(tmp_path, name, i, (200, 200, 30))
    ours = shotseg.evaluate(tmp_path, way=4, shot=2, queries=1, seeds=(0,), size=64)
    assert len(ours.content["left_out"]) == 1 and ours.content["left_out"][0] in ("cap", "hat")
    assert len(ours.counts["per_query"]["draws"]["0"]) == 3
    assert ours.content["left_out"][0] in ours.notes[-1]


def test_fewer_than_two_classes_are_an_error(tmp_path):
    for i in range(3):
        add(tmp_path, "blue", i, (30, 40, 220))
    add(tmp_path, "green", 0, (30, 200, 30))
    with pytest.raises(UsageError, match=r"--way 2: only 'blue' of .* has the 2 photos"):
        shotseg.evaluate(tmp_path, way=2, size=64)


# --- effort ----------------------------------------------------------------------------------------------------------------


def tool(photos: Path, threshold: float, name: str = "blue") -> effort.ModelTool:
    dataset = open_folder(photos)
    model = models.load("matching", encoders.load("efficientnet-lite2"), size=64).eval()
    runtime.use(model.encoder)  # as of a Segmenter
    pool = Pool(dataset, dataset.classes, 1)
    evaluator = Evaluator(model, dataset, pool, preset("shotseg").override(size=64))
    return effort.ModelTool(evaluator, dataset.classes.index(name), [0], threshold)


def test_the_first_masks_and_their_order_are_those_of_segment(photos):
    own, seg, none = tool(photos, 0.5), shotseg.Segmenter(size=64, device="cpu"), Strokes.none((48, 64))
    seg.add("blue", *([part] for part in own.evaluator.sample(0)))
    found = [own.find(own.first(), i) for i in range(len(own.evaluator.pool.items))]
    middle = float(np.median([own.present(x) for x in found]))  # some are there, and some are not
    for threshold in (0.5, middle):
        own.threshold = seg.present = threshold
        said = [seg.predict(own.evaluator.sample(i)[0]) for i in range(len(found))]
        for i, (ours, theirs) in enumerate(zip(found, said, strict=True)):
            assert own.present(ours) == pytest.approx(theirs.present["blue"], abs=1e-4)
            # segment enlarges bytes, which may move a pixel where the log odds are 0
            assert ((own.draw(ours, none, i) > 0).numpy() != theirs.masks["blue"]).mean() < 0.005
            assert effort._confidence(own, ours, i) == pytest.approx(theirs.confidence, abs=0.04)
        assert all(not x.masks["blue"].any() for x in said if x.present["blue"] < threshold)


def test_the_first_stroke_says_that_the_class_is_there(photos):
    own = tool(photos, threshold=1.1)
    found, none = own.find(own.first(), 1), Strokes.none((48, 64))
    assert not (own.draw(found, none, 1) > 0).any()
    assert (own.draw(found, none.disc((20, 24), 1, True), 1) > 0).any()


def test_the_presence_that_effort_asks_for_stands_in_the_result(photos, tmp_path):
    flags = ["--effort", "--episodes", "1", "--seeds", "0", "--present", "1", "--size", "64", "--device", "cpu"]
    content = of_command_line(photos, tmp_path / "x.json", *flags)
    assert content["present"] == 1
    assert content["runs"]["alone"]["first_iou"] == 0  # nothing is so sure that it is drawn before the first stroke


class OwnData:
    """A data set as somebody else writes one. image, mask: what becomes of each."""

    classes = ("a", "b")

    def __init__(self, image=lambda x: x, mask=lambda x: x, left_out=()):
        self.image, self.mask = image, mask
        names = [(c, f"{name}{i}") for c, name in enumerate(self.classes) for i in range(3)]
        self.items = [
            SimpleNamespace(id=x, content=x, class_id=c, class_name=self.classes[c], mask_path=x) for c, x in names
        ]
        for item in self.items:
            for name in left_out:
                delattr(item, name)

    def sample(self, index):
        image = np.random.default_rng(index).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        mask = np.zeros((40, 50), np.uint8)
        mask[8:30, 10:30] = 1
        return SimpleNamespace(image=self.image(image), mask=self.mask(mask))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask": lambda x: 255 * x}, "no pixel is 1; the data set gives 1 = the class"),
        ({"mask": lambda x: x[:20]}, "its mask: .20, 50. for a photo .40, 50."),
        ({"image": lambda x: x / 255}, "a photo .40, 50, 3. of float64; the data set gives"),
        ({"image": lambda x: x[..., 0]}, "a photo .40, 50. of uint8"),
        ({"left_out": ["mask_path"]}, "its items have no mask_path"),
        ({"left_out": ["content", "id"]}, "its items have no id"),
    ],
)
def test_a_data_set_that_gives_something_else_is_one_line_and_no_number(options, said):
    with pytest.raises(ShotsegError, match=said):
        shotseg.evaluate(OwnData(**options), **QUICK)


def test_truth_values_and_wide_numbers_are_masks_of_an_open_data_set():
    known = shotseg.evaluate(OwnData(), **QUICK)
    for kind in (bool, np.int64):
        assert shotseg.evaluate(OwnData(mask=lambda x, kind=kind: x.astype(kind)), **QUICK).counts == known.counts


@pytest.mark.parametrize("dataset", [None, [1, 2], SimpleNamespace(items=[], classes=[])])
def test_what_is_no_data_set_is_one_line(dataset):
    with pytest.raises(UsageError, match=r"dataset: of type \w+, without (items|sample); give a folder"):
        shotseg.evaluate(dataset, **QUICK)


def test_what_is_no_method_is_one_line(photos):
    for method in (None, object(), 3):
        with pytest.raises(UsageError, match=r"neither a name nor a few-shot model$"):
            shotseg.evaluate(photos, method, **QUICK)
    segmenter = shotseg.Segmenter(size=64, device="cpu")
    with pytest.raises(UsageError, match=r"give its model, as segmenter\.model$"):
        shotseg.evaluate(photos, segmenter, **QUICK)
    assert shotseg.evaluate(photos, segmenter.model, **QUICK).scores["miou"] > 0


def test_numbers_of_numpy_give_the_very_same_result(photos):
    ours = shotseg.evaluate(photos, classes=["blue", "red"], **QUICK)
    numpy = QUICK | {"episodes": np.int64(4), "seeds": np.arange(2), "size": np.int32(64)}
    theirs = shotseg.evaluate(photos, classes=np.array(["blue", "red"]), **numpy)
    assert measured(theirs.content) == measured(ours.content) and ours.compare(theirs)["difference"] == 0


def test_a_damaged_result_is_one_line_and_so_is_what_is_compared_with_none(photos, tmp_path):
    ours = shotseg.evaluate(photos, **QUICK)
    for name in ("protocol", "counts", "controls", "miou"):
        content = {key: value for key, value in ours.content.items() if key != name}
        (tmp_path / "x.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"x\.json: a damaged result"):
            shotseg.EvaluationResult.load(tmp_path / "x.json")
    for other in (None, "x.json", {}):
        with pytest.raises(UsageError, match="compare: of type"):
            ours.compare(other)
