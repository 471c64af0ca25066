"""Data sets as their publishers pack them: which photo a mask belongs to, and what its values mean. One row a data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from shotseg.data.annotations import value_tables as tables
from shotseg.data.annotations.value_tables import Groups, Values
from shotseg.data.annotations.voc import VOID
from shotseg.data.sets import names, spec


class Layout(NamedTuple):
    """A data set as it is downloaded. Patterns are of paths below the folder without their ending, from "top" on.

    places:  globs of folders and tables, each of which is there; of "a|b" one is.
    photos:  of its photos.     masks: of its masks; of several the first that has one of a photo counts.
             A mask is of the photo with which it shares all groups that both patterns name; "n" is a number.
    means:   folder, groups -> the class of all that is not background, or that of each value.
    objects: each value is an object.       order: classes from the lowest to the topmost, where masks of a photo overlap.
    nothing: of photos that show no class.      said: which masks count, where there are others.
    refused: why it is not read, and the mend.
    here:    its table lies in the folder itself and photos below it: else results among the examples would be one.
    """

    title: str
    places: tuple[str, ...]
    photos: str
    masks: tuple[str, ...]
    means: Callable[[Path, Groups], str | Values] = lambda root, groups: ""
    objects: bool = False
    order: str = ""
    nothing: str = ""
    said: str = ""
    refused: str = ""
    here: bool = False


def _called(pattern: str) -> Callable[[Path, Groups], str]:
    """The class is made of the groups."""
    return lambda root, groups: " ".join(pattern.format_map({k: v or "" for k, v in groups.items()}).split())


def _numbered(names: str, first: int = 0, void: tuple[int, ...] = (255,)) -> Callable[[Path, Groups], Values]:
    """The classes, parted by commas, of the values from the first on."""
    values = dict(enumerate(names.split(","), first)) | dict.fromkeys(void, VOID)
    return lambda root, groups: values


# --- values ------------------------------------------------------------------------------------------------------------

_CITYSCAPES = _numbered(
    "road,sidewalk,parking,rail track,building,wall,fence,guard rail,bridge,tunnel,pole,polegroup,traffic light,"
    "traffic sign,vegetation,terrain,sky,person,rider,car,truck,bus,caravan,trailer,train,motorcycle,bicycle",
    first=7,
    void=(*range(7), 255),
)
_NINETEEN = _numbered(
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,"
    "bus,train,motorcycle,bicycle"
)
_LIP = _numbered(
    ",hat,hair,glove,sunglasses,upper-clothes,dress,coat,socks,pants,jumpsuits,scarf,skirt,face,left-arm,right-arm,"
    "left-leg,right-leg,left-shoe,right-shoe"
)
_LOVEDA = _numbered(",building,road,water,barren,forest,agriculture", first=1, void=(0, 255))
_CAMVID = _numbered("sky,building,pole,road,pavement,tree,sign symbol,fence,car,pedestrian,bicyclist", void=(11, 255))


_FACE = "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"


def _cityscapes(root: Path, groups: Groups) -> Values:
    return _NINETEEN(root, groups) if groups["ids"] == "labelTrainIds" else _CITYSCAPES(root, groups)


def _ade(root: Path, groups: Groups) -> Values:
    return _of_ade()


@lru_cache(maxsize=1)
def _of_ade() -> Values:
    """Of the 150 classes; in these files they count from 1, and 0 is what is none of them."""
    return {0: VOID, **{number + 1: name for number, name in names(spec("ade20k150")).items()}}


def _coco_stuff(root: Path, groups: Groups) -> Values:
    return _of_coco_stuff()


@lru_cache(maxsize=1)
def _of_coco_stuff() -> Values:
    """Of 91 things and 91 stuffs from 0 on; the eleven that no photo shows have no name."""
    missing = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
    numbers = (number for number in range(182) if number not in missing)
    return {**dict(zip(numbers, names(spec("coco_stuff10k")).values())), 255: VOID}


def _pet(root: Path, groups: Groups) -> Values:
    return {1: groups["breed"], 2: "", 3: VOID}


# The words for folders of photos, and of masks, in layouts that a table of classes tells.
_PHOTOS = r"(?P<part>.*/)?(?i:images?|imgs?|img_dir|photos?|data)/(?P<name>.+)"
_MASKS = r"(?P<part>.*/)?(?i:{})/(?P<name>.+?)(_mask|_label|_L|_P)?"
_MOTS = "the thousands of an object's number are its class; 10000, which is not evaluated, is background"

LAYOUTS = (
    Layout(
        "Cityscapes with a table of its own",
        ("gt*/*", "leftImg8bit*/*", "label_colors.txt|dataset_meta.json"),
        r"leftImg8bit/(?P<name>.+)_leftImg8bit",
        (r"gt\w+/(?P<name>.+)_gt\w+_labelIds",),
        tables.by_line,
        said="*_labelIds.png count, by the lines of its table; _instanceIds and _color are passed over",
    ),
    Layout(
        "Cityscapes",
        ("gt*/*", "leftImg8bit*/*"),
        r"leftImg8bit(_trainextra)?/(?P<name>.+)_leftImg8bit",
        tuple(
            rf"gt{kind}/(?P<name>.+)_gt{kind}_(?P<ids>{ids})"
            for ids in ("labelIds", "labelTrainIds")
            for kind in ("Fine", "Coarse")
        ),
        _cityscapes,
        said="*_labelIds.png count, else *_labelTrainIds.png; _instanceIds, _color and _polygons are passed over",
    ),
    Layout(
        "Cityscapes",
        ("gt*/*", "leftImg8bit*/*"),
        r"leftImg8bit/(?P<name>.+)_leftImg8bit",
        (r"gt\w+/(?P<name>.+)_gt\w+_(color|instanceIds|polygons)",),
        refused="it has no *_labelIds.png; unpack gtFine_trainvaltest.zip, or make them with cityscapesscripts",
    ),
    Layout(
        "CelebAMask-HQ",
        ("CelebAMask-HQ-mask-anno", "CelebA-HQ-img"),
        r"CelebA-HQ-img/(?P<n>\d+)",
        (r"CelebAMask-HQ-mask-anno/(\d+/)?(?P<n>\d+)_(?P<part>\w+)",),
        _called("{part}"),
        order=_FACE,
    ),
    Layout(
        "MVTec AD",
        ("ground_truth/*", "test/*"),
        r"((?P<object>[^/]+)/)?test/(?P<defect>[^/]+)/(?P<name>[^/]+)",
        (r"((?P<object>[^/]+)/)?ground_truth/(?P<defect>[^/]+)/(?P<name>[^/]+?)(_mask|/[^/]+)?",),
        _called("{object} {defect}"),
        nothing=r"((?P<object>[^/]+)/)?(train|test)/(good|ok)/[^/]+",
        said="photos in good/ show no class",
    ),
    Layout(
        "VisA",
        ("Data/Images", "Data/Masks"),
        r"((?P<object>[^/]+)/)?Data/Images/Anomaly/(?P<name>[^/]+)",
        (r"((?P<object>[^/]+)/)?Data/Masks/Anomaly/(?P<name>[^/]+)",),
        _called("{object} anomaly"),
        nothing=r"((?P<object>[^/]+)/)?Data/Images/Normal/[^/]+",
        said="all kinds of anomaly are one class of their object; photos in Normal/ show none",
    ),
    Layout(
        "Montgomery County X-rays",
        ("ManualMask/*Mask", "CXR_png"),
        r"CXR_png/(?P<name>[^/]+)",
        (r"ManualMask/(?P<side>left|right)Mask/(?P<name>[^/]+?)(_mask)?",),
        _called("{side} lung"),
    ),
    Layout(
        "Cell Tracking Challenge",
        ("[0-9][0-9]_[GS]T/SEG",),
        r"(?P<sequence>\d\d)/t(?P<n>\d+)",
        tuple(rf"(?P<sequence>\d\d)_{truth}/SEG/man_seg(?P<n>\d+)" for truth in ("GT", "ST")),
        _called("cell"),
        objects=True,
        said="GT/SEG counts, else ST/SEG; the markers of TRA are passed over",
    ),
    Layout(
        "Cell Tracking Challenge",
        ("[0-9][0-9]_GT/SEG",),
        r"(?P<sequence>\d\d)/t(?P<n>\d+)",
        (r"(?P<sequence>\d\d)_GT/SEG/man_seg_\d+_\d+",),
        refused="its photos are volumes; save their slices as photos, with a mask of the same name for each",
    ),
    Layout(
        "DAVIS or YouTube-VOS",
        ("JPEGImages/*", "Annotations/*"),
        r"JPEGImages/((480p|1080p|Full-Resolution)/)?(?P<video>[^/]+)/(?P<frame>\d{5,})",
        (r"Annotations/((480p|1080p|Full-Resolution)/)?(?P<video>[^/]+)/(?P<frame>\d{5,})",),
        tables.of_objects,
        objects=True,
        said="the class is the video's name, or what meta.json says of each object",
    ),
    Layout(
        "Mapillary Vistas",
        ("training/images", "config*.json"),
        r"(?P<part>training|validation)/images/(?P<name>[^/]+)",
        tuple(
            rf"(?P<part>training|validation)/(?P<version>{version})labels/(?P<name>[^/]+)"
            for version in (r"v2\.0/", r"v1\.2/", "")
        ),
        tables.of_vistas,
        said="labels/ of v2.0 count, else those of v1.2; what config.json does not evaluate is ignored",
    ),
    Layout(
        "BDD100K",
        ("labels/sem_seg/masks",),
        r"images/10k/(?P<name>.+)",
        (r"labels/sem_seg/masks/(?P<name>.+)",),
        _NINETEEN,
        said="masks/ count; colormaps/ are passed over",
    ),
    Layout(
        "ADE20K of 150 classes",
        ("annotations/training", "objectInfo150.txt"),
        r"images/(?P<name>(training|validation)/[^/]+)",
        (r"annotations/(?P<name>(training|validation)/[^/]+)",),
        _ade,
        said="0 is ignored",
    ),
    Layout(
        "COCO-Stuff",
        ("stuffthingmaps*/*2017",),
        r"(images/)?(?P<part>train|val)2017/(?P<name>\d+)",
        (r"stuffthingmaps\w*/(?P<part>train|val)2017/(?P<name>\d+)",),
        _coco_stuff,
    ),
    Layout(
        "ADE20K",
        ("images/ADE/*",),
        r"(?P<name>images/ADE/.+)",
        (r"(?P<name>images/ADE/.+)_seg",),
        refused="its colours of 3,688 classes are not read; take ADEChallengeData2016.zip, of the same photos",
    ),
    Layout(
        "LoveDA",
        ("*/images_png", "*/masks_png"),
        r"(?P<place>[^/]+/[^/]+)/images_png/(?P<name>[^/]+)",
        (r"(?P<place>[^/]+/[^/]+)/masks_png/(?P<name>[^/]+)",),
        _LOVEDA,
        said="1 is background; 0, no data, is ignored",
    ),
    Layout(
        "Oxford-IIIT Pets",
        ("annotations/trimaps", "images"),
        r"images/(?P<breed>.+)_(?P<number>\d+)",
        (r"annotations/trimaps/(?P<breed>.+)_(?P<number>\d+)",),
        _pet,
        said="1 of the trimaps is the animal, of the breed in its name; 2 is background, and the rim of 3 is ignored",
    ),
    Layout(
        "DRIVE",
        ("*/1st_manual", "*/images"),
        r"(?P<part>training|test)/images/(?P<n>\d+)_\w+",
        (r"(?P<part>training|test)/1st_manual/(?P<n>\d+)_manual1",),
        _called("vessel"),
        said="1st_manual/ counts; 2nd_manual/ and mask/, the field of view, are passed over",
    ),
    Layout(
        "HAM10000",
        ("HAM10000_images_part_1", "HAM10000_segmentations*"),
        r"HAM10000_images_part_\d/(?P<name>[^/]+)",
        (r"HAM10000_segmentations\w*/(?P<name>[^/]+)_segmentation",),
        _called("lesion"),
    ),
    Layout(
        "PH2",
        ("*_Dermoscopic_Image", "*_lesion"),
        r"(?P<name>\w+)/\w+_Dermoscopic_Image/\w+",
        (r"(?P<name>\w+)/\w+_lesion/\w+_lesion",),
        _called("lesion"),
    ),
    Layout(
        "CUB-200-2011",
        ("segmentations/*", "images/*"),
        r"images/(?P<bird>\d+\.\w+)/(?P<name>[^/]+)",
        (r"segmentations/(?P<bird>\d+\.\w+)/(?P<name>[^/]+)",),
        _called("{bird}"),
    ),
    Layout(
        "LIP",
        ("*_images", "*_segmentations"),
        r"(TrainVal_images/)*(?P<part>train|val)_images/(?P<name>[^/]+)",
        (r"(TrainVal_parsing_annotations/)*(?P<part>train|val)_segmentations/(?P<name>[^/]+)",),
        _LIP,
    ),
    Layout(
        "COD10K",
        ("*/GT_Object", "*/Image"),
        r"(?P<part>Train|Test)/Image/(?P<name>[^/]+)",
        (r"(?P<part>Train|Test)/GT_Object/(?P<name>COD10K-CAM-\d+-[^-]+-\d+-(?P<animal>[^/-]+)-\d+)",),
        _called("{animal}"),
        said="GT_Object counts, of the animal in its name; GT_Edge and GT_Instance are passed over",
    ),
    Layout(
        "CamVid",
        ("*_labels", "class_dict.csv"),
        r"(?P<part>train|val|test)/(?P<name>[^/]+)",
        (r"(?P<part>train|val|test)_labels/(?P<name>[^/]+?)(_L)?",),
        tables.of_colours,
    ),
    Layout(
        "CamVid",
        ("LabeledApproved_full", "label_colors.txt"),
        r"701_StillsRaw_full/(?P<name>[^/]+)",
        (r"LabeledApproved_full/(?P<name>[^/]+)_L",),
        tables.of_colours,
    ),
    Layout(
        "CamVid",
        ("*annot", "label_colors.txt|dataset_meta.json"),
        r"(?P<part>[^/]+)/(?P<name>.+)",
        (r"(?P<part>[^/]+)annot/(?P<name>.+)",),
        tables.of_colours,
    ),
    Layout(
        "CamVid of 11 classes",
        ("trainannot", "train"),
        r"(?P<part>train|val|test)/(?P<name>[^/]+)",
        (r"(?P<part>train|val|test)annot/(?P<name>[^/]+)",),
        _CAMVID,
        said="values are its 11 classes, 0 = sky; of other classes label_colors.txt says the colours",
    ),
    Layout(
        "masks in the colours of a table",
        ("class_dict.csv",),
        r"(?P<name>.+)_sat",
        (r"(?P<name>.+)_mask",),
        tables.of_colours,
    ),
    Layout(
        "masks in the colours of a table",
        ("class_dict.csv|dataset_meta.json",),
        _PHOTOS,
        (_MASKS.format("masks?|labels?|annotations?|ann_dir"),),
        tables.of_colours,
    ),
    Layout(
        "masks of V7 by class_mapping.csv",
        ("masks", "class_mapping.csv"),
        r"(images/)?(?P<name>.+)",
        (r"masks/(?P<name>.+)",),
        tables.of_colours,
    ),
    Layout(
        "KITTI with a table of its own",
        ("*/semantic", "*/image_2", "label_colors.txt|dataset_meta.json"),
        r"(?P<part>[^/]+)/image_2/(?P<name>.+)",
        (r"(?P<part>[^/]+)/semantic/(?P<name>.+)",),
        tables.by_line,
        said="semantic/ counts, by the lines of its table; instance/ and semantic_rgb/ are passed over",
    ),
    Layout(
        "KITTI",
        ("training/semantic", "training/image_2"),
        r"training/image_2/(?P<name>.+)",
        (r"training/semantic/(?P<name>.+)",),
        _CITYSCAPES,
        said="semantic/ counts, by the numbers of Cityscapes; instance/ and semantic_rgb/ are passed over",
    ),
    Layout(
        "MOTS",
        ("*/instances/labels.txt", "*/images"),
        r"(?P<part>[^/]+)/images/(?P<name>.+)",
        (r"(?P<part>[^/]+)/instances/(?P<name>.+)",),
        tables.of_mots,
        objects=True,
        said=_MOTS,
    ),
    Layout(
        "MOTS",
        ("instances/[0-9]*", "image*/[0-9]*"),
        r"(?P<part>)(training/)?image(_02|s)/(?P<name>.+)",
        (r"(?P<part>)instances/(?P<name>.+)",),
        tables.of_mots,
        objects=True,
        said=_MOTS,
    ),
    Layout(
        "nnU-Net",
        ("imagesT*", "labelsT*", tables.NNUNET),
        r"imagesT(?P<part>[rs])/(?P<name>.+)_0000",
        (r"labelsT(?P<part>[rs])/(?P<name>.+)",),
        tables.of_nnunet,
        said="files *_0000 are the photos; those of other channels are passed over",
    ),
    Layout(
        "masks whose values are the lines of a list",
        ("|".join(tables.LISTS),),
        _PHOTOS,
        (_MASKS.format("labels?|annotations?|ann_dir"),),
        tables.of_list,
        here=True,
    ),
)
