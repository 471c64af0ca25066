"""Masks as drawing programs, annotators and scripts really write them, and the one rule that reads them."""

import io
import warnings
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

import golden
from shotseg.data.images import read_mask, read_pair, write_png
from shotseg.data.samples import Sample
from shotseg.errors import InputError, InputWarning
from shotseg.overlay import PALETTE
from shotseg.photo import read_shot

Y, X = np.mgrid[:200, :300]
DISC = (Y - 100) ** 2 + (X - 150) ** 2 < 3600
SECOND = (Y - 40) ** 2 + (X - 40) ** 2 < 400
PHOTO = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


@pytest.fixture
def read(tmp_path):
    """Reads what ``write`` makes of a path, warnings as errors."""

    def reader(write, name="m.png", **how):
        write(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return read_mask(tmp_path / name, **how)

    return reader


def png(values, **options):
    return lambda path: Image.fromarray(np.asarray(values)).save(path, **options)


def tif(values, **options):
    return lambda path: tifffile.imwrite(path, values, **options)


def indexed(values, colours):
    def write(path):
        image = Image.fromarray(np.asarray(values, np.uint8))
        image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
        image.save(path)

    return write


def halved(values):
    return values.reshape(100, 2, 150, 2).mean((1, 3))


def drawn(scale, factor=1):
    """A polygon drawn ``scale`` times too large and reduced by a box filter, as the grey levels of a smooth edge."""
    image = Image.new("L", (300 * scale, 200 * scale))
    ImageDraw.Draw(image).polygon(
        [(x * scale, y * scale) for x, y in [(40, 30), (250, 55), (190, 180), (60, 140)]], 255
    )
    return np.asarray(image.reduce(scale)) * factor


@pytest.mark.parametrize("method", [m for m in Image.Resampling if m != Image.Resampling.NEAREST], ids=lambda m: m.name)
@pytest.mark.parametrize("size", [(150, 100), (211, 141), (413, 275), (900, 600)])
def test_a_mask_that_was_resized_is_cut_at_half(read, method, size):
    soft = np.asarray(Image.fromarray(DISC.astype(np.uint8) * 255).resize(size, method))
    np.testing.assert_array_equal(read(png(soft)), soft >= 128)


def test_a_halved_mask_and_one_that_was_made_large_again_are_cut_at_half(read):
    soft = halved(DISC * 255.0).astype(np.uint8)
    np.testing.assert_array_equal(read(png(soft)), soft >= 128)
    for times in (2, 3, 4):
        large = soft.repeat(times, 0).repeat(times, 1)
        np.testing.assert_array_equal(read(png(large)), large >= 128)


@pytest.mark.parametrize("scale", range(2, 9))
def test_a_mask_drawn_with_smooth_edges_is_cut_at_half(read, scale):
    np.testing.assert_array_equal(read(png(drawn(scale))), drawn(scale) >= 128)


@pytest.mark.parametrize("stray", [1, 2, 100, 127, 128, 200, 254])
@pytest.mark.parametrize("place", [(100, 150), (5, 5), (100, 91)])
def test_one_stray_pixel_changes_nothing_else(read, stray, place):
    values = DISC.astype(np.uint8) * 255
    values[place] = stray
    np.testing.assert_array_equal(read(png(values)), values >= 128)


def test_blurred_masks_and_maps_of_probability_are_cut_at_half(read):
    from scipy import ndimage

    for sigma in (1, 3, 8, 25):
        for top in (255, 230, 4095, 65535, 60000):
            soft = (ndimage.gaussian_filter((DISC | SECOND).astype(float), sigma) * top).round().astype(np.uint16)
            soft = soft.astype(np.uint8) if top < 256 else soft
            cut = -(-int(soft.max()) // 2)
            np.testing.assert_array_equal(read(png(soft)), soft >= cut, err_msg=f"{sigma} {top}")


def test_the_smooth_map_of_a_network_is_cut_at_half(read):
    coarse = np.random.default_rng(1).normal(size=(7, 10)).astype(np.float32)
    large = np.asarray(Image.fromarray(coarse).resize((320, 224), Image.Resampling.BILINEAR))
    values = (255 / (1 + np.exp(-2 * large))).round().astype(np.uint8)
    np.testing.assert_array_equal(read(png(values)), values >= -(-int(values.max()) // 2))


def objects(ids, side=14):
    """Round objects on a grid, one of each id."""
    values = np.zeros((20 * 15, 20 * 20), np.int64)
    y, x = np.mgrid[:side, :side]
    dot = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 2) ** 2
    for i, id in enumerate(ids):
        top, left = 20 * (i // 20), 20 * (i % 20)
        values[top : top + side, left : left + side][dot] = id
    return values


IDS = (range(1, 4), range(1, 256), range(1, 301), range(30, 255, 25), [50, 100, 150, 255], [85, 170, 255])
MORE_IDS = ([255, 2], [200, 100], [15, 255], [38, 75, 113], [1, 2, 65535], [1000, 2000], [7], [1, 300])


@pytest.mark.parametrize("ids", [*IDS, *MORE_IDS], ids=str)
def test_every_object_of_instance_ids_is_the_class(read, ids):
    values = objects(ids)
    if max(ids) < 256:
        np.testing.assert_array_equal(read(png(values.astype(np.uint8))), values > 0)
    np.testing.assert_array_equal(read(png(values.astype(np.uint16))), values > 0)
    for dtype in (np.int32, np.uint32, np.float32, np.float64):
        np.testing.assert_array_equal(read(tif(values.astype(dtype)), "m.tif"), values > 0)


def test_small_and_touching_objects_are_the_class_too(read):
    np.testing.assert_array_equal(
        read(png(objects(range(1, 255), side=3).astype(np.uint8))), objects(range(1, 255), 3) > 0
    )
    rng = np.random.default_rng(0)
    cells = (rng.permutation(300) + 1).reshape(15, 20).repeat(20, 0).repeat(20, 1).astype(np.uint16)
    cells[:, :150] = 0
    np.testing.assert_array_equal(read(png(cells)), cells > 0)
    ordered = (np.arange(255) + 1).reshape(15, 17).repeat(20, 0).repeat(20, 1).astype(np.uint8)
    ordered[:150] = 0
    np.testing.assert_array_equal(read(png(ordered)), ordered > 0)


@pytest.mark.parametrize("side", [4, 6, 8, 12])
@pytest.mark.parametrize("order", ["rows", "columns", "mixed"])
def test_hundreds_of_small_objects_that_touch_are_the_class(read, side, order):
    y, x = np.mgrid[:300, :400]
    known = ((y - 150) / 140) ** 2 + ((x - 200) / 190) ** 2 < 1
    cell = y // side * 400 + x // side if order != "columns" else x // side * 400 + y // side
    ids = np.unique(np.where(known, cell + 1, 0), return_inverse=True)[1].reshape(known.shape)
    if order == "mixed":
        ids = np.r_[0, np.random.default_rng(0).permutation(ids.max()) + 1][ids]
    np.testing.assert_array_equal(read(png(ids.astype(np.uint16))), known)


@pytest.mark.parametrize(("objects_", "gaps"), [(2000, 1), (2000, 3), (5000, 1.01), (5000, 9)])
@pytest.mark.parametrize("order", ["rows", "mixed"])
def test_thousands_of_uneven_objects_that_touch_are_the_class_with_gaps_in_their_ids(read, objects_, gaps, order):
    rng = np.random.default_rng(0)
    centres = rng.random((objects_, 2)) * [400, 600]
    if order == "rows":
        centres = centres[np.lexsort((centres[:, 1], centres[:, 0] // 8))]
    y, x = np.mgrid[:400, :600]
    nearest = cKDTree(centres).query(np.stack([y, x], axis=-1).reshape(-1, 2))[1].reshape(y.shape)
    ids = np.sort(rng.choice(int(objects_ * gaps), objects_, replace=False)) + 1
    known = ((y - 200) / 180) ** 2 + ((x - 300) / 270) ** 2 < 1
    np.testing.assert_array_equal(read(png(np.where(known, ids[nearest], 0).astype(np.uint16))), known)


@pytest.mark.parametrize("top", [1000, 30000, 60000])
def test_a_wide_slope_along_a_straight_edge_is_cut_at_half(read, top):
    y, x = np.mgrid[:400, :600]
    for edge in (x - 300, x + y - 500, np.maximum(abs(y - 200) - 100, abs(x - 300) - 200)):
        values = (top / (1 + np.exp(edge / 20))).round().astype(np.uint16)
        np.testing.assert_array_equal(read(png(values)), values >= values.max() / 2)


def test_a_slope_of_a_thousand_shades_is_cut_at_half(read):
    y, x = np.mgrid[:300, :400]
    values = (1000 / (1 + np.exp((np.hypot(y - 150, x - 200) - 80) / 12))).round().astype(np.uint16)
    np.testing.assert_array_equal(read(png(values)), values >= values.max() / 2)


def test_a_trimap_counts_its_doubtful_rim(read):
    rim = (Y - 100) ** 2 + (X - 150) ** 2 < 4400
    values = np.where(DISC, 255, np.where(rim, 128, 0)).astype(np.uint8)
    np.testing.assert_array_equal(read(png(values)), rim)
    voc = np.where(DISC, 15, np.where(rim, 255, 0)).astype(np.uint8)
    np.testing.assert_array_equal(read(png(voc)), rim)


@pytest.mark.parametrize("top", [1, 3, 128, 200, 255, 1023, 4095, 65535])
def test_two_values_are_background_and_class_in_any_depth(read, top):
    values = DISC.astype(np.int64) * top
    if top < 256:
        np.testing.assert_array_equal(read(png(values.astype(np.uint8))), DISC)
    np.testing.assert_array_equal(read(png(values.astype(np.uint16))), DISC)
    for dtype in (np.uint16, np.int32, np.float32, np.float64):
        np.testing.assert_array_equal(read(tif(values.astype(dtype)), "m.tif"), DISC)


def test_ids_that_were_scaled_and_scaled_back_are_the_whole_numbers_beside_them(read):
    """As NIfTI does with labels that get the header of a scan of int16: 0.99998 for 1."""
    ids = DISC + 2 * SECOND + 7 * (Y > 190)
    for top, dtype in ((7, np.float64), (7, np.float32), (100, np.float64)):
        steps = top / 65535
        moved = (np.round(ids / steps) * steps).astype(dtype)
        assert (moved % 1).any()
        for write, name in ((tif(moved), "m.tif"), (lambda path, moved=moved: np.save(path, moved), "m.npy")):
            np.testing.assert_array_equal(read(write, name), ids > 0)
            np.testing.assert_array_equal(read(write, name, labels=True), ids)
    faint = np.where(DISC, 8e-4, 1e-4)  # a map that sums to one is no such thing
    np.testing.assert_array_equal(read(tif(faint), "m.tif"), DISC)


def test_fractions_are_cut_at_half_of_their_range(read):
    soft = np.clip(1.2 - np.hypot(Y - 100, X - 150) / 60, 0, 1)
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(read(tif(soft.astype(dtype)), "m.tif"), soft.astype(dtype) >= 0.5)
    np.testing.assert_array_equal(read(tif((soft * 100).astype(np.float32)), "m.tif"), (soft * 100).astype("f4") >= 50)
    gaps = soft.astype(np.float32).copy()
    gaps[:10], gaps[10:20] = np.nan, -9999
    expected = soft >= 0.5
    np.testing.assert_array_equal(read(tif(gaps), "m.tif"), expected)
    np.testing.assert_array_equal(read(lambda path: np.save(path, soft), "m.npy"), expected)


def test_logits_and_signed_distances_are_cut_at_zero(read):
    distance = 60 - np.hypot(Y - 100, X - 150)
    for soft in (distance, distance / 8, np.where(DISC, 0.7, -17.2), distance.clip(-20, 3)):
        for dtype in (np.float16, np.float32, np.float64):
            values = soft.astype(dtype)
            np.testing.assert_array_equal(read(partial(np.save, arr=values), "m.npy"), values > 0)
            np.testing.assert_array_equal(read(tif(values), "m.tif"), values > 0)
    gaps = distance.astype(np.float32)
    gaps[:10] = np.nan
    np.testing.assert_array_equal(read(tif(gaps), "m.tif"), np.where(np.isnan(gaps), 0, gaps) > 0)


def test_minus_one_is_background_and_min_is_white_is_turned(read):
    np.testing.assert_array_equal(read(tif(np.where(DISC, 4, -1).astype(np.int16)), "m.tif"), DISC)
    for dtype in (bool, np.uint8, np.uint16):
        stored = np.where(DISC, 0, 1 if dtype is bool else np.iinfo(dtype).max).astype(dtype)
        np.testing.assert_array_equal(read(tif(stored, photometric="miniswhite", software="a scanner"), "m.tif"), DISC)


def test_truth_values_saved_by_tifffile_are_read_as_tifffile_reads_them(read):
    for options in ({}, {"compression": "zlib"}, {"bigtiff": True}):
        np.testing.assert_array_equal(read(tif(DISC, **options), "m.tif"), DISC)


def test_one_bit_and_grey_with_alpha_are_masks(read):
    np.testing.assert_array_equal(read(png(DISC)), DISC)
    np.testing.assert_array_equal(read(lambda p: Image.fromarray(DISC).save(p), "m.pbm"), DISC)
    grey_alpha = np.stack([DISC * 255, np.full(DISC.shape, 255)], axis=2).astype(np.uint8)
    np.testing.assert_array_equal(read(png(grey_alpha)), DISC)


@pytest.mark.parametrize("colour", [(255, 0, 0), (200, 0, 0), (10, 200, 30), (255, 255, 0), (1, 0, 0)])
def test_one_colour_on_black_is_a_mask_with_smooth_edges_too(read, colour):
    soft = drawn(4).astype(float) / 255
    values = (soft[..., None] * colour).round().astype(np.uint8)
    if max(colour) == 255:
        np.testing.assert_array_equal(read(png(values)), values.max(2) >= 128)
    hard = (DISC[..., None] * np.array(colour)).astype(np.uint8)
    np.testing.assert_array_equal(read(png(hard)), DISC)
    large = np.repeat(np.repeat(hard, 2, 0), 2, 1)
    if max(colour) > 100:
        lossy = read(lambda p: Image.fromarray(large).save(p, quality=90), "m.jpg")
        assert (lossy != DISC.repeat(2, 0).repeat(2, 1)).mean() < 0.002


def test_objects_in_several_colours_on_black_are_the_class(read):
    colours = np.zeros((200, 300, 3), np.uint8)
    colours[DISC], colours[SECOND] = (0, 130, 200), (90, 20, 0)
    np.testing.assert_array_equal(read(png(colours)), DISC | SECOND)


def test_alpha_is_the_mask_of_a_cut_out_photo(read):
    for opaque in (255, 200):
        cut_out = np.dstack([PHOTO, DISC * opaque]).astype(np.uint8)
        np.testing.assert_array_equal(read(png(cut_out)), DISC)
    black = np.dstack([np.zeros((200, 300, 3)), DISC * 255]).astype(np.uint8)
    np.testing.assert_array_equal(read(png(black)), DISC)
    white = np.dstack([np.full((200, 300, 3), 255), drawn(4)]).astype(np.uint8)
    np.testing.assert_array_equal(read(png(white)), drawn(4) >= 128)
    solid = np.dstack([np.repeat(DISC[..., None] * 255, 3, 2), np.full((200, 300), 255)]).astype(np.uint8)
    np.testing.assert_array_equal(read(png(solid)), DISC)


def test_a_palette_is_read_by_its_indices_or_by_its_colours_where_black_lies_elsewhere(read):
    random = np.random.default_rng(0).integers(1, 256, (256, 3))
    np.testing.assert_array_equal(read(indexed(DISC * 5 + SECOND * 255, random)), DISC | SECOND)
    black_last = [(255, 0, 0), (0, 255, 0), (0, 0, 0)]
    np.testing.assert_array_equal(read(indexed(np.where(DISC, 0, 2), black_last)), DISC)
    np.testing.assert_array_equal(read(indexed(DISC * 1, [(255, 255, 255), (0, 0, 0)])), ~DISC)
    np.testing.assert_array_equal(read(lambda p: Image.fromarray(DISC.astype("u1") * 255).save(p), "m.gif"), DISC)
    soft = Image.fromarray(drawn(4))
    np.testing.assert_array_equal(read(lambda p: soft.save(p), "m.gif"), drawn(4) >= 128)


def test_what_pseudo_label_writes_keeps_255_as_unsure(read, tmp_path):
    unsure = np.where(DISC, 1, np.where(SECOND, 255, 0)).astype(np.uint8)
    np.testing.assert_array_equal(read(lambda p: write_png(p, unsure, palette=PALETTE)), unsure)
    np.testing.assert_array_equal(read(png(unsure)), unsure)
    write_png(tmp_path / "only.png", np.where(DISC, 255, 0).astype(np.uint8), palette=PALETTE)
    with pytest.warns(InputWarning, match=r"only\.png: 255 means ignore here, and is 100 %"):
        np.testing.assert_array_equal(read_mask(tmp_path / "only.png"), np.where(DISC, 255, 0))


def test_jpeg_is_cut_at_half_and_refused_where_it_blurs_ids(read):
    shape = DISC.repeat(2, 0).repeat(2, 1)
    for top in (255, 128):
        lossy = read(lambda p, top=top: Image.fromarray(shape.astype("u1") * top).save(p, quality=75), "m.jpg")
        assert (lossy != shape).mean() < 0.002
    assert read(lambda p: Image.new("L", (60, 40)).save(p), "black.jpg").sum() == 0
    with pytest.raises(InputError, match="blurs class ids"):
        read(lambda p: Image.fromarray(objects([60, 120, 200] * 60).astype("u1")).save(p), "ids.jpg")


@pytest.mark.parametrize("quality", [30, 70, 90])
def test_a_jpeg_that_was_saved_again_as_png_is_cut_at_half(read, quality):
    lossy = io.BytesIO()
    Image.fromarray(DISC.astype(np.uint8) * 255).save(lossy, "JPEG", quality=quality)
    again = np.asarray(Image.open(lossy))
    np.testing.assert_array_equal(read(png(again)), again >= 128)
    np.testing.assert_array_equal(read(png(np.repeat(again[..., None], 3, axis=2))), again >= 128)


def test_the_real_masks_of_a_data_set_read_the_same_after_every_common_treatment(tmp_path):
    root = golden.data("pascal_coseg15") / "masks"
    for path in sorted(root.rglob("*.png"))[::100]:
        true = read_mask(path)
        soft = Image.fromarray(true * 255).resize((301, 227), Image.Resampling.LANCZOS)
        soft.save(tmp_path / "soft.png")
        Image.fromarray(true * 255).save(tmp_path / "lossy.jpg", quality=60)
        np.testing.assert_array_equal(read_mask(tmp_path / "soft.png"), np.asarray(soft) >= 128)
        assert (read_mask(tmp_path / "lossy.jpg") != true).mean() < 0.01


def test_a_mask_handed_over_in_python_is_read_as_its_file(tmp_path):
    for values in (DISC, DISC * np.uint8(255), drawn(4), objects([1, 2, 300]).astype(np.int32)[:200, :300]):
        Image.fromarray(values).save(tmp_path / "m.tif")
        expected = read_mask(tmp_path / "m.tif")
        photo = PHOTO
        ways = {
            "array": values,
            "read-only": np.asarray(Image.open(tmp_path / "m.tif")),
            "one channel last": values[..., None],
            "one channel first": values[None],
            "PIL": Image.open(tmp_path / "m.tif"),
            "bytes": (tmp_path / "m.tif").read_bytes(),
            "open file": io.BytesIO((tmp_path / "m.tif").read_bytes()),
            "tensor": torch.as_tensor(np.array(values)),
            "list": values.tolist(),
            "path": tmp_path / "m.tif",
        }
        for way, mask in ways.items():
            np.testing.assert_array_equal(read_shot(photo, mask)[1], expected, err_msg=way)
        np.testing.assert_array_equal(read_shot(Sample(photo, np.array(values)))[1], expected)
    unsure = np.zeros((200, 300), np.int32)
    unsure[0, 0], unsure[DISC] = 1, 255
    np.testing.assert_array_equal(read_shot(Sample(photo, unsure))[1], unsure)  # as a data set hands it over


def test_a_mask_of_the_same_shape_is_scaled_to_its_photo_and_it_is_said(tmp_path):
    Image.fromarray(np.repeat(np.repeat(PHOTO, 4, 0), 4, 1)).save(tmp_path / "a.png")
    Image.fromarray(DISC.astype(np.uint8) * 255).save(tmp_path / "m.png")
    with pytest.warns(InputWarning, match="scaled to the photo by the nearest pixel"):
        _, mask = read_pair(tmp_path / "a.png", tmp_path / "m.png")
    np.testing.assert_array_equal(mask, DISC.repeat(4, 0).repeat(4, 1))
    for height, width in ((333, 500), (67, 100), (2999, 4500)):
        with pytest.warns(InputWarning):
            assert read_mask(tmp_path / "m.png", like=(height, width)).shape == (height, width)
    with pytest.raises(InputError, match="make them the same size"):
        read_mask(tmp_path / "m.png", like=(300, 300))


@pytest.mark.parametrize(
    ("mask", "says"),
    [(~DISC, "looks inverted"), (np.ones_like(DISC), "100 % of the photo"), (DISC | ~SECOND, "of the photo")],
)
def test_an_inverted_or_full_mask_of_an_example_is_said(mask, says):
    with pytest.warns(InputWarning, match=says):
        read_shot(PHOTO, mask)


@pytest.mark.parametrize("scale", [1, 6])
def test_an_outline_in_place_of_an_area_is_said(scale):
    outline = (DISC & ~((Y - 100) ** 2 + (X - 150) ** 2 < 57**2)).repeat(scale, 0).repeat(scale, 1)
    with pytest.warns(InputWarning, match="the mask looks like an outline; fill it, if the object is what it encloses"):
        read_shot(PHOTO.repeat(scale, 0).repeat(scale, 1), outline)


def test_a_large_object_a_wheel_and_a_plain_mask_are_not_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_shot(PHOTO, DISC)
        read_shot(PHOTO, DISC & ~((Y - 100) ** 2 + (X - 150) ** 2 < 52**2))
        large = np.ones_like(DISC)
        large[:30], large[:, -20:] = 0, 0
        read_shot(PHOTO, large)


def test_a_photo_in_place_of_a_mask_is_refused(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg")
    Image.fromarray(np.where(DISC[..., None], PHOTO, 255)).save(tmp_path / "on white.png")
    for name in ("photo.png", "photo.jpg", "on white.png"):
        with pytest.raises(InputError, match=r"colours|blurs"):
            read_mask(tmp_path / name)


def test_a_palette_of_white_alone_is_the_class_everywhere(tmp_path):
    Image.new("L", (8, 6), 255).save(tmp_path / "a.gif")
    assert (read_mask(tmp_path / "a.gif") == 1).all()
