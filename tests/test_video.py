"""Videos as they come: odd rates, turned cameras, broken files; and the overlay that is made of them."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import shotseg
from shotseg.cli import main
from shotseg.cli.demo import demo_items
from shotseg.data.video import Video, write_video
from shotseg.errors import InputError, InputWarning, UsageError
from shotseg.runs import find_photos, frames_of, segment_folder

av = pytest.importorskip("av", reason="PyAV is not installed")


def made(path, pictures, times, codec="libx264", turned=0, aspect=None):
    """A video of pictures (H, W, 3) uint8 at times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(turned)
        for picture, time in zip(pictures, times):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving(count, height=64, width=96):
    """A green square that goes to the right over red and black."""
    pictures = np.zeros((count, height, width, 3), np.uint8)
    pictures[:, :, : width // 2, 0] = 200
    for number, picture in enumerate(pictures):
        picture[8:24, 4 * number : 4 * number + 16] = (20, 250, 20)
    return list(pictures)


@pytest.mark.parametrize(
    ("name", "codec", "times"),
    [
        ("steady.mp4", "libx264", [40 * i for i in range(12)]),
        ("odd.mp4", "libx264", [40 * i + i * i for i in range(12)]),
        ("odd.mkv", "libx264", [1000 + 40 * i + i * i for i in range(12)]),
        ("says_800_frames.avi", "mpeg4", [40 * i for i in range(12)]),
        ("says_none.webm", "libvpx-vp9", [40 * i for i in range(12)]),
        ("stream.ts", "libx264", [40 * i for i in range(12)]),
        ("one.mp4", "libx264", [0]),
    ],
)
def test_frames_keep_their_number_pictures_and_times_and_so_does_what_is_made_of_them(tmp_path, name, codec, times):
    pictures = moving(len(times))
    video = Video(made(tmp_path / name, pictures, times, codec))
    np.testing.assert_allclose(video.seconds, np.subtract(times, times[0]) / 1000, atol=0.002)
    for number, picture in video.frames(range(1, len(video) + 1)):
        assert np.abs(picture.astype(int) - pictures[number - 1]).mean() < 12
    frames = [(picture, video.seconds[number - 1]) for number, picture in video.frames([1, *range(2, len(times) + 1)])]
    write_video(tmp_path / "copy.mp4", iter(frames), video.rate, video.aspect)
    np.testing.assert_allclose(Video(tmp_path / "copy.mp4").seconds, video.seconds, atol=0.001)


def test_a_turned_camera_gives_upright_frames_and_oblong_pixels_stay_oblong(tmp_path):
    pictures = moving(3)
    video = Video(made(tmp_path / "turned.mp4", pictures, [0, 40, 80], turned=90, aspect=Fraction(4, 3)))
    ((_, picture),) = video.frames([2])
    assert picture.shape == (96, 64, 3) and video.aspect == Fraction(3, 4)
    assert np.abs(picture.astype(int) - np.rot90(pictures[1])).mean() < 12
    write_video(tmp_path / "copy.mp4", [(picture, 0.0)], 25, video.aspect)
    again = Video(tmp_path / "copy.mp4")
    assert again.aspect == Fraction(3, 4) and next(again.frames([1]))[1].shape == (96, 64, 3)


def test_frames_of_odd_sides_and_of_other_sizes_fit_into_one_video(tmp_path):
    sizes = [(33, 51), (33, 51), (20, 90)]
    write_video(
        tmp_path / "odd.mp4", [(np.full((*s, 3), 90, np.uint8), i / 10) for i, s in enumerate(sizes)], 10, Fraction(1)
    )
    assert {picture.shape for _, picture in Video(tmp_path / "odd.mp4").frames([1, 2, 3])} == {(34, 52, 3)}


def test_a_damaged_video_gives_what_it_holds_and_says_what_it_does_not(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(20)]
    content = bytearray(made(tmp_path / "whole.mkv", noise, range(0, 800, 40)).read_bytes())
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    assert 3 < len(Video(tmp_path / "cut.mkv")) < 20
    with av.open(str(tmp_path / "whole.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    frames = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(frames[: len(frames) // 2])
    with pytest.warns(InputWarning, match=r"cut\.avi: cut off, trimmed or damaged; its \d+ frames are used"):
        assert 3 < len(Video(tmp_path / "cut.avi")) < 20
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    (tmp_path / "hole.mkv").write_bytes(content)
    video = Video(tmp_path / "hole.mkv")
    wanted = range(1, len(video) + 1)
    assert [number for number, _ in video.frames(wanted)] == list(wanted)
    assert np.all(np.diff(video.seconds) > 0)


def test_what_is_no_video_is_one_line_and_a_playlist_opens_nothing(tmp_path):
    made(tmp_path / "real.ts", moving(3), [0, 40, 80])
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile real.ts\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    whole = made(tmp_path / "whole.mp4", moving(9), range(0, 360, 40)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("list.mp4", "concat.mp4", "empty.mp4", "text.mp4", "half.mp4"):
        with pytest.raises(InputError, match=name) as error:
            Video(tmp_path / name)
        assert "\n" not in str(error.value)


def test_without_pyav_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'shotseg\[video\]'"):
        Video(tmp_path / "clip.mp4")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A segmenter of dresses, and a video of one that is there, gone, and there again."""
    folder = tmp_path_factory.mktemp("walk")
    segmenter = shotseg.Segmenter(encoder="efficientnet-lite0", size=192, device="cpu", runtime="torch")
    item = next(item for item in demo_items()[0] if item.class_name == "dress")
    segmenter.add("dress", [item.image_path], [item.mask_path])
    segmenter.save(folder / "dress.safetensors")
    photo = Image.open(next(item.image_path for item in demo_items()[1] if item.image_path.stem == "0102")).convert(
        "RGB"
    )
    photo = np.asarray(photo.resize((266, 400)))
    noise = np.random.default_rng(0).integers(60, 120, photo.shape).astype(np.uint8)
    made(folder / "walk.mp4", [photo, photo, noise, photo], [0, 40, 90, 150])
    return segmenter, folder


def test_a_video_gives_masks_by_frame_and_time_and_an_overlay_of_the_same_times(walk, tmp_path):
    _, folder = walk
    arguments = ["segment", "--support", str(folder / "dress.safetensors"), "--query", str(folder / "walk.mp4")]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2  # --track is missing
    assert main([*arguments, "--out", str(tmp_path / "out"), "--track", "--device", "cpu"]) == 0
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [record["name"] for record in found] == ["000001_0ms", "000002_40ms", "000003_90ms", "000004_150ms"]
    assert [(record["frame"], record["time"], record["lost"]) for record in found] == [
        (1, 0, []), (2, 0.04, []), (3, 0.09, ["dress"]), (4, 0.15, [])
    ]  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "dress" / "000002_40ms.png"))
    assert mask.shape == (400, 266) and mask.any()
    overlay = Video(tmp_path / "out" / "overlay.mp4")
    np.testing.assert_allclose(overlay.seconds, [0, 0.04, 0.09, 0.15], atol=0.001)
    shown, plain = ([p for _, p in Video(path).frames([2, 3])] for path in (overlay.path, folder / "walk.mp4"))
    tinted = np.abs(shown[0].astype(int) - plain[0]).mean(2)
    assert tinted[mask > 0].mean() > 30 > 10 > tinted[mask == 0].mean()
    assert np.abs(shown[1].astype(int) - plain[1]).mean() < 10


def test_a_run_over_a_video_goes_on_where_it_stopped_also_with_a_copy_of_it(walk, tmp_path):
    segmenter, folder = walk
    done = []

    def stop(record):
        done.append(record)
        if len(done) == 2:
            raise KeyboardInterrupt

    def run(video, out, **options):
        frames = frames_of(find_photos(video, out))
        segment_folder(segmenter, frames.photos, out, track=frames, **options)
        return {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}

    with pytest.raises(KeyboardInterrupt):
        run(folder / "walk.mp4", tmp_path / "out", on_record=stop)
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    content = (folder / "walk.mp4").read_bytes()
    (folder / "walk.mp4").write_bytes(content)  # touched, and the same
    kept = []
    assert run(folder / "walk.mp4", tmp_path / "out", resume=True, on_record=kept.append) == run(
        folder / "walk.mp4", tmp_path / "clean"
    )
    assert kept[:2] == done[:2] and len(kept) == 4
    overlays = [(tmp_path / out / "overlay.mp4").read_bytes() for out in ("out", "clean")]
    assert overlays[0] == overlays[1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--track", "--shard", "1/2"], "leave --shard"),
        (["--track", "--batch", "4"], "--batch out"),
        (["--track", "--overlay-video", "25"], "its own frame rate"),
        (["--track", "--format", "coco"], "folder of frames"),
        (["--track", "--page", "2"], "no bands or pages"),
        (["--overlay-video", "25"], "give both"),
        (["--track", "--overlay-video", "0"], "frames a second"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(walk, tmp_path, capsys, flags, said):
    _, folder = walk
    arguments = ["segment", "--support", str(folder / "dress.safetensors"), "--query", str(folder / "walk.mp4")]
    assert main([*arguments, "--out", str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
