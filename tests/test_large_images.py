"""Images larger than the network: windows, seams, files of parts, maps."""

import gc
import json
import pickle
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from shotseg import Segmenter
from shotseg.data import large_labels, stored_rows
from shotseg.data.images import read_image, read_mask
from shotseg.data.windows import extent, in_memory, open_windows
from shotseg.errors import InputError, UsageError
from shotseg.runs import find_photos, segment_folder
from shotseg.tiled import Grid, Tiled, side_of_windows

rng = np.random.default_rng(0)
NOISE = rng.integers(0, 255, (300, 340, 3)).astype(np.uint8)


def scene(height, width, spots, side=96):
    """A grey-green ground with orange discs of which ``spots`` are the upper left corners, and its mask."""
    ground = np.random.default_rng(1).normal(0, 12, (height, width, 3)) + np.array((90, 110, 80))
    image, mask = ground.clip(0, 255).astype(np.uint8), np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = y**2 + x**2 < (side / 2.6) ** 2
    for top, left in spots:
        part = np.s_[top : top + side, left : left + side]
        image[part][disc] = (230, 120, 30)
        mask[part][disc] = 1
    return image, mask


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.fixture(scope="module")
def seg():
    segmenter = Segmenter(size=96, present=None, tile=192)
    segmenter.add("disc", *scene(160, 160, [(32, 32)]))
    return segmenter


def test_an_object_that_a_window_border_cuts_has_the_mask_of_one_that_is_not_cut(seg):
    grid = Grid.of((1200, 1200), 2 * 192, 2 * 96)
    border = grid.starts(1)[3] * grid.cell
    ground = scene(1200, 1200, [])[0]
    patch = scene(288, 288, [(96, 96)])[0]
    spots = [(64, 64), (border - 128, border - 128), (832, 64), (64, 832)]
    for top, left in spots:
        ground[top : top + 288, left : left + 288] = patch
    labels = seg.predict(ground).labels == 1
    cut = [labels[top : top + 288, left : left + 288] for top, left in spots]
    truth = scene(288, 288, [(96, 96)])[1] == 1
    assert all(iou(one, truth) > 0.7 for one in cut)
    assert min(iou(one, other) for one in cut for other in cut) >= 0.98


