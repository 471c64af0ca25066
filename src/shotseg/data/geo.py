"""Where on earth an image lies: kept in masks, and as GeoJSON (RFC 7946) by rasterio, which is an extra."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.images import replacing
from shotseg.errors import InputError, note

WORLD = "OGC:CRS84"  # longitude, latitude in WGS 84: the only coordinates of RFC 7946
KEYS_OF_MAPS = 34735  # the tag of a TIFF that names its CRS
DIGITS = 8  # of a degree: a millimetre


def tags_of(geo: Any) -> tuple[Any, ...]:
    """The tags of GeoTIFF, where the image came with them, for ``tifffile``."""
    if not isinstance(geo, dict):
        return ()
    return tuple((code, kind, count, value, True) for code, (kind, count, value) in geo.items())


def stamp(path: Path, geo: Any) -> None:
    """Write the (CRS, transform) of an image that rasterio read into a TIFF of the same size."""
    if isinstance(geo, tuple):
        import rasterio

        with rasterio.open(path, "r+", driver="GTiff") as raster:
            raster.crs, raster.transform = geo


@dataclass(frozen=True, eq=False)
class Place:
    """Where a photo lies.   crs: of rasterio.   transform: (3, 3), of (column, row, 1) -> (x, y, 1).   size: (height, width)."""

    crs: Any
    transform: np.ndarray
    size: tuple[int, int]

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) as (column, row) of points (N, 2) as (x, y) in its CRS; (0, 0) is the corner of the first pixel."""
        return _mapped(np.linalg.inv(self.transform), points)

    def meets(self, boxes: np.ndarray) -> np.ndarray:
        """(N,) bool: which boxes (N, 4), left, top, right, bottom in its CRS, have a part in it."""
        height, width = self.size
        corners = _mapped(self.transform, np.array([(0, 0), (width, 0), (0, height), (width, height)]))
        return (boxes[:, :2] < corners.max(0)).all(1) & (boxes[:, 2:] > corners.min(0)).all(1)


def place_of(photo: Path) -> Place | None:
    """None for a photo that is no map. Raises InputError for a GeoTIFF where rasterio is not installed."""
    try:
        import rasterio
    except ImportError:
        if _is_map(photo):
            raise InputError(f"{photo}: a map, which rasterio reads; pip install 'shotseg[geo]'") from None
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # most photos are no maps
            with rasterio.open(photo) as raster:
                transform = np.array(raster.transform, np.float64).reshape(3, 3)
                return Place(raster.crs, transform, raster.shape) if raster.crs else None
    except rasterio.errors.RasterioError:
        return None


def _mapped(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:2, :2].T + transform[:2, 2]


def _is_map(photo: Path) -> bool:
    import tifffile

    if photo.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(photo) as file:
            return KEYS_OF_MAPS in file.pages.first.tags
    except (OSError, ValueError):
        return False


def moved(points: Sequence[np.ndarray], named: str | None, to: Any, source: Path) -> list[np.ndarray]:
    """Points (N, 2) each as (x, y) in the CRS ``to``; None: as they are, which are pixels.

    named: the CRS of the points; None: degrees of WGS 84, or where a number is beyond these, ``to`` itself.
    Raises InputError where the name is of no CRS.
    """
    every = np.concatenate(points) if points else np.zeros((0, 2))
    if to is None or not len(every) or (named is None and (np.abs(every) > (180, 90)).any()):
        return list(points)
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    try:
        x, y = transform(CRS.from_user_input(named or WORLD), to, *every.T)
    except CRSError as error:
        raise InputError(f"{source}: its CRS, {named}, is not known; export it in WGS 84") from error
    return np.split(np.stack([x, y], 1), np.cumsum([len(each) for each in points])[:-1])


def save_geojson(path: Path, mask: Path, name: str) -> None:
    """The outlines of a georeferenced mask (TIFF, 0 and 255) as polygons in longitude and latitude, whole or not at all.

    One feature for each connected region, exterior rings counterclockwise. Where rasterio is not installed, or the file names no
    CRS, one line says so, and nothing is written.
    """
    try:
        import rasterio
    except ImportError:
        note("outlines of maps are written as GeoJSON where rasterio is installed: pip install 'shotseg[geo]'")
        return
    with rasterio.open(mask) as raster:
        if raster.crs is None:
            note(f"{mask}: a place but no CRS, so there is no GeoJSON of it")
            return
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for i, outline in enumerate(_outlines(raster)):
                feature = {"type": "Feature", "properties": {"class": name}, "geometry": outline}
                file.write((",\n" if i else "\n") + json.dumps(feature))
            file.write("\n]}\n")


def _outlines(raster: Any) -> Iterator[dict[str, Any]]:
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    band = rasterio.band(raster, 1)
    for outline, value in shapes(band, mask=None, connectivity=4, transform=raster.transform):
        if value:
            found = transform_geom(raster.crs, WORLD, outline, precision=DIGITS)
            yield {"type": "Polygon", "coordinates": _turned(found["coordinates"])}


def _turned(rings: list[list[tuple[float, float]]]) -> list[list[list[float]]]:
    """The exterior ring counterclockwise, holes clockwise; closed, as RFC 7946 wants them."""
    return [
        [list(point[:2]) for point in (ring if (_area(ring) > 0) == (i == 0) else ring[::-1])]
        for i, ring in enumerate(rings)
    ]


def _area(ring: list[tuple[float, float]]) -> float:
    """Twice the signed area: above 0 where the ring goes counterclockwise."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
