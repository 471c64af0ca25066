"""Label maps through the files of other tools and back, judged by those tools' own libraries where they are installed."""

import json
import tracemalloc
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.draw import disk

import golden
from annotated import FORMATS
from shotseg.data.annotations import Labelled, coco, drawn, label_studio, outlines, read, write
from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_image, read_mask
from shotseg.data.sets.coco_masks import decode, expand, polygon
from shotseg.errors import InputError, UsageError

CLASSES = ["cat", "ångström, two"]
EXACT = ("mask", "coco", "voc", "labelstudio", "labelme", "cvat", "geojson", "imagej")


def shapes() -> np.ndarray:
    """Two classes: a ring, a disc that the border cuts, one pixel, a diagonal pair and the four corners."""
    labels = np.zeros((90, 120), np.uint8)
    labels[disk((45, 50), 30)] = 1
    labels[disk((45, 45), 8)] = 0
    labels[disk((45, 62), 5)] = 2
    labels[disk((80, 110), 20, shape=labels.shape)] = 2
    labels[5, 5] = labels[10, 100] = labels[11, 101] = 1
    labels[[0, 0, -1, -1], [0, -1, 0, -1]] = 2
    return labels


def results() -> list[Labelled]:
    return [
        Labelled("a one.jpg", shapes(), scores={"cat": 0.9, "ångström, two": 0.4}),
        Labelled("deep/ü.png", shapes()[:, ::-1].copy()),
        Labelled("nothing.jpg", np.zeros((7, 5), np.uint8)),
        Labelled("all.jpg", np.full((3, 4), 2, np.uint8)),
    ]


def with_photos(folder):
    for result in results():
        path = folder / "images" / result.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(result.labels).convert("RGB").save(path)
    return folder


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(tmp_path, format):
    write(format, with_photos(tmp_path), iter(results()), CLASSES)
    classes, found = read(format, tmp_path)
    assert classes == CLASSES
    found = {result.stem: result.labels for result in found}
    for result in results():
        if format in EXACT:
            np.testing.assert_array_equal(found.pop(result.stem), result.labels, err_msg=result.file)
        else:
            labels = found.pop(result.stem)
            assert labels.shape == result.labels.shape and (labels != result.labels).sum() <= 4
    assert not found
    assert not list(tmp_path.rglob(".shotseg-*"))


def test_pixels_to_ignore_stay_so_where_the_format_can_say_it(tmp_path):
    labels = np.array([[0, 1, 255], [2, 255, 0]], np.uint8)
    for format in FORMATS:
        write(format, tmp_path / format, [Labelled("x.jpg", labels)], CLASSES)
    for format in EXACT[:-1]:  # a ROI does not know the size of its photo
        expected = labels if format in ("mask", "voc") else np.where(labels == 255, 0, labels)
        np.testing.assert_array_equal(next(read(format, tmp_path / format)[1]).labels, expected, err_msg=format)


def test_a_written_label_map_folder_is_a_data_set(tmp_path):
    write("mask", with_photos(tmp_path), results(), CLASSES)
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == CLASSES
    index = [item.id for item in dataset.items].index("cat/a one")
    np.testing.assert_array_equal(dataset.sample(index).mask, shapes() == 1)


@pytest.mark.parametrize("tolerance", [0, 0.4, 1])
def test_an_outline_gives_its_part_back(tolerance):
    for part, top, left in outlines.parts(shapes() == 1):
        full = np.zeros(shapes().shape, bool)
        full[top : top + part.shape[0], left : left + part.shape[1]] = part
        ring = outlines.outline(part, top, left, tolerance)
        assert ring.min() >= 0 and len(ring) >= 3
        drawn = polygon(ring, *full.shape)
        assert overlap(drawn, full) > (0.99 if tolerance == 0 else 0.95 - 0.6 * (part.sum() < 4)), part.shape


def test_coco_polygons_keep_holes(tmp_path):
    write("coco-polygons", tmp_path, [Labelled("x.jpg", shapes())], CLASSES)
    labels = next(read("coco-polygons", tmp_path)[1]).labels
    assert overlap(labels == 1, shapes() == 1) > 0.97 and labels[45, 45] == 0
    segmentation = json.loads((tmp_path / coco.FILE).read_text())["annotations"][0]["segmentation"]
    assert isinstance(segmentation, list)


