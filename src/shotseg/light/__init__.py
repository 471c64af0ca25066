"""What `shotseg export` wrote, at work without torch: NumPy, Pillow and ONNX Runtime."""

from __future__ import annotations

from shotseg.light.exported import OnnxSegmenter

__all__ = ["OnnxSegmenter"]
