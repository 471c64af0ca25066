"""Streams of photos, one Segmenter in several threads, and what a class was learnt from."""

import copy
import itertools
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import shotseg
from shotseg.cli.demo import DATA, demo_items
from shotseg.data.images import read_image, read_mask, write_png
from shotseg.errors import InputError, UsageError
from shotseg.models.strokes import Strokes
from shotseg.predictor import ahead

PHOTO, MASK = DATA / "images/hair/example.jpg", DATA / "masks/hair/example.png"


@pytest.fixture(scope="module")
def seg():
    made = shotseg.Segmenter(size=96, device="cpu", present=None)
    for item in demo_items()[0]:
        made.add(item.class_name, [item.image_path], [item.mask_path])
    return made


class Source:
    """Photos without end, some of which are none; it says how many were taken."""

    taken = 0

    def __iter__(self):
        for photo in itertools.cycle([PHOTO, "nowhere.jpg", read_image(PHOTO)[:, ::-1], b"no photo"]):
            self.taken += 1
            yield photo


def test_a_source_without_end_gives_results_in_its_order_and_is_read_a_little_ahead(seg):
    source = Source()
    stream = seg.predict_stream(source, look_ahead=3, errors="keep")
    assert source.taken == 0
    found = list(itertools.islice(stream, 8))
    assert source.taken == 8 + 3 - 1
    stream.close()
    known = seg.predict(PHOTO), seg.predict(read_image(PHOTO)[:, ::-1])
    for i, result in enumerate(found):
        if i % 2:
            said = "nowhere.jpg: no such file" if i % 4 == 1 else "photo: cannot be read as an image"
            assert isinstance(result, InputError) and str(result).startswith(f"number {i + 1} of the stream, {said}")
        else:
            np.testing.assert_array_equal(result.labels, known[i % 4 // 2].labels)


def test_a_photo_that_cannot_be_used_ends_a_stream_unless_it_is_to_go_on(seg):
    stream = seg.predict(photo for photo in (PHOTO, "nowhere.jpg", PHOTO))
    assert next(stream).labels.any()
    with pytest.raises(InputError, match=r"^number 2 of the stream, nowhere\.jpg: no such file"):
        next(stream)
    assert list(seg.predict(iter(()))) == [] == list(seg.predict_stream([]))


def test_every_source_that_is_no_list_streams(seg):
    (known,) = seg.predict_batch([PHOTO])
    rows = [{"image": PHOTO.read_bytes(), "label": 3}]

    class Table:  # as a data set of `datasets`: it has a shape, and is no array
        shape = (1, 2)

        def __iter__(self):
            return iter(rows)

    for source in (Table(), iter([PHOTO]), map(str, [PHOTO]), {PHOTO}, dict.fromkeys([PHOTO]).keys()):
        (result,) = seg.predict(source)
        np.testing.assert_array_equal(result.labels, known.labels)
    assert len(list(seg.predict_stream([PHOTO, rows[0]]))) == len(seg.predict_batch(iter([PHOTO, rows[0]]))) == 2


@pytest.mark.parametrize("options", [{"look_ahead": 0}, {"look_ahead": "4"}, {"look_ahead": 1.5}, {"errors": "ignore"}])
def test_a_stream_that_cannot_be_is_refused_at_once(seg, options):
    with pytest.raises(UsageError, match='1 or more, and "raise" or "keep"'):
        seg.predict_stream([PHOTO], **options)
    for one in (PHOTO, str(PHOTO), read_image(PHOTO), PHOTO.read_bytes(), {"image": PHOTO}):
        with pytest.raises(UsageError, match="one photo: give it to predict"):
            seg.predict_stream(one)
    with pytest.raises(UsageError, match="of type NoneType; give a source of photos"):
        seg.predict_stream(None)


def test_an_error_of_the_source_itself_comes_through(seg):
    def broken():
        yield PHOTO
        raise RuntimeError("the camera is gone")

    stream = seg.predict_stream(broken(), look_ahead=1)
    assert next(stream)
    with pytest.raises(RuntimeError, match="camera"):
        next(stream)


def test_look_ahead_keeps_the_order_whoever_is_first():
    with ThreadPoolExecutor(4) as pool:
        assert list(ahead(pool, lambda n: time.sleep(0.01 * (n % 3)) or n, range(12), 5)) == list(range(12))


def test_threads_get_the_masks_that_one_thread_gets_whatever_the_others_do(seg):
    photos = [item.image_path for item in demo_items()[1]][:4]
    known = [seg.predict(photo).masks["hair"] for photo in photos]
    shared = seg.twin()

    def busy(number):
        if number % 2:
            shared.add(f"other {number}", [PHOTO], [MASK])
            shared.rename(f"other {number}", f"new {number}")
            assert shared.examples(f"new {number}").shots == 1 and repr(shared) and shared.thumbnails
            return shared.remove(f"new {number}")
        result = shared.predict(photos[number // 2 % 4])
        return result.classes, result.masks["hair"], result.masks["dress"]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(busy, range(16)))
    assert shared.classes == seg.classes
    for number, result in enumerate(found):
        if result is not None:
            classes, hair, dress = result
            assert classes[:2] == seg.classes and not (hair & dress).any()
            if classes == seg.classes:  # a class that came meanwhile may win pixels
                np.testing.assert_array_equal(hair, known[number // 2 % 4])
    np.testing.assert_array_equal(shared.predict(photos[0]).masks["hair"], known[0])


def test_examples_are_taken_from_any_source(seg):
    added = shotseg.Segmenter(size=64, device="cpu")
    added.add("hair", (photo for photo in [PHOTO, PHOTO]), map(str, [MASK, MASK]))
    added.add("hair", ({"image": PHOTO, "mask": MASK} for _ in range(2)))
    assert added.examples("hair").shots == 4
    added.add("hair", np.stack([read_image(PHOTO)] * 3), np.stack([read_mask(MASK)] * 3))  # three, no mask in colours
    assert added.examples("hair").shots == 7
    for images, masks in ((3, None), ([PHOTO], 3)):
        with pytest.raises(UsageError, match="of type int; give one, or a list of them"):
            added.add("dress", images, masks)
    assert added.classes == ("hair",)


def test_examples_say_what_a_class_was_learnt_from_and_what_of_it_is_kept(tmp_path):
    seg = shotseg.Segmenter(size=64, device="cpu")
    seg.add("hair", [PHOTO] * 2, [MASK] * 2)
    first = seg.examples("hair")
    assert (first.name, first.shots, len(first.thumbnails)) == ("hair", 2, 2) and first.thumbnails[0].ndim == 3
    assert re.fullmatch("<Examples of hair: 2 shots, 2 with a picture, [0-9a-f]{12}>", repr(first))
    seg.rename("hair", "mane")
    assert seg.examples("mane").digest == first.digest  # the photos are the same
    seg.save(tmp_path / "a.safetensors")
    kept = shotseg.load(tmp_path / "a.safetensors", device="cpu")
    again = kept.examples("mane")
    assert (again.shots, again.digest, again.thumbnails) == (2, first.digest, ())
    kept.add("mane", [PHOTO], [MASK])
    more = kept.examples("mane")
    assert (more.shots, len(more.thumbnails)) == (3, 1) and more.digest != first.digest
    with pytest.raises(UsageError, match="no class 'hair'; there is mane"):
        kept.examples("hair")


def test_a_photo_of_a_stream_is_seen_in_the_windows_in_which_it_is_seen_alone(tmp_path):
    seg = shotseg.Segmenter(size=96, device="cpu", tile=96, present=None)
    seg.add("hair", [PHOTO], [MASK])
    image = np.array(Image.fromarray(read_image(PHOTO)).resize((130, 150)))
    write_png(tmp_path / "a.png", image)
    content = (tmp_path / "a.png").read_bytes()
    known = seg.predict(tmp_path / "a.png").labels
    assert (known != labels_of_the_whole(seg, image)).any()
    with (tmp_path / "a.png").open("rb") as file:
        photos = [tmp_path / "a.png", image, image.tolist(), Image.fromarray(image), content, file, {"image": content}]
        for result in [*seg.predict_stream(photos), *map(seg.predict, photos), *seg.predict_batch(photos)]:
            np.testing.assert_array_equal(result.labels, known)


def labels_of_the_whole(seg, image):
    """The label map of a photo that is not seen in windows."""
    return seg.decide(seg.encode(image)).labels


def test_what_is_told_of_one_photo_is_refused_beside_a_source_of_photos(seg):
    strokes = {"hair": Strokes.none(read_image(PHOTO).shape[:2])}
    for call in (lambda: seg.predict(iter([PHOTO]), strokes=strokes), lambda: seg.predict(iter([PHOTO]), strokes)):
        with pytest.raises(UsageError, match="predict each photo by itself"):
            call()
    assert len(list(seg.predict(iter([PHOTO]), strokes=None))) == 1


def test_a_copy_has_classes_of_its_own_and_a_pickle_is_refused_in_one_line(seg):
    for made in (copy.deepcopy(seg), copy.copy(seg)):
        np.testing.assert_array_equal(made.predict(PHOTO).labels, seg.predict(PHOTO).labels)
        made.remove("hair")
        assert "hair" in seg.classes and "hair" not in made.classes
    with pytest.raises(UsageError, match="save it, and load the file in each process"):
        pickle.dumps(seg)
