"""Where on earth an image lies: kept in masks, and as GeoJSON (RFC 7946) by rasterio, which is an extra."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from shotseg.data.images import replacing
from shotseg.errors import note

WORLD = "OGC:CRS84"  # longitude, latitude in WGS 84: the only coordinates of RFC 7946
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
