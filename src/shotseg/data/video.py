"""Videos: their frames upright, in order, each with its time; and a video made of frames (extra ``video``)."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from shotseg.data.images import TEMPORARY, unwritable
from shotseg.data.pixels import MAX_PIXELS
from shotseg.errors import InputError, UsageError, first_line, note

VIDEO_TYPES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".wmv", ".asf"}
    | {".flv", ".3gp", ".3g2", ".ogv", ".mxf", ".ivf", ".h264", ".264", ".h265", ".hevc", ".dv", ".nut"}
    | {".y4m", ".vob", ".mjpeg", ".mjpg"}
)
TICKS = 90_000  # of a second, in which a written video counts: every common frame rate is a whole number of them
USUAL_RATE = 25  # frames a second of a file that says none
# Files that hold their frames themselves. Playlists and the like, which make FFmpeg open further files and addresses, are not
# among them.
CONTAINERS = (
    *(
        "mov",
        "mp4",
        "m4a",
        "3gp",
        "3g2",
        "mj2",
        "matroska",
        "webm",
        "avi",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "m4v",
        "asf",
        "flv",
    ),
    *("ogg", "mxf", "ivf", "h264", "hevc", "obu", "av1", "dv", "nut", "yuv4mpegpipe", "mjpeg"),
)


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, by its ending."""
    return Path(path).suffix.lower() in VIDEO_TYPES and Path(path).is_file()


class Video:
    """A video file, read through once to know its frames: containers tell their number and rate wrongly, or not at all.

    seconds: of each frame, rising from 0; of one that cannot be decoded a step after the one before it.
    rate: frames a second, on average.    aspect: width by height of a pixel, as the frame is upright.
    Raises UsageError where PyAV is not installed, InputError for a file without a frame that can be decoded.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._av = pyav()
        self.seconds: list[float] = []
        self._broken = False
        self.aspect, announced = Fraction(0), 0
        for frame, stream in self._decoded():
            self.seconds.append(self._time(frame, 1 / float(stream.average_rate or USUAL_RATE)))
            announced = (
                0 if stream.container.format.name == "avi" else stream.frames
            )  # 0: it says none; AVI counts ticks
            if not self.aspect and not isinstance(frame, str):
                aspect = stream.sample_aspect_ratio or Fraction(1)
                self.aspect = 1 / aspect if frame.rotation % 180 else aspect
        if not self.aspect:
            raise InputError(f"{path}: no frame of it can be decoded; give a video that plays")
        if self._broken or len(self) < announced:
            of = f" of the {announced} announced" * (len(self) < announced)
            note(f"{path}: cut off, trimmed or damaged; its {len(self)} frames{of} are used")
        first = self.seconds[0]
        self.seconds = [seconds - first for seconds in self.seconds]
        self.rate = (len(self) - 1) / self.seconds[-1] if len(self) > 1 else float(USUAL_RATE)

    def __len__(self) -> int:
        return len(self.seconds)

    def frames(self, numbers: Collection[int]) -> Iterator[tuple[int, np.ndarray | str]]:
        """(number, picture) of the frames of these numbers, from 1 on, in order; a picture is (H, W, 3) uint8 RGB, upright. In
        place of one that cannot be decoded stands the reason."""
        wanted = sorted(numbers)
        decoded = enumerate((frame for frame, _ in self._decoded()), 1)
        for number in wanted:
            frame = next((frame for at, frame in decoded if at == number), "is no longer in the file")
            yield number, f"{self.path}: frame {number}: {frame}" if isinstance(frame, str) else _upright(frame)

    def _time(self, frame: Any, step: float) -> float:
        """Of a frame, never before the one before it: joined files start anew in the middle."""
        told = None if isinstance(frame, str) or frame.time is None else float(frame.time)
        before = self.seconds[-1] if self.seconds else None
        if before is None:
            return told or 0.0
        return told if told is not None and told > before else before + step

    def _decoded(self) -> Iterator[tuple[Any, Any]]:
        """(frame, its stream) as they are shown, in order; in place of a frame that cannot be decoded what the library says."""
        av, stream = self._av, None
        try:
            # A file at hand, not its name: a name can mean an address.
            with (
                self.path.open("rb") as file,
                av.open(file, options={"format_whitelist": ",".join(CONTAINERS)}) as container,
            ):
                if not container.streams.video:
                    raise InputError(f"{self.path}: holds no pictures; give a video")
                stream = container.streams.video[0]
                for packet in container.demux(stream):
                    self._broken |= packet.is_corrupt
                    yield from ((frame, stream) for frame in self._of(packet))
        except (av.FFmpegError, OSError) as error:
            if not self.seconds:
                why = error.strerror or first_line(error)
                raise InputError(f"{self.path}: no video that can be read ({why}); give one that plays") from None
            # A file that was cut off: what came before is used.
            yield f"the file is damaged from here on ({error.strerror or first_line(error)})", stream

    def _of(self, packet: Any) -> Iterator[Any]:
        try:
            frames = packet.decode()
        except self._av.FFmpegError as error:
            yield f"cannot be decoded ({error.strerror or first_line(error)})"
            return
        for frame in frames:
            large = frame.width * frame.height > MAX_PIXELS
            yield f"{frame.width} x {frame.height} pixels are too many; make it smaller" if large else frame


def write_video(path: Path, frames: Iterable[tuple[np.ndarray, float]], rate: float, aspect: Fraction) -> int:
    """Write an MP4 whole or not at all; gives the number of its frames.

    frames: pictures (H, W, 3) uint8 with their times in seconds, rising; all get the size of the first.    rate: frames a second,
    for how long the last one stays.    aspect: width by height of a pixel.
    Raises InputError where it cannot be written.
    """
    av = pyav()
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    count = 0
    try:
        try:
            with av.open(str(temporary), "w", format="mp4") as container:
                stream: Any = None
                for picture, seconds in frames:
                    if stream is None:
                        stream = _stream(av, container, picture, rate, aspect)
                    frame = av.VideoFrame.from_ndarray(_sized(picture, stream.width, stream.height), format="rgb24")
                    frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
                    container.mux(stream.encode(frame))
                    count += 1
                if stream is not None:
                    container.mux(stream.encode())
            temporary.replace(path)
        except BaseException:  # also an interrupt
            temporary.unlink(missing_ok=True)
            raise
    except (av.FFmpegError, OSError) as error:
        raise unwritable(path, error) from error
    return count


def _stream(av: Any, container: Any, picture: np.ndarray, rate: float, aspect: Fraction) -> Any:
    codec = "libx264" if "libx264" in av.codec.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
    height, width = picture.shape[:2]
    stream.width, stream.height = width + width % 2, height + height % 2  # the codecs halve the colours' resolution
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS)
    stream.codec_context.sample_aspect_ratio = aspect
    return stream


def _sized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture in the middle of width x height; one that is a pixel short gets its edge twice."""
    down, across = height - picture.shape[0], width - picture.shape[1]
    if down in (0, 1) and across in (0, 1):
        return np.pad(picture, ((0, down), (0, across), (0, 0)), mode="edge")
    return np.asarray(ImageOps.pad(Image.fromarray(picture), (width, height)))


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8; the file says by how many quarters the camera was turned."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def pyav() -> Any:
    """The library that reads and writes videos. Raises UsageError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError("videos need PyAV; install it with: pip install 'shotseg[video]'") from None
    return av
