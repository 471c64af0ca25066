"""shotseg: segment the things you have few masks for, or none.

Heavy libraries load on first use, so that ``import shotseg`` and ``shotseg --help`` answer at once.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime (from 1.29) and Ray tell their makers how they are used, from the first import on, unless they are told not to.
for _name, _off in (("ORT_DISABLE_TELEMETRY", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
    os.environ.setdefault(_name, _off)

_HOME = {
    "Segmenter": "shotseg.segmenter",
    "OnnxSegmenter": "shotseg.light.exported",
    "Result": "shotseg.result",
    "Labeller": "shotseg.labeller",
    "evaluate": "shotseg.evaluation.door",
    "EvaluationResult": "shotseg.evaluation.outcome",
    "load": "shotseg.segmenter",
    "ShotsegError": "shotseg.errors",
    "list_models": "shotseg.models",
    "list_encoders": "shotseg.encoders",
    "list_datasets": "shotseg.data",
}
__all__ = [
    "EvaluationResult",
    "Labeller",
    "OnnxSegmenter",
    "Result",
    "Segmenter",
    "ShotsegError",
    "__version__",
    "evaluate",
    "list_datasets",
    "list_encoders",
]
__all__ += ["list_models", "load"]

if TYPE_CHECKING:
    from shotseg.data import list_datasets
    from shotseg.encoders import list_encoders
    from shotseg.errors import ShotsegError
    from shotseg.evaluation.door import evaluate
    from shotseg.evaluation.outcome import EvaluationResult
    from shotseg.labeller import Labeller
    from shotseg.light.exported import OnnxSegmenter
    from shotseg.models import list_models
    from shotseg.result import Result
    from shotseg.segmenter import Segmenter, load


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        if name.startswith("_") or "." in name or find_spec(f"shotseg.{name}") is None:
            raise AttributeError(f"module 'shotseg' has no attribute {name!r}")
        return import_module(f"shotseg.{name}")  # as shotseg.errors, whatever was used before
    home = _HOME[name]
    if name == "Segmenter" and find_spec("torch") is None:
        home = "shotseg.light.without_torch"
    return getattr(import_module(home), name)
