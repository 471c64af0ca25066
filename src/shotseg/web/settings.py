"""project.json: what a project is started with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from shotseg.data.images import write_bytes
from shotseg.errors import UsageError


def photos_folder(project: Path, photos: str | Path | None) -> Path | None:
    """The folder of the photos: ``photos``, which is noted for the next time, or what was noted; None where there is none.

    It is noted relative to the project, so that both can be moved together. Raises UsageError where it is not there.
    """
    about = project / "project.json"
    kept: dict[str, Any] = {}
    if about.exists():
        try:
            kept = dict(json.loads(about.read_bytes()))
        except (ValueError, TypeError, OSError):
            raise UsageError(f"{about}: not a project's settings; mend it, or choose another folder") from None
    chosen = kept.get("photos") if photos is None else os.path.relpath(photos, project)
    if chosen is None:
        return None
    folder = Path(os.path.normpath(project / str(chosen)))
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder of the photos with --photos")
    if kept.get("photos") != chosen:
        write_bytes(about, json.dumps({**kept, "photos": chosen}, indent=1).encode() + b"\n")
    return folder
