"""Photos much larger than the working size: what is decoded, decided and written is no larger than it must be, and the same."""

import io
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from shotseg import report
from shotseg.data.enlarging import BAND, best_strips, runs_of, values_at
from shotseg.data.images import _blank, flat_png, read_image, read_mask, write_png
from shotseg.data.transforms import fit
from shotseg.encoded import Encoded
from shotseg.encoders.features import Features
from shotseg.models.maskformer import winners
from shotseg.models.strokes import Strokes
from shotseg.overlay import PALETTE
from shotseg.photo import Opened, enough, open_file, open_photo, read_photo
from shotseg.result import Decided

RNG = np.random.default_rng(0)


def jpeg(size=(1200, 1600), **save):
    """The bytes of a JPEG photo of (height, width)."""
    small = RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, **save)
    return buffer.getvalue()


def opened(size):
    image = np.zeros((*size, 3), np.uint8)
    return Opened(image, size, lambda: image)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_is_decoded_no_finer_than_asked_and_looks_the_same(orientation):
    data = jpeg(exif=turned(orientation))
    found = open_file(data, "photo.jpg", least=400)
    whole = found.whole()
    assert max(found.small.shape[:2]) == 400 and found.size == whole.shape[:2]
    expected = np.asarray(Image.fromarray(whole).resize(found.small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(found.small.astype(int) - expected).mean() < 1.0


def test_a_photo_that_is_not_twice_as_large_as_needed_keeps_every_pixel(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg((300, 399)))
    found = open_photo(tmp_path / "a.jpg", least=200)
    assert np.array_equal(found.small, read_photo(tmp_path / "a.jpg")) and np.array_equal(found.small, found.whole())


def test_an_array_and_a_png_of_the_same_pixels_are_reduced_alike(tmp_path):
    image = RNG.integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    one, other = open_photo(image, 300), open_photo(tmp_path / "a.png", 300)
    assert one.size == other.size == (900, 1200) and np.array_equal(one.small, other.small)
    assert one.small.shape == (225, 300, 3) and np.array_equal(one.whole(), image)


@pytest.mark.parametrize("size", [(480, 640), (37, 53), (24, 33)])
@pytest.mark.parametrize("classes", [1, 3])
def test_labels_at_the_photos_size_are_those_of_its_log_odds_drawn_larger(size, classes):
    coarse = torch.randn(1, classes, 6, 8, generator=torch.Generator().manual_seed(classes))
    scores = torch.cat([torch.zeros(1, 24, 32), F.interpolate(coarse, (24, 32), mode="bicubic")[0]])
    result, undrawn = (
        Decided(opened(size), tuple("abc"[:classes]), scores, dict.fromkeys("abc"[:classes], 1.0)) for _ in range(2)
    )
    expected = winners(F.interpolate(scores[None], size, mode="bilinear")[0]).numpy()
    assert (result.labels == expected).mean() > 0.985
    assert np.array_equal(np.repeat(*undrawn.runs()[::-1]).reshape(size), result.labels)
    assert np.array_equal(np.repeat(*result.runs()[::-1]).reshape(size), result.labels)
    assert undrawn.areas == pytest.approx(result.areas)
    for i, name in enumerate(result.classes):
        assert np.array_equal(result.masks[name], result.labels == i + 1)
        assert result.areas[name] == pytest.approx((result.labels == i + 1).mean())
        assert result.probabilities[name].shape == size and result.probabilities[name].dtype == np.float32


@pytest.mark.parametrize("size", [(480, 640), (37, 53), (10, 400), (5, 3), (1, 1)])
@pytest.mark.parametrize("classes", [2, 6])
def test_the_winner_drawn_in_bands_is_that_of_all_maps_drawn_whole(size, classes):
    coarse = torch.randn(1, classes, 6, 8, generator=torch.Generator().manual_seed(classes))
    levels = F.interpolate(coarse, (24, 32), mode="bicubic")[0]
    drawn = np.concatenate(
        [band.copy() for band in best_strips(levels.numpy(), size).drawn(np.empty((BAND, size[1]), np.uint8))]
    )
    whole = F.interpolate(levels[None], size, mode="bilinear", antialias=True)[0]
    assert drawn.shape == size and (drawn == winners(whole).numpy()).mean() > (0.999 if classes == 2 else 0.985)
    if size[0] >= 24 and size[1] >= 32:
        rows, columns = np.indices(size).reshape(2, -1)
        assert np.allclose(values_at(levels.numpy(), size, rows, columns), whole.flatten(1), atol=1e-5)


@pytest.mark.parametrize("size", [(480, 640), (37, 53), (10, 400), (400, 10), (1, 1)])
def test_pixels_are_counted_and_one_class_is_taken_out_without_drawing_any(size):
    levels = RNG.normal(size=(4, 12, 16)).astype(np.float32)
    strips = best_strips(levels, size)
    drawn = np.concatenate([band.copy() for band in strips.drawn(np.empty((BAND, size[1]), np.uint8))])
    assert strips.size == size and np.array_equal(strips.counts(), np.bincount(drawn.ravel(), minlength=256))
    assert all(map(np.array_equal, strips.runs(), runs_of(drawn)))
    room = np.empty((7, size[1]), np.uint8)  # a strip may be higher than the room that it is drawn in
    for value in range(5):
        mask = np.concatenate([band.copy() for band in strips.only(value).drawn(room)])
        assert np.array_equal(mask, (drawn == value) * 255)


def test_a_result_of_a_large_photo_holds_few_of_its_pixels():
    photo = np.zeros((1500, 2000, 3), np.uint8)
    photo[:, 1000:] = 200
    result = Decided(Opened(photo, (3000, 4000), lambda: photo), ("a",), torch.zeros(2, 6, 8), {"a": 0.1})
    assert result.picture.shape == (500, 667, 3) and result.size == (3000, 4000)
    assert not result.picture[:, :333].any() and (result.picture[:, 334:] == 200).all()


def test_files_written_band_by_band_hold_what_is_asked_for_later_and_classes_without_a_pixel_have_files_too(tmp_path):
    scores = torch.full((4, 12, 16), -9.0)
    scores[0], scores[1, 2:9, 3:12], scores[3, 8:, 10:] = 0, 9.0, 12.0
    result = Decided(opened((300, 500)), ("a", "b", "c"), scores, dict.fromkeys("abc", 1.0))
    result.save(tmp_path, "x")
    areas = result.areas
    assert "labels" not in vars(result)  # nothing of the photo's size was made
    assert np.array_equal(read_mask(tmp_path / "labels/x.png", labels=True), result.labels)
    for i, name in enumerate("abc", 1):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"masks/{name}/x.png")), (result.labels == i) * 255)
        assert areas[name] == pytest.approx((result.labels == i).mean())
    assert areas["b"] == 0 < areas["c"] < areas["a"]


