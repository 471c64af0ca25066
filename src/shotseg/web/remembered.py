"""What was predicted, kept so that the list of photos is in order at once after a start; the masks are decided again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from shotseg.data.images import write_bytes

if TYPE_CHECKING:
    from shotseg.web.project import Project

FILE = "predicted.json"


def keep(project: Project) -> None:
    """Raises InputError where it cannot be written."""
    known = {
        photo.id: {"confidence": photo.confidence, "present": photo.present, "areas": photo.areas, "size": photo.size}
        for photo in project.said.photos.values()
        if photo.state == "predicted"
    }
    write_bytes(project.folder / "encoded" / FILE, json.dumps(known).encode())


def restore(project: Project) -> None:
    """What cannot be read is predicted again all the same."""
    try:
        known = dict(json.loads((project.folder / "encoded" / FILE).read_bytes()))
        for id, found in known.items():
            photo = project.said.photos.get(id)
            if photo is not None and photo.state in ("open", "predicted") and list(photo.size) == found["size"]:
                photo.confidence, photo.state = float(found["confidence"]), "predicted"
                photo.present, photo.areas = (
                    {int(n): float(x) for n, x in found[k].items()} for k in ("present", "areas")
                )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
