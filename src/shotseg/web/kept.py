"""Encoded photos of a project: a few in memory, many on disk, each made again where it is missing or of another photo."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shotseg.errors import InputError, ShotsegError, note
from shotseg.web.said import PagePhoto

if TYPE_CHECKING:  # slow to load
    from shotseg.encoded import Encoded
    from shotseg.models.presence import Answers
    from shotseg.segmenter import Segmenter

IN_MEMORY = 8  # photos
ANSWERS = 96 * 2**20  # bytes of what classes said of photos: of 1,000 photos and two classes, or more


class Kept:
    """folder: of the files; most: their bytes together, the oldest make room. Threads may share it, each at another photo."""

    def __init__(self, folder: Path, most: int = 8 * 2**30):
        self.folder, self.most = folder, most
        self._recent: OrderedDict[Path, Encoded] = OrderedDict()
        self._answers: dict[Path, tuple[int, Answers]] = {}  # and their bytes
        self._room = ANSWERS
        self._sizes: dict[Path, int] = {}
        self._full = False  # the disk took no more the last time
        self._lock = threading.Lock()
        files = [(path.stat().st_mtime_ns, path) for path in folder.glob("*.safetensors")] if folder.is_dir() else []
        for _, path in sorted(files):
            self._sizes[path] = path.stat().st_size

    def path(self, photo: PagePhoto) -> Path:
        """Where it is kept: another photo under the same name has another place. Raises InputError where there is none."""
        try:
            stat = photo.path.stat()
        except OSError as error:
            raise InputError(f"{photo.file}: {error.strerror}; put the photo back, or export without it") from None
        state = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:8]
        return self.folder / f"{photo.id}-{state}.safetensors"

    def has(self, photo: PagePhoto) -> bool:
        try:
            return self.path(photo) in self._sizes
        except InputError:
            return False

    def encoded(self, photo: PagePhoto, segmenter: Segmenter) -> Encoded:
        """Raises InputError for a photo that cannot be read."""
        from shotseg.models.presence import prepare

        path = self.path(photo)
        encoded = self._recent.get(path) or self._loaded(path, segmenter)
        if encoded is None:
            encoded = segmenter.encode(photo.path)
            prepare(segmenter.model, encoded.features)  # it will be decided many times
            if self._save(encoded, path):
                return encoded  # it holds many pixels of the photo: the next time it is loaded without
        with self._lock:
            self._recent[path] = encoded
            self._recent.move_to_end(path)
            if len(self._recent) > IN_MEMORY:
                self._recent.popitem(last=False)
        return encoded

    def _loaded(self, path: Path, segmenter: Segmenter) -> Encoded | None:
        """None where it is of another setting too."""
        if path not in self._sizes:
            return None
        from shotseg.encoded import Encoded

        try:
            encoded = Encoded.load(path)
        except ShotsegError:
            return None
        if encoded.by != segmenter.encodes_as:
            return None
        with self._lock:
            known = self._answers.get(path)
        return encoded if known is None else replace(encoded, answers=known[1])

    def answered(self, photo: PagePhoto, answers: Answers) -> None:
        """Keep what the classes said of a photo, if there is room: the next time only those are asked that changed."""
        from shotseg.models.presence import bytes_of

        path, size = self.path(photo), bytes_of(answers)
        with self._lock:
            self._room += self._answers.pop(path, (0, {}))[0]
            if size <= self._room:
                self._answers[path] = size, answers
                self._room -= size

    def _save(self, encoded: Encoded, path: Path) -> bool:
        """Whether it could be kept; that it could not costs time, nothing else."""
        try:
            encoded.save(path)
            size = path.stat().st_size
        except (ShotsegError, OSError) as error:
            if not self._full:  # the next thousand would say the same
                note(str(error))
            self._full = True
            return False
        self._full = False
        with self._lock:
            self._sizes.pop(path, None)
            self._sizes[path] = size
            while sum(self._sizes.values()) > self.most and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                self._sizes.pop(oldest)
                oldest.unlink(missing_ok=True)
        return True
