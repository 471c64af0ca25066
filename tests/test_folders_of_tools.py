"""Folders as other tools leave them: masks with a table of their classes, in each tool's own layout."""

import json

import numpy as np
import pytest
from PIL import Image

from annotated import photos
from shotseg.data.annotations import detect, read
from shotseg.data.annotations.opened import open_folder
from shotseg.errors import InputError, UsageError

COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)}
LINES = "0 0 0 background\n128 0 0 cat\n0 128 0 dog\n"
NAMES = ("one", "two words", "none")


def truth(name):
    """A cat above a dog; no dog in the second photo, and nothing in the third."""
    labels = np.zeros((60, 80), np.uint8)
    if name != "none":
        labels[5:25, 10:30] = 1
    if name == "one":
        labels[30:50, 20:60] = 2
    return labels


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def painted(labels):
    return np.array([COLOURS[value] for value in range(3)], np.uint8)[labels]


def put(root, photo, mask, made=lambda labels: labels):
    """A photo and its mask for each name, in the places that hold "{}"."""
    for name in NAMES:
        photos(root, photo.format(name))
        save(root / mask.format(name), made(truth(name)))


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def v7(root, values, made):
    put(root, "images/{}.jpg", "masks/{}.png", made)
    rows = [f"{name},{value}" for name, value in zip(("__background__", "cat", "dog", "__raster_layer__"), values)]
    text(root / "class_mapping.csv", "\n".join(["class_name,class_color", *rows, ""]))


def v7_beside(root):
    put(root, "{}.jpg", "masks/{}.png")
    text(root / "class_mapping.csv", "class_name,class_color\n__background__,0\ncat,1\ndog,2\n")


def camvid(root):
    put(root, "train/deep/{}.jpg", "trainannot/deep/{}.png", painted)
    text(root / "label_colors.txt", LINES)


def cityscapes(root):
    put(root, "leftImg8bit/train/{}_leftImg8bit.jpg", "gtFine/train/{}_gtFine_labelIds.png")
    text(root / "label_colors.txt", LINES)


def kitti(root):
    put(root, "train/image_2/{}.jpg", "train/semantic/{}.png", lambda labels: labels.astype(np.uint16))
    text(root / "label_colors.txt", LINES)


def nnunet(root):
    put(root, "imagesTr/{}_0000.png", "labelsTr/{}.png")
    text(root / "dataset.json", json.dumps({"labels": {"background": 0, "cat": 1, "dog": 2}}))


def old_nnunet(root):
    put(root, "imagesTr/{}_0000.png", "labelsTr/{}.png")
    text(root / "dataset.json", json.dumps({"labels": {"0": "background", "1": "cat", "2": "dog"}}))


def mmseg(root):
    put(root, "img_dir/train/{}.jpg", "ann_dir/train/{}.png", painted)
    text(root / "class_dict.csv", "name,r,g,b\nbackground,0,0,0\ncat,128,0,0\ndog,0,128,0\n")


def paddle(root):
    put(root, "images/{}.jpg", "annotations/{}.png")
    text(root / "labels.txt", "__ignore__\n_background_\ncat\ndog\n")


def fastai(root):
    put(root, "images/{}.jpg", "labels/{}_P.png")
    text(root / "codes.txt", "background\ncat\ndog\n")


def mots(root):
    put(root, "train/images/{}.jpg", "train/instances/{}.png", lambda labels: labels.astype(np.uint16) * 1001)
    text(root / "train/instances/labels.txt", "cat\ndog\n")


