"""What results.jsonl says of one photo."""

from __future__ import annotations

from typing import Any

from shotseg.result import Result


def record_of(result: Result | None) -> dict[str, Any]:
    """The part of a photo's line that is about what was found; None: it could not be segmented, and all is null.

    classes: area and confidence of each class that covers any pixel.     class: the largest of them, null where there is
    none.         area: of that class.         confidence: of the photo.         present: of every class the probability that
    it is in the photo.
    """
    if result is None:
        return {"class": None, "area": None, "confidence": None, "classes": {}, "present": {}}
    areas = {name: area for name, area in result.areas.items() if area > 0}
    main = max(areas, key=areas.__getitem__, default=None)
    classes = {
        name: {"area": round(area, 6), "confidence": round(result.confidences[name], 6)} for name, area in areas.items()
    }
    area = 0.0 if main is None else classes[main]["area"]
    present = {name: round(result.present[name], 4) for name in result.classes}
    confidence = round(result.confidence, 6)
    return {"class": main, "area": area, "confidence": confidence, "classes": classes, "present": present}
