"""``shotseg export``: a method as ONNX files that take the class as an input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotseg.cli.parsing import must_exist
from shotseg.errors import UsageError


@dataclass(frozen=True)
class Export:
    """A method as ONNX files, which run without torch and serve every class.

    Writes encoder.onnx, decide.onnx, export.json, and of matching learn.onnx, with which classes can be added. Classes are no
    part of it: they are inputs, from a file of Segmenter.save, or learnt in place.

    example: shotseg export --out exported
    """

    out: Path
    """Folder of the export."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" is the method's own, for most the one that needs no download."""
    checkpoint: Path | None = None
    """A trained model (best.safetensors of a run); it says method and encoder itself."""
    size: int | None = None
    """Longer side, in pixels, at which the method works."""

    def run(self) -> int:
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: must be 1 or more")
        must_exist(checkpoint=self.checkpoint)
        from shotseg.data.writable import check_out
        from shotseg.exporting import export
        from shotseg.segmenter import Segmenter

        check_out(self.out, folder=True)
        options: dict[str, Any] = {} if self.size is None else {"size": self.size}
        segmenter = Segmenter(self.method, self.encoder, "cpu", self.checkpoint, runtime="torch", **options)
        export(segmenter, self.out)
        print(f"{segmenter.method} on {segmenter.encoder} in {self.out}; masks without torch:")
        print(f"python -m shotseg.light.command {self.out} --support CLASSES.safetensors --query PHOTOS --out RESULT")
        return 0