def test_coco_polygons_of_any_shape_come_back_to_the_pixel(tmp_path):
    noise = np.random.default_rng(0).normal(size=(12, 60, 80))
    blobs = [(gaussian_filter(layer, sigma) > 0.1).astype(np.uint8) for layer, sigma in zip(noise, [1, 2, 3] * 4)]
    write("coco-polygons", tmp_path, [Labelled(f"{i}.jpg", blob) for i, blob in enumerate(blobs)], ["cat"])
    found = {result.file: result.labels for result in read("coco-polygons", tmp_path)[1]}
    assert all((found[f"{i}.jpg"] == blob).all() for i, blob in enumerate(blobs))


def test_coco_strings_hold_any_run_lengths():
    runs = [0, 1, 70000, 3, 2, 100000, 31, 32, 15, 16, 1]
    strings = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rle = strings.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)
    assert expand(rle["counts"]) == runs


def test_the_brush_of_label_studio_holds_any_mask():
    random = np.random.default_rng(0)
    for mask in (random.random((13, 17)) > 0.5, np.ones((1, 1), bool), np.zeros((300, 400), bool), shapes() > 0):
        np.testing.assert_array_equal(label_studio.decode(label_studio.encode(mask), *mask.shape), mask)


def test_people_s_corrections_count_before_predictions(tmp_path):
    write("labelstudio", tmp_path, results()[:1], CLASSES)
    path = tmp_path / "tasks.json"
    tasks = json.loads(path.read_text())
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["dog"]}
    region = {"original_width": 120, "original_height": 90, "type": "polygonlabels", "value": square}
    tasks[0]["annotations"] = [{"result": [region]}, {"result": [], "was_cancelled": True}]
    path.write_text(json.dumps(tasks))
    classes, found = read("labelstudio", path)
    assert classes == [*CLASSES, "dog"]
    (result,) = found
    expected = np.zeros((90, 120))
    expected[:45, :60] = 3
    assert result.file == "a one.jpg"
    assert (result.labels != expected).mean() < 0.02