def voc(root):
    put(root, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", painted)
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")


def described(make):
    """The same with the table that datumaro writes in place of its others, where it is asked to."""

    def made(root):
        make(root)
        for table in ("label_colors.txt", "labelmap.txt"):
            (root / table).unlink(missing_ok=True)
        colours = [list(colour) for colour in COLOURS.values()]
        text(
            root / "dataset_meta.json",
            json.dumps({"labels": ["background", "cat", "dog"], "segmentation_colors": colours}),
        )

    return made


def objects(root, photo, mask, row, table):
    """One mask an object, and a table of them; what has none is not in it."""
    rows = []
    for name in NAMES:
        photos(root, photo.format(name))
        for number, title in enumerate(("cat", "dog"), start=1):
            if (shown := truth(name) == number).any():
                save(root / mask.format(name, number), shown.astype(np.uint8) * 255)
                rows.append(row.format(name, number, title))
    text(root / table, "\n".join(rows) + "\n")
    return root / table


def v7_objects(root):
    table = objects(
        root, "images/deep/{}.jpg", "masks/{}_0000{}.png", "{0},{0}_0000{1},{2}", "instance_mask_annotations.csv"
    )
    table.write_text("image_id,mask_id,class_name\n" + table.read_text())


def open_images(root):
    table = objects(
        root, "images/train/{}.jpg", "masks/train/m_{}_{}.png", "m_{0}_{1}.png,{0},/m/{2}", "annotations/train.csv"
    )
    table.write_text("MaskPath,ImageID,LabelName\n" + table.read_text())
    text(root / "annotations/class-descriptions.csv", "/m/cat,cat\n/m/dog,dog\n")


def labelme_web(root):
    for name in NAMES:
        photos(root, f"Images/train/{name}.jpg")
        found = ""
        for number, title in enumerate(("cat", "dog"), start=1):
            if (shown := truth(name) == number).any():
                save(root / f"Masks/train/{name}_{number}.png", shown.astype(np.uint8) * 255)
                found += f"<object><name>{title}</name><segm><mask>{name}_{number}.png</mask></segm></object>"
        gone = "<object><name>bird</name><deleted>1</deleted><polygon><pt><x>1</x><y>1</y></pt></polygon></object>"
        file = f"<filename>{name}.jpg</filename><folder>train</folder>"
        text(root / f"Annotations/train/{name}.xml", f"<annotation>{file}{found}{gone}</annotation>")


FOLDERS = {
    "values of V7": (lambda root: v7(root, "012", lambda labels: labels), "dataset"),
    "greys of V7": (
        lambda root: v7(root, ("0", "127", "255"), lambda labels: (labels * 127.5).astype(np.uint8)),
        "dataset",
    ),
    "colours of V7": (lambda root: v7(root, [" ".join(map(str, COLOURS[i])) for i in range(3)], painted), "dataset"),
    "V7 beside the photos": (v7_beside, "dataset"),
    "CamVid of CVAT": (camvid, "dataset"),
    "Cityscapes of CVAT": (cityscapes, "dataset"),
    "KITTI of CVAT": (kitti, "dataset"),
    "MOTS of CVAT": (mots, "dataset"),
    "nnU-Net": (nnunet, "dataset"),
    "nnU-Net of old": (old_nnunet, "dataset"),
    "mmsegmentation": (mmseg, "dataset"),
    "PaddleSeg": (paddle, "dataset"),
    "fastai": (fastai, "dataset"),
    "VOC of datumaro": (voc, "voc"),
    "VOC described": (described(voc), "voc"),
    "CamVid described": (described(camvid), "dataset"),
    "Cityscapes described": (described(cityscapes), "dataset"),
    "KITTI described": (described(kitti), "dataset"),
    "objects of V7": (v7_objects, "mask-table"),
    "Open Images": (open_images, "mask-table"),
    "LabelMe of the web": (labelme_web, "labelme-web"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOLDERS)
def test_a_tools_folder_is_read_to_the_pixel(tmp_path, name):
    make, format = FOLDERS[name]
    make(tmp_path)
    assert detect(tmp_path) == format
    classes, results = read(format, tmp_path)
    assert classes == ["cat", "dog"]
    found = {result.stem.split("/")[-1].split("_")[0]: result.labels for result in results}
    assert found.keys() == set(NAMES) - ({"none"} if format == "mask-table" else set())  # whose table has no row for it
    for stem, labels in found.items():
        np.testing.assert_array_equal(labels, truth(stem))
    assert open_folder(tmp_path).classes == ["cat", "dog"]


def test_a_mask_of_a_table_that_is_not_there_and_a_photo_without_a_row_are_named(tmp_path):
    v7_objects(tmp_path)
    (tmp_path / "masks/one_00002.png").unlink()
    with pytest.warns() as said:
        assert detect(tmp_path) == "mask-table"
        assert [len(result.objects) for result in read("mask-table", tmp_path)[1]] == [1, 1]
    lines = [str(line.message) for line in said]
    assert any("one_00002" in line and "put them into" in line for line in lines)
    assert any("photos without a mask: none.jpg" in line for line in lines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "table", "content", "said"),
    [
        (camvid, "label_colors.txt", " cat\n dog\n", "'cat' is not a name and r, g, b"),
        (camvid, "label_colors.txt", "\n", "empty"),
        (nnunet, "dataset.json", '{"labels": {}}', "the table of its classes is empty"),
        (nnunet, "dataset.json", '{"labels": {"all": [1, 2]}}', "regions of several"),
        (paddle, "labels.txt", "\n", "labels.txt: empty"),
        (described(kitti), "dataset_meta.json", "[]", "labels with their segmentation_colors"),
        (described(kitti), "dataset_meta.json", '{"labels": ["cat"]}', "says no segmentation_colors"),
        (v7_beside, "class_mapping.csv", "class_name,class_color\ncat,many\n", "'many cat' is not a name"),
    ],
)
def test_a_table_that_cannot_be_meant_is_one_line(tmp_path, make, table, content, said):
    make(tmp_path)
    (tmp_path / table).write_text(content)
    with pytest.raises(InputError, match=said) as error:
        read("dataset", tmp_path)
    assert "\n" not in str(error.value)


def test_a_photo_whose_one_mask_is_empty_shows_nothing(tmp_path, recwarn):
    put(tmp_path, "images/{}.jpg", "masks/{}.png", lambda labels: (labels > 0) * np.uint8(255))
    areas = {result.stem.split("/")[-1]: int((result.labels == 1).sum()) for result in read("mask", tmp_path)[1]}
    assert areas == {"one": 1200, "two words": 400, "none": 0}
    assert not [line for line in recwarn if "draw them again" in str(line.message)]


def test_a_photo_that_voc_lists_and_has_no_mask_of_is_named(tmp_path):
    voc(tmp_path)
    (tmp_path / "SegmentationClass/none.png").unlink()
    text(tmp_path / "ImageSets/Segmentation/default.txt", "one.jpg\ntwo words\nnone\n")
    with pytest.warns(match="photos of its ImageSets without a mask: none$"):
        assert len(list(read("voc", tmp_path)[1])) == 2


def test_colours_that_supervisely_drew_at_random_are_said(tmp_path):
    photos(tmp_path, "JPEGImages/a.jpg")
    save(tmp_path / "SegmentationClass/a_class.png", np.full((60, 80, 3), (15, 78, 138), np.uint8))
    text(tmp_path / "colors.txt", "neutral 224 224 192\ncat 15 138 85\n")
    with pytest.raises(InputError, match=r"#0f4e8a is not in colors.txt; .* its export as COCO"):
        list(read("voc", tmp_path)[1])
    text(tmp_path / "colors.txt", "neutral 224 224 192\ncat 15 78 138\n")
    [result] = read("voc", tmp_path)[1]
    assert result.photo == tmp_path / "JPEGImages/a.jpg" and (result.labels == 1).all()


def test_what_supervisely_calls_bg_is_no_class(tmp_path):
    photos(tmp_path / "ds/img", "a.jpg")
    outline = {"points": {"exterior": [[0, 0], [79, 0], [79, 59], [0, 59]], "interior": []}, "geometryType": "polygon"}
    shapes = [{"classTitle": "__bg__", **outline}]
    size = {"height": 60, "width": 80}
    text(tmp_path / "ds/ann/a.jpg.json", json.dumps({"description": "", "tags": [], "size": size, "objects": shapes}))
    text(tmp_path / "meta.json", json.dumps({"classes": [{"title": "cat"}, {"title": "__bg__"}]}))
    classes, results = read("supervisely", tmp_path)
    assert classes == ["cat"] and [result.labels.any() for result in results] == [False]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("task-1-annotation-1-by-me-tag-cat-0.png", "no photo; export JSON"),
        ("annotations/train.datum", "Datumaro; export COCO"),
        ("data/train-0.parquet", "Parquet; save"),
        ("train/a.tfrecord", "TensorFlow; export COCO"),
    ],
)
def test_what_is_known_by_its_name_and_not_read_is_said_with_the_mend(tmp_path, file, said):
    text(photos(tmp_path, "images/a.jpg") / file, "")
    with pytest.raises(UsageError, match=said):
        detect(tmp_path)


def test_a_list_without_background_begins_at_1_but_that_of_fastai_at_0(tmp_path):
    for make, table, first in ((paddle, "labels.txt", 1), (fastai, "codes.txt", 0)):
        root = tmp_path / table
        make(root)
        text(root / table, "cat\ndog\nbird\n")
        names, results = read("dataset", root)
        values = {value for result in results for value in np.unique(result.labels)}
        assert names == ["cat", "dog", "bird"] and values == {0, 1, 2} if first else values == {1, 2, 3}


def test_results_that_lie_among_the_examples_are_no_data_set(tmp_path):
    put(tmp_path, "images/cat/{}.jpg", "masks/cat/{}.png", lambda labels: (labels == 1) * np.uint8(255))
    put(tmp_path, "result/others/{}.jpg", "result/labels/{}.png")
    text(tmp_path / "result/classes.txt", "cat\ndog\n")
    assert detect(tmp_path) == "mask"
