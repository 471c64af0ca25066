"""An export tried before it is written: at sizes and counts that it was not traced with it must decide as torch does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from shotseg.data.samples import Support
from shotseg.exporting.decision import features_of
from shotseg.exporting.graphs import Example, example_of
from shotseg.models import presence

TRIALS = ((1, 128, 224), (1, 224, 96))  # whole for strides up to 32
TOLERANCE = 0.01  # mean difference of log odds: noise has pixels at which everything turns on the last digit


def check(model: Any, strides: tuple[int, ...], made: Mapping[str, bytes]) -> None:
    """Raises ValueError where scores are others than torch's, and whatever ONNX Runtime raises where it cannot run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    run = {
        name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for name, graph in made.items()
        if name != "learn"
    }
    for classes, sides in enumerate(TRIALS, 1):
        example = example_of(model, sides, classes, shots=1)
        photo = {"photo": example.photo.numpy()}
        found = dict(zip(example.features, run["encoder"].run(list(example.features), photo)))
        given = {**photo, "threshold": np.array(-1, np.float32), **found}
        given |= {name: x.numpy() for name, x in example.support.items()}
        known = {node.name for node in run["decide"].get_inputs()}
        (scores,) = run["decide"].run(["scores"], {name: x for name, x in given.items() if name in known})
        expected = _expected(model, strides, example, classes)
        if scores[0].shape != expected.shape:
            raise ValueError(f"scores {scores[0].shape} where torch has {expected.shape}")
        if not np.abs(scores[0] - expected).mean() <= TOLERANCE:
            raise ValueError("its log odds are others than torch's at another size")


def _expected(model: Any, strides: tuple[int, ...], example: Example, classes: int) -> np.ndarray:
    supports = [Support({name: x[i : i + 1] for name, x in example.support.items()}) for i in range(classes)]
    query = features_of(example.features, strides)
    with torch.no_grad():
        return presence.decide(model, query, supports, example.photo, threshold=None).scores.numpy()
