"""Data sets as they are downloaded: miniatures in the layouts of their publishers."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.draw import disk

from annotated import photos
from shotseg.data.annotations import detect, index, read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.annotations.voc import palette
from shotseg.errors import InputError, InputWarning, LeftOutWarning

LEFT, RIGHT, BOTH = (15,), (60,), (15, 60)


def drawn(columns=LEFT, values=(1, 2), background=0, dtype=np.uint8):
    """Discs of some values beside each other."""
    mask = np.full((60, 80), background, dtype)
    for column, value in zip(columns, values):
        mask[disk((30, column), 12)] = value
    return mask


def save(path, mask, colours=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if colours is not None:
        image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    image.save(path)


def white(columns=LEFT):
    return drawn(columns, (255, 255))


def cityscapes(root, *kinds):
    for name in ("train/aachen/aachen_000000_000019", "val/bonn/bonn_000000_000019"):
        photos(root, f"leftImg8bit/{name}_leftImg8bit.png")
        for kind in kinds:
            mask = drawn(BOTH, (26, 12)) if kind == "labelIds" else drawn(LEFT, (13,), 10)
            save(root / f"gtFine/{name}_gtFine_{kind}.png", mask)


def celebamask(root):
    for number in (0, 2000):
        photos(root, f"CelebA-HQ-img/{number}.jpg")
        for part, mask in (("skin", white(BOTH)), ("hair", white(LEFT))):
            folder = root / f"CelebAMask-HQ-mask-anno/{number // 2000}"
            save(folder / f"{number:05d}_{part}.png", np.repeat(mask[..., None], 3, 2))


def mvtec(root):
    for item in ("bottle", "grid"):
        photos(root, f"{item}/train/good/000.png", f"{item}/test/good/000.png", f"{item}/test/bent/000.png")
        save(root / f"{item}/ground_truth/bent/000_mask.png", white())


def loco(root):
    photos(root, "test/good/000.png", "test/logical_anomalies/000.png")
    for number, columns in enumerate((LEFT, RIGHT)):
        save(root / f"ground_truth/logical_anomalies/000/{number:03d}.png", white(columns))


def visa(root):
    photos(root, "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Anomaly/000.JPG")
    save(root / "candle/Data/Masks/Anomaly/000.png", drawn(BOTH, (1, 3)))


def montgomery(root):
    photos(root, "CXR_png/MCUCXR_0001_0.png")
    for side, columns in (("left", RIGHT), ("right", LEFT)):
        save(root / f"ManualMask/{side}Mask/MCUCXR_0001_0.png", white(columns) > 0)


def cells(root):
    photos(root, *(f"01/t{frame:03d}.tif" for frame in range(3)))
    save(root / "01_GT/SEG/man_seg000.tif", drawn(BOTH, (7, 300), dtype=np.uint16))
    save(root / "01_GT/TRA/man_track001.tif", drawn(LEFT, dtype=np.uint16))
    for frame in (0, 2):
        save(root / f"01_ST/SEG/man_seg{frame:03d}.tif", drawn(LEFT, dtype=np.uint16))


def davis(root):
    for video in ("bear", "dogs"):
        photos(root, f"JPEGImages/480p/{video}/00000.jpg")
        save(root / f"Annotations/480p/{video}/00000.png", drawn(BOTH), palette())


def youtube(root):
    photos(root, "train/JPEGImages/0a/00005.jpg")
    save(root / "train/Annotations/0a/00005.png", drawn(BOTH), palette())
    objects = {"1": {"category": "sedan"}, "2": {"category": "person"}}
    (root / "train/meta.json").write_text(json.dumps({"videos": {"0a": {"objects": objects}}}))


def vistas(root):
    photos(root, "training/images/a_-b.jpg", "testing/images/c.jpg")
    save(root / "training/v1.2/labels/a_-b.png", drawn(RIGHT), palette())
    save(root / "training/v2.0/labels/a_-b.png", drawn(BOTH), palette())
    rows = [{"name": name, "evaluate": name[0] != "v"} for name in ("animal--bird", "object--sign", "void--car")]
    (root / "config_v2.0.json").write_text(json.dumps({"labels": rows}))


def bdd(root):
    photos(root, "images/10k/train/0a-1.jpg")
    save(root / "labels/sem_seg/masks/train/0a-1.png", drawn(LEFT, (13,), 255))
    save(root / "labels/sem_seg/colormaps/train/0a-1.png", np.zeros((60, 80, 4), np.uint8))


def ade(root):
    photos(root, "images/training/ADE_train_00000001.jpg")
    save(root / "annotations/training/ADE_train_00000001.png", drawn(BOTH, (21, 3)))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t1\twall\n")


def loveda(root):
    photos(root, "Train/Rural/images_png/3.png", "Train/Urban/images_png/3.png")
    for place in ("Rural", "Urban"):
        save(root / f"Train/{place}/masks_png/3.png", drawn(BOTH, (2, 7), 1))


def pets(root):
    photos(root, "images/american_bulldog_10.jpg")
    mask = drawn((15, 60), (1, 3), 2)
    save(root / "annotations/trimaps/american_bulldog_10.png", mask)


def drive(root):
    photos(root, "training/images/21_training.tif", "test/images/01_test.tif")
    save(root / "training/1st_manual/21_manual1.gif", white())
    for part, number in (("training", 21), ("test", 1)):
        save(root / f"{part}/mask/{number:02d}_{part}_mask.gif", np.full((60, 80), 255, np.uint8))


def coco_stuff(root):
    photos(root, "images/train2017/000000000009.jpg")
    save(root / "stuffthingmaps/train2017/000000000009.png", drawn(BOTH, (16, 156), 255))


def ham(root):
    for number in (1, 2):
        photos(root, f"HAM10000_images_part_{number}/ISIC_002430{number}.jpg")
        save(root / f"HAM10000_segmentations_lesion_tschandl/ISIC_002430{number}_segmentation.png", white())


def ph2(root):
    photos(root, "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp")
    save(root / "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp", white())


def cub(root):
    photos(root, "CUB_200_2011/images/001.Auk/a_1.jpg")
    save(root / "segmentations/001.Auk/a_1.png", white())


def lip(root):
    photos(root, "train_images/7_1.jpg")
    save(root / "TrainVal_parsing_annotations/train_segmentations/7_1.png", drawn(BOTH, (2, 13)))


def cod(root):
    name = "COD10K-CAM-1-Aquatic-1-BatFish-2"
    photos(root, f"Train/Image/{name}.jpg")
    for kind, columns in (("Object", LEFT), ("Edge", RIGHT), ("Instance", RIGHT)):
        save(root / f"Train/GT_{kind}/{name}.png", white(columns))


def in_colours(columns=BOTH):
    mask = np.zeros((60, 80, 3), np.uint8)
    for column, colour in zip(columns, ((64, 0, 128), (128, 128, 128))):
        mask[disk((30, column), 12)] = colour
    return mask


COLOURS = "name,r,g,b\nCar,64,0,128\nSky,128,128,128\nVoid,0,0,0\n"


def camvid(root):
    photos(root, "train/a_1.png", "val/b_1.png")
    save(root / "train_labels/a_1_L.png", in_colours())
    save(root / "val_labels/b_1_L.png", in_colours())
    (root / "class_dict.csv").write_text(COLOURS)


def camvid_full(root):
    photos(root, "701_StillsRaw_full/a_1.png")
    save(root / "LabeledApproved_full/a_1_L.png", in_colours())
    (root / "label_colors.txt").write_text("64 0 128\tCar\n128 128 128\t\tSky\n0 0 0\t\tVoid\n")


def camvid_eleven(root):
    photos(root, "train/a_1.png")
    save(root / "trainannot/a_1.png", drawn(BOTH, (8, 0), 11))


def deepglobe(root):
    photos(root, "train/6_sat.jpg", "train/70_sat.jpg")
    for number in (6, 70):
        save(root / f"train/{number}_mask.png", in_colours())
    (root / "class_dict.csv").write_text(COLOURS)


def suim(root):
    photos(root, "train_val/images/d_r_1_.jpg", "TEST/images/d_r_2_.jpg")
    save(root / "train_val/masks/d_r_1_.bmp", in_colours())
    save(root / "TEST/masks/d_r_2_.bmp", in_colours())
    (root / "class_dict.csv").write_text(COLOURS.replace("Void", "background"))


DISC = 437  # pixels of one

# layout -> photos that are read, and the pixels of each class in the first photo that shows it
READ = {
    "Cityscapes": (lambda root: cityscapes(root, "labelIds", "labelTrainIds", "color"), 2, {"wall": DISC, "car": DISC}),
    "Cityscapes of 19 classes": (lambda root: cityscapes(root, "labelTrainIds"), 2, {"sky": 4800 - DISC, "car": DISC}),
    "CelebAMask-HQ": (celebamask, 2, {"skin": 2 * DISC, "hair": DISC}),
    "MVTec AD": (mvtec, 6, {"bottle bent": DISC, "grid bent": DISC}),
    "MVTec LOCO": (loco, 2, {"logical_anomalies": 2 * DISC}),
    "VisA": (visa, 2, {"candle anomaly": 2 * DISC}),
    "Montgomery": (montgomery, 1, {"left lung": DISC, "right lung": DISC}),
    "Cell Tracking Challenge": (cells, 2, {"cell": 2 * DISC}),
    "DAVIS": (davis, 2, {"bear": 2 * DISC, "dogs": 2 * DISC}),
    "YouTube-VOS": (youtube, 1, {"sedan": DISC, "person": DISC}),
    "Mapillary Vistas": (vistas, 1, {"animal--bird": 4800 - 2 * DISC, "object--sign": DISC}),
    "BDD100K": (bdd, 1, {"car": DISC}),
    "ADE20K": (ade, 1, {"sky": DISC, "car": DISC}),
    "LoveDA": (loveda, 2, {"building": DISC, "agriculture": DISC}),
    "Oxford pets": (pets, 1, {"american_bulldog": DISC}),
    "DRIVE": (drive, 1, {"vessel": DISC}),
    "COCO-Stuff": (coco_stuff, 1, {"cat": DISC, "sky-other": DISC}),
    "HAM10000": (ham, 2, {"lesion": DISC}),
    "PH2": (ph2, 1, {"lesion": DISC}),
    "CUB-200-2011": (cub, 1, {"001.Auk": DISC}),
    "LIP": (lip, 1, {"hair": DISC, "face": DISC}),
    "COD10K": (cod, 1, {"BatFish": DISC}),
    "CamVid": (camvid, 2, {"Car": DISC, "Sky": DISC}),
    "CamVid as published": (camvid_full, 1, {"Car": DISC, "Sky": DISC}),
    "CamVid of 11 classes": (camvid_eleven, 1, {"sky": DISC, "car": DISC}),
    "DeepGlobe": (deepglobe, 2, {"Car": DISC, "Sky": DISC}),
    "SUIM": (suim, 2, {"Car": DISC, "Sky": DISC}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READ)
def test_a_data_set_is_read_as_its_publisher_packs_it(tmp_path, name):
    make, count, pixels = READ[name]
    make(tmp_path)
    assert detect(tmp_path) == "dataset"
    found = index("dataset", tmp_path)
    assert len([photo for photo in found.photos if photo.photo is not None]) == count
    data = open_folder(tmp_path)
    assert data.classes == [name for name in found.classes if name in data.classes]
    of_class = {}
    for number, item in enumerate(data.items):
        of_class.setdefault(item.class_name, int((data.sample(number).mask == 1).sum()))
    assert of_class == pixels
    maps = [result.labels for result in read("dataset", tmp_path)[1]]
    assert len(maps) == count and all(labels.shape == (60, 80) for labels in maps)


def test_void_of_a_label_map_is_ignored_and_the_background_is_not(tmp_path):
    loveda(tmp_path / "loveda")
    save(tmp_path / "loveda/Train/Rural/masks_png/3.png", drawn(BOTH, (2, 0), 1))
    with pytest.warns(UserWarning, match="read as LoveDA: 1 is background; 0, no data, is ignored"):
        labels = next(read("dataset", tmp_path / "loveda")[1]).labels
    assert [int((labels == value).sum()) for value in (0, 1, 255)] == [4800 - 2 * DISC, DISC, DISC]


def test_masks_that_count_and_those_that_are_passed_over_are_said(tmp_path):
    cityscapes(tmp_path, "labelIds", "color")
    with pytest.warns(
        UserWarning, match=r"read as Cityscapes: \*_labelIds\.png count.*_color and _polygons are passed"
    ):
        index("dataset", tmp_path)


def test_photos_of_a_known_data_set_that_have_no_mask_are_said_unless_they_show_nothing(tmp_path):
    cells(tmp_path / "cells")
    with pytest.warns(UserWarning, match=r"left out, photos without a mask: t001\.tif"):
        index("dataset", tmp_path / "cells")
    mvtec(tmp_path / "mvtec")
    maps = {result.file: result.labels for result in read("dataset", tmp_path / "mvtec")[1]}
    assert not maps["bottle/test/good/000.png"].any() and maps["bottle/test/bent/000.png"].any()


def test_cells_stay_objects_of_their_own(tmp_path):
    cells(tmp_path)
    first = next(read("dataset", tmp_path)[1])
    assert first.file == "01/t000.tif" and [int(part.mask.sum()) for part in first.parts] == [DISC, DISC]


def test_parts_of_a_face_lie_on_its_skin_as_their_publisher_lays_them(tmp_path):
    celebamask(tmp_path)
    classes, results = read("dataset", tmp_path)
    labels = next(results).labels
    assert {classes[value - 1]: int((labels == value).sum()) for value in (1, 2)} == {"hair": DISC, "skin": DISC}


def test_a_broken_mask_of_a_known_data_set_is_named_and_the_others_are_read(tmp_path):
    davis(tmp_path)
    (tmp_path / "Annotations/480p/bear/00000.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.warns(UserWarning, match=r"bear/00000\.png: "):
        data = open_folder(tmp_path)
    assert data.classes == ["dogs"]


def test_a_mask_with_values_of_no_class_is_named(tmp_path):
    camvid(tmp_path)
    save(tmp_path / "train_labels/a_1_L.png", in_colours() // 2)
    with pytest.warns(UserWarning, match=r"a_1_L\.png: 18 % of it has values without a class; copy it again"):
        data = open_folder(tmp_path)
    assert [item.id for item in data.items] == ["Car/val/b_1", "Sky/val/b_1"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,hue,green,blue\nCar,64,0,128\n", "not a table of colours; give the columns name, r, g and b"),
        ("name,r,g,b\nCar,64,0,300\n", "'64 0 300 Car' is not a name and r, g, b from 0 to 255"),
    ],
)
def test_a_table_of_colours_that_is_none_is_one_line(tmp_path, table, said):
    camvid(tmp_path)
    (tmp_path / "class_dict.csv").write_text(table)
    with pytest.raises(InputError, match=said):
        index("dataset", tmp_path)


def test_a_data_set_that_is_not_read_says_what_to_take(tmp_path):
    cityscapes(tmp_path / "city", "color")
    with pytest.raises(InputError, match=r"Cityscapes: it has no \*_labelIds\.png; unpack gtFine_trainvaltest\.zip"):
        open_folder(tmp_path / "city")
    place = "images/ADE/training/street/ADE_train_00000001"
    photos(tmp_path / "ade", f"{place}.jpg")
    save(tmp_path / "ade" / f"{place}_seg.png", in_colours())
    with pytest.raises(InputError, match=r"ADE20K: its colours .* are not read; take ADEChallengeData2016\.zip"):
        open_folder(tmp_path / "ade")
    with pytest.raises(InputError, match="laid out as no data set that is known"):
        open_folder(tmp_path / "ade/images/ADE/training/street", "dataset")


def test_photos_that_were_not_unpacked_are_said(tmp_path):
    cityscapes(tmp_path, "labelIds")
    for file in (tmp_path / "leftImg8bit").rglob("*bonn*.png"):
        file.unlink()
    with pytest.warns(UserWarning, match="1 photos not found, left out"):
        assert len({item.image_path for item in open_folder(tmp_path).items}) == 1


def test_a_link_that_leads_back_and_a_table_in_a_folder_below_do_no_harm(tmp_path):
    suim(tmp_path / "data/suim")
    (tmp_path / "data/suim/TEST/again").symlink_to(tmp_path, target_is_directory=True)
    assert {item.class_name for item in open_folder(tmp_path).items} == {"Car", "Sky"}
    assert len(index("dataset", tmp_path).photos) == 2


def test_a_table_that_was_mended_is_read_anew(tmp_path):
    camvid(tmp_path)
    assert open_folder(tmp_path).classes == ["Car", "Sky"]
    (tmp_path / "class_dict.csv").write_text(COLOURS.replace("Car", "Bus"))
    assert open_folder(tmp_path).classes == ["Bus", "Sky"]


def test_what_is_said_of_a_data_set_that_is_whole_is_no_failure(tmp_path):
    cells(tmp_path)
    with pytest.warns(InputWarning) as lines:
        index("dataset", tmp_path)
    assert len(lines) == 2 and not any(issubclass(line.category, LeftOutWarning) for line in lines)
