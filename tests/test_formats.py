"""Annotation files: every format as a data set, and from one into another."""

import gc
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from annotated import CLASSES, CLOSE, FORMATS, SQUARE, TARGETS, Blobs, instances, labels_of, photos, two, written
from shotseg.cli import main
from shotseg.data import weak_shot
from shotseg.data.annotations import Labelled, coco, detect, index, read, write
from shotseg.data.annotations.opened import AnnotatedDataset, open_folder
from shotseg.data.sets.coco_masks import decode
from shotseg.errors import UsageError


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_told_by_looking_and_opens_as_a_data_set(format, tmp_path):
    folder = written(tmp_path, format)
    assert detect(folder) == format.removesuffix("-polygons")
    dataset = open_folder(folder)
    assert dataset.classes == CLASSES
    assert sorted(item.id for item in dataset.items) == ["cat/a", "cat/deep/b", "dog/a", "dog/deep/b"]
    for number, item in enumerate(dataset.items):
        expected = two() if item.id.endswith("/a") else two()[:, ::-1]
        sample = dataset.sample(number)
        assert sample.image.shape == (60, 80, 3) and sample.tags == {0, 1} and item.content
        wrong = (sample.mask == 1) != (expected == CLASSES.index(item.class_name) + 1)
        assert wrong.sum() <= (12 if format in CLOSE else 0), item.id
    assert open_folder(folder, classes=["dog"]).classes == ["dog"]
    with pytest.raises(UsageError, match="bird"):
        open_folder(folder, classes=["bird"])


@pytest.mark.parametrize("source", TARGETS)
@pytest.mark.parametrize("target", FORMATS)
def test_every_format_is_converted_into_every_other(source, target, tmp_path, capsys):
    folder = written(tmp_path, source)
    assert main(["convert", str(folder), "--to", target, "--out", str(tmp_path / "out"), "--copy-images"]) == 0
    said = capsys.readouterr()
    assert "3 of 3 photos converted" in said.out and "next: " in said.out and said.err == ""
    classes, found = read(target, tmp_path / "out")
    maps = {result.file: result.labels for result in found}
    assert classes == CLASSES
    if target not in ("mask", "voc"):
        assert sorted(maps) == ["a.jpg", "deep/b.png", "none.jpg"]
    for file, labels in maps.items():
        expected = {"a": two(), "deep/b": two()[:, ::-1]}.get(file.rpartition(".")[0], np.zeros((60, 80)))
        close = {source, target} & set(CLOSE)
        assert (labels != expected).sum() <= (25 if close else 0), file