def test_of_classes_that_are_all_sure_the_surest_has_the_pixel_whatever_their_order():
    scores = torch.tensor([0.0, 9.0, 12.0])[:, None, None].repeat(1, 6, 8)
    scores[1, 0, 0] = scores[1, -1, -1] = 15.0  # so that it can reach all pixels
    for order in ([0, 1, 2], [0, 2, 1]):
        result = Decided(opened((60, 80)), ("a", "b"), scores[order], {"a": 1.0, "b": 1.0})
        assert (result.labels[20:40, 20:60] == order.index(2)).all() and result.labels[0, 0] == order.index(1)


def test_steps_of_a_byte_make_no_mask_smaller_or_larger():
    ramp = torch.linspace(-1, 1, 8).expand(6, 8)
    scores = torch.stack([torch.zeros(6, 8), ramp])
    areas = [Decided(opened((600, 800)), ("a",), side, {"a": 1.0}).areas["a"] for side in (scores, scores.flip(0))]
    assert areas == pytest.approx([0.5, 0.5], abs=0.002)
    nothing = Decided(opened((60, 80)), ("a",), torch.zeros(2, 6, 8), {"a": 1.0})
    assert not nothing.labels.any()


def test_nothing_as_large_as_the_photo_is_made_before_it_is_asked_for():
    def never():
        raise AssertionError("the whole photo was decoded")

    photo = Opened(np.zeros((30, 40, 3), np.uint8), (30_000, 40_000), never)
    scores = torch.full((3, 15, 20), -9.0)
    scores[0], scores[1, 4:9, 5:10] = 0, 9.0
    result = Decided(photo, ("a", "b"), scores, {"a": 0.9, "b": 0.1})
    assert result.size == (30_000, 40_000) and 0.89 < result.confidences["a"] < 0.9
    assert result.preview.labels.shape == (15, 20) and result.confidences["b"] == pytest.approx(0.8)


def test_strokes_bind_at_the_photos_own_pixels_against_every_other_class():
    scores = torch.zeros(3, 12, 16)
    scores[2] = 8.0  # class b is sure to be everywhere
    here = Strokes.none((120, 160)).disc((60, 80), 1, True)
    away = Strokes.none((120, 160)).disc((20, 20), 1, False)
    result = Decided(opened((120, 160)), ("a", "b"), scores, {"a": 1.0, "b": 1.0}, {"a": here, "b": away})
    assert (result.labels[here.labels == 1] == 1).all() and (result.labels[away.labels == 0] == 0).all()
    assert (result.labels == 2).sum() == 120 * 160 - (here.labels == 1).sum() - (away.labels == 0).sum()


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 48)])
def test_masks_and_label_maps_are_png_files_that_others_read(tmp_path, shape):
    mask = (RNG.random(shape) > 0.5).astype(np.uint8) * 255
    labels = RNG.integers(0, 5, shape, dtype=np.uint8)
    write_png(tmp_path / "mask.png", mask)
    write_png(tmp_path / "labels.png", labels, PALETTE)
    with Image.open(tmp_path / "mask.png") as picture:
        picture.verify()
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "L" and np.array_equal(np.asarray(picture), mask)
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture), labels)
        assert np.array_equal(np.asarray(picture.convert("RGB")), PALETTE[labels])
    assert np.array_equal(read_mask(tmp_path / "labels.png", labels=True), labels)
    assert np.array_equal(read_image(tmp_path / "mask.png")[..., 0], mask)


