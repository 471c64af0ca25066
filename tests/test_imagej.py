"""ROIs of ImageJ as support, truth and to convert: drawn as ImageJ fills them, paired with their photos, by class and page."""

import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from annotated import two
from shotseg.data.annotations import Labelled, detect, index, read, write
from shotseg.data.annotations.opened import open_folder
from shotseg.data.annotations.outlines import filled, stairs
from shotseg.errors import InputError, UsageError

roifile = pytest.importorskip("roifile", reason="extra imagej is not installed")
Roi, Kind = roifile.ImagejRoi, roifile.ROI_TYPE
PIXELS = (30, 40)


def photo(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.stem), 90, 200)).save(path)


def box(name="", kind=Kind.RECT, at=(5, 7, 16, 13), **more):
    left, top, right, bottom = at
    return Roi(name=name, roitype=kind, left=left, top=top, right=right, bottom=bottom, **more)


def outline(name, *points, kind=Kind.POLYGON, **more):
    roi = Roi.frompoints(np.array(points), name=name)
    roi.roitype = kind
    for key, value in more.items():
        setattr(roi, key, value)
    return roi


def rois(path, *found):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".roi":
        path.write_bytes(found[0].tobytes())
        return
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(found):
            archive.writestr(f"{number:04d}.roi", roi if isinstance(roi, bytes) else roi.tobytes())


def drawn(*found, folder, size=PIXELS):
    """The mask of each ROI."""
    photo(folder / "a.png", size[::-1])
    rois(folder / "a.zip", *found)
    (one,) = index("imagej", folder).photos
    return [shape.draw(*size) for shape in one.shapes]


def test_areas_cover_the_pixels_that_imagej_fills(tmp_path):
    """Counts and rows as ImageJ 1.53t gives them."""
    square, oval, rounded, diagonal, fine = drawn(
        box(),
        box(kind=Kind.OVAL, at=(2, 2, 23, 16)),
        box(at=(5, 5, 35, 25), rounded_rect_arc_size=10),
        outline("", (0, 0), (10, 0), (10, 10)),
        outline("", (2.5, 2.5), (8.5, 2.5), (8.5, 6.5), (2.5, 6.5)),
        folder=tmp_path,
    )
    assert square.sum() == 11 * 6 and square[7:13, 5:16].all()
    assert oval.sum() == 234 and oval[2].sum() == 7 and oval[9, 2:23].all()
    assert rounded.sum() == 580 and rounded[5].sum() == 24
    assert [int(row.sum()) for row in diagonal[:11]] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]  # the left edge has no middle
    assert fine.sum() == 6 * 4 and fine[2:6, 3:9].all()


def test_a_composite_keeps_its_holes_islands_and_curves(tmp_path):
    def ring(left, top, right, bottom):
        return [0, left, top, 1, right, top, 1, right, bottom, 1, left, bottom, 4]

    path = np.array([*ring(2, 2, 22, 22), *ring(5, 5, 15, 15), *ring(8, 8, 10, 10)], np.float32)
    round_ = np.array([0, 20, 0, 3, 40, 0, 40, 20, 20, 20, 3, 0, 20, 0, 0, 20, 0, 4], np.float32)
    flat, curved = drawn(
        *(box(multi_coordinates=each, shape_roi_size=len(each)) for each in (path, round_)), folder=tmp_path
    )
    assert flat.sum() == 400 - 100 + 4 and flat[8:10, 8:10].all() and not flat[6, 6]
    assert curved.sum() == 480 and curved[9, 5:35].all()


def test_any_mask_is_stored_along_its_pixels_and_filled_again_to_the_pixel():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random(rng.integers(1, 20, 2)) > rng.random() * 0.9
        mask[0, 0] = True
        assert (filled(stairs(mask), *mask.shape) == mask).all()


def test_what_is_written_is_read_back_with_objects_apart_and_in_the_order_of_classes(tmp_path):
    labels = two()
    photo(tmp_path / "deep/a.png", (80, 60))
    write("imagej", tmp_path, [Labelled("deep/a.png", labels)], ["zebra", "layer 2"])
    assert (tmp_path / "deep/a_RoiSet.zip").is_file()
    classes, (one,) = read("imagej", tmp_path)
    assert classes == ["zebra", "layer 2"] and one.file == "deep/a.png" and len(one.objects) == 3
    np.testing.assert_array_equal(one.labels, labels)
    for name in ("roi", "x-", "cell "):
        with pytest.raises(UsageError, match="counter in the name of a ROI; rename it"):
            write("imagej", tmp_path / "out", [], [name])


