"""Superpixels from scikit-image: SLIC (Achanta et al., 2012) and Felzenszwalb and Huttenlocher (2004)."""

from __future__ import annotations

import numpy as np
from skimage import segmentation
from torch import Tensor


def slic(image: np.ndarray, segments: int = 50, compactness: float = 10.0) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) int64 labels from 0: about ``segments`` connected regions of like colour (Lab)."""
    return segmentation.slic(image, n_segments=segments, compactness=compactness, start_label=0).astype(np.int64)


def felzenszwalb(
    image: np.ndarray, scale: float = 300.0, sigma: float = 0.8, min_size: int | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) int64 labels from 0. ``min_size``: pixels, default half a percent of the image."""
    smallest = max(1, image.shape[0] * image.shape[1] // 200) if min_size is None else min_size
    return segmentation.felzenszwalb(image, scale=scale, sigma=sigma, min_size=smallest).astype(np.int64)


def region_average(features: Tensor, labels: Tensor) -> Tensor:
    """features (C, H, W), labels (H, W) int64 in 0..R-1, none empty -> (R, C), the mean feature of every region."""
    flat, region = features.flatten(1), labels.flatten()
    sums = flat.new_zeros(int(region.max()) + 1, flat.shape[0]).index_add(0, region, flat.mT)
    return sums / region.bincount()[:, None]