def test_small_objects_that_the_reduced_image_hides_are_found_in_windows(seg, tmp_path):
    image, mask = scene(1000, 1400, [(100, 120), (500, 900), (800, 300)])
    found = seg.predict(image)
    found.save(tmp_path, "x")
    assert isinstance(found, Tiled) and found.size == (1000, 1400) and found.labels.shape == (1000, 1400)
    assert iou(found.labels == 1, mask == 1) > 0.6
    seg.tile = None
    whole = seg.predict(image)
    seg.tile = 192
    assert iou(found.labels == 1, mask == 1) > iou(whole.labels == 1, mask == 1)
    assert found.areas["disc"] == pytest.approx((found.labels == 1).mean())
    assert found.overlay().shape == found.preview.image.shape
    np.testing.assert_array_equal(read_mask(tmp_path / "labels/x.png", labels=True), found.labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/disc/x.png"), found.labels == 1)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.labels, found.labels)


def test_windows_that_are_seen_at_once_give_what_they_give_in_turn_and_tell_how_far_they_are(seg, monkeypatch):
    image, _ = scene(700, 900, [(100, 120), (500, 600)])
    told, found = [], []
    monkeypatch.setattr(seg, "on_windows", lambda done, total: told.append((done, total)))
    for at_once in (1, 3):
        monkeypatch.setattr("shotseg.segmenter.cores", lambda: at_once)  # noqa: B023
        found.append(seg.predict(image))
    assert np.array_equal(found[0].labels, found[1].labels) and found[0].present == found[1].present
    once, again = told[: len(told) // 2], told[len(told) // 2 :]
    assert once == again and len(once) > 2 and once[-1][0] == once[-1][1]
    assert all(one < other for (one, _), (other, _) in pairwise(once))


@pytest.mark.parametrize(
    "across, reads", [(64, [(0, 128), (128, 192), (192, 256), (300, 384), (384, 448), (448, 500)]), (500, [(0, 500)])]
)
def test_parts_of_the_same_rows_are_read_once_and_let_go(monkeypatch, across, reads):
    image = NOISE.repeat(2, axis=1)[:, :500]
    windows = in_memory(image)
    windows._stored.across = across
    read, read_part = [], windows.read
    monkeypatch.setattr(
        windows, "read", lambda rows, columns: read.append((columns.start, columns.stop)) or read_part(rows, columns)
    )
    starts = [0, 90, 120, 300, 310, 420]
    parts = list(windows.from_left(slice(7, 50), starts, 80))
    assert read == reads
    assert all(np.array_equal(part, image[7:50, at : at + 80]) for part, at in zip(parts, starts, strict=True))
    assert max(part.base.shape[1] for part in parts) <= max(across + 2 * 80, 500 * (across == 500))


def test_what_is_not_larger_than_a_window_is_seen_as_before(seg):
    image, _ = scene(180, 190, [(40, 40)])
    labels = seg.predict(image).labels
    seg.tile = None
    np.testing.assert_array_equal(seg.predict(image).labels, labels)
    seg.tile = "auto"
    assert not isinstance(seg.predict(scene(400, 500, [(40, 40)])[0]), Tiled)
    seg.tile = 192
    assert (
        side_of_windows("auto", (10_000, 10_001), 512) == 1024
        and side_of_windows("auto", (10_000, 10_000), 512) is None
    )
    assert side_of_windows(None, (10**6, 10**6), 512) is None and side_of_windows(800, (700, 801), 512) == 800


@pytest.mark.parametrize("size", [(1, 3000), (3000, 5), (193, 192), (211, 1007)])
def test_images_of_any_shape_have_labels_of_their_shape(seg, size):
    assert seg.predict(np.full((*size, 3), 99, np.uint8)).labels.shape == size


def test_windows_cover_every_pixel_and_lie_on_the_strides():
    for size in ((1, 1), (97, 5000), (2048, 2049)):
        grid = Grid.of(size, 1024, 512)
        for axis in (0, 1):
            starts = grid.starts(axis)
            assert starts[0] == 0 and not any(start % 8 for start in starts)
            assert all(b - a <= grid.step for a, b in pairwise(starts))
            assert starts[-1] * grid.cell + grid.side >= size[axis]
        assert (grid.weights > 0).all()


@pytest.mark.parametrize("tile", [0, 8, -5, "many", 1.5])
def test_a_tile_that_is_none_is_refused(tile):
    with pytest.raises(UsageError, match="tile"):
        Segmenter(size=96, tile=tile)


def tiffs():
    deep = (np.arange(300 * 340).reshape(300, 340) % 4000).astype(np.uint16)
    bands = rng.integers(0, 255, (300, 340, 5)).astype(np.uint8)
    return {
        "strips": (NOISE, {"rowsperstrip": 7, "compression": "zlib"}),
        "tiles": (NOISE, {"tile": (64, 48)}),
        "tiles-predictor": (NOISE, {"tile": (64, 48), "compression": "zlib", "predictor": True}),
        "planar": (np.moveaxis(NOISE, 2, 0), {"tile": (64, 48), "planarconfig": "separate", "photometric": "rgb"}),
        "planar-raw": (np.moveaxis(NOISE, 2, 0), {"planarconfig": "separate", "photometric": "rgb"}),
        "raw": (NOISE, {}),
        "big-endian": (deep, {"byteorder": ">"}),
        "deep": (deep, {"tile": (64, 48)}),
        "float": (deep.astype(np.float32) / 4000, {"rowsperstrip": 11, "compression": "zlib"}),
        "white": (NOISE[..., 0], {"photometric": "miniswhite", "tile": (64, 48)}),
        "palette": (NOISE[..., 0], {"photometric": "palette", "tile": (64, 48)}),
        "alpha": (np.dstack([NOISE, np.where(NOISE[..., :1] > 9, 255, 0)]).astype(np.uint8), {"tile": (64, 48)}),
        "bands": (bands, {"tile": (64, 48), "photometric": "minisblack", "planarconfig": "contig"}),
        "signed": (deep.astype(np.int16) - 2000, {"tile": (64, 48)}),
    }


@pytest.mark.parametrize("name", tiffs())
def test_parts_of_a_tiff_are_those_of_the_whole(tmp_path, name):
    array, how = tiffs()[name]
    order = {"byteorder": how.pop("byteorder")} if "byteorder" in how else {}
    if name == "palette":
        how["colormap"] = rng.integers(0, 255, (3, 256)).astype(np.uint16) * 257
    if name == "alpha":
        how |= {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **order) as file:
        file.write(array, **how)
    bands = (5, 1, 3) if name == "bands" else None
    whole, windows = read_image(path, bands), open_windows(path, bands)
    assert extent(path) == windows.size == whole.shape[:2]
    for part in (np.s_[:, :], np.s_[5:6, 330:340], np.s_[60:131, 47:97], np.s_[299:300, :]):
        np.testing.assert_array_equal(windows.read(*part), whole[part], str(part))
    assert np.abs(windows.reduced(100).mean() - whole.mean()) < 3
    assert windows.reduced(100).shape == (100, 114, 3)


def test_pages_and_bands_that_are_pages_are_read_in_parts(tmp_path):
    path = tmp_path / "stack.tif"
    pages = rng.integers(0, 4000, (4, 90, 80)).astype(np.uint16)
    tifffile.imwrite(path, pages, photometric="minisblack", tile=(32, 32))
    for bands, page in ((None, 3), ((4, 2, 1), 1)):
        np.testing.assert_array_equal(
            open_windows(path, bands, page).read(slice(30, 70), slice(5, 60)),
            read_image(path, bands, page)[30:70, 5:60],
        )


def test_a_pyramid_gives_the_reduced_image_without_a_look_at_the_whole(tmp_path):
    path = tmp_path / "pyramid.tif"
    large = np.asarray(Image.fromarray(NOISE).resize((2720, 2400)))
    with tifffile.TiffWriter(path) as file:
        file.write(large, tile=(256, 256), subifds=1)
        file.write(np.full((1200, 1360, 3), 7, np.uint8), tile=(256, 256), subfiletype=1)
    windows = open_windows(path)
    assert windows.reduced(600).shape == (600, 680, 3) and (windows.reduced(600) == 7).all()
    assert windows.reduced(2000).mean() > 50, "no level is large enough"


def test_a_file_is_read_in_memory_for_a_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_rows, "PIECE", 1 << 20)
    path = tmp_path / "wide.tif"
    rows = (np.full((256, 256, 3), i % 200, np.uint8) for i in range(8 * 8))
    tifffile.imwrite(
        path, rows, shape=(2048, 2048, 3), dtype=np.uint8, tile=(256, 256), compression="zlib", photometric="rgb"
    )
    windows = open_windows(path)
    tracemalloc.start()
    windows.read(slice(1000, 1100)), windows.reduced(512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2048 * 2048 * 3 * 0.6


def run(seg, folder, out, **how):
    return segment_folder(seg, find_photos(folder, out), out, settings={"tile": 192}, **how)


def test_a_broken_tile_is_one_line_and_the_rest_is_done(tmp_path, seg):
    image, _ = scene(512, 640, [(64, 64), (300, 400)])
    (tmp_path / "in").mkdir()
    for name in ("good", "bad", "cut"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", image, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tmp_path / "in/bad.tif") as file:
        where = file.pages[0].dataoffsets[40]
    content = bytearray((tmp_path / "in/bad.tif").read_bytes())
    content[where : where + 30] = b"\0" * 30
    (tmp_path / "in/bad.tif").write_bytes(content)
    (tmp_path / "in/cut.tif").write_bytes((tmp_path / "in/cut.tif").read_bytes()[:-4000])
    summary = run(seg, tmp_path / "in", tmp_path / "out")
    records = {r["name"]: r for r in map(json.loads, summary.results.read_text().splitlines())}
    assert summary.photos == 3 and records["good"]["error"] is None
    for name in ("bad", "cut"):
        assert f"{name}.tif" in records[name]["error"] and "\n" not in records[name]["error"]
        assert "try a smaller" not in records[name]["error"]
    assert (tmp_path / "out/masks/disc/good.png").is_file() and not list((tmp_path / "out").rglob("bad*"))
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_large_image_has_tiff_masks_which_resume_keeps_and_the_next_run_removes(tmp_path, seg, monkeypatch):
    monkeypatch.setattr(large_labels, "LARGE", 100_000)
    image, mask = scene(600, 700, [(64, 64), (300, 400)])
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", image, tile=(256, 256), compression="zlib")
    out = tmp_path / "out"
    run(seg, tmp_path / "in", out, annotations="coco")
    with tifffile.TiffFile(out / "masks/disc/a.tif") as file:
        page = file.pages[0]
        assert page.is_tiled and page.compression == 8 and set(np.unique(page.asarray())) == {0, 255}
    labels = np.asarray(Image.open(out / "labels/a.tif"))
    np.testing.assert_array_equal(labels == 1, tifffile.imread(out / "masks/disc/a.tif") == 255)
    assert iou(labels == 1, mask == 1) > 0.6
    assert "a.tif" in (out / "report.html").read_text() and (out / "coco").is_dir()
    before = (out / "labels/a.tif").stat().st_mtime_ns
    run(seg, tmp_path / "in", out, resume=True)
    assert (out / "labels/a.tif").stat().st_mtime_ns == before, "done already"
    (tmp_path / "in/a.tif").unlink()
    Image.fromarray(image[:150, :150]).save(tmp_path / "in/b.png")
    run(seg, tmp_path / "in", out)
    assert not list(out.rglob("a.tif")) and (out / "labels/b.png").is_file()


def test_labels_are_packed_and_read_again_in_bands():
    labels = np.kron(rng.integers(0, 3, (9, 13)), np.ones((130, 90))).astype(np.uint8)
    packed = large_labels.packed(labels.shape, (labels[i : i + 77] for i in range(0, len(labels), 77)))
    np.testing.assert_array_equal(np.concatenate(list(large_labels.bands_of(packed))), labels)
    assert len(packed) < labels.size / 40


def geotiff(path, image, epsg=32633):
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(path, image, tile=(128, 128), compression="zlib", extratags=tags)


def test_the_masks_of_a_map_keep_its_place(tmp_path, seg, monkeypatch):
    geotiff(tmp_path / "map.tif", scene(600, 700, [(64, 64), (300, 400)])[0])
    result = seg.predict(tmp_path / "map.tif")
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.warns(match=r"shotseg\[geo\]"):
        result.save(tmp_path, "map")
    for path in (tmp_path / "masks/disc/map.tif", tmp_path / "labels/map.tif"):
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].tags[33922].value[3:5] == (500000.0, 5000000.0) and 34735 in file.pages[0].tags


def test_the_outlines_of_a_map_are_geojson_in_degrees(tmp_path, seg):
    rasterio = pytest.importorskip("rasterio")
    geotiff(tmp_path / "map.tif", scene(600, 700, [(64, 64), (300, 400)])[0])
    seg.predict(tmp_path / "map.tif").save(tmp_path, "map")
    with rasterio.open(tmp_path / "map.tif") as source, rasterio.open(tmp_path / "masks/disc/map.tif") as mask:
        assert mask.crs == source.crs and mask.transform == source.transform
        area = (mask.read(1) == 255).sum() * 100  # m²
    found = json.loads(Path(tmp_path, "masks/disc/map.geojson").read_text())
    assert found["type"] == "FeatureCollection" and "crs" not in found and len(found["features"]) >= 2
    total = 0.0
    for feature in found["features"]:
        assert feature["type"] == "Feature" and feature["properties"] == {"class": "disc"}
        for i, ring in enumerate(feature["geometry"]["coordinates"]):
            x, y = np.array(ring).T
            assert ring[0] == ring[-1] and len(ring) >= 4
            assert (x >= 15).all() and (x < 15.2).all() and (y > 44.9).all() and (y < 45.2).all()
            turn = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
            assert (turn > 0) == (i == 0), "exterior rings are counterclockwise"
            total += turn
    metres = total * 111_132 * 111_320 * np.cos(np.radians(45.15))
    assert metres == pytest.approx(area, rel=0.01)


def test_rasterio_reads_what_is_no_tiff_in_parts(tmp_path):
    pytest.importorskip("rasterio")
    smooth = np.asarray(Image.fromarray(NOISE).resize((34, 30)).resize((340, 300)))
    for name, how in (("a.png", {}), ("a.jpg", {"quality": 95})):
        Image.fromarray(smooth).save(tmp_path / name, **how)
        windows = open_windows(tmp_path / name)
        whole = read_image(tmp_path / name).astype(int)
        assert windows.geo is None and np.abs(windows.read(slice(50, 90)) - whole[50:90]).max() <= 6
    turned = Image.fromarray(smooth)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_windows(tmp_path / "turned.jpg").size == (340, 300) == extent(tmp_path / "turned.jpg")


def test_a_photo_in_memory_has_windows_too():
    windows = in_memory(NOISE)
    np.testing.assert_array_equal(windows.read(slice(9, 20), slice(3, 7)), NOISE[9:20, 3:7])
    assert windows.reduced(100).shape == (100, 114, 3)


def test_what_cannot_be_read_says_so_in_one_line_and_stays_open_no_longer(tmp_path, recwarn):
    (tmp_path / "no.tif").write_bytes(b"II*\0" + b"\xff" * 50)
    for path, said in ((tmp_path / "no.tif", "no.tif"), (tmp_path / "none.tif", "none.tif")):
        with pytest.raises(InputError, match=said) as error:
            open_windows(path)
        assert "\n" not in str(error.value)
    assert extent(tmp_path / "no.tif") is None
    gc.collect()
    assert not [line for line in recwarn if "no.tif" in str(line.message)]
