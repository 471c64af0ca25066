"""Methods as ONNX files that take the class as an input: one export serves every class, without torch (docs/onnx.md)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from shotseg import __version__
from shotseg.data import images as files
from shotseg.encoders.weights import digest
from shotseg.errors import UsageError, first_line
from shotseg.exporting import graphs, trial
from shotseg.light.sessions import ABOUT, FORMAT
from shotseg.models.matching import Matching
from shotseg.segmenter import Segmenter

LARGEST = 2**14  # longer side: no machine runs the graph above it
SMALLEST = 128  # below it the deepest maps have too few cells for the graph that is traced


@torch.no_grad()
def export(segmenter: Segmenter, out: str | Path) -> dict[str, Any]:
    """Write encoder.onnx, decide.onnx, where classes can be learnt without torch learn.onnx, and export.json; gives the last's
    content.

    Raises UsageError for a method that has no ONNX form, saying which operator stops it.
    """
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise UsageError(f"export needs {missing[0]}: pip install 'shotseg[onnx]'")
    model = segmenter.model
    if segmenter.device.type != "cpu":
        raise UsageError(f"export on {segmenter.device}: give --device cpu; what is written runs anywhere")
    if model.asks:
        raise UsageError(f"{segmenter.method} asks for {', '.join(model.asks)} with each photo, which no graph takes")
    if isinstance(model, Matching) and (model.bases is not None or model.backward or model.clusters):
        raise UsageError("positions, backward and clusters of matching have no ONNX form; export without them")
    if not SMALLEST <= model.size <= LARGEST:
        raise UsageError(f"size {model.size}: export with {SMALLEST} to {LARGEST}")
    strides = model.encode(torch.zeros(1, 3, *graphs.OTHER[1:])).strides
    example, other = (
        graphs.example_of(model),
        graphs.example_of(model, graphs.OTHER, graphs.CLASSES - 1, graphs.SHOTS - 1),
    )
    axes = {"photo": {0: "batch", 2: "height", 3: "width"}, "mask": {1: "height", 2: "width"}}
    axes |= graphs.axes_of(example.features, other.features, ["batch"])
    axes |= graphs.axes_of(example.support, other.support, ["classes", "shots"])
    made: dict[str, bytes] = {}
    try:
        made["encoder"] = graphs.encoder_graph(model, example, axes)
        made["decide"] = graphs.decide_graph(model, strides, example, axes)
        if isinstance(model, Matching):
            made["learn"] = graphs.learn_graph(model, strides, example, axes)
        trial.check(model, strides, made)
    except Exception as error:  # whatever the exporter raises for an operator that it does not know, or ONNX Runtime
        raise UsageError(f"{segmenter.method} on {segmenter.encoder} has no ONNX form: {first_line(error)}") from None
    about = _about(segmenter, example, axes)
    for name, graph in made.items():
        files.write_bytes(Path(out, f"{name}.onnx"), graph)
    files.write_bytes(Path(out, ABOUT), json.dumps(about, indent=1).encode())
    return about


def _about(segmenter: Segmenter, example: graphs.Example, axes: graphs.Axes) -> dict[str, Any]:
    model = segmenter.model
    tensors = {name: [axes[name].get(i, side) for i, side in enumerate(x.shape)] for name, x in example.support.items()}
    trained = segmenter.checkpoint
    checkpoint = None if trained is None else {"file": str(trained.absolute()), "sha256": files.sha256(trained)}
    about = {
        "format": FORMAT,
        "version": __version__,
        "method": segmenter.method,
        "encoder": segmenter.encoder,
        "options": segmenter.options,
        "encoder_sha256": digest(model.encoder),
        "checkpoint": checkpoint,
        "size": model.size,
        "geometry": model.geometry,
        "multiple": model.encoder.patch,
        "features": list(example.features),
        "class": tensors,
    }
    if isinstance(model, Matching):
        about["middle"] = [model.middle.start, model.middle.stop]
    return about
