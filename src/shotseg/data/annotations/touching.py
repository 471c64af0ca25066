"""Objects of one class that touch, cut apart at their necks: by the shape of the mask alone, without a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from shotseg.data.annotations.outlines import parts

NECK = 0.75  # of the thinner side's thickness: a narrower place divides two objects, a wider one is a waist
THIN = 0.25  # of the thickest object that it is joined to: what is thinner is a limb or a frayed edge of it
LEAST = 3.0  # pixels from an object's middle to its edge, below which a mask's stairs look like necks
FINEST = 512  # pixels of a part's longer side at which necks are looked for


def objects(mask: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """(h, w) bool of each object of a mask (H, W) bool, cropped to its box, with the box's top and left.

    A connected part is divided where its neck is narrower than ``NECK`` of the thickness of the thinner side: thickness is
    the largest distance to the edge. Every pixel of the mask belongs to one object.
    """
    for part, top, left in parts(mask):
        numbered = _divided(part)
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            yield numbered[box] == number, top + box[0].start, left + box[1].start


def _divided(part: np.ndarray) -> np.ndarray:
    """(h, w) int32: the objects of one connected part, from 1."""
    from skimage.segmentation import watershed

    step = -(-max(part.shape) // FINEST)
    small = np.pad(part[::step, ::step], 1)
    distance = ndimage.distance_transform_edt(small)
    cores, count = ndimage.label(_cores(distance, LEAST / step), np.ones((3, 3)))
    if count < 2:
        return part.astype(np.int32)
    found = watershed(-distance, cores, mask=small)[1:-1, 1:-1]
    if step == 1 and (found > 0)[part].all():
        return found
    # What was too small to be seen goes to the nearest object.
    rows, columns = ndimage.distance_transform_edt(found == 0, return_distances=False, return_indices=True)
    whole = found[rows, columns].repeat(step, 0).repeat(step, 1)
    return np.where(part, whole[: part.shape[0], : part.shape[1]], 0)


def _cores(distance: np.ndarray, least: float) -> np.ndarray:
    """The peaks of a distance map between any two of which it falls below ``NECK`` of the lower one.

    They are the h-maxima of its logarithm, since there a share is a height.
    """
    from skimage.morphology import local_maxima, reconstruction

    height = -np.log(NECK)
    level = np.full(distance.shape, -2 * height)
    np.log(distance, out=level, where=distance > 0)
    peaks = local_maxima(reconstruction(level - height, level))
    return peaks & (distance >= max(least, THIN * float(distance.max())))
