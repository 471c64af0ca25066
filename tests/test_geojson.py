"""GeoJSON as support, truth and to convert: outlines on maps, and in pixels."""

import json
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from shotseg.cli import main
from shotseg.data.annotations import detect, index, read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.geo import save_geojson
from shotseg.errors import InputError

EAST, NORTH, STEP = 500_000.0, 5_000_000.0, 10.0  # the corner of the first tile in UTM 33 N, and metres a pixel


def tile(path, image, left=0, top=0, epsg=32633):
    """A GeoTIFF whose first pixel is that many pixels right of and below the corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    corner = (0.0, 0.0, 0.0, EAST + left * STEP, NORTH - top * STEP, 0.0)
    tags = [
        (33550, "d", 3, (STEP, STEP, 0.0), True),
        (33922, "d", 6, corner, True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(path, image, extratags=tags)


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def in_metres(ring):
    return [[EAST + x * STEP, NORTH - y * STEP] for x, y in ring]


def feature(kind, coordinates, **properties):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def store(path, *features, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features), **more}))


def test_a_file_of_qupath_is_drawn_in_pixels_with_its_holes_and_named_by_its_classification(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "slide.png")
    store(
        tmp_path / "slide.geojson",
        feature(
            "Polygon", [box(5, 5, 15, 15), box(8, 8, 10, 12)], classification={"name": "Tumor", "color": [200, 0, 0]}
        ),
        feature("MultiPolygon", [[box(20, 0, 24, 4)], [box(30, 20, 99, 99)]], classification={"name": "Stroma"}),
        feature("Polygon", [box(0, 0, 9, 9)], objectType="annotation"),
        feature("Point", [3, 3], classification={"name": "Tumor"}),
    )
    assert detect(tmp_path) == detect(tmp_path / "slide.geojson") == "geojson"
    with pytest.warns() as said:
        classes, results = read("geojson", tmp_path)
        (found,) = results
    assert {str(each.message).partition(": ")[2] for each in said} == {
        "1 features left out, they have no class; give them one",
        "1 features left out, they have no area; draw polygons",
    }
    tumour, stroma = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    tumour[5:15, 5:15] = True
    tumour[8:12, 8:10] = False
    stroma[0:4, 20:24] = stroma[20:, 30:] = True
    assert classes == ["Stroma", "Tumor"] and found.file == "slide.png"
    np.testing.assert_array_equal(found.labels, 1 * stroma + 2 * tumour)
    assert len(found.objects) == 2


def test_the_outlines_of_a_mask_on_a_map_are_read_back_to_the_pixel(tmp_path):
    pytest.importorskip("rasterio")
    mask = (np.random.default_rng(0).random((60, 50)) > 0.7).astype(np.uint8) * 255
    tile(tmp_path / "mask.tif", mask)
    tile(tmp_path / "photos/field.tif", np.zeros((60, 50, 3), np.uint8))
    save_geojson(tmp_path / "field.geojson", tmp_path / "mask.tif", "field")
    classes, results = read("geojson", tmp_path / "field.geojson", tmp_path / "photos")
    (found,) = results
    assert classes == ["field"]
    np.testing.assert_array_equal(found.labels, mask // 255)


@pytest.mark.parametrize("crs", ["urn:ogc:def:crs:EPSG::32633", "EPSG:32633", None])
def test_one_file_of_outlines_serves_every_tile_of_a_map_that_it_touches(tmp_path, crs):
    pytest.importorskip("rasterio")
    for name, left in (("west", 0), ("east", 50), ("bare", 100), ("far", 5000)):
        tile(tmp_path / f"tiles/{name}.tif", np.zeros((40, 50, 3), np.uint8), left)
    Image.new("RGB", (50, 40)).save(tmp_path / "tiles/of-no-map.png")
    more = {} if crs is None else {"crs": {"type": "name", "properties": {"name": crs}}}
    across, last = box(40, 10, 60, 20), box(149, 0, 152, 4)
    store(tmp_path / "roof.geojson", *(feature("Polygon", [in_metres(ring)], id=1) for ring in (across, last)), **more)
    with pytest.warns(match=r"1 photos lie where no outline does, left out \(far.tif\)"):
        found = index("geojson", tmp_path / "roof.geojson", tmp_path / "tiles")
    assert found.classes == ["roof"] and found.left_out == 1
    maps = {photo.file: photo.mask(1) for photo in found.photos}
    assert sorted(maps) == ["bare.tif", "east.tif", "west.tif"]
    np.testing.assert_array_equal(np.argwhere(maps["west.tif"])[[0, -1]], [[10, 40], [19, 49]])
    np.testing.assert_array_equal(np.argwhere(maps["east.tif"])[[0, -1]], [[10, 0], [19, 9]])
    np.testing.assert_array_equal(np.argwhere(maps["bare.tif"]), [[row, 49] for row in range(4)])


def test_a_tile_between_outlines_is_a_photo_without_objects(tmp_path):
    pytest.importorskip("rasterio")
    for name, left in (("a", 0), ("between", 50), ("c", 100)):
        tile(tmp_path / f"{name}.tif", np.zeros((40, 50, 3), np.uint8), left)
    store(tmp_path / "all.geojson", *(feature("Polygon", [in_metres(box(x, 5, x + 9, 9))], label=3) for x in (5, 120)))
    found = index("geojson", tmp_path)
    assert found.classes == ["3"] and {photo.file: photo.shows() for photo in found.photos} == {
        "a.tif": [1],
        "between.tif": [],
        "c.tif": [1],
    }


def test_maps_without_rasterio_and_files_of_no_photo_end_in_one_line(tmp_path, monkeypatch):
    store(tmp_path / "roof.geojson", feature("Polygon", [box(1, 1, 9, 9)]))
    Image.new("RGB", (50, 40)).save(tmp_path / "other.png")
    with pytest.raises(InputError, match="no photo of that name, and none with a place on earth"):
        index("geojson", tmp_path)
    tile(tmp_path / "roof.tif", np.zeros((40, 50, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=r"roof.tif: a map, which rasterio reads; pip install 'shotseg\[geo\]'"):
        index("geojson", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"type": "FeatureCollection", "features": 3}', "not GeoJSON"),
        (
            '{"type": "FeatureCollection", "features": [{"geometry": {"type": "Polygon", "coordinates": [1]}}]}',
            "not GeoJSON",
        ),
        ('{"type": "FeatureCollection", "features": [', "not JSON"),
        ('{"type": "FeatureCollection", "crs": {"a": 1}, "features": []}', "not GeoJSON"),
    ],
)
def test_a_broken_file_is_one_line_and_the_others_are_read(tmp_path, content, said):
    (tmp_path / "a.geojson").write_text(content)
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=said):
        index("geojson", tmp_path / "a.geojson")
    store(tmp_path / "b.geojson", feature("Polygon", [box(1, 1, 9, 9)]))
    with pytest.warns(match=f"a.geojson: {said}"):
        found = index("geojson", tmp_path)
    assert found.classes == ["object"] and found.left_out == 1


def test_outlines_are_truth_and_support_and_can_be_converted(tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    store(tmp_path / "b.geojson", feature("Polygon", [box(1, 1, 9, 9)], Class="cup"))
    dataset = open_folder(tmp_path)
    assert dataset.classes == ["cup"] and dataset.sample(0).mask.sum() == 64
    assert main(["convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    (one,) = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())["annotations"]
    assert one["bbox"] == [1, 1, 8, 8] and one["area"] == 64