@pytest.mark.parametrize("size", [(3000, 4000), (4032, 3024)])
def test_twelve_megapixels_are_decoded_at_a_quarter_for_half_a_thousand_and_an_array_is_reduced_alike(size):
    data = jpeg(size)
    photo, array = open_photo(data, enough(512)), open_photo(read_photo(data), enough(512))
    assert photo.size == array.size == size
    assert photo.small.shape == array.small.shape == (size[0] // 4, size[1] // 4, 3)
    inputs = [fit(each.small, 512, sides=each.size)[0] * 255 for each in (photo, array)]
    assert (inputs[0] - inputs[1]).abs().mean() < 1


def test_png_files_have_the_same_bytes_with_and_without_the_fast_packer(tmp_path, monkeypatch):
    masks = [np.repeat(np.repeat(RNG.integers(0, k, (9, 11)), 13, 0), 17, 1).astype(np.uint8) for k in (2, 3, 255)]
    masks += [np.zeros((700, 900), np.uint8), RNG.integers(0, 256, (200, 300)).astype(np.uint8)]
    fast = [flat_png(mask) for mask in masks]
    assert fast == [flat_png(mask) for mask in masks]
    monkeypatch.setitem(__import__("sys").modules, "zlib_ng", None)
    _blank.cache_clear()
    assert fast == [flat_png(mask) for mask in masks]
    for mask, data in zip(masks, fast, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), mask)


def test_the_masks_of_two_hundred_classes_are_never_all_in_memory():
    names = tuple(f"class {i}" for i in range(200))
    scores = torch.from_numpy(RNG.normal(size=(201, 15, 20)).astype(np.float32))
    found = Decided(opened((900, 1200)), names, scores, dict.fromkeys(names, 1.0))
    areas = found.areas
    tracemalloc.start()
    shown = {name: int(mask.sum()) for name, mask in found.masks.items()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 900 * 1200  # all of them take 200 bytes a pixel
    assert shown == {name: round(area * 900 * 1200) for name, area in areas.items()}
    assert len(repr(found.masks)) < 4000 and "class 7" in repr(found.masks)


@pytest.mark.parametrize("source", ["file", "array"])
def test_a_result_goes_to_another_process_and_back(source, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg((120, 160)))
    photo = open_photo(tmp_path / "a.jpg" if source == "file" else read_photo(tmp_path / "a.jpg"), least=40)
    result = Decided(photo, ("a", "b"), torch.randn(3, 12, 16), {"a": 1.0, "b": 0.5})
    assert set(result.probabilities) == {"a", "b"} and result.labels.any()  # asked for before: it makes no difference
    back = pickle.loads(pickle.dumps(result))
    assert np.array_equal(back.labels, result.labels) and np.array_equal(back.image, result.image)
    assert back.confidences == result.confidences and back.present == result.present
    masks = pickle.loads(pickle.dumps(result.masks))
    assert list(masks) == ["a", "b"] and np.array_equal(masks["a"], result.masks["a"])


def test_a_kept_photo_goes_to_another_process_too(tmp_path):
    features = Features((torch.randn(1, 4, 6, 8),), (8,))
    Encoded(open_photo(jpeg((120, 160)), 40), torch.rand(3, 48, 64), features, "x").save(tmp_path / "kept.safetensors")
    kept = Encoded.load(tmp_path / "kept.safetensors")
    back = pickle.loads(pickle.dumps(kept))
    assert np.array_equal(back.photo.whole(), kept.photo.whole()) and kept.photo.whole().flags.writeable


def test_what_was_made_smaller_or_larger_can_be_written_to_and_torch_does_not_warn_of_it():
    photo = open_photo(np.zeros((90, 120, 3), np.uint8), least=40)
    result = Decided(photo, ("a",), torch.randn(2, 12, 16), {"a": 1.0})
    arrays = [photo.small, result.image, result.labels, result.probabilities["a"], result.preview.image]
    assert all(array.flags.writeable for array in arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(photo.small, 32)


def test_the_thumbnail_of_a_photo_without_any_class_is_as_fine_as_any(tmp_path):
    stripes = np.zeros((150, 200, 3), np.uint8)
    stripes[:, ::10] = 255
    photo = Opened(stripes, (150, 200), lambda: stripes)
    report.write_thumbnail(tmp_path, "a", Decided(photo, ("a",), torch.zeros(2, 6, 8), {"a": 0.1}))
    with Image.open(tmp_path / report.thumbnail("a")) as drawn:
        columns = np.asarray(drawn.convert("L"), np.float32)[:, :200].mean(0)
    assert columns.max() > 150 and columns.min() < 60
