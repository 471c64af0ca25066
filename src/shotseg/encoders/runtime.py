"""What computes the forward pass of a frozen CNN on a CPU: the fastest form whose maps are the same.

use(encoder)                  # ONNX Runtime where it is installed, else torch with batch norm folded
encoder(images)               # as before; encoder.extract and its gradients stay torch's own

A form is made in memory in about a second and takes the place of torch only after its maps of trial photos agree with torch's.
"""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.device import one_thread_each
from shotseg.encoders import int8
from shotseg.encoders.copies import over_the_same_weights
from shotseg.encoders.features import Encoder
from shotseg.encoders.weights import digest
from shotseg.errors import UsageError, first_line, note, one_of

# What is asked for -> what is tried, one after the other.
INSTEAD = {"auto": ("onnxruntime", "torch"), "torch": ("torch",), "onnxruntime": ("onnxruntime", "torch")}
INSTEAD["onnxruntime-int8"] = ("onnxruntime-int8", "onnxruntime", "torch")
RUNTIMES = tuple(INSTEAD)
TOLERANCE = 1e-4  # of a map's largest value; two orders above what is seen
ALIKE = 0.95  # mean cosine of a map in 8 bits with that of torch, of photos that it was not made with; seen are 0.99
# (batch, height, width). What is fixed at the size of the tracing is wrong at another: whole strides, odd sides, another batch.
TRACED, TRIALS = (2, 64, 96), ((1, 96, 64), (3, 63, 97))
KEPT = 2  # forms for the next encoder of equal weights in this process

Maps = tuple[Tensor, ...]
Form = Callable[[Tensor], Maps]
_made: OrderedDict[tuple[str, ...], Form] = OrderedDict()
_making = threading.Lock()


def use(encoder: Encoder, runtime: str = "auto") -> None:
    """Let ``runtime`` compute ``encoder(images)`` on a CPU; ``encoder.runtime`` then says what does.

    runtime: a name of ``RUNTIMES``. "auto" is ONNX Runtime where it is installed, else torch. Networks that are no CNN, other
             devices, and networks whose maps do not agree stay with torch as it is; where ONNX Runtime was asked for, a line
             says why. "onnxruntime-int8" counts in 8 bits: its maps are nearly the same.
    The weights must not change afterwards. Raises UsageError for an unknown name.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r}{one_of(runtime, RUNTIMES)}")
    encoder.fast, encoder.runtime = None, "torch"
    if not encoder.convolutional or encoder.mean.device.type != "cpu":
        reasons = ["it is no CNN" if not encoder.convolutional else f"it is on {encoder.mean.device}"]
    else:
        reasons = []
        for name in INSTEAD[runtime]:
            reasons.append(_took(encoder, name))
            if encoder.fast is not None:
                break
    if reasons[0] and runtime not in ("auto", "torch"):
        note(f"encoder {encoder.name}: {runtime} cannot be used ({reasons[0]}), {encoder.runtime} is")


def _took(encoder: Encoder, name: str) -> str:
    """Give the encoder that form. Why it could not be, in one line; empty where it could."""
    key = (name, type(encoder).__qualname__, encoder.name, digest(encoder))
    with _making, one_thread_each():
        try:
            if key not in _made:
                _made[key] = FORMS[name](encoder)
        except ImportError as error:
            return f"{first_line(error)}; pip install 'shotseg[onnx]'"
        except Exception as error:  # whatever an exporter or a runtime raises for a network that it does not take
            return first_line(error)
        _made.move_to_end(key)
        while len(_made) > KEPT:
            _made.popitem(last=False)
        encoder.fast, encoder.runtime = _made[key], name
    return ""


@torch.no_grad()
def _agreeing(fast: Form, encoder: Encoder) -> Form:
    """``fast``, tried. Raises ValueError where its maps are not the encoder's."""
    for sides in TRIALS:
        photos = _photos(*sides)
        for theirs, ours in zip(encoder.extract(photos).maps, fast(photos), strict=True):
            if theirs.shape != ours.shape or not (theirs - ours).abs().max() <= TOLERANCE * theirs.abs().max():
                raise ValueError("its maps are others than torch's")
    return fast


