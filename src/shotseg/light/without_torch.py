"""What ``shotseg.Segmenter`` is where torch is not installed: the way to an export, and a line that says so."""

from __future__ import annotations

from typing import Any

from shotseg.errors import UsageError
from shotseg.light.exported import OnnxSegmenter


class Segmenter:
    """``Segmenter.from_onnx(folder)`` works; all else takes torch."""

    from_onnx = OnnxSegmenter

    def __init__(self, *arguments: Any, **options: Any):
        raise UsageError("torch is not installed: give an export to Segmenter.from_onnx, or pip install shotseg")
