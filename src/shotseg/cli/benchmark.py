"""``shotseg benchmark``: how fast it is, and where the time goes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from shotseg.cli.choices import Runtime
from shotseg.cli.console import progress, table
from shotseg.data.writable import check_out
from shotseg.errors import UsageError
from shotseg.heap import check_batch

EPISODE = {
    "two_passes": "two forward passes of the backbone",
    "head": "head and decoder, after the frozen features",
    "priors": "CLIP's priors of one photo",
    "step": "one training step, frozen features included",
}


@dataclass(frozen=True)
class Benchmark:
    """Time one class on this machine: the encoder's forward pass, everything after it, and a folder of photos.

    With --episode: a few-shot model with random weights on noise, in units of two forward passes of its backbone.
    With --big: a folder of photos of 12 megapixels, beside what decoding and encoding them takes.

    example: shotseg benchmark --photos 1000 --out speed.json
    """

    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    runtime: Runtime = "auto"
    """What computes the encoder on a CPU: onnxruntime (extra: onnx) where it is installed, else torch. onnxruntime-int8 is twice
    as fast and not exact."""
    size: int | None = None
    """Longer side, in pixels, at which the method works."""
    repeats: int = 15
    """How often the single photo is timed; the medians are shown."""
    episode: bool = False
    """Time the parts of one episode and of one training step instead; no weights are needed."""
    big: bool = False
    """Time --photos photos of 12 megapixels with one class and with eight instead, each known to be there."""
    photos: int = 40
    """Photos in the folder."""
    batch: int = 1
    """Photos that go through the encoder together in the folder."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def run(self) -> int:
        check_batch(self.batch)
        for name in ("size", "repeats", "photos"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.out is not None:
            check_out(self.out)
        from shotseg.models import SEMANTIC

        if self.method in SEMANTIC:
            raise UsageError(f"--method {self.method}: it knows only the classes of its training; choose another")
        if self.episode:
            return self._episode()
        options: dict[str, Any] = {} if self.size is None else {"size": self.size}
        if self.big:
            from shotseg.cli import benchmark_big

            settings = {
                "method": self.method,
                "encoder": self.encoder,
                "device": self.device,
                "runtime": self.runtime,
                **options,
            }
            numbers = benchmark_big.measure(self.photos, {**settings, "present": None})
            benchmark_big.show(numbers)
            return self._written(numbers, self.device)
        import torch

        from shotseg.cli.demo import demo_items
        from shotseg.data.images import read_image
        from shotseg.segmenter import Segmenter

        segmenter = Segmenter(self.method, self.encoder, self.device, runtime=self.runtime, **options)
        seen = _watch(segmenter.model)
        (example, *_), queries = demo_items()
        start = time.perf_counter()
        segmenter.add(example.class_name, [example.image_path], [example.mask_path])
        numbers = {"support_seconds": time.perf_counter() - start, "support_encoder_calls": seen.calls}

        image = read_image(queries[0].image_path)
        encode, rest, whole = [], [], []
        with progress("one photo", self.repeats + 2) as advance, torch.no_grad():
            for _ in range(self.repeats + 2):
                whole.append(_seconds(lambda: segmenter.predict(image)))
                rest.append(time.perf_counter() - seen.started)  # from the encoder's start on
                encode.append(_seconds(lambda: segmenter.model.encoder(seen.images)))
                advance()
        encoder = median(encode[2:])  # the first two warm up
        after = median(rest[2:]) - encoder
        numbers |= {"encoder_seconds": encoder, "after_encoder_seconds": after, "after_to_encoder": after / encoder}
        numbers |= {"predict_seconds": median(whole[2:]), "working_size": list(seen.images.shape[2:])}
        numbers |= _folder(segmenter, [item.image_path for item in queries], self.photos, self.batch)
        numbers |= {"runtime": segmenter.model.encoder.runtime}
        numbers |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        _show(numbers)
        return self._written(numbers, segmenter.device)

    def _written(self, numbers: dict[str, Any], device: Any) -> int:
        from shotseg.data.images import write_bytes

        if self.out is not None:
            settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
            text = json.dumps({**settings, "device": str(device), **numbers}, indent=1) + "\n"
            write_bytes(self.out, text.encode())
        return 0

    def _episode(self) -> int:
        import torch

        from shotseg import encoders, models
        from shotseg.device import pick_device
        from shotseg.encoders.vit import ViT
        from shotseg.evaluation.speed import episode_times

        device = pick_device(self.device)
        name = models.encoder_for(self.method) if self.encoder == "auto" else self.encoder
        options: dict[str, Any] = {} if self.size is None else {"size": self.size}
        if self.method in ("bam", "hdmnet", "pi-clip"):
            options["base_classes"] = tuple(range(15))
        backbone = encoders.load(name, "random")
        if self.method == "pi-clip" or (self.method == "corenet" and isinstance(backbone, ViT)):
            options["clip"] = encoders.load("clip-vit-b16", "random")
        model = models.load(self.method, backbone, **options).to(device)
        if not model.learns:
            raise UsageError(f"--episode: method {self.method!r} is not trained on episodes; leave --episode out")
        times = episode_times(model, device, self.repeats)
        unit = times["two_passes"]
        rows = [(EPISODE[part], f"{1000 * times[part]:.0f} ms", f"{times[part] / unit:.2f}") for part in times]
        title = f"{self.method} on {name}, {model.size} x {model.size}, one episode of one shot"
        table(title, ("what", "time", "of two passes"), rows, numbers=("time", "of two passes"))
        versions = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        return self._written({f"{part}_seconds": seconds for part, seconds in times.items()} | versions, device)


@dataclass
class _Encoding:
    """What the frozen part of a model was last asked for."""

    calls: int = 0
    started: float = 0.0
    images: Any = None


def _watch(model: Any) -> _Encoding:
    """A record that every call of the model's frozen part renews."""
    seen, encode = _Encoding(), model.encode

    def watched(images: Any) -> Any:
        seen.calls, seen.started, seen.images = seen.calls + 1, time.perf_counter(), images
        return encode(images)

    model.encode = watched
    return seen


def _seconds(work: Callable[[], Any]) -> float:
    import torch

    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _folder(segmenter: Any, paths: list[Path], count: int, batch: int) -> dict[str, float]:
    """Photos a second through a folder, and the peak memory after a tenth of it and at its end."""
    from shotseg.runs import PhotoFile, segment_folder

    photos = [PhotoFile(str(paths[i % len(paths)]), f"{i:06d}.jpg", f"{i:06d}") for i in range(count)]
    peaks = []
    with tempfile.TemporaryDirectory() as out, progress("folder", count) as advance:

        def on_record(record: dict) -> None:
            peaks.append(peak_memory())
            advance()

        seconds = _seconds(lambda: segment_folder(segmenter, photos, out, batch=batch, on_record=on_record))
    return {"photos_per_second": count / seconds, "peak_mib_at_tenth": peaks[count // 10], "peak_mib_at_end": peaks[-1]}


def peak_memory() -> float:
    """Peak resident memory of this process in MiB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _show(numbers: dict[str, Any]) -> None:
    height, width = numbers["working_size"]
    rows = [
        ("one support, encoded once", f"{1000 * numbers['support_seconds']:.0f} ms"),
        ("encoder calls for it", str(numbers["support_encoder_calls"])),
        (f"encoder, {width} x {height}", f"{1000 * numbers['encoder_seconds']:.1f} ms"),
        ("everything after it", f"{1000 * numbers['after_encoder_seconds']:.1f} ms"),
        ("  as a part of the encoder", f"{numbers['after_to_encoder']:.2f}"),
        ("whole prediction", f"{1000 * numbers['predict_seconds']:.1f} ms"),
        ("folder, written to disk", f"{numbers['photos_per_second']:.1f} photos/s"),
        ("peak memory after a tenth of it", f"{numbers['peak_mib_at_tenth']:.0f} MiB"),
        ("peak memory at its end", f"{numbers['peak_mib_at_end']:.0f} MiB"),
    ]
    table("", ("what", "value"), rows, numbers=("value",))