@pytest.mark.filterwarnings("ignore:.*are counters, no classes")
@pytest.mark.parametrize(
    "name, more, expected",
    [
        ("nucleus", {}, "nucleus"),
        ("nucleus-12", {}, "nucleus"),
        ("big nucleus (3)", {}, "big nucleus"),
        ("CD4", {}, "CD4"),
        ("0012-0034", {"group": 2}, "group 2"),
        ("nucleus", {"group": 2}, "nucleus"),
        ("0001-0123-0234", {}, "cells"),
        ("001_007", {}, "cells"),
        ("7", {}, "cells"),
        ("ROI 5", {}, "cells"),
        ("1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", {}, "cells"),
        ("", {}, "cells"),
    ],
)
def test_the_class_is_the_name_of_a_roi_else_its_group_else_the_folder(tmp_path, name, more, expected):
    photo(tmp_path / "cells/images/a.png")
    rois(tmp_path / "cells/rois/a.zip", box(name, **more))
    assert index("imagej", tmp_path / "cells").classes == [expected]


def test_counters_behind_names_are_said(tmp_path):
    photo(tmp_path / "a.png")
    rois(tmp_path / "a.zip", box("layer 2"), box("layer 3"), box("cell"))
    with pytest.warns(match="numbers behind the names of ROIs are counters, no classes: layer"):
        assert index("imagej", tmp_path).classes == ["cell", "layer"]


@pytest.mark.parametrize(
    "file, image",
    [
        ("a.roi", "a.png"),
        ("a.png.zip", "a.png"),
        ("a_RoiSet.zip", "a.png"),
        ("RoiSet-a.zip", "a.png"),
        ("A_rois.zip", "a.png"),
        ("a_1.roi", "a.png"),
        ("a/0001-0002.roi", "a.png"),
        ("a/RoiSet.zip", "a.png"),
        ("rois/a.zip", "images/a.png"),
        ("well/RoiSet.zip", "well/a.png"),
        ("well/0001-0002.roi", "well/a.png"),
        ("rois/two/a.zip", "images/two/a.png"),
        ("a_b.zip", "a_b.png"),
    ],
)
def test_rois_are_of_the_photo_that_is_named_as_they_or_as_their_folder(tmp_path, file, image):
    for other in ("other/b.png", "images/one/a.png" if "two" in image else "other/c.png", "a.png"):
        if "images/" not in image or other != "a.png":
            photo(tmp_path / other)
    photo(tmp_path / image)
    rois(tmp_path / file, box("cell"))
    with pytest.warns(match="photos without ROIs"):
        (found,) = index("imagej", tmp_path).photos
    assert found.photo == tmp_path / image


def test_several_rois_of_a_photo_in_a_folder_of_its_name_are_its_objects(tmp_path):
    photo(tmp_path / "a.png")
    for number in (1, 2, 3):
        rois(tmp_path / f"a/{number}.roi", box("cell", at=(number * 8, 2, number * 8 + 5, 9)))
    assert detect(tmp_path) == "imagej"
    (one,) = read("imagej", tmp_path)[1]
    assert len(one.objects) == 3 and one.labels.sum() == 3 * 35


def test_lines_points_and_broken_rois_are_one_line_each_and_the_rest_is_read(tmp_path):
    photo(tmp_path / "a.png")
    lines = [
        outline("l", (1, 1), (9, 9), kind=Kind.POLYLINE),
        box("p", kind=Kind.POINT),
        box("t", subtype=roifile.ROI_SUBTYPE.TEXT),
    ]
    rois(tmp_path / "a.zip", box("cell"), *lines, b"Iout, and no more", b"")
    (tmp_path / "b_RoiSet.zip").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "c.roi").write_bytes(b"Iout")
    with pytest.warns() as said:
        found = index("imagej", tmp_path)
    assert found.left_out == 2 and found.photos[0].lost == 5 and len(found.photos[0].shapes) == 1
    told = [str(each.message).removeprefix(f"{tmp_path}/") for each in said]
    assert "a.zip: left out, ROIs that are no areas (1 polyline, 1 point, 1 text); draw polygons" in told
    assert "a.zip: left out, ROIs that are broken: 0004, 0005; save them again" in told
    assert any(line.startswith("b_RoiSet.zip: no archive of ROIs that can be read") for line in told)
    assert any(line.startswith("c.roi: no ROI of ImageJ that can be read") for line in told)


