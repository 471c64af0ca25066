"""The connected parts of a mask and their outlines as polygons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

EXACT = 0.25  # the outline passes pixels' centres at 0.35, of which COCO's rule, that counts in fifths, needs 0.1


def parts(mask: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """(h, w) bool of each connected part (diagonals connect), cropped to its box, with the box's top and left."""
    numbered, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        yield numbered[box] == number, box[0].start, box[1].start


def outline(part: np.ndarray, top: int = 0, left: int = 0, tolerance: float = 0.4) -> np.ndarray:
    """(N, 2) x, y of one connected part, where pixel (0, 0) covers the square from 0 to 1.

    Holes are joined to the outline by a bridge of no width, so that one polygon, filled by parity, gives them too.
    ``tolerance``: how many pixels the polygon may leave the outline; up to ``EXACT`` the mask comes back to the pixel.
    """
    from scipy.spatial import KDTree  # slow to load, and only polygons need them

    joined, *holes = rings(part, top, left, tolerance)
    for hole in holes:
        distances, nearest = KDTree(hole).query(joined)
        at, to = int(distances.argmin()), int(nearest[distances.argmin()])
        joined = np.concatenate([joined[: at + 1], hole[to:], hole[: to + 1], joined[at:]])
    return joined


def rings(part: np.ndarray, top: int = 0, left: int = 0, tolerance: float = 0.4) -> list[np.ndarray]:
    """The outline of one connected part as for :func:`outline`, and then its holes, each (N, 2)."""
    from skimage.measure import find_contours  # slow to load

    contours = find_contours(np.pad(part, 1).astype(np.float32), 0.5, fully_connected="high")
    found = [_simplified(contour, tolerance)[:, ::-1] - 0.5 for contour in contours]
    found.sort(key=lambda ring: float(np.prod(np.ptp(ring, axis=0))), reverse=True)
    return [ring + np.array([left, top]) for ring in found]


def _simplified(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed contour, its end point dropped, with fewer points; very small ones stay as they are."""
    from skimage.measure import approximate_polygon

    fewer = approximate_polygon(contour, tolerance)
    return (fewer if len(fewer) > 4 else contour)[:-1]