@pytest.mark.filterwarnings("ignore:.*(left out|has a mask):UserWarning")
def test_broken_files_are_one_line_that_names_them(tmp_path):
    def refused(format, *words):
        with pytest.raises(InputError) as caught:
            list(read(format, tmp_path)[1])
        assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)

    refused("coco", "instances_default.json", "no such file")
    refused("voc", "SegmentationClass")
    (tmp_path / "annotations").mkdir()
    (tmp_path / coco.FILE).write_text("{broken")
    refused("coco", "instances_default.json", "JSON")
    (tmp_path / coco.FILE).write_text('{"images": [], "annotations": []}')
    refused("coco", "instances_default.json", "categories")
    bad = {"images": [{"id": 1, "file_name": "x.jpg", "height": 4, "width": 4}], "categories": [{"id": 1, "name": "a"}]}
    bad["annotations"] = [{"image_id": 1, "category_id": 1, "segmentation": {"counts": [3, 4]}}]
    (tmp_path / coco.FILE).write_text(json.dumps(bad))
    refused("coco", "instances_default.json", "x.jpg")
    (tmp_path / "tasks.json").write_text('[{"data": {}}]')
    refused("labelstudio", "tasks.json")
    (tmp_path / "classes.csv").write_text("a,b\n1,2\n")
    refused("mask", "classes.csv")
    write("yolo", with_photos(tmp_path), results(), CLASSES)
    (tmp_path / "labels/all.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.warns(UserWarning, match=r"lines are no outlines \(.*: all\.txt "):
        assert "all" not in [result.stem for result in read("yolo", tmp_path)[1]]
    (tmp_path / "data.yaml").write_text("names: 3")
    refused("yolo", "data.yaml")
    with pytest.raises(UsageError, match="coco"):
        write("cococo", tmp_path, [], [])


def test_a_thousand_cells_take_no_memory_each_and_the_photo_is_opened_once(tmp_path, monkeypatch):
    def cell(number, height, width):
        mask = np.zeros((height, width), bool)
        mask[number : number + 9, number : number + 9] = True
        return mask

    opened = []
    monkeypatch.setattr(drawn, "upright_size", lambda photo, page: opened.append(photo) or (600, 700))
    shapes = [drawn.Shape(1, partial(cell, number)) for number in range(500)]
    for ask in (lambda photo: photo.labelled(1), lambda photo: photo.mask(1)):
        photo = drawn.Annotated("a.png", tmp_path, None, shapes, tmp_path / "a.png")
        tracemalloc.start()
        kept = ask(photo)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # each whole mask takes 420,000 bytes
        tracemalloc.stop()
        del kept
    assert len(opened) == 2


def test_real_masks_survive_every_format(tmp_path):
    root = golden.data("clothing_ccp")
    names = [f"class {i}" for i in range(1, 59)]
    for path in sorted((root / "masks").glob("*.png"))[:2]:
        labels = read_mask(path, labels=True)
        for format in FORMATS:
            folder = tmp_path / format / path.stem
            (folder / "images").mkdir(parents=True)
            Image.fromarray(labels).save(folder / "images" / f"{path.stem}.png")
            write(format, folder, [Labelled(f"{path.stem}.png", labels)], names)
            (back,) = read(format, folder)[1]
            assert (back.labels != labels).mean() <= (0 if format in EXACT else 0.005), format


# The libraries of other tools as judges; they are no part of the test environment.


def test_pycocotools_reads_the_same_masks(tmp_path):
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    for format in ("coco", "coco-polygons"):
        write(format, tmp_path, results(), CLASSES)
        theirs = api.COCO(str(tmp_path / coco.FILE))
        for annotation in theirs.loadAnns(theirs.getAnnIds()):
            image = theirs.imgs[annotation["image_id"]]
            ours = decode(annotation["segmentation"], image["height"], image["width"])
            np.testing.assert_array_equal(theirs.annToMask(annotation), ours)
            assert format == "coco-polygons" or annotation["area"] == ours.sum()


def test_label_studio_reads_the_same_brush():
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    mask = shapes() > 0
    theirs = brush.decode_rle(label_studio.encode(mask)).reshape(*mask.shape, 4)[..., 3]
    np.testing.assert_array_equal(theirs > 0, mask)
    encoded = brush.encode_rle(np.repeat(mask.ravel().astype(np.uint8) * 255, 4))
    np.testing.assert_array_equal(label_studio.decode(encoded, *mask.shape), mask)


def test_supervision_reads_yolo_and_coco(tmp_path):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    flat = [r for r in results() if "/" not in r.file]
    write("yolo", with_photos(tmp_path), flat, CLASSES)
    write("coco", tmp_path, flat, CLASSES)
    images = str(tmp_path / "images")
    yolo = supervision.DetectionDataset.from_yolo(images, str(tmp_path / "labels"), str(tmp_path / "data.yaml"), True)
    cocoed = supervision.DetectionDataset.from_coco(images, str(tmp_path / coco.FILE), True)
    for dataset, least in ((yolo, 0.92), (cocoed, 0.999)):  # OpenCV fills polygons with their border
        assert dataset.classes == CLASSES
        for path, _, found in dataset:
            (result,) = [r for r in flat if path.endswith(r.file)]
            for label in result.present():
                theirs = found.mask[found.class_id == label - 1].any(0)
                assert theirs.shape == read_image(path).shape[:2]
                assert overlap(theirs, result.labels == label) > least or result.labels.size < 50


def test_datumaro_reads_voc_and_coco(tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    flat = [r for r in results() if "/" not in r.file and r.labels.any()]
    names = ["cat", "dog"]
    write("voc", tmp_path / "voc", flat, names)
    write("coco", with_photos(tmp_path / "coco"), flat, names)
    for path, format in ((tmp_path / "voc", "voc_segmentation"), (tmp_path / "coco", "coco_instances")):
        dataset = datumaro.Dataset.import_from(str(path), format)
        categories = dataset.categories()[datumaro.AnnotationType.label]
        items = {item.id: item for item in dataset}
        for result in flat:
            item = items[result.stem]
            for name in [names[label - 1] for label in result.present()]:
                number = categories.find(name)[0]
                masks = [a for a in item.annotations if a.type == datumaro.AnnotationType.mask and a.label == number]
                found = np.any([np.asarray(mask.image, bool) for mask in masks], axis=0)
                np.testing.assert_array_equal(found, result.labels == names.index(name) + 1)


def test_ids_in_place_of_predictions_are_no_regions_of_a_label_studio_task(tmp_path):
    """As the full JSON export of Label Studio 1.23.2 holds them, with unlabelled tasks."""
    from shotseg.data.annotations.label_studio_exports import given_of

    assert given_of({"data": {"image": "a.jpg"}, "annotations": [], "predictions": [3, 4]}) == []
    drawn = {"result": [{"value": {"brushlabels": ["a"]}}]}
    assert given_of({"data": {"image": "a.jpg"}, "annotations": [drawn], "predictions": [3]}) == [drawn]
