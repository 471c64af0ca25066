"""What results.jsonl says of one photo."""

from __future__ import annotations

from typing import Any

from shotseg.result import Result


def record_of(result: Result | None) -> dict[str, Any]:
    """The part of a photo's line that is about what was found; None: it could not be segmented, and all is null.

    classes: area and confidence of each class that covers any pixel.     class: the largest of them, null where there is
    none.         area: of that class.         confidence: of the photo.
    """
    if result is None:
        return {"class": None, "area": None, "confidence": None, "classes": {}}
    areas = {name: area for name, area in result.areas.items() if area > 0}
    main = max(areas, key=areas.__getitem__, default=None)
    classes = {
        name: {"area": round(area, 6), "confidence": round(result.confidences[name], 6)} for name, area in areas.items()
    }
    area = 0.0 if main is None else classes[main]["area"]
    return {"class": main, "area": area, "confidence": round(result.confidence, 6), "classes": classes}
