"""``shotseg pseudo-label``: a folder of photos and a table of class names in, masks and their quality out."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from shotseg.cli import main
from shotseg.data import image_labels
from shotseg.data.annotations import read
from shotseg.data.images import read_mask
from shotseg.errors import InputError, UsageError
from shotseg.evaluation import pseudo_quality
from shotseg.labeller import Labeller
from shotseg.priors import label_files, pseudo_masks
from shotseg.priors.cut import Cut
from shotseg.priors.generators import Generator


class Bright(Generator):
    """The class is where a photo is bright in the channel that its name begins with."""

    cut = Cut(high=0.6, low=0.4, refine="none")
    device = torch.device("cpu")

    def maps(self, photo, names, labels="episode"):
        return torch.stack([photo[:, "rgb".index(name[0])] for name in names], 1)


@pytest.fixture(autouse=True)
def bright(monkeypatch):
    monkeypatch.setitem(pseudo_masks.GENERATORS, "objectness", lambda options, device: Bright())


PHOTOS = ["a.jpg", "b.png", "deep/er/ä ö.jpg", "same.jpg", "same.png"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Red on the left, green on the right, half-bright red below."""
    root = tmp_path_factory.mktemp("photos")
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :20, 0], picture[:, 40:, 1], picture[30:, 20:40, 0] = 255, 255, 128
    for name in PHOTOS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name, quality=100, subsampling=0)
    return root


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "labels.csv"
    rows = "".join(f"{name},{'red;green' if name != 'b.png' else 'green'}\n" for name in PHOTOS)
    file.write_text("image,class\n" + rows, encoding="utf-8")
    return file


def label(photos, table, out, *options):
    command = ["--images", photos, "--labels", table, "--out", out, "--generator", "objectness", "--device", "cpu"]
    return main(["pseudo-label", *map(str, command), *map(str, options)])


