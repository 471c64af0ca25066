"""The folder that `shotseg export` writes: what it says of itself, and its graphs at work."""

from __future__ import annotations

import json
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data import images as files
from shotseg.errors import InputError, UsageError, first_line

FORMAT = "shotseg-export-1"
ABOUT = "export.json"
NEEDED = {"method", "encoder", "options", "size", "geometry", "multiple"}


class Exported:
    """An exported method. Raises InputError where the folder is none, UsageError where ONNX Runtime is missing.

    about: the content of export.json, see docs/onnx.md.   threads: of ONNX Runtime; 0: as many as there are cores.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        self.folder, self.threads = Path(folder), threads
        path = self.folder / ABOUT
        try:
            self.about = json.loads(files.read_bytes(path))
            known = self.about["format"] == FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not what shotseg export writes ({first_line(error)}); export again") from None
        if not known:
            raise InputError(f"{path}: not of this version; export again with `shotseg export`")
        if missing := sorted(NEEDED - self.about.keys()):
            raise InputError(f"{path}: says no {missing[0]}; export again with `shotseg export`")
        self._opening = threading.Lock()
        self._sessions: dict[str, Any] = {}

    def open(self) -> None:
        """Make ready all that photos need. Raises InputError for a damaged file, once and not with each photo."""
        for graph in ("encoder", "decide", *(["learn"] if self.teaches else [])):
            self._session(graph)

    def run(self, graph: str, **given: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of encoder, decide or learn by name; inputs that it does not know are left out."""
        session = self._session(graph)
        wanted = {node.name for node in session.get_inputs()}
        names = [node.name for node in session.get_outputs()]
        feed = {name: value for name, value in given.items() if name in wanted}
        return dict(zip(names, session.run(names, feed)))

    @cached_property
    def teaches(self) -> bool:
        """Whether classes can be learnt from photos and masks here."""
        return (self.folder / "learn.onnx").is_file()

    def _session(self, graph: str) -> Any:
        with self._opening:
            if graph not in self._sessions:
                self._sessions[graph] = self._opened(self.folder / f"{graph}.onnx")
            return self._sessions[graph]

    def _opened(self, path: Path) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise UsageError(f"{path}: ONNX Runtime is not installed; pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        # Threads that wait by spinning take the cores from those that read and write photos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(files.read_bytes(path), options, providers=["CPUExecutionProvider"])
        except InputError:
            raise
        except Exception as error:  # whatever ONNX Runtime raises for a file that is none of its own
            raise InputError(f"{path}: not a readable ONNX file ({first_line(error)}); export again") from None