def test_a_class_folder_is_converted_and_one_photo_of_two_classes_stays_one(tmp_path):
    root = tmp_path / "mine"
    for number, name in enumerate(CLASSES, start=1):
        photos(root / "images" / name, "a.jpg")
        (root / "masks" / name).mkdir(parents=True)
        Image.fromarray((two() == number).astype(np.uint8) * 255).save(root / "masks" / name / "a.png")
    assert main(["convert", str(root), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    (labels,) = labels_of("coco", tmp_path / "out").values()
    np.testing.assert_array_equal(labels, two())


def test_roboflow_s_splits_are_one_data_set(tmp_path):
    for split, name in (("train", "a.jpg"), ("valid", "b.jpg")):
        photos(tmp_path / split, name)
        instances(
            tmp_path / split, [{"segmentation": SQUARE}], [{"id": 1, "file_name": name, "height": 60, "width": 80}]
        )
        (tmp_path / split / "instances.json").rename(tmp_path / split / "_annotations.coco.json")
    assert detect(tmp_path) == "coco"
    assert [item.id for item in open_folder(tmp_path).items] == ["cat/train/a", "cat/valid/b"]


def test_coco_files_of_several_folders_are_one_data_set_and_each_has_its_own_photos(tmp_path):
    for folder, name in (("day", "a.jpg"), ("night", "a.jpg"), ("rain", "b.jpg")):  # as Supervisely exports them
        photos(tmp_path / folder / "images", "a.jpg", *(["b.jpg"] if folder == "day" else []))
        rows = [{"id": 1, "file_name": name, "height": 60, "width": 80}]
        instances(tmp_path / folder / "annotations", [{"segmentation": SQUARE}], rows)
    assert detect(tmp_path) == "coco"
    own = {f"{folder}/a.jpg": tmp_path / folder / "images/a.jpg" for folder in ("day", "night")}
    assert {photo.file: photo.photo for photo in index("coco", tmp_path).photos} == {**own, "rain/b.jpg": None}


def test_a_pair_of_folders_holds_label_maps_by_equal_or_marked_stems(tmp_path):
    photos(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "masks").mkdir()
    for name in ("a", "b_mask", "c-mask"):
        Image.fromarray(two()).save(tmp_path / "masks" / f"{name}.png")
    dataset = open_folder(tmp_path, "pairs")
    assert dataset.classes == ["1", "2"] and len(dataset.items) == 6
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    assert detect(tmp_path) == "pairs" and open_folder(tmp_path).classes == CLASSES
    np.testing.assert_array_equal(open_folder(tmp_path).sample(0).mask, two() == 1)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray((two() == 1).astype(np.uint8) * 255).save(path)
    assert open_folder(tmp_path).classes == ["cat"] and open_folder(tmp_path).sample(2).mask.max() == 1


def test_where_two_formats_fit_from_decides(tmp_path):
    photos(tmp_path, "a.jpg")
    instances(tmp_path, [{"segmentation": SQUARE}])
    write("cvat", tmp_path, [Labelled("a.jpg", two())], CLASSES)
    with pytest.raises(UsageError, match=r"coco and cvat both fit.*--from"):
        open_folder(tmp_path)
    assert open_folder(tmp_path, "cvat").classes == CLASSES
    assert open_folder(tmp_path / "instances.json").classes == ["cat"]
    assert main(["convert", str(tmp_path), "--from", "cvat", "--to", "voc", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("format", ["coco", "labelstudio", "cvat"])
def test_ten_times_the_photos_take_no_more_memory(format, tmp_path):
    def peak(count: int, name: str) -> int:
        gc.collect()
        tracemalloc.start()
        write(format, tmp_path / name, Blobs(count), CLASSES)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(30, "few")
    many = min(peak(120, "many"), peak(120, "again"))  # what else is made meanwhile, once, is not of the photos
    assert many < few + 60_000  # 90 photos more, of 4,800 pixels each
    assert len(labels_of(format, tmp_path / "few")) == 30


FIVE_THOUSAND = """
import resource, sys
import numpy as np
from shotseg.data.annotations import Labelled, write

labels = np.zeros((24, 32), np.uint8)
labels[4:12, 5:20], labels[14:20, 2:9] = 1, 2
for count in (1_000, 5_000):
    photos = (Labelled(f"{i}.jpg", labels, scores={"cat": 0.5}) for i in range(count))
    write(sys.argv[1], f"{sys.argv[2]}/{count}", photos, ["cat", "dog"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("format", ["coco", "labelstudio"])
def test_five_thousand_photos_are_written_in_the_memory_of_one_thousand(format, tmp_path):
    command = [sys.executable, "-c", FIVE_THOUSAND, format, str(tmp_path)]
    few, many = map(
        int, subprocess.run(command, capture_output=True, check=True, text=True, timeout=300).stdout.split()
    )
    assert many - few < few / 100
    (file,) = (path for path in (tmp_path / "5000").rglob("*.json"))
    assert file.read_bytes().count(b".jpg") == 5_000


def test_small_objects_are_left_out_and_a_class_is_one_annotation_on_request(tmp_path):
    labels = two()
    labels[0, 0] = labels[59, 0] = 1
    one = Labelled("a.jpg", labels)

    def drawn(**options):
        write("coco", tmp_path, [one], CLASSES, **options)
        return json.loads((tmp_path / coco.FILE).read_text())["annotations"]

    assert len(drawn()) == 5
    assert len(drawn(min_object=2)) == 3
    assert [a["area"] for a in drawn(one_a_class=True)] == [int((labels == 1).sum()), int((labels == 2).sum())]
    assert len(drawn(min_object=2, one_a_class=True)) == 2
    write("voc", tmp_path / "voc", [one], CLASSES, min_object=2)
    np.testing.assert_array_equal(labels_of("voc", tmp_path / "voc")["a"], two())


def test_coco_s_run_lengths_are_numbers_and_polygons_are_there_on_request(tmp_path):
    for format, kind in (("coco", dict), ("coco-polygons", list)):
        write(format, tmp_path / format, [Labelled("a.jpg", two())], CLASSES)
        (first, *_) = json.loads((tmp_path / format / coco.FILE).read_text())["annotations"]
        assert isinstance(first["segmentation"], kind) and first["iscrowd"] == 0
    content = json.loads((tmp_path / "coco" / coco.FILE).read_text())
    for annotation in content["annotations"]:
        assert all(isinstance(run, int) for run in annotation["segmentation"]["counts"])
        assert decode(annotation["segmentation"], 60, 80).sum() == annotation["area"]


# Through the verbs.


@pytest.mark.parametrize("format", ["coco", "labelme", "voc"])
def test_segment_and_evaluate_take_annotations(format, tmp_path, capsys):
    folder = written(tmp_path, format)
    query = photos(tmp_path / "query", "a.jpg", "b.jpg")
    arguments = ["segment", "--support", folder, "--query", query, "--out", tmp_path / "out", "--size", 64]
    assert main([*map(str, arguments), "--format", "yolo", "--min-object", "3"]) == 0
    said = capsys.readouterr()
    assert "next: yolo segment train" in said.out
    assert sorted(path.name for path in (tmp_path / "out/yolo/images").iterdir()) == ["a.jpg", "b.jpg"]
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == CLASSES
    arguments = ["evaluate", folder, "--out", tmp_path / "r.json", "--episodes", 2, "--size", 64]
    assert main(list(map(str, arguments))) == 0
    assert json.loads((tmp_path / "r.json").read_text())["dataset"] == "folder"


def test_photos_of_one_stem_keep_apart_where_yolo_looks_for_them(tmp_path):
    folder = written(tmp_path, "coco")
    query = photos(tmp_path / "query", "a.jpg", "a.png", "IMG.JPG", "img.jpg")
    arguments = ["segment", "--support", folder, "--query", query, "--out", tmp_path / "out", "--size", 64]
    assert main([*map(str, arguments), "--format", "yolo"]) == 0
    images = {path.stem for path in (tmp_path / "out/yolo/images").iterdir()}
    assert images == {path.stem for path in (tmp_path / "out/yolo/labels").iterdir()} and len(images) == 4
    assert len(labels_of("yolo", tmp_path / "out/yolo")) == 4
    assert main([*map(str, arguments), "--format", "labelme"]) == 2


def test_a_class_name_in_a_file_cannot_write_outside(tmp_path):
    categories = [{"id": 1, "name": "../../evil"}]
    photos(instances(tmp_path / "in", [{"segmentation": SQUARE}], None, categories), "a.jpg")
    arguments = [
        "segment",
        "--support",
        tmp_path / "in",
        "--query",
        tmp_path / "in/a.jpg",
        "--out",
        tmp_path / "x/y/out",
    ]
    assert main(list(map(str, arguments))) != 0
    assert not list(tmp_path.rglob("*evil*"))


def test_pseudo_masks_are_judged_by_annotations(tmp_path):
    folder = written(tmp_path, "cvat")
    truth = AnnotatedDataset(folder, "cvat")
    np.testing.assert_array_equal(truth.truth("a.jpg", "cat"), two() == 1)
    np.testing.assert_array_equal(truth.truth("elsewhere/b.png", "dog"), two()[:, ::-1] == 2)
    assert truth.truth("a.jpg", "bird") is None and truth.truth("unknown.jpg", "cat") is None
    assert not truth.truth("none.jpg", "cat").any()
    (folder / "images").rename(tmp_path / "photos")
    (tmp_path / "labels.csv").write_text("a.jpg,cat\nnone.jpg,cat\n")
    verb = [
        "pseudo-label",
        "--images",
        tmp_path / "photos",
        "--labels",
        tmp_path / "labels.csv",
        "--out",
        tmp_path / "out",
    ]
    verb += ["--generator", "objectness", "--device", "cpu", "--truth", folder]
    assert main(list(map(str, verb))) == 0
    assert json.loads((tmp_path / "out/quality.json").read_text())["masks"] == 2
    verb[-1] = tmp_path / "nothing"
    assert main(list(map(str, verb))) == 2


def test_train_and_weak_shot_take_annotations(tmp_path):
    stream = np.random.default_rng(0)
    found, names = [], ["left", "right", "middle"]
    for number in range(24):
        labels = np.zeros((48, 48), np.uint8)
        labels[12:36, 4 + 14 * (number % 3) : 18 + 14 * (number % 3)] = number % 3 + 1
        picture = stream.integers(0, 255, (48, 48, 3)).astype(np.uint8)
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"p/{number}.png")
        found.append(Labelled(f"{number}.png", labels, photo=tmp_path / f"p/{number}.png"))
    write("coco", tmp_path / "coco", found, names, photos="link")
    weak = weak_shot.load("folder", tmp_path / "coco", novel=["right"])
    assert weak.classes == ["background", *names] and weak.novel == (2,) and len(weak) == 24
    assert set(np.unique(weak.truth(0))) == {0, 1}
    small = "--steps 2 --model.size 48 --model.options.width 8 --device cpu --data.held-out 0.3 --validation.every 2"
    verb = ["train", "guided/tiny", "--root", tmp_path / "coco", "--out", tmp_path / "run", *small.split()]
    assert main([*map(str, verb), "--validation.episodes", "2", "--data.test-classes", "middle"]) == 0