def records(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def pictures(out):
    found = (path for path in out.rglob("*.png") if ".shotseg" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_every_photo_gets_a_label_map_masks_and_soft_maps_of_its_classes(photos, table, tmp_path):
    assert label(photos, table, tmp_path) == 0
    assert (tmp_path / "classes.txt").read_text() == "green\nred\n"
    lines = records(tmp_path)
    assert [line["file"] for line in lines] == sorted(PHOTOS)
    by_name = {line["name"]: line for line in lines}
    assert set(by_name) == {"a", "b", "deep/er/ä ö", "same_jpg", "same_png"}
    assert set(by_name["a"]["classes"]) == {"green", "red"} and set(by_name["b"]["classes"]) == {"green"}
    labels = read_mask(tmp_path / "labels/a.png", labels=True)
    assert labels[5, 5] == 2 and labels[5, 50] == 1 and labels[5, 30] == 0 and labels[36, 30] == 255
    red, green = (read_mask(tmp_path / f"masks/{name}/a.png", labels=True) for name in ("red", "green"))
    assert red[5, 5] == 1 and red[5, 50] == 0 and red[36, 30] == 255 and green[5, 50] == 1 and green[36, 30] == 0
    soft = np.asarray(Image.open(tmp_path / "soft/red/a.png"))
    assert soft[5, 5] > 240 > 150 > soft[36, 30] > 100 > soft[5, 30]
    assert not (tmp_path / "masks/red/b.png").exists()
    for line in lines:
        assert line["error"] is None and all(0 < found["confidence"] <= 1 for found in line["classes"].values())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<article") == len(PHOTOS)


def test_the_masks_serve_as_masks_of_the_folder_convention(photos, table, tmp_path):
    from shotseg.data.folder import FolderDataset

    assert label(photos, table, tmp_path) == 0
    (tmp_path / "images/red").mkdir(parents=True)
    shutil.copy(photos / "a.jpg", tmp_path / "images/red/a.jpg")
    for name in ("masks/green", "masks/red/deep"):
        shutil.rmtree(tmp_path / name)
    sample = FolderDataset(tmp_path, masks=True).sample(0)
    assert set(np.unique(sample.mask)) == {0, 1, 255}


def test_a_resumed_run_does_what_is_missing_and_what_has_other_classes_now(photos, table, tmp_path, monkeypatch):
    assert label(photos, table, tmp_path) == 0
    before = pictures(tmp_path)
    seen = []
    predict = Labeller.predict

    def heard(self, photo):
        result = predict(self, photo)
        seen.append((photo.id, result.classes))
        return result

    monkeypatch.setattr(Labeller, "predict", heard)
    (tmp_path / "masks/red/a.png").unlink()
    assert label(photos, table, tmp_path, "--resume") == 0
    assert seen == [("a.jpg", ("green", "red"))] and pictures(tmp_path) == before
    changed = tmp_path / "labels.csv"
    changed.write_text(table.read_text(encoding="utf-8") + "b.png,red\n", encoding="utf-8")
    assert label(photos, changed, tmp_path, "--resume") == 0
    assert seen[1:] == [("b.png", ("green", "red"))]


def test_shards_together_are_one_run(photos, table, tmp_path):
    assert label(photos, table, tmp_path / "whole") == 0
    for shard in ("2/2", "1/2"):
        assert not (tmp_path / "parts/results.jsonl").exists()
        assert label(photos, table, tmp_path / "parts", "--shard", shard) == 0
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")
    without = [{k: v for k, v in line.items() if k != "seconds"} for line in records(tmp_path / "parts")]
    assert without == [{k: v for k, v in line.items() if k != "seconds"} for line in records(tmp_path / "whole")]


def test_a_copy_of_the_labeller_in_another_process_gives_the_same_masks(photos, table, tmp_path):
    """What an actor of Ray does, without Ray, whose start takes longer than all of this file."""
    from shotseg.runs import engines

    assert label(photos, table, tmp_path / "here") == 0
    Labeller(["green", "red"], "objectness", device="cpu").save(tmp_path / "labeller.json")
    actor = engines.Actor(Labeller, (tmp_path / "labeller.json").read_bytes(), "cpu", str(tmp_path / "there"))
    rows = [{"path": str(photos / "a.jpg"), "file": "a.jpg", "name": "a", "tags": [0, 1]}]
    (found,) = actor.segment([json.dumps(row) for row in rows], batch=1)
    assert json.loads(found)["record"]["error"] is None
    ours, theirs = pictures(tmp_path / "there"), pictures(tmp_path / "here")
    assert len(ours) == 5 and all(theirs[name] == content for name, content in ours.items())


def test_what_cannot_be_used_is_one_line_each_and_the_rest_is_done(photos, tmp_path, capsys):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    (mine / "broken.jpg").write_bytes(b"no image")
    rows = ["a.jpg,red", "absent.jpg,red", "broken.jpg,red", "b.png", "../secret.jpg,red", "same.jpg,../../red", ",red"]
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    assert label(mine, tmp_path / "labels.csv", tmp_path / "out") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 6
    for part in (
        "absent.jpg",
        "broken.jpg",
        "b.png: no class name",
        "names no photo",
        "'../../red'",
        "line 7 of labels.csv",
    ):
        assert any(part in line for line in said), part
    assert len((tmp_path / "out/errors.csv").read_text(encoding="utf-8").splitlines()) == 7
    assert (tmp_path / "out/masks/red/a.png").exists() and {path.name for path in tmp_path.iterdir()} == {
        "photos",
        "labels.csv",
        "out",
    }


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", (), "empty"),
        (b"\xff\xfe\x00", (), "UTF-8"),
        (b"image,width\na.jpg,3\n", (), "class"),
        (b"image,class\n", (), "no photo with a class name"),
        (b"a.jpg,red\n", ("--high", "2"), "--high"),
        (b"a.jpg,red\n", ("--low", "0.9"), "--low"),
        (b"a.jpg,red\n", ("--classes", "absent.txt"), "no such file"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(photos, tmp_path, capsys, content, options, says):
    (tmp_path / "labels.csv").write_bytes(content)
    assert label(photos, tmp_path / "labels.csv", tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        "image,class\na.jpg,red;green\nb.png,green\n",
        "class,image,width\nred,a.jpg,60\ngreen,a.jpg,60\ngreen,b.png,60\n",
        "a.jpg,red,green\nb.png,green\n",
        "file;labels\na.jpg;red|green\nb.png;green\n",
        "a.jpg\tgreen\tred\nb.png\tgreen\n",
        "\ufeffimage,class\r\nphotos/a.jpg,red|green\r\nphotos/b.png,green\r\n",
    ],
)
def test_tables_of_every_common_form_say_the_same(photos, tmp_path, content):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "labels.csv").write_bytes(content.encode())
    found = image_labels.read(tmp_path / "labels.csv", tmp_path / "photos")
    assert found.classes == ("green", "red") and not found.failed
    assert found.photos == {"a.jpg": (0, 1), "b.png": (0,)}


def test_classes_keep_the_order_of_their_numbers_or_of_a_list(photos, tmp_path):
    (tmp_path / "labels.csv").write_text("image,class,class_id\na.jpg,red,3\nb.png,green,12\nb.png,blue,2\n")
    assert image_labels.read(tmp_path / "labels.csv", photos).classes == ("blue", "red", "green")
    (tmp_path / "voc.txt").write_text("green\nred\n\nblue\n")
    chosen = image_labels.read_classes(tmp_path / "voc.txt")
    assert image_labels.read(tmp_path / "labels.csv", photos, chosen).classes == ("green", "red", "blue")
    assert len(image_labels.read(tmp_path / "labels.csv", photos, ["red", "green"]).failed) == 1
    (tmp_path / "voc.txt").write_text("green\ngreen\n")
    with pytest.raises(UsageError, match="twice"):
        image_labels.read_classes(tmp_path / "voc.txt")


def test_the_released_code_s_layouts_are_written_beside_the_masks(photos, table, tmp_path):
    assert label(photos, table, tmp_path / "p", "--layout", "pascal") == 0
    assert label(photos, table, tmp_path / "c", "--layout", "coco", "--mode", "image") == 0
    for value, name in ((0, "green"), (1, "red")):
        own = read_mask(tmp_path / f"p/masks/{name}/a.png", labels=True)
        assert (label_files.read(tmp_path / f"p/tlg/a--{value}.png", value) == own).all()
    together = read_mask(tmp_path / "c/tlg/deep/er/ä ö.png", labels=True)
    assert (together == read_mask(tmp_path / "c/labels/deep/er/ä ö.png", labels=True)).all()


def test_annotations_of_other_tools_are_written_too(photos, table, tmp_path):
    assert label(photos, table, tmp_path, "--format", "coco") == 0
    classes, found = read("coco", tmp_path / "coco")
    assert classes == ["green", "red"] and len(list(found)) == len(PHOTOS)


def test_the_quality_is_that_of_the_masks(photos, table, tmp_path, capsys):
    truth = tmp_path / "truth"
    for name in ("red", "green"):
        (truth / name).mkdir(parents=True)
    whole = np.zeros((40, 60), np.uint8)
    whole[:, :20] = 255
    Image.fromarray(whole).save(truth / "red/a.png")  # as found
    Image.fromarray(np.where(whole, 0, 255).astype(np.uint8)).save(truth / "green/a.png")  # twice what is found
    assert label(photos, table, tmp_path / "out", "--truth", truth) == 0
    content = json.loads((tmp_path / "out/quality.json").read_text())
    assert content["masks"] == 2 and content["per_class"]["red"]["iou"] > 99
    green = content["per_class"]["green"]
    assert green["precision"] > 99 and green["recall"] == pytest.approx(50, abs=1) == green["iou"]
    assert content["miou"] == pytest.approx((content["per_class"]["red"]["iou"] + green["iou"]) / 2, abs=0.02)
    assert content["controls"]["all-foreground"] == pytest.approx(50, abs=0.1)
    assert "all-foreground" in capsys.readouterr().out
    assert "Does the confidence hold" in (tmp_path / "out/quality.html").read_text()


def test_truth_may_be_label_maps_and_one_of_another_size_is_left_out(photos, table, tmp_path, capsys):
    truth = tmp_path / "truth"
    truth.mkdir()
    labels = np.zeros((40, 60), np.uint8)
    labels[:, :20], labels[:, 40:], labels[:, 39] = 2, 1, 255
    Image.fromarray(labels).save(truth / "a.png")
    Image.fromarray(labels[:10]).save(truth / "b.png")
    assert label(photos, table, tmp_path / "out", "--truth", truth) == 0
    content = json.loads((tmp_path / "out/quality.json").read_text())
    assert content["masks"] == 2 and content["miou"] > 99
    assert "same size" in capsys.readouterr().err
    assert label(photos, table, tmp_path / "out", "--truth", tmp_path) == 1
    assert "no mask for any photo" in capsys.readouterr().err


def test_truth_is_found_by_its_name_whatever_its_ending(photos, tmp_path, recwarn):
    from shotseg.cli.pseudo_label import _true_mask

    whole = np.zeros((40, 60), np.uint8)
    whole[:, :20] = 255
    (tmp_path / "red").mkdir()
    for name in ("w.png", "x.PNG", "y.jpg", "z.tif", "v_mask.bmp"):
        Image.fromarray(whole).save(tmp_path / "red" / name)
    np.save(tmp_path / "red/u.npy", whole)
    for stem in "wxyzvu":
        assert (_true_mask(tmp_path, f"{stem}.jpg", "red", 0, (40, 60)) == whole // 255).mean() > 0.98, stem
        assert _true_mask(tmp_path, f"red/{stem}.jpg", "red", 0, (40, 60)) is not None
    assert _true_mask(tmp_path, "none.jpg", "red", 0, (40, 60)) is None


def test_calibration_compares_what_is_said_with_what_is():
    held = pseudo_quality.calibration(np.array([0.95, 0.95, 0.25, 0.25]), np.array([1.0, 0.9, 0.2, 0.3]))
    assert held["error"] == pytest.approx(0, abs=1e-6) and held["correlation"] > 0.9 and len(held["bins"]) == 2
    off = pseudo_quality.calibration(np.array([0.9, 0.9]), np.array([0.4, 0.6]))
    assert off["error"] == pytest.approx(0.4) and off["correlation"] is None


def test_a_labeller_serves_without_the_command_line(photos, tmp_path):
    labeller = Labeller(["red", "green"], "objectness", device="cpu", cut={"high": 0.5, "low": 0.5})
    labeller.generator.cut = Cut(high=0.5, low=0.5, refine="none")
    found = labeller.predict(photos / "a.jpg", ["green"])
    assert found.masks["green"][5, 50] and found.labels[5, 50] == 2 and found.classes == ("green",)
    with pytest.raises(UsageError, match="no class 'blue'"):
        labeller.predict(photos / "a.jpg", ["blue"])
    with pytest.raises(UsageError, match="254"):
        Labeller([f"r{i}" for i in range(255)], "objectness")
    labeller.save(tmp_path / "labeller.json")
    again = Labeller.load(tmp_path / "labeller.json", device="cpu")
    assert again.classes == labeller.classes and again.settings == labeller.settings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "x"}, "mode 'x'"),
        ({"layout": "x"}, "layout 'x'"),
        ({"cut": {"refine": "bogus"}}, "refine 'bogus'"),
        ({"cut": {"hihg": 0.5}}, "'hihg'"),
        ({"wordz": "w.yaml"}, "'wordz'"),
        ({"classes": ["../evil"]}, "class name '../evil'"),
    ],
)
def test_a_wrong_choice_for_a_labeller_is_named(options, says):
    with pytest.raises(UsageError, match=says) as caught:
        Labeller(**{"classes": ["red"], "generator": "objectness", "device": "cpu", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}"])
def test_a_broken_file_of_a_labeller_is_named(tmp_path, content):
    (tmp_path / "labeller.json").write_text(content)
    with pytest.raises(InputError, match=r"labeller\.json: not what Labeller\.save writes"):
        Labeller.load(tmp_path / "labeller.json")


def test_a_photo_of_a_large_folder_is_never_kept(photos, tmp_path, monkeypatch):
    """Of many photos only a handful is in memory at a time."""
    from shotseg.runs import engines

    many = tmp_path / "many"
    many.mkdir()
    for i in range(60):
        os.link(photos / "a.jpg", many / f"{i:03d}.jpg")
    (tmp_path / "labels.csv").write_text("".join(f"{i:03d}.jpg,red\n" for i in range(60)))
    alive, most = set(), []
    seen, write = engines.seen, engines.write
    monkeypatch.setattr(engines, "seen", lambda p: alive.add(p.path) or most.append(len(alive)) or seen(p))
    monkeypatch.setattr(engines, "write", lambda out, step: (write(out, step), alive.discard(step.photo.path))[0])
    assert label(many, tmp_path / "labels.csv", tmp_path / "out") == 0
    assert max(most) <= engines.READ_AHEAD + engines.WRITE_BEHIND + 1


def test_words_that_were_changed_are_another_setting(tmp_path):
    from shotseg.cli.pseudo_label import _settings

    words = tmp_path / "words.yaml"
    words.write_text("a: 1")
    before = _settings({"words": str(words), "weights": "default", "encoder": None})
    words.write_text("a: 2")
    assert before != _settings({"words": str(words), "weights": "default", "encoder": None})
    assert before["weights"] == "default" and "encoder" not in before