def test_an_archive_that_cannot_be_opened_is_passed_over_where_its_name_does_not_promise_rois(tmp_path):
    photo(tmp_path / "a.png")
    rois(tmp_path / "a.zip", box("cell"))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\1\2") + 6] = 255  # a version that nobody has
    (tmp_path / "b.zip").write_bytes(content)
    assert [photo.file for photo in index("imagej", tmp_path).photos] == ["a.png"]
    (tmp_path / "a.zip").unlink()
    assert detect(tmp_path) == "mask"


def test_an_archive_of_too_much_is_refused_and_a_name_leads_nowhere(tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.roi", box("cell").tobytes())
    (one,) = read("imagej", tmp_path / "a.zip")[1]
    assert one.labels.sum() == 66 and sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.zip"]
    monkeypatch.setattr("shotseg.data.annotations.imagej.MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"a.zip: ROIs of more than 0 MB"):
        read("imagej", tmp_path)


def test_a_missing_roifile_is_one_line_with_the_mend(tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    rois(tmp_path / "a.zip", box("cell"))
    monkeypatch.setitem(__import__("sys").modules, "roifile", None)
    with pytest.raises(InputError, match=r"need roifile: pip install 'shotseg\[imagej\]'"):
        read("imagej", tmp_path)


@pytest.mark.parametrize(
    "axes, place, page",
    [
        ("ZYX", {"position": 3}, 3),
        ("TZCYX", {"c_position": 2, "z_position": 3, "t_position": 2}, 6),
        ("TZCYX", {"position": 11}, 6),
    ],
)
def test_the_position_of_a_roi_says_the_page_of_a_stack(tmp_path, axes, place, page):
    shape = tuple({"T": 2, "Z": 3, "C": 2, "Y": 30, "X": 40}[axis] for axis in axes)
    stack = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True, metadata={"axes": axes})
    rois(tmp_path / "stack.zip", box("cell", **place), box("cell", at=(20, 20, 30, 25), position=1), box(position=99))
    with pytest.warns(match=r"1 ROIs of pages that .*stack.tif does not have"):
        found = index("imagej", tmp_path)
    assert [(one.file, one.page) for one in found.photos] == [("stack_p001.png", 1), (f"stack_p00{page}.png", page)]
    chosen = index("imagej", tmp_path, page=page).photos
    assert [one.page for one in chosen] == [page] and chosen[0].mask(1).sum() == 66


def test_rois_of_a_stack_are_one_archive_that_knows_their_pages(tmp_path):
    stack = np.zeros((3, 2, 30, 40), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[0, 2:9, 3:9] = labels[2, 20:25, 30:39] = labels[2, 1:3, 1:3] = 1
    pages = [
        Labelled(f"stack_p00{page}.png", labels[page - 1], photo=tmp_path / "stack.tif", page=page, pages=3)
        for page in (1, 2, 3)
    ]
    write("imagej", tmp_path, pages, ["cell"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "stack.tif", "stack_RoiSet.zip"]
    with zipfile.ZipFile(tmp_path / "stack_RoiSet.zip") as archive:
        assert archive.namelist() == ["cell-1.roi", "cell-2.roi", "cell-3.roi"]
        assert [Roi.frombytes(archive.read(name)).position for name in archive.namelist()] == [1, 5, 5]  # of planes
    back = {one.file: one.labels for one in read("imagej", tmp_path)[1]}
    assert sorted(back) == ["stack_p001.png", "stack_p003.png"]
    assert (back["stack_p003.png"] == labels[2]).all()
    found = open_folder(tmp_path)
    assert [item.page for item in found.items] == [1, 3] and (found.sample(1).mask == labels[2]).all()


def test_rois_are_support_and_truth(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.png")
        rois(tmp_path / f"{name}_RoiSet.zip", box("cell"), box("dot", at=(30, 2, 33, 5)))
    found = open_folder(tmp_path)
    assert found.classes == ["cell", "dot"] and [item.id for item in found.items] == [
        "cell/a",
        "cell/b",
        "dot/a",
        "dot/b",
    ]
    assert (found.sample(3).mask == 1).sum() == 9
