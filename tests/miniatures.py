"""Tiny copies of the official archives, in their exact layout: what ``prepare`` reads, a few photos large."""

import functools
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (60, 80)  # height, width: 4800 pixels, so that a class of half a photo passes the 2048 of PASCAL and COCO


def photo(path: Path, seed: int = 0, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(path.suffix, seed, size))


@functools.cache
def encoded(suffix: str, seed: int, size: tuple[int, int]) -> bytes:
    """The file of a photo of noise."""
    pixels, file = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


def picture(path: Path, array: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array.astype(np.uint8))
    if palette:
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


def labels(*classes: int, border: int = 0) -> np.ndarray:
    """Vertical bands of equal width, one a class; ``border``: 255 in the first rows."""
    bands = np.repeat(np.array(classes, dtype=np.uint8), SIZE[1] // len(classes))[None].repeat(SIZE[0], 0)
    bands = np.pad(bands, ((0, 0), (0, SIZE[1] - bands.shape[1])), mode="edge")
    bands[:border] = 255
    return bands


def zipped(folder: Path, archive: Path) -> None:
    """Pack what a folder holds and remove it."""
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, path.relative_to(folder))
    shutil.rmtree(folder)


def tarred(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as out:
        for path in sorted(folder.iterdir()):
            out.add(path, path.name)
    shutil.rmtree(folder)


def pascal(root: Path) -> Path:
    """Every class in two val photos, two VOC train photos and two photos of SBD only (one of them in Main/train)."""
    voc, sbd = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    lists: dict[str, list[str]] = {"train": [], "val": []}
    main, sbd_lists = [], {"train": [], "val": []}
    for c in range(1, 21):
        for part, year in (("train", 2007), ("val", 2008)):
            for copy in range(2):
                stem = f"{year}_{c:03d}{copy:03d}"
                lists[part].append(stem)
                photo(voc / f"JPEGImages/{stem}.jpg", seed=c)
                picture(voc / f"SegmentationClass/{stem}.png", labels(c, 0, border=5), palette=True)
        main += [f"2007_{c:03d}000", f"2007_{c:03d}001", f"2009_{c:03d}000"]
        for copy, part in enumerate(("train", "val")):
            stem = f"2009_{c:03d}{copy:03d}"
            sbd_lists[part].append(stem)
            photo(sbd / f"img/{stem}.jpg", seed=c)
            _sbd_mat(sbd / f"cls/{stem}.mat", labels(c, 1 + c % 20))
    sbd_lists["train"] += lists["val"][:3]  # SBD names photos of VOC's val: they must not be trained on
    for stem in lists["val"][:3]:
        photo(sbd / f"img/{stem}.jpg")
        _sbd_mat(sbd / f"cls/{stem}.mat", labels(7))
    for folder, names in ((voc / "ImageSets/Segmentation", lists), (sbd, sbd_lists)):
        folder.mkdir(parents=True, exist_ok=True)
        for part, stems in names.items():
            (folder / f"{part}.txt").write_text("\n".join(stems) + "\n")
    (voc / "ImageSets/Main").mkdir()
    (voc / "ImageSets/Main/train.txt").write_text("\n".join(main) + "\n")
    return root


def _sbd_mat(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # GTcls is a 1 x 1 struct: Boundaries (20 x 1 cells), Segmentation (H, W) uint8, CategoriesPresent
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:, 0] = [np.zeros(array.shape, dtype=np.uint8) for _ in range(20)]
    present = np.unique(array[array > 0])[:, None]
    savemat(path, {"GTcls": {"Boundaries": boundaries, "Segmentation": array, "CategoriesPresent": present}})


CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def coco(root: Path, year: str = "2014", names: list[str] | None = None) -> Path:
    """Each category in two photos of each part; one photo without annotation; person crowds as run lengths."""
    names = names or [f"category {i}" for i in CATEGORIES]
    height, width = SIZE
    for part in ("train", "val"):
        prefix = f"COCO_{part}2014_" if year == "2014" else ""
        images, annotations = [], []
        for index in range(161):
            image_id = index + 1 + (1000 if part == "val" else 0)
            file = f"{prefix}{image_id:012d}.jpg"
            photo(root / f"{part}{year}/{file}", seed=index)
            images.append({"id": image_id, "file_name": file, "height": height, "width": width, "license": 1})
            if index == 160:
                continue
            category = CATEGORIES[index // 2]
            left = {"segmentation": [[0, 0, 50, 0, 50, height, 0, height]], "area": 50.0 * height, "iscrowd": 0}
            small = {"segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]], "area": 100.0, "iscrowd": 0}
            runs = [height * (width - 5), height * 5]  # the last five columns
            crowd = {"segmentation": {"counts": runs, "size": [height, width]}, "area": 300, "iscrowd": 1}
            other = CATEGORIES[(index // 2 + 1) % 80]
            for one, which in ((small, other), (left, category), (crowd, 1)):
                row = {**one, "id": len(annotations) + 1, "image_id": image_id, "category_id": which, "bbox": [0] * 4}
                annotations.append(row)
        categories = [{"id": i, "name": n, "supercategory": "x"} for i, n in zip(CATEGORIES, names)]
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{part}{year}.json").write_text(json.dumps(content))
    return root


def lvis(root: Path) -> Path:
    """Twenty categories in three photos, category 21 in one only; photos of val2017 and of train2017."""
    height, width = SIZE
    images, annotations = [], []
    for index in range(3):
        folder = "train2017" if index == 2 else "val2017"
        file = f"{index + 1:012d}.jpg"
        photo(root / folder / file, seed=index)
        url = f"http://images.cocodataset.org/{folder}/{file}"
        images.append({"id": index + 1, "coco_url": url, "height": height, "width": width})
        for category in range(1, 22 if index == 0 else 21):
            for shift in (0, 30):  # two instances, their union is the mask; all categories overlap
                square = [shift, 0, shift + 10, 0, shift + 10, 10, shift, 10]
                row = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category}
                annotations.append({**row, "segmentation": [square], "area": 100.0, "bbox": [0] * 4})
    categories = [{"id": i, "name": f"thing {i}", "frequency": "f"} for i in range(1, 23)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "lvis_v1_val.json").write_text(json.dumps(content))
    return root


def fss(root: Path, classes: int = 10, lists: bool = True) -> Path:
    names = [f"thing_{i:03d}" for i in range(classes)]
    for i, name in enumerate(names):
        for n in range(1, 4):
            photo(root / f"fewshot_data/{name}/{n}.jpg", seed=i)
            white = np.repeat((labels(0, 1) * 255)[..., None], 3, axis=2)
            picture(root / f"fewshot_data/{name}/{n}.png", white)
    if lists:
        for file, part in (("trn", names[:-4]), ("val", names[-4:-2]), ("test", names[-2:])):
            (root / f"{file}.txt").write_text("\n".join(part) + "\n")
    return root


def matlab_7_3(path: Path, **variables: np.ndarray) -> None:
    """A file as MATLAB's ``save -v7.3`` writes it: HDF5 behind a header of 512 bytes, each array with its columns first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")
        for name, value in variables.items():
            if value.dtype == object:  # a cell array: references to its texts, which are columns of 16-bit letters
                texts = [cells.create_dataset(f"{name}{i}", data=letters(t)) for i, t in enumerate(value.ravel())]
                stored = np.array([text.ref for text in texts], dtype=h5py.ref_dtype).reshape(value.T.shape)
                file.create_dataset(name, data=stored).attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                file.create_dataset(name, data=value.T, compression="gzip")
                file[name].attrs["MATLAB_class"] = np.bytes_(value.dtype.name)
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + bytes([0, 2]) + b"IM"
    with path.open("r+b") as file:
        file.write(head)


def letters(text: str) -> np.ndarray:
    return np.array([ord(letter) for letter in text], dtype=np.uint16)[:, None]


def level_5(path: Path, **variables: np.ndarray) -> None:
    savemat(path, variables)


def coco_stuff(root: Path, version: str = "v1.0", save=level_5) -> Path:
    folder = root / f"cocostuff-10k-{version}"
    (folder / "imageLists").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for part, count in (("train", 4), ("test", 2)):
        stems = [f"COCO_train2014_{i + (100 if part == 'test' else 0):012d}" for i in range(count)]
        stems += ["COCO_train2014_000000016680"] if part == "train" else []  # one of the seven that are left out
        (folder / f"imageLists/{part}.txt").write_text("\n".join(stems) + "\n")
        for i, stem in enumerate(stems):
            photo(folder / f"images/{stem}.jpg", seed=i)
            count_of_names = 172 if version == "v1.0" else 183
            # v1.0: 1 = unlabelled, 2 = person, 172 = wood; v1.1: 0 = unlabelled, 1 = person, 182 = wood
            array = labels(1, 2, 172) if version == "v1.0" else labels(0, 1, 182)
            named = np.array([f"name {n}" for n in range(count_of_names)], dtype=object)[:, None]
            save(folder / f"annotations/{stem}.mat", S=array, names=named, captions=letters("a photo"))
    return root


def ade(root: Path) -> Path:
    for official, part, count in (("training", "train", 3), ("validation", "val", 2)):
        stems = [f"ADE_{part}_{i:08d}" for i in range(1, count + 1)]
        stems += ["ADE_train_00005149"] if part == "train" else []
        for i, stem in enumerate(stems):
            photo(root / f"ADEChallengeData2016/images/{official}/{stem}.jpg", seed=i)
            picture(root / f"ADEChallengeData2016/annotations/{official}/{stem}.png", labels(0, 1, 150, 2))
    return root


def isic(root: Path, diagnosis: bool = True) -> Path:
    for i in range(6):
        stem = f"ISIC_{i:07d}"
        photo(root / f"ISIC2018_Task1-2_Training_Input/{stem}.jpg", seed=i)
        picture(root / f"ISIC2018_Task1_Training_GroundTruth/{stem}_segmentation.png", labels(0, 255, 0))
    if diagnosis:
        rows = ["image_id,melanoma,seborrheic_keratosis"]
        rows += [f"ISIC_{i:07d},{float(i % 3 == 1)},{float(i % 3 == 2)}" for i in range(6)]
        (root / "ISIC-2017_Training_Part3_GroundTruth.csv").write_text("\n".join(rows) + "\n")
    return root


def chest(root: Path) -> Path:
    folder = root / "Lung Segmentation"
    for i, (stem, suffix) in enumerate((("CHNCXR_0001_0", "_mask"), ("CHNCXR_0002_0", "_mask"), ("MCUCXR_0001_0", ""))):
        photo(folder / f"CXR_png/{stem}.png", seed=i)
        picture(folder / f"masks/{stem}{suffix}.png", labels(0, 255, 0, 255))
    photo(folder / "CXR_png/CHNCXR_0003_0.png")  # without a mask
    return root


def deepglobe(root: Path) -> Path:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1:7] = [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for i in range(2):
        photo(root / f"train/{i}_sat.jpg", seed=i)
        picture(root / f"train/{i}_mask.png", colours[labels(0, 1, 2, 3, 4, 5, 6)])
    return root


def suim(root: Path) -> Path:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1:8] = [(0, 0, 255), (0, 255, 0), (0, 255, 255), (255, 0, 0), (255, 0, 255), (255, 255, 0), (255, 255, 255)]
    for part, name in (("train_val", "d"), ("TEST", "t")):
        for i in range(2):
            photo(root / f"{part}/images/{name}_{i}_.jpg", seed=i)
            picture(root / f"{part}/masks/{name}_{i}_.bmp", colours[labels(0, 1, 2, 3, 4, 5, 6, 7)])
    return root


def folder(root: Path) -> Path:
    for name in ("cup", "plate"):
        for i in range(2):
            photo(root / f"images/{name}/{i}.jpg", seed=i)
            picture(root / f"masks/{name}/{i}.png", labels(0, 255))
    photo(root / "images/cup/unmarked.jpg")
    return root


BUILD = {
    "pascal5i": pascal,
    "coco20i": coco,
    "fss1000": fss,
    "lvis92i": lvis,
    "coco_stuff10k": coco_stuff,
    "ade20k150": ade,
    "isic": isic,
    "chest_xray": chest,
    "deepglobe": deepglobe,
    "suim": suim,
    "folder": folder,
}
