"""Containers that users take for images, and images in containers that few expect."""

import io
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from shotseg.data.images import read_image, read_mask
from shotseg.errors import InputError
from shotseg.photo import read_photo, read_shot

PHOTO = np.indices((40, 60)).sum(0).astype(np.uint8)[..., None].repeat(3, 2)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:50] = True


def zipped():
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr("photo.jpg", b"\xff\xd8\xff")
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\0" * 128 + b"DICM" + b"\2\0", "DICOM"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg width="9"/>', "SVG"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04" + b"\0" * 40, "ZIP"),
        (b"\x1f\x8b\x08" + b"\0" * 40, "gzip"),
        (b"photo.jpg" + b"\0" * 248 + b"ustar  \0" + b"\0" * 40, "tar archive"),
        (zipped(), "ZIP"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 40, "video"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=said):
            read(tmp_path / "a.jpg")


def test_the_preview_of_a_raw_photo_does_not_pass_for_the_photo(tmp_path):
    tifffile.imwrite(tmp_path / "a.dng", PHOTO, photometric="rgb", subfiletype=1)
    with pytest.raises(InputError, match="develop it"):
        read_image(tmp_path / "a.dng")


def test_the_one_array_of_an_npz_file_is_read_and_of_several_none(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", mask=MASK)
    assert (read_mask(tmp_path / "one.npz") == MASK).all()
    np.savez(tmp_path / "two.npz", mask=MASK, other=MASK)
    with pytest.raises(InputError, match=r"2 arrays in it \(mask, other\)"):
        read_mask(tmp_path / "two.npz")


def test_masked_values_of_an_array_are_no_data():
    values = np.where(MASK, -9999, PHOTO[..., 0].astype(np.int16) * 40)
    seen = read_photo(np.ma.masked_equal(values, -9999))
    assert not seen[MASK].any()
    assert (seen[~MASK] == read_photo(np.where(MASK, 0, values))[~MASK]).all()
    drawn = np.ma.masked_array(np.ones((40, 60), np.uint8), mask=~MASK)
    assert (read_shot(PHOTO, drawn)[1] == MASK).all()


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_further_pages_and_frames_are_left_out_with_a_line(tmp_path, ending):
    first, second = Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match="the first is read"):
        read_image(tmp_path / f"a.{ending}")
