"""Photos and masks of every kind that people have, good and broken, as real files."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from shotseg.data.images import one_class, read_image, read_mask, read_pair, write_bytes, write_png
from shotseg.errors import InputError


def gradient(height=40, width=60) -> np.ndarray:
    """A photo whose four corners differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=2).astype(np.uint8)


def disc(height=40, width=60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2


def assert_refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.tif", "a.tiff", "a.bmp", "ä photo ☂.jpg"])
def test_every_image_type_is_read_as_rgb(tmp_path, name):
    options = {"quality": 98} if name.lower().endswith(("jpg", "jpeg", "webp")) else {}
    Image.fromarray(gradient()).save(tmp_path / name, **options)
    image = read_image(tmp_path / name)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - gradient()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_turns_photo_and_mask_upright(tmp_path, orientation):
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how a camera would have stored it
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, array in (("photo.png", gradient()), ("mask.png", disc().astype(np.uint8) * 255)):
        stored = Image.fromarray(array)
        stored = stored if inverse is None else stored.transpose(Image.Transpose(inverse))
        stored.save(tmp_path / name, exif=exif)
    image, mask = read_pair(tmp_path / "photo.png", tmp_path / "mask.png")
    np.testing.assert_array_equal(image, gradient())
    np.testing.assert_array_equal(mask, disc())


def test_exif_rotation_of_a_jpeg(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (60, 40, 3)


def test_sixteen_bit_grey_is_scaled_by_its_range(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name)[0, :, 1].tolist() == [0, 1, 255]


def test_float_and_32_bit_grey_is_read(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(np.array([[-10, 0, 10]], dtype=np.float32)).save(tmp_path / "range.tif")
    Image.fromarray(np.array([[0, 100000, 200000]], dtype=np.int32)).save(tmp_path / "int.tif")
    for name in ("unit.tif", "range.tif", "int.tif"):
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 128, 255]


def test_grey_bilevel_palette_and_cmyk_become_rgb(tmp_path):
    photo = Image.fromarray(gradient())
    photo.convert("L").save(tmp_path / "grey.png")
    photo.convert("1").save(tmp_path / "bilevel.png")
    photo.quantize(256).save(tmp_path / "palette.png")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("grey.png", "bilevel.png", "palette.png", "cmyk.jpg", "cmyk.tif"):
        assert read_image(tmp_path / name).shape == (40, 60, 3)
    for name in ("palette.png", "cmyk.jpg", "cmyk.tif"):
        assert np.abs(read_image(tmp_path / name).astype(int) - gradient()).mean() < 8, name


def test_transparent_pixels_are_laid_on_white(tmp_path):
    black = np.zeros((2, 2, 4), np.uint8)
    black[0, 0, 3] = 255
    Image.fromarray(black).save(tmp_path / "rgba.png")
    Image.fromarray(black).convert("LA").save(tmp_path / "la.png")
    indexed = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8), mode="L").convert("P")
    indexed.putpalette([0, 0, 0, 10, 10, 10])
    indexed.save(tmp_path / "p.png", transparency=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("rgba.png", "la.png", "p.png"):
            assert read_image(tmp_path / name)[..., 0].tolist() == [[0, 255], [255, 255]], name


def test_the_first_page_of_a_tiff_is_read(tmp_path):
    pages = [Image.fromarray(gradient()), Image.fromarray(gradient() // 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), gradient())


def test_one_pixel_and_twenty_thousand_pixels_wide(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").tolist() == [[[255, 0, 0]]]
    Image.new("1", (20000, 9000)).save(tmp_path / "wide.png")  # above Pillow's own limit
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_mask(tmp_path / "wide.png").shape == (9000, 20000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_decompression_bomb_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("shotseg.data.pixels.MAX_PIXELS", 1000)
    Image.fromarray(gradient()).save(tmp_path / "bomb.png")
    assert_refused(lambda: read_image(tmp_path / "bomb.png"), "bomb.png", "60 x 40")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_files_are_one_line_that_names_them(tmp_path, read):
    (tmp_path / "text.jpg").write_text("hello, I am no photo")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(gradient(200, 200)).save(tmp_path / "whole.jpg")
    Image.fromarray(gradient(200, 200)).save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "cut")).write_bytes(data[: len(data) // 2])
        (tmp_path / name.replace("whole", "header")).write_bytes(data[:20])
    assert_refused(lambda: read(tmp_path / "text.jpg"), "text.jpg", "not an image")
    assert_refused(lambda: read(tmp_path / "empty.png"), "empty.png", "0 bytes")
    assert_refused(lambda: read(tmp_path / "folder.jpg"), "folder.jpg", "folder")
    assert_refused(lambda: read(tmp_path / "absent.jpg"), "absent.jpg", "no such file")
    for name in ("cut.jpg", "cut.png", "header.jpg", "header.png"):
        assert_refused(lambda name=name: read(tmp_path / name), name, "cannot be read as an image")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom file permissions bind")
def test_a_file_without_permission_is_one_line(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert_refused(lambda: read_image(tmp_path / "a.png"), "a.png", "Permission denied")


def saved_mask(tmp_path, values, name="m.png", **options):
    Image.fromarray(np.asarray(values)).save(tmp_path / name, **options)
    return tmp_path / name


def test_binary_masks_of_every_kind_become_zero_and_one(tmp_path):
    shape = disc()
    for name, values in {
        "bool.png": shape,
        "one.png": shape.astype(np.uint8),
        "full.png": shape.astype(np.uint8) * 255,
        "sixteen.png": shape.astype(np.uint16) * 65535,
        "sixteen255.png": shape.astype(np.uint16) * 255,
        "float.tif": shape.astype(np.float32),
        "rgb.png": np.repeat(shape[..., None].astype(np.uint8) * 255, 3, axis=2),
        "rgba.png": np.repeat(shape[..., None].astype(np.uint8) * 255, 4, axis=2),
    }.items():
        np.testing.assert_array_equal(read_mask(saved_mask(tmp_path, values, name)), shape, err_msg=name)


def test_255_is_ignore_in_a_label_map_and_the_class_in_a_mask_of_zero_and_255(tmp_path):
    labels = np.array([[0, 3], [7, 255]], np.uint8)
    np.testing.assert_array_equal(read_mask(saved_mask(tmp_path, labels), labels=True), labels)
    void = np.array([[0, 255]], np.uint8)
    assert read_mask(saved_mask(tmp_path, void)).tolist() == [[0, 1]]
    assert read_mask(saved_mask(tmp_path, void), labels=True).tolist() == [[0, 255]]


def test_a_palette_mask_gives_indices_but_black_and_white_gives_colours(tmp_path):
    indices = Image.fromarray(np.array([[0, 5, 255]], np.uint8)).convert("P")
    indices.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    indices.save(tmp_path / "voc.png")
    assert read_mask(tmp_path / "voc.png", labels=True).tolist() == [[0, 5, 255]]
    inverted = Image.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(tmp_path / "inverted.png")
    assert read_mask(tmp_path / "inverted.png").tolist() == [[1, 0, 0]]


def test_soft_masks_are_cut_at_one_half_and_areas_of_many_ids_are_not(tmp_path):
    large = Image.fromarray(disc(400, 600).astype(np.uint8) * 255)
    large.resize((301, 203), Image.Resampling.BICUBIC).save(tmp_path / "soft.png")
    large.save(tmp_path / "lossy.jpg", quality=70)
    np.testing.assert_array_equal(read_mask(tmp_path / "lossy.jpg"), disc(400, 600))
    assert set(np.unique(read_mask(tmp_path / "soft.png"))) == {0, 1}
    street = np.append(np.repeat(np.arange(19, dtype=np.uint8), 20), np.full(20, 255, np.uint8))[None]
    np.testing.assert_array_equal(read_mask(saved_mask(tmp_path, street)), street > 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", labels=True), street)
    classes = np.repeat(np.array([[0, 60, 120, 200]], np.uint8), 400).reshape(40, 40)
    saved_mask(tmp_path, classes, "classes.jpg")
    assert_refused(lambda: read_mask(tmp_path / "classes.jpg"), "classes.jpg", "PNG")


def test_a_mask_in_colours_is_refused_with_the_mend(tmp_path):
    assert_refused(lambda: read_mask(saved_mask(tmp_path, gradient())), "m.png", "colours", "one class id a pixel")


def test_class_ids_above_255_are_refused_in_a_label_map(tmp_path):
    ids = saved_mask(tmp_path, np.array([[0, 300]], np.uint16))
    assert_refused(lambda: read_mask(ids, labels=True), "m.png", "300")


def test_two_sizes_name_both_files_and_both_sizes(tmp_path):
    photo = saved_mask(tmp_path, gradient(40, 60), "photo.png")
    small, turned = saved_mask(tmp_path, disc(20, 28), "mask.png"), saved_mask(tmp_path, disc(60, 40), "turned.png")
    assert_refused(lambda: read_pair(photo, small), "photo.png", "mask.png", "60 x 40", "28 x 20")
    assert_refused(lambda: read_pair(photo, turned), "turned.png", "40 x 60", "EXIF")
    assert_refused(lambda: read_mask(small, like=(40, 60)), "mask.png", "60 x 40", "28 x 20")


def test_an_empty_mask_can_be_read_but_is_no_support(tmp_path):
    photo = saved_mask(tmp_path, gradient(), "photo.png")
    empty = saved_mask(tmp_path, np.zeros((40, 60), np.uint8), "mask.png")
    assert read_mask(empty).sum() == 0
    assert_refused(lambda: read_pair(photo, empty), "mask.png", "no foreground pixel")


def test_one_class_of_a_label_map_is_a_pair(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[:10], labels[10:20], labels[20:30] = 4, 9, 255
    photo, mask = saved_mask(tmp_path, gradient(), "photo.png"), saved_mask(tmp_path, labels)
    _, four = read_pair(photo, mask, class_value=4)
    assert [np.unique(rows).tolist() for rows in np.split(four, 4)] == [[1], [0], [255], [0]]
    np.testing.assert_array_equal(four, one_class(labels, 4))
    assert [np.unique(rows).tolist() for rows in np.split(read_pair(photo, mask)[1], 4)] == [[1], [1], [1], [0]]
    assert_refused(lambda: read_pair(photo, mask, class_value=5), "no foreground pixel", "5")


def test_written_png_is_read_back_and_makes_its_folder(tmp_path):
    write_png(tmp_path / "new" / "m.png", disc().astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_mask(tmp_path / "new" / "m.png"), disc())
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    write_png(tmp_path / "p.png", labels, palette=np.arange(768).reshape(256, 3) % 256)
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png", labels=True), labels)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a.txt", b"old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.txt", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_bytes() == b"old"


def test_a_full_disk_and_a_bad_folder_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    assert_refused(lambda: write_bytes(tmp_path / "file" / "a.png", b"x"), "a.png", "cannot be written")

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert_refused(lambda: write_bytes(tmp_path / "a.png", b"x"), "a.png", "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
