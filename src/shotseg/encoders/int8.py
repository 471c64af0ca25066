"""An encoder in whole numbers of 8 bits: what ONNX Runtime makes of its graph and of the values seen in a few photos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from shotseg.data import images as files
from shotseg.data import transforms
from shotseg.encoders.weights import own_folder
from shotseg.errors import ShotsegError

SIZE = 384  # longer side of the photos, in pixels
MADE = 1  # goes up with every change of how it is made


@cache
def demo_photos() -> list[Tensor]:
    """(1, 3, h, w) in [0, 1] each, upright and lying: the photos of the demo, which are in every installation."""
    paths = sorted(Path(str(resources("shotseg").joinpath("demo_data"))).rglob("images/**/*.jpg"))
    return [transforms.fit(files.read_image(path), SIZE, 32)[0][None] for path in paths]


def quantised(model: bytes, photos: Sequence[np.ndarray], bits: int = 8) -> bytes:
    """An ONNX model whose weights have 8 bits, with a scale for each channel, and whose maps have, between extremes over photos.

    model: an ONNX model of one input, "photos".   photos: (1, 3, h, w) float32, as it takes them.
    bits: 7 leaves a bit of the weights unused, so that no sum of two products overflows 16 bits.
    Raises ImportError where the library that makes it is not installed.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as place:
        given, fused, found = (str(Path(place, name)) for name in ("given.onnx", "fused.onnx", "found.onnx"))
        Path(given).write_bytes(model)
        quant_pre_process(given, fused, skip_symbolic_shape=True)
        kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
        how = {"per_channel": True, "reduce_range": bits == 7}
        quantization.quantize_static(fused, found, _Reader(photos), **how, **kinds)
        return Path(found).read_bytes()


class _Reader:
    """The photos, one at each call, in the form in which they are asked for."""

    def __init__(self, photos: Sequence[np.ndarray]):
        self._rest = iter(photos)

    def get_next(self) -> dict[str, np.ndarray] | None:
        photo = next(self._rest, None)
        return None if photo is None else {"photos": photo}


def kept(digest: str, bits: int, model: Callable[[], bytes], photos: Sequence[np.ndarray]) -> bytes:
    """:func:`quantised`, from the disk where it was made there before, by these versions, of weights of this digest.

    A file that is not as it was written is made again; a disk that takes none costs seconds at the next start, nothing else.
    """
    made_by = (digest, str(bits), str(MADE), torch.__version__, version("onnxruntime"))
    path = own_folder() / "int8" / f"{hashlib.sha256(repr(made_by).encode()).hexdigest()[:32]}.onnx"
    with suppress(OSError):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() == stored[:32]:
            return stored[32:]
    made = quantised(model(), photos, bits)
    with suppress(ShotsegError):
        files.write_bytes(path, hashlib.sha256(made).digest() + made)
    return made
