"""The same photo in every container that cameras, scanners, satellites and scripts give it."""

import io
import struct
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from shotseg.cli.demo import DATA
from shotseg.data import tiff
from shotseg.data.images import read_image
from shotseg.errors import InputError, InputWarning
from shotseg.photo import read_photo

COLOUR = np.array(Image.open(DATA / "images/dress/example.jpg").resize((96, 144)))
GREY = np.array(Image.fromarray(COLOUR).convert("L"))
RGB_OF_GREY = np.repeat(GREY[..., None], 3, axis=2)


@pytest.fixture
def read(tmp_path):
    def reader(write, name, **how):
        write(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return read_image(tmp_path / name, **how).astype(int)

    return reader


def tif(values, **options):
    return lambda path: tifffile.imwrite(path, values, **options)


def png(values):
    return lambda path: Image.fromarray(values).save(path)


def assert_near(found, expected, most=1):
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= most


def chunk(kind, data, damage=0):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damage)


def sixteen_bit_png(values):
    """A PNG of 16 bits a colour, which Pillow cannot write."""
    kind = {3: 2, 4: 6, 2: 4}[values.shape[2]]
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_photo_of_any_depth_in_16_bits_is_the_8_bit_photo(read, bits):
    deep = (GREY.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    assert_near(read(png(deep), "a.png"), RGB_OF_GREY)
    assert_near(read(tif(deep), "a.tif"), RGB_OF_GREY)
    assert_near(read(tif(deep, tile=(32, 32), compression="zlib"), "a.tif"), RGB_OF_GREY)
    assert_near(read_photo(deep).astype(int), RGB_OF_GREY)
    colour = (COLOUR.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    assert_near(read(lambda path: path.write_bytes(sixteen_bit_png(colour)), "c.png"), COLOUR)
    for options in ({}, {"planarconfig": "separate"}, {"tile": (32, 32)}, {"compression": "lzw", "predictor": True}):
        values = np.moveaxis(colour, 2, 0) if "planarconfig" in options else colour
        assert_near(read(tif(values, photometric="rgb", **options), "c.tif"), COLOUR)


def test_twelve_bits_times_sixteen_is_the_8_bit_photo(read):
    assert_near(read(png(GREY.astype("u2") * 16), "a.png"), RGB_OF_GREY)
    assert_near(read(png(GREY.astype("u2") * 4), "a.png"), RGB_OF_GREY)


def test_a_dull_photo_keeps_its_greys_in_every_container(read):
    dull = 90 + GREY // 5
    for factor in (4, 16, 64, 256, 257):
        assert_near(read(png(dull.astype("u2") * factor), "a.png"), np.repeat(dull[..., None], 3, 2))
    for dtype in ("f2", "f4", "f8"):
        assert_near(read(tif((dull / 255).astype(dtype)), "a.tif"), np.repeat(dull[..., None], 3, 2))
    heat = (dull.astype("u2") * 7 + 29000).astype("u2")  # not 8 bits: its own range
    assert read(png(heat), "a.png").min() == 0 and read(png(heat), "a.png").max() == 255


@pytest.mark.parametrize("dtype", ["u4", "i4", "i8", "u8", "f2", "f4", "f8"])
def test_other_number_types_are_the_8_bit_photo(read, dtype):
    assert_near(read(tif(GREY.astype(dtype)), "a.tif"), RGB_OF_GREY)
    assert_near(read(tif(COLOUR.astype(dtype), photometric="rgb"), "a.tif"), COLOUR)
    if dtype[0] == "f":
        assert_near(read(tif((GREY / 255).astype(dtype)), "a.tif"), RGB_OF_GREY)
        assert_near(read(tif((COLOUR / 255).astype(dtype), photometric="rgb"), "a.tif"), COLOUR)


@pytest.mark.parametrize("value", [-9999, np.nan, np.inf, -np.inf, -32768, -3.4e38, 3.4e38, 1e20])
@pytest.mark.parametrize("tagged", [False, True])
def test_no_data_is_left_out_of_the_range(read, value, tagged):
    fractions = (GREY / 255).astype(np.float32)
    fractions[:20] = value
    tags = [(42113, "s", 0, str(value), True)] if tagged else []
    assert_near(read(tif(fractions, extratags=tags), "a.tif")[20:], RGB_OF_GREY[20:])
    reflectance = np.where(fractions == value, fractions, fractions * np.float32(0.3))
    found = read(tif(reflectance, extratags=tags), "a.tif")[20:]
    assert found.min() == 0 and found.max() == 255
    if abs(value) <= 32768:
        counts = (GREY.astype(np.int32) * 10000 // 255).astype(np.int32)
        counts[:20] = value
        found = read(tif(counts.astype(np.int16), extratags=tags), "a.tif")[20:]
        assert found.max() > 150 and len(np.unique(found)) > 100


def test_a_hot_value_of_16_bits_leaves_the_rest_as_it_is(read):
    deep = GREY.astype("u2") * 16
    deep[:5] = 65535
    assert_near(read(png(deep), "a.png")[5:], RGB_OF_GREY[5:])


def test_reflectance_heat_and_tomography_take_their_own_range(read):
    low, high = int(GREY.min()), int(GREY.max())
    stretched = np.repeat(((GREY.astype(float) - low) / (high - low) * 255)[..., None], 3, axis=2)
    scaled = {
        "reflectance": (GREY / 255 * 0.3).astype(np.float32),
        "tomography": (GREY.astype(np.int16) * 16 - 1024),
        "heat": (GREY.astype(np.uint16) * 4 + 29000),
        "degrees": (GREY / 8 + 10).astype(np.float32),
    }
    for name, values in scaled.items():
        assert_near(read(tif(values), f"{name}.tif"), stretched, 2)
        assert_near(read_photo(values).astype(int), stretched, 2)
        assert_near(read_photo(values.astype(np.float64)).astype(int), stretched, 2)


def test_a_constant_photo_and_one_without_any_value_are_read(read):
    assert set(np.unique(read(tif(np.full((8, 9), 0.5, np.float32)), "a.tif"))) == {128}
    assert set(np.unique(read(tif(np.full((8, 9), np.nan, np.float32)), "a.tif"))) == {0}


def test_min_is_white_is_shown_as_it_is_meant(read):
    for dtype in ("u1", "u2"):
        top = np.iinfo(dtype).max
        stored = (top - GREY.astype(np.int64) * (top // 255)).astype(dtype)
        assert_near(read(tif(stored, photometric="miniswhite"), "a.tif"), RGB_OF_GREY)


def test_an_infrared_band_that_is_tagged_as_alpha_is_none(tmp_path):
    infrared = np.dstack([COLOUR, GREY // 2 + 60])
    for name, values in {"8": infrared, "16": infrared.astype(np.uint16) * 257}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="rgb", extrasamples=["unassalpha"])
        with pytest.warns(InputWarning, match="4 bands: the first three"):
            assert_near(read_image(tmp_path / f"{name}.tif"), COLOUR)
        assert_near(read_image(tmp_path / f"{name}.tif", bands=(4, 2, 1)), infrared[..., [3, 1, 0]])


def test_true_alpha_of_a_tiff_is_laid_on_white(read):
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:40] = 0
    found = read(tif(np.dstack([COLOUR, alpha]), photometric="rgb", extrasamples=["unassalpha"]), "a.tif")
    np.testing.assert_array_equal(found, np.where(alpha[..., None], COLOUR, 255))
    deep = np.dstack([COLOUR.astype("u2") * 257, alpha.astype("u2") * 257])
    np.testing.assert_array_equal(read(lambda path: path.write_bytes(sixteen_bit_png(deep)), "a.png"), found)


def test_bands_and_pages_are_chosen_and_what_is_unclear_says_so(tmp_path):
    bands = np.stack([GREY // (i + 1) for i in range(5)], axis=2)
    files = {
        "together.tif": (bands, {"planarconfig": "contig"}),
        "apart.tif": (np.moveaxis(bands, 2, 0), {"planarconfig": "separate"}),
        "deep.tif": (bands.astype(np.uint16) * 257, {"planarconfig": "contig"}),
    }
    for name, (values, options) in files.items():
        tifffile.imwrite(tmp_path / name, values, photometric="minisblack", **options)
        assert_near(read_image(tmp_path / name, bands=(4, 3, 2)), bands[..., [3, 2, 1]])
        assert_near(read_image(tmp_path / name, bands=(5,)), np.repeat(bands[..., 4:], 3, 2), 255)
        with pytest.raises(InputError, match=rf"{name}: 5 bands.*--bands 4,3,2"):
            read_image(tmp_path / name)
        with pytest.raises(InputError, match="no band 6, it has 5"):
            read_image(tmp_path / name, bands=(6, 1, 2))
        with pytest.raises(InputError, match="one or three"):
            read_image(tmp_path / name, bands=(1, 2))
    tifffile.imwrite(tmp_path / "pages.tif", np.moveaxis(bands, 2, 0), photometric="minisblack")
    assert_near(read_image(tmp_path / "pages.tif"), RGB_OF_GREY)
    assert_near(read_image(tmp_path / "pages.tif", page=3), RGB_OF_GREY // 3)
    assert_near(read_image(tmp_path / "pages.tif", bands=(4, 3, 2)), bands[..., [3, 2, 1]])
    Image.fromarray(COLOUR).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(COLOUR // 3)])
    assert read_image(tmp_path / "a.gif", page=2).mean() < read_image(tmp_path / "a.gif").mean() / 2
    for name in ("pages.tif", "a.gif"):
        with pytest.raises(InputError, match=rf"{name}: no page 9"):
            read_image(tmp_path / name, page=9)


def test_a_compression_that_needs_a_package_names_it(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", COLOUR.astype("u2") * 16, photometric="rgb", compression="lzw")
    Image.fromarray(COLOUR).save(tmp_path / "b.tif", compression="tiff_lzw")
    Image.fromarray(COLOUR).convert("RGBA").save(tmp_path / "c.tif", compression="tiff_lzw")
    Image.fromarray(GREY.astype("u2") * 16).save(tmp_path / "d.tif", compression="tiff_lzw")
    monkeypatch.setattr(tiff, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"a\.tif: a TIFF of 16 bits with LZW.*shotseg\[tiff\]"):
        read_image(tmp_path / "a.tif")
    for name in ("b.tif", "c.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), COLOUR)
    assert_near(read_image(tmp_path / "d.tif"), RGB_OF_GREY)


@pytest.mark.parametrize("kind", [b"eXIf", b"iCCP", b"tEXt", b"pHYs"])
def test_a_png_with_damaged_side_data_gives_its_pixels(read, kind):
    plain = io.BytesIO()
    Image.fromarray(COLOUR).save(plain, "PNG")
    data = plain.getvalue()
    for damaged in (chunk(kind, b"\xff\x01\x02", 1), chunk(kind, b"no such header in it")):
        whole = data[:33] + damaged + data[33:]
        found = read(lambda path, whole=whole: path.write_bytes(whole), "a.png")
        np.testing.assert_array_equal(found, COLOUR)


def test_a_jpeg_with_damaged_exif_gives_its_pixels(read):
    exif = Image.Exif()
    exif[0x0112] = 1
    plain = io.BytesIO()
    Image.fromarray(COLOUR).save(plain, "JPEG", exif=exif, quality=98)
    at = plain.getvalue().index(b"Exif\0\0") + 6
    damaged = plain.getvalue()[:at] + b"\xff" * 8 + plain.getvalue()[at + 8 :]
    assert read(lambda path: path.write_bytes(damaged), "a.jpg").shape == COLOUR.shape


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.jpe", "a.avif", "a.gif", "a.jp2", "a.j2k", "a.ppm", "a.dib", "a.tga", "a.webp"]
)
def test_every_common_ending_is_read(read, name):
    formats = {"jfif": "JPEG", "jpe": "JPEG"}
    kind = formats.get(name[2:])
    found = read(lambda path: Image.fromarray(COLOUR).save(path, kind), name)
    assert np.abs(found - COLOUR).mean() < 8
    if name not in ("a.tga",):  # a TGA has no first bytes to tell it by
        told = read(
            lambda path: Image.fromarray(COLOUR).save(path, kind or Image.registered_extensions()[name[1:]]), "x.jpg"
        )
        np.testing.assert_array_equal(told, found)


def test_heic_is_read_with_its_package_and_named_without(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(COLOUR)).save(tmp_path / "a.heic", quality=90)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - COLOUR).mean() < 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"a\.heic: a HEIC photo; pip install 'shotseg\[heif\]'"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_a_tiff_that_pillow_cannot_read(read, orientation):
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    upright = Image.fromarray(COLOUR)
    stored = np.asarray(upright if inverse is None else upright.transpose(Image.Transpose(inverse)))
    tags = [(274, "H", 1, orientation, True)]
    np.testing.assert_array_equal(read(tif(stored.astype("u2"), photometric="rgb", extratags=tags), "a.tif"), COLOUR)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_of_a_tiff_that_pillow_turns_itself(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for values in (COLOUR, GREY, GREY.astype("u2") * 257, np.dstack([COLOUR, GREY * 0 + 255])):
        for ending in ("tif", "png"):
            Image.fromarray(values).save(tmp_path / f"a.{ending}", exif=exif)
        data = (tmp_path / "a.tif").read_bytes()
        expected = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
        np.testing.assert_array_equal(read_photo(Image.open(io.BytesIO(data))), expected)


@pytest.mark.parametrize("value", [1e20, np.inf, -np.inf, np.nan, -9999])
def test_no_data_is_black_whether_it_is_high_or_low(read, value):
    values, expected = COLOUR.astype("f4") / 255, COLOUR.copy()
    values[:9], expected[:9] = value, 0
    assert_near(read(tif(values, photometric="rgb"), "a.tif"), expected)


def test_a_photo_handed_over_in_python_is_read_as_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(GREY.astype("u2") * 16).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([COLOUR, GREY])).save(tmp_path / "clear.png")
    Image.fromarray(COLOUR).quantize(64).save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(GREY > 90).save(tmp_path / "bits.png")
    tifffile.imwrite(tmp_path / "fractions.tif", (GREY / 255 * 0.3).astype("f4"))
    for path in tmp_path.iterdir():
        expected = read_image(path)
        data = path.read_bytes()
        with Image.open(path) as image:
            ways = {
                "PIL": image,
                "bytes": data,
                "memory": io.BytesIO(data),
                "bytearray": bytearray(data),
                "text": str(path),
            }
            for way, photo in ways.items():
                np.testing.assert_array_equal(read_photo(photo), expected, err_msg=f"{path.name} {way}")
        with path.open("rb") as file:
            file.seek(5)
            np.testing.assert_array_equal(read_photo(file), expected)


def test_arrays_tensors_and_lists_of_every_shape_are_the_photo():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locked = np.asarray(Image.fromarray(COLOUR))
        locked = locked.copy()
        locked.flags.writeable = False
        for name, photo in {
            "read-only": locked,
            "float": COLOUR / 255,
            "float32": (COLOUR / 255).astype("f4"),
            "channels first": np.moveaxis(COLOUR, 2, 0),
            "tensor": torch.as_tensor(COLOUR).permute(2, 0, 1) / 255,
            "tensor that learns": (torch.as_tensor(COLOUR).permute(2, 0, 1) / 255).requires_grad_(),
            "list": COLOUR.tolist(),
            "opaque": np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)]),
            "mirrored twice": COLOUR[:, ::-1][:, ::-1],
            "int64": COLOUR.astype(np.int64),
            "array of another library": types.SimpleNamespace(__array__=lambda dtype=None, copy=None: COLOUR),
        }.items():
            found = read_photo(photo)
            assert found.flags.writeable and found.dtype == np.uint8
            np.testing.assert_array_equal(found, COLOUR, err_msg=name)
            torch.from_numpy(found)
        assert_near(read_photo((torch.as_tensor(COLOUR) / 255).bfloat16()), COLOUR, 1)
        clear = Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA")
        np.testing.assert_array_equal(read_photo(clear.convert("La")), read_photo(clear))
        for photo in (GREY, GREY[..., None], GREY[None], GREY / 255, torch.as_tensor(GREY)[None]):
            np.testing.assert_array_equal(read_photo(photo), RGB_OF_GREY)


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        (None, "NoneType"),
        (3, "of type int; give a path"),
        (np.zeros((5, 6, 7)), r"\(5, 6, 7\)"),
        (np.zeros((0, 6, 3)), "give"),
        (np.zeros((2, 3, 4, 3)), "give"),
        (np.array([["a", "b"]]), "numbers"),
        (np.zeros((4, 4), complex), "complex"),
        ([[1, 2], [3]], "rectangle"),
        (b"", "photo: "),
        (b"no photo", "not an image"),
        ("http://example.org/a.jpg?key=secret", r"^http://example\.org/a\.jpg: only https:// is fetched; download"),
        ("file:///photos/a.jpg", "an address.*give the path alone"),
        (Path("ftp://example.org/a.jpg"), r"^ftp://example\.org/a\.jpg: an address"),
        ("data:image/png;base64," + "A" * 9999, r"data:image/png;base64,A{1,200}: an address.*decode it"),
        (io.StringIO("x"), "opened as text"),
        (torch.ones(4, 4).to_sparse(), "no array of numbers.*to_dense"),
        (torch.zeros(3, 4, 4, device="meta"), "no array of numbers"),
        (torch.ones(4, 4, dtype=torch.complex64).conj(), "no array of numbers"),
    ],
)
def test_what_is_no_photo_is_one_line(photo, says):
    with pytest.raises(InputError, match=says) as caught:
        read_photo(photo)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.tif", "b.tif"])
def test_a_broken_tiff_is_one_line(tmp_path, name):
    options = {} if name == "a.tif" else {"compression": "zlib"}
    tifffile.imwrite(tmp_path / name, COLOUR.astype("u2"), photometric="rgb", **options)
    data = (tmp_path / name).read_bytes()
    for length in (20, 200, len(data) // 2, len(data) - 10):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(InputError, match="cannot be read as an image") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_only_a_png_of_16_bits_a_colour_is_opened_twice(read, monkeypatch):
    opened, opening = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or opening(file))
    read(png(COLOUR), "a.png")
    assert len(opened) == 1
    deep = sixteen_bit_png(COLOUR.astype("u2") * 257)
    assert_near(read(lambda path: path.write_bytes(deep), "b.png"), COLOUR, 0)
    assert len(opened) == 3
