"""A sequence of frames: what earlier frames give and what they may not, order, gaps, interruption."""

import json

import numpy as np
import pytest
from PIL import Image

import shotseg
from shotseg.cli.demo import demo_items
from shotseg.errors import UsageError
from shotseg.models.memory import KEPT, Memory
from shotseg.runs import find_photos, frames_of, segment_folder

SEEN, GONE = (1, 2, 3, 7, 8, 9, 10), (4, 5, 6)


@pytest.fixture(scope="module")
def segmenter():
    found = shotseg.Segmenter(encoder="efficientnet-lite0", size=192, device="cpu", runtime="torch")
    item = next(item for item in demo_items()[0] if item.class_name == "dress")
    found.add("dress", [item.image_path], [item.mask_path])
    return found


@pytest.fixture(scope="module")
def pictures():
    """Ten frames: a person walks through the view, is gone from the fourth to the sixth, and comes back."""
    path = next(item.image_path for item in demo_items()[1] if item.image_path.stem == "0102")
    photo = Image.open(path).convert("RGB")
    photo.thumbnail((400, 400))
    width, height = photo.size
    noise = np.random.default_rng(0).integers(60, 120, (height, width, 3)).astype(np.uint8)
    wide = np.concatenate([np.asarray(photo), noise], 1)
    steps = [width if number in GONE else abs(6 - number) * width // 40 for number in range(1, 11)]
    return [Image.fromarray(wide[:, step : step + width]) for step in steps]


@pytest.fixture
def folder(pictures, tmp_path):
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(pictures, 1):
        picture.save(tmp_path / "frames" / f"f{number}.png")
    return tmp_path / "frames"


def run(segmenter, folder, out, **options):
    frames = frames_of(find_photos(folder, out))
    return segment_folder(segmenter, frames.photos, out, track=frames, settings={"track": frames.rule}, **options)


def records(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def written(out):
    """All that a run says, without the times it took."""
    said = [{key: value for key, value in record.items() if key != "seconds"} for record in records(out)]
    pictures = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}
    return said, pictures


def test_frames_come_in_the_order_of_their_numbers_and_a_lost_object_is_said(segmenter, folder, tmp_path):
    run(segmenter, folder, tmp_path / "out")
    found = records(tmp_path / "out")
    assert [record["file"] for record in found] == [f"f{number}.png" for number in range(1, 11)]
    assert [number for number, record in enumerate(found, 1) if "dress" in record["classes"]] == list(SEEN)
    assert "dress" in found[3]["lost"] and not any("dress" in found[i]["lost"] for i in range(10) if i != 3)


def test_earlier_frames_change_masks_and_never_what_is_there_nor_the_user_s_segmenter(segmenter, pictures):
    before = {name: support.shots for name, support in segmenter._supports.items()}
    apart, tracked = [segmenter.predict(frame) for frame in pictures], list(segmenter.track(pictures))
    assert [result.present for result in apart] == [result.present for result in tracked]
    assert any((a.labels != b.labels).any() for a, b in zip(apart, tracked))
    assert {name: support.shots for name, support in segmenter._supports.items()} == before
    np.testing.assert_array_equal(segmenter.predict(pictures[9]).labels, apart[9].labels)


def test_one_video_or_frame_in_place_of_frames_is_one_line(segmenter):
    for frames in ("clip.mp4", b"bytes"):
        with pytest.raises(UsageError, match=r"one frame.*shotseg segment --track"):
            list(segmenter.track(frames))


def test_a_memory_is_bounded_and_of_no_use_after_a_cut(segmenter, pictures):
    memory = Memory()
    for picture in pictures[:3] * 2:
        segmenter.follow(segmenter.encode(picture), memory)
    assert len(memory["dress"]) == KEPT
    other = segmenter.encode(demo_items()[1][-1].image_path)
    alone, after = segmenter.decide(other), segmenter.decide(other, memory=memory)
    np.testing.assert_array_equal(alone.labels, after.labels)


def test_what_an_earlier_mask_missed_is_not_learnt_as_background(segmenter, pictures, monkeypatch):
    encoded = segmenter.encode(pictures[6])
    dress = segmenter.decide(encoded).masks["dress"]
    rows = np.flatnonzero(dress.any(1))
    seen = dress & (np.arange(len(dress)) > rows.mean())[:, None]  # its upper half is missed

    def found_of_the_rest():
        memory = Memory()
        memory.keep(
            segmenter.model, encoded.resized, encoded.features, seen.astype(np.uint8), ("dress",), {"dress": 0.9}
        )
        return (segmenter.decide(encoded, memory=memory).masks["dress"] & dress & ~seen).sum()

    with_a_band = found_of_the_rest()
    monkeypatch.setattr("shotseg.models.memory.AROUND", 0)
    assert with_a_band > 1.2 * found_of_the_rest()


def test_a_run_that_was_interrupted_goes_on_to_the_same_results(segmenter, folder, tmp_path):
    run(segmenter, folder, tmp_path / "clean")
    for stop in (2, 8):
        seen = []

        def interrupt(record, stop=stop, seen=seen):
            seen.append(record)
            if len(seen) == stop:
                raise KeyboardInterrupt

        out = tmp_path / f"out{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(segmenter, folder, out, on_record=interrupt)
        run(segmenter, folder, out, resume=True)
        assert written(out) == written(tmp_path / "clean")


def test_a_frame_that_cannot_be_read_is_one_line_and_the_others_are_done(segmenter, folder, tmp_path):
    (folder / "f2.png").write_bytes(b"no picture")
    summary = run(segmenter, folder, tmp_path / "out")
    found = records(tmp_path / "out")
    assert summary.failed == 1 and "f2.png" in found[1]["error"] and found[1]["lost"] == []
    assert "dress" in found[2]["classes"] and "dress" in found[3]["lost"]


def test_each_folder_is_a_sequence_of_its_own(segmenter, pictures, tmp_path):
    for place, number in (("a", 1), ("a", 2), ("b", 4)):
        (tmp_path / "q" / place).mkdir(parents=True, exist_ok=True)
        pictures[number - 1].save(tmp_path / "q" / place / f"{number}.png")
    run(segmenter, tmp_path / "q", tmp_path / "out")
    assert not any(record["lost"] for record in records(tmp_path / "out"))


def test_a_method_that_learns_from_no_mask_is_refused(tmp_path, folder):
    class Named(shotseg.Segmenter):
        needs = "name"

    named = Named(encoder="efficientnet-lite0", size=96, device="cpu", runtime="torch")
    with pytest.raises(UsageError, match="--track is of methods that learn"):
        run(named, folder, tmp_path / "out")
