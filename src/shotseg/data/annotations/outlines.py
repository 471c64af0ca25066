"""The connected parts of a mask, their outlines as polygons, and outlines filled again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def stairs(part: np.ndarray, top: int = 0, left: int = 0) -> list[np.ndarray]:
    """The outline and holes of a mask (h, w) bool along the edges of its pixels, (N, 2) int64 x, y each.

    A pixel edge runs from corner to corner: the corners of a row of them pair up, and so do those of a column. Where two pixels
    touch by a corner alone, two corners lie in one place.
    """
    around = np.pad(part, 1)
    over, under = around[:-1], around[1:]
    odd = over[:, :-1] ^ over[:, 1:] ^ under[:, :-1] ^ under[:, 1:]
    touch = (over[:, :-1] == under[:, 1:]) & (over[:, 1:] == under[:, :-1]) & (over[:, 1:] != under[:, 1:])
    corners = np.argwhere(odd | touch)
    corners = corners.repeat(1 + touch[tuple(corners.T)], axis=0)
    order = np.lexsort((corners[:, 0], corners[:, 1]))
    across = np.empty(
        len(order), np.int64
    )  # the other end of a corner's vertical edge; that of its horizontal one is i ^ 1
    across[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    found, waiting, turns = [], bytearray(b"\1") * len(order), across.tolist()
    for first in range(len(order)):
        ring, at = list[int](), first
        while waiting[at]:
            ring += [at, at ^ 1]
            waiting[at] = waiting[at ^ 1] = 0
            at = turns[at ^ 1]
        if ring:
            found.append(corners[ring][:, ::-1] + np.array([left, top]))
    return found


def filled(rings: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """(H, W) bool: the pixels whose middle lies within closed outlines, (N, 2) x, y each; one within another is a hole.

    Of a middle on an edge it is as in ImageJ: an edge at the right of the area has it, one at the left has not.
    Raises ValueError for coordinates that are no numbers, and for more crossings than a photo can have.
    """
    start = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
    end = np.concatenate([np.roll(np.asarray(ring, np.float64), -1, axis=0) for ring in rings])
    if not np.isfinite(start).all():
        raise ValueError("coordinates that are no numbers, or not on the map")
    upward = end[:, 1] < start[:, 1]
    start[upward], end[upward] = end[upward], start[upward]
    first, last = (np.ceil(ends[:, 1] - 0.5).clip(0, height).astype(np.int64) for ends in (start, end))
    count = last - first
    if count.sum() > 4 * height * (width + 1):
        raise ValueError("an outline that crosses the photo too often")
    edge = np.arange(len(count)).repeat(count)
    row = np.arange(len(edge)) - (np.cumsum(count) - count)[edge] + first[edge]
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    column = np.floor(x + (row + 0.5 - y) * dx / dy + 0.5 + 1e-8).clip(0, width).astype(np.int64)
    mask = np.zeros((height, width), bool)
    if len(edge):
        top, left = row.min(), column.min()
        size = row.max() - top + 1, column.max() - left + 1
        flips = np.bincount((row - top) * size[1] + column - left, minlength=size[0] * size[1]).reshape(size)
        within = np.cumsum(flips, axis=1) % 2 == 1
        mask[top : top + size[0], left : left + size[1]] = within[:, : width - left]
    return mask