def _photos(batch: int, height: int, width: int) -> Tensor:
    """Noise, the same every time; the caller's random numbers stay as they are."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


class FoldedTorch:
    """torch with batch norm folded into the convolutions, channels last; threads share it.

    Calls take normalised photos (B, 3, H, W) and give the maps of ``encoder.extract``, contiguous.
    """

    def __init__(self, encoder: Encoder):
        laid = copy.deepcopy(encoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with _quiet():
            self._run = torch.jit.freeze(torch.jit.trace(_MapsOf(laid).eval(), _photos(*TRACED), check_trace=False))

    def __call__(self, normalised: Tensor) -> Maps:
        return self._run(normalised.contiguous(memory_format=torch.channels_last))

    def __deepcopy__(self, memo: dict) -> FoldedTorch:
        return self


class OnnxRuntime:
    """The same by ONNX Runtime, with as many threads as torch has at the time of the call.

    model: of :func:`exported`, or of such as was quantised.
    """

    def __init__(self, model: bytes):
        import onnxruntime

        self._runtime, self._model = onnxruntime, model
        self._opened: Any = None
        self._threads = 0
        self._opening = threading.Lock()

    def __call__(self, normalised: Tensor) -> Maps:
        session = self._session(torch.get_num_threads())
        return tuple(
            torch.from_numpy(found) for found in session.run(None, {"photos": normalised.contiguous().numpy()})
        )

    def __deepcopy__(self, memo: dict) -> OnnxRuntime:
        return self

    def _session(self, threads: int) -> Any:
        with self._opening:
            if self._threads != threads:  # the one before goes: each has its own copy of the weights, 50 MB and more
                self._opened, self._threads = None, 0
                options = self._runtime.SessionOptions()
                options.intra_op_num_threads, options.log_severity_level = threads, 3
                # Threads that wait by spinning take the cores from those that read and write photos.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                on_cpu = ["CPUExecutionProvider"]
                self._opened = self._runtime.InferenceSession(self._model, options, providers=on_cpu)
                self._threads = threads
            return self._opened


def _in_8_bits(encoder: Encoder) -> OnnxRuntime:
    """Made with most of the demo's photos, and tried with the others. Raises ValueError where its maps are not the encoder's.

    A processor without VNNI adds two products in 16 bits, which overflow: there weights of 7 bits are taken.
    """
    photos = [(photo - encoder.mean) / encoder.std for photo in int8.demo_photos()]
    seen, unseen = photos[::2] + photos[1::4], photos[3::4]
    for bits in (8, 7):
        form = OnnxRuntime(int8.kept(digest(encoder), bits, lambda: exported(encoder), [x.numpy() for x in seen]))
        if all(_alike(form, encoder, photo) for photo in unseen):
            return form
    raise ValueError("its maps are others than torch's")


@torch.no_grad()
def _alike(form: OnnxRuntime, encoder: Encoder, photo: Tensor) -> bool:
    return all(
        theirs.shape == ours.shape and bool(F.cosine_similarity(theirs, ours).mean() >= ALIKE)
        for theirs, ours in zip(encoder.extract(photo).maps, form(photo), strict=True)
    )


FORMS: dict[str, Callable[[Encoder], Form]] = {
    "onnxruntime": lambda encoder: _agreeing(OnnxRuntime(exported(encoder)), encoder),
    "onnxruntime-int8": _in_8_bits,
    "torch": lambda encoder: _agreeing(FoldedTorch(encoder), encoder),
}


def exported(encoder: Encoder) -> bytes:
    """The encoder from normalised "photos" to its maps as an ONNX model, of any batch and size."""
    file = io.BytesIO()
    axes = {"photos": {0: "batch", 2: "height", 3: "width"}}
    # The exporter prints whole graphs on stdout where it fails: it takes the function that says whether to for its answer.
    with _quiet(), mock.patch.object(torch._C, "_jit_is_onnx_log_enabled", None, create=True):
        # torch's newer exporter takes minutes where the size is open.
        torch.onnx.export(
            _MapsOf(same_padding_by_name(encoder)).eval(),
            (_photos(*TRACED),),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=["photos"],
            dynamic_axes=axes,
        )
    return file.getvalue()


class _MapsOf(nn.Module):
    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, normalised: Tensor) -> Maps:
        return tuple(found.contiguous() for found in self.encoder.extract(normalised).maps)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without gradient, and without what tracers say of sizes that they take for fixed: the trials find out."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same_padding_by_name(encoder: Encoder) -> Encoder:
    """A copy over the same weights whose convolutions say "SAME" to ONNX, which knows it.

    As arithmetic on the photo's size it keeps the runtime from fusing around it, a fifth of the time.
    """
    named = over_the_same_weights(encoder)
    for module in named.modules():
        if isinstance(module, Conv2dSame):
            module.forward = partial(_same, module)  # type: ignore[method-assign]
    return named


def _same(module: Conv2dSame, photos: Tensor) -> Tensor:
    found = _Same.apply(photos, module.weight, module.stride, module.dilation, module.groups)
    return found if module.bias is None else found + module.bias[:, None, None]


class _Same(torch.autograd.Function):
    """A convolution of "SAME" padding without bias that the exporter writes as one node; run, it has the right size alone."""

    @staticmethod
    def forward(ctx: Any, photos: Tensor, weight: Tensor, stride: Any, dilation: Any, groups: int) -> Tensor:
        around = [step * (side // 2) for step, side in zip(dilation, weight.shape[2:])]
        return F.conv2d(photos, weight, None, stride, around, dilation, groups)

    @staticmethod
    def symbolic(graph: Any, photos: Any, weight: Any, stride: Any, dilation: Any, groups: int) -> Any:
        how = {"strides_i": stride, "dilations_i": dilation, "group_i": groups}
        return graph.op("Conv", photos, weight, auto_pad_s="SAME_UPPER", **how)
